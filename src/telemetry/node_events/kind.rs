//! The kinds of events, their fields, and the sentence of each.
//!
//! Invariants: a sentence is made of the fields alone, so both say the same.

use std::borrow::Cow;

use serde::Serialize;

/// Why the leader changed, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The leader sent no heartbeat for an election timeout. On that leader itself: its process stood still.
    MissedHeartbeats,
    /// A sync of the leader's journal took so long that its heartbeats did not leave. Only that leader knows.
    SlowSync,
    /// The leader handed its lead over.
    Transfer,
    /// This node has just started, or joined, and knew no leader before.
    Restart,
    /// The leader gave way to a higher term.
    SteppedDown,
    /// The node had no contact with a majority as a leader, or with any other voter as a follower.
    Partition,
}

impl Reason {
    /// Returns the name, as in the JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MissedHeartbeats => "missed_heartbeats",
            Self::SlowSync => "slow_sync",
            Self::Transfer => "transfer",
            Self::Restart => "restart",
            Self::SteppedDown => "stepped_down",
            Self::Partition => "partition",
        }
    }
}

/// A change of the leader, as this node saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaderChange {
    /// The leader that the node knew last; None where it knew none since its start.
    pub from: Option<String>,
    /// The leader of the event's term; None where a leader has lost its lead and knows no other one yet.
    pub to: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The time since the last contact: of a former leader with the last voter that a majority needs, of any other node with the former
    /// leader.
    pub last_contact_ms: Option<u64>,
    /// Which node that contact was with.
    pub last_contact: Option<String>,
    /// The longest sync of this node's journal in the last seconds.
    pub longest_sync_ms: Option<u64>,
    /// How long the loop of this node stood still in the last seconds, if long enough to miss heartbeats.
    pub stalled_ms: Option<u64>,
    /// Whether this node led before, for the sentence.
    #[serde(skip)]
    pub led: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// The process has opened its data directory.
    Started {
        /// The version of the program.
        version: &'static str,
    },
    /// Another leader, or the loss of the own lead.
    LeaderChanged(LeaderChange),
    /// This node stands for election.
    ElectionStarted {
        /// Why.
        reason: Reason,
        /// The leader that it knew last.
        leader: Option<String>,
        /// The time since the last contact with that leader.
        last_contact_ms: Option<u64>,
        /// The attempts without an outcome, this one included.
        attempts: u64,
        /// Whether that leader was this node, for the sentence.
        #[serde(skip)]
        led: bool,
    },
    /// This node was elected.
    ElectionWon {
        /// The time since the first attempt.
        ms: u64,
        /// The attempts.
        attempts: u64,
    },
    /// Another node leads after this one stood for election.
    ElectionLost {
        /// The leader.
        leader: String,
        /// The time since the first attempt.
        ms: u64,
        /// The attempts.
        attempts: u64,
    },
    /// A member was added to the table.
    MemberJoined {
        /// Its name.
        member: String,
        /// `voter` or `learner`.
        role: &'static str,
        /// Its peer address.
        raft_address: String,
    },
    /// A learner became a voter.
    MemberPromoted {
        /// Its name.
        member: String,
    },
    /// A member was removed.
    MemberRemoved {
        /// Its name.
        member: String,
    },
    /// The address of a member was replaced.
    MemberMoved {
        /// Its name.
        member: String,
        /// The peer address until now.
        from: String,
        /// The peer address from now on.
        to: String,
    },
    /// This leader refused a join.
    JoinRefused {
        /// The node that was to join.
        member: String,
        /// The code of the refusal.
        code: &'static str,
        /// Why.
        why: String,
    },
    /// Nothing came from a member for too long.
    PeerLost {
        /// Its name.
        peer: String,
        /// The time since the last message.
        last_contact_ms: Option<u64>,
    },
    /// A member is there, for the first time or again.
    PeerFound {
        /// Its name.
        peer: String,
        /// How long it had been lost; None at first.
        lost_ms: Option<u64>,
    },
    /// The state is durable up to an index.
    Checkpoint {
        /// The index.
        upto: u64,
        /// How long it took.
        ms: u64,
    },
    /// A follower has installed a snapshot of this node.
    SnapshotSent {
        /// The follower.
        to: String,
        /// The index of the snapshot.
        upto: u64,
        /// How long it took.
        ms: u64,
    },
    /// A snapshot for a follower is still being sent; every ten seconds.
    SnapshotProgress {
        /// The follower.
        to: String,
        /// The bytes sent.
        bytes: u64,
        /// About the bytes that it will have.
        total_bytes: u64,
        /// The bytes a second since it began.
        bytes_per_second: u64,
    },
    /// A snapshot for a follower was not installed; another attempt follows.
    SnapshotFailed {
        /// The follower.
        to: String,
        /// Why.
        why: String,
        /// When the next attempt may begin.
        next_in_ms: u64,
    },
    /// This node has installed a snapshot.
    SnapshotInstalled {
        /// The leader that sent it.
        from: String,
        /// Its index.
        upto: u64,
        /// The keys in it.
        keys: u64,
    },
    /// A sync of the journal held up the loop.
    SlowSync {
        /// How long it took.
        ms: u64,
        /// Slow syncs since the last such event that have none of their own.
        more: u64,
    },
    /// The disk of a voter is nearly full, and writes are refused.
    SpaceShort {
        /// The voter.
        member: String,
        /// Its free bytes.
        free_bytes: u64,
        /// The bytes that must stay free.
        reserve_bytes: u64,
    },
    /// The disk has enough space again.
    SpaceRestored {
        /// The voter.
        member: String,
        /// Its free bytes.
        free_bytes: u64,
        /// The bytes that must stay free.
        reserve_bytes: u64,
    },
    /// Requests are refused for want of room.
    OverloadBegan {
        /// What is full.
        why: &'static str,
    },
    /// None was refused for some seconds.
    OverloadEnded {
        /// From the first to the last refusal.
        ms: u64,
        /// The refused requests.
        refused: u64,
    },
    /// The node was told to stop, and takes its leave.
    Draining,
}

