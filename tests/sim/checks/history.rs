//! The end of a run: the history of each register, and what was refused.
//!
//! Three sources are compared. The checker (`linear`) looks for an order of one register's operations that explains all
//! answers. `replay` computes from the applied entries what each write came to. The nodes' logs say which writes were
//! applied at all.

use std::collections::BTreeMap;

use huskv::model::Status;

use crate::checks::{self, replay};
use crate::linear;
use crate::world::World;

/// Checks that each register is linearizable, no refused write was applied, and no key has expired early.
pub fn check(world: &mut World) {
    // `not_applied` is a promise for ever: the entry must not turn up in any log later.
    let both = world.observed.refused.iter().find_map(|id| Some((*id, world.observed.operations.get(id)?.0)));
    if let Some((id, index)) = both {
        world.fail(format!("op{id} was refused as not applied, and is applied at {index}"));
    }
    if world.failure.is_some() {
        return;
    }
    if let Some(broken) = world.observed.false_refusal() {
        return world.fail(broken);
    }
    let replay::Replayed { done, expired, .. } = replayed(world);
    let applied = |id: u64| world.observed.operations.get(&id).map(|(_, at)| *at);
    let written = |index: u64| world.observed.applied.get(&index)?.operation();
    // A `ttl` counts from the moment of the request at the earliest: no clock, failover or pause may end it before.
    let early = expired.iter().find_map(|(version, removal)| {
        let (id, at) = (written(*version)?, *world.observed.applied_at.get(removal)?);
        let until = *world.clients.kept_until.get(&id)?;
        (at < until).then(|| format!("op{id} was to be kept until {until}, and is gone by entry {removal} at {at}"))
    });
    if let Some(early) = early {
        return world.fail(early);
    }
    // The moments at which puts were applied narrow the search down; `history` says how.
    let histories = match world.clients.histories(applied, written, &done) {
        Ok(histories) => histories,
        Err(failure) => return world.fail(failure),
    };
    for (key, history) in histories {
        if let Err(timeline) = linear::check(&history) {
            world.fail(format!("key k{key} is not linearizable: {timeline}"));
        }
    }
}

fn replayed(world: &World) -> replay::Replayed {
    replay::replay(world.observed.applied.iter().map(|(index, entry)| (*index, entry.proposal.as_deref())))
}

/// Checks the keys of the nodes that have applied the latest entry, each with the token of its last write.
///
/// Called while keys with a `ttl` are there: a touch changes the token without a new version, so no read of a value shows it.
pub fn check_tokens(world: &mut World) {
    let replay::Replayed { last, tokens, .. } = replayed(world);
    for at in 0..world.size {
        // A node outside of the cluster has a log of its own.
        let is_latest = |status: Status| status.applied_index == last;
        if world.nodes[at].table.cluster_id != world.cluster || !checks::status(world, at).is_some_and(is_latest) {
            continue;
        }
        let held: BTreeMap<_, _> = checks::stored(world, at).into_iter().map(|(key, item)| (key, item.by)).collect();
        if held != tokens {
            world.fail(format!("n{at} at {last} holds {held:?}, and the entries make {tokens:?}"));
        }
    }
}
