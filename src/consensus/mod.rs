//! The loop around raft: the only room that holds a `RawNode`.

mod handle;
mod input;
mod outbox;

pub use handle::{Clock, Handle, Inbox, channel};
pub use input::{Consistency, Fetched, Input, InstallError, Millis, Reply};
pub use outbox::Outbox;

pub use crate::storage::Versioned;

/// What the loop is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The length of a raft tick in milliseconds.
    pub tick_ms: u64,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader until a follower campaigns.
    pub election_ticks: usize,
    /// Entries between two durable cuts of the machine.
    pub snapshot_every_entries: u64,
    /// Bytes of log between two durable cuts of the machine.
    pub snapshot_every_bytes: u64,
    /// Entries kept behind a cut for slow followers.
    pub snapshot_keep_entries: u64,
    /// The most bytes that a copy for a follower may take on disk.
    pub snapshot_spool_bytes: u64,
    /// The most client requests that wait at once.
    pub pending_requests: usize,
    /// Where this node tells its peers to dial it, `host:port`.
    pub raft_address: String,
    /// Where this node's clients find it, `host:port`.
    pub http_address: String,
    /// Whether a pristine node waits to be taken, or told to begin, instead of leading itself (HUSKV_JOIN).
    pub forming: bool,
}

/// The running loop.
pub struct Running {
    /// Resolves when the loop has ended: Ok after [`Input::Stop`], Err where the disk or the log broke.
    pub ended: tokio::sync::oneshot::Receiver<Result<(), crate::storage::Error>>,
}

/// Starts the loop on a thread of its own.
pub fn spawn(
    _inbox: Inbox,
    _handle: Handle,
    _volume: crate::storage::Volume,
    _incarnation: crate::storage::Incarnation,
    _outbox: Box<dyn Outbox>,
    _options: Options,
    _log: slog::Logger,
) -> Running {
    todo!()
}
