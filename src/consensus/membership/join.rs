//! The steps of a join, a removal and a move, each of which may be the last before a crash.
//!
//! Why: whoever answers at an address decides what a join means: a member that is there already, one that has moved, a
//! new node, or a stranger. So the leader asks first, and writes nothing before the joiner has given up what it was.
//!
//! Laws: before anything is committed the joiner has been asked, the way back to the leader included. From the first entry
//! that is proposed on, and from the moment that a joiner has given up what it was, no refusal says `not_applied`. A name
//! that is alive is not taken over; one whose node is gone is freed first, with the checks of a removal. The address in the table is the one that was dialled.
//!
//! Not here: when a step may be taken and how it is proposed (`membership`).

use raft::eraftpb::ConfChangeType;
use slog::info;

use super::{Operation, Step};
use crate::consensus::driver::Driver;
use crate::model::Millis;
use crate::model::validate;
use crate::model::{
    Answer, Code, Command, JoinAccepted, JoinOffer, Member, MemberChange, Outcome, Refusal, Request, Role, WhoAmI,
};
use crate::plant::{self, Plant};
use crate::storage::Error;

/// Where a membership request stands.
pub(crate) enum Stage {
    /// Nothing has been done.
    Start,
    /// The address was asked who it is; the token of the question.
    Identify(u64),
    /// The name belongs to a member that may be gone: its silence is waited for.
    Silence { old: u64, until: Millis },
    /// The node is to be asked whether it would join, before the old bearer of its name is removed.
    Prepare { old: u64 },
    /// It was asked; the token of the question.
    Prepared { old: u64, token: u64 },
    /// The old bearer of the name is being removed; `done` once that is applied.
    Retire { old: u64, done: bool },
    /// The node is known to be free to join and is to be asked now.
    Ask,
    /// The node was asked to be adopted; the token of the question.
    JoinOffer(u64),
    /// The learner is being added.
    Add { member: Member, done: bool },
    /// The learner is catching up; any leader promotes it.
    Promote { raft_id: u64, since: Millis },
    /// A member's addresses are being replaced.
    Relocate { raft_id: u64, raft_address: String, http_address: String, done: bool },
    /// A member is being removed.
    Remove { raft_id: u64, done: bool },
    /// The table already is as asked. An entry that changes nothing proves that this node still leads, and so that its
    /// table is the cluster's.
    Confirm { done: bool },
    /// The member to be removed leads: leadership moves first.
    Lead { successor: u64 },
}

impl Stage {
    /// Whether the entry it waits for is a membership entry.
    pub fn proposes_change(&self) -> bool {
        !matches!(self, Self::Relocate { .. } | Self::Confirm { .. })
    }

    /// Whether the operation may have had an effect, here or on a joiner, when this stage is reached.
    pub fn has_effects(&self) -> bool {
        !matches!(
            self,
            Self::Start
                | Self::Identify(_)
                | Self::Silence { .. }
                | Self::Prepare { .. }
                | Self::Prepared { .. }
                | Self::Confirm { .. }
                | Self::Lead { .. }
        )
    }

    /// What comes before the removal of the old bearer of a joiner's name.
    pub fn retire(old: u64) -> Self {
        if plant::is(Plant::RetiredBeforeAsked) { Self::Retire { old, done: false } } else { Self::Prepare { old } }
    }

    /// Notes that the entry it waits for was applied as what it is.
    pub fn entry_applied(&mut self) {
        match self {
            Self::Confirm { done }
            | Self::Retire { done, .. }
            | Self::Add { done, .. }
            | Self::Relocate { done, .. }
            | Self::Remove { done, .. } => {
                *done = true;
            }
            _ => {}
        }
    }
}

