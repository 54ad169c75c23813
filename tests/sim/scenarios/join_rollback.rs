//! Joins that are never finished: the node must go back to its previous incarnation, with its data.

use std::sync::{Arc, Mutex};

use huskv::consensus::{Hop, Input};
use huskv::model::{Answer, Code, Command, Outcome, Refusal, Request, Role, State};
use libtest_mimic::Failed;

use crate::checks;
use crate::scenarios::{join, until};
use crate::trace::Trace;
use crate::workload::standalone;
use crate::world::World;

/// Creates two nodes, each alone. Node 1 stores a key; its raft id is returned.
fn two_standalone_nodes(seed: u64) -> Result<(World, u64), Failed> {
    let mut world = World::new(seed, 2, Trace::Off);
    until(&mut world, 5_000, "both lead themselves", |world| {
        (0..2).all(|at| checks::status(world, at).is_some_and(|status| status.state == State::Leader))
    })?;
    standalone::store(&mut world, 1);
    until(&mut world, 5_000, "the second stores something", |world| world.nodes[1].own_write.is_some())?;
    let raft_id = world.nodes[1].table.raft_id;
    Ok((world, raft_id))
}

/// Whether node 1 leads itself under this raft id, and holds what it has stored.
fn holds_its_own(world: &mut World, raft_id: u64) -> bool {
    let Some(status) = checks::status(world, 1) else { return false };
    let Some(own) = world.nodes[1].own_write.clone() else { return false };
    status.raft_id == raft_id
        && status.state == State::Leader
        && checks::stored(world, 1).contains_key(own.key.as_bytes())
}

/// A request to another raft id than the node has is refused as `not_applied`, so its sender may try again.
pub fn a_request_to_another_raft_id() -> Result<(), Failed> {
    let (mut world, raft_id) = two_standalone_nodes(2)?;
    let answers = Arc::new(Mutex::new(Vec::new()));
    for (to, key) in [(raft_id + 1, "other"), (raft_id, "own")] {
        let answers = Arc::clone(&answers);
        let reply = Box::new(move |result: Result<Answer, Refusal>| {
            answers.lock().expect("one thread").push(result.map_err(|refusal| (refusal.code, refusal.outcome)));
        });
        let request = Request::Write(Command::put(key, "v").into());
        let deadline = world.now + world.nodes[1].clock_offset + 5_000;
        world.input(1, Input::Request { request, deadline, hop: Hop::Leader, to, reply });
    }
    until(&mut world, 5_000, "both are answered", |_| answers.lock().expect("one thread").len() == 2)?;
    let stored = checks::stored(&world, 1);
    let answers = answers.lock().expect("one thread");
    match answers.as_slice() {
        [Err((Code::NoLeader, Outcome::NotApplied)), Ok(_)]
            if !stored.contains_key(&b"other"[..]) && stored.contains_key(&b"own"[..]) =>
        {
            Ok(())
        }
        other => Err(format!("it came to {other:?}").into()),
    }
}

/// The leader dies after the joiner has switched its incarnation. Without the cluster's state it goes back, with it it stays.
pub fn the_leader_dies() -> Result<(), Failed> {
    let (mut back, mut stayed) = (0, 0);
    for seed in 1..60 {
        let (mut world, raft_id) = two_standalone_nodes(seed)?;
        join(&mut world, 1, 10_000);
        until(&mut world, 5_000, "it accepts the offer", |world| world.nodes[1].table.cluster_id == world.cluster)?;
        // The leader dies up to 47 events later, so the seeds cover each step of the join, the flush of the snapshot too.
        for _ in 0..seed % 48 {
            let soon = world.now + 1_000;
            world.step(soon);
        }
        world.crash(0);
        // A snapshot that is under way may still arrive.
        let soon = world.now + 600;
        until(&mut world, 1_000, "some time", |world| world.now >= soon)?;
        let status = checks::status(&mut world, 1).ok_or("it is up")?;
        if !status.joining {
            stayed += 1;
            continue;
        }
        back += 1;
        let previous = status.previous.ok_or("the previous incarnation is in its status")?;
        if previous.raft_id != raft_id || previous.goes_back_in_ms > world.join_wait {
            return Err(format!("seed {seed}: its previous incarnation is {previous:?}").into());
        }
        if seed % 2 == 0 {
            // After a restart the node waits the whole time again.
            world.crash(1);
            world.boot(1);
            let previous = checks::status(&mut world, 1).and_then(|status| status.previous);
            if previous.is_none_or(|previous| previous.goes_back_in_ms + 100 < world.join_wait) {
                return Err(format!("seed {seed}: restarted, its previous incarnation is {previous:?}").into());
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
        until(&mut world, 5_000, "its previous data is gone then", |world| {
            checks::stored(world, 1).is_empty() && world.nodes[1].engine.journal(raft_id, |_| ()).is_none()
        })?;
    }
    if back < 10 || stayed < 10 {
        return Err(format!("the scenario shows too little: {back} went back, {stayed} stayed").into());
    }
    Ok(())
}

/// The leader gives the join up before the node is in its table, and tells the node so.
pub fn the_leader_ends_it() -> Result<(), Failed> {
    let mut ended = 0;
    // Seeds with which a joiner waits 60 s, so that only the leader's message brings it back in time.
    for seed in (2..180).step_by(3) {
        let (mut world, raft_id) = two_standalone_nodes(seed)?;
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
