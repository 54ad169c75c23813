//! Operations: start, settings, status, probes, rate limits, certificates, the tutorial.

mod audit;
mod certs;
mod launch;
mod metrics;
mod overview;
mod probes;
mod rate_limit;
mod reload;
mod settings;
mod stats;
mod status;
mod tutorial;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        settings::cases(),
        launch::cases(),
        stats::cases(),
        status::cases(),
        probes::cases(),
        metrics::cases(),
        overview::cases(),
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
