//! Client requests: proposed here, forwarded to the leader, or waiting until there is one.
//!
//! Why: any node takes any request, and its client must learn exactly what is known of its outcome.
//!
//! Invariants: `propose` is only called on the leader. A write is proposed at most once after which its outcome is
//! unknown; only one that certainly was not applied is tried again, until its deadline. A request goes to the leader,
//! or through one member to the leader, and no further ([`Hop`]). Nothing is proposed that [`validate`] refuses,
//! wherever it comes from, nor what has waited past its deadline: its client may have been told so, and may have
//! written something else since. Nor is what would make the state larger while the disk of a voter is nearly full
//! (`disk_space`). One entry holds one command. Everything that waits counts against one bound. One proposal of writes
//! is under way, the next takes everything that came meanwhile: what a write costs is syncs and turns, on every node,
//! and not its bytes.
//!
//! See also: waiters by (term, index) (`waiters`), membership requests (`membership`).

pub(crate) mod cluster_clock;
pub(crate) mod disk_space;
pub(crate) mod shared_context;
mod slow_backlog;
pub(crate) mod waiters;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use slog::warn;

use super::core::pending_request::{ClientRequest, late};
use super::core::{Core, Phase};
use super::input::Hop;
use super::raft_rs_adapter::decoded_entries::Decoded;
use crate::model::Millis;
use crate::model::validate;
use crate::model::{Answer, Code, Limits, Outcome, Proposal, Refusal, Request};
use crate::plant::{self, Plant};
use crate::telemetry::logging::LogLimit;
use shared_context::Context;
use waiters::Waiters;

/// The shortest time between two lines about requests that are refused because too many wait.
const OVERLOADED_EVERY: Millis = 1_000;

/// The most entries that one proposal carries.
const ENTRIES_PER_PROPOSAL: usize = 1024;

/// The maximum bytes of commands in a proposal, unless a single one is larger.
const BYTES_PER_PROPOSAL: usize = 4 << 20;

/// The condition for a membership answer on this node.
enum Until {
    Applied(u64),
    LeaderIs(String),
}

/// All requests on this node.
#[derive(Default)]
pub(crate) struct Proposals {
    /// Writes to be proposed once those before them are committed.
    batch: VecDeque<ClientRequest>,
    /// Writes that were proposed.
    waiters: Waiters<ClientRequest>,
    /// Requests that wait for a leader.
    awaiting_leader: Vec<ClientRequest>,
    /// Forwarded requests, by token, with the member they were forwarded to.
    forwarded: BTreeMap<u64, (u64, ClientRequest)>,
    /// Completed requests that are not yet visible on this node.
    awaiting_visibility: Vec<(Until, ClientRequest, Answer)>,
    /// Membership requests that this node leads, on their way to `membership`.
    changes: Vec<ClientRequest>,
    /// The rate limit of lines about requests that are refused because too many wait.
    overloaded: LogLimit,
}

impl Proposals {
    /// Returns how many requests wait.
    pub fn len(&self) -> usize {
        self.batch.len()
            + self.waiters.len()
            + self.awaiting_leader.len()
            + self.forwarded.len()
            + self.awaiting_visibility.len()
    }

    /// Whether a request is pending whose outcome will be known.
    pub fn any_undecided(&self) -> bool {
        !self.batch.is_empty()
            || self.waiters.len() > 0
            || !self.forwarded.is_empty()
            || !self.awaiting_visibility.is_empty()
    }

    /// Whether a write is queued or proposed.
    pub fn any_write(&self) -> bool {
        !self.batch.is_empty() || self.waiters.len() > 0
    }
}

fn undecided() -> Refusal {
    Refusal::unknown(
        Code::Timeout,
        "the request was proposed but not decided before its deadline; it may still take effect, so read before you repeat it",
    )
}

