//! Readiness: whether this node lags behind its leader, or has not caught up with it since it started.
//!
//! Why: a follower that is being sent a snapshot of the state, has a long log to apply, or gets its leader's messages
//! late would let each read wait until its deadline. Clients are better off elsewhere, and load balancers and
//! orchestrators want to know.
//!
//! Invariants: a node lags from the moment that a snapshot is sent to it, or once it has not applied within an election
//! timeout what the leader was known to have committed, and until it has applied all of that. It lags, too, once its
//! leader leaves a round of ReadIndex unanswered for too long, and until one is answered in time and applied. The time is
//! counted in ticks of the loop, so that a stall of the disk or of the state machine is not taken for it. A leader does
//! not lag, nor does a node that knows none. A member that has started asks its leader at once, and is not ready before
//! it has applied what the answer says; its reads wait meanwhile. If it leads itself, what it has committed once it has committed in its
//! term is the answer. A node that has just joined has not started: its join ends once it has caught up.
//!
//! See also: when a round is late (`reads::read_index_timeout`), which reads are refused then (`reads`), and how it is shown
//! (`http::api::probes`, `http::api::status_json`).

use slog::{info, warn};

use crate::consensus::core::{Core, Phase};
use crate::model::{Code, Refusal};

/// How far this node is behind its leader, as far as it knows.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    /// The highest index that the leader is known to have committed.
    known: u64,
    /// Whether `known` is from before the last change of role, term or leader.
    is_old: bool,
    /// A known index that is not applied here, and for how many ticks it has not been.
    goal: Option<(u64, usize)>,
    /// What was applied when a snapshot of the state began to arrive.
    snapshot_since: Option<u64>,
    /// Whether it has had too long to apply a known index.
    is_behind: bool,
    /// Whether the leader answers late.
    answers_late: bool,
    start: Start,
}

/// What a member lacks since its start.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Nothing. A node that has joined is here too: its join ends only when it has caught up.
    #[default]
    CaughtUp,
    /// The leader's commit index.
    Asks,
    /// The entries up to this index.
    Applies(u64),
}

impl Lag {
    /// Notes that the process has started as a member.
    pub fn starts(&mut self) {
        self.start = Start::Asks;
    }

    fn lags(&self) -> bool {
        self.is_behind || self.answers_late
    }

    /// Notes the leader's answer to a round: it has committed everything up to `index`. A late answer shows how far the leader
    /// was then, so the node lags until the next one arrives in time and is applied.
    pub fn answered(&mut self, index: u64, in_time: bool) {
        self.leader_committed(index);
        if self.start == Start::Asks {
            self.start = Start::Applies(index);
        }
        if in_time && std::mem::take(&mut self.answers_late) {
            self.is_behind = true;
        }
    }

    /// Notes that the leader has committed everything up to `index`.
    pub fn leader_committed(&mut self, index: u64) {
        self.known = if std::mem::take(&mut self.is_old) { index } else { self.known.max(index) };
    }

    /// Notes another leader, term or role. What is known stays true, since it was committed; but the next report of a leader
    /// counts, also a lower one.
    pub fn leader_changes(&mut self) {
        self.is_old = true;
    }

    /// Notes a snapshot that begins to arrive: the leader's log has been compacted beyond what is applied here.
    fn snapshot_begins(&mut self, applied: u64) {
        self.known = self.known.max(applied + 1);
        self.snapshot_since = Some(applied);
        self.is_behind = true;
    }

    /// Counts a tick; a node that has not applied a known index for `most` of them lags.
    fn tick(&mut self, applied: u64, most: usize) {
        if applied >= self.known {
            return self.reached(applied);
        }
        self.goal = match self.goal {
            Some((goal, ticks)) if goal > applied => Some((goal, ticks + 1)),
            _ => Some((self.known, 0)),
        };
        self.is_behind |= self.goal.is_some_and(|(_, ticks)| ticks >= most);
    }

