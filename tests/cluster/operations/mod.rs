//! Operations: start, settings, status, probes, figures, alerts, rate limits, certificates, the tutorial.

mod alerts;
mod audit;
mod certs;
mod launch;
mod metrics;
mod node_events;
mod overview;
mod probes;
mod prometheus;
mod rate_limit;
mod readiness;
mod reload;
mod settings;
mod stats;
mod status;
mod tutorial;
mod ui;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        settings::cases(),
        launch::cases(),
        stats::cases(),
        status::cases(),
        probes::cases(),
        readiness::cases(),
        metrics::cases(),
        alerts::cases(),
        prometheus::cases(),
        node_events::cases(),
        overview::cases(),
        reload::cases(),
        audit::cases(),
        certs::cases(),
        rate_limit::cases(),
        tutorial::cases(),
        ui::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
