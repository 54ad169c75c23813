//! Planted bugs: a harness that has never caught anything proves nothing.
//!
//! Laws: without the feature `plant` there is none to choose. Each is caught by the simulator.

use huskv::plant::Plant;
#[cfg(feature = "plant")]
use libtest_mimic::Failed;
use libtest_mimic::Trial;

/// Lets the code of this thread have one planted bug, or none; false where there is none of that name in this build.
pub fn choose(name: Option<&str>) -> bool {
    let plant = name.and_then(Plant::named);
    #[cfg(feature = "plant")]
    huskv::plant::choose(plant);
    name.is_none() || (cfg!(feature = "plant") && plant.is_some())
}

/// Prints the names, one a line, each with what catches it.
pub fn list() {
    for (name, _) in Plant::NAMES {
        println!("{name} sim");
    }
}

/// The tests that each is caught, within seeds that are few enough for every change to run against, or by its scene.
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

/// The bug that the nodes themselves must find, and what the one that has it says.
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

/// What seeds bring about too rarely.
#[cfg(feature = "plant")]
fn by_scenario(name: &str) -> Result<(), Failed> {
    choose(Some(name));
    let held = crate::scenarios::snapshot_over_membership::a_change_that_a_copy_covers();
    choose(None);
    if held.is_ok() { Err(format!("{name} is not caught").into()) } else { Ok(()) }
}

/// None in a build without them.
#[cfg(not(feature = "plant"))]
pub fn trials() -> Vec<Trial> {
    Vec::new()
}
