//! Operations: start, settings, stats, reloads, the audit file, certificates, rate limits, the tutorial.

mod audit;
mod certs;
mod launch;
mod rate_limit;
mod reload;
mod settings;
mod stats;
mod tutorial;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        settings::cases(),
        launch::cases(),
        stats::cases(),
        reload::cases(),
        audit::cases(),
        certs::cases(),
        rate_limit::cases(),
        tutorial::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
