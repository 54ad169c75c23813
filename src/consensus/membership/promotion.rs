//! Promotion of learners that have caught up.
//!
//! Invariants: any leader promotes any learner that has caught up, which is what lets a join survive its leader. A
//! learner whose disk is nearly full is not promoted: as a voter it would stop the writes of the cluster.
//!
//! See also: `catch_up` (when a learner has caught up).

use raft::ProgressState;
use raft::eraftpb::ConfChangeType;
use slog::warn;

use super::Membership;
use super::catch_up::Look;
use super::operation::{Operation, Step, refuse};
use crate::consensus::proposals::shared_context::Context;
use crate::model::{Code, DiskSpace, Member, MemberChange, Millis, Role, mib};

/// The shortest interval between two log lines about a slow learner.
const SLOW_EVERY: Millis = 10_000;

impl Membership {
    /// Returns the step of a join that waits for its learner.
    pub fn promoted(&self, cx: &Context<'_>, operation: &Operation, raft_id: u64) -> Step {
        match cx.core.state_machine.members().get(raft_id).map(|member| member.role) {
            Some(Role::Voter) => Step::Done(Ok(operation.answer(cx.core, true))),
            Some(Role::Learner) => Step::Keep,
            None => refuse(Code::UnknownMember, "the node was removed again before its join was finished".to_owned()),
        }
    }

    /// Promotes a learner that has caught up. Every leader does so, which lets a join survive its leader.
    pub fn promote_learners(&mut self, cx: &mut Context<'_>) {
        if !cx.core.can_change() {
            return;
        }
        let members = cx.core.state_machine.members();
        let learners: Vec<Member> = members.iter().filter(|member| member.role == Role::Learner).cloned().collect();
        self.catch_up.retain(|raft_id| learners.iter().any(|learner| learner.raft_id == raft_id));
        let ready = learners.into_iter().find(|learner| {
            // As a voter it would stop the cluster's writes at once.
            let fits = !cx.space.space_of(cx.core, learner.raft_id).is_some_and(DiskSpace::is_nearly_full);
            fits && cx.live.is_live(cx.core, learner.raft_id) && self.has_caught_up(cx, learner)
        });
        let Some(learner) = ready else { return };
        let voters: Vec<u64> = cx.core.conf_voters().iter().copied().chain([learner.raft_id]).collect();
        if cx.live.check_quorum(cx.core, &voters).is_ok() {
            let change = MemberChange::Set(Member { role: Role::Voter, ..learner.clone() });
            if let Err(refusal) = cx.core.propose_change(ConfChangeType::AddNode, learner.raft_id, &change) {
                warn!(cx.core.log, "cannot promote a learner"; "node" => learner.name, "detail" => refusal.detail);
            }
        }
    }

    fn has_caught_up(&mut self, cx: &mut Context<'_>, learner: &Member) -> bool {
        let (raft_id, within) = (learner.raft_id, cx.core.election_timeout());
        let last = cx.core.raw.raft.raft_log.last_index();
        // The time of a snapshot is no round: what is replicated behind it says how fast the link is.
        let copied = cx.core.raw.raft.prs().get(raft_id).filter(|progress| progress.state != ProgressState::Snapshot);
        let Some(matched) = copied.map(|progress| progress.matched).filter(|matched| *matched > 0) else {
            self.catch_up.forget(raft_id);
            return false;
        };
        match self.catch_up.look(raft_id, (matched, last), cx.core.now, within) {
            Look::CaughtUp => true,
            Look::Waits => false,
            Look::TooSlow(ms) => {
                if self.catch_up.slow_learner.every(SLOW_EVERY, cx.core.now).is_some() {
                    warn!(cx.core.log, "a learner does not catch up: writes outrun the link to it";
                        "node" => &learner.name, "round_ms" => ms, "needed_ms" => within, "entries_behind" => last - matched);
                }
                false
            }
        }
    }

    /// Returns why a learner was not promoted yet, if its link, its disk or its snapshot is the cause.
    pub fn explain_slowness(&self, cx: &Context<'_>, raft_id: u64) -> Option<String> {
        if let Some(space) = cx.space.space_of(cx.core, raft_id).filter(|space| space.is_nearly_full()) {
            let (name, free, reserve) = (cx.core.name_of(raft_id), mib(space.free_bytes), mib(space.reserve_bytes));
            return Some(format!(
                "The disk of {name} has {free} free and is to keep {reserve} (storage.reserve_mb): it becomes a voter once \
                 there is space"
            ));
        }
        if let Some(reason) = cx.core.raw.store().stream_failures.get(&raft_id) {
            return Some(format!("The last snapshot for {} failed: {reason}", cx.core.name_of(raft_id)));
        }
        let (count, took) = self.catch_up.slow(raft_id)?;
        let matched = cx.core.raw.raft.prs().get(raft_id)?.matched;
        let behind = cx.core.raw.raft.raft_log.last_index().saturating_sub(matched);
        let (name, within) = (cx.core.name_of(raft_id), cx.core.election_timeout());
        Some(format!(
            "Writes outrun the link to {name}: it is {behind} entries behind, and the last of {count} rounds of catching up \
             took {took} ms, where less than {within} ms is needed. It becomes a voter once there are fewer writes or a \
             faster link"
        ))
    }
}
