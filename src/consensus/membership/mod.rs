//! The leader's side of membership: join, remove, move, promotion.
//!
//! Why: a wrong membership change can stop a cluster for good. Each goes through the same small steps, any of which may
//! be the last before a crash, and the next leader finds all it needs in the replicated table.
//!
//! Invariants: one change at a time (Raft thesis 4.1), proposed only when the leader has applied its whole log and no
//! change is pending, since raft silently turns others into empty entries; simulated with raft's own `Changer` first;
//! answered by the type of the entry that was applied at its (term, index). Once an entry of a request was proposed, no
//! refusal of it says `not_applied`. The live voters must be a quorum before and after. A joiner is a learner until it
//! has caught up (`catch_up`), and any leader promotes any learner that has. A leader never proposes its own removal.
//!
//! See also: the joiner's side (`offer_acceptance`), transfers (`transfer`), members that moved (`identity_conflicts`).

pub(crate) mod catch_up;
pub(crate) mod change_steps;
pub(crate) mod join_checks;
pub(crate) mod offer_acceptance;
pub(crate) mod operation;
mod promotion;
pub(crate) mod transfer;

use std::collections::{BTreeMap, VecDeque};

use slog::info;

use super::core::pending_request::{ClientRequest, late};
use crate::consensus::proposals::shared_context::Context;
use crate::model::Millis;
use crate::model::{Code, Refusal, Request};
use crate::plant::{self, Plant};
use crate::telemetry::node_events::Kind;
use catch_up::CatchUp;
use operation::{Effect, Operation, Stage, Step, Transfer};

/// The maximum number of waiting membership requests.
const QUEUE: usize = 64;

/// How long a learner may be silent before its join lets the next one pass.
const SILENT_AFTER: Millis = 3000;

/// All membership requests on this node.
#[derive(Default)]
pub(crate) struct Membership {
    queue: VecDeque<ClientRequest>,
    pub(crate) current: Option<Operation>,
    /// Joins that only wait for their learner and let other requests pass: they end by themselves.
    aside: Vec<Operation>,
    /// Offers that were not answered yet, by token, with the address; a join may end before its joiner has decided.
    pub(crate) asked: BTreeMap<u64, String>,
    pub(crate) transfer: Option<Transfer>,
    /// The catch-up of learners, on the leader.
    pub(crate) catch_up: CatchUp,
    /// Effects for the driver, in order.
    effects: Vec<Effect>,
}

impl Membership {
    /// Queues a request; returns it if the queue is full.
    pub fn enqueue(&mut self, waiting: ClientRequest) -> Result<(), Box<ClientRequest>> {
        if self.queue.len() >= QUEUE {
            return Err(Box::new(waiting));
        }
        self.queue.push_back(waiting);
        Ok(())
    }

    /// Takes the effects since the last call.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    pub fn take_queue(&mut self) -> VecDeque<ClientRequest> {
        std::mem::take(&mut self.queue)
    }

    /// Whether this node leads a join, which may be in contact with its joiner.
    pub fn join_in_progress(&self) -> bool {
        let joins = |waiting: &ClientRequest| matches!(waiting.request, Request::Join { .. });
        let current = self.current.as_ref().is_some_and(|operation| joins(&operation.waiting));
        current || self.queue.iter().any(joins) || !self.asked.is_empty()
    }

    /// Whether a join of the node at this address is running or queued.
    pub fn joins(&self, address: &str) -> bool {
        let under_way = self.current.iter().chain(&self.aside).map(|operation| &operation.waiting);
        under_way
            .chain(&self.queue)
            .any(|waiting| matches!(&waiting.request, Request::Join { raft_address, .. } if raft_address == address))
    }
}

impl Membership {
    /// Advances every membership request as far as possible now.
    pub fn drive_membership(&mut self, cx: &mut Context<'_>) {
        self.drive_transfer(cx);
        if !cx.core.leads() {
            return self.give_back();
        }
        self.promote_learners(cx);
        self.set_waiting_join_aside(cx);
        for operation in std::mem::take(&mut self.aside) {
            if let Some(operation) = self.advance(cx, operation) {
                self.aside.push(operation);
            }
        }
        while let Some(operation) = self.next_operation(cx) {
            self.current = self.advance(cx, operation);
            if self.current.is_some() || self.transfer.is_some() {
                break;
            }
        }
    }

    fn next_operation(&mut self, cx: &mut Context<'_>) -> Option<Operation> {
        if let Some(operation) = self.current.take() {
            return Some(operation);
        }
        if self.transfer.is_some() {
            return None;
        }
        let waiting = loop {
            let waiting = self.queue.pop_front()?;
            if !cx.core.is_late(&waiting) {
                break waiting;
            }
            cx.core.refuse(waiting, late());
        };
        Some(Operation { waiting, stage: Stage::Start, warning: None, dropped: None, proposed: None })
    }

    /// Advances one operation; None once it has been answered.
    fn advance(&mut self, cx: &mut Context<'_>, mut operation: Operation) -> Option<Operation> {
        if cx.core.is_late(&operation.waiting) {
            self.end_join(cx, &operation);
            self.refuse_unfinished(cx, operation);
            return None;
        }
        // Proposed in an earlier term of this leader. The entry may have been lost with that term, so the stage goes on
        // as if it had not been proposed; if it was applied, the stage finds that in the table.
        if operation.proposed.is_some_and(|(term, _)| term != cx.core.raw.raft.term) {
            operation.proposed = None;
        }
        loop {
            match self.advance_stage(cx, &mut operation) {
                Step::Keep => return Some(operation),
                Step::Next(stage) => {
                    operation.stage = stage;
                    operation.proposed = None;
                }
                Step::Done(Ok(answer)) => {
                    self.effects.push(Effect::Answer(operation.waiting, answer));
                    return None;
                }
                Step::Done(Err(refusal)) => {
                    self.end_join(cx, &operation);
                    refuse_change(cx, operation.waiting, refusal);
                    return None;
                }
            }
            if matches!(operation.stage, Stage::Lead { .. }) {
                return self.begin_transfer(cx, operation);
            }
        }
    }

