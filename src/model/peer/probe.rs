//! Probes between voters, and state digests.
//!
//! Why: some messages would end a node if they were true: that it was removed, that its log is lost, that its state diverges.
//! Before a node believes one it probes the other voters. A node without a leader probes whether an entry of its log is committed.
//!
//! Invariants: all of these are encoded by [`crate::model::codec`], so any change of them is a new wire version.
//!
//! See also: `consensus::verification` (how replies are judged).

use serde::{Deserialize, Serialize};

/// The state of a node at an applied index, as a sum: equal on all nodes at the same index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The term of the leader that tells it.
    pub term: u64,
    /// The applied index.
    pub index: u64,
    /// The sum.
    pub digest: u64,
}

/// A node asks another one what it knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The cluster of the node that asks.
    pub cluster_id: u64,
    /// Its raft id.
    pub raft_id: u64,
    /// An applied index, and the digest of its state there.
    pub digest: Option<(u64, u64)>,
    /// The index and term of an entry in its log.
    pub entry: Option<(u64, u64)>,
}

/// What a node is in the member table of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// A member.
    Member,
    /// A member that was removed.
    Tombstone,
    /// Neither, as far as that table goes.
    Unknown,
}

/// The answer to a [`Probe`] of the same cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// The raft id of the node that answers.
    pub raft_id: u64,
    /// Whether that node is itself a member, as far as it knows.
    pub is_member: bool,
    /// Its term.
    pub term: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// What it knows to be committed.
    pub commit_index: u64,
    /// What the asker is in its table.
    pub asker: Recorded,
    /// On the leader: the last index that the asker has acknowledged to it.
    pub acknowledged: Option<u64>,
    /// The digest of its state at the index asked for, where it knows it.
    pub digest: Option<u64>,
    /// Whether its log has the entry asked for, and it knows that to be committed.
    pub entry_committed: bool,
}
