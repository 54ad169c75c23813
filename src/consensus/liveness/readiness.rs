//! Readiness: whether this node lags behind its leader.
//!
//! Why: a follower that is being sent a snapshot of the state, has a long log to apply, or gets its leader's messages
//! late would let each read wait until its deadline. Clients are better off elsewhere, and load balancers and
//! orchestrators want to know.
//!
//! Invariants: a node lags from the moment that a snapshot is sent to it, or once it has not applied within an election
//! timeout what the leader was known to have committed, and until it has applied all of that. It lags, too, once the
//! leader that it follows has not answered a round of ReadIndex within an election timeout, and until one is answered in
//! less. The time is counted in ticks of the loop, so that a stall of the disk or of the state machine is not taken for
//! it. A leader does not lag, nor does a node that knows none. A node that has started is not ready before it has applied
//! what its leader had committed then; its reads wait meanwhile.
//!
//! See also: which reads are refused then (`reads`), and how it is shown (`http::api::probes`, `http::api::stats`).

use std::collections::VecDeque;

use slog::{info, warn};

use crate::consensus::core::{Core, Phase};
use crate::model::{Code, Refusal};

/// What this node knows of how far its leader is.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// The highest index that the leader is known to have committed.
    told: u64,
    /// Whether a leader from before the last change of role, term or leader told that.
    is_old: bool,
    /// The indexes that were told and are not applied here, and for how many ticks each has not been; the oldest first, and
    /// empty while this node lags.
    goals: VecDeque<(u64, usize)>,
    /// What was applied when a snapshot of the state began to arrive.
    copied_since: Option<u64>,
    lags: bool,
    /// For how many ticks the round of ReadIndex in flight has waited for the leader.
    waited: usize,
    /// Whether the last round waited too long.
    unanswered: bool,
    /// Whether this node has applied what a leader told since it started.
    caught_up: bool,
}

impl Lag {
    /// The leader has committed everything up to `index`.
    pub fn told(&mut self, index: u64) {
        self.told = if std::mem::take(&mut self.is_old) { index } else { self.told.max(index) };
    }

    /// What was told so far is true of committed entries for ever, but was another's word: the next one counts.
    pub fn leader_changes(&mut self) {
        self.is_old = true;
        self.waited = 0;
    }

    /// The leader has answered a round: it has committed everything up to `index`. What comes after more than an election
    /// timeout says how far it was that long ago, so only the next round shows whether that is over.
    pub fn answered(&mut self, index: u64, most: usize) {
        self.unanswered &= self.waited >= most;
        self.waited = 0;
        self.told(index);
    }

    /// A snapshot begins to arrive: the leader's log no longer reaches back to what is applied here.
    fn copy_begins(&mut self, applied: u64) {
        self.told = self.told.max(applied + 1);
        self.copied_since = Some(applied);
        self.lags = true;
    }

    /// A tick has passed in which the leader had a round to answer, or not.
    fn wait(&mut self, in_round: bool, most: usize) {
        self.waited = if in_round { self.waited + 1 } else { 0 };
        self.unanswered |= self.waited >= most;
        self.lags |= self.unanswered;
    }

    /// A tick has passed; a node that is behind for `most` of them lags.
    fn tick(&mut self, applied: u64, most: usize) {
        if applied >= self.told {
            return self.reached(applied);
        }
        self.goals.retain_mut(|(goal, ticks)| {
            *ticks += 1;
            *goal > applied
        });
        if self.goals.back().is_none_or(|(goal, _)| *goal < self.told) {
            self.goals.push_back((self.told, 0));
        }
        self.lags |= self.goals.front().is_some_and(|(_, ticks)| *ticks >= most);
        if self.lags {
            self.goals.clear();
        }
    }

    /// Notes what is applied here.
    fn reached(&mut self, applied: u64) {
        if applied < self.told {
            return;
        }
        self.goals.clear();
        (self.copied_since, self.lags) = (None, self.unanswered);
        self.caught_up |= !self.is_old && self.told > 0;
    }
}