impl Kind {
    /// Returns the name, as in the JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::LeaderChanged(_) => "leader_changed",
            Self::ElectionStarted { .. } => "election_started",
            Self::ElectionWon { .. } => "election_won",
            Self::ElectionLost { .. } => "election_lost",
            Self::MemberJoined { .. } => "member_joined",
            Self::MemberPromoted { .. } => "member_promoted",
            Self::MemberRemoved { .. } => "member_removed",
            Self::MemberMoved { .. } => "member_moved",
            Self::JoinRefused { .. } => "join_refused",
            Self::PeerLost { .. } => "peer_lost",
            Self::PeerFound { .. } => "peer_found",
            Self::Checkpoint { .. } => "checkpoint",
            Self::SnapshotSent { .. } => "snapshot_sent",
            Self::SnapshotProgress { .. } => "snapshot_progress",
            Self::SnapshotFailed { .. } => "snapshot_failed",
            Self::SnapshotInstalled { .. } => "snapshot_installed",
            Self::SlowSync { .. } => "slow_sync",
            Self::SpaceShort { .. } => "space_short",
            Self::SpaceRestored { .. } => "space_restored",
            Self::OverloadBegan { .. } => "overload_began",
            Self::OverloadEnded { .. } => "overload_ended",
            Self::Draining => "draining",
        }
    }

    /// Whether it may happen again and again: on a busy node, or by a node outside that asks for a join each second.
    #[must_use]
    pub fn is_routine(&self) -> bool {
        matches!(self, Self::Checkpoint { .. } | Self::SnapshotProgress { .. } | Self::JoinRefused { .. })
    }

    /// Returns the sentence with all figures.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Started { version } => format!("huskv {version} has opened its data directory"),
            Self::LeaderChanged(change) => change.detail(),
            Self::ElectionStarted { reason, leader, last_contact_ms, attempts, led } => {
                candidacy(*reason, leader.as_deref(), *last_contact_ms, *attempts, *led)
            }
            Self::ElectionWon { ms, attempts } => {
                format!("this node was elected {ms} ms after it first stood, {}", times(*attempts))
            }
            Self::ElectionLost { leader, ms, attempts } => {
                format!("{leader} leads, {ms} ms after this node first stood for election, {}", times(*attempts))
            }
            Self::MemberJoined { member, role, raft_address } => {
                format!("{member} at {raft_address} is a member now, as a {role}")
            }
            Self::MemberPromoted { member } => format!("{member} has the log and is a voter now"),
            Self::MemberRemoved { member } => format!("{member} is no member any more"),
            Self::MemberMoved { member, from, to } => format!("{member} has moved from {from} to {to}"),
            Self::JoinRefused { member, code, why } => format!("a join of {member} was refused ({code}): {why}"),
            Self::PeerLost { peer, last_contact_ms } => match last_contact_ms {
                Some(ms) => format!("nothing has come from {peer} for {ms} ms"),
                None => format!("nothing has come from {peer} yet"),
            },
            Self::PeerFound { peer, lost_ms } => match lost_ms {
                Some(ms) => format!("{peer} is there again after {ms} ms"),
                None => format!("{peer} is there"),
            },
            Self::Checkpoint { upto, ms } => format!("the state is durable up to index {upto}, after {ms} ms"),
            Self::SnapshotSent { to, upto, ms } => {
                format!("{to} has installed a snapshot up to index {upto}, after {ms} ms")
            }
            Self::SnapshotProgress { to, bytes, total_bytes, bytes_per_second } => {
                let left = match total_bytes.saturating_sub(*bytes) {
                    0 => "changes made meanwhile and the install are left".to_owned(),
                    left => format!("about {} s are left", left / (*bytes_per_second).max(1)),
                };
                format!(
                    "{to} was sent {bytes} of about {total_bytes} bytes of a snapshot, at {bytes_per_second} bytes a second; {left}"
                )
            }
            Self::SnapshotFailed { to, why, next_in_ms } => {
                format!("a snapshot for {to} failed: {why}; the next attempt may begin in {next_in_ms} ms")
            }
            Self::SnapshotInstalled { from, upto, keys } => {
                format!("a snapshot of {from} up to index {upto} with {keys} keys was installed")
            }
            Self::SlowSync { ms, more } => slow_sync(*ms, *more),
            Self::SpaceShort { member, free_bytes, reserve_bytes } => format!(
                "the disk of {member} has {free_bytes} bytes free and is to keep {reserve_bytes}: writes that need space are refused"
            ),
            Self::SpaceRestored { member, free_bytes, reserve_bytes } => {
                format!(
                    "the disk of {member} has {free_bytes} bytes free again, of which {reserve_bytes} are to be kept"
                )
            }
            Self::OverloadBegan { why } => format!("requests are refused, since this is full: {why}"),
            Self::OverloadEnded { ms, refused } => {
                format!("no request is refused any more; within {ms} ms there were {refused}")
            }
            Self::Draining => "the node was told to stop and takes no new clients".into(),
        }
    }
}

