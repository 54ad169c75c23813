//! Nemesis: the faults of a round, drawn from the seed.
//!
//! Invariants: the seed fixes which faults come in which order, on which nodes and for how long; what the cluster does
//! meanwhile it does in real time. A fault that loses a disk, such as a wipe, is only drawn while all other nodes have
//! every acknowledged write: Raft does not survive more.
//!
//! See also: `damage` for faults of directories.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::damage;
use crate::failing_disk::{DiskFault, shim};
use crate::harness::{millis, secs};
use crate::tcp_proxy::State;
use crate::world::{FLOOR, RESERVE, World};

/// Faults until `end`; each ends before the next begins, unless one is drawn inside another.
pub fn run_faults(world: &mut World, end: Instant) {
    while Instant::now() < end {
        pause(world, 100, 900);
        world.attend();
        match world.rng.below(24) {
            0..4 => kill(world),
            4..6 => stop(world),
            6..10 => during(world),
            10 => flap(world),
            11 => reset(world),
            12 | 13 => transfer(world),
            14 | 15 => churn(world),
            16..19 => disk(world),
            19 => fill(world),
            20 => snapshot(world),
            21 | 22 => damage::lone(world),
            _ => damage::mistake(world),
        }
    }
}

/// Sleeps for a drawn time, in milliseconds.
pub fn pause(world: &mut World, least: u64, more: u64) {
    sleep(millis(least + world.rng.below(more)));
}

/// kill -9 of some nodes, often of all.
fn kill(world: &mut World) {
    let victims = if world.rng.chance(25) { (0..world.count()).collect() } else { world.some() };
    world.attend();
    world.run_log.log(format!("kill -9 of {}", world.names(&victims)));
    for &victim in &victims {
        world.cluster.nodes[victim].kill9();
    }
    pause(world, 0, 2_500);
    for &victim in &victims {
        world.cluster.nodes[victim].spawn();
        // Some are killed again while they start.
        if world.rng.chance(20) {
            pause(world, 0, 300);
            world.run_log.log(format!("kill -9 of {} while it starts", world.names(&[victim])));
            world.cluster.nodes[victim].kill9();
            world.cluster.nodes[victim].spawn();
        }
    }
    victims.iter().for_each(|&victim| world.cluster.nodes[victim].await_up());
    world.run_log.log(format!("{} run again", world.names(&victims)));
}

/// SIGSTOP for longer than an election, most often of the leader; sometimes it hears of nothing for a while after it has
/// woken, so that it goes on as what it was.
fn stop(world: &mut World) {
    let any = world.any();
    let leader = world.leader().filter(|_| world.rng.chance(70));
    let victim = leader.unwrap_or(any);
    let alone = world.rng.chance(50);
    let what = format!("{}{}", leader.map_or("", |_| ", the leader"), if alone { ", cut off" } else { "" });
    world.run_log.log(format!("SIGSTOP of {}{what}", world.names(&[victim])));
    for other in (0..world.count()).filter(|&other| alone && other != victim) {
        world.links.set(other, victim, State::Hole);
        world.links.set(victim, other, State::Hole);
    }
    world.cluster.nodes[victim].sigstop();
    pause(world, 1_500, 2_500);
    let probes = world.clients.as_ref().map(|clients| clients.probe(victim));
    world.cluster.nodes[victim].sigcont();
    world.run_log.log(format!("SIGCONT of {}", world.names(&[victim])));
    if let (Some(clients), Some(probes)) = (&world.clients, probes) {
        clients.record_probes(probes);
    }
    if alone {
        world.links.open();
    }
}

/// Links fail; in half of the cases something else happens meanwhile.
fn during(world: &mut World) {
    fail_links(world);
    pause(world, 300, 2_500);
    match world.rng.below(10) {
        0 => kill(world),
        1 => stop(world),
        2 => transfer(world),
        3 => churn(world),
        4 => disk(world),
        _ => {}
    }
    pause(world, 0, 1_500);
    world.links.open();
    world.run_log.log("all links are open");
}

/// Changes some links.
fn fail_links(world: &mut World) {
    let state = match world.rng.below(3) {
        0 => State::Cut,
        1 => State::Hole,
        _ => State::Slow(20 + world.rng.below(400)),
    };
    let (count, one) = (world.count(), world.any());
    let pattern = world.rng.below(5);
    let half = world.some();
    let mut links = Vec::new();
    for from in 0..count {
        for to in (0..count).filter(|&to| to != from) {
            let fails = match pattern {
                0 => from == one || to == one,
                1 => from == one,
                2 => to == one,
                3 => half.contains(&from) != half.contains(&to),
                _ => world.rng.chance(40),
            };
            if fails {
                world.links.set(from, to, state);
                links.push(format!("{}>{}", from + 1, to + 1));
            }
        }
    }
    world.run_log.log(format!("links {state:?}: {}", links.join(" ")));
}

/// The links of one node come and go.
fn flap(world: &mut World) {
    let (one, count) = (world.any(), world.count());
    let times = 4 + world.rng.below(12);
    world.run_log.log(format!("the links of {} flap {times} times", world.names(&[one])));
    for time in 0..times {
        let state = if time % 2 == 0 { State::Cut } else { State::Open };
        for other in (0..count).filter(|&other| other != one) {
            world.links.set(one, other, state);
            world.links.set(other, one, state);
        }
        pause(world, 50, 400);
    }
    world.links.open();
}

