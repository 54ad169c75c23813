//! The peer port: accepts connections and completes the handshake.
//!
//! Why: anything can connect: members, joiners, a browser, a port scan.
//!
//! Invariants: `connection_slots` limits connections. A peer has [`HANDSHAKE_LIMIT`] to identify itself, TLS included, in a task of its own. A connection that is not
//! huskv is closed at its first wrong byte, with rate-limited log lines. Another wire version is answered with this version's
//! preamble, which every version can read.
//!
//! See also: `accepted_connection`, `snapshot_stream`, `rpc` (what follows), `admission` (the rules).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::admission::check_hello;
use super::connection_slots::{ConnectionSlot, ConnectionSlots};
use super::handshake::{Denial, Hello, InboundPeer, MAGIC, Purpose, WIRE_VERSION, Welcome, preamble};
use super::link::accepted_connection;
use super::link::dialed_connection::DRAIN_LIMIT;
use super::shared_state::Registry;
use super::socket::{self, PeerStream};
use super::wire::frame_limits;
use super::wire::framing::{Preamble, close_gracefully, read_frame, read_preamble};
use super::wire::{Frame, HANDSHAKE_BYTES, WireError};
use super::{rpc, snapshot_stream};
use crate::model::{BootHistory, PeerTable};
use crate::trust::Mode;
use crate::trust::acceptor::HANDSHAKE_RECORD;
use crate::trust::peer_identity::PeerIdentity;
use crate::trust::refusal::Refusal;

/// The limit of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// How long a refused connection may take to close.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
/// The pause after a failed accept, as when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts about `max_inbound` connections at once, until the transport stops.
pub async fn accept(listener: TcpListener, registry: Arc<Registry>, max_inbound: usize) {
    let slots = ConnectionSlots::new(max_inbound);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = registry.stopped() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                registry.warn_limited("a connection to the peer port cannot be accepted", "", &error.to_string());
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The slot is taken before a byte is read: a connection counts from its accept on.
        let (slot, evicted_other) = slots.acquire(from.ip());
        let inbound = Inbound { registry: Arc::clone(&registry), from };
        inbound.log_eviction(evicted_other);
        registry.spawn(async move {
            tokio::select! {
                () = Box::pin(inbound.receive(stream, &slot)) => {}
                () = slot.evicted() => {}
                // Members get a moment to receive what is queued.
                () = async { inbound.registry.stopped().await; sleep(DRAIN_LIMIT).await } => {}
            }
        });
    }
}

/// Whether connections for this are those of members, which identify themselves by their boot history.
fn is_of_members(purpose: Purpose) -> bool {
    matches!(purpose, Purpose::Peer | Purpose::Snapshot | Purpose::Report | Purpose::Events)
}

/// An inbound connection.
struct Inbound {
    registry: Arc<Registry>,
    from: SocketAddr,
}

impl Inbound {
    /// Serves the connection to its end.
    async fn receive(&self, stream: TcpStream, slot: &ConnectionSlot) {
        drop(socket::prepare(&stream));
        let handshakes = async {
            let (mut stream, identity) = self.secure(stream).await?;
            let (peer, welcome) = self.handshake(&mut stream, identity, slot).await?;
            Some((stream, peer, welcome))
        };
        let (stream, peer, welcome) = match timeout(HANDSHAKE_LIMIT, handshakes).await {
            Ok(Some(accepted_peer)) => accepted_peer,
            Ok(None) => return,
            Err(_) => return self.warn_limited("not huskv", "the handshake timed out"),
        };
        let (registry, who) = (&self.registry, self.describe(&peer.hello));
        match peer.hello.purpose {
            Purpose::Peer => accepted_connection::serve(registry, stream, &peer, welcome, &who).await,
            Purpose::Snapshot => snapshot_stream::receive(registry, stream, &peer, welcome, &who).await,
            Purpose::Identify => rpc::answer_identify(registry, stream).await,
            Purpose::JoinOffer => rpc::answer_join_offer(registry, &who, peer.certified.as_deref(), stream).await,
            Purpose::Probe => rpc::answer_probe(registry, &who, stream).await,
            Purpose::JoinRequest => rpc::answer_join_request(registry, &who, peer.certified.as_deref(), stream).await,
            Purpose::Report => rpc::member_reports::answer(registry, stream).await,
            Purpose::Events => rpc::member_reports::answer_events(registry, stream).await,
        }
    }

