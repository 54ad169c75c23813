//! Messages between nodes besides raft's own: forwarded requests, identification, join offers.
//!
//! Invariants: all of these are encoded by [`crate::model::codec`], so any change of them is a new wire version.
//!
//! See also: `transport` (frames, handshake, connections).

pub(crate) mod probe;

use serde::{Deserialize, Serialize};

use super::boot_id::{BootHistory, BootId};
use super::command::write::{Write, Written};

/// What any node takes from a client and the leader carries out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Propose this command.
    Write(Write),
    /// Make the node at this address a voter under this name (Raft thesis 4.2).
    Join {
        /// The name it is to have.
        node_id: String,
        /// Where the leader is to dial it, `host:port`.
        raft_address: String,
        /// Whether a standalone node may give up data of its own.
        force: bool,
    },
    /// Take the member of this name out of the cluster.
    Remove {
        /// Its name.
        node_id: String,
    },
    /// Hand leadership to the member of this name, or to the most caught-up live voter (Raft thesis 3.10).
    Transfer {
        /// Its name.
        node_id: Option<String>,
    },
    /// A member says where it is now; the leader dials the address before it believes it.
    Move {
        /// Who says so.
        raft_id: u64,
        /// Where its peers are to dial it, `host:port`.
        raft_address: String,
        /// Where its clients find it, `host:port`.
        http_address: String,
    },
}

/// What came of a [`Request`] that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The command was applied.
    Written(Written),
    /// The member table is as asked.
    Members {
        /// The index at which that was so; the node that was asked answers once it has applied this much.
        index: u64,
        /// Whether anything had to be changed.
        changed: bool,
        /// Something the caller should know, such as another name than the process was started with.
        warning: Option<String>,
        /// What a joiner that was forced gave up.
        dropped: Option<String>,
    },
    /// Leadership is with this member.
    Transferred {
        /// Its name.
        node_id: String,
    },
}

/// What a node is to its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Alone, and nobody ever stored anything in it: it can be taken by a cluster.
    Pristine,
    /// Alone, with data of its own.
    Standalone,
    /// Taken by a cluster from which nothing has arrived yet.
    Joining,
    /// One of several members.
    Member,
    /// Removed from its cluster.
    Removed,
}

/// What a node says of itself to whoever dials it.
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
    /// What it is to that cluster.
    pub kind: NodeKind,
    /// The offers to adopt that it has made and that are not answered yet ([`JoinOffer::offer`]).
    pub offers: Vec<u64>,
    /// Where it tells its peers to dial it, `host:port`.
    pub raft_address: String,
    /// Whether that is another address than the one that its cluster has recorded for it.
    pub moved: bool,
}

/// A leader asks a node to become part of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinOffer {
    /// The leader's cluster.
    pub cluster_id: u64,
    /// The leader's raft id; the joiner dials `leader_address` and expects exactly this id and cluster there.
    pub leader_id: u64,
    /// The leader's number for this offer. Whoever is dialled must know of it: the address of a leader that made no offer
    /// proves nothing.
    pub offer: u64,
    /// The leader's name, for messages.
    pub leader_name: String,
    /// Where the leader's peers dial it, `host:port`.
    pub leader_address: String,
    /// The name that the joiner is to have.
    pub node_id: String,
    /// The address at which the leader dialled the joiner, `host:port`.
    pub raft_address: String,
    /// Whether a standalone joiner may give up its data.
    pub force: bool,
    /// Whether this is only the question: the joiner checks all that it would check, the way to the leader included, and
    /// stays what it is.
    pub prepare: bool,
    /// The removed raft ids of the cluster that are kept. A joiner of that cluster whose id is among them needs a new one;
    /// whether it may give up what it has, they do not tell.
    pub tombstones: Vec<u64>,
}

/// The joiner's answer to [`JoinOffer`]: it is another one now, durably, and keeps what it was until the cluster's state has
/// arrived; or, where it was only asked, it would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAccepted {
    /// The raft id of its new, empty incarnation.
    pub raft_id: u64,
    /// The name that its process was started with.
    pub started_as: String,
    /// Where its clients find it, `host:port`.
    pub http_address: String,
    /// What it gave up, if anything.
    pub dropped: Option<String>,
}

/// What the transport must know to dial peers and to check who dials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTable {
    /// This node's name.
    pub node_id: String,
    /// The raft id of this node's present incarnation.
    pub raft_id: u64,
    /// This node's cluster.
    pub cluster_id: u64,
    /// Where this node tells its peers to dial it, `host:port`.
    pub raft_address: String,
    /// The other members: raft id, name and the address the table has for them.
    pub peers: Vec<(u64, String, String)>,
    /// The raft ids that were removed from the cluster.
    pub tombstones: Vec<u64>,
    /// Whether this node was removed itself: it dials nobody then.
    pub removed: bool,
    /// The lives of this node.
    pub boot_history: BootHistory,
    /// Whether this node has another raft address than the one that its cluster has recorded for it.
    pub moved: bool,
    /// Whether members are followed to where they say they are now.
    pub follow_moves: bool,
}

impl PeerTable {
    /// Whether this raft id is that of another member.
    #[must_use]
    pub fn lists(&self, raft_id: u64) -> bool {
        self.peers.iter().any(|(listed, ..)| *listed == raft_id)
    }

    /// The lives of this node as the peer `raft_id` is told them, which has `heard` this one last. Whoever knows a life can
    /// say that another one follows from it, so only members are told; and, since the table of a node that was started
    /// again may be older than it was, whoever has `shown` that it knows one.
    #[must_use]
    pub fn boot_history_for(&self, raft_id: u64, heard: Option<BootId>, shown: Option<BootId>) -> BootHistory {
        let boot_history = self.boot_history.clone().including(heard);
        let knows = shown.is_some_and(|shown| boot_history.continues(Some(shown)).is_ok());
        if self.lists(raft_id) || knows { boot_history } else { BootHistory::default() }
    }

    /// The address in the table of a member that says to have `moved` to `raft_address`, where nothing but its own word is
    /// known of that: so speaks a copy of its disk too.
    #[must_use]
    pub fn unconfirmed_move(&self, raft_id: u64, moved: bool, raft_address: &str) -> Option<&str> {
        let (_, _, listed) = self.peers.iter().find(|(listed, ..)| *listed == raft_id)?;
        (moved && !self.follow_moves && listed != raft_address).then_some(listed)
    }
}
