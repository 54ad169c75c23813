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

mod member_reports;
mod monotonic_clock;
mod node_state;
mod page_readers;
mod read_index_probe;
mod reply_slot;
mod status_requests;
pub(super) mod wake_batch;
mod write_budget;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::input::{Bounds, Consistency, Fetched, Hop, Input, Listed, ReadGrant, Reply};
use crate::changefeed::ChangeFeed;
use crate::model::{
    Answer, Code, Command, JoinAccepted, JoinOffer, List, Probe, ProbeReply, Refusal, Request, Status, WhoAmI,
};
use crate::storage;
use crate::telemetry::metrics::{Metrics, NodeState};
use crate::telemetry::node_events::{Kind, NodeEvents};
pub use member_reports::{AskedMembers, MemberReports};
pub use monotonic_clock::Clock;
use node_state::Published;
pub use node_state::{Names, Readiness};
use page_readers::PageReaders;
use read_index_probe::LastRound;
pub use read_index_probe::ROUND as READ_INDEX_ROUND;
use reply_slot::slot;
use status_requests::SingleFlight;
use write_budget::WriteBudget;
pub use write_budget::WritePermit;

/// The maximum inputs of peers and background jobs that wait; beyond that the sender waits.
const PEER_QUEUE: usize = 4096;

/// The default of [`Handle::bound_writes`].
const WRITE_BYTES: usize = 256 << 20;

/// The keys of a page up to which it is read where it was asked for.
const SMALL_PAGE: usize = 32;

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
    published: Published,
}

impl Inbox {
    /// Publishes names to the handles.
    pub fn publish(&self, names: &Names) {
        self.published.publish(names);
    }

    /// Publishes the figures of a tick.
    pub fn publish_figures(&self, state: NodeState) {
        self.published.events().set_point(state.applied_index, state.term);
        self.published.metrics().node.store(Arc::new(state));
    }

    /// Publishes the state that stale reads may be answered from without the loop; None where none may.
    pub fn publish_state(&self, grant: Option<ReadGrant>) {
        self.published.publish_state(grant);
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
    statuses: SingleFlight,
    pages: PageReaders,
    read_index_probes: LastRound,
    published: Published,
}

/// Creates the two queues; `pending_requests` bounds that of clients.
#[must_use]
pub fn channel(pending_requests: usize) -> (Handle, Inbox) {
    let (clients, clients_end) = mpsc::channel(pending_requests);
    let (peers, peers_end) = mpsc::channel(PEER_QUEUE);
    let clock = Clock::start();
    let (published, feed) = (Published::default(), Arc::<ChangeFeed>::default());
    let handle = Handle {
        clients,
        peers,
        own_writes: WriteBudget::new(WRITE_BYTES),
        forwarded_writes: WriteBudget::new(WRITE_BYTES),
        clock,
        feed: Arc::clone(&feed),
        statuses: SingleFlight::default(),
        pages: PageReaders::default(),
        read_index_probes: LastRound::default(),
        published: published.clone(),
    };
    (handle, Inbox { clients: clients_end, peers: peers_end, clock, feed, published })
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

    /// Whether any write of a client, here or forwarded, waits for its answer.
    #[must_use]
    pub fn any_write(&self) -> bool {
        self.own_writes.is_used() || self.forwarded_writes.is_used()
    }

    /// Whether the loop has ended its first turn.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.published.is_serving()
    }

    /// Sets that it has, for a loop other than this one.
    pub fn begin_serving(&self) {
        self.published.begin_serving();
    }