/// Whether a request that may have had an effect can be sent on again: a membership change finds what was done before.
fn is_repeatable(request: &Request) -> bool {
    if plant::is(Plant::ForwardRetried) {
        return true;
    }
    !matches!(request, Request::Write(_) | Request::Transfer { .. })
}

fn check(request: &Request, limits: &Limits) -> Result<(), Refusal> {
    if plant::is(Plant::CommandUnchecked) {
        return Ok(());
    }
    validate::request(request, limits)
}

impl Proposals {
    /// Accepts a request. The node that forwarded it may have other limits, or none.
    pub fn request(&mut self, cx: &mut Context<'_>, waiting: ClientRequest, unavailable: Option<Refusal>) {
        if let Some(refusal) = unavailable {
            return cx.core.refuse(waiting, refusal);
        }
        if let Err(refusal) = check(&waiting.request, &cx.core.options.limits) {
            return cx.core.refuse(waiting, refusal);
        }
        if self.len() >= cx.core.options.pending_requests {
            if self.overloaded.every(OVERLOADED_EVERY, cx.core.now).is_some() {
                warn!(cx.core.log, "too many requests wait; refusing more"; "limits.pending_requests" => cx.core.options.pending_requests);
            }
            let full = Refusal::not_applied(
                Code::Overloaded,
                "too many requests wait on this node (limits.pending_requests); try again in a moment",
            );
            return cx.core.refuse(waiting, full);
        }
        self.route(cx, waiting);
    }

    /// Routes a request to where it can be carried out.
    fn route(&mut self, cx: &mut Context<'_>, waiting: ClientRequest) {
        // Four ways: too late; this node leads, and it is queued; a member leads or reaches the leader, and it is sent
        // there; no way to a leader is known, and it waits for one here, until its deadline.
        if cx.core.is_late(&waiting) {
            cx.core.refuse(waiting, late());
        } else if cx.core.leads() {
            let before = self.waiters.iter().chain(&self.batch);
            let backlog = slow_backlog::refusal(cx.core.now, &waiting.request, before);
            if let Some(refusal) = backlog.or_else(|| cx.space.lacks_space(cx.core, &waiting.request, 0)) {
                cx.core.refuse(waiting, refusal);
            } else if matches!(waiting.request, Request::Write(_)) {
                self.batch.push_back(waiting);
            } else {
                self.changes.push(waiting);
            }
        } else if let Some((to, hop)) = cx.live.way_to_leader(cx.core, waiting.hop, &waiting.request) {
            let token = cx.core.token();
            let left = waiting.deadline.saturating_sub(cx.core.now).max(1);
            cx.core.outbox.forward(token, to, hop, waiting.request.clone(), left);
            self.forwarded.insert(token, (to, waiting));
        } else {
            self.retry_later(cx, waiting);
        }
    }

    /// Queues a request again that certainly was not applied; a forwarded one is refused, for its first node to try
    /// again.
    pub fn retry_later(&mut self, cx: &mut Context<'_>, waiting: ClientRequest) {
        if waiting.hop != Hop::Client || waiting.deadline <= cx.core.now {
            let refusal = cx.live.no_leader(cx.core, &waiting.request);
            cx.core.refuse(waiting, refusal);
        } else {
            self.awaiting_leader.push(waiting);
        }
    }

    /// Whether a turn would propose writes.
    pub fn any_proposable(&self, core: &Core) -> bool {
        let log = &core.raw.raft.raft_log;
        // Writes gather while those before them are not committed. Entry 7 is on its way; 8 to 20 come meanwhile and
        // are proposed as one message once 7 is committed. With 1 024 of them it is worth a message of its own.
        let gathers = core.leads() && log.committed < log.last_index();
        !self.batch.is_empty() && (!gathers || self.batch.len() >= ENTRIES_PER_PROPOSAL)
    }

