//! Handing leadership over (Raft thesis 3.10).
//!
//! Why: a leader that is to be removed or stopped hands over first, so that nobody waits for an election timeout.
//!
//! Laws: leadership is handed only to a live voter. Raft drops proposals while a transfer is under way; they are tried
//! again and fail nobody. A transfer that has not succeeded within an election timeout is given up by raft itself.
//!
//! Not here: which requests lead to a transfer (`join`, `driver`).

use slog::info;

use super::join::Stage;
use super::{Operation, Step};
use crate::consensus::core::client_request::ClientRequest;
use crate::consensus::driver::Driver;
use crate::model::Millis;
use crate::model::{Answer, Code, Refusal, Request};

/// A transfer under way.
pub(crate) struct Transfer {
    pub waiting: ClientRequest,
    target: u64,
    until: Millis,
}

impl Driver {
    pub(crate) fn start_transfer(&self, node_id: Option<&str>) -> Step {
        let target = match node_id {
            None => self.live.successor(&self.core),
            Some(name) => {
                let Some(member) = self.core.state_machine.members().named(name) else {
                    let detail = format!("no member has the name {name}; GET /raft/stats lists them");
                    return Step::Done(Err(Refusal::not_applied(Code::UnknownMember, detail)));
                };
                let fit =
                    self.core.conf_voters().contains(&member.raft_id) && self.live.is_live(&self.core, member.raft_id);
                fit.then_some(member.raft_id)
            }
        };
        match target {
            Some(target) if target == self.core.raft_id() => {
                Step::Done(Ok(Answer::Transferred { node_id: self.core.my_name() }))
            }
            Some(successor) => Step::Next(Stage::Lead { successor }),
            None => self.refuse_once_settled(Refusal::not_applied(
                Code::NotAVoter,
                match node_id {
                    Some(node_id) => format!("{node_id} is not a voter that can be heard now, so it cannot lead"),
                    None => "no other member is a voter that can be heard now, so none can lead".into(),
                },
            )),
        }
    }

    /// Takes the operation over until leadership has moved; the operation ends here.
    pub(crate) fn begin_transfer(&mut self, operation: Operation) -> Option<Operation> {
        let Stage::Lead { successor } = operation.stage else { return Some(operation) };
        info!(self.core.log, "handing leadership over"; "to" => self.core.name_of(successor));
        self.core.raw.transfer_leader(successor);
        let until = self.core.now + 2 * self.core.election_timeout();
        self.membership.transfer = Some(Transfer { waiting: operation.waiting, target: successor, until });
        None
    }

    /// Ends a transfer that has succeeded or was given up.
    pub(crate) fn drive_transfer(&mut self) {
        let leader = self.core.raw.raft.leader_id;
        let Some(transfer) = &self.membership.transfer else { return };
        let target = transfer.target;
        let given_up = self.core.leads() && self.core.raw.raft.lead_transferee.is_none();
        let elsewhere = leader != 0 && leader != self.core.raft_id();
        if (given_up || elsewhere || self.core.now >= transfer.until)
            && let Some(transfer) = self.membership.transfer.take()
        {
            let name = self.core.name_of(target);
            if elsewhere && matches!(transfer.waiting.request, Request::Remove { .. }) {
                self.retry_later(transfer.waiting);
            } else if leader == target {
                self.answer_when_visible(transfer.waiting, Answer::Transferred { node_id: name });
            } else {
                let detail = format!("leadership did not move to {name} within an election timeout; try again");
                // The word to lead may still be on its way. What was to follow it, a removal, was not begun.
                let moves = matches!(transfer.waiting.request, Request::Transfer { .. });
                let refuse = if moves { Refusal::unknown } else { Refusal::not_applied };
                self.core.refuse(transfer.waiting, refuse(Code::TransferFailed, detail));
            }
        }
    }

    pub(crate) fn expire_transfer(&mut self) {
        let late = self.membership.transfer.as_ref().is_some_and(|transfer| transfer.waiting.deadline <= self.core.now);
        if late && let Some(transfer) = self.membership.transfer.take() {
            let detail = "leadership did not move before the deadline; GET /raft/stats shows who leads";
            self.core.refuse(transfer.waiting, Refusal::unknown(Code::TransferFailed, detail));
        }
    }
}
