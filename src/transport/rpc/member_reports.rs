//! The questions to each member for its report and for its latest events, and the answers; both ends.
//!
//! Why: an overview shows all members, and a client may be able to reach one of them only. A question has a connection of its own: a node
//! of an earlier version closes one whose purpose it does not know, and on the link of two members that would cost their raft messages.
//!
//! ```text
//!   dialler                                 acceptor
//!   Hello (purpose report, or events) ---->  is it a member? else a denial
//!                     <--------------------  Welcome, Report or Events
//! ```
//!
//! Invariants: only members are answered, and a node that waits for its first snapshot answers the nodes of its cluster. Neither end asks
//! its loop. However many clients ask, a member is asked each of the two once in [`ROUND_EVERY`], for at most [`ASK_LIMIT`]. An
//! answer that is not bounded and printable is none.
//!
//! See also: [`NodeReport`], [`EventReport`] (the content), `http::metrics::overview`, `http::node_events::cluster` (who asks).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::finish;
use crate::consensus::{AskedMembers, MemberReports};
use crate::model::{Asked, AskedMember, EventReport, NodeReport, check_events};
use crate::transport::handshake::dial::DialError;
use crate::transport::handshake::{Denial, Purpose};
use crate::transport::link::dial_verified;
use crate::transport::shared_state::Registry;
use crate::transport::socket::PeerStream;
use crate::transport::wire::Frame;
use crate::transport::wire::frame_limits::{self, FrameLimits};
use crate::transport::wire::framing::read_frame_within;

/// The time between two questions to a member.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// The limit of a question and its answer, the dial included.
const ASK_LIMIT: Duration = Duration::from_millis(900);
/// How long a member is not asked again that does not know the question.
const UNAWARE_FOR: Duration = Duration::from_mins(1);

/// What a member can be asked for.
trait Reported: Sized + Send + Sync + 'static {
    /// The purpose of the connection.
    const PURPOSE: Purpose;
    /// The frame that answers it.
    const LIMITS: FrameLimits;

    /// Returns what the frame has.
    ///
    /// # Errors
    /// The name of its kind, if it is another one.
    fn of(frame: Frame) -> Result<Self, &'static str>;

    /// Checks that it is bounded and printable.
    fn check(&self) -> Result<(), &'static str>;
}

impl Reported for NodeReport {
    const PURPOSE: Purpose = Purpose::Report;
    const LIMITS: FrameLimits = frame_limits::REPORT;

    fn of(frame: Frame) -> Result<Self, &'static str> {
        if let Frame::Report(report) = frame { Ok(*report) } else { Err(frame.kind().1) }
    }

    fn check(&self) -> Result<(), &'static str> {
        self.check()
    }
}

impl Reported for Vec<EventReport> {
    const PURPOSE: Purpose = Purpose::Events;
    const LIMITS: FrameLimits = frame_limits::EVENTS;

    fn of(frame: Frame) -> Result<Self, &'static str> {
        if let Frame::Events(events) = frame { Ok(events) } else { Err(frame.kind().1) }
    }

    fn check(&self) -> Result<(), &'static str> {
        check_events(self)
    }
}

/// What all members said in one round.
type Round<T> = Arc<[AskedMember<T>]>;

/// The questions of this node.
pub struct Questions {
    /// Weak, because the handle in there leads to these.
    registry: Weak<Registry>,
    reports: Question<NodeReport>,
    events: Question<Vec<EventReport>>,
}

/// One question, and what is known of its answers.
struct Question<T> {
    rounds: Mutex<Rounds<T>>,
    /// Until when members are not asked that do not know the question.
    unaware: Arc<Mutex<HashMap<u64, Instant>>>,
}

/// The latest round.
struct Rounds<T> {
    latest: Option<(Instant, watch::Receiver<Option<Round<T>>>)>,
}

impl Questions {
    /// Returns the questions of a node to the members in its table.
    pub fn new(registry: &Arc<Registry>) -> Self {
        Self { registry: Arc::downgrade(registry), reports: Question::new(), events: Question::new() }
    }
}

impl MemberReports for Questions {
    fn gather(&self) -> AskedMembers {
        self.reports.gather(&self.registry)
    }

    fn gather_events(&self) -> AskedMembers<Vec<EventReport>> {
        self.events.gather(&self.registry)
    }
}

impl<T: Reported> Question<T> {
    fn new() -> Self {
        Self { rounds: Mutex::new(Rounds { latest: None }), unaware: Arc::default() }
    }

