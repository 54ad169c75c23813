//! The events that a node notes about itself: they never say what has not happened.
//!
//! See also: what explains a change of the leader (`consensus::liveness::leader_history`).

use huskv::telemetry::node_events::{Kind, LeaderChange, NodeEvent, Reason};

use crate::world::World;

/// Checks the events of a node since the last call. A node outside of the cluster may lead one of its own, with terms of its own.
pub fn check(world: &mut World, at: usize, is_outside: bool) {
    let node = &world.nodes[at];
    let Some(driver) = node.driver.as_ref() else { return };
    let (process, seen) = node.checked_events;
    let since = if process == node.starts { seen } else { 0 };
    if driver.events().last() == since {
        return;
    }
    let (batch, process) = (driver.events().read(Some(since), usize::MAX), node.starts);
    world.nodes[at].checked_events = (process, batch.last);
    for event in &batch.events {
        if let Some(wrong) = what_is_wrong(world, (at, is_outside), event) {
            world.fail(format!("n{at} notes {event:?}, but {wrong}"));
        }
    }
}

fn what_is_wrong(world: &World, (at, is_outside): (usize, bool), event: &NodeEvent) -> Option<String> {
    match &event.kind {
        Kind::LeaderChanged(change) => wrong_leader(world, is_outside, event.term, change),
        Kind::ElectionWon { attempts: 0, .. } | Kind::ElectionLost { attempts: 0, .. } => {
            Some("no attempt was made".into())
        }
        Kind::MemberMoved { from, to, .. } if from == to => Some("it is the same address".into()),
        Kind::PeerLost { peer, .. } | Kind::PeerFound { peer, .. } if *peer == format!("n{at}") => {
            Some("that is the node itself".into())
        }
        _ => None,
    }
}

fn wrong_leader(world: &World, is_outside: bool, term: u64, change: &LeaderChange) -> Option<String> {
    match (&change.from, &change.to) {
        (None, None) => return Some("nothing changes".into()),
        (None, Some(_)) if change.reason != Reason::Restart => {
            return Some("the first leader is none after another".into());
        }
        (Some(_), _) if change.reason == Reason::Restart => return Some("there was a leader before".into()),
        (Some(_), _) if change.reason == Reason::SlowSync && change.longest_sync_ms.is_none() => {
            return Some("no sync was slow".into());
        }
        _ => {}
    }
    let to = change.to.as_ref().filter(|_| !is_outside && !world.observed.forged_terms.contains(&term))?;
    let leader = world.observed.leaders.get(&term)?;
    let name = world.observed.names.get(leader)?;
    (name != to).then(|| format!("the leader of term {term} is {name}"))
}
