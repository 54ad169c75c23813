//! The handle: how http and the transport reach the loop.
//!
//! Why: everything above the loop is async and many-threaded, the loop is neither. A [`Handle`] turns a call into one
//! [`Input`] and its reply into a future.
//!
//! Invariants: the client queue is bounded, and a full one refuses at once; so are the bytes of writes that wait for
//! their answer, those of clients and those that members forward apart. What peers and the loop's background work
//! deliver has a queue of its own, so clients cannot starve heartbeats.
//!
//! See also: what happens to an input (`consensus::driver`).

mod single_flight;
mod write_budget;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::input::{Bounds, Consistency, Fetched, Hop, Input, Listed};
use super::reads::unsent::UnsentResults;

use crate::changefeed::ChangeFeed;
use crate::model::Millis;
use crate::model::{
    Answer, Code, Command, JoinAccepted, JoinOffer, List, Probe, ProbeReply, Refusal, Request, Status, WhoAmI,
};
use crate::storage;
use single_flight::SingleFlight;
use write_budget::WriteBudget;
pub use write_budget::WritePermit;

/// The maximum inputs of peers and background jobs that wait; beyond that the sender waits.
const PEER_QUEUE: usize = 4096;

/// The default of [`Handle::bound_writes`].
const WRITE_BYTES: usize = 256 << 20;

/// The process's monotonic clock, in milliseconds since its creation. On Linux it includes the time that the machine is
/// suspended: what was fresh before is not fresh after.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Duration);

impl Clock {
    /// Returns a clock that starts at 0 now.
    #[must_use]
    pub fn start() -> Self {
        Self(since_boot())
    }

    /// Returns the present time.
    #[must_use]
    pub fn now(&self) -> Millis {
        millis(since_boot().saturating_sub(self.0))
    }

    /// Returns the time `wait` from now.
    #[must_use]
    pub fn after(&self, wait: Duration) -> Millis {
        self.now().saturating_add(millis(wait))
    }
}

fn millis(span: Duration) -> Millis {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}

/// The loop's ends of its two queues.
pub struct Inbox {
    /// Inputs of clients.
    pub clients: mpsc::Receiver<Input>,
    /// Inputs of peers and background jobs.
    pub peers: mpsc::Receiver<Input>,
    /// The clock that deadlines are given in.
    pub clock: Clock,
    /// The change feed.
    pub feed: Arc<ChangeFeed>,
    pub(super) unsent: UnsentResults,
    names: Published,
    serving: Arc<AtomicBool>,
}

/// The last published names, with the time; None before the first turn.
type Published = Arc<Mutex<(Arc<Names>, Option<Instant>)>>;

/// The identity of this node and its leader, as of the loop's last turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// This node's name; empty before the loop's first turn.
    pub node: String,
    /// The leader's name, where one is known.
    pub leader: Option<String>,
    /// The raft id of the leader that this node follows or is; 0 where it knows none.
    pub follows: u64,
    /// The highest term that it believes of a peer's message; None before the loop's first turn.
    pub believable_term: Option<u64>,
    /// Whether this node belongs to no cluster yet, and its data routes say so.
    pub in_no_cluster: bool,
    /// The cluster that this node belongs to; 0 for none.
    pub cluster_id: u64,
    /// The hosts in the addresses of all members, in lower case and without brackets.
    pub hosts: Arc<BTreeSet<String>>,
    /// The index of the last change of the member table that these hosts are from.
    pub table: u64,
    /// Why the node takes no requests; None if it does, and before the loop's first turn.
    pub not_ready: Option<Refusal>,
}

impl Inbox {
    /// Publishes names to the handles.
    pub fn publish(&self, names: Names) {
        self.serving.store(true, Ordering::Relaxed);
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = (Arc::new(names), Some(Instant::now()));
    }
}

/// A handle of the loop; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    clients: mpsc::Sender<Input>,
    peers: mpsc::Sender<Input>,
    own_writes: WriteBudget,
    forwarded_writes: WriteBudget,
    clock: Clock,
    feed: Arc<ChangeFeed>,
    unsent: UnsentResults,
    statuses: SingleFlight,
    names: Published,
    serving: Arc<AtomicBool>,
}

