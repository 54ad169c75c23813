//! Core: raft with its storage, the state machine, the data directory and the ways out, below all components.
//!
//! Why: every component reads raft and the state machine. They are handed the core and own only their own state, so
//! that none needs another one.
//!
//! Invariants: the core reads no clock but [`Background::now`], opens no socket and knows no tokio. `now` never goes
//! back.
//!
//! See also: `liveness` (who is heard), `driver` (the order of steps), `propose` and `client_request` (the rest of
//! `Core`).

pub(crate) mod background;
pub(crate) mod client_request;
mod log;
mod propose;
pub(crate) mod role;
pub(crate) mod turn_budget;

use std::sync::Arc;

use raft::{RawNode, StateRole};
use slog::Logger;

use super::options::Options;
use super::outbox::Outbox;
use super::raft_node::raft_config::raw_node;
use super::raft_node::raft_storage::RaftStorage;
use crate::changefeed::ChangeFeed;
use crate::model::{DiskSpace, Leader, Millis, PeerTable};
use crate::storage::{DataDir, Error, Incarnation, StateMachine};
use background::Background;
use turn_budget::TurnBudget;

/// What the node is busy being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Pristine, and waiting to be taken by a cluster or told to begin one.
    Forming,
    /// Taken by a cluster from which nothing has arrived yet.
    Joining,
    /// A member of its cluster, be it the only one.
    Member,
    /// Removed from its cluster.
    Removed,
}

/// Applied, committed and last index, and the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    pub applied: u64,
    pub commit: u64,
    pub last: u64,
    pub term: u64,
}

/// What all components share.
pub(crate) struct Core {
    pub raw: RawNode<RaftStorage>,
    pub state_machine: StateMachine,
    pub data_dir: DataDir,
    pub outbox: Box<dyn Outbox>,
    pub background: Box<dyn Background>,
    pub options: Options,
    pub log: Logger,
    pub raft_log: Logger,
    pub now: Millis,
    /// What is left of the present turn.
    pub budget: TurnBudget,
    pub phase: Phase,
    /// Set by [`Input::Stop`](super::input::Input::Stop): when to stop at the latest.
    pub stop_by: Option<Millis>,
    pub feed: Arc<ChangeFeed>,
    /// What is not in use any more, to be dropped off the loop.
    pub unused: Vec<Box<dyn Send>>,
    /// Records of Readys that were written, for the check that there is one for each at most.
    pub records: u64,
    next_token: u64,
}

/// What a core is made from.
pub(crate) struct Parts {
    pub data_dir: DataDir,
    pub incarnation: Incarnation,
    pub outbox: Box<dyn Outbox>,
    pub background: Box<dyn Background>,
    pub options: Options,
    pub log: Logger,
    pub raft_log: Logger,
}

impl Core {
    /// Builds raft over an opened data directory.
    ///
    /// # Errors
    /// [`Error`] where raft refuses what lies on the disk.
    pub fn new(parts: Parts) -> Result<Self, Error> {
        let Parts { data_dir, incarnation, outbox, background, options, log, raft_log } = parts;
        let raft_id = data_dir.identity().raft_id;
        let (raw, state_machine) = raw_node(raft_id, incarnation, &options, &log, &raft_log)?;
        let feed = Arc::<ChangeFeed>::default();
        feed.begin(state_machine.applied().0, options.history);
        Ok(Self {
            raw,
            state_machine,
            data_dir,
            outbox,
            background,
            options,
            log,
            raft_log,
            now: 0,
            budget: TurnBudget::default(),
            phase: Phase::Member,
            stop_by: None,
            feed,
            unused: Vec::new(),
            records: 0,
            next_token: 0,
        })
    }

    /// Replaces raft and the state machine by those of another incarnation.
    ///
    /// # Errors
    /// [`Error`] where raft refuses what lies on the disk.
    pub fn swap(&mut self, incarnation: Incarnation) -> Result<(), Error> {
        let raft_id = self.data_dir.identity().raft_id;
        let (raw, state_machine) = raw_node(raft_id, incarnation, &self.options, &self.log, &self.raft_log)?;
        let raw = std::mem::replace(&mut self.raw, raw);
        let state_machine = std::mem::replace(&mut self.state_machine, state_machine);
        self.unused.push(Box::new((raw, state_machine)));
        self.raw.mut_store().now = self.now;
        Ok(())
    }

    /// Whether the time of the present turn is over.
    pub fn is_late_in_turn(&self) -> bool {
        self.budget.is_late(self.background.now())
    }

    /// The marks of the log, which only grow while this node is one incarnation; they are in order before and after a
    /// turn.
    pub fn marks(&self) -> Marks {
        let raft = &self.raw.raft;
        let (commit, last) = (raft.raft_log.committed, raft.raft_log.last_index());
        let marks = Marks { applied: self.applied(), commit, last, term: raft.term };
        debug_assert!(marks.applied <= marks.commit && marks.commit <= marks.last, "out of order: {marks:?}");
        marks
    }