    /// Whether the node has been asked to stop.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.published.is_draining()
    }

    /// Notes that it has, in the events and for its probes and reports; it serves on until the loop is stopped.
    pub fn begin_draining(&self) {
        if self.published.begin_draining() {
            self.events().note(Kind::Draining);
        }
    }

    /// Returns the change feed; without asking the loop.
    #[must_use]
    pub fn feed(&self) -> &ChangeFeed {
        &self.feed
    }

    /// Returns the last published names; without asking the loop.
    #[must_use]
    pub fn names(&self) -> Arc<Names> {
        self.published.state()
    }

    /// Returns the figures of the process; all modules above the loop count into them.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        self.published.metrics()
    }

    /// Returns the events of the process; all modules above the loop note theirs there.
    #[must_use]
    pub fn events(&self) -> &Arc<NodeEvents> {
        self.published.events()
    }

    /// Returns the time since the end of the loop's last turn; None before the first. There is a turn at least once a
    /// tick, unless the loop waits for its disk.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        self.published.age()
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
        let (reply, answer) = slot();
        let reply = Box::new(move |result| {
            drop(room);
            reply.send(result);
        });
        let deadline = self.clock.after(timeout);
        self.client(Input::Request { request, deadline, hop: Hop::Client, to: 0, reply })?;
        // The loop has the request: it may have been proposed before the node stopped.
        let lost = |_| Err(Refusal::unknown(Code::Stopping, "the node stopped before it could answer"));
        answer.await.unwrap_or_else(lost)
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
        let grant = self.grant(consistency, bounds, timeout).await?;
        grant.fetch(&key).map_err(|failure| self.read_failed(failure))
    }

    /// Reads a page of keys, and renders it on the same thread.
    ///
    /// # Errors
    /// As [`Handle::read`].
    pub async fn list<R: Send + 'static>(
        &self,
        list: List,
        (consistency, bounds): (Consistency, Bounds),
        timeout: Duration,
        render: impl FnOnce(Listed) -> R + Send + 'static,
    ) -> Result<R, Refusal> {
        let grant = self.grant(consistency, bounds, timeout).await?;
        let is_small = list.limit <= SMALL_PAGE;
        let page = move || grant.list(&list).map(render);
        let read = if is_small { page() } else { self.pages.read(page).await };
        read.map_err(|failure| self.read_failed(failure))
    }

    /// Takes a checkpoint of the state machine now.
    ///
    /// # Errors
    /// [`Refusal`] where that takes too long.
    pub async fn snapshot(&self, timeout: Duration) -> Result<(), Refusal> {
        let deadline = self.clock.after(timeout);
        let (reply, answer) = oneshot::channel();
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
        self.ask(|reply| Input::WhoAmI { reply }).await
    }

    /// Answers a voter's probe.
    ///
    /// # Errors
    /// [`Refusal`] where the node is stopping, or of another cluster.
    pub async fn probe(&self, probe: Probe) -> Result<ProbeReply, Refusal> {
        self.ask(|reply| Input::Probe { probe, reply }).await?
    }

    /// Passes a leader's join offer to the loop.
    ///
    /// # Errors
    /// [`Refusal`] with the reason why the node does not join.
    pub async fn receive_join_offer(&self, offer: JoinOffer) -> Result<JoinAccepted, Refusal> {
        self.ask(|reply| Input::JoinOffer { offer, reply }).await?
    }

    /// Delivers an input of a peer or a background job, waiting while the queue is full. After the loop's end a request is refused, and all
    /// else dropped.
    pub async fn deliver(&self, input: Input) {
        // The loop has ended, and has not begun what comes now.
        if let Err(mpsc::error::SendError(Input::Request { reply, .. })) = self.peers.send(input).await {
            reply(Err(stopping()));
        }
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

    /// Asks the loop for what it knows, in the queue of peers.
    async fn ask<T: Send + 'static>(&self, input: impl FnOnce(Reply<T>) -> Input) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.deliver(input(Box::new(|told| drop(reply.send(told))))).await;
        answer.await.map_err(|_| stopping())
    }

    /// Asks for leave to read. A stale read without a bound on its age needs nothing of the loop, where the state has the index
    /// that it asks for.
    async fn grant(&self, consistency: Consistency, bounds: Bounds, timeout: Duration) -> Result<ReadGrant, Refusal> {
        if consistency == Consistency::Stale
            && bounds.max_stale_ms.is_none()
            && let Some(grant) = self.published.direct_reads()
            && grant.state.point().index >= bounds.min_index
        {
            return Ok(ReadGrant::clone(&grant));
        }
        let (deadline, began) = (self.clock.after(timeout), Instant::now());
        let (reply, answer) = slot();
        let reply = Box::new(move |result| reply.send(result));
        self.client(Input::Read { consistency, bounds, deadline, reply })?;
        let grant = answer.await.unwrap_or_else(|_| Err(stopping()))?;
        if consistency == Consistency::Linearizable {
            self.metrics().reads.read_index_duration.observe(began.elapsed());
        }
        Ok(grant)
    }

    /// Hands the failure of a read to the loop, which ends with it.
    fn read_failed(&self, failure: storage::Error) -> Refusal {
        let detail = format!("this node cannot read its state and stops: {failure}");
        // A full queue does not matter: the loop finds the same disk, or the next read does.
        let _full = !self.offer(Input::ReadFailed(failure));
        Refusal::not_applied(Code::Stopping, detail)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Outcome;

    #[tokio::test]
    async fn a_request_that_comes_after_the_end_of_the_loop_is_not_applied() {
        let (handle, inbox) = channel(1);
        drop(inbox);
        let (send, answer) = std::sync::mpsc::channel();
        let reply = Box::new(move |result| drop(send.send(result)));
        let request = Request::Remove { node_id: "n1".into() };
        handle.deliver(Input::Request { request, deadline: 1, hop: Hop::Leader, to: 0, reply }).await;
        let refusal = answer.recv().unwrap().unwrap_err();
        assert_eq!((refusal.code, refusal.outcome), (Code::Stopping, Outcome::NotApplied));
    }
}
