//! The steps of a join, a removal and a move, each of which may be the last before a crash.
//!
//! Why: the node that answers at an address decides what a join means: a present member, one that has moved, a new
//! node, or a node of another cluster. So the leader asks first, and proposes nothing before the joiner has switched
//! incarnations.
//!
//! ```text
//!   Start -> Identify -+-> Ask -> JoinOffer -> Add -> Promote -> done            a new node
//!                      +-> Prepare -> Prepared -> Retire -> Ask ...              its name is a silent member's
//!                      +-> Silence -> Prepare ...                                as before, once that counts as silent
//!                      +-> Relocate | Promote | Confirm -> done                  a member already
//! ```
//!
//! After a crash of the leader up to `JoinOffer` nothing is left but a joiner that rolls back by itself; from `Add` on the next
//! leader finds the learner in the table and promotes it.
//!
//! Invariants: before anything is proposed the joiner has been asked, and has dialled the leader. From the first
//! proposed entry on, and from the switch of the joiner on, no refusal says `not_applied`. The name of a live member is
//! not taken over; that of a silent one is freed first, with the checks of a removal. The address in the table is the
//! one that was dialled.
//!
//! See also: when a step may be taken and how it is proposed (`membership`).

use raft::eraftpb::ConfChangeType;
use slog::info;

use super::operation::{Effect, Operation, Stage, Step, refuse_once_settled};
use super::{Membership, refuse_change};
use crate::consensus::core::Core;
use crate::consensus::proposals::shared_context::Context;
use crate::model::Millis;
use crate::model::validate;
use crate::model::{
    Code, Command, JoinAccepted, JoinOffer, Member, MemberChange, Outcome, Refusal, Request, Role, WhoAmI,
};
use crate::plant::{self, Plant};

/// Whether raft would take the removal of a member now.
fn can_remove(core: &Core) -> bool {
    if plant::is(Plant::DroppedChangeApplied) {
        return true;
    }
    core.can_change()
}

impl Membership {
    /// Advances an operation by one step.
    pub fn advance_stage(&mut self, cx: &mut Context<'_>, operation: &mut Operation) -> Step {
        match &operation.stage {
            Stage::Start if plant::is(Plant::DroppedChangeApplied) => {
                self.start_operation(cx, &operation.waiting.request.clone())
            }
            Stage::Start if !cx.core.raw.raft.apply_to_current_term() => Step::Keep,
            Stage::Start => self.start_operation(cx, &operation.waiting.request.clone()),
            Stage::Identify(_) | Stage::Prepared { .. } | Stage::JoinOffer(_) | Stage::Lead { .. } => Step::Keep,
            Stage::Silence { old, until } => self.wait_for_silence(cx, *old, *until),
            Stage::Prepare { old } => self.ask_before_removal(cx, &operation.waiting.request.clone(), *old),
            Stage::Retire { done: true, .. } => Step::Next(Stage::Ask),
            Stage::Retire { old, done: false } => {
                let old = *old;
                self.propose_removal(cx, operation, old)
            }
            // A join that was given up may have left its learner in the log; it was applied since, so the request
            // begins again and finds it.
            Stage::Ask if cx.core.can_change() && self.name_is_taken(cx, &operation.waiting.request) => {
                Step::Next(Stage::Start)
            }
            Stage::Ask => {
                let voters = cx.core.conf_voters().to_vec();
                match self.ask_joiner(cx, &operation.waiting.request, false, voters) {
                    Ok(token) => Step::Next(Stage::JoinOffer(token)),
                    Err(step) => step,
                }
            }
            Stage::Add { member, done: true } => {
                Step::Next(Stage::Promote { raft_id: member.raft_id, since: cx.core.now })
            }
            Stage::Add { member, done: false } => {
                let member = member.clone();
                self.add_learner(cx, operation, &member)
            }
            Stage::Promote { raft_id, .. } => self.promoted(cx, operation, *raft_id),
            Stage::Relocate { raft_id, done: true, .. } => {
                let raft_id = *raft_id;
                let learner =
                    cx.core.state_machine.members().get(raft_id).is_some_and(|member| member.role == Role::Learner);
                if learner && matches!(operation.waiting.request, Request::Join { .. }) {
                    return Step::Next(Stage::Promote { raft_id, since: cx.core.now });
                }
                Step::Done(Ok(operation.answer(cx.core, true)))
            }
            Stage::Relocate { raft_id, raft_address, http_address, done: false } => {
                let (raft_id, raft_address, http_address) = (*raft_id, raft_address.clone(), http_address.clone());
                self.propose_move(cx, operation, Command::Move { raft_id, raft_address, http_address })
            }
            // The table said that there is nothing to do. It was read before the confirming entry was applied, so it is
            // read again.
            Stage::Confirm { done: true } if self.table_is_as_asked(cx, &operation.waiting.request) => {
                Step::Done(Ok(operation.answer(cx.core, false)))
            }
            // A change that was pending was applied meanwhile.
            Stage::Confirm { done: true } => Step::Next(Stage::Start),
            Stage::Confirm { done: false } => match cx.core.state_machine.members().get(cx.core.raft_id()).cloned() {
                Some(Member { raft_id, raft_address, http_address, .. }) => {
                    self.propose_move(cx, operation, Command::Move { raft_id, raft_address, http_address })
                }
                None => Step::Keep,
            },
            Stage::Remove { done: true, .. } => Step::Done(Ok(operation.answer(cx.core, true))),
            Stage::Remove { raft_id, done: false } => {
                let raft_id = *raft_id;
                self.propose_removal(cx, operation, raft_id)
            }
        }
    }