    /// Notes what is applied here.
    fn reached(&mut self, applied: u64) {
        if applied >= self.known {
            (self.goal, self.snapshot_since, self.is_behind) = (None, None, false);
        }
        if matches!(self.start, Start::Applies(index) if applied >= index) {
            self.start = Start::CaughtUp;
        }
    }
}

impl Lag {
    /// Why this node has not applied what its leader has committed, if it has had too long for that.
    pub fn unapplied(&self, core: &Core) -> Option<Refusal> {
        let is_behind = self.lags() && follows(core) && core.applied() < self.known;
        is_behind.then(|| self.not_applied_yet(core, self.known))
    }

    /// The refusal of linearizable reads while this node lags.
    pub fn lagging(&self, core: &Core) -> Option<Refusal> {
        let lags = self.lags() && follows(core);
        lags.then(|| self.unapplied(core).unwrap_or_else(|| unconfirmed(core)))
    }

    /// Why a member that has started is not ready yet, though its reads may wait.
    pub fn starting(&self, core: &Core) -> Option<Refusal> {
        let detail =
            "this node has started and not applied yet what its cluster has committed; ask another one, or wait";
        let starts = self.start != Start::CaughtUp && (core.leads() || follows(core));
        starts.then(|| Refusal::not_applied(Code::Starting, detail))
    }

    /// Whether this node asks its leader how far it is, though no client does.
    pub fn asks(&self, core: &Core) -> bool {
        core.phase == Phase::Member && follows(core) && (self.start == Start::Asks || self.answers_late)
    }

    /// The refusal of a read that waited in vain for what is committed up to `index` to be applied here.
    pub fn not_applied_yet(&self, core: &Core, index: u64) -> Refusal {
        let applied = core.state_machine.applied().0;
        let snapshot = if self.snapshot_since == Some(applied) { " and is receiving a snapshot" } else { "" };
        let detail = format!(
            "this node has applied up to index {applied} of at least {}{snapshot}; ask another one, or read what this one has \
             with ?consistency=stale",
            index.max(applied + 1)
        );
        Refusal::not_applied(Code::Lagging, detail)
    }

    /// A snapshot of the state begins to arrive.
    pub fn snapshot_arrives(&mut self, core: &Core) -> bool {
        // One that joins has not been in touch yet, and says so.
        if core.phase != Phase::Member {
            return false;
        }
        let lagged = self.lags();
        self.snapshot_begins(core.state_machine.applied().0);
        self.lagging_changed(core, lagged)
    }

    /// Looks once a tick how far behind this node is; `is_late` where the leader leaves a round unanswered for too long.
    /// Returns whether it lags now, so that reads are refused which have come while it knew no leader.
    pub fn update_lag(&mut self, core: &Core, is_late: bool) -> bool {
        if core.phase != Phase::Member || !follows(core) {
            return false;
        }
        let lagged = self.lags();
        self.answers_late |= is_late;
        self.tick(core.state_machine.applied().0, core.options.election_ticks);
        self.lagging_changed(core, lagged);
        self.lags()
    }

    /// Looks after a turn whether this node has caught up.
    pub fn note_applied(&mut self, core: &Core) {
        let lagged = self.lags();
        if core.leads() {
            self.answers_late = false;
            // Before that it may not know all that was committed in earlier terms.
            if self.start == Start::Asks && core.raw.raft.commit_to_current_term() {
                self.start = Start::Applies(core.raw.raft.raft_log.committed);
            }
        }
        self.reached(core.state_machine.applied().0);
        self.lagging_changed(core, lagged);
    }

    fn lagging_changed(&self, core: &Core, lagged: bool) -> bool {
        let (applied, known) = (core.state_machine.applied().0, self.known);
        match (lagged, self.lags()) {
            (false, true) => {
                warn!(core.log, "this node lags behind its leader and answers no linearizable reads until it has caught up";
                    "applied_index" => applied, "leader_index" => known, "snapshot" => self.snapshot_since.is_some(),
                    "leader_answers_late" => self.answers_late);
            }
            (true, false) => {
                info!(core.log, "this node has caught up with its leader"; "applied_index" => applied)
            }
            _ => {}
        }
        !lagged && self.lags()
    }
}

