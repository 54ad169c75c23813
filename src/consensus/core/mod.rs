//! Core: raft with its storage, the state machine, the data directory and the ways out, below all components.
//!
//! Why: every component reads raft and the state machine. They are handed the core and own only their own state, so
//! that none needs another one.
//!
//! Invariants: the core reads no clock but [`Background::now`], opens no socket and knows no tokio. `now` never goes
//! back.
//!
//! See also: `liveness` (who is heard), `driver` (the order of steps), `own_proposals` and `pending_request` (the rest of
//! `Core`).

pub(crate) mod background_jobs;
pub(crate) mod longest_sync;
mod own_proposals;
pub(crate) mod pending_request;
mod persist;
pub(crate) mod role_name;
pub(crate) mod turn_budget;

use std::sync::Arc;

use raft::{RawNode, StateRole};
use slog::Logger;

use super::options::Options;
use super::outbox::Outbox;
use super::raft_rs_adapter::decoded_entries::DecodedEntries;
use super::raft_rs_adapter::raft_storage::RaftStorage;
use super::raft_rs_adapter::raw_node_setup::raw_node;
use crate::changefeed::ChangeFeed;
use crate::model::{DiskSpace, Leader, Millis, PeerTable};
use crate::storage::{DataDir, Error, Incarnation, Journal, StateMachine};
use crate::telemetry::logging::LogLimit;
use crate::telemetry::node_events::{Kind, NodeEvents};
use background_jobs::Background;
use longest_sync::LongestSync;
use turn_budget::TurnBudget;

/// The phase of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Pristine: waits for a cluster to take it, or for the command to begin one.
    Forming,
    /// Joined a cluster, of which no snapshot is installed yet.
    Joining,
    /// A member of its cluster, possibly the only one.
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

/// The state that all components share.
pub(crate) struct Core {
    pub raw: RawNode<RaftStorage>,
    /// The proposals of entries that were appended and are not applied yet.
    pub decoded: DecodedEntries,
    pub state_machine: StateMachine,
    pub data_dir: DataDir,
    pub outbox: Box<dyn Outbox>,
    pub background: Box<dyn Background>,
    pub options: Options,
    pub log: Logger,
    pub raft_log: Logger,
    pub now: Millis,
    /// The rest of the budget of this turn.
    pub budget: TurnBudget,
    pub phase: Phase,
    /// Set by [`Input::Stop`](super::input::Input::Stop): when to stop at the latest.
    pub stop_by: Option<Millis>,
    pub feed: Arc<ChangeFeed>,
    pub events: Arc<NodeEvents>,
    pub syncs: LongestSync,
    /// The rate limit of events about slow syncs.
    pub(super) slow_syncs: LogLimit,
    /// Unused databases, to be dropped on another thread.
    pub unused: Vec<Box<dyn Send>>,
    /// The number of records written for Readys; asserted to grow by at most one a Ready.
    pub records: u64,
    /// The bytes that the journals of earlier incarnations have written since the start.
    earlier_wal_bytes: u64,
    next_token: u64,
}

