//! Raft's storage: the journal, the configuration, and the offer of a snapshot.
//!
//! Why: raft asks its storage questions in the middle of a step. The journal answers those about entries; whether a
//! follower may have a snapshot now is the loop's decision, kept here because raft asks for it here.
//!
//! Invariants: first, last and term never touch the disk. A snapshot is metadata only and names the applied state; it
//! is offered to one follower at a time, and not before its last failure is far enough back, since each offer must end
//! in a report or the follower is stuck.
//!
//! See also: the stream of a snapshot (`consensus::snapshots`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};
use raft::{GetEntriesContext, RaftState, StorageError};
use slog::{Logger, error};

use crate::model::Millis;
use crate::storage::Journal;

/// The storage that the `RawNode` owns.
pub(crate) struct RaftStorage {
    /// Entries and hard state.
    pub journal: Journal,
    /// Term, vote and commit as raft has them now; every record of the journal carries it whole.
    pub hard_state: HardState,
    /// The configuration at the applied index.
    pub conf_state: ConfState,
    /// The (index, term) of the entry applied last.
    pub applied: (u64, u64),
    /// Whether a snapshot was offered and its stream has not ended.
    pub streaming: Cell<bool>,
    /// The time before which a follower gets no further offer after a failed stream.
    pub not_before: BTreeMap<u64, Millis>,
    /// Why the last snapshot stream to a member failed, until one succeeds.
    pub stream_failures: BTreeMap<u64, String>,
    /// The present time.
    pub now: Millis,
    /// The journal's failure while raft was reading it; the turn ends with it.
    pub broken: RefCell<Option<crate::storage::Error>>,
    /// The log.
    pub log: Logger,
}

impl raft::Storage for RaftStorage {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low < self.journal.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.journal.last_index() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        self.journal.entries(low, high, max_size.into().unwrap_or(u64::MAX)).map_err(|failure| {
            error!(self.log, "the log cannot be read"; "error" => %failure);
            *self.broken.borrow_mut() = Some(failure);
            raft::Error::Store(StorageError::Unavailable)
        })
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index + 1 < self.journal.first_index() {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.journal.term(index).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.journal.first_index())
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.journal.last_index())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // Raft asks in the middle of a step. `SnapshotTemporarilyUnavailable` makes it ask again with the next message
        // to the follower. `Ok` moves the follower into the state Snapshot, which only a report ends: from here on a
        // stream must begin.
        let waits = self.not_before.get(&to).is_some_and(|until| self.now < *until);
        if self.streaming.get() || waits || self.applied.0 < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        self.streaming.set(true);
        let mut metadata = SnapshotMetadata::default();
        metadata.set_conf_state(self.conf_state.clone());
        metadata.index = self.applied.0;
        metadata.term = self.applied.1;
        let mut snapshot = Snapshot::default();
        snapshot.set_metadata(metadata);
        Ok(snapshot)
    }
}
