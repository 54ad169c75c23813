//! What the loop last published of the node: leadership, raft, data, disk.
//!
//! Invariants: the loop publishes it once a tick, so it is as old as a tick, or as the stall of a disk.

use std::fmt;

use super::exposition::Exposition;

/// The figures of a node as of a tick.
#[derive(Debug, Default)]
pub struct NodeState {
    /// The cluster; 0 for none.
    pub cluster_id: u64,
    /// The name of this node; empty before the first tick.
    pub node: String,
    /// Its raft id.
    pub raft_id: u64,
    /// Whether it is a member of a cluster: not before it has joined one, and not after its removal.
    pub is_member: bool,
    /// The address at which its peers dial it.
    pub raft_address: String,
    /// The address at which its clients find it.
    pub http_address: String,
    /// Whether a leader is known.
    pub has_leader: bool,
    /// Whether this node is it.
    pub is_leader: bool,
    /// Whether this node has no vote.
    pub is_learner: bool,
    /// Whether it stands for election.
    pub is_candidate: bool,
    /// How often a leader was found that is not the one before, since the start.
    pub leader_changes: u64,
    /// The present term.
    pub term: u64,
    /// The last index of the log.
    pub last_index: u64,
    /// The commit index.
    pub committed_index: u64,
    /// The applied index.
    pub applied_index: u64,
    /// The index of the last checkpoint.
    pub snapshot_index: u64,
    /// The number of voters.
    pub voters: u64,
    /// On a leader: how many more voters may fail.
    pub failure_tolerance: Option<u64>,
    /// The other members.
    pub peers: Vec<PeerState>,
    /// The number of keys.
    pub keys: u64,
    /// The bytes of all keys and values, as stored.
    pub size_bytes: u64,
    /// The number of keys with an expiry.
    pub ttl_keys: u64,
    /// The free bytes of the data directory's disk, where the system reports them.
    pub free_bytes: Option<u64>,
    /// The bytes of it that are reserved, where it is known; 0 for none.
    pub reserve_bytes: Option<u64>,
    /// Whether that is less than its reserve.
    pub is_disk_nearly_full: bool,
    /// Whether that is less than its floor, below which nothing is written for clients.
    pub is_disk_below_floor: bool,
    /// Requests of clients and peers that wait on this node.
    pub pending: u64,
    /// Bytes written to the journal since the start.
    pub wal_write_bytes: u64,
    /// Keys that have expired since the start.
    pub ttl_expired: u64,
    /// How often this node's state was another one than the leader's.
    pub state_hash_mismatches: u64,
}

/// Another member.
#[derive(Debug, Default)]
pub struct PeerState {
    /// Its name.
    pub name: String,
    /// Its raft id.
    pub raft_id: u64,
    /// Whether it has no vote.
    pub is_learner: bool,
    /// The address at which its peers dial it.
    pub raft_address: String,
    /// The address at which its clients find it.
    pub http_address: String,
    /// The free bytes of its disk, if it has told within the last seconds.
    pub free_bytes: Option<u64>,
    /// Whether that is less than its reserve.
    pub is_disk_nearly_full: bool,
    /// Whether that is less than its floor, below which nothing is written for clients.
    pub is_disk_below_floor: bool,
    /// On a leader: the index up to which its log is known to match.
    pub match_index: Option<u64>,
    /// On a leader: how many entries it lacks.
    pub lag_entries: Option<u64>,
}

impl NodeState {
    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        let cluster_id = self.cluster_id.to_string();
        to.gauges(
            "huskv_cluster_info",
            "Cluster and name of this node; the value is 1.",
            [(vec![("cluster_id", cluster_id.as_str()), ("node", self.node.as_str())], 1_u64)],
        )?;
        self.write_leadership(to)?;
        self.write_raft(to)?;
        self.write_proposals(to)?;
        to.gauge("huskv_db_keys", "Number of keys.", self.keys)?;
        to.gauge("huskv_db_size_bytes", "Bytes of all keys and values, as stored.", self.size_bytes)?;
        to.gauge("huskv_ttl_keys", "Number of keys with an expiry.", self.ttl_keys)?;
        to.counter(
            "huskv_ttl_expired",
            "Keys that expired, as applied on this node since its start.",
            self.ttl_expired,
        )?;
        to.counter(
            "huskv_state_hash_mismatch",
            "How often the state of this node was another one than the leader's at the same index.",
            self.state_hash_mismatches,
        )?;
        to.counter("huskv_disk_wal_write_bytes", "Bytes written to the journal.", self.wal_write_bytes)?;
        to.gauge("huskv_disk_free_bytes", "Free bytes of the file system of the data directory.", self.free_bytes)?;
        to.gauge(
            "huskv_disk_reserve_bytes",
            "Free bytes below which writes that need space are refused.",
            self.reserve_bytes,
        )
    }

    fn write_leadership(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.gauge("huskv_server_has_leader", "Whether this node knows a leader.", self.has_leader)?;
        to.gauge("huskv_server_is_leader", "Whether this node is the leader.", self.is_leader)?;
        to.gauge("huskv_server_is_learner", "Whether this node is a member without a vote.", self.is_learner)?;
        to.counter(
            "huskv_server_leader_changes_seen",
            "Leaders found that were not the one before, since the start of the process.",
            self.leader_changes,
        )
    }

    fn write_proposals(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.counter(
            "huskv_server_proposals_committed",
            "Entries committed in the life of the cluster: the commit index as a counter.",
            self.committed_index,
        )?;
        to.counter(
            "huskv_server_proposals_applied",
            "Entries applied in the life of the cluster: the applied index as a counter.",
            self.applied_index,
        )?;
        to.gauge(
            "huskv_server_proposals_pending",
            "Requests that wait on this node to be proposed, committed, answered by the leader, or for a leader.",
            self.pending,
        )
    }

    fn write_raft(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.gauge("huskv_raft_term", "Present term.", self.term)?;
        to.gauge("huskv_raft_last_index", "Index of the last entry of the log.", self.last_index)?;
        to.gauge("huskv_raft_committed_index", "Index up to which entries are committed.", self.committed_index)?;
        to.gauge("huskv_raft_applied_index", "Index up to which entries are applied.", self.applied_index)?;
        to.gauge("huskv_raft_snapshot_index", "Index of the last checkpoint of the state.", self.snapshot_index)?;
        to.gauge("huskv_raft_voters", "Number of voters.", self.voters)?;
        to.gauge(
            "huskv_raft_failure_tolerance",
            "How many more voters may fail before writes stop; NaN where this node is not the leader.",
            self.failure_tolerance,
        )?;
        to.gauges(
            "huskv_raft_peer_match_index",
            "Index up to which the log of a member matches; NaN where this node is not the leader, or has no answer of the member yet.",
            self.peers.iter().map(|peer| (vec![("peer", peer.name.as_str())], peer.match_index)),
        )?;
        to.gauges(
            "huskv_raft_peer_lag_entries",
            "Entries that a member lacks; NaN where this node is not the leader, or has no answer of the member yet.",
            self.peers.iter().map(|peer| (vec![("peer", peer.name.as_str())], peer.lag_entries)),
        )
    }
}
