//! The acceptor's end of an established connection from a member.
//!
//! Why: raft's messages and forwarded requests arrive here in the member's order, and the answers to the requests go
//! back on the same socket.
//!
//! Laws: every message is checked again, for a member can be wrong too. The requests under way are bounded in number and
//! in bytes, so the queue of their answers never refuses one, and the loop never waits. A request's deadline comes with it,
//! by this node's clock: when the request is read says nothing. A peer that is not in the table
//! gets what is to be said to it on this same connection, and hands no requests on. As soon as the table no longer has the member,
//! the connection ends; a member that was removed is told so first.
//!
//! Not here: the handshake (`inbound`).

use std::sync::Arc;
use std::time::Duration;

use slog::debug;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::admission::check_message;
use super::bounds;
use super::budget::{self, Share};
use super::framing::read_counted;
use super::greeting::{Denial, Hello, Welcome};
use super::outgoing::{BUFFER_BYTES, FAREWELL, SILENCE};
use super::shared::Shared;
use super::wire::{Frame, WireError};
use crate::consensus::{Hop, Input};
use crate::model::{Answer, Code, Refusal};

/// The most requests of one member that are under way at once.
const MAX_IN_FLIGHT: usize = 1024;
/// The most bytes of one member's requests that are under way at once, 128 MiB.
const MAX_BYTES: usize = 128 << 20;
/// The most frames besides answers that wait to be written.
const MAX_NOTICES: usize = 64;
/// The longest a member may have a request wait, one hour.
const MAX_WAIT: Duration = Duration::from_hours(1);

/// Serves the connection to its end. `who` is the member for the log.
pub async fn serve(shared: &Shared, stream: TcpStream, hello: &Hello, welcome: Welcome, who: &str) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let (replies, replies_end) = mpsc::channel(MAX_IN_FLIGHT);
    let (notices, notices_end) = mpsc::channel(MAX_NOTICES);
    let _calling = shared.heard(hello, notices.clone());
    let _connected = shared.connect(hello.from, hello.lives.current);
    let (seats, bytes) = (Arc::new(Semaphore::new(MAX_IN_FLIGHT)), budget::count(MAX_BYTES));
    let ears = Ears { shared, hello, welcome, who, replies, notices, seats, bytes, share: Share::new() };
    debug!(shared.log, "a peer has connected"; "peer" => who, "raft_id" => hello.from);
    let mouth = Mouth { shared, hello, replies: replies_end, notices: notices_end };
    tokio::select! {
        error = ears.listen(&mut reader) => match error {
            WireError::Closed | WireError::Io(_) | WireError::Silent(_) => {
                debug!(shared.log, "a peer has gone"; "peer" => who, "reason" => %error);
            }
            error => shared.complain("a peer cannot be understood", who, &error.to_string()),
        },
        _ = mouth.speak(writer) => {
            // What was said last is read there only if what comes from there is read here; none of it counts any more.
            drop(timeout(FAREWELL, tokio::io::copy(&mut reader, &mut tokio::io::sink())).await);
        }
    }
}

/// The place of a request among those under way, in number and in bytes.
type Seat = [OwnedSemaphorePermit; 2];

/// The answer to one forwarded request, with its place.
type Told = (u64, Result<Answer, Refusal>, Seat);

/// The reply that a forwarded request carries; dropped by a loop that ends, it says so.
struct Ticket {
    token: u64,
    seat: Option<Seat>,
    replies: mpsc::Sender<Told>,
}

impl Ticket {
    fn answer(&mut self, result: Result<Answer, Refusal>) {
        if let Some(seat) = self.seat.take() {
            // There is room for every ticket; it fails only where the connection is gone.
            drop(self.replies.try_send((self.token, result, seat)));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer(Err(Refusal::unknown(Code::Stopping, "the leader stopped before it could answer")));
    }
}

/// The reading half.
struct Ears<'a> {
    shared: &'a Shared,
    hello: &'a Hello,
    welcome: Welcome,
    who: &'a str,
    replies: mpsc::Sender<Told>,
    notices: mpsc::Sender<Frame>,
    seats: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    share: Share,
}

