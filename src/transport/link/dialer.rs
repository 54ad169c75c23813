//! The dialler's end of an established connection to a member.
//!
//! Why: raft's messages and clients' requests leave here in the order in which the loop gave them, and the answers to
//! the requests (and to messages, from a node in whose table this one is not yet) come back on the same socket, so a broken connection tells exactly which of them are unknown.
//!
//! Laws: what is queued is coalesced, and flushed as soon as the queue is empty, never by a timer. The dialler pings
//! every second, so either end finds a connection that is only half there within [`SILENCE`]. The first pong is waited for
//! before a request leaves (`peer_clock`).
//!
//! Not here: dialling again (`link`), and the other end (`acceptor`).

use std::time::Duration;

use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::forwards::Forwards;
use super::peer_clock::PeerClock;
use super::send_queue::QueuedFrame;
use crate::consensus::{Hop, Input};
use crate::model::{BootHistory, Code, IdentityConflict, Refusal};
use crate::transport::handshake::Hello;
use crate::transport::handshake::admission::check_message;
use crate::transport::handshake::dial::PeerAddress;
use crate::transport::memory_budget::Share;
use crate::transport::registry::Registry;
use crate::transport::wire::frame_limits;
use crate::transport::wire::framing::read_counted;
use crate::transport::wire::{Frame, WireError};

/// How long nothing may come in before the connection counts as dead, at either end.
pub const SILENCE: Duration = Duration::from_secs(10);
/// How much is gathered before it is written.
pub const BUFFER_BYTES: usize = 64 << 10;
/// How long a connection that is not wanted any more may take to send what is queued.
pub const FAREWELL: Duration = Duration::from_millis(150);
/// How often the dialler says that it is still here.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long a member that left the table is still told what is queued for it.
const LINGER: Duration = Duration::from_millis(500);

/// How a connection ended.
pub enum End {
    /// It failed; the reason is for the log.
    Broken(String),
    /// It was closed from here, for good.
    Over,
}

/// Why a connection ends whose other end is known in another life by now.
fn met_anew(conflict: &IdentityConflict) -> String {
    if conflict.said.count == 0 {
        // It was met while one of the two was no member yet.
        return "it is a member now, and is dialled again for the life that it is in".to_owned();
    }
    conflict.to_string()
}

/// One connection and what it belongs to.
pub struct Outgoing<'a> {
    /// The member's raft id.
    pub peer: u64,
    /// How this node introduced itself.
    pub hello: &'a Hello,
    /// What all share.
    pub registry: &'a Registry,
    /// The member's requests.
    pub forwards: &'a Forwards,
    /// The lives that the other end has.
    pub lives: &'a BootHistory,
}