/// Whether this node follows a leader that it knows.
fn follows(core: &Core) -> bool {
    !core.leads() && core.raw.raft.leader_id != 0
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
    fn a_node_lags_once_it_has_not_applied_for_long_what_it_was_told_and_until_it_has_all_of_it() {
        let mut lag = Lag::default();
        lag.leader_committed(10);
        for (applied, known, lags) in [
            (5, 10, false),
            (6, 20, false),
            (7, 30, false),
            (8, 40, true),
            // The first known index is not enough: the node has to apply the latest one.
            (12, 50, true),
            (49, 50, true),
            (50, 50, false),
        ] {
            lag.leader_committed(known);
            lag.tick(applied, MOST);
            assert_eq!(lag.lags(), lags, "{applied} of {known}");
        }
    }

    #[test]
    fn a_node_that_follows_at_a_distance_does_not_lag() {
        let mut lag = Lag::default();
        for tick in 0..100 {
            lag.leader_committed(tick * 1000 + 2000);
            lag.tick(tick * 1000, MOST);
            assert!(!lag.lags(), "tick {tick}");
        }
    }

    #[test]
    fn a_leader_that_is_lost_and_found_again_ends_no_lag_and_the_word_of_another_counts_anew() {
        let mut lag = Lag::default();
        lag.leader_committed(u64::MAX);
        (0..=MOST).for_each(|_| lag.tick(5, MOST));
        assert!(lag.lags());
        lag.leader_changes();
        lag.tick(6, MOST);
        assert!(lag.lags());
        lag.leader_committed(9);
        lag.reached(8);
        assert!(lag.lags());
        lag.reached(9);
        assert!(!lag.lags());
    }

    #[test]
    fn a_node_that_receives_a_snapshot_lags_at_once() {
        let mut lag = Lag::default();
        lag.snapshot_begins(7);
        assert!(lag.lags());
        lag.reached(7);
        assert!(lag.lags(), "nothing has come of it yet");
        lag.leader_committed(90);
        lag.reached(80);
        assert!(lag.lags());
        lag.reached(90);
        assert!(!lag.lags() && lag.snapshot_since.is_none());
    }

    #[test]
    fn a_leader_that_answers_late_makes_a_node_lag_until_an_answer_in_time_is_applied() {
        let (mut lag, mut applied) = (Lag::default(), 9);
        // What the leader answers and whether in time, what is applied then, and whether the node lags after it.
        for (case, answer, applies, lags) in [
            ("an index outside of a round proves nothing of the present", None, 9, true),
            ("an answer that comes late", Some((9, false)), 9, true),
            ("one in time, whose index is not applied", Some((12, true)), 11, true),
            ("it is applied", None, 12, false),
            ("a late answer to a node that does not lag", Some((12, false)), 12, false),
        ] {
            lag.answers_late |= applied == 9 && answer.is_none();
            lag.leader_committed(9);
            if let Some((index, in_time)) = answer {
                lag.answered(index, in_time);
            }
            applied = applies;
            lag.tick(applied, MOST);
            lag.reached(applied);
            assert_eq!(lag.lags(), lags, "{case}");
        }
    }

    #[test]
    fn a_member_that_has_started_has_caught_up_once_the_answer_to_its_question_is_applied() {
        let mut lag = Lag::default();
        lag.starts();
        lag.leader_committed(5);
        lag.reached(7);
        assert_eq!(lag.start, Start::Asks, "only an answer to a round counts");
        lag.answered(9, false);
        lag.answered(20, true);
        lag.leader_changes();
        lag.reached(8);
        assert_eq!(lag.start, Start::Applies(9), "what the leader had committed then");
        lag.reached(9);
        assert_eq!(lag.start, Start::CaughtUp);
        lag.leader_changes();
        lag.answered(30, true);
        assert_eq!(lag.start, Start::CaughtUp, "for good");
    }
}
