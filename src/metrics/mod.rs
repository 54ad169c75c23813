//! Figures of a node for Prometheus: counters, gauges, histograms, and their exposition.
//!
//! Why: what is counted lies in every module, and its names, units and texts belong together. So each module gets its group of atomics from
//! here, and this module alone knows how they are shown.
//!
//! Invariants: whatever is shown exists from the first scrape on, at zero; a figure that this node does not know is NaN. Every set of
//! labels is resolved at the start, or when a member comes, and never on the way of a request; no label holds a key. A scrape asks
//! neither the loop nor the disk.
//!
//! See also: `GET /metrics` (`http::api::metrics`), `docs/monitoring.md`.

mod consensus;
mod counters;
mod exposition;
mod histogram;
mod node_state;
mod process;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

pub use consensus::{Failure, Loop, Proposals, Reads, Snapshots};
pub use counters::{Counter, Gauge, Seconds};
use exposition::Exposition;
pub use exposition::Format;
pub use histogram::Histogram;
pub use node_state::{NodeState, PeerState};
use process::Process;

/// The commit that the program was built from, where the build says so.
pub const COMMIT: &str = match option_env!("HUSKV_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// All figures of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// What the loop last published.
    pub node: ArcSwap<NodeState>,
    /// The bytes of the data directory's files, as last measured.
    pub directory_bytes: Gauge,
    /// Writes of clients.
    pub proposals: Proposals,
    /// Reads of clients.
    pub reads: Reads,
    /// The loop.
    pub turns: Loop,
    /// Checkpoints and snapshot streams.
    pub snapshots: Snapshots,
    process: Process,
}

impl Metrics {
    /// Returns all figures as text.
    #[must_use]
    pub fn encode(self: &Arc<Self>, format: Format) -> String {
        exposition::encode(self, format)
    }

    fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.gauges(
            "huskv_build_info",
            "Version and commit of the program; the value is 1.",
            [(vec![("version", env!("CARGO_PKG_VERSION")), ("commit", COMMIT)], 1_u64)],
        )?;
        self.node.load().write(to)?;
        to.gauge(
            "huskv_disk_directory_bytes",
            "Bytes of the files in the data directory.",
            self.directory_bytes.get(),
        )?;
        self.proposals.write(to)?;
        self.reads.write(to)?;
        self.turns.write(to)?;
        self.snapshots.write(to)?;
        self.process.write(to)
    }
}

#[cfg(test)]
mod tests;
