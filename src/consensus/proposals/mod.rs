//! Clients' requests: proposed here, sent on to the leader, or parked until there is one.
//!
//! Why: any node takes any request, and whoever asked must learn exactly what is known of its fate.
//!
//! Laws: `propose` is only ever called on the leader. A write is proposed at most once after which its fate is unknown;
//! only one that certainly was not applied is tried again, until its deadline. A request goes to the leader, or through
//! one member to the leader, and no further ([`Hop`]). Nothing is proposed that [`validate`] does not let pass, wherever
//! it comes from. What has waited past its deadline, in a queue or on a disk, is dropped and never proposed: its client may
//! have been told so, and may have written something else since. Nor is what would make the state larger while the disk of a
//! voter is nearly full (`disk_space`).
//! One entry holds one command. Everything that waits counts against one bound. One proposal of writes is on its way, the
//! next takes everything that came meanwhile: what a write costs is syncs and turns, on every node, and not its bytes.
//!
//! Not here: waiters by (term, index) (`waiters`), and what membership requests do (`membership`).

pub(crate) mod cluster_clock;
pub(crate) mod disk_space;
pub(crate) mod waiters;

use std::collections::{BTreeMap, VecDeque};

use raft::eraftpb::{Entry, Message, MessageType};
use slog::warn;

use super::core::Phase;
use super::core::client_request::{ClientRequest, late, removed, stopping};
use super::driver::Driver;
use super::input::Hop;
use crate::model::Millis;
use crate::model::validate;
use crate::model::{Answer, Code, Outcome, Proposal, Refusal, Request};
use crate::plant::{self, Plant};
use waiters::Waiters;

/// The most entries that one proposal carries.
const ENTRIES_PER_PROPOSAL: usize = 1024;

/// The most bytes of commands that one proposal carries, unless a single one is larger.
const BYTES_PER_PROPOSAL: usize = 4 << 20;

/// What has to be true here before a membership answer is given.
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
    parked: Vec<ClientRequest>,
    /// Requests that were sent on, by token, with the member they were sent to.
    forwarded: BTreeMap<u64, (u64, ClientRequest)>,
    /// Requests that are done, but not yet visible on this node.
    almost: Vec<(Until, ClientRequest, Answer)>,
    /// When a refusal for lack of room was logged last.
    full_logged: Option<Millis>,
}

impl Proposals {
    fn len(&self) -> usize {
        self.batch.len() + self.waiters.len() + self.parked.len() + self.forwarded.len() + self.almost.len()
    }

    /// Whether a request is under way whose fate will be known.
    pub fn any_undecided(&self) -> bool {
        !self.batch.is_empty() || self.waiters.len() > 0 || !self.forwarded.is_empty() || !self.almost.is_empty()
    }

    /// Whether a write is on its way into the log.
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

impl Driver {
    /// Why this node answers no data requests now, if it does not.
    pub(crate) fn unavailable(&self) -> Option<Refusal> {
        self.no_member().or_else(|| self.verification.refusal())
    }

    /// Why this node is none that answers data requests, if it is not.
    pub(crate) fn no_member(&self) -> Option<Refusal> {
        if self.core.stop_by.is_some() {
            return Some(stopping());
        }
        match self.core.phase {
            Phase::Member => None,
            Phase::Removed => Some(removed()),
            Phase::Forming | Phase::Joining => Some(self.joiner.not_joined_yet(&self.core, &self.live)),
        }
    }

    /// Takes in a request that was sent to the raft id `to`, or a client's where that is 0. This node may belong to another
    /// cluster since: there the request would be done and acknowledged, and in its own it would be lost.
    pub(crate) fn take_request(&mut self, waiting: ClientRequest, to: u64) {
        if to == 0 || to == self.core.raft_id() {
            return self.request(waiting);
        }
        let detail = "the node that the request was sent on to has become another one since; send it again";
        (waiting.reply)(Err(Refusal::not_applied(Code::NoLeader, detail)));
    }

