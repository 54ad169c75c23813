//! Late rounds of ReadIndex: those that the leader leaves unanswered for too long.
//!
//! Why: behind a slow link everything arrives late, also what would tell how far the leader is. Each read would wait
//! until its deadline, on a node that takes itself for ready.
//!
//! Invariants: a round is late once it has waited an election timeout in ticks of this loop, and its leader was heard in
//! several of them, the present one included. A leader that has died or hangs is silent, so an election makes no round
//! late; nor does a stall of this node, which has no ticks. Under another leader, or in another term, the age begins
//! anew.
//!
//! See also: what follows (`liveness::readiness`).

use crate::model::Millis;

/// In how many ticks a leader that leaves a round unanswered was heard at least. One that goes on after a stall is heard
/// once before its answer comes.
const HEARD_TICKS: usize = 2;

/// How long a round has waited, under which leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RoundAge {
    /// The raft id of the leader, and its term.
    leader: (u64, u64),
    ticks: usize,
    /// In how many of these ticks the leader was heard, and when it was last.
    heard_ticks: usize,
    heard: Millis,
}

impl RoundAge {
    pub fn new(leader: (u64, u64), now: Millis) -> Self {
        Self { leader, ticks: 0, heard_ticks: 0, heard: now }
    }

    /// Begins anew where another leader is asked. The same one, lost and found again, still owes its answer.
    pub fn ask(&mut self, leader: (u64, u64), now: Millis) {
        if leader.0 != 0 && leader != self.leader {
            *self = Self::new(leader, now);
        }
    }

    /// A tick has passed, and the leader was heard last at `heard`; whether the round is late, where `most` ticks are an
    /// election timeout.
    pub fn tick(&mut self, heard: Option<Millis>, most: usize) -> bool {
        self.ticks += 1;
        let Some(heard) = heard.filter(|heard| *heard > self.heard) else { return false };
        self.heard = heard;
        self.heard_ticks += 1;
        self.ticks >= most && self.heard_ticks >= HEARD_TICKS
    }

    /// Whether an answer now comes within an election timeout.
    pub fn is_in_time(&self, most: usize) -> bool {
        self.ticks < most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 10;

    #[test]
    fn a_round_is_late_where_the_leader_is_heard_and_does_not_answer_it() {
        let every = |ticks: usize| (1..=40).filter(|tick| tick % ticks == 0).collect::<Vec<_>>();
        for (case, heard_at, late_at) in [
            ("heartbeats", every(2), Some(10)),
            ("a slow link, a message in 1.6 s", every(16), Some(32)),
            ("a slow link from the middle of a message on", vec![4, 20, 36], Some(20)),
            ("a leader that dies at once", vec![], None),
            ("a leader that dies", vec![2, 4, 6, 8], None),
            ("a leader that hangs and goes on, before it answers", vec![15], None),
        ] {
            let mut age = RoundAge::new((2, 5), 0);
            let mut seen = None;
            let late = (1..=40).find(|tick| {
                seen = if heard_at.contains(tick) { Some(*tick as Millis * 100) } else { seen };
                age.tick(seen, MOST)
            });
            assert_eq!(late, late_at, "{case}");
        }
    }

    #[test]
    fn another_leader_or_term_has_an_election_timeout_of_its_own() {
        for (case, asked, late) in [
            ("the same", vec![(2, 5)], true),
            ("none, and the same again", vec![(0, 5), (2, 5)], true),
            ("another leader", vec![(0, 6), (3, 6)], false),
            ("another term", vec![(2, 6)], false),
        ] {
            let mut age = RoundAge::new((2, 5), 0);
            (1..MOST).for_each(|tick| assert!(!age.tick(Some(tick as Millis), MOST)));
            asked.into_iter().for_each(|leader| age.ask(leader, 50));
            assert_eq!(age.tick(Some(100), MOST), late, "{case}");
            assert_eq!(age.is_in_time(MOST), !late, "{case}");
        }
    }
}