    /// Waits until the present bearer of a name counts as silent.
    fn wait_for_silence(&self, cx: &Context<'_>, old: u64, until: Millis) -> Step {
        if !cx.live.is_live(cx.core, old) && !cx.live.is_settling(cx.core) {
            return Step::Next(Stage::retire(old));
        }
        if cx.core.now < until {
            return Step::Keep;
        }
        let name = cx.core.name_of(old);
        let detail = format!("a live member has the name {name}; give this node another one, or remove {name} first");
        Step::Done(Err(Refusal::not_applied(Code::NameInUse, detail)))
    }

    fn start_operation(&mut self, cx: &mut Context<'_>, request: &Request) -> Step {
        match request {
            Request::Join { raft_address, .. } => {
                let token = cx.core.token();
                cx.core.outbox.identify(token, raft_address);
                Step::Next(Stage::Identify(token))
            }
            Request::Remove { node_id } => self.start_removal(cx, node_id),
            Request::Move { raft_id, raft_address, http_address } => {
                self.start_move(cx, *raft_id, raft_address, http_address)
            }
            Request::Transfer { node_id } => self.start_transfer(cx, node_id.as_deref()),
            Request::Write(_) => {
                Step::Done(Err(Refusal::not_applied(Code::BadRequest, "a write is no membership change")))
            }
        }
    }

    fn propose_move(&mut self, cx: &mut Context<'_>, operation: &mut Operation, command: Command) -> Step {
        if operation.proposed.is_none() && cx.core.raw.raft.lead_transferee.is_none() {
            let proposed = {
                let stamp = cx.clock.stamp(cx.core);
                cx.core.propose_command(stamp, command)
            };
            operation.proposed(proposed);
        }
        Step::Keep
    }

    fn start_removal(&self, cx: &Context<'_>, node_id: &str) -> Step {
        let Some(member) = cx.core.state_machine.members().named(node_id) else {
            return Step::Next(Stage::Confirm { done: false });
        };
        if member.raft_id != cx.core.raft_id() {
            return Step::Next(Stage::Remove { raft_id: member.raft_id, done: false });
        }
        if cx.core.conf_voters().len() == 1 {
            return Step::Done(Err(Refusal::not_applied(
                Code::LastVoter,
                format!("{node_id} is the last voter; without it there is no cluster and no data"),
            )));
        }
        let rest: Vec<u64> = cx.core.conf_voters().iter().copied().filter(|id| *id != member.raft_id).collect();
        if let Err(refusal) = cx.live.check_quorum(cx.core, &rest) {
            return refuse_once_settled(cx, refusal);
        }
        match cx.live.successor(cx.core) {
            Some(successor) => Step::Next(Stage::Lead { successor }),
            None => refuse_once_settled(
                cx,
                Refusal::not_applied(
                    Code::TransferFailed,
                    format!("{node_id} leads, and no other voter is ready to lead in its place; try again in a moment"),
                ),
            ),
        }
    }

