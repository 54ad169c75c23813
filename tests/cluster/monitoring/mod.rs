//! Monitoring: status, probes, figures, alerts, events, the overview, the page.

mod alerts;
mod metrics;
mod node_events;
mod overview;
mod probes;
mod prometheus;
mod readiness;
mod status;
mod ui;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        status::cases(),
        probes::cases(),
        readiness::cases(),
        metrics::cases(),
        alerts::cases(),
        prometheus::cases(),
        node_events::cases(),
        overview::cases(),
        ui::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
