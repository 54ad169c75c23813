//! Changes of role, term and leader: the log line, the events, and what the components do about it.
//!
//! Why: raft shows that its role has changed, and the reason of the line in the log and of the event must agree. So both are made here.
//!
//! Invariants: `to` of a change is the leader of the term that the event has. Each (leader, term) is the `to` of one event at most.
//!
//! See also: what explains a change (`liveness::leader_history`), the sentences (`telemetry::node_events`).

use std::borrow::Cow;

use raft::StateRole;
use slog::info;

use super::Driver;
use super::split_borrows::context;
use crate::telemetry::node_events::{Kind, LeaderChange};

/// Role, leader and term at a turn, to detect their changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub role: StateRole,
    pub leader: u64,
    pub term: u64,
}

impl Driver {
    /// Logs, notes and handles a change of role, term or leader.
    pub(super) fn role_transition(&mut self) {
        let is = self.present();
        if is == self.seen {
            return;
        }
        let was = std::mem::replace(&mut self.seen, is);
        self.leader_changes += u64::from(is.leader != 0 && is.leader != was.leader);
        let cause = self.note_transition(was, is);
        let reason = cause.as_ref().map_or_else(|| self.reason(was, is), LeaderChange::cause);
        let leader = self.core.state_machine.members().get(is.leader);
        info!(self.core.log, "role";
            "state" => crate::consensus::core::role_name::state(is.role).as_str(),
            "term" => is.term,
            "leader" => leader.map_or("none", |member| member.name.as_str()),
            "at" => leader.map_or("-", |member| member.raft_address.as_str()),
            "why" => cause.as_ref().map_or("-", |change| change.reason.as_str()),
            "reason" => reason.as_ref());
        if was.role == StateRole::Leader && is.role != StateRole::Leader {
            self.live.leader_seen = Some(self.core.now);
            self.core.state_machine.abort_snapshot();
        }
        self.role_changed();
    }

    fn present(&self) -> Seen {
        let raft = &self.core.raw.raft;
        Seen { role: raft.state, leader: raft.leader_id, term: raft.term }
    }

    /// Notes a leader whose name has come with the member table, after its first message.
    pub(super) fn note_named_leader(&mut self) {
        if self.seen.leader != 0
            && self.seen == self.present()
            && let Some(known) = self.history.leader_known(&self.core)
        {
            self.core.note(Kind::LeaderChanged(known));
        }
    }

    /// Notes the events of a change; returns that of the leader.
    fn note_transition(&mut self, was: Seen, is: Seen) -> Option<LeaderChange> {
        let mut change = None;
        if was.role == StateRole::Leader && is.role != StateRole::Leader {
            let lost = self.history.lost_lead(&self.core, &self.live);
            if is.leader == 0 {
                self.core.note(Kind::LeaderChanged(lost.clone()));
                change = Some(lost);
            }
        }
        let begins = match is.role {
            StateRole::PreCandidate => was.role != StateRole::PreCandidate,
            StateRole::Candidate => was.role == StateRole::Follower,
            StateRole::Leader | StateRole::Follower => false,
        };
        if begins && let Some((reason, last_contact_ms, attempts)) = self.history.stands(&self.core) {
            let (leader, led) = self.history.last_leader(&self.core);
            self.core.note(Kind::ElectionStarted { reason, leader, last_contact_ms, attempts, led });
        }
        if is.leader == 0 {
            return change;
        }
        let known = self.history.leader_known(&self.core);
        match self.history.election_ended(&self.core) {
            Some((ms, attempts)) if is.role == StateRole::Leader => {
                self.core.note(Kind::ElectionWon { ms, attempts });
            }
            Some((ms, attempts)) => {
                let leader = self.core.name_of(is.leader);
                self.core.note(Kind::ElectionLost { leader, ms, attempts });
            }
            None => {}
        }
        if let Some(known) = &known {
            self.core.note(Kind::LeaderChanged(known.clone()));
        }
        known
    }

    /// Lets the components follow a change of role, term or leader.
    pub(crate) fn role_changed(&mut self) {
        self.live.led_since = if self.core.leads() { self.live.led_since.or(Some(self.core.now)) } else { None };
        self.lag.leader_changes();
        self.reads.repeat_read_index(&self.core);
        self.proposals.route_waiting(context!(self));
        self.route_changes();
    }

    /// Returns why the role changed where the leader did not, as far as raft shows it.
    fn reason(&self, was: Seen, is: Seen) -> Cow<'static, str> {
        let reason = match (was.role, is.role) {
            (_, StateRole::Leader) if self.core.conf_voters().len() == 1 => "the only voter",
            (_, StateRole::Leader) => "won the election",
            (StateRole::Leader, _) => "another node has a higher term",
            (StateRole::Follower, StateRole::Candidate | StateRole::PreCandidate) if was.leader == 0 => {
                "no leader in time"
            }
            // A transfer asks for no pre-vote.
            (StateRole::Follower, StateRole::Candidate) => "the leader hands its lead over",
            (StateRole::Follower, StateRole::PreCandidate) => "lost contact with the leader",
            (_, StateRole::Candidate | StateRole::PreCandidate) => "the election goes on",
            (_, StateRole::Follower) if is.leader == 0 => "another node asks for votes",
            (_, StateRole::Follower) if is.leader == self.core.raft_id() => "stepped back",
            (_, StateRole::Follower) => "heard the leader",
        };
        reason.into()
    }
}
