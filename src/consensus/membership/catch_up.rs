//! When a learner has caught up, by rounds of replication (Raft thesis 4.2.1).
//!
//! Why: a learner that is made a voter too early holds up every commit until it has the log. How far behind it may be
//! cannot be told in entries: what matters is how long the rest takes.
//!
//! Laws: a round replicates what the log holds when it begins. A learner whose round took less than an election timeout
//! has caught up; any other begins the next round. Over a link that writes outrun no round is that short, and what is
//! known of that is said where the join is answered.
//!
//! Not here: how a change of the membership is proposed (`membership`).

use std::collections::BTreeMap;

use raft::ProgressState;
use raft::eraftpb::ConfChangeType;
use slog::warn;

use super::join_checks::refuse;
use super::{Operation, Step};
use crate::consensus::driver::Driver;
use crate::model::Millis;
use crate::model::{Code, DiskSpace, Member, MemberChange, Role, mib};

/// How often the log says that a learner does not catch up.
const SLOW_EVERY: Millis = 10_000;

/// One round of one learner.
#[derive(Debug)]
struct Round {
    /// The end of the log when it began.
    target: u64,
    began: Millis,
    /// How long the round before it took, where there was one: too long, or this one would not be.
    took: Option<Millis>,
    /// How many came before it.
    count: u32,
}

/// The rounds of all learners, on the leader.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    rounds: BTreeMap<u64, Round>,
    /// When the log said last that one is too slow.
    logged: Option<Millis>,
}

/// What a look at a learner came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It has the log.
    CaughtUp,
    /// Its round goes on.
    Waits,
    /// Its round has ended and took this long, which is too long.
    TooSlow(Millis),
}

impl CatchUp {
    /// Looks at a learner that has the log up to `matched` while it ends at `last`; a round may take less than `within`.
    pub fn look(&mut self, learner: u64, (matched, last): (u64, u64), now: Millis, within: Millis) -> Look {
        let first = Round { target: last, began: now, took: None, count: 0 };
        let round = self.rounds.entry(learner).or_insert(first);
        if matched < round.target {
            return Look::Waits;
        }
        let took = now.saturating_sub(round.began);
        if took < within {
            return Look::CaughtUp;
        }
        *round = Round { target: last, began: now, took: Some(took), count: round.count + 1 };
        if matched >= last { Look::CaughtUp } else { Look::TooSlow(took) }
    }

    /// Begins anew with a learner that needs a copy of the state first.
    pub fn forget(&mut self, learner: u64) {
        self.rounds.remove(&learner);
    }

    /// Keeps the learners that are wanted.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.rounds.retain(|learner, _| wanted(*learner));
    }

    /// How many rounds of a learner have ended, and how long the last of them took.
    pub fn slow(&self, learner: u64) -> Option<(u32, Millis)> {
        let round = self.rounds.get(&learner)?;
        Some((round.count, round.took?))
    }
}

impl Driver {
    /// Where a join stands that waits for its learner.
    pub(crate) fn promoted(&self, operation: &Operation, raft_id: u64) -> Step {
        match self.core.state_machine.members().get(raft_id).map(|member| member.role) {
            Some(Role::Voter) => Step::Done(Ok(self.members_answer(operation, true))),
            Some(Role::Learner) => Step::Keep,
            None => refuse(Code::UnknownMember, "the node was removed again before its join was finished".to_owned()),
        }
    }

    /// Any leader promotes any learner that has caught up: that is what lets a join survive its leader.
    pub(crate) fn promote_learners(&mut self) {
        if !self.core.can_change() {
            return;
        }
        let members = self.core.state_machine.members();
        let learners: Vec<Member> = members.iter().filter(|member| member.role == Role::Learner).cloned().collect();
        self.membership.catch_up.retain(|raft_id| learners.iter().any(|learner| learner.raft_id == raft_id));
        let ready = learners.into_iter().find(|learner| {
            // As a voter it would stop the cluster's writes at once.
            let fits =
                !self.voter_disk_space.space_of(&self.core, learner.raft_id).is_some_and(DiskSpace::is_nearly_full);
            fits && self.live.is_live(&self.core, learner.raft_id) && self.has_caught_up(learner)
        });
        let Some(learner) = ready else { return };
        let voters: Vec<u64> = self.core.conf_voters().iter().copied().chain([learner.raft_id]).collect();
        if self.live.check_quorum(&self.core, &voters).is_ok() {
            let change = MemberChange::Set(Member { role: Role::Voter, ..learner.clone() });
            if let Err(refusal) = self.core.propose_change(ConfChangeType::AddNode, learner.raft_id, &change) {
                warn!(self.core.log, "cannot promote a learner"; "node" => learner.name, "detail" => refusal.detail);
            }
        }
    }

