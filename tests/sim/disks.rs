//! How much the disks have left, and what a leader that was told so proposes.
//!
//! Why: before a disk is full, the leader refuses what would need more of it. That it does is seen in its log, whatever it
//! answers.
//!
//! Laws: in some seeds disks fall below their reserve and come back above it. What this page draws, it draws from a source
//! of its own. A word on its way is handed in without a turn, so that it changes nothing but what it says.

use std::collections::BTreeMap;

use huskv::consensus::Input;
use huskv::model::{DiskSpace, Role, Status};
use huskv::storage::Engine;

use crate::checks;
use crate::journal::Entry;
use crate::port::Life;
use crate::world::{Event, World};

/// What every disk has left as long as nothing happens to it, with its reserve.
pub const PLENTY: DiskSpace = DiskSpace { free_bytes: 1 << 40, reserve_bytes: 1 << 28 };

/// What is left of a disk below its reserve, and of one below its floor.
const LITTLE: DiskSpace = DiskSpace { free_bytes: 3 << 26, reserve_bytes: 1 << 28 };
const NEXT_TO_NOTHING: DiskSpace = DiskSpace { free_bytes: 1 << 26, reserve_bytes: 1 << 28 };

/// How long a leader may have forgotten a word, and how long it must not.
const COUNTS_FOR: u64 = 9_000;

/// What one life of a node was told: by whom, what, and when.
pub type Told = BTreeMap<u64, (DiskSpace, u64)>;

/// Whether disks fall below their reserve in this seed.
pub fn fall(seed: u64) -> bool {
    seed % 5 == 4
}

/// Something happens to a disk.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 200 + world.disks.below(2500);
    world.after(pause, Event::Disk);
    let at = usize::try_from(world.disks.below(world.size as u64)).expect("small");
    let space = match world.disks.below(100) {
        0..25 => LITTLE,
        25..40 => NEXT_TO_NOTHING,
        _ => PLENTY,
    };
    world.say(|| format!("n{at} has {} bytes left", space.free_bytes));
    world.nodes[at].engine.set_space(space);
}

/// Every disk has enough again.
pub fn heal(world: &mut World) {
    world.nodes.iter().for_each(|node| node.engine.set_space(PLENTY));
}

/// A node tells a member what it has left.
pub fn tell(world: &mut World, life: Life, to: u64, space: DiskSpace) {
    let table = &world.nodes[life.0].table;
    let (from, cluster) = (table.raft_id, table.cluster_id);
    if let Some(at) = world.incarnation(to, cluster)
        && world.connected(life.0, at)
    {
        let to = (at, world.nodes[at].life);
        world.after(2, Event::Space(to, from, space));
    }
}

/// A node hears what a member has left.
pub fn hear(world: &mut World, at: usize, from: u64, space: DiskSpace) {
    let now = world.now + world.nodes[at].ahead;
    let told_at = world.now;
    // The word of a node that is no member yet counts for nothing.
    let is_member = checks::status(world, at).is_some_and(|status| status.members.iter().any(|m| m.raft_id == from));
    let node = &mut world.nodes[at];
    if let Some(driver) = &mut node.driver {
        if is_member {
            node.told.insert(from, (space, told_at));
        }
        drop(driver.handle(now, Input::Space { from, space }));
    }
}

/// Entries that a leader has just proposed: none of a client that may make the state larger, where it knew of a voter
/// below its reserve, and none that changes a key, an expiry neither, where it knew of one below its floor.
pub fn check(world: &mut World, at: usize, status: &Status, index: u64, entry: &Entry) {
    let Some(proposal) = entry.proposal.as_deref() else { return };
    let command = &proposal.write.command;
    if !command.may_change_keys() {
        return;
    }
    // Done before, it changes nothing. A touch or a removal has no value that tells which operation it is, so a named one may be.
    if entry.is_named() && entry.operation().is_none_or(|id| world.book.was_applied(id)) {
        return;
    }
    let node = &world.nodes[at];
    let voters = status.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.raft_id);
    // The turn may have changed who votes after it had proposed.
    let before = node.voters.get(1).map_or(&[][..], |(_, voters)| voters);
    let known = |voter: &u64| {
        if *voter == status.raft_id {
            return node.engine.space();
        }
        let (space, at) = node.told.get(voter)?;
        (world.now < at + COUNTS_FOR).then_some(*space)
    };
    let is_short = |space: DiskSpace| if command.may_grow() { space.is_nearly_full() } else { space.is_below_floor() };
    let full = voters.filter(|voter| before.contains(voter)).find(|voter| known(voter).is_some_and(is_short));
    if let Some(voter) = full {
        let told = node.told.get(&voter).map(|(_, at)| *at);
        world.fail(format!(
            "n{at} proposes {command:?} at {index}, and knows since {told:?} that the disk of {voter} is nearly full"
        ));
    }
}