impl Outgoing<'_> {
    /// Uses `stream` to its end: first for what was `held`, then for the `queue`.
    pub async fn run(
        &self,
        stream: TcpStream,
        held: Vec<QueuedFrame>,
        queue: &mut mpsc::Receiver<QueuedFrame>,
        whereabouts: &mut watch::Receiver<PeerAddress>,
    ) -> End {
        let _connected = self.registry.connect(self.peer, self.lives.current);
        let (reader, writer) = stream.into_split();
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let clock = PeerClock::new(self.registry.handle.clock());
        let listening = self.listen(reader, &clock);
        tokio::pin!(listening);
        let end = tokio::select! {
            reason = &mut listening => End::Broken(reason),
            conflict = self.registry.overtaken(self.peer, self.lives) => End::Broken(met_anew(&conflict)),
            end = self.speak(&mut writer, &clock, held, queue, whereabouts) => end.unwrap_or_else(|e| End::Broken(e.to_string())),
            // The other end may have stopped taking anything.
            () = async { self.registry.stopped().await; sleep(FAREWELL).await } => End::Over,
        };
        if matches!(end, End::Over) {
            // What was said last is read there only if what comes from there is read here.
            let parting = async {
                if writer.shutdown().await.is_ok() {
                    listening.await;
                }
            };
            drop(timeout(FAREWELL, parting).await);
        }
        end
    }

    /// Takes what comes back, until the connection fails.
    async fn listen(&self, reader: OwnedReadHalf, clock: &PeerClock) -> String {
        let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
        let share = Share::new();
        loop {
            let room = |bytes| self.registry.budget.room(&share, true, bytes);
            let (frame, room) = match read_counted(&mut reader, frame_limits::FROM_ACCEPTOR, SILENCE, room).await {
                Ok(read) => read,
                Err(error) => return error.to_string(),
            };
            match frame {
                Frame::Reply { token, result } => self.forwards.answer_counted(token, result, room).await,
                // A node in whose table this one is not yet answers on this connection.
                Frame::Step(message) => match check_message(&message, self.peer, self.hello.from) {
                    Ok(()) => {
                        let input = Box::new(Input::Step(message));
                        self.registry.handle.deliver(Input::Counted { input, room: Box::new(room) }).await;
                    }
                    Err(detail) => {
                        self.registry.warn_limited("a raft message is refused", &self.peer.to_string(), &detail)
                    }
                },
                Frame::Pong(theirs) => clock.heard(theirs),
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

    /// Writes what is queued, until the connection is not wanted any more or fails.
    async fn speak(
        &self,
        writer: &mut BufWriter<OwnedWriteHalf>,
        clock: &PeerClock,
        held: Vec<QueuedFrame>,
        queue: &mut mpsc::Receiver<QueuedFrame>,
        whereabouts: &mut watch::Receiver<PeerAddress>,
    ) -> Result<End, WireError> {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let retired = async {
            while whereabouts.changed().await.is_ok() {}
            sleep(LINGER).await;
        };
        tokio::pin!(retired);
        let stopped = self.registry.stopped();
        tokio::pin!(stopped);
        writer.write_all(&Frame::Ping.encode()?).await?;
        for parcel in held {
            self.write(writer, clock, parcel).await?;
        }
        loop {
            if queue.is_empty() {
                writer.flush().await?;
            }
            tokio::select! {
                biased;
                () = &mut stopped => break,
                () = &mut retired => break,
                _ = ping.tick() => {
                    let known = self.registry.self_reported_addresses(self.peer);
                    if !known.is_empty() {
                        writer.write_all(&Frame::PeerAddress(known).encode()?).await?;
                    }
                    let follows = self.registry.handle.names().follows;
                    writer.write_all(&Frame::Follows(follows).encode()?).await?;
                    writer.write_all(&Frame::Ping.encode()?).await?;
                }
                parcel = queue.recv() => match parcel {
                    Some(parcel) => self.write(writer, clock, parcel).await?,
                    None => break,
                },
            }
        }
        while let Ok(parcel) = queue.try_recv() {
            self.write(writer, clock, parcel).await?;
        }
        writer.flush().await?;
        Ok(End::Over)
    }

    async fn write(
        &self,
        writer: &mut BufWriter<OwnedWriteHalf>,
        clock: &PeerClock,
        parcel: QueuedFrame,
    ) -> Result<(), WireError> {
        let bytes = match parcel {
            QueuedFrame::Step(message, _load) => match Frame::Step(message).encode() {
                Ok(bytes) => bytes,
                Err(error) => {
                    self.registry.warn_limited(
                        "a raft message cannot be sent",
                        &self.hello.node_id,
                        &error.to_string(),
                    );
                    self.registry.handle.deliver(Input::PeerDown(self.peer)).await;
                    return Ok(());
                }
            },
            QueuedFrame::Forward(token, hop, request, _load) => {
                if clock.is_unknown() {
                    writer.flush().await?;
                    clock.known().await;
                }
                // Answered already: its time ran out in the queue.
                let Some(until) = self.forwards.sending(token) else { return Ok(()) };
                let (deadline, relay) = (clock.theirs(until), hop == Hop::Relay);
                match (Frame::Forward { token, deadline, relay, request }).encode() {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        let refusal = Refusal::not_applied(Code::BadRequest, format!("it cannot be sent on: {error}"));
                        self.forwards.answer(token, Err(refusal)).await;
                        return Ok(());
                    }
                }
            }
            QueuedFrame::Digest(told) => Frame::Digest(told).encode()?,
            QueuedFrame::Space(space) => Frame::Space(space).encode()?,
            QueuedFrame::Removed => {
                Frame::Removed { cluster_id: self.hello.cluster_id, raft_id: self.peer }.encode()?
            }
        };
        writer.write_all(&bytes).await?;
        Ok(())
    }
}
