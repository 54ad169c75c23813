//! Refusals: the error of a request, with a stable code and the outcome of the write.
//!
//! Why: a client must learn what happened, whether the write may still take effect, and what to do. A refusal travels unchanged
//! from the leader over the forwarding node to the client.
//!
//! Invariants: a [`Code`] is stable. [`Outcome::NotApplied`] is only used if it is certain.
//!
//! See also: `http::response::problem` (HTTP statuses).

use serde::{Deserialize, Serialize};

/// The outcome of a failed write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It has no effect and never will.
    NotApplied,
    /// It may have taken effect, or may yet.
    Unknown,
}

/// The leader, for clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its name.
    pub node_id: String,
    /// Its client address, `host:port`.
    pub http_address: String,
}

/// The stable code of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// No leader took the request before its deadline.
    NoLeader,
    /// A linearizable read could not be confirmed before its deadline.
    NoQuorum,
    /// Proposed, or sent on to a leader, and not decided before the deadline.
    Timeout,
    /// Too many requests wait already.
    Overloaded,
    /// The node is shutting down.
    Stopping,
    /// The node belongs to no cluster yet.
    Joining,
    /// The node was removed from its cluster.
    Removed,
    /// The node received a claim that would end it, and probes the other voters.
    Verifying,
    /// Another live member has this name.
    NameInUse,
    /// The address is that of a member with another name.
    AddressInUse,
    /// The node to be joined holds data of its own.
    HasData,
    /// The node to be joined belongs to another cluster.
    OtherCluster,
    /// The node to be joined is joining somewhere, or leads a join itself.
    JoinInProgress,
    /// The node to be joined speaks another version of the wire.
    VersionMismatch,
    /// The join went on past its deadline; the same request resumes it.
    JoinUnfinished,
    /// The node to be joined is the leader itself, under another name or address.
    JoinSelf,
    /// Nothing that speaks huskv answers at the address.
    Unreachable,
    /// The joiner cannot reach the leader at the address that the leader advertises.
    LeaderUnreachable,
    /// The change would leave too few live voters to commit anything.
    QuorumLoss,
    /// The last voter cannot be removed.
    LastVoter,
    /// No member has this name.
    UnknownMember,
    /// The member named is not a live voter, so it cannot lead.
    NotAVoter,
    /// Leadership did not move in time.
    TransferFailed,
    /// The last contact with a leader is longer ago than a stale read allows.
    TooStale,
    /// The request as such cannot be done; the detail says why.
    BadRequest,
    /// The key is invalid.
    BadKey,
    /// The value, or the request, is over its limit.
    TooLarge,
    /// The node has not applied what a linearizable read has to show, and will not have soon.
    Lagging,
    /// The node has not begun to serve yet.
    Starting,
    /// A disk is nearly full, and what was asked would need space on it.
    DiskNearlyFull,
    /// Between two nodes one refuses the other's certificate, or has none.
    TlsRefused,
}

impl Code {
    /// Returns the code as in `"code": "no_leader"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoLeader => "no_leader",
            Self::NoQuorum => "no_quorum",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::Stopping => "stopping",
            Self::Joining => "joining",
            Self::Removed => "removed",
            Self::Verifying => "verifying",
            Self::NameInUse => "name_in_use",
            Self::AddressInUse => "address_in_use",
            Self::HasData => "has_data",
            Self::OtherCluster => "other_cluster",
            Self::JoinInProgress => "join_in_progress",
            Self::VersionMismatch => "version_mismatch",
            Self::JoinUnfinished => "join_unfinished",
            Self::JoinSelf => "join_self",
            Self::Unreachable => "unreachable",
            Self::LeaderUnreachable => "leader_unreachable",
            Self::QuorumLoss => "quorum_loss",
            Self::LastVoter => "last_voter",
            Self::UnknownMember => "unknown_member",
            Self::NotAVoter => "not_a_voter",
            Self::TransferFailed => "transfer_failed",
            Self::TooStale => "too_stale",
            Self::BadRequest => "bad_request",
            Self::BadKey => "bad_key",
            Self::TooLarge => "too_large",
            Self::Lagging => "lagging",
            Self::Starting => "starting",
            Self::DiskNearlyFull => "disk_nearly_full",
            Self::TlsRefused => "tls_refused",
        }
    }
}

/// A refused request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The code.
    pub code: Code,
    /// What happened and what to do, for humans.
    pub detail: String,
    /// Whether the write may take effect all the same; meaningless for a read.
    pub outcome: Outcome,
    /// The leader, if known.
    pub leader: Option<Leader>,
}

impl Refusal {
    /// Returns a refusal of a request without effect.
    pub fn not_applied(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), outcome: Outcome::NotApplied, leader: None }
    }

    /// Returns a refusal of a write that may still take effect.
    pub fn unknown(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), outcome: Outcome::Unknown, leader: None }
    }
}
