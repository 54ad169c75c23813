//! The acceptor's end of an established connection from a member.
//!
//! Why: raft messages and forwarded requests arrive here in the member's order, and replies go back on the same socket.
//!
//! ```text
//!   socket --> Reader: check, budget --> consensus loop --ReplyGuard--> replies (<= 1024) --> Writer --> socket
//!                  '--- pongs, follows --------------------------> control frames (<= 64) --'
//! ```
//!
//! Invariants: every message is checked again, for a member can be faulty, too. Requests in flight are bounded in number and
//! bytes, so the queue of replies never overflows and the loop never waits. A request carries its deadline by this node's clock:
//! the time at which it is read means nothing. A member's large frame may take long while some of it arrives within every
//! [`SILENCE`], and the member is told so meanwhile. A peer that is not in the table gets its messages on this connection, and its
//! requests are refused. The connection ends as soon as the table no longer has the member, which is told so first where it was
//! removed, and as soon as a reload has replaced the CA bundle by one that does not verify its certificate.
//!
//! See also: `listener` (the handshake), `dialed_connection` (the other end).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use slog::debug;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::counted_halves;
use super::dialed_connection::{BUFFER_BYTES, DRAIN_LIMIT, PING_EVERY, SILENCE};
use crate::consensus::{Hop, Input, WritePermit};
use crate::model::{Answer, Code, Refusal};
use crate::transport::admission::check_message;
use crate::transport::handshake::{Denial, Hello, InboundPeer, Welcome};
use crate::transport::memory_budget::{BudgetPermit, ConnectionShare};
use crate::transport::shared_state::Registry;
use crate::transport::socket::{PeerStream, ReadHalf, WriteHalf};
use crate::transport::wire::frame_limits;
use crate::transport::wire::framing::{read_budgeted, read_budgeted_in_pieces};
use crate::transport::wire::{Frame, WireError};

/// The maximum requests of one member in flight.
const MAX_IN_FLIGHT: usize = 1024;
/// The maximum queued control frames.
const MAX_CONTROL_FRAMES: usize = 64;
/// The maximum deadline, one hour.
const MAX_DEADLINE: Duration = Duration::from_hours(1);

/// Serves the connection to its end. `who` describes the member in the log.
pub async fn serve(registry: &Registry, stream: PeerStream, peer: &InboundPeer, welcome: Welcome, who: &str) {
    let (hello, is_tls) = (&peer.hello, stream.is_tls());
    let until_distrusted = stream.until_distrusted();
    let (reader, writer) = counted_halves::split(stream, &registry.handle.metrics().network.peer(hello.from));
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let (replies, replies_end) = mpsc::channel(MAX_IN_FLIGHT);
    let (control, control_end) = mpsc::channel(MAX_CONTROL_FRAMES);
    let _unlisted = registry.register_inbound(hello, control.clone());
    let _connected = registry.connect(hello.from, hello.boot_history.current);
    let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
    let reader_half =
        Reader { registry, hello, welcome, who, replies, control, in_flight, share: ConnectionShare::new() };
    debug!(registry.log, "peer connected"; "peer" => who, "raft_id" => hello.from);
    let writer_half = Writer { registry, peer, replies: replies_end, control: control_end };
    tokio::select! {
        error = reader_half.read_loop(&mut reader) => match error {
            WireError::Closed | WireError::Io(_) | WireError::Silent(_) => {
                debug!(registry.log, "peer disconnected"; "peer" => who, "reason" => %error);
            }
            error => registry.warn_limited("malformed frames from a peer", who, &error.to_string()),
        },
        _ = writer_half.write_loop(writer) => {
            // Reads and discards: closing over unread bytes would reset the connection and lose the last frames sent.
            drop(timeout(DRAIN_LIMIT, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await);
        }
        // At once: it may have been taken back because its key is in other hands.
        reason = until_distrusted => registry.warn_limited("a peer's connection is closed", who, &reason),
        () = async { if is_tls { sleep(registry.connection_age).await } else { pending().await } } => {
            // The dialler has had the time to open another one.
            debug!(registry.log, "a peer's connection has reached its age"; "peer" => who);
        }
    }
}

/// A request in flight, by number and bytes.
type InFlightPermit = (OwnedSemaphorePermit, WritePermit);

/// The reply to a forwarded request, with its permit.
type Reply = (u64, Result<Answer, Refusal>, InFlightPermit);

/// Replies to a forwarded request exactly once; dropped by a stopping loop, it replies so.
struct ReplyGuard {
    token: u64,
    permit: Option<InFlightPermit>,
    replies: mpsc::Sender<Reply>,
}

impl ReplyGuard {
    fn answer(&mut self, result: Result<Answer, Refusal>) {
        if let Some(permit) = self.permit.take() {
            // The queue has a slot for every permit; sending fails only after the connection ended.
            drop(self.replies.try_send((self.token, result, permit)));
        }
    }
}

impl Drop for ReplyGuard {
    fn drop(&mut self) {
        self.answer(Err(Refusal::unknown(Code::Stopping, "the leader stopped before it could answer")));
    }
}

/// The reading half.
struct Reader<'a> {
    registry: &'a Registry,
    hello: &'a Hello,
    welcome: Welcome,
    who: &'a str,
    replies: mpsc::Sender<Reply>,
    control: mpsc::Sender<Frame>,
    in_flight: Arc<Semaphore>,
    share: ConnectionShare,
}