impl Lag {
    /// The refusal of linearizable reads while this node lags.
    pub fn lagging(&self, core: &Core) -> Option<Refusal> {
        let lags = self.lags && !core.leads() && core.raw.raft.leader_id != 0;
        lags.then(|| {
            let behind = core.state_machine.applied().0 < self.told;
            if behind { self.not_applied_yet(core, self.told) } else { unconfirmed(core) }
        })
    }

    /// Why a node that has started is not ready yet, though its reads may wait.
    pub fn starting(&self, core: &Core) -> Option<Refusal> {
        let starts = !self.caught_up && core.phase == Phase::Member && !core.leads() && core.raw.raft.leader_id != 0;
        let detail = "this node has started and not yet applied what its leader has committed";
        starts.then(|| Refusal::not_applied(Code::Lagging, detail))
    }

    /// Whether this node asks its leader how far it is, though no client does.
    pub fn asks(&self, core: &Core) -> bool {
        core.phase == Phase::Member && !core.leads() && (!self.caught_up || self.unanswered)
    }

    /// The refusal of a read that waited in vain for what is committed up to `index` to be applied here.
    pub fn not_applied_yet(&self, core: &Core, index: u64) -> Refusal {
        let applied = core.state_machine.applied().0;
        let copy = if self.copied_since == Some(applied) { " and is being sent a copy of the state" } else { "" };
        let detail = format!(
            "this node has applied up to index {applied} of at least {}{copy}; ask another one, or read what this one has \
             with ?consistency=stale",
            index.max(applied + 1)
        );
        Refusal::not_applied(Code::Lagging, detail)
    }

    /// A snapshot of the state begins to arrive.
    pub fn copy_arrives(&mut self, core: &Core) -> bool {
        // One that joins has not been in touch yet, and says so.
        if core.phase != Phase::Member {
            return false;
        }
        let lagged = self.lags;
        self.copy_begins(core.state_machine.applied().0);
        self.lagging_changed(core, lagged)
    }

    /// Looks once a tick how far behind this node is; `in_round` where a round of ReadIndex is in flight.
    pub fn update_lag(&mut self, core: &Core, in_round: bool) -> bool {
        if core.leads() || core.raw.raft.leader_id == 0 {
            (self.waited, self.unanswered) = (0, false);
            self.caught_up |= core.leads();
            return false;
        }
        let lagged = self.lags;
        self.wait(in_round && core.phase == Phase::Member, core.options.election_ticks);
        self.tick(core.state_machine.applied().0, core.options.election_ticks);
        self.lagging_changed(core, lagged)
    }

    /// Looks after a turn whether this node has caught up.
    pub fn note_applied(&mut self, core: &Core) {
        let lagged = self.lags;
        self.reached(core.state_machine.applied().0);
        self.lagging_changed(core, lagged);
    }

    fn lagging_changed(&self, core: &Core, lagged: bool) -> bool {
        let (applied, told) = (core.state_machine.applied().0, self.told);
        match (lagged, self.lags) {
            (false, true) => {
                warn!(core.log, "this node lags behind its leader and answers no linearizable reads until it has caught up";
                    "applied_index" => applied, "leader_index" => told, "copy" => self.copied_since.is_some(),
                    "leader_answers" => !self.unanswered);
            }
            (true, false) => {
                info!(core.log, "this node has caught up with its leader"; "applied_index" => applied)
            }
            _ => {}
        }
        !lagged && self.lags
    }
}

