//! Acknowledged writes.

use huskv::model::{Answer, State, Written};

use crate::checks::journal::Entry;
use crate::checks::{status, voters};
use crate::world::World;
use crate::world::disk::SimEngine;
use crate::world::outbox::Reply;

/// A write that a leader acknowledges is on the synced disks of a majority of the voters.
pub fn check(world: &mut World, at: usize, reply: &Reply) {
    let (Reply::Client { result: Ok(answer), .. } | Reply::Forwarded { result: Ok(answer), .. }) = reply else {
        return;
    };
    let Answer::Written(Written { index, term, .. }) = *answer else { return };
    let Some(status) = status(world, at) else { return };
    if status.state != State::Leader || status.term != term || world.operators.wiped.is_some() {
        return;
    }
    let synced = |voters: &[u64]| {
        let has = |raft_id: &&u64| {
            let on = |engine: &SimEngine| engine.journal(**raft_id, |journal| journal.synced.last >= index);
            world.nodes.iter().any(|node| on(&node.engine) == Some(true))
        };
        voters.iter().filter(has).count()
    };
    // An entry is committed by the voters that are in force then; entries before it that are applied in the same turn, or in
    // earlier ones while it waits for its own, may change them. In one turn they change once, or twice where a removal leaves
    // a voter alone, which promotes the next by itself.
    let now = voters(&status);
    let latest = &world.nodes[at].recent_voters;
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

/// What a client was told of its write agrees with what the nodes have applied.
pub fn write_answered(world: &mut World, id: u64, version: Option<u64>) {
    match version {
        Some(version) => {
            let there = world.observed.applied.get(&version).map(Entry::operation);
            if there.is_some_and(|there| there != Some(id)) {
                world.fail(format!("op{id} is acknowledged at {version}, where op {there:?} was applied"));
            }
        }
        None => drop(world.observed.refused.insert(id)),
    }
}
