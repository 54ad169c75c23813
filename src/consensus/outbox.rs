//! The loop's way out to other nodes.
//!
//! Why: the loop opens no socket; what it wants sent goes through this seam, to the transport in life and to the
//! simulated network in tests.
//!
//! Invariants: no method blocks or calls back; answers come as [`crate::consensus::Input`]s. Messages may be lost (raft
//! allows that), requests may not: each token is answered exactly once, whatever happens to the connection.
//!
//! See also: sockets, frames, backoff (`transport`).

use raft::eraftpb::Message;

use super::input::Hop;
use crate::model::{DiskSpace, JoinOffer, PeerTable, Probe, Request, StateDigest};
use crate::storage::SnapshotReader;

/// What the loop sends; implemented by the transport.
pub trait Outbox: Send {
    /// Sends raft messages to members; each may be lost. Appends to one member keep their order; messages without entries
    /// may overtake them.
    fn send(&mut self, messages: Vec<Message>);
    /// Sends a client's request on to the member `to`, which leads or, as a [`Hop::Relay`], reaches the leader; ends in
    /// exactly one [`crate::consensus::Input::Forwarded`] with this token, at the latest `timeout_ms` later:
    /// `not_applied` where the request certainly never left, `unknown` where the connection broke or the time ran out
    /// after it had.
    fn forward(&mut self, token: u64, to: u64, hop: Hop, request: Request, timeout_ms: u64);
    /// Asks the node at `address` who it is; ends in one [`crate::consensus::Input::Identified`], within 3 s.
    fn identify(&mut self, token: u64, address: &str);
    /// Asks the node at `address` to be adopted; ends in one [`crate::consensus::Input::AdoptAnswered`], within 6 s.
    fn adopt(&mut self, token: u64, address: &str, adopt: JoinOffer);
    /// Asks the node at `address` what it knows of this node; ends in one [`crate::consensus::Input::Probed`],
    /// within 3 s.
    fn probe(&mut self, token: u64, address: &str, probe: Probe);
    /// Tells a member the digest of this leader's state; it may be lost.
    fn tell_digest(&mut self, to: u64, told: StateDigest);
    /// Tells a member what is left of this node's disk; it may be lost.
    fn tell_space(&mut self, to: u64, space: DiskSpace);
    /// Tells the node at `address` that the join is over for which it took this raft id in this cluster; may be lost.
    fn end_join(&mut self, address: &str, cluster_id: u64, raft_id: u64);
    /// Tells a former member, on the connection that is open, that its id was removed.
    fn tell_removed(&mut self, raft_id: u64);
    /// Streams a snapshot to the member `to` over a connection of its own; ends in one
    /// [`crate::consensus::Input::StreamEnded`].
    fn stream(&mut self, to: u64, message: Message, reader: SnapshotReader);
    /// Publishes who this node is and who its peers are; called when that changes, and once at the start.
    fn publish(&mut self, table: PeerTable);
}
