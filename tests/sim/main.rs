//! The simulator: real drivers, journals and machines on simulated disks, network and time.
//!
//! Why: what a consensus store survives is decided by orders of events that no test on real machines brings about twice.
//! Here a seed decides all of them, so whatever goes wrong once can be looked at again.
//!
//! Laws: one seed is one run, byte for byte; nothing in it reads a clock. A main of its own, since `scripts/sim.sh` runs
//! the same program by hand, and what that prints is only the simulator's.
//!
//! Not here: the real transport, the real disk and http, which `tests/cluster` runs.

mod checks;
mod cli;
mod faults;
#[allow(unused_imports, reason = "its own tests are compiled here and not run")]
#[path = "../support/linear.rs"]
mod linear;
mod planted_bugs;
mod rng;
mod run;
mod scenarios;
mod trace;
mod workload;
mod world;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use run::run;
use scenarios::{bounded_turns, join_rollback, script, snapshot_over_membership};
use trace::Trace;

/// Seeds that every change runs against.
const FIXED: std::ops::Range<u64> = 1..201;

/// Seeds that have shown a bug once.
const REGRESSIONS: &[u64] = &[
    1_795_575_021_115_697,
    1_795_577_598_411_366,
    1_795_578_280_449_208,
    1_795_578_742_741_150,
    1_795_580_431_669_246,
    1_795_583_513_135_438,
    1_795_892_028_980_031,
    1_795_892_206_845_820,
    1_795_892_495_616_670,
    1_795_892_570_624_694,
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "simulate") {
        return cli::main(&words[1..]);
    }
    let mut trials = vec![
        Trial::test("a_fixed_set_of_seeds_holds", || holds(FIXED)),
        Trial::test("seeds_that_once_failed_hold", || holds(REGRESSIONS.iter().copied())),
        Trial::test("the_same_seed_is_the_same_run", same),
        Trial::test("a_forced_join_whose_leader_dies_gives_the_data_back", join_rollback::the_leader_dies),
        Trial::test("a_join_that_its_leader_ends_gives_the_data_back_at_once", join_rollback::the_leader_ends_it),
        Trial::test("a_request_for_what_a_node_was_is_not_done", join_rollback::a_request_for_what_it_was),
        Trial::test(
            "a_copy_covers_changes_that_are_not_applied_yet",
            snapshot_over_membership::a_change_that_a_copy_covers,
        ),
        Trial::test("turns_are_bounded_in_work_and_in_time", || bounded_turns::are_bounded().map_err(Failed::from)),
    ];
    trials.extend(script::trials());
    trials.extend(planted_bugs::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn holds(seeds: impl Iterator<Item = u64> + Send + 'static) -> Result<(), Failed> {
    let stopped = cli::run_all(seeds, None);
    match stopped.failed {
        None => Ok(()),
        Some((seed, failure)) => Err(format!("seed {seed} fails: {failure}").into()),
    }
}

/// Byte for byte: the traces are equal.
fn same() -> Result<(), Failed> {
    let traced = |seed| {
        let lines = Arc::new(Mutex::new(String::new()));
        let ended = run(seed, &Trace::Memory(lines.clone()));
        let lines = lines.lock().expect("nobody holds it").clone();
        (ended.result, ended.simulated, lines)
    };
    for seed in [6, 7, 9] {
        let (first, second) = (traced(seed), traced(seed));
        if first != second || first.2.len() < 10_000 {
            return Err(format!("seed {seed} gives two different runs").into());
        }
    }
    Ok(())
}