    /// Takes a request in. Whoever sent it on has other limits, or none.
    pub(crate) fn request(&mut self, waiting: ClientRequest) {
        if let Some(refusal) = self.unavailable() {
            return self.core.refuse(waiting, refusal);
        }
        if !plant::is(Plant::CommandUnchecked)
            && let Err(refusal) = validate::request(&waiting.request, &self.core.options.limits)
        {
            return self.core.refuse(waiting, refusal);
        }
        if self.proposals.len() >= self.core.options.pending_requests {
            let logged = self.proposals.full_logged;
            if logged.is_none_or(|at| self.core.now >= at + 1000) {
                self.proposals.full_logged = Some(self.core.now);
                warn!(self.core.log, "too many requests wait; refusing more"; "limits.pending_requests" => self.core.options.pending_requests);
            }
            let full = Refusal::not_applied(
                Code::Overloaded,
                "too many requests wait on this node (limits.pending_requests); try again in a moment",
            );
            return self.core.refuse(waiting, full);
        }
        self.route(waiting);
    }

    /// Sends a request where it can be carried out.
    fn route(&mut self, waiting: ClientRequest) {
        if self.core.is_late(&waiting) {
            self.core.refuse(waiting, late());
        } else if self.core.leads() {
            if let Some(refusal) = self.voter_disk_space.lacks_space(&self.core, &waiting.request) {
                self.core.refuse(waiting, refusal);
            } else if matches!(waiting.request, Request::Write(_)) {
                self.proposals.batch.push_back(waiting);
            } else if let Err(waiting) = self.membership.enqueue(waiting) {
                let full = "too many membership changes wait; try again later";
                self.core.refuse(*waiting, Refusal::not_applied(Code::Overloaded, full));
            }
        } else if let Some((to, hop)) = self.live.way_to_leader(&self.core, waiting.hop, &waiting.request) {
            let token = self.core.token();
            let left = waiting.deadline.saturating_sub(self.core.now).max(1);
            self.core.outbox.forward(token, to, hop, waiting.request.clone(), left);
            self.proposals.forwarded.insert(token, (to, waiting));
        } else {
            self.retry_later(waiting);
        }
    }

    /// Tries again what certainly was not applied; a peer's request goes back to where it came from for that.
    pub(crate) fn retry_later(&mut self, waiting: ClientRequest) {
        if waiting.hop != Hop::Client || waiting.deadline <= self.core.now {
            let refusal = self.live.no_leader(&self.core, &waiting.request);
            self.core.refuse(waiting, refusal);
        } else {
            self.proposals.parked.push(waiting);
        }
    }

    /// Whether a turn would propose writes.
    pub(crate) fn any_proposable(&self) -> bool {
        let log = &self.core.raw.raft.raft_log;
        let gathers = self.core.leads() && log.committed < log.last_index();
        !self.proposals.batch.is_empty() && (!gathers || self.proposals.batch.len() >= ENTRIES_PER_PROPOSAL)
    }

    /// Proposes writes that have come in, one entry each, in one message of bounded size; the rest waits for the next
    /// turn.
    pub(crate) fn propose_writes(&mut self) {
        if !self.any_proposable() {
            return;
        }
        let (over, batch): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.proposals.batch).into_iter().partition(|waiting| self.core.is_late(waiting));
        self.proposals.batch = batch;
        over.into_iter().for_each(|waiting| self.core.refuse(waiting, late()));
        self.refuse_what_grows();
        let (mut entries, mut bytes, stamp) = (Vec::new(), 0, self.clock.stamp(&self.core));
        for waiting in &self.proposals.batch {
            if entries.len() == ENTRIES_PER_PROPOSAL || bytes >= BYTES_PER_PROPOSAL {
                break;
            }
            let Request::Write(write) = &waiting.request else { continue };
            let data = Proposal::encode(stamp, write);
            bytes += data.len();
            entries.push(Entry { data: data.into(), ..Entry::default() });
        }
        if !entries.is_empty() {
            let group = self.proposals.batch.drain(..entries.len()).collect();
            self.propose(group, entries);
        }
    }

    /// Refuses what was taken in before a voter told that its disk is nearly full.
    fn refuse_what_grows(&mut self) {
        if self.voter_disk_space.nearly_full_voter(&self.core).is_none() {
            return;
        }
        let batch = std::mem::take(&mut self.proposals.batch);
        let mut kept = VecDeque::with_capacity(batch.len());
        for waiting in batch {
            match self.voter_disk_space.lacks_space(&self.core, &waiting.request) {
                Some(refusal) => self.core.refuse(waiting, refusal),
                None => kept.push_back(waiting),
            }
        }
        self.proposals.batch = kept;
    }

