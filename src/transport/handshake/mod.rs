//! The handshake: how two nodes identify themselves at the beginning of a connection.
//!
//! ```text
//!   dialler  -> acceptor:  preamble (MAGIC, version u16 LE), Hello (purpose, cluster, from, to, boot history)
//!   acceptor -> dialler:   preamble, verdict: Welcome or Denial
//!   then frames as the Purpose defines
//! ```
//!
//! Why: anything may connect to a port, and an address may belong to another node by now. So both ends first exchange protocol,
//! version and identity.
//!
//! If a member appears with two boot histories that cannot come from one disk ([`IdentityConflict`]), neither end serves the wrong
//! one: the acceptor checks before its verdict, the dialler before it uses the connection.
//!
//! Invariants: the preamble stays parseable for ever, so that any two versions can report each other's version.
//!
//! See also: `admission` (the rules), `dial` and `listener` (the two sides).

pub(crate) mod admission;
pub(crate) mod dial;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{BootHistory, BootId, IdentityConflict};

/// The first bytes of every connection, in both directions: no text protocol begins with such a byte.
pub const MAGIC: [u8; 8] = *b"\x89HUSKV\r\n";
/// The version of everything that follows the preamble, the encodings of `model` included.
pub const WIRE_VERSION: u16 = 2;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Raft messages and forwarded requests, for as long as both live.
    Peer,
    /// One copy of the machine.
    Snapshot,
    /// One question: who are you?
    Identify,
    /// One question: will you be one of us?
    JoinOffer,
    /// One question: what do you know of me?
    Probe,
}

/// How the dialler introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it wants.
    pub purpose: Purpose,
    /// Its cluster; 0 where it does not know yet.
    pub cluster_id: u64,
    /// Its raft id, likewise.
    pub from: u64,
    /// The raft id that it expects to reach; 0 for strangers.
    pub to: u64,
    /// Its name, for messages.
    pub node_id: String,
    /// Where its peers are to dial it, `host:port`; empty where it does not know yet.
    pub raft_address: String,
    /// Whether that is another address than the one that its cluster has recorded for it.
    pub moved: bool,
    /// Its lives, and the one that the acceptor has heard last; none for strangers.
    pub boot_history: BootHistory,
    /// The life that it has spoken to the acceptor in last: whoever knows it is told those since.
    pub known: Option<BootId>,
}

/// The acceptor's good word, and who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its cluster; 0 where it does not know yet.
    pub cluster_id: u64,
    /// Its raft id, likewise.
    pub raft_id: u64,
    /// Its lives, and the one that the dialler has heard last; none for strangers.
    pub boot_history: BootHistory,
}

/// Why the acceptor will not have the dialler.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Denial {
    /// The acceptor has not started completely.
    #[error("the node there is still starting")]
    Starting,
    /// The acceptor was itself removed from its cluster.
    #[error("the node there was removed from its cluster")]
    AcceptorRemoved,
    /// The acceptor belongs to another cluster.
    #[error("the node there belongs to another cluster ({cluster_id})")]
    OtherCluster {
        /// Which.
        cluster_id: u64,
    },
    /// The dialler was removed from the cluster.
    #[error("raft id {raft_id} was removed from the cluster {cluster_id}")]
    Removed {
        /// Which cluster says so.
        cluster_id: u64,
        /// The dialler's raft id.
        raft_id: u64,
    },
    /// The acceptor has another raft id than the one dialled.
    #[error("another node answers there (raft id {raft_id})")]
    WrongNode {
        /// The acceptor's raft id.
        raft_id: u64,
    },
    /// The dialler claims the acceptor's own raft id, or none.
    #[error("what answers there is this node itself, or a copy of it")]
    SelfDial,
    /// The dialler is not the member that the acceptor has spoken to before.
    #[error("identity conflict: this node's {0}")]
    Conflict(IdentityConflict),
    /// The dialler is connected in the life that is known, and says that it has begun another one.
    #[error(
        "this node is connected there in its life {0}: where that has just ended, this passes within 10 s; where it has \
         not, one of the two is a copy of the other's disk"
    )]
    Connected(BootId),
    /// The dialler has another address than its cluster has recorded, and has only its own word for that.
    #[error(
        "the member table there has this node at {listed}; POST /raft/join on a member with this node's name and its new \
         address (or set cluster.follow_moves on every member)"
    )]
    Moved {
        /// Where the table has it.
        listed: String,
    },
    /// The dialler is in the table and names no life.
    #[error("a member of the cluster says in which life it is")]
    NoBootId,
    /// The acceptor cannot write down whom it speaks to.
    #[error("the disk of the node there fails")]
    Disk,
}

/// The preamble of a version.
#[must_use]
pub fn preamble(version: u16) -> [u8; MAGIC.len() + 2] {
    let mut bytes = [0; MAGIC.len() + 2];
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[MAGIC.len()..].copy_from_slice(&version.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preamble_has_these_bytes() {
        assert_eq!(preamble(1), *b"\x89HUSKV\r\n\x01\x00");
        assert_eq!(preamble(0x0203)[8..], [3, 2]);
    }
}
