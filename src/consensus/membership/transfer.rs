//! Leadership transfer (Raft thesis 3.10).
//!
//! Why: a leader that is to be removed or stopped hands over first, so that no client waits for an election timeout.
//!
//! Invariants: leadership is handed only to a live voter. Raft drops proposals while a transfer is under way; they are
//! tried again and fail no request. A transfer that has not succeeded within an election timeout is given up by raft
//! itself.
//!
//! See also: which requests lead to a transfer (`change_steps`, `driver`).

use slog::info;

use super::Membership;
use super::operation::{Effect, Operation, Stage, Step, Transfer, refuse_once_settled};
use crate::consensus::proposals::shared_context::Context;
use crate::model::{Answer, Code, Refusal, Request};

impl Membership {
    pub fn start_transfer(&self, cx: &Context<'_>, node_id: Option<&str>) -> Step {
        let target = match node_id {
            None => cx.live.successor(cx.core),
            Some(name) => {
                let Some(member) = cx.core.state_machine.members().named(name) else {
                    let detail = format!("no member has the name {name}; GET /raft/stats lists them");
                    return Step::Done(Err(Refusal::not_applied(Code::UnknownMember, detail)));
                };
                let fit = cx.core.conf_voters().contains(&member.raft_id) && cx.live.is_live(cx.core, member.raft_id);
                fit.then_some(member.raft_id)
            }
        };
        match target {
            Some(target) if target == cx.core.raft_id() => {
                Step::Done(Ok(Answer::Transferred { node_id: cx.core.my_name() }))
            }
            Some(successor) => Step::Next(Stage::Lead { successor }),
            None => refuse_once_settled(
                cx,
                Refusal::not_applied(
                    Code::NotAVoter,
                    match node_id {
                        Some(node_id) => format!("{node_id} is not a voter that can be heard now, so it cannot lead"),
                        None => "no other member is a voter that can be heard now, so none can lead".into(),
                    },
                ),
            ),
        }
    }

    /// Turns an operation into a transfer, which ends it.
    pub fn begin_transfer(&mut self, cx: &mut Context<'_>, operation: Operation) -> Option<Operation> {
        let Stage::Lead { successor } = operation.stage else { return Some(operation) };
        info!(cx.core.log, "handing leadership over"; "to" => cx.core.name_of(successor));
        cx.core.raw.transfer_leader(successor);
        // Raft gives up after one election timeout; the second leaves time to hear the new leader.
        let until = cx.core.now + 2 * cx.core.election_timeout();
        self.transfer = Some(Transfer { waiting: operation.waiting, target: successor, until });
        None
    }

    /// Ends a transfer that has succeeded or was given up.
    pub fn drive_transfer(&mut self, cx: &mut Context<'_>) {
        let leader = cx.core.raw.raft.leader_id;
        let Some(transfer) = &self.transfer else { return };
        let target = transfer.target;
        // Three ends: raft gives it up after an election timeout, another node leads, or nothing is known after two.
        let given_up = cx.core.leads() && cx.core.raw.raft.lead_transferee.is_none();
        let elsewhere = leader != 0 && leader != cx.core.raft_id();
        if (given_up || elsewhere || cx.core.now >= transfer.until)
            && let Some(transfer) = self.transfer.take()
        {
            let name = cx.core.name_of(target);
            if elsewhere && matches!(transfer.waiting.request, Request::Remove { .. }) {
                self.effects.push(Effect::Retry(transfer.waiting));
            } else if leader == target {
                self.effects.push(Effect::Answer(transfer.waiting, Answer::Transferred { node_id: name }));
            } else {
                let detail = format!("leadership did not move to {name} within an election timeout; try again");
                // The word to lead may still be on its way. What was to follow it, a removal, was not begun.
                let moves = matches!(transfer.waiting.request, Request::Transfer { .. });
                let refuse = if moves { Refusal::unknown } else { Refusal::not_applied };
                cx.core.refuse(transfer.waiting, refuse(Code::TransferFailed, detail));
            }
        }
    }

    pub fn expire_transfer(&mut self, cx: &mut Context<'_>) {
        let late = self.transfer.as_ref().is_some_and(|transfer| transfer.waiting.deadline <= cx.core.now);
        if late && let Some(transfer) = self.transfer.take() {
            let detail = "leadership did not move before the deadline; GET /raft/stats shows who leads";
            cx.core.refuse(transfer.waiting, Refusal::unknown(Code::TransferFailed, detail));
        }
    }
}
