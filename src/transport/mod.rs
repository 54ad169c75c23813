//! Transport: connections between nodes.
//!
//! Why: raft needs messages between members, clients need their requests forwarded to the leader, and a join contacts nodes
//! outside the cluster. Networks break, and anything may connect to the port.
//!
//! ```text
//!   consensus loop --PeerOutbox--> queue per member --DialerLink--> TCP --> acceptor of the peer --> its loop
//!                 <-------------------- replies, pongs ------------------------'
//!   listener --> handshake --> acceptor (peer) | snapshot_stream | rpc (identify, join offer, probe, report)
//! ```
//!
//! One TCP connection leads from each member to each other. It carries raft messages and forwarded requests, those that must be
//! timely first (`link::send_queue`). Back come the replies, and messages of a node in whose table the dialler is not yet. Both
//! ends report every second which leader they follow. Snapshots and rpcs have connections of their own.
//!
//! Invariants: no peer is served before its handshake matches the last published [`PeerTable`](crate::model::PeerTable) and its
//! [`BootHistory`](crate::model::BootHistory) continues the recorded one, durably. Members of the table always get a connection
//! slot. Every queue, frame and wait is bounded, and so are all bytes in flight together. A broken connection loses only what
//! was on it: raft repeats messages, and requests are answered as unknown.
//!
//! See also: `consensus` (what a message means), [`crate::trust::peer_tls`] (who is at the other end). Without TLS nothing is encrypted,
//! and a peer is what it says it is.

mod admission;
mod backoff;
mod connection_slots;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handshake;
mod link;
mod listener;
mod memory_budget;
mod outbox;
mod rpc;
mod shared_state;
mod snapshot_stream;
mod socket;
#[cfg(test)]
mod tests;
mod wire;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

pub use admission::is_member;
pub use handshake::WIRE_VERSION;
use shared_state::Registry;
pub use socket::isolation;
use tokio::time::timeout;

use crate::consensus::{Handle, Outbox};
use crate::storage::Peers;
use crate::trust::peer_tls::PeerTls;

/// The usual [`Options::connection_age`].
pub const CONNECTION_AGE: Duration = Duration::from_hours(1);

/// The limit of a shutdown.
const STOP_LIMIT: Duration = Duration::from_millis(450);

/// The options of the transport.
#[derive(Debug, Clone)]
pub struct Options {
    /// The maximum open inbound connections, roughly: at most half before or outside of a handshake, a quarter under
    /// unlisted raft ids. Members always get a slot.
    pub max_inbound: usize,
    /// The maximum bytes of members' frames in flight; at least one frame of 32 MiB fits.
    pub member_bytes: usize,
    /// The maximum bytes of raft messages queued for one member.
    pub queue_bytes: usize,
    /// The maximum bytes a second of a snapshot stream that this node sends; 0: unbounded.
    pub snapshot_bytes_per_second: u64,
    /// TLS of the peer port; None for plain connections.
    pub tls: Option<Arc<PeerTls>>,
    /// How long a connection between members lives at most where there is TLS: then its certificates are verified anew.
    pub connection_age: Duration,
}

/// A started transport; dropped, its connections close.
pub struct Transport {
    registry: Arc<Registry>,
}

/// Starts the listener, and returns the outbox that dials members. `peers` holds the recorded boot ids. Tasks run on
/// the current tokio runtime. Before the loop publishes a table no member is dialled and peers are refused.
///
/// # Errors
/// If the listener cannot be used.
pub fn start(
    listener: TcpListener,
    handle: Handle,
    peers: Arc<Peers>,
    options: Options,
    log: slog::Logger,
) -> std::io::Result<(Transport, Box<dyn Outbox>)> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let registry = Arc::new(Registry::new(handle, peers, &options, log));
    registry.spawn(listener::accept(listener, Arc::clone(&registry), options.max_inbound));
    registry.handle.set_member_reports(Arc::new(rpc::member_reports::Questions::new(&registry)));
    let outbox = outbox::PeerOutbox::new(Arc::clone(&registry));
    Ok((Transport { registry }, Box::new(outbox)))
}

/// Asks members to join this node; cheap to clone.
#[derive(Clone)]
pub struct JoinRequester(Arc<Registry>);

impl JoinRequester {
    /// Asks the member at the peer address `address` to join this node as `name`, at `raft_address`, within 65 s.
    ///
    /// # Errors
    /// The refusal in words. The join may go on all the same.
    pub async fn request(&self, address: &str, name: &str, raft_address: &str) -> Result<(), String> {
        rpc::request_join(&self.0, address, name, raft_address).await.map_err(|refusal| refusal.detail)
    }
}

impl Transport {
    /// Asks for a join over the peer port.
    #[must_use]
    pub fn join_requester(&self) -> JoinRequester {
        JoinRequester(Arc::clone(&self.registry))
    }

    /// Stops accepting, sends what is queued if that is quick, and closes every connection; at most half a second.
    pub async fn stop(self) {
        self.registry.stop();
        // Remaining tasks end with the runtime.
        drop(timeout(STOP_LIMIT, self.registry.finished()).await);
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.registry.stop();
    }
}
