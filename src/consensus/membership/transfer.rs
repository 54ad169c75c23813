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
use crate::consensus::driver::Driver;
use crate::consensus::proposals::ClientRequest;
use crate::model::Millis;
use crate::model::{Answer, Code, Refusal, Request};

/// A transfer under way.
pub(crate) struct Transfer {
    pub waiting: ClientRequest,
    target: u64,
    until: Millis,
}

impl Driver {
    /// The live voter, other than this node, that has most of the log.
    pub(crate) fn successor(&self) -> Option<u64> {
        let me = self.raft_id();
        let live = self.conf_voters().iter().copied().filter(|id| *id != me && self.is_live(*id));
        live.max_by_key(|id| self.raw.raft.prs().get(*id).map_or(0, |progress| progress.matched))
    }

    pub(crate) fn start_transfer(&self, node_id: Option<&str>) -> Step {
        let target = match node_id {
            None => self.successor(),
            Some(name) => {
                let Some(member) = self.state_machine.members().named(name) else {
                    let detail = format!("no member has the name {name}; GET /raft/stats lists them");
                    return Step::Done(Err(Refusal::not_applied(Code::UnknownMember, detail)));
                };
                let fit = self.conf_voters().contains(&member.raft_id) && self.is_live(member.raft_id);
                fit.then_some(member.raft_id)
            }
        };
        match target {
            Some(target) if target == self.raft_id() => Step::Done(Ok(Answer::Transferred { node_id: self.my_name() })),
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
        info!(self.log, "handing leadership over"; "to" => self.name_of(successor));
        self.raw.transfer_leader(successor);
        let until = self.now + 2 * self.election_timeout();
        self.membership.transfer = Some(Transfer { waiting: operation.waiting, target: successor, until });
        None
    }

    /// Ends a transfer that has succeeded or was given up.
    pub(crate) fn drive_transfer(&mut self) {
        let leader = self.raw.raft.leader_id;
        let Some(transfer) = &self.membership.transfer else { return };
        let target = transfer.target;
        let given_up = self.leads() && self.raw.raft.lead_transferee.is_none();
        let elsewhere = leader != 0 && leader != self.raft_id();
        if (given_up || elsewhere || self.now >= transfer.until)
            && let Some(transfer) = self.membership.transfer.take()
        {
            let name = self.name_of(target);
            if elsewhere && matches!(transfer.waiting.request, Request::Remove { .. }) {
                self.retry_later(transfer.waiting);
            } else if leader == target {
                self.answer_when_visible(transfer.waiting, Answer::Transferred { node_id: name });
            } else {
                let detail = format!("leadership did not move to {name} within an election timeout; try again");
                // The word to lead may still be on its way. What was to follow it, a removal, was not begun.
                let moves = matches!(transfer.waiting.request, Request::Transfer { .. });
                let refuse = if moves { Refusal::unknown } else { Refusal::not_applied };
                self.refuse(transfer.waiting, refuse(Code::TransferFailed, detail));
            }
        }
    }

    pub(crate) fn expire_transfer(&mut self) {
        let late = self.membership.transfer.as_ref().is_some_and(|transfer| transfer.waiting.deadline <= self.now);
        if late && let Some(transfer) = self.membership.transfer.take() {
            let detail = "leadership did not move before the deadline; GET /raft/stats shows who leads";
            self.refuse(transfer.waiting, Refusal::unknown(Code::TransferFailed, detail));
        }
    }
}