/// Creates the two queues; `pending_requests` bounds that of clients.
#[must_use]
pub fn channel(pending_requests: usize) -> (Handle, Inbox) {
    let (clients, clients_end) = mpsc::channel(pending_requests);
    let (peers, peers_end) = mpsc::channel(PEER_QUEUE);
    let clock = Clock::start();
    let names = Published::default();
    let feed = Arc::<ChangeFeed>::default();
    let (unsent, serving) = (UnsentResults::default(), Arc::<AtomicBool>::default());
    let handle = Handle {
        clients,
        peers,
        own_writes: WriteBudget::new(WRITE_BYTES),
        forwarded_writes: WriteBudget::new(WRITE_BYTES),
        clock,
        feed: Arc::clone(&feed),
        unsent: unsent.clone(),
        statuses: SingleFlight::default(),
        names: Arc::clone(&names),
        serving: Arc::clone(&serving),
    };
    (handle, Inbox { clients: clients_end, peers: peers_end, clock, feed, unsent, names, serving })
}

fn writes_full() -> Refusal {
    let detail =
        "the writes that wait on this node take as much memory as they may (limits.memory_mb); try again in a moment";
    Refusal::not_applied(Code::Overloaded, detail)
}

fn stopping() -> Refusal {
    Refusal::not_applied(Code::Stopping, "this node is shutting down; ask another one")
}

impl Handle {
    /// Returns the clock of deadlines.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Bounds the bytes of writes that wait for their answer: those of this node's clients, and those that members
    /// forward to it.
    #[must_use]
    pub fn bound_writes(self, own: usize, forwarded: usize) -> Self {
        Self { own_writes: WriteBudget::new(own), forwarded_writes: WriteBudget::new(forwarded), ..self }
    }

    /// Reserves the bytes of a request that a member forwards, until its answer; None without room.
    #[must_use]
    pub fn reserve_forwarded(&self, bytes: usize) -> Option<WritePermit> {
        self.forwarded_writes.reserve(bytes)
    }

    /// Whether the loop has ended its first turn.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// Sets that it has, for a loop other than this one.
    pub fn begin_serving(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }

    /// Returns the change feed; without asking the loop.
    #[must_use]
    pub fn feed(&self) -> &ChangeFeed {
        &self.feed
    }