    fn start_move(&mut self, cx: &mut Context<'_>, raft_id: u64, raft_address: &str, http_address: &str) -> Step {
        let Some(member) = cx.core.state_machine.members().get(raft_id) else {
            return Step::Done(Err(Refusal::not_applied(Code::UnknownMember, "no member has this raft id")));
        };
        let follows =
            cx.core.options.follow_moves || raft_id == cx.core.raft_id() || member.raft_address == raft_address;
        if !follows {
            return Step::Done(Err(Refusal::not_applied(
                Code::BadRequest,
                format!(
                    "{} is not followed to {raft_address} by its own word (cluster.follow_moves); POST /raft/join with its \
                     name and this address, or start it at {} again",
                    member.name, member.raft_address
                ),
            )));
        }
        if member.raft_address == raft_address && member.http_address == http_address {
            Step::Next(Stage::Confirm { done: false })
        } else if raft_id == cx.core.raft_id() {
            Step::Next(Stage::Relocate {
                raft_id,
                raft_address: raft_address.to_owned(),
                http_address: http_address.to_owned(),
                done: false,
            })
        } else {
            let token = cx.core.token();
            cx.core.outbox.identify(token, raft_address);
            Step::Next(Stage::Identify(token))
        }
    }

    /// Handles the answer to identify; returns the result if no request here has asked.
    pub fn identified(
        &mut self,
        cx: &mut Context<'_>,
        token: u64,
        result: Result<WhoAmI, Refusal>,
    ) -> Option<Result<WhoAmI, Refusal>> {
        let asked = |operation: &Operation| matches!(operation.stage, Stage::Identify(t) if t == token);
        if self.current.as_ref().is_some_and(asked) {
            if let Some(mut operation) = self.current.take() {
                let request = operation.waiting.request.clone();
                let result = result.and_then(|who| validate::who_am_i(&who).map(|()| who));
                let step = match (result, &request) {
                    (Err(refusal), _) => Step::Done(Err(refusal)),
                    (Ok(who), Request::Join { node_id, raft_address, force }) => {
                        self.check_join(cx, who, node_id, raft_address, *force)
                    }
                    (Ok(who), Request::Move { raft_id, raft_address, .. }) => {
                        self.check_move(cx, who, *raft_id, raft_address)
                    }
                    (Ok(_), _) => Step::Keep,
                };
                match step {
                    Step::Keep => self.current = Some(operation),
                    Step::Next(stage) => {
                        operation.stage = stage;
                        self.current = Some(operation);
                    }
                    Step::Done(Ok(answer)) => self.effects.push(Effect::Answer(operation.waiting, answer)),
                    Step::Done(Err(refusal)) => refuse_change(cx, operation.waiting, refusal),
                }
            }
            return None;
        }
        Some(result)
    }

    /// Asks the joiner whether it would join, if the removal that comes first would be allowed now.
    fn ask_before_removal(&mut self, cx: &mut Context<'_>, request: &Request, old: u64) -> Step {
        let rest: Vec<u64> = cx.core.conf_voters().iter().copied().filter(|id| *id != old).collect();
        match self.ask_joiner(cx, request, true, rest) {
            Ok(token) => Step::Next(Stage::Prepared { old, token }),
            Err(step) => step,
        }
    }

    /// Sends the joiner an offer, or only asks with `prepare`, if the live ones of `voters` are a quorum.
    fn ask_joiner(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request,
        prepare: bool,
        voters: Vec<u64>,
    ) -> Result<u64, Step> {
        let Request::Join { node_id, raft_address, force } = request else { return Err(Step::Keep) };
        if !cx.core.can_change() {
            return Err(Step::Keep);
        }
        if let Err(refusal) = cx.live.check_quorum(cx.core, &voters) {
            return Err(refuse_once_settled(cx, refusal));
        }
        let token = cx.core.token();
        let offer = JoinOffer {
            offer: cx.core.offer_number(token),
            cluster_id: cx.core.data_dir.identity().cluster_id,
            leader_id: cx.core.raft_id(),
            leader_name: cx.core.my_name(),
            leader_address: cx.core.options.raft_address.clone(),
            node_id: node_id.clone(),
            raft_address: raft_address.clone(),
            force: *force,
            prepare,
            tombstones: cx.core.state_machine.members().tombstones().collect(),
        };
        self.asked.insert(token, raft_address.clone());
        cx.core.outbox.offer_join(token, raft_address, offer);
        Ok(token)
    }