/// The refusal of a node that has applied all that it knows of, which may be old.
fn unconfirmed(core: &Core) -> Refusal {
    let (me, leader, ms) = (core.my_name(), core.name_of(core.raw.raft.leader_id), core.election_timeout());
    let detail = format!(
        "{leader} leads and has not confirmed within {ms} ms what {me} has to show: messages between them are late or \
         lost; ask another node, or read what this one has with ?consistency=stale"
    );
    Refusal::not_applied(Code::Lagging, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 3;

    #[test]
    fn a_node_lags_once_a_round_waits_too_long_and_until_one_is_answered_in_time_and_applied() {
        let mut lag = Lag::default();
        lag.told(5);
        let pass = |lag: &mut Lag, ticks: usize, in_round| {
            (0..ticks).for_each(|_| {
                lag.wait(in_round, MOST);
                lag.tick(9, MOST);
            });
            lag.lags
        };
        assert!(!pass(&mut lag, MOST - 1, true), "a round may take a while");
        lag.answered(9, MOST);
        assert!(!pass(&mut lag, MOST - 1, true) && !pass(&mut lag, 9, false), "each round waits for itself");
        assert!(pass(&mut lag, MOST, true));
        lag.told(9);
        assert!(pass(&mut lag, 1, true), "what is told by the way says nothing of now");
        lag.answered(9, MOST);
        assert!(pass(&mut lag, 1, true), "it came too late");
        lag.answered(12, MOST);
        assert!(pass(&mut lag, 1, false), "it is not applied");
        lag.reached(12);
        assert!(!lag.lags);
    }

    #[test]
    fn a_node_has_caught_up_once_it_has_applied_what_a_leader_told_since_it_started() {
        let mut lag = Lag::default();
        lag.leader_changes();
        lag.tick(7, MOST);
        assert!(!lag.caught_up, "nothing was told");
        lag.answered(9, MOST);
        lag.reached(8);
        assert!(!lag.caught_up);
        lag.reached(9);
        assert!(lag.caught_up);
        lag.leader_changes();
        lag.reached(9);
        assert!(lag.caught_up, "for good");
    }

    #[test]
    fn a_node_lags_once_it_has_not_applied_for_long_what_it_was_told_and_until_it_has_all_of_it() {
        let mut lag = Lag::default();
        lag.told(10);
        for (applied, told, lags) in [
            (5, 10, false),
            (6, 20, false),
            (7, 30, false),
            (8, 40, true),
            // What it was told first does not do any more.
            (12, 50, true),
            (49, 50, true),
            (50, 50, false),
        ] {
            lag.told(told);
            lag.tick(applied, MOST);
            assert_eq!(lag.lags, lags, "{applied} of {told}");
        }
    }

    #[test]
    fn a_node_that_follows_at_a_distance_does_not_lag() {
        let mut lag = Lag::default();
        for tick in 0..100 {
            lag.told(tick * 1000 + 2000);
            lag.tick(tick * 1000, MOST);
            assert!(!lag.lags, "tick {tick}");
        }
    }

    #[test]
    fn a_node_that_falls_behind_bit_by_bit_lags_as_soon_as_one_index_has_waited_long_enough() {
        let mut lag = Lag::default();
        // What is told at a tick is applied three ticks later, but what is told at the second never is.
        for (applied, told, lags) in [(0, 10, false), (0, 20, false), (10, 30, false), (10, 40, false), (19, 50, true)]
        {
            lag.told(told);
            lag.tick(applied, MOST);
            assert_eq!((lag.lags, lag.goals.len() <= MOST), (lags, true), "{applied} of {told}");
        }
    }

    #[test]
    fn a_leader_that_is_lost_and_found_again_ends_no_lag_and_the_word_of_another_counts_anew() {
        let mut lag = Lag::default();
        lag.told(u64::MAX);
        (0..=MOST).for_each(|_| lag.tick(5, MOST));
        assert!(lag.lags);
        lag.leader_changes();
        lag.tick(6, MOST);
        assert!(lag.lags);
        lag.told(9);
        lag.reached(8);
        assert!(lag.lags);
        lag.reached(9);
        assert!(!lag.lags);
    }

    #[test]
    fn a_node_that_is_sent_a_copy_lags_at_once() {
        let mut lag = Lag::default();
        lag.copy_begins(7);
        assert!(lag.lags);
        lag.reached(7);
        assert!(lag.lags, "nothing has come of it yet");
        lag.told(90);
        lag.reached(80);
        assert!(lag.lags);
        lag.reached(90);
        assert!(!lag.lags && lag.copied_since.is_none());
    }
}