fn times(attempts: u64) -> String {
    if attempts == 1 { "at the first attempt".into() } else { format!("after {attempts} attempts") }
}

fn slow_sync(ms: u64, more: u64) -> String {
    let others = if more == 0 { String::new() } else { format!(", after {more} more since the last such event") };
    format!("a sync of the journal took {ms} ms and held up the loop{others}")
}

fn candidacy(reason: Reason, leader: Option<&str>, last_contact_ms: Option<u64>, attempts: u64, led: bool) -> String {
    let why = match (reason, leader, last_contact_ms) {
        _ if led => "since it lost its own lead".into(),
        (Reason::Transfer, Some(leader), _) => format!("since {leader} hands its lead over"),
        (_, Some(leader), Some(ms)) => format!("without contact to {leader} for {ms} ms"),
        (_, Some(leader), None) => format!("without contact to {leader}"),
        (_, None, _) => "without contact to any leader since its start".into(),
    };
    let again = if attempts > 1 { format!(", for the {attempts}. time") } else { String::new() };
    format!("this node stands for election, {why}{again}")
}

impl LeaderChange {
    /// Returns the sentence with all figures.
    #[must_use]
    pub fn detail(&self) -> String {
        let sync = self.longest_sync_ms.map_or(String::new(), |ms| format!("; the longest sync took {ms} ms"));
        match (&self.from, &self.to) {
            (Some(from), None) => format!("{from} lost its lead: {}{sync}", self.cause_on_leader()),
            (Some(from), Some(to)) if self.led && from == to => {
                format!("{to} leads again: {}{sync}", self.cause_on_leader())
            }
            (Some(from), Some(to)) if self.led => {
                format!("{to} leads instead of {from}: {}{sync}", self.cause_on_leader())
            }
            (Some(from), Some(to)) if from == to => format!("{to} leads again: {}", self.cause_on_follower(from)),
            (Some(from), Some(to)) => format!("{to} leads instead of {from}: {}", self.cause_on_follower(from)),
            (None, Some(to)) => format!("{to} leads, the first leader that this node knows since its start or join"),
            (None, None) => "there is no leader".into(),
        }
    }

