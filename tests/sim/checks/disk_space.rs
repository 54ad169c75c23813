//! What a leader proposes.

use huskv::model::{DiskSpace, Role, Status};
use huskv::storage::Engine;

use crate::checks::journal::Entry;
use crate::world::World;

/// Entries that a leader has just proposed: none of a client that may make the state larger, where it knew of a voter
/// below its reserve, and none that changes a key, an expiry neither, where it knew of one below its floor.
pub fn check(world: &mut World, at: usize, status: &Status, index: u64, entry: &Entry) {
    let Some(proposal) = entry.proposal.as_deref() else { return };
    let command = &proposal.write.command;
    if !command.may_change_keys() {
        return;
    }
    // Done before, it changes nothing. A touch or a removal has no value that tells which operation it is, so a named one may be.
    if entry.is_named() && entry.operation().is_none_or(|id| world.observed.was_applied(id)) {
        return;
    }
    let node = &world.nodes[at];
    let voters = status.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.raft_id);
    // The turn may have changed who votes after it had proposed.
    let before = node.recent_voters.get(1).map_or(&[][..], |(_, voters)| voters);
    let known = |voter: &u64| {
        if *voter == status.raft_id {
            return node.engine.space();
        }
        let (space, at) = node.peer_space.get(voter)?;
        (world.now < at + COUNTS_FOR).then_some(*space)
    };
    let is_short = |space: DiskSpace| if command.may_grow() { space.is_nearly_full() } else { space.is_below_floor() };
    let full = voters.filter(|voter| before.contains(voter)).find(|voter| known(voter).is_some_and(is_short));
    if let Some(voter) = full {
        let told = node.peer_space.get(&voter).map(|(_, at)| *at);
        world.fail(format!(
            "n{at} proposes {command:?} at {index}, and knows since {told:?} that the disk of {voter} is nearly full"
        ));
    }
}

/// How long a leader may have forgotten a word, and how long it must not.
const COUNTS_FOR: u64 = 9_000;
