//! Figures of a node for Prometheus: counters, gauges, histograms, and their exposition.
//!
//! Why: what is counted lies in every module, and its names, units and texts belong together. So each module gets its group of atomics from
//! here, and this module alone knows how they are shown.
//!
//! Invariants: whatever is shown exists from the first scrape on, at zero; a figure that this node does not know is NaN. Every set of
//! labels is resolved at the start, or when a member comes, and never on the way of a request; no label holds a key. A scrape asks
//! neither the loop nor the disk.
//!
//! See also: `GET /metrics` (`http::metrics`), `docs/monitoring.md`.

mod access;
mod consensus;
mod counters;
mod exposition;
mod histogram;
mod http;
mod load;
mod network;
mod node_state;
mod process;
mod transfers;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::load::LoadHistory;
pub use access::{Access, AccessState};
pub use consensus::{Failure, Loop, Proposals, Reads, Snapshots};
pub use counters::{Counter, Gauge, Seconds};
use exposition::Exposition;
pub use exposition::Format;
pub use histogram::Histogram;
pub use http::{Http, InFlight, Overload, ROUTES, Target, Verb};
pub use network::{Network, PeerFigures};
pub use node_state::{NodeState, PeerState};
use process::Process;
pub use transfers::{TransferGuard, TransferProgress, Transfers};

/// The commit that the program was built from, where the build says so.
pub const COMMIT: &str = match option_env!("HUSKV_COMMIT") {
    Some(commit) if !commit.is_empty() => commit,
    _ => "unknown",
};

/// All figures of a process.
#[derive(Debug, Default)]
pub struct Metrics {
    /// What the loop last published.
    pub node: ArcSwap<NodeState>,
    /// The bytes of the data directory's files, as last measured.
    pub directory_bytes: Gauge,
    /// The bytes of the data directory's file system, as last measured; 0 where they are not known.
    pub disk_total_bytes: Gauge,
    /// Writes of clients.
    pub proposals: Proposals,
    /// Reads of clients.
    pub reads: Reads,
    /// The loop.
    pub turns: Loop,
    /// Checkpoints and snapshot streams.
    pub snapshots: Snapshots,
    /// Snapshot streams that this node sends now.
    pub transfers: Transfers,
    /// Connections to other nodes.
    pub network: Network,
    /// The HTTP server.
    pub http: Http,
    /// TLS, tokens, limits, reloads.
    pub access: Access,
    /// The load of the last minutes.
    pub load: LoadHistory,
    process: Process,
}

/// What the HTTP server knows as of a scrape.
#[derive(Debug, Default)]
pub struct ServerState {
    /// The clients that watch.
    pub watchers: u64,
    /// The first index whose changes are kept for watchers.
    pub watch_oldest_index: u64,
    /// TLS and reloads.
    pub access: AccessState,
}

impl Metrics {
    /// Returns all figures as text.
    #[must_use]
    pub fn encode(self: &Arc<Self>, format: Format, state: ServerState) -> String {
        exposition::encode(self, format, state)
    }

    fn write(&self, to: &mut Exposition<'_>, state: &ServerState) -> fmt::Result {
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
        self.network.write(to)?;
        self.http.write(to)?;
        to.gauge("huskv_watchers", "Clients that watch.", state.watchers)?;
        to.gauge(
            "huskv_watch_oldest_index",
            "First index whose changes are kept for watchers.",
            state.watch_oldest_index,
        )?;
        self.access.write(to, &state.access, self.process.started())?;
        self.process.write(to)
    }
}

#[cfg(test)]
mod tests;