    /// Proposes queued writes, one entry each, in one message of bounded size; the rest waits for the next turn.
    pub fn propose_writes(&mut self, cx: &mut Context<'_>) {
        if !self.any_proposable(cx.core) {
            return;
        }
        let (over, batch): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.batch).into_iter().partition(|waiting| cx.core.is_late(waiting));
        self.batch = batch;
        over.into_iter().for_each(|waiting| cx.core.refuse(waiting, late()));
        self.refuse_what_grows(cx);
        // One stamp for all: they become part of the log in the same moment.
        let (mut entries, mut bytes, stamp) = (Vec::new(), 0, cx.clock.stamp(cx.core));
        let mut decoded = Vec::new();
        for waiting in &self.batch {
            if entries.len() == ENTRIES_PER_PROPOSAL || bytes >= BYTES_PER_PROPOSAL {
                break;
            }
            let Request::Write(write) = &waiting.request else { continue };
            let data = Proposal::encode(stamp, write);
            bytes += data.len();
            let data = Bytes::from(data);
            decoded.push(Proposal::of_one_key(stamp, write).map(|proposal| (data.clone(), proposal)));
            entries.push(Entry { data, ..Entry::default() });
        }
        if !entries.is_empty() {
            let group = self.batch.drain(..entries.len()).collect();
            self.propose(cx, group, entries, decoded);
        }
    }

    /// Refuses queued writes that need space, if a voter has too little for all of them.
    fn refuse_what_grows(&mut self, cx: &mut Context<'_>) {
        let queued = self.batch.iter().map(|waiting| slow_backlog::bytes(&waiting.request) as u64).sum();
        if !cx.space.is_short_for(cx.core, queued) {
            return;
        }
        let (batch, mut ahead) = (std::mem::take(&mut self.batch), 0);
        let mut kept = VecDeque::with_capacity(batch.len());
        for waiting in batch {
            if let Some(refusal) = cx.space.lacks_space(cx.core, &waiting.request, ahead) {
                cx.core.refuse(waiting, refusal);
            } else {
                ahead += slow_backlog::bytes(&waiting.request) as u64;
                kept.push_back(waiting);
            }
        }
        self.batch = kept;
    }

    /// Proposes one entry for each request of `group`, with what is in the entry where it is known.
    fn propose(
        &mut self,
        cx: &mut Context<'_>,
        group: Vec<ClientRequest>,
        entries: Vec<Entry>,
        decoded: Vec<Option<(Bytes, Proposal)>>,
    ) {
        let transferring = cx.core.raw.raft.lead_transferee.is_some();
        if !cx.core.leads() || transferring {
            group.into_iter().for_each(|waiting| self.retry_later(cx, waiting));
            return;
        }
        debug_assert!(
            plant::is(Plant::LateProposal) || group.iter().all(|waiting| waiting.deadline > cx.core.now),
            "no request is proposed after its deadline"
        );
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = cx.core.raft_id();
        message.set_entries(entries.into());
        if cx.core.raw.raft.step(message).is_err() {
            let full = Refusal::not_applied(
                Code::Overloaded,
                "the leader holds too many bytes that are not committed yet; try again in a moment",
            );
            group.into_iter().for_each(|waiting| cx.core.refuse(waiting, full.clone()));
            return;
        }
        // Raft has appended the group at the end of its log: three entries and an end of 20 are 18, 19 and 20.
        let (term, last) = (cx.core.raw.raft.term, cx.core.raw.raft.raft_log.last_index());
        let first = last + 1 - group.len() as u64;
        for ((index, waiting), decoded) in (first..).zip(group).zip(decoded) {
            self.waiters.insert(term, index, waiting.deadline, waiting);
            if let Some((data, proposal)) = decoded {
                cx.core.decoded.keep(Decoded { index, term, data, proposal });
            }
        }
    }

    pub fn request_applied(&mut self, term: u64, index: u64, answer: Answer) {
        if let Some(waiting) = self.waiters.applied(term, index) {
            (waiting.reply)(Ok(answer));
        }
    }

    pub fn requests_lost(&mut self, cx: &mut Context<'_>, term: u64, index: u64) {
        for waiting in self.waiters.lost(term, index) {
            self.retry_later(cx, waiting);
        }
    }

    pub fn requests_hidden(&mut self, cx: &mut Context<'_>, index: u64, term: u64) {
        // The snapshot holds everything up to `index`, and does not say which entries those were. A waiter at or below
        // it may have been applied or lost.
        for waiting in self.waiters.hidden(index) {
            cx.core.refuse(waiting, undecided());
        }
        self.requests_lost(cx, term, index);
    }

    /// Handles the end of a forwarded request: an answer, or a failure on the way.
    pub fn forward_ended(&mut self, cx: &mut Context<'_>, token: u64, result: Result<Answer, Refusal>) {
        let Some((to, waiting)) = self.forwarded.remove(&token) else { return };
        // Which failures are tried again:
        //    outcome        code                              write      membership change
        //    not_applied    no leader, stopping, removed,     again      again
        //                   joining
        //    not_applied    any other                         refused    refused
        //    unknown        timeout, join unfinished          refused    again: it finds in the table what was done
        //  A transfer is like a write: twice is not the same as once.
        match result {
            Ok(answer) if waiting.hop == Hop::Relay => (waiting.reply)(Ok(answer)),
            // Whether it is tried again is for the node to say whose client waits.
            Err(refusal) if waiting.hop == Hop::Relay => cx.core.refuse(waiting, refusal),
            Ok(answer) => self.answer_when_visible(cx, waiting, answer),
            Err(refusal) => {
                let repeatable = is_repeatable(&waiting.request);
                let again = match refusal.outcome {
                    Outcome::NotApplied => {
                        matches!(refusal.code, Code::NoLeader | Code::Stopping | Code::Removed | Code::Joining)
                    }
                    Outcome::Unknown => repeatable && matches!(refusal.code, Code::Timeout | Code::JoinUnfinished),
                };
                if again && refusal.outcome == Outcome::NotApplied {
                    cx.live.note_no_way(cx.core, to);
                }
                if again && waiting.deadline > cx.core.now {
                    let maybe_applied = waiting.maybe_applied || refusal.outcome == Outcome::Unknown;
                    self.awaiting_leader.push(ClientRequest { maybe_applied, ..waiting });
                } else {
                    cx.core.refuse_forwarded(waiting, refusal);
                }
            }
        }
    }

    /// Answers a request once its result is visible on this node.
    pub fn answer_when_visible(&mut self, cx: &mut Context<'_>, waiting: ClientRequest, answer: Answer) {
        let until = match &answer {
            Answer::Written(_) => return (waiting.reply)(Ok(answer)),
            Answer::Members { index, .. } => Until::Applied(*index),
            Answer::Transferred { node_id } => Until::LeaderIs(node_id.clone()),
        };
        self.awaiting_visibility.push((until, waiting, answer));
        self.answer_visible(cx);
    }

    pub fn answer_visible(&mut self, cx: &mut Context<'_>) {
        if self.awaiting_visibility.is_empty() {
            return;
        }
        // The leader has answered a join of n4 at index 50, and this follower has applied 48. The client that asks for
        // the members here next must find n4, so its answer waits for 50.
        let applied = cx.core.state_machine.applied().0;
        let leader = cx.core.leader().map(|leader| leader.node_id);
        let done = self.awaiting_visibility.extract_if(.., |(until, _, _)| match until {
            Until::Applied(index) => applied >= *index,
            Until::LeaderIs(name) => leader.as_ref() == Some(name),
        });
        for (_, waiting, answer) in done.collect::<Vec<_>>() {
            (waiting.reply)(Ok(answer));
        }
    }

    /// Answers the requests that asked for the removal of this node.
    pub fn answer_own_removal(&mut self, cx: &mut Context<'_>) {
        let (me, index) = (cx.core.my_name(), cx.core.state_machine.applied().0);
        let members = cx.core.state_machine.members();
        let own = |waiting: &ClientRequest| match &waiting.request {
            Request::Remove { node_id } => *node_id == me || members.named(node_id).is_none(),
            _ => false,
        };
        let mut done = self.awaiting_leader.extract_if(.., |waiting| own(waiting)).collect::<Vec<_>>();
        let forwarded = self.forwarded.extract_if(.., |_, (_, waiting)| own(waiting));
        done.extend(forwarded.map(|(_, (_, waiting))| waiting));
        done.extend(
            self.awaiting_visibility.extract_if(.., |(_, waiting, _)| own(waiting)).map(|(_, waiting, _)| waiting),
        );
        for waiting in done {
            (waiting.reply)(Ok(Answer::Members { index, changed: true, warning: None, dropped: None }));
        }
    }

    /// Routes waiting requests again, if there may be a way to a leader.
    pub fn route_waiting(&mut self, cx: &mut Context<'_>) {
        if cx.core.raw.raft.lead_transferee.is_none() && cx.core.phase == Phase::Member {
            for waiting in std::mem::take(&mut self.awaiting_leader) {
                if waiting.deadline <= cx.core.now {
                    let refusal = cx.live.no_leader(cx.core, &waiting.request);
                    cx.core.refuse(waiting, refusal);
                } else {
                    self.route(cx, waiting);
                }
            }
        }
    }

    pub fn expire_requests(&mut self, cx: &mut Context<'_>) {
        cx.live.note_leader(cx.core);
        self.answer_visible(cx);
        self.route_waiting(cx);
        let now = cx.core.now;
        for waiting in self.waiters.expired(now) {
            cx.core.refuse(waiting, undecided());
        }
        let mut over = self.awaiting_leader.extract_if(.., |waiting| waiting.deadline <= now).collect::<Vec<_>>();
        let (unproposed, batch) =
            std::mem::take(&mut self.batch).into_iter().partition::<Vec<_>, _>(|waiting| waiting.deadline <= now);
        self.batch = batch.into();
        over.extend(unproposed);
        for waiting in over {
            let refusal = cx.live.no_leader(cx.core, &waiting.request);
            cx.core.refuse(waiting, refusal);
        }
        let late =
            self.awaiting_visibility.extract_if(.., |(_, waiting, _)| waiting.deadline <= now).collect::<Vec<_>>();
        for (_, waiting, _) in late {
            let detail =
                "the leader has done it, but this node has not seen that yet; GET /raft/stats shows when it has";
            cx.core.refuse(waiting, Refusal::unknown(Code::Timeout, detail));
        }
    }

    /// Takes the membership requests for this leader.
    pub fn take_changes(&mut self) -> Vec<ClientRequest> {
        std::mem::take(&mut self.changes)
    }

    /// Refuses requests that were neither proposed nor forwarded.
    pub fn refuse_undispatched(&mut self, core: &Core, why: fn() -> Refusal) {
        let mut waiting = Vec::from(std::mem::take(&mut self.batch));
        waiting.append(&mut self.awaiting_leader);
        waiting.into_iter().for_each(|one| core.refuse(one, why()));
    }

    /// Refuses proposed and forwarded requests as unknown.
    pub fn refuse_dispatched(&mut self, core: &Core, why: fn() -> Refusal) {
        let mut proposed = self.waiters.drain();
        proposed.extend(std::mem::take(&mut self.forwarded).into_values().map(|(_, waiting)| waiting));
        proposed.extend(std::mem::take(&mut self.awaiting_visibility).into_iter().map(|(_, waiting, _)| waiting));
        for waiting in proposed {
            let refusal = why();
            core.refuse(waiting, Refusal::unknown(refusal.code, refusal.detail));
        }
    }
}
