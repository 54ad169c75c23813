//! The dialler's end of an established connection to a member.
//!
//! Why: raft messages and client requests are sent in the order of the send queue, control frames first. Replies come back on
//! the same socket, so a broken connection tells exactly which requests are unknown.
//!
//! ```text
//!   loop --> control lane --.                                         .--> Forwards (Reply) ------------> loop
//!   loop --> bulk lane -----+--> write_loop --> socket --> read_loop -+--> PeerClock (Pong)
//!   ping, every second -----'                                         '--> Step, Follows, Removed ------> loop
//! ```
//!
//! Invariants: queued frames are coalesced, and flushed as soon as the queue is empty, never by a timer. The dialler pings every
//! second, so either end detects a half-open connection within [`SILENCE`]. No request is sent before the first pong
//! (`peer_clock`).
//!
//! See also: `link` (reconnects), `accepted_connection` (the other end).

use std::future::{pending, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use raft::eraftpb::Message;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::counted_halves;
use super::dial_verified;
use super::forwards::Forwards;
use super::peer_clock::PeerClock;
use super::send_queue::{QueuedFrame, SendQueueEnd};
use crate::consensus::{Hop, Input};
use crate::model::{BootHistory, Code, IdentityConflict, PeerTable, Refusal};
use crate::telemetry::metrics::PeerFigures;
use crate::transport::admission::check_message;
use crate::transport::backoff::{Backoff, jitter};
use crate::transport::handshake::dial::PeerAddress;
use crate::transport::handshake::{Hello, Purpose};
use crate::transport::memory_budget::ConnectionShare;
use crate::transport::shared_state::Registry;
use crate::transport::socket::{PeerStream, ReadHalf, WriteHalf};
use crate::transport::wire::frame_limits;
use crate::transport::wire::framing::read_budgeted_in_pieces;
use crate::transport::wire::{Frame, WireError};
use crate::trust::verified_certificate::VerifiedCertificate;

/// The time without a byte of input after which a connection to a member is dead, at either end.
pub const SILENCE: Duration = Duration::from_secs(10);
/// The size of the write buffer.
pub const BUFFER_BYTES: usize = 64 << 10;
/// How long a closing connection may take to send what is queued.
pub const DRAIN_LIMIT: Duration = Duration::from_millis(150);
/// The interval of pings.
pub const PING_EVERY: Duration = Duration::from_secs(1);
/// How long a removed member is still sent what is queued.
const RETIRE_DELAY: Duration = Duration::from_millis(500);

/// How long the replies of a connection that was replaced are waited for: shorter than [`SILENCE`], after which the other end
/// closes it.
const REPLACED_LIMIT: Duration = Duration::from_secs(9);
/// The part of its life after which a connection is replaced at the latest: the rest is for further attempts.
const REPLACED_AFTER: f64 = 0.9;

/// How a connection ended.
pub enum End {
    /// It failed; the reason is for the log.
    Broken(String),
    /// It was closed by this node, for good.
    Over,
}

/// Why nothing more is sent on a connection.
enum Stop {
    /// It has ended.
    Ended(End),
    /// It has lived long enough, and this is the next one.
    Replaced(PeerStream),
}

/// The replies that are still to come on a connection.
type Replies<'a> = Pin<Box<dyn Future<Output = String> + Send + 'a>>;

/// Returns why a connection ends whose peer is now recorded at another boot id.
fn superseded_reason(conflict: &IdentityConflict) -> String {
    if conflict.claimed.count == 0 {
        // It was connected while one of the two was no member yet.
        return "it has become a member and is dialled again".to_owned();
    }
    conflict.to_string()
}

/// An established connection to a member.
pub struct DialerLink<'a> {
    /// The member's raft id.
    pub peer: u64,
    /// The hello of this node.
    pub hello: &'a Hello,
    /// The shared state.
    pub registry: &'a Registry,
    /// The forwarded requests.
    pub forwards: &'a Forwards,
    /// The boot history of the peer.
    pub boot_history: &'a BootHistory,
    /// The address at which it was dialled.
    pub address: &'a str,
    /// What is counted of the member.
    pub figures: &'a Arc<PeerFigures>,
}

