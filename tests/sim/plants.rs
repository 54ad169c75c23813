//! Planted bugs: a harness that has never caught anything proves nothing.
//!
//! Laws: without the feature `plant` there is none to choose. Each is caught by the simulator.

use huskv::plant::Plant;
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

/// The tests that each is caught, within seeds that are few enough for every change to run against.
#[cfg(feature = "plant")]
pub fn trials() -> Vec<Trial> {
    let trial = |(name, _): (&'static str, Plant)| {
        let run = move || match crate::command::run_all(1..SEEDS, Some(name)).failed {
            Some((_, failure)) if name != DIVERGENCE || failure.contains(DIVERGED) => Ok(()),
            Some((seed, failure)) => Err(format!("{name}, seed {seed}: not by the digests: {failure}").into()),
            None => Err(format!("{name} is not caught by seeds 1 to {SEEDS}").into()),
        };
        Trial::test(format!("planted_{name}_is_caught"), run)
    };
    Plant::NAMES.into_iter().filter(|(_, plant)| !RARE.contains(plant)).map(trial).collect()
}

#[cfg(feature = "plant")]
const SEEDS: u64 = 300;

/// The bug that the nodes themselves must find, and what the one that has it says.
#[cfg(feature = "plant")]
const DIVERGENCE: &str = "silent-divergence";
#[cfg(feature = "plant")]
const DIVERGED: &str = "the state differs";

/// Bugs that these seeds have not been seen to show.
#[cfg(feature = "plant")]
const RARE: [Plant; 3] = [Plant::StaleEntriesAfterInstall, Plant::ForwardRetried, Plant::DroppedChangeApplied];

/// None in a build without them.
#[cfg(not(feature = "plant"))]
pub fn trials() -> Vec<Trial> {
    Vec::new()
}