impl Driver {
    /// One step of an operation.
    pub(crate) fn advance_stage(&mut self, operation: &mut Operation) -> Step {
        match &operation.stage {
            Stage::Start if !self.core.raw.raft.apply_to_current_term() && !plant::is(Plant::DroppedChangeApplied) => {
                Step::Keep
            }
            Stage::Start => self.start_operation(&operation.waiting.request.clone()),
            Stage::Identify(_) | Stage::Prepared { .. } | Stage::JoinOffer(_) | Stage::Lead { .. } => Step::Keep,
            Stage::Silence { old, until } => self.wait_for_silence(*old, *until),
            Stage::Prepare { old } => self.ask_before_removal(&operation.waiting.request.clone(), *old),
            Stage::Retire { done: true, .. } => Step::Next(Stage::Ask),
            Stage::Retire { old, done: false } => {
                let old = *old;
                self.propose_removal(operation, old)
            }
            Stage::Ask if self.core.can_change() && self.name_is_taken(&operation.waiting.request) => {
                Step::Next(Stage::Start)
            }
            Stage::Ask => {
                match self.ask_joiner(&operation.waiting.request.clone(), false, self.core.conf_voters().to_vec()) {
                    Ok(token) => Step::Next(Stage::JoinOffer(token)),
                    Err(step) => step,
                }
            }
            Stage::Add { member, done: true } => {
                Step::Next(Stage::Promote { raft_id: member.raft_id, since: self.core.now })
            }
            Stage::Add { member, done: false } => {
                let member = member.clone();
                self.add_learner(operation, &member)
            }
            Stage::Promote { raft_id, .. } => self.promoted(operation, *raft_id),
            Stage::Relocate { raft_id, done: true, .. } => {
                let raft_id = *raft_id;
                let learner =
                    self.core.state_machine.members().get(raft_id).is_some_and(|member| member.role == Role::Learner);
                if learner && matches!(operation.waiting.request, Request::Join { .. }) {
                    return Step::Next(Stage::Promote { raft_id, since: self.core.now });
                }
                Step::Done(Ok(self.members_answer(operation, true)))
            }
            Stage::Relocate { raft_id, raft_address, http_address, done: false } => {
                let (raft_id, raft_address, http_address) = (*raft_id, raft_address.clone(), http_address.clone());
                self.propose_move(operation, Command::Move { raft_id, raft_address, http_address })
            }
            Stage::Confirm { done: true } if self.table_is_as_asked(&operation.waiting.request) => {
                Step::Done(Ok(self.members_answer(operation, false)))
            }
            // A change that was pending was applied meanwhile.
            Stage::Confirm { done: true } => Step::Next(Stage::Start),
            Stage::Confirm { done: false } => match self.core.state_machine.members().get(self.core.raft_id()).cloned()
            {
                Some(Member { raft_id, raft_address, http_address, .. }) => {
                    self.propose_move(operation, Command::Move { raft_id, raft_address, http_address })
                }
                None => Step::Keep,
            },
            Stage::Remove { done: true, .. } => Step::Done(Ok(self.members_answer(operation, true))),
            Stage::Remove { raft_id, done: false } => {
                let raft_id = *raft_id;
                self.propose_removal(operation, raft_id)
            }
        }
    }

    /// A name is free once its old bearer is silent.
    fn wait_for_silence(&self, old: u64, until: Millis) -> Step {
        if !self.live.is_live(&self.core, old) && !self.live.is_settling(&self.core) {
            return Step::Next(Stage::retire(old));
        }
        if self.core.now < until {
            return Step::Keep;
        }
        let name = self.core.name_of(old);
        let detail = format!("a live member has the name {name}; give this node another one, or remove {name} first");
        Step::Done(Err(Refusal::not_applied(Code::NameInUse, detail)))
    }

    fn start_operation(&mut self, request: &Request) -> Step {
        match request {
            Request::Join { raft_address, .. } => {
                let token = self.core.token();
                self.core.outbox.identify(token, raft_address);
                Step::Next(Stage::Identify(token))
            }
            Request::Remove { node_id } => self.start_removal(node_id),
            Request::Move { raft_id, raft_address, http_address } => {
                self.start_move(*raft_id, raft_address, http_address)
            }
            Request::Transfer { node_id } => self.start_transfer(node_id.as_deref()),
            Request::Write(_) => {
                Step::Done(Err(Refusal::not_applied(Code::BadRequest, "a write is no membership change")))
            }
        }
    }

    fn propose_move(&mut self, operation: &mut Operation, command: Command) -> Step {
        if operation.proposed.is_none() && self.core.raw.raft.lead_transferee.is_none() {
            let proposed = {
                let stamp = self.clock.stamp(&self.core);
                self.core.propose_command(stamp, command)
            };
            operation.proposed(proposed);
        }
        Step::Keep
    }

    fn start_removal(&self, node_id: &str) -> Step {
        let Some(member) = self.core.state_machine.members().named(node_id) else {
            return Step::Next(Stage::Confirm { done: false });
        };
        if member.raft_id != self.core.raft_id() {
            return Step::Next(Stage::Remove { raft_id: member.raft_id, done: false });
        }
        if self.core.conf_voters().len() == 1 {
            return Step::Done(Err(Refusal::not_applied(
                Code::LastVoter,
                format!("{node_id} is the last voter; without it there is no cluster and no data"),
            )));
        }
        let rest: Vec<u64> = self.core.conf_voters().iter().copied().filter(|id| *id != member.raft_id).collect();
        if let Err(refusal) = self.live.check_quorum(&self.core, &rest) {
            return self.refuse_once_settled(refusal);
        }
        match self.live.successor(&self.core) {
            Some(successor) => Step::Next(Stage::Lead { successor }),
            None => self.refuse_once_settled(Refusal::not_applied(
                Code::TransferFailed,
                format!("{node_id} leads, and no other voter is ready to lead in its place; try again in a moment"),
            )),
        }
    }

