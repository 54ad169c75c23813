//! Settings of the loop.
//!
//! See also: `config` (where they come from).

use crate::changefeed::FeedLimits;
use crate::model::Limits;
use crate::storage::StateMachine;

/// The options of the loop.
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
    /// Entries between two checkpoints of the state machine.
    pub snapshot_every_entries: u64,
    /// Bytes of log between two checkpoints of the state machine.
    pub snapshot_every_bytes: u64,
    /// Entries kept behind a checkpoint for slow followers.
    pub snapshot_keep_entries: u64,
    /// The maximum bytes of changes that a snapshot for a follower may take on disk.
    pub snapshot_spool_bytes: u64,
    /// How much larger than some times its data the tree may be on disk before it is rewritten, in bytes.
    pub reclaim_slack_bytes: u64,
    /// The maximum memory of the memtables and the encoding of a flush.
    pub memtable_bytes: usize,
    /// The memory of the cache of keys' metadata.
    pub meta_cache_bytes: usize,
    /// The maximum bytes of the last log entries in memory.
    pub entry_cache_bytes: usize,
    /// About the maximum bytes of entries in flight to one follower, unless a single entry is larger.
    pub follower_bytes: usize,
    /// The work after which a turn applies no further entry: about the bytes that entries read, replace and remove. A
    /// few bytes of log can ask for megabytes of it, and the loop has heartbeats to send.
    pub apply_work: usize,
    /// The limits of commands proposed here; other nodes may have other limits.
    pub limits: Limits,
    /// The maximum number of waiting client requests.
    pub pending_requests: usize,
    /// How many of the latest events are kept.
    pub history: FeedLimits,
    /// Where this node tells its peers to dial it, `host:port`.
    pub raft_address: String,
    /// The advertised client address, `host:port`.
    pub http_address: String,
    /// Whether members are followed to the address that they report, without an operator's request.
    pub follow_moves: bool,
    /// Whether a pristine node waits for a cluster to take it, or for the command to begin one, instead of leading
    /// itself (HUSKV_JOIN).
    pub forming: bool,
    /// How long a joining node waits for its cluster before it rolls back.
    pub join_wait_ms: u64,
    /// A random number of this process: it makes the contexts of reads unique, and keys the hash of the metadata cache.
    pub nonce: u64,
}

impl Options {
    /// Sets the memory of a state machine that was opened or received.
    pub(crate) fn limit_memory(&self, state_machine: &mut StateMachine) {
        state_machine.limit_memtables(self.memtable_bytes);
        state_machine.cache_metas(self.meta_cache_bytes, self.nonce);
    }
}