impl Reader<'_> {
    async fn read_loop(&self, reader: &mut BufReader<ReadHalf>) -> WireError {
        let mut heard = false;
        loop {
            // Looked up per frame: the table may change during the connection.
            let is_member = self.registry.is_listed(self.hello.from);
            let (frame, permit) = match self.next_frame(reader, is_member).await {
                Ok(read) => read,
                Err(error) => return error,
            };
            if !heard {
                // A frame proves that it received the welcome and knows this node's boot id. If that cannot be recorded
                // now, it is at the next connection.
                heard = true;
                drop(self.registry.record_peer(self.hello.from, &self.hello.boot_history, true).await);
            }
            match frame {
                Frame::Step(message) => match check_message(&message, self.hello.from, self.welcome.raft_id) {
                    Ok(()) => {
                        let (term, max_term) = (message.term, self.registry.handle.names().believable_term);
                        // The loop refuses such a term, too, and may ask the member about it.
                        let input = Box::new(Input::Step(message));
                        self.registry.handle.deliver(Input::Counted { input, room: Box::new(permit) }).await;
                        if let Some(max_term) = max_term.filter(|max_term| term > *max_term) {
                            return WireError::Malformed(format!(
                                "a raft message of term {term}, of at most {max_term}"
                            ));
                        }
                    }
                    Err(detail) => self.registry.warn_limited("a raft message is refused", self.who, &detail),
                },
                Frame::Forward { token, deadline, relay, request } => {
                    // A request holds its permit until its reply is written, so both queues are bounded by the permits.
                    let permit = match self.permit(is_member, permit.bytes) {
                        Ok(permit) => permit,
                        Err(refusal) => {
                            drop(self.control.send(Frame::Reply { token, result: Err(refusal) }).await);
                            continue;
                        }
                    };
                    let mut reply_guard = ReplyGuard { token, permit: Some(permit), replies: self.replies.clone() };
                    // A deadline far away would keep the request in the loop for as long: at most one hour.
                    let deadline = deadline.min(self.registry.handle.clock().after(MAX_DEADLINE));
                    let reply = Box::new(move |result| reply_guard.answer(result));
                    let hop = if relay { Hop::Relay } else { Hop::Leader };
                    let to = self.welcome.raft_id;
                    self.registry.handle.deliver(Input::Request { request, deadline, hop, to, reply }).await;
                }
                // If the queue is full, the queued frames say as much.
                Frame::Ping => {
                    let follows = Frame::Follows(self.registry.handle.names().follows);
                    drop(self.control.try_send(follows));
                    drop(self.control.try_send(Frame::Pong(self.registry.handle.clock().now())));
                }
                // Which leader the peer follows, and a sign of life.
                Frame::Follows(leader) => self.registry.heard_follows(self.hello.from, leader),
                other => {
                    if let Err(error) = self.learn(other, is_member).await {
                        return error;
                    }
                }
            }
        }
    }

    /// Takes over what a member says of itself and of others.
    async fn learn(&self, frame: Frame, is_member: bool) -> Result<(), WireError> {
        match frame {
            Frame::PeerAddresses(known) => {
                if is_member {
                    self.registry.gossiped(&known);
                }
            }
            Frame::Members(members) => {
                if let Some(table) = self.registry.table() {
                    self.registry.authentication.told_members(&table, self.hello.from, members);
                }
            }
            Frame::Digest(digest) => {
                self.registry.handle.deliver(Input::Digest { from: self.hello.from, told: digest }).await
            }
            Frame::Space(space) => self.registry.handle.deliver(Input::Space { from: self.hello.from, space }).await,
            Frame::Removed { cluster_id, raft_id } => {
                if (cluster_id, raft_id) == (self.welcome.cluster_id, self.welcome.raft_id) {
                    self.registry.handle.deliver(Input::Removed { cluster_id, raft_id }).await;
                }
            }
            other => return Err(WireError::Unexpected(other.kind().1)),
        }
        Ok(())
    }

    async fn next_frame(
        &self,
        reader: &mut BufReader<ReadHalf>,
        is_member: bool,
    ) -> Result<(Frame, BudgetPermit), WireError> {
        let limits = frame_limits::FROM_DIALLER;
        let reserve = |bytes| self.registry.budget.reserve(&self.share, is_member, bytes);
        if !is_member {
            return read_budgeted(reader, limits, SILENCE, reserve).await;
        }
        let mut signed = Instant::now();
        read_budgeted_in_pieces(reader, limits, SILENCE, reserve, || self.sign_of_life(&mut signed)).await
    }

    /// Tells the dialler, whose pings wait behind a large frame, that this frame arrives; `signed` is when it was told last.
    fn sign_of_life(&self, signed: &mut Instant) {
        if signed.elapsed() >= PING_EVERY {
            *signed = Instant::now();
            drop(self.control.try_send(Frame::Follows(self.registry.handle.names().follows)));
        }
    }

    /// Acquires a permit for a request.
    fn permit(&self, is_member: bool, bytes: usize) -> Result<InFlightPermit, Refusal> {
        if !is_member {
            let detail = "the receiving node does not list the forwarding node as a member yet; try again in a moment";
            return Err(Refusal::not_applied(Code::NoLeader, detail));
        }
        // Two bounds, both held until the reply is written: 1 024 requests of this connection, and the bytes of all
        // forwarded writes.
        let permit = Arc::clone(&self.in_flight).try_acquire_owned();
        match (permit, self.registry.handle.reserve_forwarded(bytes)) {
            (Ok(permit), Some(bytes)) => Ok((permit, bytes)),
            _ => {
                let detail = "the forwarded writes that wait on the leader are too many or take too much memory; try again in a moment";
                Err(Refusal::not_applied(Code::Overloaded, detail))
            }
        }
    }
}