    /// Returns the last published names; without asking the loop.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Returns the time since the end of the loop's last turn; None before the first. There is a turn at least once a
    /// tick, unless the loop waits for its disk.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).1.map(|turned| turned.elapsed())
    }

    /// Whether any thread of the process waits for the disk.
    #[must_use]
    pub fn is_waiting_for_disk(&self) -> bool {
        storage::is_waiting_for_disk()
    }

    /// Commits and applies `command`, here or through the leader. On return it is durable on a majority.
    ///
    /// # Errors
    /// [`Refusal`], which says whether the command may still take effect.
    pub async fn write(&self, command: Command, timeout: Duration) -> Result<Answer, Refusal> {
        self.request(Request::Write(command.into()), timeout).await
    }

    /// Carries out `request` on the leader.
    ///
    /// # Errors
    /// [`Refusal`], which says whether the request may still take effect.
    pub async fn request(&self, request: Request, timeout: Duration) -> Result<Answer, Refusal> {
        // Released by the reply and not by this future: a client that hangs up leaves its write in the queue and in the
        // log.
        let room = match &request {
            Request::Write(write) => Some(self.own_writes.reserve(write.size()).ok_or_else(writes_full)?),
            _ => None,
        };
        let (reply, answer) = oneshot::channel();
        self.client(Input::Request {
            request,
            deadline: self.deadline(timeout),
            hop: Hop::Client,
            to: 0,
            reply: Box::new(move |result| {
                drop(room);
                drop(reply.send(result));
            }),
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(Refusal::unknown(Code::Stopping, "the node stopped before it could answer")))
    }

    /// Reads one key.
    ///
    /// # Errors
    /// [`Refusal`] where the read cannot be confirmed in time or the node belongs to no cluster.
    pub async fn read(
        &self,
        key: Vec<u8>,
        (consistency, bounds): (Consistency, Bounds),
        timeout: Duration,
    ) -> Result<Fetched, Refusal> {
        let (reply, answer) = oneshot::channel();
        let unsent = self.unsent.clone();
        self.client(Input::Read {
            key,
            consistency,
            bounds,
            deadline: self.deadline(timeout),
            reply: Box::new(move |result| {
                // Counted until the caller has taken the result: while many values wait to be taken, the loop answers
                // fewer reads.
                let unsent_bytes = unsent.add(result.as_ref().map_or(0, Fetched::bytes));
                drop(reply.send((result, unsent_bytes)));
            }),
        })?;
        answer.await.map_or_else(|_| Err(stopping()), |(result, _)| result)
    }

    /// Reads a page of keys.
    ///
    /// # Errors
    /// As [`Handle::read`].
    pub async fn list(
        &self,
        list: List,
        (consistency, bounds): (Consistency, Bounds),
        timeout: Duration,
    ) -> Result<Listed, Refusal> {
        let (reply, answer) = oneshot::channel();
        let unsent = self.unsent.clone();
        self.client(Input::List {
            list,
            consistency,
            bounds,
            deadline: self.deadline(timeout),
            reply: Box::new(move |result| {
                let unsent_bytes = unsent.add(result.as_ref().map_or(0, Listed::bytes));
                drop(reply.send((result, unsent_bytes)));
            }),
        })?;
        answer.await.map_or_else(|_| Err(stopping()), |(result, _)| result)
    }

    /// Takes a checkpoint of the state machine now.
    ///
    /// # Errors
    /// [`Refusal`] where that takes too long.
    pub async fn snapshot(&self, timeout: Duration) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let deadline = self.deadline(timeout);
        self.client(Input::Snapshot { deadline, reply: Box::new(|result| drop(reply.send(result))) })?;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Returns the status of the node between two turns. Concurrent callers share one request to the loop.
    ///
    /// # Errors
    /// [`Refusal`] where the node is stopping.
    pub async fn status(&self) -> Result<Arc<Status>, Refusal> {
        loop {
            let (answer, ticket) = self.statuses.join();
            if let Some(ticket) = ticket {
                let room = self.peers.reserve().await.map_err(|_| stopping())?;
                let request = ticket.start();
                room.send(Input::Status { reply: Box::new(|status| request.answer_all(status)) });
            }
            // None where the caller that was to ask has given up before the loop had room for it.
            if let Some(status) = answer.await.map_err(|_| stopping())? {
                return Ok(status);
            }
        }
    }

    /// Returns the identity of the node, for a process at the peer port.
    ///
    /// # Errors
    /// [`Refusal`] where the node is stopping.
    pub async fn who_am_i(&self) -> Result<WhoAmI, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.deliver(Input::WhoAmI { reply: Box::new(|me| drop(reply.send(me))) }).await;
        answer.await.map_err(|_| stopping())
    }

    /// Answers a voter's probe.
    ///
    /// # Errors
    /// [`Refusal`] where the node is stopping, or of another cluster.
    pub async fn probe(&self, probe: Probe) -> Result<ProbeReply, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.deliver(Input::Probe { probe, reply: Box::new(|result| drop(reply.send(result))) }).await;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Passes a leader's join offer to the loop.
    ///
    /// # Errors
    /// [`Refusal`] with the reason why the node does not join.
    pub async fn adopt(&self, adopt: JoinOffer) -> Result<JoinAccepted, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.deliver(Input::JoinOffer { adopt, reply: Box::new(|result| drop(reply.send(result))) }).await;
        answer.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Delivers an input of a peer or a background job, waiting while the queue is full. After the loop's end it is
    /// dropped.
    pub async fn deliver(&self, input: Input) {
        drop(self.peers.send(input).await);
    }

    /// As [`Handle::deliver`], from a thread that may block.
    pub fn deliver_blocking(&self, input: Input) {
        drop(self.peers.blocking_send(input));
    }

    /// As [`Handle::deliver`], but returns false and drops the input if the queue is full: for messages that raft
    /// repeats.
    #[must_use]
    pub fn offer(&self, input: Input) -> bool {
        self.peers.try_send(input).is_ok()
    }

    fn client(&self, input: Input) -> Result<(), Refusal> {
        // Never waits: a client that is refused at once can ask another node, one that waits in front of the queue
        // cannot.
        self.clients.try_send(input).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::not_applied(
                Code::Overloaded,
                "too many requests wait on this node (limits.pending_requests); try again in a moment",
            ),
            mpsc::error::TrySendError::Closed(_) => stopping(),
        })
    }

    fn deadline(&self, timeout: Duration) -> Millis {
        self.clock.after(timeout)
    }
}