    fn propose(&mut self, group: Vec<ClientRequest>, entries: Vec<Entry>) {
        let transferring = self.core.raw.raft.lead_transferee.is_some();
        if !self.core.leads() || transferring {
            group.into_iter().for_each(|waiting| self.retry_later(waiting));
            return;
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.core.raft_id();
        message.set_entries(entries.into());
        if self.core.raw.raft.step(message).is_err() {
            let full = Refusal::not_applied(
                Code::Overloaded,
                "the leader holds too many bytes that are not committed yet; try again in a moment",
            );
            group.into_iter().for_each(|waiting| self.core.refuse(waiting, full.clone()));
            return;
        }
        let (term, last) = (self.core.raw.raft.term, self.core.raw.raft.raft_log.last_index());
        let first = last + 1 - group.len() as u64;
        for (index, waiting) in (first..).zip(group) {
            self.proposals.waiters.insert(term, index, waiting.deadline, waiting);
        }
    }

    pub(crate) fn request_applied(&mut self, term: u64, index: u64, answer: Answer) {
        if let Some(waiting) = self.proposals.waiters.applied(term, index) {
            (waiting.reply)(Ok(answer));
        }
    }

    pub(crate) fn requests_lost(&mut self, term: u64, index: u64) {
        for waiting in self.proposals.waiters.lost(term, index) {
            self.retry_later(waiting);
        }
    }

    pub(crate) fn requests_hidden(&mut self, index: u64, term: u64) {
        for waiting in self.proposals.waiters.hidden(index) {
            self.core.refuse(waiting, undecided());
        }
        self.requests_lost(term, index);
    }

    /// The leader, or the connection to it, has answered a request that was sent on.
    pub(crate) fn forward_ended(&mut self, token: u64, result: Result<Answer, Refusal>) {
        let Some((to, waiting)) = self.proposals.forwarded.remove(&token) else { return };
        match result {
            Ok(answer) if waiting.hop == Hop::Relay => (waiting.reply)(Ok(answer)),
            // Whether it is tried again is for the node to say whose client waits.
            Err(refusal) if waiting.hop == Hop::Relay => self.core.refuse(waiting, refusal),
            Ok(answer) => self.answer_when_visible(waiting, answer),
            Err(refusal) => {
                let repeatable = !matches!(waiting.request, Request::Write(_) | Request::Transfer { .. })
                    || plant::is(Plant::ForwardRetried);
                let again = match refusal.fate {
                    Outcome::NotApplied => {
                        matches!(refusal.code, Code::NoLeader | Code::Stopping | Code::Removed | Code::Joining)
                    }
                    Outcome::Unknown => repeatable && matches!(refusal.code, Code::Timeout | Code::JoinUnfinished),
                };
                if again && refusal.fate == Outcome::NotApplied {
                    self.live.note_no_way(&self.core, to);
                }
                if again && waiting.deadline > self.core.now {
                    let doubt = waiting.doubt || refusal.fate == Outcome::Unknown;
                    self.proposals.parked.push(ClientRequest { doubt, ..waiting });
                } else {
                    self.core.refuse(waiting, refusal);
                }
            }
        }
    }

    /// Gives an answer once this node shows what it says.
    pub(crate) fn answer_when_visible(&mut self, waiting: ClientRequest, answer: Answer) {
        let until = match &answer {
            Answer::Written(_) => return (waiting.reply)(Ok(answer)),
            Answer::Members { index, .. } => Until::Applied(*index),
            Answer::Transferred { node_id } => Until::LeaderIs(node_id.clone()),
        };
        self.proposals.almost.push((until, waiting, answer));
        self.answer_visible();
    }

    pub(crate) fn answer_visible(&mut self) {
        if self.proposals.almost.is_empty() {
            return;
        }
        let applied = self.core.state_machine.applied().0;
        let leader = self.core.leader().map(|leader| leader.node_id);
        let done = self.proposals.almost.extract_if(.., |(until, _, _)| match until {
            Until::Applied(index) => applied >= *index,
            Until::LeaderIs(name) => leader.as_ref() == Some(name),
        });
        for (_, waiting, answer) in done.collect::<Vec<_>>() {
            (waiting.reply)(Ok(answer));
        }
    }

    /// This node was removed, which some requests wait for: they are done.
    pub(crate) fn answer_own_removal(&mut self) {
        let (me, index) = (self.core.my_name(), self.core.state_machine.applied().0);
        let members = self.core.state_machine.members();
        let own = |waiting: &ClientRequest| match &waiting.request {
            Request::Remove { node_id } => *node_id == me || members.named(node_id).is_none(),
            _ => false,
        };
        let mut done = self.proposals.parked.extract_if(.., |waiting| own(waiting)).collect::<Vec<_>>();
        let forwarded = self.proposals.forwarded.extract_if(.., |_, (_, waiting)| own(waiting));
        done.extend(forwarded.map(|(_, (_, waiting))| waiting));
        done.extend(
            self.proposals.almost.extract_if(.., |(_, waiting, _)| own(waiting)).map(|(_, waiting, _)| waiting),
        );
        for waiting in done {
            (waiting.reply)(Ok(Answer::Members { index, changed: true, warning: None, dropped: None }));
        }
    }

    /// Sends parked requests to the leader where there is a way to one now.
    pub(crate) fn unpark(&mut self) {
        if self.core.raw.raft.lead_transferee.is_none() && self.core.phase == Phase::Member {
            for waiting in std::mem::take(&mut self.proposals.parked) {
                if waiting.deadline <= self.core.now {
                    let refusal = self.live.no_leader(&self.core, &waiting.request);
                    self.core.refuse(waiting, refusal);
                } else {
                    self.route(waiting);
                }
            }
        }
    }

    pub(crate) fn expire_requests(&mut self) {
        self.live.note_leader(&self.core);
        self.answer_visible();
        self.unpark();
        let now = self.core.now;
        for waiting in self.proposals.waiters.expired(now) {
            self.core.refuse(waiting, undecided());
        }
        let mut over = self.proposals.parked.extract_if(.., |waiting| waiting.deadline <= now).collect::<Vec<_>>();
        let (unproposed, batch) = std::mem::take(&mut self.proposals.batch)
            .into_iter()
            .partition::<Vec<_>, _>(|waiting| waiting.deadline <= now);
        self.proposals.batch = batch.into();
        over.extend(unproposed);
        for waiting in over {
            let refusal = self.live.no_leader(&self.core, &waiting.request);
            self.core.refuse(waiting, refusal);
        }
        let late = self.proposals.almost.extract_if(.., |(_, waiting, _)| waiting.deadline <= now).collect::<Vec<_>>();
        for (_, waiting, _) in late {
            let detail =
                "the leader has done it, but this node has not seen that yet; GET /raft/stats shows when it has";
            self.core.refuse(waiting, Refusal::unknown(Code::Timeout, detail));
        }
    }

    /// Refuses what has not reached the log or another node yet.
    pub(crate) fn refuse_undispatched(&mut self, why: fn() -> Refusal) {
        let mut waiting = Vec::from(std::mem::take(&mut self.proposals.batch));
        waiting.append(&mut self.proposals.parked);
        waiting.extend(self.membership.take_queue());
        waiting.into_iter().for_each(|one| self.core.refuse(one, why()));
    }

    /// Refuses everything that waits: as unknown where it was proposed or sent on.
    pub(crate) fn refuse_everything(&mut self, why: fn() -> Refusal) {
        self.refuse_undispatched(why);
        let mut proposed = self.proposals.waiters.drain();
        proposed.extend(std::mem::take(&mut self.proposals.forwarded).into_values().map(|(_, waiting)| waiting));
        proposed.extend(std::mem::take(&mut self.proposals.almost).into_iter().map(|(_, waiting, _)| waiting));
        for waiting in proposed {
            let refusal = why();
            self.core.refuse(waiting, Refusal::unknown(refusal.code, refusal.detail));
        }
        self.reads.refuse_reads(&self.core, why);
        self.refuse_membership(why);
    }
}
