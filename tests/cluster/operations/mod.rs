//! Operations: start, settings, status, probes, the tutorial.

mod launch;
mod probes;
mod settings;
mod stats;
mod status;
mod tutorial;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [settings::cases(), launch::cases(), stats::cases(), status::cases(), probes::cases(), tutorial::cases()]
        .into_iter()
        .flatten()
        .collect()
}
