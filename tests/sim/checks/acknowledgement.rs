//! Acknowledged writes: where they are synced, and at which index they were applied.

use huskv::model::{Answer, State, Written};

use crate::checks::journal::Entry;
use crate::checks::{status, voters};
use crate::world::World;
use crate::world::disk::SimEngine;
use crate::world::outbox::Reply;

/// Checks that a write which a leader acknowledges is on the synced disks of a majority of the voters.
///
/// The voters in force when the entry was committed decide, and these may differ from the present ones. Example: entry 7
/// is committed by voters 1 2 3, entry 8 removes voter 3. Both are applied in one turn, and the write of entry 7 is
/// answered after it, when the table lists 1 and 2. So any of these sets may have committed it: the present one, those
/// after earlier turns back to the first one with a commit index below the entry, and what two neighbours have in common.
pub fn check(world: &mut World, at: usize, reply: &Reply) {
    let (Reply::Client { result: Ok(answer), .. } | Reply::Forwarded { result: Ok(answer), .. }) = reply else {
        return;
    };
    let Answer::Written(Written { index, term, .. }) = *answer else { return };
    let Some(status) = status(world, at) else { return };
    // A follower passes on what its leader has acknowledged, which was checked there. While a disk is wiped, the copy on it
    // is gone by the fault and not by the store.
    if status.state != State::Leader || status.term != term || world.operators.wiped.is_some() {
        return;
    }
    let synced = |voters: &[u64]| {
        // A voter counts by its raft id wherever its disk is, up or down: what is synced stays.
        let has = |raft_id: &&u64| {
            let on = |engine: &SimEngine| engine.journal(**raft_id, |journal| journal.synced.last >= index);
            world.nodes.iter().any(|node| on(&node.engine) == Some(true))
        };
        voters.iter().filter(has).count()
    };
    // Within one turn the voters change once, or twice where a removal leaves one voter, which promotes the next one by
    // itself. The common voters of two neighbouring sets stand for the state between such two changes.
    let now = voters(&status);
    let latest = &world.nodes[at].recent_voters;
    // Back to the first turn after which the entry was not committed yet: earlier voters had no say in it.
    let since = latest.iter().position(|(commit, _)| *commit < index).map_or(latest.len(), |at| at + 1);
    let mut sets: Vec<_> = std::iter::once(&now).chain(latest.iter().take(since).map(|(_, voters)| voters)).collect();
    let between: Vec<Vec<u64>> =
        sets.windows(2).map(|two| two[0].iter().copied().filter(|voter| two[1].contains(voter)).collect()).collect();
    sets.extend(&between);
    if !sets.iter().any(|voters| synced(voters) > voters.len() / 2) {
        let (has, all) = (synced(&now), now.len());
        world.fail(format!("n{at} acknowledges entry {index} of term {term}, which {has} of {all} voters have synced"));
    }
}

/// Checks the answer to a write against what was applied at its version; without a version the write was refused.
pub fn write_answered(world: &mut World, id: u64, version: Option<u64>) {
    match version {
        Some(version) => {
            // The version is the index of the entry, so the answer names the very entry that must be there.
            let there = world.observed.applied.get(&version).map(Entry::operation);
            if there.is_some_and(|there| there != Some(id)) {
                world.fail(format!("op{id} is acknowledged at {version}, where op {there:?} was applied"));
            }
        }
        None => drop(world.observed.refused.insert(id)),
    }
}