    /// Returns why, with the figures and without the names of the leaders.
    #[must_use]
    pub fn cause(&self) -> Cow<'static, str> {
        match &self.from {
            Some(_) if self.led => self.cause_on_leader().into(),
            Some(from) => self.cause_on_follower(from).into(),
            None => "the first leader since the start or join".into(),
        }
    }

    fn contact(&self) -> String {
        match (&self.last_contact, self.last_contact_ms) {
            (Some(name), Some(ms)) => format!("the last contact was with {name}, {ms} ms before"),
            (Some(name), None) => format!("there was no contact with {name}"),
            _ => "there was no contact with another voter".into(),
        }
    }

    fn cause_on_leader(&self) -> String {
        let stalled = self.stalled_ms.unwrap_or_default();
        match self.reason {
            Reason::SlowSync => format!("a slow sync held its loop up for {stalled} ms, and no heartbeat left"),
            Reason::MissedHeartbeats => format!("its process stood still for {stalled} ms, and no heartbeat left"),
            Reason::Transfer => "it handed its lead over".into(),
            Reason::Partition => format!("no contact with a majority; {}", self.contact()),
            Reason::SteppedDown | Reason::Restart => {
                format!("another node has a higher term; {}", self.contact())
            }
        }
    }

    fn cause_on_follower(&self, from: &str) -> String {
        let silent = self.last_contact_ms;
        if let Some(ms) = self.stalled_ms {
            let what =
                if self.reason == Reason::SlowSync { "a slow sync held this node up" } else { "this node stood still" };
            return format!("{what} for {ms} ms, and it heard nothing of {from} meanwhile");
        }
        match (self.reason, silent) {
            (Reason::Transfer, _) => format!("{from} handed its lead over"),
            (Reason::Partition, Some(ms)) => {
                format!("this node heard no other voter; the last contact with {from} was {ms} ms before")
            }
            (Reason::Partition, None) => "this node heard no other voter".into(),
            (Reason::SteppedDown, Some(ms)) => format!("{from} gave way; the last contact with it was {ms} ms before"),
            (_, Some(ms)) => format!("no heartbeat of {from} for {ms} ms"),
            (_, None) => format!("no heartbeat of {from}"),
        }
    }
}