    /// Makes the TLS handshake where the first byte begins one; None if the connection was refused. The identity is that of
    /// the peer's certificate, or why that names no node; None on a plain connection.
    async fn secure(&self, stream: TcpStream) -> Option<(PeerStream, Option<Result<PeerIdentity, Refusal>>)> {
        let Some(tls) = self.registry.authentication.tls.clone() else {
            return Some((PeerStream::Plain(stream), None));
        };
        let mut first = [0];
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return None;
        }
        if first[0] != HANDSHAKE_RECORD {
            // A plain huskv is told so after its hello, see `Registry::authenticate`.
            if tls.mode() == Mode::On && first[0] != MAGIC[0] {
                tls.log_refusal(&Refusal::not_tls(first[0]), &self.registry.log, &self.from);
                return None;
            }
            return Some((PeerStream::Plain(stream), None));
        }
        match tls.accept(stream).await {
            Ok(((stream, certificate), identity)) => {
                Some((PeerStream::Tls(Box::new(stream), certificate), Some(identity)))
            }
            Err((refusal, mut stream)) => {
                tls.log_refusal(&refusal, &self.registry.log, &self.from);
                // With TLS 1.3 the peer may have sent its hello already: closing over it would lose the alert.
                close_gracefully(&mut stream, HANDSHAKE_BYTES, CLOSE_LIMIT).await;
                None
            }
        }
    }

    /// The acceptor's side of the handshake; None if the connection was refused.
    async fn handshake(
        &self,
        stream: &mut PeerStream,
        identity: Option<Result<PeerIdentity, Refusal>>,
        slot: &ConnectionSlot,
    ) -> Option<(InboundPeer, Welcome)> {
        let hello = self.read_hello(stream).await?;
        let (peer, admitted) = self.admit(hello, identity).await;
        let hello = &peer.hello;
        let verdict = admitted.map(|()| {
            let is_rpc = !is_of_members(hello.purpose);
            let table = self.registry.table();
            let of = |field: fn(&PeerTable) -> u64| table.as_deref().map_or(0, field);
            Welcome {
                cluster_id: of(|table| table.cluster_id),
                raft_id: of(|table| table.raft_id),
                boot_history: if is_rpc {
                    BootHistory::default()
                } else {
                    self.registry.boot_history(hello.from, hello.known)
                },
            }
        });
        // A refused peer does not get the recorded random number: with it, it could claim the boot id.
        let reported = verdict.clone().map_err(|denial| match denial {
            Denial::Conflict(conflict) => Denial::Conflict(conflict.redacted()),
            denial => denial,
        });
        let bytes = [&preamble(WIRE_VERSION)[..], &Frame::Verdict(reported).encode().ok()?].concat();
        match verdict {
            Ok(welcome) => {
                if is_of_members(hello.purpose) {
                    self.log_eviction(
                        slot.assign(hello.from, hello.purpose, |raft_id| self.registry.is_listed(raft_id)),
                    );
                }
                stream.write_all(&bytes).await.ok()?;
                stream.flush().await.ok()?;
                Some((peer, welcome))
            }
            Err(denial) => {
                self.refuse(&peer, &denial).await;
                self.close_after(stream, &bytes).await;
                None
            }
        }
    }

    /// Reads what the dialler says of itself; None if that was refused.
    async fn read_hello(&self, stream: &mut PeerStream) -> Option<Hello> {
        // Step 1: the preamble. Another protocol is closed at its first wrong byte; another version gets ours, so that it can
        // report both numbers.
        match read_preamble(stream).await {
            Ok(Preamble::Huskv(WIRE_VERSION)) => {}
            Ok(Preamble::Huskv(version)) => {
                let detail = format!("it speaks {version}, this node speaks {WIRE_VERSION}");
                self.warn_limited("another wire version", &detail);
                self.close_after(stream, &preamble(WIRE_VERSION)).await;
                return None;
            }
            Ok(Preamble::Foreign(bytes)) => {
                let detail = match bytes[..] {
                    [HANDSHAKE_RECORD, ..] => "it begins a TLS handshake, and tls.peer is off here".to_owned(),
                    _ => format!("it begins with {:?}", String::from_utf8_lossy(&bytes)),
                };
                self.warn_limited("not huskv", &detail);
                return None;
            }
            Ok(Preamble::Closed) => {
                self.warn_limited("not huskv", "it closed the connection before its preamble");
                return None;
            }
            Err(error) => {
                self.warn_limited("not huskv", &error.to_string());
                return None;
            }
        }
        // Step 2: the hello, bounded before it is decoded, and its name and address checked before they reach a log.
        let hello = match read_frame(stream, frame_limits::HELLO).await {
            Ok(Frame::Hello(hello)) => hello,
            Ok(other) => return self.malformed(&WireError::Unexpected(other.kind().1)),
            Err(error) => return self.malformed(&error),
        };
        if let Err(reason) = check_hello(&hello) {
            return self.malformed(&WireError::Malformed(reason));
        }
        Some(hello)
    }

    /// Decides whether the peer is admitted. Peers, snapshot streams and questions to members are checked against the table; other rpcs
    /// come from nodes outside of it. What a certificate names is checked for all.
    async fn admit(
        &self,
        hello: Hello,
        identity: Option<Result<PeerIdentity, Refusal>>,
    ) -> (InboundPeer, Result<(), Denial>) {
        let certified = match identity {
            Some(Err(refusal)) => {
                if let Some(tls) = &self.registry.authentication.tls {
                    tls.log_refusal(&refusal, &self.registry.log, &self.from);
                }
                return (InboundPeer { hello, certified: None }, Err(Denial::NoNode));
            }
            Some(Ok(identity)) => Some(identity.name),
            None => None,
        };
        let peer = InboundPeer { hello, certified };
        let admitted = match peer.hello.purpose {
            Purpose::Peer | Purpose::Snapshot => self.registry.admit(&peer).await,
            Purpose::Report | Purpose::Events => match self.registry.admit(&peer).await {
                Ok(()) if !self.registry.may_ask(peer.hello.from) => Err(Denial::Unlisted),
                admitted => admitted,
            },
            Purpose::Identify | Purpose::JoinOffer | Purpose::Probe | Purpose::JoinRequest => {
                self.registry.authenticate(&peer)
            }
        };
        (peer, admitted)
    }

    async fn refuse(&self, peer: &InboundPeer, denial: &Denial) {
        let who = self.describe(&peer.hello);
        let detail = match denial {
            Denial::Conflict(conflict) => {
                return self.registry.conflict(peer.hello.from, &who, false, *conflict).await;
            }
            // What the peer says is in `who`; what is true is added.
            Denial::OtherNode => {
                let certified = peer.certified.as_deref().unwrap_or("none");
                let listed = self.registry.table().and_then(|table| table.name_of(peer.hello.from).cloned());
                format!(
                    "its certificate is that of {certified}; the member with its raft id is {}",
                    listed.as_deref().unwrap_or("not in the table")
                )
            }
            // The refusal has its line already.
            Denial::NoNode => return,
            denial => format!("it was answered: {denial}"),
        };
        self.registry.warn_limited("a peer is refused", &who, &detail);
    }

    /// Describes the peer for the log: its name is not trusted, so it is shortened and escaped.
    fn describe(&self, hello: &Hello) -> String {
        format!("{:?} ({})", hello.node_id.chars().take(64).collect::<String>(), self.from)
    }

    async fn close_after(&self, stream: &mut PeerStream, last_bytes: &[u8]) {
        if stream.write_all(last_bytes).await.is_ok() && stream.flush().await.is_ok() {
            close_gracefully(stream, HANDSHAKE_BYTES, CLOSE_LIMIT).await;
        }
    }

    fn log_eviction(&self, evicted: bool) {
        if evicted {
            self.warn_limited("too many connections to the peer port", "the oldest one was closed");
        }
    }

    fn warn_limited(&self, reason: &'static str, detail: &str) {
        self.registry.warn_limited(reason, &self.from.to_string(), detail);
    }

    fn malformed<T>(&self, error: &WireError) -> Option<T> {
        self.warn_limited("malformed handshake", &error.to_string());
        None
    }
}
