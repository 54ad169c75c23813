//! The key-value tree with everything replicated beside it.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::ConfState;

use crate::model::{Command, MemberChange, Members, Outcome};

use super::{Cut, Db, Error, SnapshotReader};

/// A value with the version of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The stored bytes.
    pub value: Bytes,
    /// The raft index of the last change.
    pub version: u64,
}

/// What one committed entry asks of the machine.
#[derive(Debug, Clone)]
pub enum Operation {
    /// Nothing but to be counted as applied.
    Nothing,
    /// A client's command.
    Command(Command),
    /// A membership change, with the votes that result from it.
    Membership {
        /// What happens to the table; None where the entry carried nothing readable.
        change: Option<MemberChange>,
        /// The configuration from this index on.
        conf_state: ConfState,
    },
}

/// One committed entry, ready to be applied.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its index; each batch continues where the last one ended.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// What it asks.
    pub operation: Operation,
}

/// The state machine of one incarnation.
pub struct Machine;

impl Machine {
    /// The (index, term) of the entry applied last.
    pub fn applied(&self) -> (u64, u64) {
        todo!()
    }
    /// The configuration at the applied index.
    pub fn conf_state(&self) -> &ConfState {
        todo!()
    }
    /// The index of the last membership change.
    pub fn configuration_index(&self) -> u64 {
        todo!()
    }
    /// The member table at the applied index.
    pub fn members(&self) -> &Members {
        todo!()
    }
    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        todo!()
    }
    /// Whether any client command was ever applied.
    pub fn was_written(&self) -> bool {
        todo!()
    }
    /// The value of `key`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn get(&self, _key: &[u8]) -> Result<Option<Versioned>, Error> {
        todo!()
    }
    /// Applies committed entries in order, in one atomic batch with the applied index; one outcome an entry.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn apply(&mut self, _entries: Vec<Applied>) -> Result<Vec<Outcome>, Error> {
        todo!()
    }
    /// The database, so that another thread can sync it.
    pub fn db(&self) -> Arc<dyn Db> {
        todo!()
    }
    /// Begins a copy of the state; at most one at a time, an earlier one is aborted.
    ///
    /// # Errors
    /// [`Error`] where the scratch file cannot be made.
    pub fn begin_cut(&mut self, _scratch: std::fs::File, _max_bytes: u64) -> Result<(Cut, SnapshotReader), Error> {
        todo!()
    }
    /// Ends the running cut at the present applied index: the copy is then exactly this state.
    pub fn end_cut(&mut self) {
        todo!()
    }
    /// Gives the running cut up, if any.
    pub fn abort_cut(&mut self) {
        todo!()
    }
}
