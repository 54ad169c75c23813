//! Catch-up of learners, in rounds of replication (Raft thesis 4.2.1).
//!
//! Why: a learner that is made a voter too early holds up every commit until it has the log. How far behind it may be
//! cannot be told in entries: what matters is how long the rest takes.
//!
//! Invariants: a round replicates what the log holds when it begins. A learner whose round took less than an election
//! timeout has caught up; any other begins the next round. If writes outrun the link, no round is that short, and the
//! answer of the join says so.
//!
//! See also: how a change of the membership is proposed (`membership`).

use std::collections::BTreeMap;

use crate::model::Millis;
use crate::telemetry::logging::LogLimit;

/// One round of one learner.
#[derive(Debug)]
struct Round {
    /// The end of the log when it began.
    target: u64,
    began: Millis,
    /// The length of the previous round, if there was one; it was too long.
    took: Option<Millis>,
    /// The number of previous rounds.
    count: u32,
}

/// The rounds of all learners, on the leader.
#[derive(Debug, Default)]
pub(crate) struct CatchUp {
    rounds: BTreeMap<u64, Round>,
    /// The rate limit of lines about learners that are too slow.
    pub slow_learner: LogLimit,
}

/// The result of [`CatchUp::look`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// It has the log.
    CaughtUp,
    /// Its round goes on.
    Waits,
    /// Its round has ended, and took this long, which is too long.
    TooSlow(Millis),
}

impl CatchUp {
    /// Checks a learner that holds the log up to `matched` of `last`; a round must take less than `within`.
    pub fn look(&mut self, learner: u64, (matched, last): (u64, u64), now: Millis, within: Millis) -> Look {
        // Worked example, election timeout 1 s. Round 1: the log ends at 9 000, the learner has it 4 s later, too slow.
        // Meanwhile the log has grown to 10 000: round 2 takes 0.5 s, and the learner has caught up.
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
        // A round was too long, but nothing came meanwhile: the learner has the whole log.
        if matched >= last { Look::CaughtUp } else { Look::TooSlow(took) }
    }

    /// Forgets the rounds of a learner, which needs a snapshot first.
    pub fn forget(&mut self, learner: u64) {
        self.rounds.remove(&learner);
    }

    /// Forgets all learners but these.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        self.rounds.retain(|learner, _| wanted(*learner));
    }

    /// Returns the number of ended rounds of a learner, and the length of the last one.
    pub fn slow(&self, learner: u64) -> Option<(u32, Millis)> {
        let round = self.rounds.get(&learner)?;
        Some((round.count, round.took?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const ELECTION: Millis = 1_000;

    /// A leader that takes `writes` entries a second and a link that carries `carries` of them a second, with a round
    /// trip of `trip`: when the learner, behind by `behind` entries at first, has caught up, within two minutes.
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
