//! Planted bugs: each must be caught, or the simulator proves nothing.
//!
//! Invariants: a build without the feature `plant` has none.

use huskv::plant::Plant;
#[cfg(feature = "plant")]
use libtest_mimic::Failed;
use libtest_mimic::Trial;

/// Chooses the planted bug of this thread, or none; false where this build has none of that name.
pub fn choose(name: Option<&str>) -> bool {
    let plant = name.and_then(Plant::named);
    #[cfg(feature = "plant")]
    huskv::plant::choose(plant);
    name.is_none() || (cfg!(feature = "plant") && plant.is_some())
}

/// Prints the names, one a line, each with the suite that catches it.
pub fn list() {
    for (name, _) in Plant::NAMES {
        println!("{name} sim");
    }
}

/// The trials that each planted bug is caught: by the first seeds, or by its scenario.
#[cfg(feature = "plant")]
pub fn trials() -> Vec<Trial> {
    let trial = |(name, plant): (&'static str, Plant)| {
        let run = move || if plant == Plant::StaleEntriesAfterInstall { by_scenario(name) } else { by_seeds(name) };
        Trial::test(format!("planted_{name}_is_caught"), run)
    };
    Plant::NAMES.into_iter().map(trial).collect()
}

#[cfg(feature = "plant")]
const SEEDS: u64 = 1000;

/// The planted bug that the nodes must find by their own digests, and the error of the node that has it.
#[cfg(feature = "plant")]
const DIVERGENCE: &str = "silent-divergence";
#[cfg(feature = "plant")]
const DIVERGED: &str = "the state differs";

#[cfg(feature = "plant")]
fn by_seeds(name: &str) -> Result<(), Failed> {
    match crate::cli::run_all(1..SEEDS, Some(name)).failed {
        Some((_, failure)) if name != DIVERGENCE || failure.contains(DIVERGED) => Ok(()),
        Some((seed, failure)) => Err(format!("{name}, seed {seed}: not by the digests: {failure}").into()),
        None => Err(format!("{name} is not caught by seeds 1 to {SEEDS}").into()),
    }
}

/// Runs the scenario of a bug that seeds meet too rarely.
#[cfg(feature = "plant")]
fn by_scenario(name: &str) -> Result<(), Failed> {
    choose(Some(name));
    let held = crate::scenarios::snapshot_over_membership::a_change_that_a_snapshot_covers();
    choose(None);
    if held.is_ok() { Err(format!("{name} is not caught").into()) } else { Ok(()) }
}

/// No trials in a build without planted bugs.
#[cfg(not(feature = "plant"))]
pub fn trials() -> Vec<Trial> {
    Vec::new()
}