impl Ears<'_> {
    async fn listen(&self, reader: &mut BufReader<OwnedReadHalf>) -> WireError {
        let mut heard = false;
        loop {
            let is_member = self.shared.is_listed(self.hello.from);
            let room = |bytes| self.shared.budget.room(&self.share, is_member, bytes);
            let (frame, room) = match read_counted(reader, bounds::FROM_DIALLER, SILENCE, room).await {
                Ok(read) => read,
                Err(error) => return error,
            };
            if !heard {
                // It speaks, so it has taken the welcome and knows this node's life. If that cannot be noted now, it is at the
                // next connection.
                heard = true;
                drop(self.shared.meet(self.hello.from, &self.hello.lives, true).await);
            }
            match frame {
                Frame::Step(message) => match check_message(&message, self.hello.from, self.welcome.raft_id) {
                    Ok(()) => {
                        let (term, most) = (message.term, self.shared.handle.names().believable_term);
                        // The loop does not believe it either, and may ask the member about it.
                        let input = Box::new(Input::Step(message));
                        self.shared.handle.deliver(Input::Counted { input, room: Box::new(room) }).await;
                        if let Some(most) = most.filter(|most| term > *most) {
                            return WireError::Malformed(format!("a raft message of term {term}, of at most {most}"));
                        }
                    }
                    Err(detail) => self.shared.complain("a raft message is refused", self.who, &detail),
                },
                Frame::Forward { token, deadline, relay, request } => {
                    let seat = match self.seat(is_member, room.bytes) {
                        Ok(seat) => seat,
                        Err(refusal) => {
                            drop(self.notices.send(Frame::Reply { token, result: Err(refusal) }).await);
                            continue;
                        }
                    };
                    let mut ticket = Ticket { token, seat: Some(seat), replies: self.replies.clone() };
                    let deadline = deadline.min(self.shared.handle.clock().after(MAX_WAIT));
                    let reply = Box::new(move |result| ticket.answer(result));
                    let hop = if relay { Hop::Relay } else { Hop::Leader };
                    let to = self.welcome.raft_id;
                    self.shared.handle.deliver(Input::Request { request, deadline, hop, to, reply }).await;
                }
                // Where it does not fit, what is there already tells as much.
                Frame::Ping => {
                    let follows = Frame::Follows(self.shared.handle.names().follows);
                    drop(self.notices.try_send(follows));
                    drop(self.notices.try_send(Frame::Pong(self.shared.handle.clock().now())));
                }
                Frame::Follows(leader) => self.shared.heard_follows(self.hello.from, leader),
                Frame::Whereabouts(known) => {
                    if is_member {
                        self.shared.heard_of(&known);
                    }
                }
                Frame::Digest(told) => self.shared.handle.deliver(Input::Digest { from: self.hello.from, told }).await,
                Frame::Space(space) => self.shared.handle.deliver(Input::Space { from: self.hello.from, space }).await,
                Frame::Removed { cluster_id, raft_id } => {
                    if (cluster_id, raft_id) == (self.welcome.cluster_id, self.welcome.raft_id) {
                        self.shared.handle.deliver(Input::Removed { cluster_id, raft_id }).await;
                    }
                }
                other => return WireError::Unexpected(other.kind().1),
            }
        }
    }

    /// A place for a request of so many bytes.
    fn seat(&self, is_member: bool, bytes: usize) -> Result<Seat, Refusal> {
        if !is_member {
            let detail =
                "the node there does not know the one that sent the request on as a member; try again in a moment";
            return Err(Refusal::not_applied(Code::NoLeader, detail));
        }
        let seat = Arc::clone(&self.seats).try_acquire_owned();
        let bytes = Arc::clone(&self.bytes).try_acquire_many_owned(budget::units(bytes));
        match (seat, bytes) {
            (Ok(seat), Ok(bytes)) => Ok([seat, bytes]),
            _ => {
                let detail = "too many requests of one node wait on the leader; try again in a moment";
                Err(Refusal::not_applied(Code::Overloaded, detail))
            }
        }
    }
}

/// The writing half.
struct Mouth<'a> {
    shared: &'a Shared,
    hello: &'a Hello,
    replies: mpsc::Receiver<Told>,
    notices: mpsc::Receiver<Frame>,
}

impl Mouth<'_> {
    async fn speak(mut self, writer: OwnedWriteHalf) -> Result<(), WireError> {
        let mut writer = BufWriter::with_capacity(BUFFER_BYTES, writer);
        let unwanted = self.shared.unwanted(self.hello);
        tokio::pin!(unwanted);
        let stopped = self.shared.stopped();
        tokio::pin!(stopped);
        loop {
            if self.replies.is_empty() && self.notices.is_empty() {
                writer.flush().await?;
            }
            let frame = tokio::select! {
                biased;
                denial = &mut unwanted => {
                    if let Denial::Removed { cluster_id, raft_id } = denial {
                        writer.write_all(&Frame::Removed { cluster_id, raft_id }.encode()?).await?;
                    }
                    break;
                }
                () = &mut stopped => break,
                Some((token, result, _seat)) = self.replies.recv() => Frame::Reply { token, result },
                Some(notice) = self.notices.recv() => notice,
            };
            writer.write_all(&frame.encode()?).await?;
        }
        while let Ok((token, result, _seat)) = self.replies.try_recv() {
            writer.write_all(&Frame::Reply { token, result }.encode()?).await?;
        }
        writer.shutdown().await?;
        Ok(())
    }
}
