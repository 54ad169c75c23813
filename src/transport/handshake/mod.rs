//! The handshake: how two nodes identify themselves at the beginning of a connection.
//!
//! ```text
//!   TLS, where both have it (`trust::peer_tls`); then, on either kind of stream:
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
//! See also: `admission` (the rules), `authentication` (what certificates prove), `dial` and `listener` (the two sides).

pub(crate) mod authentication;
pub(crate) mod dial;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{BootHistory, BootId, IdentityConflict};

/// The first bytes of every connection, in both directions: no text protocol begins with such a byte.
pub const MAGIC: [u8; 8] = *b"\x89HUSKV\r\n";
/// The version of everything that follows the preamble, the encodings of `model` included.
pub const WIRE_VERSION: u16 = 2;

/// The purpose of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// Raft messages and forwarded requests, for as long as both ends run.
    Peer,
    /// One snapshot.
    Snapshot,
    /// One rpc: identify.
    Identify,
    /// One rpc: join offer.
    JoinOffer,
    /// One rpc: probe.
    Probe,
    /// One rpc: a node that forms a cluster asks a member to be joined.
    JoinRequest,
    /// One rpc: a member asks another for its report. A node of an earlier version closes the connection.
    Report,
    /// One rpc: a member asks another for its latest events, likewise.
    Events,
}

/// The identity of the dialler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The purpose.
    pub purpose: Purpose,
    /// Its cluster; 0 if it is still starting.
    pub cluster_id: u64,
    /// Its raft id, likewise.
    pub from: u64,
    /// The raft id it dials; 0 for rpcs.
    pub to: u64,
    /// Its name, for messages.
    pub node_id: String,
    /// Its peer address, `host:port`; empty if it is still starting.
    pub raft_address: String,
    /// Whether it differs from the address that its cluster has recorded.
    pub moved: bool,
    /// Its boot history, including the boot id that the acceptor last saw; empty for rpcs.
    pub boot_history: BootHistory,
    /// The last boot id of the acceptor that it has seen: it proves that this is a known peer, so the acceptor answers
    /// with its history.
    pub known: Option<BootId>,
}

/// The acceptor admits the dialler, and its identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Its cluster; 0 if it is still starting.
    pub cluster_id: u64,
    /// Its raft id, likewise.
    pub raft_id: u64,
    /// Its boot history, including the boot id that the dialler last saw; empty for rpcs.
    pub boot_history: BootHistory,
}

/// Why the acceptor refuses the dialler.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Denial {
    /// The acceptor is still starting.
    #[error("the node there is still starting")]
    Starting,
    /// The acceptor was removed from its cluster.
    #[error("the node there was removed from its cluster")]
    AcceptorRemoved,
    /// The acceptor belongs to another cluster.
    #[error("the node there belongs to another cluster ({cluster_id})")]
    OtherCluster {
        /// Its cluster.
        cluster_id: u64,
    },
    /// The dialler was removed from the cluster.
    #[error("raft id {raft_id} was removed from the cluster {cluster_id}")]
    Removed {
        /// The cluster.
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
    /// The dialler uses the acceptor's own raft id, or none.
    #[error("this node itself answers there, or a clone of it")]
    SelfDial,
    /// The dialler is not the recorded member.
    #[error("identity conflict: this node's {0}")]
    Conflict(IdentityConflict),
    /// The dialler is still connected at the recorded boot id and reports a newer one.
    #[error(
        "this node is still connected there as boot {0}: if that process has just ended, the conflict passes within 10 s; if \
         not, one of the two runs on a clone of the other's disk"
    )]
    Connected(BootId),
    /// The dialler reports another address than its cluster has recorded, without proof.
    #[error(
        "the member table there lists this node at {listed}; POST /raft/join on a member with this node's name and its new \
         address (or set cluster.follow_moves on every member)"
    )]
    Moved {
        /// Its address in the table.
        listed: String,
    },
    /// The dialler is in the table and reports no boot id.
    #[error("a member of the cluster must report its boot id")]
    NoBootId,
    /// The acceptor cannot record the dialler.
    #[error("the disk of the node there fails")]
    Disk,
    /// The dialler speaks plain, and the acceptor takes TLS only, or TLS only from this member.
    #[error(
        "the node there takes TLS only from this one: its tls.peer is on, or this node spoke TLS before; give this node its \
         certificate (tls.dir) and tls.peer = accept or on"
    )]
    TlsRequired,
    /// The dialler's certificate is valid, and of no node of the acceptor's cluster.
    #[error(
        "this node's certificate names no node of the cluster there (node.CLUSTER.huskv and NAME.CLUSTER.huskv); the log of the \
         node there has the names"
    )]
    NoNode,
    /// The dialler's certificate is that of another node than it says, or than the member table has under its raft id.
    #[error(
        "this node's certificate names another node than the one that it speaks for; the name in it, RAFT_NODE_ID and the name \
         in the member table must be the same"
    )]
    OtherNode,
    /// The dialler's certificate is good, and no member that the acceptor knows has told it of the dialler yet.
    #[error(
        "no member that the node there knows lists this node under its raft id and name; it may learn of it in a moment"
    )]
    Unlisted,
}

/// A peer that has sent its hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPeer {
    /// What it says.
    pub hello: Hello,
    /// Its name as its certificate proves it; None on a plain connection.
    pub certified: Option<String>,
}

/// Returns the preamble of a version.
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
