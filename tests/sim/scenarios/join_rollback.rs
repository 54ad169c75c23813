//! Joins that are never finished, one scene each: the node must come back as what it was, with its data.

use std::sync::{Arc, Mutex};

use huskv::consensus::{Hop, Input};
use huskv::model::{Answer, Code, Command, Outcome, Refusal, Request, Role, State};
use libtest_mimic::Failed;

use crate::checks;
use crate::scenarios::{join, until};
use crate::trace::Trace;
use crate::workload::standalone;
use crate::world::World;

/// Two nodes, each alone; the second holds something. The raft id under which it does.
fn two(seed: u64) -> Result<(World, u64), Failed> {
    let mut world = World::new(seed, 2, Trace::Off);
    until(&mut world, 5_000, "both lead themselves", |world| {
        (0..2).all(|at| checks::status(world, at).is_some_and(|status| status.state == State::Leader))
    })?;
    standalone::store(&mut world, 1);
    until(&mut world, 5_000, "the second stores something", |world| world.nodes[1].own_write.is_some())?;
    let raft_id = world.nodes[1].table.raft_id;
    Ok((world, raft_id))
}

fn holds_its_own(world: &mut World, raft_id: u64) -> bool {
    let Some(status) = checks::status(world, 1) else { return false };
    let Some(own) = world.nodes[1].own_write.clone() else { return false };
    status.raft_id == raft_id
        && status.state == State::Leader
        && checks::stored(world, 1).contains_key(own.key.as_bytes())
}

/// A request that a peer has sent to another raft id than this node has now: it must not be done here, where it would be
/// acknowledged, and its sender may try again.
pub fn a_request_for_what_it_was() -> Result<(), Failed> {
    let (mut world, raft_id) = two(2)?;
    let heard = Arc::new(Mutex::new(Vec::new()));
    for (to, key) in [(raft_id + 1, "other"), (raft_id, "own")] {
        let heard = Arc::clone(&heard);
        let reply = Box::new(move |result: Result<Answer, Refusal>| {
            heard.lock().expect("one thread").push(result.map_err(|refusal| (refusal.code, refusal.outcome)));
        });
        let request = Request::Write(Command::put(key, "v").into());
        let deadline = world.now + world.nodes[1].clock_offset + 5_000;
        world.input(1, Input::Request { request, deadline, hop: Hop::Leader, to, reply });
    }
    until(&mut world, 5_000, "both are answered", |_| heard.lock().expect("one thread").len() == 2)?;
    let stored = checks::stored(&world, 1);
    let heard = heard.lock().expect("one thread");
    match heard.as_slice() {
        [Err((Code::NoLeader, Outcome::NotApplied)), Ok(_)]
            if !stored.contains_key(&b"other"[..]) && stored.contains_key(&b"own"[..]) =>
        {
            Ok(())
        }
        other => Err(format!("it came to {other:?}").into()),
    }
}

/// The leader dies at some moment after the flip. Without the state the node goes back; with it, it stays.
pub fn the_leader_dies() -> Result<(), Failed> {
    let (mut back, mut stayed) = (0, 0);
    for seed in 1..60 {
        let (mut world, raft_id) = two(seed)?;
        join(&mut world, 1, 10_000);
        until(&mut world, 5_000, "it is adopted", |world| world.nodes[1].table.cluster_id == world.cluster)?;
        for _ in 0..seed % 16 {
            let soon = world.now + 1_000;
            world.step(soon);
        }
        world.crash(0);
        // A copy that is on its way may still arrive.
        let soon = world.now + 600;
        until(&mut world, 1_000, "some time", |world| world.now >= soon)?;
        let status = checks::status(&mut world, 1).ok_or("it is up")?;
        if !status.joining {
            stayed += 1;
            continue;
        }
        back += 1;
        let kept = status.previous.ok_or("what is kept is in its status")?;
        if kept.raft_id != raft_id || kept.goes_back_in_ms > world.join_wait {
            return Err(format!("seed {seed}: it keeps {kept:?}").into());
        }
        if seed % 2 == 0 {
            // The time counts anew after a restart.
            world.crash(1);
            world.boot(1);
            let kept = checks::status(&mut world, 1).and_then(|status| status.previous);
            if kept.is_none_or(|kept| kept.goes_back_in_ms + 100 < world.join_wait) {
                return Err(format!("seed {seed}: restarted, it keeps {kept:?}").into());
            }
        }
        let abandoned = status.raft_id;
        let wait = world.join_wait + 1_000;
        until(&mut world, wait, "it goes back to its data", |world| holds_its_own(world, raft_id))?;
        world.boot(0);
        until(&mut world, 5_000, "the first leads", |world| {
            checks::status(world, 0).is_some_and(|status| status.state == State::Leader)
        })?;
        join(&mut world, 1, 20_000);
        until(&mut world, 20_000, "it is joined again", |world| {
            let Some(status) = checks::status(world, 0) else { return false };
            let ids: Vec<_> = status.members.iter().map(|member| member.raft_id).collect();
            let joined = ids.len() == 2 && status.members.iter().all(|member| member.role == Role::Voter);
            joined && !ids.contains(&abandoned) && !ids.contains(&raft_id)
        })?;
        until(&mut world, 5_000, "its own data is gone with that", |world| {
            checks::stored(world, 1).is_empty() && world.nodes[1].engine.journal(raft_id, |_| ()).is_none()
        })?;
    }
    if back < 10 || stayed < 10 {
        return Err(format!("the scene shows too little: {back} went back, {stayed} stayed").into());
    }
    Ok(())
}

/// The leader gives the join up before the node is in its table, and tells it.
pub fn the_leader_ends_it() -> Result<(), Failed> {
    let mut ended = 0;
    // Those with which a node waits long, so that it is the leader's word that brings it back.
    for seed in (2..180).step_by(3) {
        let (mut world, raft_id) = two(seed)?;
        join(&mut world, 1, 1 + seed % 9);
        let end = world.now + 2_000;
        let mut adopted = false;
        while world.step(end) {
            adopted |= world.nodes[1].table.raft_id != raft_id;
        }
        if let Some(failure) = world.failure.take() {
            return Err(failure.into());
        }
        let members = checks::status(&mut world, 0).ok_or("it is up")?.members.len();
        if members == 1 {
            ended += usize::from(adopted);
            if !holds_its_own(&mut world, raft_id) {
                return Err(format!("seed {seed}: the join has ended, and it does not go back").into());
            }
        }
    }
    if ended == 0 { Err("no join was ended in between".into()) } else { Ok(()) }
}