    /// Returns where the answers of the latest round will be; begins one where that is due.
    fn round(&self, registry: &Weak<Registry>) -> watch::Receiver<Option<Round<T>>> {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((began, answers)) = &rounds.latest
            && began.elapsed() < ROUND_EVERY
        {
            return answers.clone();
        }
        let (sender, answers) = watch::channel(None);
        // A task of its own: a caller that hangs up does not make the next one ask anew.
        if let Some(registry) = registry.upgrade() {
            let (asking, unaware) = (Arc::clone(&registry), Arc::clone(&self.unaware));
            registry.spawn(async move { drop(sender.send(Some(ask_all(&asking, &unaware).await))) });
        }
        rounds.latest = Some((Instant::now(), answers.clone()));
        answers
    }

    fn gather(&self, registry: &Weak<Registry>) -> AskedMembers<T> {
        let mut answers = self.round(registry);
        Box::pin(async move {
            let answered = answers.wait_for(Option::is_some).await;
            // An error means that the transport has stopped.
            answered.ok().and_then(|round| round.clone()).unwrap_or_else(|| Arc::new([]))
        })
    }
}

async fn ask_all<T: Reported>(registry: &Registry, unaware: &Mutex<HashMap<u64, Instant>>) -> Round<T> {
    let Some(table) = registry.table().filter(|table| !table.removed) else { return Arc::new([]) };
    let others = table.peers.iter().filter(|(raft_id, ..)| *raft_id != table.raft_id);
    join_all(others.map(|(raft_id, _, listed)| ask(registry, *raft_id, listed, unaware))).await.into()
}

async fn ask<T: Reported>(
    registry: &Registry,
    raft_id: u64,
    listed: &str,
    unaware: &Mutex<HashMap<u64, Instant>>,
) -> AskedMember<T> {
    let known = || unaware.lock().unwrap_or_else(PoisonError::into_inner);
    let round_trip = registry.handle.metrics().network.peer(raft_id).last_round_trip();
    let is_linked = registry.has_connection(raft_id);
    let is_unaware = is_linked && known().get(&raft_id).is_some_and(|until| Instant::now() < *until);
    if is_unaware {
        return AskedMember { raft_id, round_trip, asked: Asked::WithoutReport };
    }
    let address = registry.directory().dialled.get(&raft_id).map(|it| it.borrow().address(0).to_owned());
    let address = address.unwrap_or_else(|| listed.to_owned());
    let asked = match timeout(ASK_LIMIT, answer_of(registry, raft_id, &address)).await {
        Ok(Ok(answer)) => Asked::Answered(Box::new(answer)),
        // An earlier version closes a connection for a purpose that it does not know.
        Ok(Err(DialError::Foreign(_) | DialError::Closed(_) | DialError::Broken(_))) if is_linked => {
            let mut unaware = known();
            unaware.retain(|_, until| Instant::now() < *until);
            unaware.insert(raft_id, Instant::now() + UNAWARE_FOR);
            Asked::WithoutReport
        }
        Ok(Err(DialError::Denied(Denial::Starting | Denial::Unlisted | Denial::NoBootId))) => Asked::WithoutReport,
        Ok(Err(_)) | Err(_) => Asked::NoAnswer,
    };
    AskedMember { raft_id, round_trip, asked }
}

/// Asks one member. What is wrong with its answer counts as a broken connection.
async fn answer_of<T: Reported>(registry: &Registry, raft_id: u64, address: &str) -> Result<T, DialError> {
    let hello = registry.hello(T::PURPOSE, raft_id);
    let (mut stream, _) = dial_verified(registry, address, &hello, raft_id).await?;
    let broken = DialError::Broken;
    let frame = read_frame_within(&mut stream, T::LIMITS, ASK_LIMIT).await;
    let answer = T::of(frame.map_err(|error| broken(error.to_string()))?);
    let answer = answer.map_err(|other| broken(other.to_owned()))?;
    if let Err(reason) = answer.check() {
        registry.warn_limited("a report of a member is not shown", address, reason);
        return Err(broken(reason.to_owned()));
    }
    Ok(answer)
}

/// Answers a member with the report of this node.
pub async fn answer(registry: &Registry, mut stream: PeerStream) {
    finish(&mut stream, &Frame::Report(Box::new(registry.handle.report()))).await;
}

/// Answers a member with the latest events of this node.
pub async fn answer_events(registry: &Registry, mut stream: PeerStream) {
    finish(&mut stream, &Frame::Events(registry.handle.latest_events())).await;
}
