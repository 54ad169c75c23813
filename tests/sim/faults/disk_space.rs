//! How much the disks have left, and what a leader that was told so proposes.
//!
//! Why: before a disk is full, the leader refuses what would need more of it. That it does is seen in its log, whatever it
//! answers.
//!
//! Laws: in some seeds disks fall below their reserve and come back above it. What this page draws, it draws from a source
//! of its own. A word on its way is handed in without a turn, so that it changes nothing but what it says.

use std::collections::BTreeMap;

use huskv::consensus::Input;
use huskv::model::DiskSpace;

use crate::checks;
use crate::world::outbox::Process;
use crate::world::{Event, World};

/// What every disk has left as long as nothing happens to it, with its reserve.
pub const PLENTY: DiskSpace = DiskSpace { free_bytes: 1 << 40, reserve_bytes: 1 << 28 };

/// What is left of a disk below its reserve, and of one below its floor.
const BELOW_RESERVE: DiskSpace = DiskSpace { free_bytes: 3 << 26, reserve_bytes: 1 << 28 };
const BELOW_FLOOR: DiskSpace = DiskSpace { free_bytes: 1 << 26, reserve_bytes: 1 << 28 };

/// What one life of a node was told: by whom, what, and when.
pub type PeerSpace = BTreeMap<u64, (DiskSpace, u64)>;

/// Whether disks fall below their reserve in this seed.
pub fn disks_fill(seed: u64) -> bool {
    seed % 5 == 4
}

/// Something happens to a disk.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 200 + world.space_rng.below(2500);
    world.after(pause, Event::DiskSpace);
    let at = usize::try_from(world.space_rng.below(world.size as u64)).expect("small");
    let space = match world.space_rng.below(100) {
        0..25 => BELOW_RESERVE,
        25..40 => BELOW_FLOOR,
        _ => PLENTY,
    };
    world.trace(|| format!("n{at} has {} bytes left", space.free_bytes));
    world.nodes[at].engine.set_space(space);
}

/// Every disk has enough again.
pub fn heal(world: &mut World) {
    world.nodes.iter().for_each(|node| node.engine.set_space(PLENTY));
}

/// A node tells a member what it has left.
pub fn send(world: &mut World, process: Process, to: u64, space: DiskSpace) {
    let table = &world.nodes[process.0].table;
    let (from, cluster) = (table.raft_id, table.cluster_id);
    if let Some(at) = world.incarnation(to, cluster)
        && world.connected(process.0, at)
    {
        let to = (at, world.nodes[at].starts);
        world.after(2, Event::PeerSpace(to, from, space));
    }
}

/// A node hears what a member has left.
pub fn receive(world: &mut World, at: usize, from: u64, space: DiskSpace) {
    let now = world.now + world.nodes[at].clock_offset;
    let told_at = world.now;
    // The word of a node that is no member yet counts for nothing.
    let is_member = checks::status(world, at).is_some_and(|status| status.members.iter().any(|m| m.raft_id == from));
    let node = &mut world.nodes[at];
    if let Some(driver) = &mut node.driver {
        if is_member {
            node.peer_space.insert(from, (space, told_at));
        }
        drop(driver.handle(now, Input::Space { from, space }));
    }
}