/// Connections are reset in bursts.
fn reset(world: &mut World) {
    world.run_log.log("resets");
    for _ in 0..5 + world.rng.below(20) {
        let (from, to) = (world.any(), world.any());
        if from != to {
            world.links.reset(from, to);
        }
        pause(world, 0, 150);
    }
}

/// Leadership is to move; any answer will do.
fn transfer(world: &mut World) {
    let (through, to) = (world.any(), world.any());
    let body = json!({"node_id": world.cluster.nodes[to].name()});
    _ = world.ask(through, "/raft/transfer", &body, 3);
}

/// A snapshot is asked for.
fn snapshot(world: &mut World) {
    let through = world.any();
    _ = world.ask(through, "/raft/snapshot", &json!({}), 3);
}

/// Any node but this one.
fn another(world: &mut World, than: usize) -> usize {
    let step = 1 + world.rng.below(world.count() as u64 - 1);
    (than + usize::try_from(step).expect("small")) % world.count()
}

/// A node is removed and joined again; sometimes it is killed between.
fn churn(world: &mut World) {
    let victim = world.any();
    let through = another(world, victim);
    let body = json!({"node_id": world.cluster.nodes[victim].name()});
    _ = world.ask(through, "/raft/remove", &body, 8);
    pause(world, 0, 1_000);
    if world.rng.chance(30) {
        world.run_log.log(format!("kill -9 of {}", world.names(&[victim])));
        world.cluster.nodes[victim].kill9();
        world.start(victim);
    }
    for _ in 0..2 {
        let through = another(world, victim);
        if world.join(through, victim, 8) == Ok(200) {
            return;
        }
    }
}

/// A disk fails, and the node must end by itself, with a word; or its syncs take long.
fn disk(world: &mut World) {
    if shim().is_none() {
        return;
    }
    let victim = world.any();
    let name = world.names(&[victim]);
    let trigger = world.trigger(victim);
    if world.rng.chance(25) {
        world.run_log.log(format!("syncs of {name} take 1.5 s each"));
        DiskFault::Slow.begin(&trigger);
        pause(world, 1_000, 4_000);
        DiskFault::end(&trigger);
        return;
    }
    let fault = *world.rng.pick(&DiskFault::DEADLY);
    world.run_log.log(format!("the disk of {name} fails: {fault:?}"));
    fault.begin(&trigger);
    let begun = Instant::now();
    // A node that no write reaches does not meet its disk.
    while begun.elapsed() < secs(5) && world.cluster.nodes[victim].exited().is_none() {
        sleep(millis(20));
    }
    let ended = world.cluster.nodes[victim].exited().is_some();
    if ended {
        let again = world.rng.chance(40) && fault == DiskFault::Full;
        world.gave_up(victim);
        if again {
            world.run_log.log(format!("{name} is started while its disk fails"));
            world.cluster.nodes[victim].spawn();
            world.gave_up(victim);
        }
    }
    DiskFault::end(&trigger);
    if ended {
        world.start(victim);
        world.run_log.log(format!("{name} runs again"));
    } else {
        // A background write may have failed, which the node then learns at its next sync.
        world.suspects.insert(victim);
        world.run_log.log(format!("{name} may not have met the fault"));
    }
}

/// The small disk becomes full, to the last byte or to below its reserve, and gets its space back. In half of the cases a
/// snapshot is streamed meanwhile, by node1 or to it.
fn fill(world: &mut World) {
    if world.small.is_none() {
        return;
    }
    let left = if world.rng.chance(50) { 0 } else { 1 + world.rng.below(RESERVE) };
    let behind = world.rng.chance(50).then(|| falls_behind(world));
    world.run_log.log(format!("the disk of node1 has {left} MB left"));
    let disk = world.small.as_ref().expect("it was there");
    if left == 0 {
        disk.fill()
    } else {
        disk.fill_but(left)
    }
    if let Some(place) = behind {
        world.cluster.nodes[place].spawn();
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(8) && world.cluster.nodes[0].exited().is_none() {
        sleep(millis(20));
    }
    let ended = world.cluster.nodes[0].exited().is_some();
    assert!(!ended || left < FLOOR / 2, "node1 ended, and {left} MB were left: {}", world.gave_up(0));
    if ended {
        let log = world.gave_up(0);
        assert!(log.to_lowercase().contains("free"), "the bytes free are not named: {log}");
    }
    world.small.as_ref().expect("it was there").give_back();
    if ended {
        world.start(0);
        world.run_log.log("node1 has space and runs again");
    } else {
        world.suspects.insert(0);
        world.run_log.log("node1 goes on");
    }
    if let Some(place) = behind.filter(|place| *place != 0) {
        world.cluster.nodes[place].await_up();
    }
}

/// Takes a node down until the log does not reach it any more: any, or node1 itself. Another one's copy comes from node1, if
/// that can be had.
fn falls_behind(world: &mut World) -> usize {
    let place = if world.rng.chance(50) { 0 } else { world.any() };
    world.attend();
    world.run_log.log(format!("{} is killed and misses writes", world.names(&[place])));
    world.cluster.nodes[place].kill9();
    let through = (place + 1) % world.count();
    if place != 0 {
        _ = world.ask(through, "/raft/transfer", &json!({"node_id": "node1"}), 3);
    }
    let applied = |world: &World| {
        let stats = world.cluster.nodes[through].try_stats();
        stats.map_or(0, |stats| crate::harness::number(&stats, "applied_index"))
    };
    let (before, begun) = (applied(world), Instant::now());
    while applied(world) < before + 150 && begun.elapsed() < Duration::from_secs(4) {
        sleep(millis(50));
    }
    place
}