    fn has_caught_up(&mut self, learner: &Member) -> bool {
        let (raft_id, within) = (learner.raft_id, self.core.election_timeout());
        let last = self.core.raw.raft.raft_log.last_index();
        let copied = self.core.raw.raft.prs().get(raft_id).filter(|progress| progress.state != ProgressState::Snapshot);
        let Some(matched) = copied.map(|progress| progress.matched).filter(|matched| *matched > 0) else {
            self.membership.catch_up.forget(raft_id);
            return false;
        };
        match self.membership.catch_up.look(raft_id, (matched, last), self.core.now, within) {
            Look::CaughtUp => true,
            Look::Waits => false,
            Look::TooSlow(ms) => {
                if self.membership.catch_up.logged.is_none_or(|at| self.core.now >= at + SLOW_EVERY) {
                    self.membership.catch_up.logged = Some(self.core.now);
                    warn!(self.core.log, "a learner does not catch up: writes outrun the link to it";
                        "node" => &learner.name, "round_ms" => ms, "needed_ms" => within, "entries_behind" => last - matched);
                }
                false
            }
        }
    }

    /// Why a learner has not been promoted yet, where that is because of its link or its disk.
    pub(crate) fn explain_slowness(&self, raft_id: u64) -> Option<String> {
        if let Some(space) = self.voter_disk_space.space_of(&self.core, raft_id).filter(|space| space.is_nearly_full())
        {
            let (name, free, reserve) = (self.core.name_of(raft_id), mib(space.free_bytes), mib(space.reserve_bytes));
            return Some(format!(
                "The disk of {name} has {free} free and is to keep {reserve} (storage.reserve_mb): it becomes a voter once \
                 there is space"
            ));
        }
        let (count, took) = self.membership.catch_up.slow(raft_id)?;
        let matched = self.core.raw.raft.prs().get(raft_id)?.matched;
        let behind = self.core.raw.raft.raft_log.last_index().saturating_sub(matched);
        let (name, within) = (self.core.name_of(raft_id), self.core.election_timeout());
        Some(format!(
            "Writes outrun the link to {name}: it is {behind} entries behind, and the last of {count} rounds of catching up \
             took {took} ms, where less than {within} ms is needed. It becomes a voter once there are fewer writes or a \
             faster link"
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const ELECTION: Millis = 1_000;

    /// A leader that takes `writes` entries a second and a link that carries `carries` of them a second, with a round trip
    /// of `trip`: when the learner, behind by `behind` entries at first, has caught up, within two minutes.
    fn caught_up(writes: u64, carries: u64, trip: Millis, behind: u64) -> Option<Millis> {
        let (mut rounds, mut acknowledged) = (CatchUp::default(), VecDeque::new());
        let (mut last, mut sent, mut matched) = (behind * 1_000, 0, 0);
        for now in 0..120_000 {
            last += writes;
            sent = last.min(sent + carries);
            acknowledged.push_back((now + trip, sent));
            while let Some((_, index)) = acknowledged.pop_front_if(|(at, _)| *at <= now) {
                matched = index;
            }
            // In thousandths of entries, so that slow links carry some in each millisecond.
            if rounds.look(7, (matched / 1_000, last / 1_000), now, ELECTION) == Look::CaughtUp {
                return Some(now);
            }
        }
        assert!(rounds.slow(7).is_some_and(|(count, took)| count > 0 && took >= ELECTION));
        None
    }

    #[test]
    fn a_join_ends_over_any_round_trip_below_an_election_timeout() {
        for trip in [1, 100, 400, 600, 900] {
            // Far more than 1 000 entries are on their way at any time.
            let at = caught_up(20_000, 200_000, trip, 500_000);
            assert!(at.is_some_and(|at| at < 8_000), "{trip} ms: {at:?}");
        }
    }

    #[test]
    fn a_join_does_not_end_where_writes_outrun_the_link_and_that_is_known() {
        assert_eq!(caught_up(20_000, 10_000, 1, 50_000), None);
        assert!(caught_up(0, 10_000, 1, 50_000).is_some());
    }

    #[test]
    fn a_learner_that_has_everything_has_caught_up_however_long_it_took() {
        let mut rounds = CatchUp::default();
        assert_eq!(rounds.look(7, (0, 10), 0, ELECTION), Look::Waits);
        assert_eq!(rounds.look(7, (10, 10), 60_000, ELECTION), Look::CaughtUp);
        rounds.forget(7);
        assert_eq!(rounds.look(7, (0, 10), 60_000, ELECTION), Look::Waits);
        assert_eq!(rounds.look(7, (10, 11), 62_000, ELECTION), Look::TooSlow(2_000));
        assert_eq!(rounds.look(7, (11, 12), 62_300, ELECTION), Look::CaughtUp);
    }
}
