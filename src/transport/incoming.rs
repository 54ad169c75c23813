//! The acceptor's end of an established connection from a member.
//!
//! Why: raft's messages and forwarded requests arrive here in the member's order, and the answers to the requests go
//! back on the same socket.
//!
//! Laws: every message is checked again, for a member can be wrong too. The number of requests under way is bounded, so
//! the queue of their answers never refuses one, and the loop never waits. As soon as the table no longer has the member,
//! the connection ends; a member that was removed is told so first.
//!
//! Not here: the handshake (`inbound`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::debug;
use tokio::io::{AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::admission::{admit, check_message};
use super::framing::read_frame_within;
use super::greeting::{Denial, Hello, Welcome};
use super::outgoing::{BUFFER_BYTES, FAREWELL, SILENCE};
use super::shared::Shared;
use super::wire::{FRAME_BYTES, Frame, WireError};
use crate::consensus::{Hop, Input};
use crate::model::{Answer, Code, Refusal};

/// The most requests of one member that are under way at once.
const MAX_IN_FLIGHT: usize = 1024;
/// The most frames besides answers that wait to be written.
const MAX_NOTICES: usize = 64;
/// The longest a member may have a request wait, one hour.
const MAX_WAIT_MS: u64 = 3_600_000;

/// Serves the connection to its end. `who` is the member for the log.
pub async fn serve(shared: &Shared, stream: TcpStream, hello: &Hello, welcome: Welcome, who: &str) {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, reader);
    let (replies, replies_end) = mpsc::channel(MAX_IN_FLIGHT);
    let (notices, notices_end) = mpsc::channel(MAX_NOTICES);
    let ears = Ears { shared, hello, welcome, who, replies, notices, seats: Arc::new(Semaphore::new(MAX_IN_FLIGHT)) };
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

/// The answer to one forwarded request, with its place among those under way.
type Told = (u64, Result<Answer, Refusal>, OwnedSemaphorePermit);

/// The reply that a forwarded request carries; dropped by a loop that ends, it says so.
struct Ticket {
    token: u64,
    seat: Option<OwnedSemaphorePermit>,
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
}

impl Ears<'_> {
    async fn listen(&self, reader: &mut BufReader<OwnedReadHalf>) -> WireError {
        loop {
            let frame = match read_frame_within(reader, FRAME_BYTES, SILENCE).await {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            match frame {
                Frame::Step(message) => match check_message(&message, self.hello.from, self.welcome.raft_id) {
                    Ok(()) => self.shared.handle.deliver(Input::Step(message)).await,
                    Err(detail) => self.shared.complain("a raft message is refused", self.who, &detail),
                },
                Frame::Forward { token, remaining_ms, relay, request } => {
                    let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() else {
                        let detail = "too many requests of one node wait on the leader; try again in a moment";
                        let result = Err(Refusal::not_applied(Code::Overloaded, detail));
                        drop(self.notices.send(Frame::Reply { token, result }).await);
                        continue;
                    };
                    let mut ticket = Ticket { token, seat: Some(seat), replies: self.replies.clone() };
                    let wait = Duration::from_millis(remaining_ms.min(MAX_WAIT_MS));
                    let deadline = self.shared.handle.clock().at(Instant::now() + wait);
                    let reply = Box::new(move |result| ticket.answer(result));
                    let hop = if relay { Hop::Relay } else { Hop::Leader };
                    self.shared.handle.deliver(Input::Request { request, deadline, hop, reply }).await;
                }
                // Where it does not fit, what is there already tells as much.
                Frame::Ping => {
                    let follows = Frame::Follows(self.shared.handle.names().follows);
                    drop(self.notices.try_send(follows));
                    drop(self.notices.try_send(Frame::Pong));
                }
                Frame::Follows(leader) => self.shared.heard_follows(self.hello.from, leader),
                Frame::Whereabouts(known) => self.shared.heard_of(&known),
                Frame::Removed { cluster_id, raft_id } => {
                    if (cluster_id, raft_id) == (self.welcome.cluster_id, self.welcome.raft_id) {
                        self.shared.handle.deliver(Input::Removed { cluster_id, raft_id }).await;
                    }
                }
                other => return WireError::Unexpected(other.kind().1),
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
        let unwanted = unwanted(self.shared, self.hello);
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

/// Waits until the table does not admit the member any more, and tells why.
pub async fn unwanted(shared: &Shared, hello: &Hello) -> Denial {
    let mut table = shared.table.subscribe();
    loop {
        if let Err(denial) = admit(table.borrow_and_update().as_deref(), hello) {
            return denial;
        }
        // The sender lives as long as `shared`.
        drop(table.changed().await);
    }
}
