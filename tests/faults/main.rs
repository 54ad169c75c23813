//! Fault suite: real processes, clients with a history, and many kinds of faults at once.
//!
//! A round is drawn from a seed: three to five nodes form a cluster, clients write, read and delete through all of them,
//! and for a while faults come: kill -9 of any of them or all, SIGSTOP, links that are cut, one-way, stuck, slow, reset
//! or flapping, members that leave and come back, leadership that is moved, disks that fail, fill up, or lose what they
//! had. Then all faults end, and the cluster must become whole, every node must hold the same, and an order must explain
//! everything that the clients saw.
//!
//! Invariants: as those of the black-box tests, whose harness this is; nothing here knows a type of the program. The seed fixes
//! what is done, not what comes of it: a failure is printed with its seed and what was done when.
//!
//! Beside the rounds there is the watch suite (`watch_suite`), with kills of minorities only.
//!
//! `scripts/faults.sh` runs rounds, or the watch suite, for a given time. `FAULTS_SEED=N` is one round,
//! `FAULTS_SECONDS` the length of the faults in a round, `FAULTS_TRACE=1` prints what is done as it is done.

// clippy knows tests by their attribute, and tests with a main of their own have none.
#![allow(clippy::unwrap_used)]

use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod clients;
mod damage;
mod failing_disk;
// Only a part of it is of use here.
mod checker;
mod event_log;
#[allow(dead_code, unused_imports)]
#[path = "../cluster/harness/mod.rs"]
mod harness;
mod history;
#[path = "../support/linear.rs"]
mod linear;
mod nemesis;
#[path = "../sim/rng.rs"]
mod rng;
mod self_test;
mod tcp_proxy;
mod ttl;
mod watch_suite;
mod watchers;
mod world;
mod writers;

use clients::{Clients, read_all};
use harness::{Case, check, eventually, secs};
use world::{RunLog, World};

/// How long faults last in a round, in seconds.
const SECONDS: u64 = 30;

/// How many large values lie in half of the rounds: 8 MB.
const BALLAST: usize = 40;

/// One round; what it comes to, in a line.
fn round(seed: u64, run_log: &RunLog) -> String {
    let seconds = number("FAULTS_SECONDS").unwrap_or(SECONDS);
    let mut world = World::new(seed, run_log.clone());
    let addresses = world.cluster.addresses();
    let clients = Clients::start(&addresses, addresses.len() + 3, "linearizable", &mut world.rng.fork());
    world.clients = Some(clients.shared());
    if world.rng.chance(50) {
        clients.shared().ballast(BALLAST);
        run_log.log("with ballast");
    }
    eventually(secs(20), "the clients write", || check(clients.acknowledged() > 20, clients.acknowledged()));
    nemesis::run_faults(&mut world, Instant::now() + Duration::from_secs(seconds));
    world.heal();
    let goal = clients.acknowledged() + 20;
    eventually(secs(20), "writes go on", || check(clients.acknowledged() > goal, clients.acknowledged()));
    let shared = clients.finish();
    world.heal();
    ttl::go(&world);
    let history = read_all(&shared).unwrap_or_else(|why| panic!("{why}"));
    world.cluster.caught_up(world::HEALING);
    checker::check_logs(&world.cluster.nodes).unwrap_or_else(|why| panic!("{why}"));
    checker::check_history(&history).unwrap_or_else(|why| panic!("{why}"));
    let keys = checker::check_equal(&world.cluster.nodes, &history).unwrap_or_else(|why| panic!("{why}"));
    let line = format!(
        "seed {seed} holds: {} nodes, {} writes acknowledged, {} unknown, {} reads, {keys} keys on each node",
        world.count(),
        history.acknowledged,
        history.unknown,
        history.reads
    );
    run_log.log(&line);
    line
}

/// One round that prints its seed and, where it fails, what was done.
fn run_round(seed: u64, round: impl FnOnce(u64, &RunLog) -> String) -> bool {
    let run_log = RunLog::new();
    println!("seed {seed}");
    let outcome = catch_unwind(AssertUnwindSafe(|| round(seed, &run_log)));
    match &outcome {
        Ok(line) => println!("{line}"),
        Err(_) => eprintln!("--- what was done\n{}\n---\nseed {seed} fails", run_log.text()),
    }
    outcome.is_ok()
}

fn assert_round(seed: u64) {
    assert!(run_round(seed, round), "seed {seed} fails: FAULTS_SEED={seed} scripts/faults.sh runs it again");
}

fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0) % 1_000_000_000
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?}")))
}

/// Rounds of fresh seeds until the time is up or one fails.
fn for_minutes(minutes: u64) -> ExitCode {
    let begun = Instant::now();
    let mut rounds = 0;
    while begun.elapsed() < Duration::from_secs(minutes * 60) {
        rounds += 1;
        if !run_round(fresh_seed(), round) {
            println!("{rounds} rounds, the last one failed, {:.1} min", begun.elapsed().as_secs_f64() / 60.0);
            return ExitCode::FAILURE;
        }
    }
    println!("{rounds} rounds, {:.1} min", begun.elapsed().as_secs_f64() / 60.0);
    ExitCode::SUCCESS
}

harness::cases![a_round_of_seed_1, a_round_of_seed_2, a_round_of_seed_3, a_round_of_seed_4, a_round_of_a_fresh_seed,];

fn a_round_of_seed_1() {
    assert_round(1);
}

fn a_round_of_seed_2() {
    assert_round(2);
}

fn a_round_of_seed_3() {
    assert_round(3);
}

fn a_round_of_seed_4() {
    assert_round(4);
}

fn a_round_of_a_fresh_seed() {
    assert_round(fresh_seed());
}

fn main() -> ExitCode {
    let code = |holds| if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if let Some(minutes) = number("FAULTS_WATCH_MINUTES") {
        let span = Duration::from_secs(minutes * 60);
        let seed = number("FAULTS_SEED").unwrap_or_else(fresh_seed);
        return code(run_round(seed, |seed, run_log| watch_suite::run(seed, span, run_log)));
    }
    if let Some(seed) = number("FAULTS_SEED") {
        return code(run_round(seed, round));
    }
    if let Some(minutes) = number("FAULTS_MINUTES") {
        return for_minutes(minutes);
    }
    let arguments = libtest_mimic::Arguments::from_args();
    libtest_mimic::run(
        &arguments,
        [self_test::cases(), ttl::cases(), event_log::cases(), watch_suite::cases(), cases()]
            .into_iter()
            .flatten()
            .map(Case::trial)
            .collect(),
    )
    .exit_code()
}