    /// Handles the answer to an offer: the joiner has switched incarnations durably, or refuses.
    pub fn join_offer_answered(&mut self, cx: &mut Context<'_>, token: u64, result: Result<JoinAccepted, Refusal>) {
        let address = self.asked.remove(&token).unwrap_or_default();
        let asked = |operation: &Operation| matches!(operation.stage, Stage::JoinOffer(t) | Stage::Prepared { token: t, .. } if t == token);
        if !self.current.as_ref().is_some_and(asked) {
            if let Ok(accepted) = result {
                self.notify_join_ended(cx, &address, accepted.raft_id);
            }
            return;
        }
        let Some(mut operation) = self.current.take() else { return };
        let Request::Join { node_id, raft_address, .. } = &operation.waiting.request else { return };
        let refusal = match result.and_then(|accepted| validate::join_accepted(&accepted).map(|()| accepted)) {
            // The question alone changes nothing, even where its answer is lost.
            Err(refusal) if matches!(operation.stage, Stage::Prepared { .. }) => {
                Refusal { outcome: Outcome::NotApplied, ..refusal }
            }
            Err(refusal) => refusal,
            Ok(_) if let Stage::Prepared { old, .. } = operation.stage => {
                // Only now, when the joiner would come, the old bearer of its name is removed. The other way round a
                // mistyped address would cost a voter.
                operation.stage = Stage::Retire { old, done: false };
                self.current = Some(operation);
                return;
            }
            Ok(accepted) if !self.may_be_a_joiner(cx, accepted.raft_id) => Refusal::not_applied(
                Code::BadRequest,
                format!("{raft_address} answered with a raft id that cannot be used"),
            ),
            Ok(accepted) => {
                info!(cx.core.log, "a node took the join offer"; "node" => node_id, "at" => raft_address, "raft_id" => accepted.raft_id);
                if accepted.started_as != *node_id {
                    operation.warning = Some(format!(
                        "the process at {raft_address} was started as {}; as a member its name is {node_id}",
                        accepted.started_as
                    ));
                }
                operation.dropped = accepted.dropped;
                let member = Member {
                    name: node_id.clone(),
                    raft_id: accepted.raft_id,
                    raft_address: raft_address.clone(),
                    http_address: accepted.http_address,
                    role: Role::Learner,
                };
                operation.stage = Stage::Add { member, done: false };
                // The joiner has switched incarnations.
                operation.waiting.maybe_applied = true;
                self.current = Some(operation);
                return;
            }
        };
        refuse_change(cx, operation.waiting, refusal);
    }

    /// Notifies the joiner of a join that has ended, if it has switched and is in no entry.
    pub fn end_join(&mut self, cx: &mut Context<'_>, operation: &Operation) {
        // Once the entry is proposed it may be committed by any leader, and the learner is a member then.
        if let Operation { stage: Stage::Add { member, done: false }, proposed: None, .. } = operation {
            self.notify_join_ended(cx, &member.raft_address, member.raft_id);
        }
    }

    /// Notifies a joiner that its join has ended, so that it rolls back at once; not while another join of it may go on
    /// from there, here or on another leader.
    fn notify_join_ended(&mut self, cx: &mut Context<'_>, address: &str, raft_id: u64) {
        if cx.core.leads() && !self.joins(address) && cx.core.state_machine.members().get(raft_id).is_none() {
            info!(cx.core.log, "a join has ended without its joiner"; "at" => address, "raft_id" => raft_id);
            cx.core.outbox.end_join(address, cx.core.data_dir.identity().cluster_id, raft_id);
        }
    }

    fn add_learner(&mut self, cx: &mut Context<'_>, operation: &mut Operation, member: &Member) -> Step {
        if operation.proposed.is_some() || !cx.core.can_change() {
            return Step::Keep;
        }
        if cx.core.state_machine.members().get(member.raft_id).is_some() {
            return Step::Next(Stage::Promote { raft_id: member.raft_id, since: cx.core.now });
        }
        let change = MemberChange::Set(member.clone());
        match cx.core.propose_change(ConfChangeType::AddLearnerNode, member.raft_id, &change) {
            Ok(proposed) => {
                operation.proposed(proposed);
                Step::Keep
            }
            Err(refusal) => Step::Done(Err(refusal)),
        }
    }

    fn propose_removal(&mut self, cx: &mut Context<'_>, operation: &mut Operation, raft_id: u64) -> Step {
        if operation.proposed.is_some() || !can_remove(cx.core) {
            return Step::Keep;
        }
        if cx.core.state_machine.members().get(raft_id).is_none() {
            operation.stage.entry_applied();
            return Step::Keep;
        }
        // Checked again right before the proposal: a voter may have gone silent since the request came.
        let rest: Vec<u64> = cx.core.conf_voters().iter().copied().filter(|id| *id != raft_id).collect();
        if let Err(refusal) = cx.live.check_quorum(cx.core, &rest) {
            return refuse_once_settled(cx, refusal);
        }
        match cx.core.propose_change(ConfChangeType::RemoveNode, raft_id, &MemberChange::Remove { raft_id }) {
            Ok(proposed) => {
                operation.proposed(proposed);
                Step::Keep
            }
            Err(refusal) => Step::Done(Err(refusal)),
        }
    }
}
