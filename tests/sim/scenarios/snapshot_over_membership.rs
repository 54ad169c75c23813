//! A snapshot that covers a membership change which the follower knows to be committed and has not applied yet.
//!
//! Why: raft has the configuration of the snapshot from the moment that it takes the snapshot. If the older change were
//! applied after it, the follower would count votes by a configuration that there never was.
//!
//! ```text
//!   leader's log:   ... writes ... [add learner 3] ... [promote 3] ... | compacted up to here
//!   follower:       applied ^      ^ the next entry to apply           ^ the snapshot's index
//! ```

use huskv::consensus::{Driver, Hop, Input};
use huskv::model::{Command, Request};
use libtest_mimic::Failed;

use crate::checks;
use crate::scenarios::{join, until};
use crate::trace::Trace;
use crate::world::World;

/// A seed with which a turn applies one entry and a leader keeps a short log.
const SEED: u64 = 1;

const LEADER: usize = 0;
const FOLLOWER: usize = 1;
const JOINER: usize = 3;

/// A turn duration so long that the follower has only the turns that the scenario gives it.
const NEVER: u64 = 10_000_000;

/// The number of writes that the follower has to apply before the change.
const BACKLOG: u64 = 60;

fn applied(world: &mut World, at: usize) -> Result<u64, Failed> {
    checks::status(world, at).map(|status| status.applied_index).ok_or_else(|| format!("n{at} is down").into())
}

fn members(world: &mut World, at: usize) -> usize {
    checks::status(world, at).map_or(0, |status| status.members.len())
}

fn voters(world: &mut World, at: usize) -> usize {
    checks::status(world, at).map_or(0, |status| checks::voters(&status).len())
}

/// Sends the leader so many writes, and waits until it has applied them.
fn write(world: &mut World, times: u64) -> Result<(), Failed> {
    let end = applied(world, LEADER)? + times;
    for _ in 0..times {
        let request = Request::Write(Command::put("k", "v").into());
        let deadline = world.now + world.nodes[LEADER].clock_offset + 60_000;
        let input = Input::Request { request, deadline, hop: Hop::Client, to: 0, reply: Box::new(drop) };
        world.input(LEADER, input);
    }
    until(world, 10_000, "the leader writes", |world| applied(world, LEADER).is_ok_and(|is| is >= end))
}

/// Lets time pass.
fn pass(world: &mut World, ms: u64) -> Result<(), Failed> {
    let soon = world.now + ms;
    until(world, ms + 1_000, "some time", |world| world.now >= soon)
}

/// Runs a turn of the follower, which applies one entry.
fn turn(world: &mut World) {
    world.drive(FOLLOWER, Driver::turn);
}

/// The membership change is the next entry that the follower would apply when the snapshot arrives.
pub fn a_change_that_a_snapshot_covers() -> Result<(), Failed> {
    let mut world = World::new(SEED, 4, Trace::Off);
    for at in [FOLLOWER, 2] {
        join(&mut world, at, 60_000);
        until(&mut world, 20_000, "it joins", |world| voters(world, LEADER) == at + 1 && members(world, at) == at + 1)?;
    }
    write(&mut world, 5)?;
    // The follower is paused while the log grows: writes, then a learner.
    let wakes = world.now + 5_000;
    world.nodes[FOLLOWER].paused_until = wakes;
    write(&mut world, BACKLOG)?;
    join(&mut world, JOINER, 60_000);
    until(&mut world, 10_000, "the learner is added", |world| members(world, LEADER) == 4)?;
    let change = applied(&mut world, LEADER)?;
    world.cut_links.insert((LEADER, JOINER));
    write(&mut world, 2)?;
    // Time for heartbeats, which carry the commit index.
    pass(&mut world, 300)?;
    // The pause ends, and what is under way arrives. From here on the link from the leader is cut.
    world.cut_links.insert((LEADER, FOLLOWER));
    world.nodes[FOLLOWER].turn_ms = NEVER;
    if world.now >= wakes {
        return Err("the pause ended too early for this scenario".into());
    }
    let behind = |world: &mut World| checks::status(world, FOLLOWER).is_some_and(|status| status.commit_index > change);
    until(&mut world, 10_000, "the follower knows the change to be committed", behind)?;
    if applied(&mut world, FOLLOWER)? + 4 > change {
        return Err("the follower has applied too much for this scenario".into());
    }
    // The learner becomes a voter, and the leader compacts its log.
    world.cut_links.remove(&(LEADER, JOINER));
    until(&mut world, 20_000, "it is a voter", |world| voters(world, LEADER) == 4)?;
    // The leader keeps its log for a joiner for 30 s.
    pass(&mut world, 31_000)?;
    for _ in 0..3 {
        write(&mut world, 40)?;
        pass(&mut world, 300)?;
    }
    world.cut_links.clear();
    let (mut last_turn, end) = (world.now, world.now + 20_000);
    while world.streams.is_empty() {
        if applied(&mut world, FOLLOWER)? + 2 < change && world.now >= last_turn + 50 {
            last_turn = world.now;
            turn(&mut world);
        }
        if !world.step(end) {
            return Err(world.failure.take().unwrap_or_else(|| "the leader sends no snapshot".into()).into());
        }
    }
    while applied(&mut world, FOLLOWER)? + 2 < change {
        turn(&mut world);
    }
    // The turn that takes the snapshot applies one more entry, and the next one would be the change.
    until(&mut world, 20_000, "the snapshot is installed", |world| {
        applied(world, FOLLOWER).is_ok_and(|is| is > change + 1) && voters(world, FOLLOWER) == 4
    })?;
    let agrees = world.nodes[FOLLOWER].driver.as_ref().is_some_and(Driver::configuration_agrees);
    if agrees { Ok(()) } else { Err("the follower counts votes by another configuration than it has stored".into()) }
}