/// The writing half.
struct Writer<'a> {
    registry: &'a Registry,
    peer: &'a InboundPeer,
    replies: mpsc::Receiver<Reply>,
    control: mpsc::Receiver<Frame>,
}

impl Writer<'_> {
    async fn write_loop(mut self, writer: WriteHalf) -> Result<(), WireError> {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let until_denied = self.registry.until_denied(self.peer);
        tokio::pin!(until_denied);
        let stopped = self.registry.stopped();
        tokio::pin!(stopped);
        loop {
            // Replies are coalesced in the buffer while more are queued.
            if self.replies.is_empty() && self.control.is_empty() {
                writer.flush().await?;
            }
            let frame = tokio::select! {
                // In this order: a denial ends the connection before further replies, and a pong waits for no reply.
                biased;
                denial = &mut until_denied => {
                    if let Denial::Removed { cluster_id, raft_id } = denial {
                        writer.write_all(&Frame::Removed { cluster_id, raft_id }.encode()?).await?;
                    }
                    break;
                }
                () = &mut stopped => break,
                Some(control_frame) = self.control.recv() => control_frame,
                Some((token, result, _permit)) = self.replies.recv() => Frame::Reply { token, result },
            };
            writer.write_all(&frame.encode()?).await?;
        }
        // Replies that the loop has given already are still sent: their requests are done, and the peer would call them
        // unknown.
        while let Ok((token, result, _permit)) = self.replies.try_recv() {
            writer.write_all(&Frame::Reply { token, result }.encode()?).await?;
        }
        writer.shutdown().await?;
        Ok(())
    }
}
