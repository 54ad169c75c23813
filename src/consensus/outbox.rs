//! The outbox: what the loop sends to other nodes.
//!
//! Why: the loop opens no socket. The transport implements this trait, and the simulated network in tests.
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
    /// Forwards a client's request to the member `to`, which leads or, as a [`Hop::Relay`], reaches the leader; ends in
    /// exactly one [`crate::consensus::Input::Forwarded`] with this token, at the latest `timeout_ms` later:
    /// `not_applied` if the request certainly was not sent, `unknown` if the connection broke or the time ran out after
    /// it was.
    fn forward(&mut self, token: u64, to: u64, hop: Hop, request: Request, timeout_ms: u64);
    /// Asks the node at `address` for its identity; ends in one [`crate::consensus::Input::Identified`], within 3 s.
    fn identify(&mut self, token: u64, address: &str);
    /// Offers the node at `address` to join; ends in one [`crate::consensus::Input::JoinOfferAnswered`], within 6 s.
    fn offer_join(&mut self, token: u64, address: &str, offer: JoinOffer);
    /// Probes the node at `address`; ends in one [`crate::consensus::Input::Probed`], within 3 s.
    fn probe(&mut self, token: u64, address: &str, probe: Probe);
    /// Sends a member the digest of this leader's state; may be lost.
    fn tell_digest(&mut self, to: u64, told: StateDigest);
    /// Sends a member this node's free disk space; may be lost.
    fn tell_space(&mut self, to: u64, space: DiskSpace);
    /// Notifies the node at `address` that the join is over for which it took this raft id in this cluster; may be
    /// lost.
    fn end_join(&mut self, address: &str, cluster_id: u64, raft_id: u64);
    /// Notifies a former member, on the open connection, that its raft id was removed.
    fn tell_removed(&mut self, raft_id: u64);
    /// Streams a snapshot to the member `to` over a connection of its own; ends in one
    /// [`crate::consensus::Input::StreamEnded`].
    fn stream(&mut self, to: u64, message: Message, reader: SnapshotReader);
    /// Publishes the identity of this node and its peers; called when they change, and once at the start.
    fn publish(&mut self, table: PeerTable);
}
