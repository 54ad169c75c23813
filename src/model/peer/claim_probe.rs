//! Probes of claims between voters, and state digests.
//!
//! Why: some messages would end a node if they were true: that it was removed, that its log is lost, that its state
//! diverges. Before a node believes one it probes the other voters. A node without a leader probes whether an entry of its
//! log is committed.
//!
//! Invariants: all of these are encoded by [`crate::model::codec`], so any change of them is a new wire version.
//!
//! See also: `consensus::claim_verification` (how replies are evaluated).

use serde::{Deserialize, Serialize};

/// The digest of a state at an applied index: equal on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDigest {
    /// The term of the leader that sends it.
    pub term: u64,
    /// The applied index.
    pub index: u64,
    /// The digest.
    pub digest: u64,
}

/// A question to another voter: its record of the sender, and its digest or entry at an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The cluster of the sender.
    pub cluster_id: u64,
    /// Its raft id.
    pub raft_id: u64,
    /// An applied index and the digest there.
    pub digest: Option<(u64, u64)>,
    /// Index and term of an entry of its log.
    pub entry: Option<(u64, u64)>,
}

/// The record of a node in the member table of another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recorded {
    /// A member.
    Member,
    /// A member that was removed.
    Tombstone,
    /// Neither.
    Unknown,
}

/// The answer to a [`Probe`] of the same cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// The raft id of the responder.
    pub raft_id: u64,
    /// Whether the responder is a member, as far as it knows.
    pub is_member: bool,
    /// Its term.
    pub term: u64,
    /// The last index of its log.
    pub last_index: u64,
    /// Its commit index.
    pub commit_index: u64,
    /// The record of the sender.
    pub asker: Recorded,
    /// On the leader: the match index of the sender.
    pub acknowledged: Option<u64>,
    /// Its digest at the requested index, if known.
    pub digest: Option<u64>,
    /// Whether its log has the requested entry, committed.
    pub entry_committed: bool,
}