    /// Returns all requests to the driver after a loss of leadership: they start over on the next leader, and find in
    /// the table what was done.
    fn give_back(&mut self) {
        // A join whose learner is in the log already may go on under the next leader: from here on it may have been applied.
        self.catch_up = CatchUp::default();
        let mut operations = std::mem::take(&mut self.aside);
        operations.extend(self.current.take());
        let waiting = operations.into_iter().map(|operation| {
            let maybe_applied =
                operation.waiting.maybe_applied || operation.proposed.is_some() || operation.stage.has_effects();
            ClientRequest { maybe_applied, ..operation.waiting }
        });
        for one in waiting.chain(self.take_queue()).collect::<Vec<_>>() {
            self.effects.push(Effect::Retry(one));
        }
    }

    /// Lets other changes pass a join that waits for its learner, and other joins, too, if the learner is silent.
    fn set_waiting_join_aside(&mut self, cx: &mut Context<'_>) {
        let Some(Operation { stage: Stage::Promote { raft_id, since }, .. }) = self.current else { return };
        // Example: a join of n4 waits for a snapshot of 100 GB. A removal of n2 goes past it. A join of n5 waits behind
        // n4, unless n4 has been silent for 3 s.
        let silent = cx.core.now > since + SILENT_AFTER
            && cx.live.contact.get(&raft_id).is_none_or(|heard| cx.core.now > heard + SILENT_AFTER);
        let next = self.queue.front();
        if (silent || next.is_some_and(|waiting| !matches!(waiting.request, Request::Join { .. })))
            && let Some(operation) = self.current.take()
        {
            self.aside.push(operation);
        }
    }

    /// Notes an applied entry, which the current operation may wait for.
    pub fn membership_applied(&mut self, term: u64, index: u64, is_change: bool) {
        let Some(operation) = self.current.as_mut() else { return };
        // Raft may have put an empty entry in the place of a membership change: then the type differs, nothing was
        // done, and the stage proposes again.
        if operation.proposed == Some((term, index)) {
            operation.proposed = None;
            if plant::is(Plant::DroppedChangeApplied) {
                return operation.stage.entry_applied();
            }
            if is_change == operation.stage.proposes_change() {
                operation.stage.entry_applied();
            }
        }
    }

    pub fn expire_membership(&mut self, cx: &mut Context<'_>) {
        self.expire_transfer(cx);
        let now = cx.core.now;
        let mut ended = self.aside.extract_if(.., |one| one.waiting.deadline <= now).collect::<Vec<_>>();
        if self.current.as_ref().is_some_and(|one| one.waiting.deadline <= now) {
            ended.extend(self.current.take());
        }
        ended.iter().for_each(|one| self.end_join(cx, one));
        let (over, waits): (VecDeque<_>, VecDeque<_>) =
            self.take_queue().into_iter().partition(|waiting| waiting.deadline <= now);
        self.queue = waits;
        ended.into_iter().for_each(|operation| self.refuse_unfinished(cx, operation));
        over.into_iter().for_each(|waiting| cx.core.refuse(waiting, late()));
    }

    /// Refuses a request at its deadline; what it has begun may go on.
    fn refuse_unfinished(&self, cx: &Context<'_>, operation: Operation) {
        let Operation { waiting, stage, .. } = operation;
        let refusal = if matches!(waiting.request, Request::Join { .. }) {
            let slow = match stage {
                Stage::Promote { raft_id, .. } => self.explain_slowness(cx, raft_id),
                _ => None,
            };
            let detail =
                "the join was not finished before its deadline; it may still complete, and the same POST resumes it";
            Refusal::unknown(Code::JoinUnfinished, slow.map_or(detail.to_owned(), |slow| format!("{detail}. {slow}")))
        } else {
            let detail =
                "the membership change was not finished before its deadline; GET /raft/stats shows the members";
            Refusal::not_applied(Code::Timeout, detail)
        };
        cx.core.refuse(waiting, refusal);
    }

    pub fn refuse_membership(&mut self, cx: &mut Context<'_>, why: fn() -> Refusal) {
        let mut operations = std::mem::take(&mut self.aside);
        operations.extend(self.current.take());
        for operation in operations {
            let refusal = why();
            cx.core.refuse(operation.waiting, Refusal::unknown(refusal.code, refusal.detail));
        }
        if let Some(transfer) = self.transfer.take() {
            let refusal = why();
            cx.core.refuse(transfer.waiting, Refusal::unknown(refusal.code, refusal.detail));
        }
    }
}

/// Refuses a change of the members, and notes why.
fn refuse_change(cx: &Context<'_>, waiting: ClientRequest, refusal: Refusal) {
    info!(cx.core.log, "membership change refused"; "code" => refusal.code.as_str(), "detail" => &refusal.detail);
    if let Request::Join { node_id, .. } = &waiting.request {
        let (code, why) = (refusal.code.as_str(), refusal.detail.clone());
        cx.core.note(Kind::JoinRefused { member: node_id.clone(), code, why });
    }
    cx.core.refuse(waiting, refusal);
}