    fn start_move(&mut self, raft_id: u64, raft_address: &str, http_address: &str) -> Step {
        let Some(member) = self.core.state_machine.members().get(raft_id) else {
            return Step::Done(Err(Refusal::not_applied(Code::UnknownMember, "no member has this raft id")));
        };
        let follows =
            self.core.options.follow_moves || raft_id == self.core.raft_id() || member.raft_address == raft_address;
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
        } else if raft_id == self.core.raft_id() {
            Step::Next(Stage::Relocate {
                raft_id,
                raft_address: raft_address.to_owned(),
                http_address: http_address.to_owned(),
                done: false,
            })
        } else {
            let token = self.core.token();
            self.core.outbox.identify(token, raft_address);
            Step::Next(Stage::Identify(token))
        }
    }

    /// Whoever answers at the address has said who it is.
    pub(crate) fn identified(&mut self, token: u64, result: Result<WhoAmI, Refusal>) -> Result<(), Error> {
        let asked = |operation: &Operation| matches!(operation.stage, Stage::Identify(t) if t == token);
        if self.membership.current.as_ref().is_some_and(asked) {
            if let Some(mut operation) = self.membership.current.take() {
                let request = operation.waiting.request.clone();
                let result = result.and_then(|who| validate::who_am_i(&who).map(|()| who));
                let step = match (result, &request) {
                    (Err(refusal), _) => Step::Done(Err(refusal)),
                    (Ok(who), Request::Join { node_id, raft_address, force }) => {
                        self.judge(who, node_id, raft_address, *force)
                    }
                    (Ok(who), Request::Move { raft_id, raft_address, .. }) => {
                        self.judge_move(who, *raft_id, raft_address)
                    }
                    (Ok(_), _) => Step::Keep,
                };
                match step {
                    Step::Keep => self.membership.current = Some(operation),
                    Step::Next(stage) => {
                        operation.stage = stage;
                        self.membership.current = Some(operation);
                    }
                    Step::Done(Ok(answer)) => self.answer_when_visible(operation.waiting, answer),
                    Step::Done(Err(refusal)) => self.core.refuse(operation.waiting, refusal),
                }
            }
            return Ok(());
        }
        let busy = self.busy();
        match self.joiner.leader_identified(&mut self.core, &self.live, busy, token, result) {
            Some(accepted) => self.become_adopted(accepted),
            None => Ok(()),
        }
    }

    /// Asks the joiner whether it would join, where the removal that comes first would be allowed now.
    fn ask_before_removal(&mut self, request: &Request, old: u64) -> Step {
        let rest: Vec<u64> = self.core.conf_voters().iter().copied().filter(|id| *id != old).collect();
        match self.ask_joiner(request, true, rest) {
            Ok(token) => Step::Next(Stage::Prepared { old, token }),
            Err(step) => step,
        }
    }

    /// Asks the joiner to be adopted, or whether it would be, where the `voters` that there are then are a quorum.
    fn ask_joiner(&mut self, request: &Request, prepare: bool, voters: Vec<u64>) -> Result<u64, Step> {
        let Request::Join { node_id, raft_address, force } = request else { return Err(Step::Keep) };
        if !self.core.can_change() {
            return Err(Step::Keep);
        }
        if let Err(refusal) = self.live.check_quorum(&self.core, &voters) {
            return Err(self.refuse_once_settled(refusal));
        }
        let token = self.core.token();
        let adopt = JoinOffer {
            offer: self.core.offer_number(token),
            cluster_id: self.core.data_dir.identity().cluster_id,
            leader_id: self.core.raft_id(),
            leader_name: self.core.my_name(),
            leader_address: self.core.options.raft_address.clone(),
            node_id: node_id.clone(),
            raft_address: raft_address.clone(),
            force: *force,
            prepare,
            tombstones: self.core.state_machine.members().tombstones().collect(),
        };
        self.membership.asked.insert(token, raft_address.clone());
        self.core.outbox.adopt(token, raft_address, adopt);
        Ok(token)
    }

    /// The joiner has become ours, durably, or has said why not.
    pub(crate) fn adopt_answered(&mut self, token: u64, result: Result<JoinAccepted, Refusal>) {
        let address = self.membership.asked.remove(&token).unwrap_or_default();
        let asked = |operation: &Operation| matches!(operation.stage, Stage::JoinOffer(t) | Stage::Prepared { token: t, .. } if t == token);
        if !self.membership.current.as_ref().is_some_and(asked) {
            if let Ok(adopted) = result {
                self.tell_join_ended(&address, adopted.raft_id);
            }
            return;
        }
        let Some(mut operation) = self.membership.current.take() else { return };
        let Request::Join { node_id, raft_address, .. } = &operation.waiting.request else { return };
        let refusal = match result.and_then(|adopted| validate::adopted(&adopted).map(|()| adopted)) {
            // The question alone changes nothing, even where its answer is lost.
            Err(refusal) if matches!(operation.stage, Stage::Prepared { .. }) => {
                Refusal { fate: Outcome::NotApplied, ..refusal }
            }
            Err(refusal) => refusal,
            Ok(_) if let Stage::Prepared { old, .. } = operation.stage => {
                operation.stage = Stage::Retire { old, done: false };
                self.membership.current = Some(operation);
                return;
            }
            Ok(adopted) if !self.may_be_a_joiner(adopted.raft_id) => Refusal::not_applied(
                Code::BadRequest,
                format!("{raft_address} answered with a raft id that cannot be used"),
            ),
            Ok(adopted) => {
                info!(self.core.log, "a node was adopted"; "node" => node_id, "at" => raft_address, "raft_id" => adopted.raft_id);
                if adopted.started_as != *node_id {
                    operation.warning = Some(format!(
                        "the process at {raft_address} was started as {}; as a member its name is {node_id}",
                        adopted.started_as
                    ));
                }
                operation.dropped = adopted.dropped;
                let member = Member {
                    name: node_id.clone(),
                    raft_id: adopted.raft_id,
                    raft_address: raft_address.clone(),
                    http_address: adopted.http_address,
                    role: Role::Learner,
                };
                operation.stage = Stage::Add { member, done: false };
                // It has given up what it was.
                operation.waiting.doubt = true;
                self.membership.current = Some(operation);
                return;
            }
        };
        self.core.refuse(operation.waiting, refusal);
    }

    /// A join is given up: where its joiner was adopted and is in no entry, it is told.
    pub(crate) fn end_join(&mut self, operation: &Operation) {
        if let Operation { stage: Stage::Add { member, done: false }, proposed: None, .. } = operation {
            self.tell_join_ended(&member.raft_address, member.raft_id);
        }
    }

    /// Tells a node that was adopted for nothing, so that it goes back to what it was at once. Not while another join of it
    /// may go on from there, here or on another leader.
    fn tell_join_ended(&mut self, address: &str, raft_id: u64) {
        if self.core.leads()
            && !self.membership.joins(address)
            && self.core.state_machine.members().get(raft_id).is_none()
        {
            info!(self.core.log, "a join has ended without its joiner"; "at" => address, "raft_id" => raft_id);
            self.core.outbox.end_join(address, self.core.data_dir.identity().cluster_id, raft_id);
        }
    }

    fn add_learner(&mut self, operation: &mut Operation, member: &Member) -> Step {
        if operation.proposed.is_some() || !self.core.can_change() {
            return Step::Keep;
        }
        if self.core.state_machine.members().get(member.raft_id).is_some() {
            return Step::Next(Stage::Promote { raft_id: member.raft_id, since: self.core.now });
        }
        let change = MemberChange::Set(member.clone());
        match self.core.propose_change(ConfChangeType::AddLearnerNode, member.raft_id, &change) {
            Ok(proposed) => {
                operation.proposed(proposed);
                Step::Keep
            }
            Err(refusal) => Step::Done(Err(refusal)),
        }
    }

    fn propose_removal(&mut self, operation: &mut Operation, raft_id: u64) -> Step {
        let may = self.core.can_change() || plant::is(Plant::DroppedChangeApplied);
        if operation.proposed.is_some() || !may {
            return Step::Keep;
        }
        if self.core.state_machine.members().get(raft_id).is_none() {
            operation.stage.entry_applied();
            return Step::Keep;
        }
        let rest: Vec<u64> = self.core.conf_voters().iter().copied().filter(|id| *id != raft_id).collect();
        if let Err(refusal) = self.live.check_quorum(&self.core, &rest) {
            return self.refuse_once_settled(refusal);
        }
        match self.core.propose_change(ConfChangeType::RemoveNode, raft_id, &MemberChange::Remove { raft_id }) {
            Ok(proposed) => {
                operation.proposed(proposed);
                Step::Keep
            }
            Err(refusal) => Step::Done(Err(refusal)),
        }
    }

    pub(crate) fn members_answer(&self, operation: &Operation, changed: bool) -> Answer {
        Answer::Members {
            index: self.core.state_machine.applied().0,
            changed,
            warning: operation.warning.clone(),
            dropped: operation.dropped.clone(),
        }
    }
}
