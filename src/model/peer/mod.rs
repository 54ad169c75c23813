//! Messages between nodes besides raft's own: forwarded requests, identification, join offers.
//!
//! Invariants: all of these are encoded by [`crate::model::codec`], so any change of them is a new wire version.
//!
//! See also: `transport` (frames, handshake, connections).

pub(crate) mod claim_probe;
pub(crate) mod event_report;
pub(crate) mod node_report;

use serde::{Deserialize, Serialize};

use super::boot_id::{BootHistory, BootId};
use super::command::write_request::{Write, Written};

/// A client request that the leader executes; any node accepts and forwards it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Propose a write.
    Write(Write),
    /// Make the node at this address a voter under this name (Raft thesis, section 4.2).
    Join {
        /// Its new name.
        node_id: String,
        /// The address to dial, `host:port`.
        raft_address: String,
        /// Whether a standalone node may drop its own data.
        force: bool,
    },
    /// Remove a member.
    Remove {
        /// Its name.
        node_id: String,
    },
    /// Transfer leadership to this member, or to the most caught-up live voter (Raft thesis, section 3.10).
    Transfer {
        /// Its name.
        node_id: Option<String>,
    },
    /// A member reports new addresses; the leader verifies them by a dial.
    Move {
        /// The raft id of the member.
        raft_id: u64,
        /// Where its peers are to dial it, `host:port`.
        raft_address: String,
        /// Where its clients find it, `host:port`.
        http_address: String,
    },
}

/// The result of a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The write was applied.
    Written(Written),
    /// The member table has the requested state.
    Members {
        /// The index at which this was so; the receiving node answers after it has applied this index.
        index: u64,
        /// Whether anything was changed.
        changed: bool,
        /// A warning for the client, such as a name that differs from the process's.
        warning: Option<String>,
        /// The data that a forced joiner dropped.
        dropped: Option<String>,
    },
    /// Leadership was transferred to this member.
    Transferred {
        /// Its name.
        node_id: String,
    },
}

/// The membership state of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Alone and without data: it can join any cluster.
    Pristine,
    /// Alone, with data of its own.
    Standalone,
    /// Joining a cluster, no snapshot received yet.
    Joining,
    /// One of several members.
    Member,
    /// Removed from its cluster.
    Removed,
}

/// The answer to identify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// Its name.
    pub node_id: String,
    /// The raft id of its present incarnation.
    pub raft_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// Where its clients find it, `host:port`.
    pub http_address: String,
    /// Its membership state.
    pub kind: NodeKind,
    /// Its unanswered join offers ([`JoinOffer::offer`]).
    pub offers: Vec<u64>,
    /// Its advertised peer address, `host:port`.
    pub raft_address: String,
    /// Whether it differs from the address recorded by its cluster.
    pub moved: bool,
}

/// An offer of a leader to a node to join its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinOffer {
    /// The leader's cluster.
    pub cluster_id: u64,
    /// The leader's raft id; the joiner dials `leader_address` and expects this id and cluster there.
    pub leader_id: u64,
    /// The leader's number of this offer. The node at `leader_address` must confirm it: the address of a leader that
    /// made no offer proves nothing.
    pub offer: u64,
    /// The leader's name, for messages.
    pub leader_name: String,
    /// The leader's peer address, `host:port`.
    pub leader_address: String,
    /// The new name of the joiner.
    pub node_id: String,
    /// The address at which the leader dialled the joiner, `host:port`.
    pub raft_address: String,
    /// Whether a standalone joiner may drop its data.
    pub force: bool,
    /// Whether this is a dry run: the joiner performs all checks, the dial of the leader included, and changes nothing.
    pub prepare: bool,
    /// The tombstones of the cluster. A joiner of the same cluster whose id is among them needs a new id; they do not
    /// decide whether it may drop its data.
    pub tombstones: Vec<u64>,
}

/// The answer of a joiner: it has durably switched to a new incarnation and keeps the old one until the first snapshot;
/// or, in a dry run, it would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAccepted {
    /// The raft id of its new incarnation.
    pub raft_id: u64,
    /// The name its process was started with.
    pub started_as: String,
    /// Where its clients find it, `host:port`.
    pub http_address: String,
    /// The data it dropped, if any.
    pub dropped: Option<String>,
}

/// The published table: what the transport needs to dial and to admit peers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTable {
    /// This node's name.
    pub node_id: String,
    /// The raft id of this node's present incarnation.
    pub raft_id: u64,
    /// This node's cluster.
    pub cluster_id: u64,
    /// The advertised peer address of this node, `host:port`.
    pub raft_address: String,
    /// The other members: raft id, name and address.
    pub peers: Vec<(u64, String, String)>,
    /// The tombstones.
    pub tombstones: Vec<u64>,
    /// Whether this node was removed: it dials no peer then.
    pub removed: bool,
    /// Whether this node joins a cluster, whose table it does not have yet.
    pub joining: bool,
    /// The boot history of this node.
    pub boot_history: BootHistory,
    /// Whether it differs from the address recorded by the cluster.
    pub moved: bool,
    /// Whether self-reported addresses of members are used (`cluster.follow_moves`).
    pub follow_moves: bool,
}

impl PeerTable {
    /// Whether this raft id is another member.
    #[must_use]
    pub fn lists(&self, raft_id: u64) -> bool {
        self.peers.iter().any(|(listed, ..)| *listed == raft_id)
    }

    /// The name of another member.
    #[must_use]
    pub fn name_of(&self, raft_id: u64) -> Option<&String> {
        self.peers.iter().find_map(|(listed, name, _)| (*listed == raft_id).then_some(name))
    }

    /// Returns the boot history for the peer `raft_id`, which last saw the boot id `heard`. Knowing a boot id allows to
    /// claim a history that continues it, so only members get it; and, since the table of a restarted node may be old,
    /// peers that have `shown` that they know one.
    #[must_use]
    pub fn boot_history_for(&self, raft_id: u64, heard: Option<BootId>, shown: Option<BootId>) -> BootHistory {
        // A process that knows the history could claim to continue it, and take this node's place. So it goes only to
        // listed members, and to a peer that has named one of its boot ids: a node that was off for long may not list a
        // member that joined meanwhile.
        let boot_history = self.boot_history.clone().including(heard);
        let knows = shown.is_some_and(|shown| boot_history.continues(Some(shown)).is_ok());
        if self.lists(raft_id) || knows { boot_history } else { BootHistory::default() }
    }

    /// Returns the listed address of a member that reports to have `moved`, if the move is unconfirmed: a clone of its
    /// disk would report the same.
    #[must_use]
    pub fn unconfirmed_move(&self, raft_id: u64, moved: bool, raft_address: &str) -> Option<&str> {
        let (_, _, listed) = self.peers.iter().find(|(listed, ..)| *listed == raft_id)?;
        // Example: `a` is listed at x:1 and reports y:1. It is `a` on a new host, or a clone beside it; only an operator,
        // or the setting `cluster.follow_moves`, can say which.
        (moved && !self.follow_moves && listed != raft_address).then_some(listed)
    }
}
