//! The loop around raft: the only room that holds a `RawNode`.
//!
//! Why: one thread owns raft, the journal, the machine and whoever waits for them, so the order of everything that
//! matters is the order of one function ([`Driver::turn`]). The rest of the process reaches it through a [`Handle`] and
//! is reached through the replies that requests carry.
//!
//! A request's way: `handle` -> `proposals` (propose, forward or park) -> `ready` (journal, sync, send, apply) ->
//! `waiters` -> reply. A read's way: `handle` -> `reads` -> raft's ReadIndex -> reply. Membership: `membership` with the
//! steps in `join` and `transfer`; the joiner's side is `joiner`, and its way there and back `incarnation`. What was
//! applied becomes the `changefeed` of those who watch. A peer's message passes `term_bound` first; what would end the node,
//! `verification` asks the other voters about; `digests` compares the state with the leader's, `stalled_followers` says which
//! followers stand still, and `disk_space` refuses what would fill a disk. A member without a leader asks a voter that its log
//! removes whether that is committed (`commit_discovery`). `readiness` is whether this node takes requests, and whether it
//! lags itself.
//!
//! Not here: sockets (`transport`), and what is on the disk (`storage`).

mod driver;
mod handle;
mod input;
mod liveness;
mod membership;
mod outbox;
mod proposals;
mod raft_node;
mod reads;
mod snapshots;
mod status;
mod task;
mod verification;

use crate::changefeed::History;
pub use driver::Driver;
pub use driver::background::Background;
pub use handle::{Clock, Handle, Inbox, Names, channel};
pub use input::{Bounds, Consistency, Fetched, Hop, Input, InstallError, Listed, Reply};
pub use outbox::Outbox;
pub use task::{Running, Start, spawn};

use crate::model::Limits;

/// What the loop is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The length of a raft tick in milliseconds.
    pub tick_ms: u64,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_ticks: usize,
    /// Ticks without a leader until a follower campaigns.
    pub election_ticks: usize,
    /// The range that raft draws the election timeout of each wait from, in ticks, end exclusive; None for
    /// `election_ticks` to twice that. A simulator pins it.
    pub election_range: Option<(usize, usize)>,
    /// Entries between two durable cuts of the machine.
    pub snapshot_every_entries: u64,
    /// Bytes of log between two durable cuts of the machine.
    pub snapshot_every_bytes: u64,
    /// Entries kept behind a cut for slow followers.
    pub snapshot_keep_entries: u64,
    /// The most bytes of changes that a copy for a follower may take on disk.
    pub snapshot_spool_bytes: u64,
    /// The work after which a turn applies no further entry: about the bytes that entries read, replace and remove. A few
    /// bytes of log can ask for megabytes of it, and the loop has heartbeats to send.
    pub apply_work: usize,
    /// What a command may have that is proposed here; other nodes may have other limits.
    pub limits: Limits,
    /// The most client requests that wait at once.
    pub pending_requests: usize,
    /// How many of the latest events are kept.
    pub history: History,
    /// Where this node tells its peers to dial it, `host:port`.
    pub raft_address: String,
    /// Where this node's clients find it, `host:port`.
    pub http_address: String,
    /// Whether members are followed to where they say they are now, without anybody's word for it.
    pub follow_moves: bool,
    /// Whether a pristine node waits to be taken, or told to begin, instead of leading itself (HUSKV_JOIN).
    pub forming: bool,
    /// How long a node that was adopted waits for something to come from the cluster, until it goes back to what it was.
    pub join_wait_ms: u64,
    /// A random number that no other life of this process has: it makes the contexts of reads unique.
    pub nonce: u64,
}