    /// The index applied last.
    pub fn applied(&self) -> u64 {
        self.state_machine.applied().0
    }

    /// The time is `now`, or later where more has passed already.
    pub fn at(&mut self, now: Millis) {
        self.now = self.now.max(now);
        self.raw.mut_store().now = self.now;
    }

    /// Takes in how much time has passed since the turn began.
    pub fn pass(&mut self) {
        self.at(self.budget.time(self.background.now()));
    }

    pub fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// The number of the offer that a question carries: no other process makes one of the same.
    pub fn offer_number(&self, token: u64) -> u64 {
        self.options.nonce.wrapping_add(token)
    }

    /// The shortest election timeout.
    pub fn election_timeout(&self) -> Millis {
        self.options.tick_ms * self.options.election_ticks as u64
    }

    /// Tells the transport who this node is and who its peers are.
    pub fn publish(&mut self) {
        let me = self.raft_id();
        let members = self.state_machine.members();
        self.outbox.publish(PeerTable {
            node_id: self.my_name(),
            raft_id: me,
            cluster_id: self.data_dir.identity().cluster_id,
            raft_address: self.options.raft_address.clone(),
            peers: members
                .iter()
                .filter(|member| member.raft_id != me)
                .map(|member| (member.raft_id, member.name.clone(), member.raft_address.clone()))
                .collect(),
            tombstones: members.tombstones().collect(),
            removed: self.phase == Phase::Removed,
            boot_history: self.data_dir.identity().boot_history.clone(),
            moved: self.has_moved(),
            follow_moves: self.options.follow_moves,
        });
    }

    pub fn raft_id(&self) -> u64 {
        self.raw.raft.id
    }

    pub fn leads(&self) -> bool {
        self.phase != Phase::Removed && self.raw.raft.state == StateRole::Leader
    }

    /// Whether this node has applied its own removal.
    pub fn is_outside(&self) -> bool {
        self.phase == Phase::Removed && self.state_machine.members().is_tombstone(self.raft_id())
    }

    /// Whether raft is asked what there is to do. A removed node applies what it knows to be committed, up to its own
    /// removal: nodes that were removed before it ask it for their tombstones, and after a restart its state machine
    /// may be behind its log. A leader that was removed is asked nothing, for raft has no place for a leader outside of
    /// the configuration.
    pub fn asks_raft(&self) -> bool {
        self.phase != Phase::Removed || !(self.raw.raft.state == StateRole::Leader || self.is_outside())
    }

    pub fn conf_voters(&self) -> &[u64] {
        self.raw.store().conf_state.get_voters()
    }

    pub fn my_name(&self) -> String {
        self.state_machine
            .members()
            .get(self.raft_id())
            .map_or_else(|| self.data_dir.identity().started_as.clone(), |member| member.name.clone())
    }

    /// A member's name for messages; its number where it has none.
    pub fn name_of(&self, raft_id: u64) -> String {
        self.state_machine.members().get(raft_id).map_or_else(|| raft_id.to_string(), |member| member.name.clone())
    }

    /// Who leads, where this node knows it and has it in its table.
    pub fn leader(&self) -> Option<Leader> {
        let member = self.state_machine.members().get(self.raw.raft.leader_id)?;
        Some(Leader { node_id: member.name.clone(), http_address: member.http_address.clone() })
    }

    /// Whether this node has another raft address than its cluster has recorded for it.
    pub fn has_moved(&self) -> bool {
        let row = self.state_machine.members().get(self.raft_id());
        let advertised = &self.options.raft_address;
        self.data_dir.identity().raft_address != *advertised && row.is_none_or(|row| row.raft_address != *advertised)
    }

    /// What is left of this node's disk once everything that was applied is written.
    pub fn own_space(&self) -> Option<DiskSpace> {
        Some(self.free_space()?.after_writing(self.state_machine.pending_bytes()))
    }

    /// What is free on this node's disk now.
    pub fn free_space(&self) -> Option<DiskSpace> {
        self.data_dir.engine().last_space()
    }

    /// Has folders removed that nothing names any more, once what was open of them is closed.
    pub fn discard_garbage(&mut self) -> Result<(), Error> {
        let generation = self.raw.store().journal.generation();
        let garbage = self.data_dir.garbage(generation)?;
        let unused = std::mem::take(&mut self.unused);
        if !garbage.is_empty() || !unused.is_empty() {
            self.background.discard(unused, self.data_dir.engine(), garbage);
        }
        Ok(())
    }

    /// Has something dropped elsewhere: closing a database, or removing what was received, takes longer than a turn
    /// may.
    pub fn discard(&mut self, unused: impl Send + 'static) {
        self.background.discard(vec![Box::new(unused)], self.data_dir.engine(), Vec::new());
    }
}
