//! The peer port: who comes in, and what for.
//!
//! Why: anything can connect here: members, joiners, a browser, a port scan. All are strangers until their handshake is
//! done.
//!
//! Laws: who may hold a connection, and who makes room for whom, is said in `connection_slots`; a stranger has [`HANDSHAKE_LIMIT`] to
//! introduce itself. What is not huskv is dropped at its first wrong byte, with at most one log line a second.
//! Another version is answered with this one's preamble, which every version can read.
//!
//! Not here: what is said after the handshake (`acceptor`, `snapshot_stream`, `rpc`), and who is let in (`admission`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::connection_slots::{ConnectionSlot, ConnectionSlots};
use super::handshake::admission::check_hello;
use super::handshake::{Denial, Hello, Purpose, WIRE_VERSION, Welcome, preamble};
use super::link::acceptor;
use super::link::dialer::FAREWELL;
use super::registry::Registry;
use super::wire::frame_limits;
use super::wire::framing::{Opening, part, read_frame, read_opening};
use super::wire::{Frame, HANDSHAKE_BYTES, WireError};
use super::{rpc, snapshot_stream};
use crate::model::{BootHistory, PeerTable};

/// How long a stranger may take to introduce itself.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// How long one may take that is shown out.
const PARTING: Duration = Duration::from_millis(500);
/// How long nobody is let in after the system refused a connection, as where it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lets in about `max_inbound` connections at once, until the transport stops.
pub async fn accept(listener: TcpListener, registry: Arc<Registry>, max_inbound: usize) {
    let places = ConnectionSlots::new(max_inbound);
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
        let (place, crowded) = places.enter(from.ip());
        let guest = Inbound { registry: Arc::clone(&registry), from };
        guest.crowded(crowded);
        registry.spawn(async move {
            tokio::select! {
                () = Box::pin(guest.receive(stream, &place)) => {}
                () = place.shown_out() => {}
                // Members are given a moment to be told what is due.
                () = async { guest.registry.stopped().await; sleep(FAREWELL).await } => {}
            }
        });
    }
}

/// Somebody who has connected.
struct Inbound {
    registry: Arc<Registry>,
    from: SocketAddr,
}

impl Inbound {
    /// Serves the connection to its end.
    async fn receive(&self, mut stream: TcpStream, place: &ConnectionSlot) {
        drop(stream.set_nodelay(true));
        let (hello, welcome) = match timeout(HANDSHAKE_LIMIT, self.greet(&mut stream, place)).await {
            Ok(Some(greeted)) => greeted,
            Ok(None) => return,
            Err(_) => return self.warn_limited("not huskv", "it did not introduce itself in time"),
        };
        let (registry, who) = (&self.registry, self.who(&hello));
        match hello.purpose {
            Purpose::Peer => acceptor::serve(registry, stream, &hello, welcome, &who).await,
            Purpose::Snapshot => snapshot_stream::receive(registry, stream, &hello, welcome, &who).await,
            Purpose::Identify => rpc::answer_identify(registry, stream).await,
            Purpose::JoinOffer => rpc::answer_adopt(registry, &who, stream).await,
            Purpose::Probe => rpc::answer_probe(registry, &who, stream).await,
        }
    }

    /// The acceptor's side of the handshake; None where the guest was shown out.
    async fn greet(&self, stream: &mut TcpStream, place: &ConnectionSlot) -> Option<(Hello, Welcome)> {
        match read_opening(stream).await {
            Ok(Opening::Huskv(WIRE_VERSION)) => {}
            Ok(Opening::Huskv(version)) => {
                let detail = format!("it speaks {version}, this node speaks {WIRE_VERSION}");
                self.warn_limited("another wire version", &detail);
                self.show_out(stream, &preamble(WIRE_VERSION)).await;
                return None;
            }
            Ok(Opening::Foreign(bytes)) => {
                self.warn_limited("not huskv", &format!("it begins with {:?}", String::from_utf8_lossy(&bytes)));
                return None;
            }
            Ok(Opening::Nothing) => {
                self.warn_limited("not huskv", "it closed the connection without a word");
                return None;
            }
            Err(error) => {
                self.warn_limited("not huskv", &error.to_string());
                return None;
            }
        }
        let hello = match read_frame(stream, frame_limits::HELLO).await {
            Ok(Frame::Hello(hello)) => hello,
            Ok(other) => return self.garbled(&WireError::Unexpected(other.kind().1)),
            Err(error) => return self.garbled(&error),
        };
        if let Err(reason) = check_hello(&hello) {
            return self.garbled(&WireError::Malformed(reason));
        }
        let admitted = match hello.purpose {
            Purpose::Peer | Purpose::Snapshot => self.registry.admit(&hello).await,
            Purpose::Identify | Purpose::JoinOffer | Purpose::Probe => Ok(()),
        };
        let verdict = admitted.map(|()| {
            let stranger = !matches!(hello.purpose, Purpose::Peer | Purpose::Snapshot);
            let table = self.registry.table();
            let of = |field: fn(&PeerTable) -> u64| table.as_deref().map_or(0, field);
            Welcome {
                cluster_id: of(|table| table.cluster_id),
                raft_id: of(|table| table.raft_id),
                lives: if stranger { BootHistory::default() } else { self.registry.lives(hello.from, hello.known) },
            }
        });
        let told = verdict.clone().map_err(|denial| match denial {
            Denial::Conflict(conflict) => Denial::Conflict(conflict.for_strangers()),
            denial => denial,
        });
        let bytes = [&preamble(WIRE_VERSION)[..], &Frame::Verdict(told).encode().ok()?].concat();
        match verdict {
            Ok(welcome) => {
                if matches!(hello.purpose, Purpose::Peer | Purpose::Snapshot) {
                    self.crowded(place.settle(hello.from, hello.purpose, |raft_id| self.registry.is_listed(raft_id)));
                }
                stream.write_all(&bytes).await.ok()?;
                Some((hello, welcome))
            }
            Err(denial) => {
                self.refuse(&hello, &denial).await;
                self.show_out(stream, &bytes).await;
                None
            }
        }
    }

    async fn refuse(&self, hello: &Hello, denial: &Denial) {
        let who = self.who(hello);
        if let Denial::Conflict(conflict) = denial {
            return self.registry.conflict(hello.from, &who, false, *conflict).await;
        }
        self.registry.warn_limited("a peer is refused", &who, &format!("it was answered: {denial}"));
    }

    /// The guest for the log: its name is its own word, so it is cut and escaped.
    fn who(&self, hello: &Hello) -> String {
        format!("{:?} ({})", hello.node_id.chars().take(64).collect::<String>(), self.from)
    }

    async fn show_out(&self, stream: &mut TcpStream, last_word: &[u8]) {
        if stream.write_all(last_word).await.is_ok() {
            part(stream, HANDSHAKE_BYTES, PARTING).await;
        }
    }

    fn crowded(&self, made_room: bool) {
        if made_room {
            self.warn_limited("the peer port is crowded", "whoever came first has to make room");
        }
    }

    fn warn_limited(&self, reason: &'static str, detail: &str) {
        self.registry.warn_limited(reason, &self.from.to_string(), detail);
    }

    fn garbled(&self, error: &WireError) -> Option<(Hello, Welcome)> {
        self.warn_limited("a handshake cannot be understood", &error.to_string());
        None
    }
}
