//! The simulator: real drivers, journals and state machines on simulated disks, network and time.
//!
//! Why: what a consensus store survives depends on orders of events that no test on real machines brings about twice. Here
//! a seed decides all of them, so a failure can be replayed.
//!
//! | place | what |
//! |---|---|
//! | `run` | one seed: faults, healing, expiry |
//! | `world/` | nodes, disks, network, clock and the event queue |
//! | `workload/` | clients and operators |
//! | `faults/` | nemesis, disks, copied disks, impostor, rogue member |
//! | `checks/` | the invariants |
//! | `scenarios/` | runs whose order of events is written down, among them the scripts in `tests/scenarios` |
//! | `planted_bugs` | bugs that the simulator must catch |
//! | `cli` | the program behind `scripts/sim.sh` |
//!
//! Invariants: one seed is one run, byte for byte; nothing reads a real clock. The main function is the simulator's own,
//! since `scripts/sim.sh` runs the same program by hand.
//!
//! See also: `tests/cluster` for the real transport, the real disk and http, `docs/testing.md`.

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

/// The seeds that every change runs against.
const FIXED: std::ops::Range<u64> = 1..201;

/// The seeds that have found a bug.
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
        Trial::test("a_request_to_a_previous_incarnation_is_refused", join_rollback::a_request_to_another_raft_id),
        Trial::test(
            "a_snapshot_covers_changes_that_are_not_applied_yet",
            snapshot_over_membership::a_change_that_a_snapshot_covers,
        ),
        Trial::test("turns_are_bounded_in_work_and_in_time", || bounded_turns::are_bounded().map_err(Failed::from)),
    ];
    trials.extend(script::trials());
    trials.extend(planted_bugs::trials());
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Runs seeds, and fails with the first one that does.
fn holds(seeds: impl Iterator<Item = u64> + Send + 'static) -> Result<(), Failed> {
    let stopped = cli::run_all(seeds, None);
    match stopped.failed {
        None => Ok(()),
        Some((seed, failure)) => Err(format!("seed {seed} fails: {failure}").into()),
    }
}

/// Runs seeds twice; the traces must be equal, byte for byte.
fn same() -> Result<(), Failed> {
    let traced = |seed| {
        let lines = Arc::new(Mutex::new(String::new()));
        let ended = run(seed, &Trace::Memory(lines.clone()));
        let lines = lines.lock().expect("the run has ended").clone();
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
