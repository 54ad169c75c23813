//! At the end.

use crate::checks::replay;
use crate::linear;
use crate::world::World;

/// At the end: every key's history has an order that explains it, and what was refused never happened.
pub fn check(world: &mut World) {
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
    let applied = |id: u64| world.observed.operations.get(&id).map(|(_, at)| *at);
    let written = |index: u64| world.observed.applied.get(&index)?.operation();
    let entries = world.observed.applied.iter().map(|(index, entry)| (*index, entry.proposal.as_deref()));
    let replay::Replayed { done, expired } = replay::replay(entries);
    // Kept from the moment that it was asked for: no clock, failover or pause may end that early.
    let early = expired.iter().find_map(|(version, removal)| {
        let (id, at) = (written(*version)?, *world.observed.applied_at.get(removal)?);
        let until = *world.clients.kept_until.get(&id)?;
        (at < until).then(|| format!("op{id} was to be kept until {until}, and is gone by entry {removal} at {at}"))
    });
    if let Some(early) = early {
        return world.fail(early);
    }
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
