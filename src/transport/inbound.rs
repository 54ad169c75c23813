//! The peer port: who comes in, and what for.
//!
//! Why: anything can connect here: members, joiners, a browser, a port scan. All are strangers until their handshake is
//! done.
//!
//! Laws: who may hold a connection, and who makes room for whom, is said in `places`; a stranger has [`HANDSHAKE_LIMIT`] to
//! introduce itself. What is not huskv is dropped at its first wrong byte, with at most one log line a second.
//! Another version is answered with this one's preamble, which every version can read.
//!
//! Not here: what is said after the handshake (`incoming`, `snapshot`, `errand`), and who is let in (`admission`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::admission::check_hello;
use super::bounds;
use super::framing::{Opening, part, read_frame, read_opening};
use super::greeting::{Denial, Hello, Purpose, WIRE_VERSION, Welcome, preamble};
use super::outgoing::FAREWELL;
use super::places::{Place, Places};
use super::shared::Shared;
use super::wire::{Frame, HANDSHAKE_BYTES, WireError};
use super::{errand, incoming, snapshot};
use crate::model::{Lives, PeerTable};

/// How long a stranger may take to introduce itself.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);
/// How long one may take that is shown out.
const PARTING: Duration = Duration::from_millis(500);
/// How long nobody is let in after the system refused a connection, as where it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Lets in about `max_inbound` connections at once, until the transport stops.
pub async fn accept(listener: TcpListener, shared: Arc<Shared>, max_inbound: usize) {
    let places = Places::new(max_inbound);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopped() => return,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                shared.complain("a connection to the peer port cannot be accepted", "", &error.to_string());
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (place, crowded) = places.enter(from.ip());
        let guest = Guest { shared: Arc::clone(&shared), from };
        guest.crowded(crowded);
        shared.spawn(async move {
            tokio::select! {
                () = Box::pin(guest.receive(stream, &place)) => {}
                () = place.shown_out() => {}
                // Members are given a moment to be told what is due.
                () = async { guest.shared.stopped().await; sleep(FAREWELL).await } => {}
            }
        });
    }
}

/// Somebody who has connected.
struct Guest {
    shared: Arc<Shared>,
    from: SocketAddr,
}

impl Guest {
    /// Serves the connection to its end.
    async fn receive(&self, mut stream: TcpStream, place: &Place) {
        drop(stream.set_nodelay(true));
        let (hello, welcome) = match timeout(HANDSHAKE_LIMIT, self.greet(&mut stream, place)).await {
            Ok(Some(greeted)) => greeted,
            Ok(None) => return,
            Err(_) => return self.complain("not huskv", "it did not introduce itself in time"),
        };
        let (shared, who) = (&self.shared, self.who(&hello));
        match hello.purpose {
            Purpose::Peer => incoming::serve(shared, stream, &hello, welcome, &who).await,
            Purpose::Snapshot => snapshot::receive(shared, stream, &hello, welcome, &who).await,
            Purpose::Identify => errand::answer_identify(shared, stream).await,
            Purpose::Adopt => errand::answer_adopt(shared, &who, stream).await,
            Purpose::Probe => errand::answer_probe(shared, &who, stream).await,
        }
    }

    /// The acceptor's side of the handshake; None where the guest was shown out.
    async fn greet(&self, stream: &mut TcpStream, place: &Place) -> Option<(Hello, Welcome)> {
        match read_opening(stream).await {
            Ok(Opening::Huskv(WIRE_VERSION)) => {}
            Ok(Opening::Huskv(version)) => {
                let detail = format!("it speaks {version}, this node speaks {WIRE_VERSION}");
                self.complain("another wire version", &detail);
                self.show_out(stream, &preamble(WIRE_VERSION)).await;
                return None;
            }
            Ok(Opening::Foreign(bytes)) => {
                self.complain("not huskv", &format!("it begins with {:?}", String::from_utf8_lossy(&bytes)));
                return None;
            }
            Ok(Opening::Nothing) => {
                self.complain("not huskv", "it closed the connection without a word");
                return None;
            }
            Err(error) => {
                self.complain("not huskv", &error.to_string());
                return None;
            }
        }
        let hello = match read_frame(stream, bounds::HELLO).await {
            Ok(Frame::Hello(hello)) => hello,
            Ok(other) => return self.garbled(&WireError::Unexpected(other.kind().1)),
            Err(error) => return self.garbled(&error),
        };
        if let Err(reason) = check_hello(&hello) {
            return self.garbled(&WireError::Malformed(reason));
        }
        let admitted = match hello.purpose {
            Purpose::Peer | Purpose::Snapshot => self.shared.admit(&hello).await,
            Purpose::Identify | Purpose::Adopt | Purpose::Probe => Ok(()),
        };
        let verdict = admitted.map(|()| {
            let stranger = !matches!(hello.purpose, Purpose::Peer | Purpose::Snapshot);
            let table = self.shared.table();
            let of = |field: fn(&PeerTable) -> u64| table.as_deref().map_or(0, field);
            Welcome {
                cluster_id: of(|table| table.cluster_id),
                raft_id: of(|table| table.raft_id),
                lives: if stranger { Lives::default() } else { self.shared.lives(hello.from, hello.known) },
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
                    self.crowded(place.settle(hello.from, hello.purpose, |raft_id| self.shared.is_listed(raft_id)));
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
            return self.shared.conflict(hello.from, &who, false, *conflict).await;
        }
        self.shared.complain("a peer is refused", &who, &format!("it was answered: {denial}"));
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
            self.complain("the peer port is crowded", "whoever came first has to make room");
        }
    }

    fn complain(&self, reason: &'static str, detail: &str) {
        self.shared.complain(reason, &self.from.to_string(), detail);
    }

    fn garbled(&self, error: &WireError) -> Option<(Hello, Welcome)> {
        self.complain("a handshake cannot be understood", &error.to_string());
        None
    }
}