impl DialerLink<'_> {
    /// Uses `stream` to its end, and those that replace it: sends the `held` frames first, then the `queue`.
    pub async fn run(
        &self,
        mut stream: PeerStream,
        mut held: Vec<QueuedFrame>,
        queue: &mut SendQueueEnd,
        peer_address: &mut watch::Receiver<PeerAddress>,
    ) -> End {
        // Before anything is read or written: while this is held the peer cannot be accepted at another boot id.
        let _connected = self.registry.connect(self.peer, self.boot_history.current);
        // Two reloads may replace two connections before the first one's replies have come.
        let mut replaced = FuturesUnordered::<Replies<'_>>::new();
        loop {
            let certificate = stream.certificate().cloned();
            let (reader, writer) = counted_halves::split(stream, self.figures);
            let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
            let clock = Arc::new(PeerClock::new(self.registry.handle.clock()));
            let mut reading: Replies<'_> = Box::pin(self.read_loop(reader, Arc::clone(&clock)));
            let rest = async {
                while replaced.next().await.is_some() {}
                pending().await
            };
            // Five ends: the peer closed, its boot id was superseded, the queue was closed, the connection was replaced, the
            // transport stopped.
            let broken = |reason| Stop::Ended(End::Broken(reason));
            let stop = tokio::select! {
                reason = &mut reading => broken(reason),
                conflict = self.registry.until_superseded(self.peer, self.boot_history) => broken(superseded_reason(&conflict)),
                stop = self.write_loop((&mut writer, certificate), &clock, held, queue, peer_address) => stop.unwrap_or_else(|e| broken(e.to_string())),
                () = rest => unreachable!("it is pending for ever"),
                // The other end may have stopped reading.
                () = async { self.registry.stopped().await; sleep(DRAIN_LIMIT).await } => Stop::Ended(End::Over),
            };
            match stop {
                Stop::Replaced(next) => {
                    // Nothing more is sent on it; what was sent is still answered there.
                    replaced.push(Box::pin(async move {
                        let ended = timeout(REPLACED_LIMIT, &mut reading).await;
                        // The writing half has kept the connection open until here.
                        drop(timeout(DRAIN_LIMIT, writer.shutdown()).await);
                        ended.unwrap_or_default()
                    }));
                    (stream, held) = (next, Vec::new());
                }
                Stop::Ended(End::Over) => {
                    // Reads on: closing over unread bytes would reset the connection and lose the last frames sent.
                    let closing = async {
                        if writer.shutdown().await.is_ok() {
                            reading.await;
                        }
                    };
                    drop(timeout(DRAIN_LIMIT, closing).await);
                    return End::Over;
                }
                Stop::Ended(end) => return end,
            }
        }
    }

    /// Opens the connection that replaces one which has lived long enough, or whose certificates are not those that this node has
    /// by now: a new one of its own, or a bundle without the authority of the peer's.
    ///
    /// # Errors
    /// The reason, once the connection has reached its age or the peer's certificate is not valid any more, and there is no
    /// other connection.
    async fn replacement(&self, certificate: Option<Arc<VerifiedCertificate>>) -> Result<PeerStream, String> {
        let Some(tls) = &self.registry.authentication.tls else { return pending().await };
        let (age, born) = (self.registry.connection_age, Instant::now());
        let is_refused = || certificate.as_ref().and_then(|certificate| certificate.check().err());
        // Subscribed first, checked second: a reload since the handshake is not missed.
        let mut credentials = tls.credentials().changes();
        tokio::select! {
            () = ready(()), if is_refused().is_some() => {}
            // Nodes that started together do not make all their handshakes together.
            () = sleep(jitter(age.mul_f64(REPLACED_AFTER))) => {}
            // The sender lives as long as the credentials.
            changed = credentials.changed() => drop(changed),
        }
        let mut backoff = Backoff::new();
        loop {
            // The hello of the connection: the boot history may have been named to the peer meanwhile.
            let fresh = self.registry.hello(Purpose::Peer, self.peer);
            match dial_verified(self.registry, self.address, &fresh, self.peer).await {
                Ok((stream, boot_history)) if boot_history.current == self.boot_history.current => return Ok(stream),
                Ok(_) => return Err("the peer has restarted".to_owned()),
                Err(_) if let Some(reason) = is_refused() => {
                    return Err(format!("the peer's certificate is not valid any more: {reason}"));
                }
                Err(error) if born.elapsed() >= age => {
                    return Err(format!("it has lived for {} s, and there is no other one: {error}", age.as_secs()));
                }
                Err(_) => sleep(backoff.next_delay()).await,
            }
        }
    }

    /// Handles incoming frames until the connection fails.
    async fn read_loop(&self, reader: ReadHalf, clock: Arc<PeerClock>) -> String {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        let share = ConnectionShare::new();
        loop {
            let reserve = |bytes| self.registry.budget.reserve(&share, true, bytes);
            // The peer is pinged meanwhile, by the other half.
            let read = read_budgeted_in_pieces(&mut reader, frame_limits::FROM_ACCEPTOR, SILENCE, reserve, || ());
            let (frame, permit) = match read.await {
                Ok(read) => read,
                Err(error) => return error.to_string(),
            };
            match frame {
                Frame::Reply { token, result } => self.forwards.answer_counted(token, result, permit).await,
                // A node that does not have this one in its table yet answers on this connection.
                Frame::Step(message) => match check_message(&message, self.peer, self.hello.from) {
                    Ok(()) => {
                        let input = Box::new(Input::Step(message));
                        self.registry.handle.deliver(Input::Counted { input, room: Box::new(permit) }).await;
                    }
                    Err(detail) => {
                        self.registry.warn_limited("a raft message is refused", &self.peer.to_string(), &detail)
                    }
                },
                Frame::Pong(theirs) => {
                    if let Some(round_trip) = clock.record_pong(theirs) {
                        self.figures.answered(round_trip);
                    }
                }
                Frame::Follows(leader) => self.registry.heard_follows(self.peer, leader),
                Frame::Removed { cluster_id, raft_id } => {
                    if (cluster_id, raft_id) == (self.hello.cluster_id, self.hello.from) {
                        self.registry.handle.deliver(Input::Removed { cluster_id, raft_id }).await;
                    }
                }
                other => return WireError::Unexpected(other.kind().1).to_string(),
            }
        }
    }

    /// Writes queued frames until the connection is closed or fails.
    async fn write_loop(
        &self,
        (writer, certificate): (&mut BufWriter<WriteHalf>, Option<Arc<VerifiedCertificate>>),
        clock: &PeerClock,
        held: Vec<QueuedFrame>,
        queue: &mut SendQueueEnd,
        peer_address: &mut watch::Receiver<PeerAddress>,
    ) -> Result<Stop, WireError> {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A removed member is still sent what is queued, above all the notice of its removal.
        let removed_from_table = async {
            while peer_address.changed().await.is_ok() {}
            sleep(RETIRE_DELAY).await;
        };
        tokio::pin!(removed_from_table);
        let stopped = self.registry.stopped();
        tokio::pin!(stopped);
        let is_tls = certificate.is_some();
        let replacement = self.replacement(certificate);
        tokio::pin!(replacement);
        let mut told: Option<Arc<PeerTable>> = None;
        // The first ping goes ahead of the held frames: the first forwarded request waits for its pong.
        clock.record_ping();
        writer.write_all(&Frame::Ping.encode()?).await?;
        for frame in held {
            self.write(writer, clock, frame).await?;
        }
        loop {
            // Frames are coalesced in the buffer while more are queued.
            if queue.is_empty() {
                writer.flush().await?;
            }
            tokio::select! {
                biased;
                () = &mut stopped => break,
                () = &mut removed_from_table => break,
                // Between two frames, so none is torn.
                next = &mut replacement => {
                    writer.flush().await?;
                    return Ok(next.map_or_else(|reason| Stop::Ended(End::Broken(reason)), Stop::Replaced));
                }
                // Before the queue: under load that is never empty, and without pongs the reading half would find the
                // connection dead after 10 s.
                _ = ping.tick() => {
                    // A member that was away may not know the others yet, and takes nothing from those it does not know.
                    if is_tls && let Some(table) = self.registry.table().filter(|table| told.as_ref() != Some(table)) {
                        let members = table.peers.iter().take(frame_limits::MAX_TOLD_MEMBERS);
                        let members = members.map(|(raft_id, name, _)| (*raft_id, name.clone())).collect();
                        writer.write_all(&Frame::Members(members).encode()?).await?;
                        told = Some(table);
                    }
                    let known = self.registry.self_reported_addresses(self.peer);
                    if !known.is_empty() {
                        writer.write_all(&Frame::PeerAddresses(known).encode()?).await?;
                    }
                    let follows = self.registry.handle.names().follows;
                    writer.write_all(&Frame::Follows(follows).encode()?).await?;
                    clock.record_ping();
                    writer.write_all(&Frame::Ping.encode()?).await?;
                }
                frame = queue.recv() => match frame {
                    Some(frame) => self.write(writer, clock, frame).await?,
                    None => break,
                },
            }
        }
        // What is queued for a removed member ends with the notice of its removal.
        while let Some(frame) = queue.try_recv() {
            self.write(writer, clock, frame).await?;
        }
        writer.flush().await?;
        Ok(Stop::Ended(End::Over))
    }

    async fn write(
        &self,
        writer: &mut BufWriter<WriteHalf>,
        clock: &PeerClock,
        frame: QueuedFrame,
    ) -> Result<(), WireError> {
        // Kept until it is written.
        let mut held = None;
        let bytes = match frame {
            QueuedFrame::Step(message) => self.encode(message).await,
            QueuedFrame::Append(message, bytes_held) => {
                held = Some(bytes_held);
                self.encode(message).await
            }
            QueuedFrame::Forward(token, hop, request) => {
                // The first request of a connection waits for the first pong, a round trip; raft messages before it are flushed.
                if clock.is_unknown() {
                    writer.flush().await?;
                    clock.wait_for_first().await;
                }
                // Answered already: its deadline passed in the queue.
                let Some(until) = self.forwards.sending(token) else { return Ok(()) };
                let (deadline, relay) = (clock.to_peer_time(until), hop == Hop::Relay);
                match (Frame::Forward { token, deadline, relay, request }).encode() {
                    Ok(bytes) => Some(bytes),
                    Err(error) => {
                        let refusal = Refusal::not_applied(Code::BadRequest, format!("it cannot be sent on: {error}"));
                        self.forwards.answer(token, Err(refusal)).await;
                        None
                    }
                }
            }
            QueuedFrame::Digest(digest) => Some(Frame::Digest(digest).encode()?),
            QueuedFrame::Space(space) => Some(Frame::Space(space).encode()?),
            QueuedFrame::Removed => {
                Some(Frame::Removed { cluster_id: self.hello.cluster_id, raft_id: self.peer }.encode()?)
            }
        };
        if let Some(bytes) = bytes {
            writer.write_all(&bytes).await?;
        }
        drop(held);
        Ok(())
    }

    /// Encodes a raft message; None where that is not possible, which raft is told.
    async fn encode(&self, message: Box<Message>) -> Option<Vec<u8>> {
        match Frame::Step(message).encode() {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.registry.warn_limited("a raft message cannot be sent", &self.hello.node_id, &error.to_string());
                self.registry.handle.deliver(Input::PeerDown(self.peer)).await;
                None
            }
        }
    }
}
