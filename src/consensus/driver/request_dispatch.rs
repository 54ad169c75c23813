//! Routing of requests between proposals, membership and reads.
//!
//! See also: `proposals`, `membership`, `reads` (what becomes of them).

use slog::info;

use super::Driver;
use super::split_borrows::{context, view};
use crate::consensus::core::Phase;
use crate::consensus::core::pending_request::{ClientRequest, removed, stopping};
use crate::consensus::input::ReadGrant;
use crate::consensus::membership::operation::Effect;
use crate::consensus::reads::Reader;
use crate::model::{Code, Refusal, WhoAmI};
use crate::storage::Error;

impl Driver {
    /// Returns why this node refuses data requests now, if it does.
    pub(crate) fn unavailable(&self) -> Option<Refusal> {
        self.no_member().or_else(|| self.verification.refusal())
    }

    /// Returns why this node is no serving member, if it is none.
    pub(crate) fn no_member(&self) -> Option<Refusal> {
        if self.core.stop_by.is_some() {
            return Some(stopping());
        }
        self.outside_of_cluster()
    }

    /// Returns why this node belongs to no cluster, if it belongs to none.
    pub(crate) fn outside_of_cluster(&self) -> Option<Refusal> {
        match self.core.phase {
            Phase::Member => None,
            Phase::Removed => Some(removed()),
            Phase::Forming | Phase::Joining => Some(self.joiner.not_joined_yet(&self.core, &self.live)),
        }
    }

    /// Accepts a request that a peer sent to the raft id `to`, or a client's if that is 0. If this node has switched
    /// incarnations since, it refuses: in the new cluster the request would be done and acknowledged, and in its own it
    /// would be lost.
    pub(crate) fn take_request(&mut self, waiting: ClientRequest, to: u64) {
        if to == 0 || to == self.core.raft_id() {
            return self.request(waiting);
        }
        let detail = "the node that the request was sent on to has become another one since; send it again";
        (waiting.reply)(Err(Refusal::not_applied(Code::NoLeader, detail)));
    }

    /// Passes a request to proposals and membership.
    pub(crate) fn request(&mut self, waiting: ClientRequest) {
        let unavailable = self.unavailable();
        self.proposals.request(context!(self), waiting, unavailable);
        self.route_changes();
    }

    /// Queues the membership requests that this node leads.
    pub(crate) fn route_changes(&mut self) {
        for waiting in self.proposals.take_changes() {
            if let Err(waiting) = self.membership.enqueue(waiting) {
                let full = "too many membership changes wait; try again later";
                self.core.refuse(*waiting, Refusal::not_applied(Code::Overloaded, full));
            }
        }
    }

    /// Advances membership requests, and carries out their effects.
    pub(crate) fn drive_membership(&mut self) {
        self.membership.drive_membership(context!(self));
        self.follow_membership();
    }

    pub(crate) fn follow_membership(&mut self) {
        for effect in self.membership.take_effects() {
            match effect {
                Effect::Answer(waiting, answer) => self.proposals.answer_when_visible(context!(self), waiting, answer),
                Effect::Retry(waiting) => self.proposals.retry_later(context!(self), waiting),
            }
        }
    }

    /// Handles the answer of a node that a membership request or the joiner has asked for its identity.
    pub(crate) fn identified(&mut self, token: u64, result: Result<WhoAmI, Refusal>) -> Result<(), Error> {
        // Membership asks as a leader, the joiner as a candidate for another cluster: the token says whose question it
        // was.
        let unclaimed = self.membership.identified(context!(self), token, result);
        self.follow_membership();
        let (Some(result), busy) = (unclaimed, self.busy()) else { return Ok(()) };
        match self.joiner.leader_identified(&mut self.core, &self.live, busy, token, result) {
            Some(accepted) => self.join_cluster(accepted),
            None => Ok(()),
        }
    }

    /// Refuses requests that were neither proposed nor forwarded.
    pub(crate) fn refuse_undispatched(&mut self, why: fn() -> Refusal) {
        self.proposals.refuse_undispatched(&self.core, why);
        for waiting in self.membership.take_queue() {
            self.core.refuse(waiting, why());
        }
    }

    /// Refuses all waiting requests: as unknown if they were proposed or forwarded.
    pub(crate) fn refuse_everything(&mut self, why: fn() -> Refusal) {
        self.refuse_undispatched(why);
        self.proposals.refuse_dispatched(&self.core, why);
        self.reads.refuse_reads(&self.core, why);
        self.membership.refuse_membership(context!(self), why);
    }

    /// Follows a change of the member table; `removed` are the raft ids that left it.
    pub(crate) fn members_changed(&mut self, removed: &[u64]) -> Result<(), Error> {
        let table = self.core.state_machine.members();
        let members =
            table.iter().map(|m| format!("{} {:?} at {}", m.name, m.role, m.raft_address)).collect::<Vec<_>>();
        info!(self.core.log, "members"; "index" => self.core.state_machine.applied().0, "are" => members.join(", "));
        // After its own removal this node is published as removed (`become_removed`); what else the batch removed is no
        // matter of it.
        for raft_id in removed {
            if *raft_id == self.core.raft_id() {
                return self.become_removed();
            }
            self.live.forget(*raft_id);
            self.core.outbox.tell_removed(*raft_id);
        }
        self.core.publish();
        Ok(())
    }

    pub(crate) fn read(&mut self, reader: Reader) {
        let unavailable = self.unavailable();
        self.reads.read(view!(self), reader, unavailable);
    }

    /// Returns the state that stale reads without a bound on its age may be answered from; None where this node serves none.
    #[must_use]
    pub fn direct_reads(&self) -> Option<ReadGrant> {
        let view = view!(self);
        self.unavailable().is_none().then(|| ReadGrant {
            state: self.core.state_machine.reader().clone(),
            term: self.core.raw.raft.term,
            clock: view.time,
        })
    }

    pub(crate) fn who_am_i(&self) -> WhoAmI {
        let offers = self.membership.asked.keys().map(|token| self.core.offer_number(*token)).collect();
        self.joiner.who_am_i(&self.core, self.busy(), offers)
    }
}
