//! The question to each member for its report, and the answer; both ends.
//!
//! Why: an overview shows all members, and a client may be able to reach one of them only. The question has a connection of its own: a node
//! of an earlier version closes one whose purpose it does not know, and on the link of two members that would cost their raft messages.
//!
//! ```text
//!   dialler                       acceptor
//!   Hello (purpose report) ----->  is it a member? else a denial
//!                     <----------  Welcome, Report
//! ```
//!
//! Invariants: only members are answered, and a node that waits for its first snapshot answers the nodes of its cluster. Neither end asks
//! its loop. However many clients ask for an overview, a member is asked once in [`ROUND_EVERY`], for at most [`ASK_LIMIT`]. A
//! report that is not bounded and printable is none.
//!
//! See also: [`NodeReport`] (the content), `http::metrics::overview` (who asks).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::finish;
use crate::consensus::{AskedMembers, MemberReports};
use crate::model::{Asked, AskedMember, NodeReport};
use crate::transport::handshake::dial::DialError;
use crate::transport::handshake::{Denial, Purpose};
use crate::transport::link::dial_verified;
use crate::transport::shared_state::Registry;
use crate::transport::socket::PeerStream;
use crate::transport::wire::Frame;
use crate::transport::wire::frame_limits;
use crate::transport::wire::framing::read_frame_within;

/// The time between two questions to a member.
const ROUND_EVERY: Duration = Duration::from_secs(1);
/// The limit of a question and its answer, the dial included.
const ASK_LIMIT: Duration = Duration::from_millis(900);
/// How long a member is not asked again that does not know the question.
const UNAWARE_FOR: Duration = Duration::from_mins(1);

/// What all members said in one round.
type Round = Arc<[AskedMember]>;

/// The questions of this node.
pub struct Questions {
    /// Weak, because the handle in there leads to these.
    registry: Weak<Registry>,
    rounds: Mutex<Rounds>,
    /// Until when members are not asked that do not know the question.
    unaware: Arc<Mutex<HashMap<u64, Instant>>>,
}

/// The latest round.
#[derive(Default)]
struct Rounds {
    latest: Option<(Instant, watch::Receiver<Option<Round>>)>,
}

impl Questions {
    /// Returns the questions of a node to the members in its table.
    pub fn new(registry: &Arc<Registry>) -> Self {
        Self { registry: Arc::downgrade(registry), rounds: Mutex::default(), unaware: Arc::default() }
    }

    /// Returns where the answers of the latest round will be; begins one where that is due.
    fn round(&self) -> watch::Receiver<Option<Round>> {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((began, answers)) = &rounds.latest
            && began.elapsed() < ROUND_EVERY
        {
            return answers.clone();
        }
        let (sender, answers) = watch::channel(None);
        // A task of its own: a caller that hangs up does not make the next one ask anew.
        if let Some(registry) = self.registry.upgrade() {
            let (asking, unaware) = (Arc::clone(&registry), Arc::clone(&self.unaware));
            registry.spawn(async move { drop(sender.send(Some(ask_all(&asking, &unaware).await))) });
        }
        rounds.latest = Some((Instant::now(), answers.clone()));
        answers
    }
}

impl MemberReports for Questions {
    fn gather(&self) -> AskedMembers {
        let mut answers = self.round();
        Box::pin(async move {
            let answered = answers.wait_for(Option::is_some).await;
            // An error means that the transport has stopped.
            answered.ok().and_then(|round| round.clone()).unwrap_or_else(|| Arc::new([]))
        })
    }
}

async fn ask_all(registry: &Registry, unaware: &Mutex<HashMap<u64, Instant>>) -> Round {
    let Some(table) = registry.table().filter(|table| !table.removed) else { return Arc::new([]) };
    let others = table.peers.iter().filter(|(raft_id, ..)| *raft_id != table.raft_id);
    join_all(others.map(|(raft_id, _, listed)| ask(registry, *raft_id, listed, unaware))).await.into()
}

async fn ask(registry: &Registry, raft_id: u64, listed: &str, unaware: &Mutex<HashMap<u64, Instant>>) -> AskedMember {
    let known = || unaware.lock().unwrap_or_else(PoisonError::into_inner);
    let round_trip = registry.handle.metrics().network.peer(raft_id).last_round_trip();
    let is_linked = registry.has_connection(raft_id);
    let is_unaware = is_linked && known().get(&raft_id).is_some_and(|until| Instant::now() < *until);
    if is_unaware {
        return AskedMember { raft_id, round_trip, asked: Asked::WithoutReport };
    }
    let address = registry.directory().dialled.get(&raft_id).map(|it| it.borrow().address(0).to_owned());
    let address = address.unwrap_or_else(|| listed.to_owned());
    let asked = match timeout(ASK_LIMIT, report_of(registry, raft_id, &address)).await {
        Ok(Ok(report)) => Asked::Answered(Box::new(report)),
        // An earlier version closes a connection for a purpose that it does not know.
        Ok(Err(DialError::Foreign(_) | DialError::Broken(_))) if is_linked => {
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
async fn report_of(registry: &Registry, raft_id: u64, address: &str) -> Result<NodeReport, DialError> {
    let hello = registry.hello(Purpose::Report, raft_id);
    let (mut stream, _) = dial_verified(registry, address, &hello, raft_id).await?;
    let broken = DialError::Broken;
    match read_frame_within(&mut stream, frame_limits::REPORT, ASK_LIMIT).await {
        Ok(Frame::Report(report)) => {
            if let Err(reason) = report.check() {
                registry.warn_limited("a report of a member is not shown", address, reason);
                return Err(broken(reason.to_owned()));
            }
            Ok(*report)
        }
        Ok(other) => Err(broken(other.kind().1.to_owned())),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// Answers a member with the report of this node.
pub async fn answer(registry: &Registry, mut stream: PeerStream) {
    finish(&mut stream, &Frame::Report(Box::new(registry.handle.report()))).await;
}