/// The parts of a core.
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
            decoded: DecodedEntries::default(),
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
            events: Arc::default(),
            syncs: LongestSync::default(),
            slow_syncs: LogLimit::default(),
            unused: Vec::new(),
            records: 0,
            earlier_wal_bytes: 0,
            next_token: 0,
        })
    }

    /// Notes an event of this node.
    pub fn note(&self, kind: Kind) {
        self.events.note_at((self.applied(), self.raw.raft.term), kind);
    }

    /// Replaces raft and the state machine by those of another incarnation.
    ///
    /// # Errors
    /// [`Error`] where raft refuses what lies on the disk.
    pub fn swap(&mut self, incarnation: Incarnation) -> Result<(), Error> {
        let raft_id = self.data_dir.identity().raft_id;
        let (raw, state_machine) = raw_node(raft_id, incarnation, &self.options, &self.log, &self.raft_log)?;
        self.decoded = DecodedEntries::default();
        self.earlier_wal_bytes = self.wal_write_bytes();
        let raw = std::mem::replace(&mut self.raw, raw);
        let state_machine = std::mem::replace(&mut self.state_machine, state_machine);
        // Not dropped here: closing two databases flushes them, which takes longer than a turn may.
        self.unused.push(Box::new((raw, state_machine)));
        self.raw.mut_store().now = self.now;
        Ok(())
    }

    /// Returns the marks of the log, which only grow within one incarnation; asserted to be in order.
    pub fn marks(&self) -> Marks {
        let raft = &self.raw.raft;
        let (commit, last) = (raft.raft_log.committed, raft.raft_log.last_index());
        let marks = Marks { applied: self.applied(), commit, last, term: raft.term };
        debug_assert!(marks.applied <= marks.commit && marks.commit <= marks.last, "out of order: {marks:?}");
        marks
    }

    /// Takes a rewritten journal into use.
    pub fn replace_journal(&mut self, mut journal: Journal) {
        journal.limit_entry_cache(self.options.entry_cache_bytes);
        self.earlier_wal_bytes = self.wal_write_bytes();
        self.unused.push(Box::new(std::mem::replace(&mut self.raw.mut_store().journal, journal)));
    }

    /// Returns the bytes written to the journal since the start.
    pub fn wal_write_bytes(&self) -> u64 {
        self.earlier_wal_bytes + self.raw.store().journal.written_bytes()
    }

    /// Returns the applied index.
    pub fn applied(&self) -> u64 {
        self.state_machine.applied().0
    }

    /// Sets the time to `now`, unless it is later already.
    pub fn at(&mut self, now: Millis) {
        // Inputs and turns read the clock at different moments, and the time within a turn is measured apart: the
        // latest one counts.
        self.now = self.now.max(now);
        self.raw.mut_store().now = self.now;
    }

    /// Advances the time by what has passed since the turn began.
    pub fn pass(&mut self) {
        self.at(self.budget.time(self.background.now()));
    }

    pub fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    /// Returns the number of a join offer: unique among all processes.
    pub fn offer_number(&self, token: u64) -> u64 {
        self.options.nonce.wrapping_add(token)
    }

    /// Returns the shortest election timeout.
    pub fn election_timeout(&self) -> Millis {
        self.options.tick_ms * self.options.election_ticks as u64
    }

    /// Publishes identity and member table to the transport.
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
            joining: self.phase == Phase::Joining,
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

    /// Returns a member's name, or its raft id if it has none.
    pub fn name_of(&self, raft_id: u64) -> String {
        self.state_machine.members().get(raft_id).map_or_else(|| raft_id.to_string(), |member| member.name.clone())
    }

    /// Returns the leader, if it is known and in the member table.
    pub fn leader(&self) -> Option<Leader> {
        let member = self.state_machine.members().get(self.raw.raft.leader_id)?;
        Some(Leader { node_id: member.name.clone(), http_address: member.http_address.clone() })
    }

    /// Whether this node's raft address differs from the recorded one.
    pub fn has_moved(&self) -> bool {
        let row = self.state_machine.members().get(self.raft_id());
        let advertised = &self.options.raft_address;
        self.data_dir.identity().raft_address != *advertised && row.is_none_or(|row| row.raft_address != *advertised)
    }

    /// Returns the free disk space, less what the applied entries still take.
    pub fn own_space(&self) -> Option<DiskSpace> {
        Some(self.free_space()?.after_writing(self.state_machine.pending_bytes()))
    }

    /// Returns the free disk space.
    pub fn free_space(&self) -> Option<DiskSpace> {
        self.data_dir.engine().last_space()
    }

    /// Hands unused databases and the folders of garbage to the background.
    pub fn discard_garbage(&mut self) -> Result<(), Error> {
        // What is in use is what the journal names, so this comes after the record of an install and not before.
        let generation = self.raw.store().journal.generation();
        let garbage = self.data_dir.garbage(generation)?;
        let unused = std::mem::take(&mut self.unused);
        if !garbage.is_empty() || !unused.is_empty() {
            self.background.discard(unused, self.data_dir.engine(), garbage);
        }
        Ok(())
    }

    /// Drops `unused` in the background: closing a database or removing a received snapshot takes longer than a turn
    /// may.
    pub fn discard(&mut self, unused: impl Send + 'static) {
        self.background.discard(vec![Box::new(unused)], self.data_dir.engine(), Vec::new());
    }
}
