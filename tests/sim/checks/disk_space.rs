//! Invariants of what a leader proposes while a voter lacks disk space.
//!
//! Why: before a disk is full, the leader refuses what would need more of it. Its log shows whether it does, whatever it
//! answers.

use huskv::model::{DiskSpace, Role, Status};
use huskv::storage::Engine;

use crate::checks::journal::Entry;
use crate::world::World;

/// The time for which a leader must remember the free space that a voter has told, in milliseconds.
const COUNTS_FOR: u64 = 9_000;

/// Checks an entry that a leader has just proposed against the free space that it was told of.
///
/// With a voter below its reserve, no write of a client that may make the state larger is proposed; with one below its
/// floor, none that changes a key, expiry included.
pub fn check(world: &mut World, at: usize, status: &Status, index: u64, entry: &Entry) {
    let Some(proposal) = entry.proposal.as_deref() else { return };
    let command = &proposal.write.command;
    if !command.may_change_keys() {
        return;
    }
    // A repeated write changes nothing. A touch or a deletion has no value that names its operation, so with an idempotency
    // key it may be a repeated one.
    if entry.has_key() && entry.operation().is_none_or(|id| world.observed.was_applied(id)) {
        return;
    }
    let node = &world.nodes[at];
    let voters = status.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.raft_id);
    // The turn may have changed the voters after it had proposed, so only those of before and after count.
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
        let since = node.peer_space.get(&voter).map(|(_, at)| *at);
        world.fail(format!(
            "n{at} proposes {command:?} at {index}, and knows since {since:?} that the disk of {voter} is nearly full"
        ));
    }
}
