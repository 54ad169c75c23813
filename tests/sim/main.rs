//! The simulator: real drivers, journals and machines on simulated disks, network and time.
//!
//! Each seed is one run: a safety phase with faults, then a healing phase in which the cluster must become whole again,
//! take writes on every node, and explain everything that its clients saw.

mod admin;
mod checks;
mod clients;
mod engine;
#[path = "../support/linear.rs"]
mod linear;
mod narrator;
mod nemesis;
mod rng;
mod world;

use huskv::model::State;
use world::{Event, World};

/// How long faults happen, in virtual milliseconds.
const FAULTS: u64 = 40_000;

/// How long the cluster then has to become whole.
const HEALING: u64 = 120_000;

/// Runs one seed; the digest of everything that clients saw, or what went wrong.
fn run(seed: u64, trace: bool) -> Result<u64, String> {
    let nodes = 3 + usize::try_from(seed % 2 * 2).expect("small");
    let mut world = World::new(seed, nodes, trace);
    world.after(10, Event::Admin);
    while world.step(20_000) && !world.admin.complete {}
    if !world.admin.complete {
        return Err(world.failure.unwrap_or_else(|| "the cluster does not form".into()));
    }
    for client in 0..4 {
        world.after(client, Event::Client(usize::try_from(client).expect("small")));
    }
    world.faults = true;
    world.after(100, Event::Nemesis);
    let end = world.now + FAULTS;
    while world.step(end) {}
    world.say(|| "faults end".into());
    world.faults = false;
    world.cut.clear();
    for at in 0..nodes {
        world.nodes[at].paused_until = 0;
        if world.nodes[at].driver.is_none() {
            world.after(1, Event::Restart(at));
        }
    }
    let end = world.now + HEALING;
    world.admin.complete = false;
    let acknowledged = world.clients.acknowledged;
    while world.step(end) && !whole(&mut world, acknowledged) {}
    checks::linearizable(&mut world);
    match world.failure.take() {
        Some(failure) => Err(failure),
        None if !whole(&mut world, acknowledged) => {
            Err(format!("not whole {HEALING} ms after the last fault: {}", describe(&mut world)))
        }
        None => Ok(world.digest),
    }
}

/// Whether every node is a member that has applied what the leader committed, and clients are served again.
fn whole(world: &mut World, acknowledged: u64) -> bool {
    if !world.admin.complete || world.clients.acknowledged < acknowledged + 20 {
        return false;
    }
    let all: Vec<_> = (0..world.nodes.len()).filter_map(|at| checks::status(world, at)).collect();
    all.len() == world.nodes.len()
        && all.iter().filter(|status| status.state == State::Leader).count() == 1
        && all.iter().all(|status| {
            status.members.len() == all.len() && status.leader == all[0].leader && status.leader.is_some()
        })
}

fn describe(world: &mut World) -> String {
    let nodes = (0..world.nodes.len()).map(|at| {
        checks::status(world, at).map_or_else(
            || format!("n{at} down"),
            |s| {
                format!(
                    "n{at} {:?} term {} applied {}/{} members {}",
                    s.state,
                    s.term,
                    s.applied_index,
                    s.last_log_index,
                    s.members.len()
                )
            },
        )
    });
    let nodes: Vec<String> = nodes.collect();
    format!("complete {}, {} acknowledged; {}", world.admin.complete, world.clients.acknowledged, nodes.join("; "))
}

#[test]
fn a_fixed_set_of_seeds_holds() {
    if let Ok(seed) = std::env::var("SIM_SEED") {
        let seed = seed.parse().expect("SIM_SEED is a number");
        if let Err(failure) = run(seed, true) {
            panic!("seed {seed} fails: {failure}");
        }
        return;
    }
    let count = std::env::var("SIM_SEEDS").map_or(40, |count| count.parse().expect("SIM_SEEDS is a number"));
    for seed in 1..=count {
        if let Err(failure) = run(seed, false) {
            panic!("seed {seed} fails: {failure}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7, false), run(7, false));
}
