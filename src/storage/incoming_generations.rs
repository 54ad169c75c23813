//! Reserved state machine generations: folders of snapshots that are being received.
//!
//! Why: garbage collection must not remove a folder that a snapshot is being written to, and an aborted snapshot must leave
//! none behind.
//!
//! Invariants: a reserved folder is no garbage until it is dropped or another generation is in use.
//!
//! See also: [`super::DataDir::garbage`], [`super::SnapshotWriter`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::kv::flush::redo::RedoFile;
use super::layout;
use super::{Db, Engine, Error};
use crate::model::DiskSpace;

/// A generation that a snapshot is received into.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reservation {
    pub(crate) raft_id: u64,
    pub(crate) generation: u64,
}

/// All reserved generations, with whether they were taken into use.
#[derive(Default)]
pub(crate) struct Reservations(Mutex<BTreeMap<Reservation, bool>>);

impl Reservations {
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Reservation, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reserved generation: excluded from garbage, and removed when dropped unless it was kept.
pub(crate) struct ReservedGeneration {
    engine: Arc<dyn Engine>,
    all: Arc<Reservations>,
    this: Reservation,
    keep_folder: bool,
}

impl ReservedGeneration {
    pub(crate) fn new(engine: Arc<dyn Engine>, all: Arc<Reservations>, this: Reservation) -> Self {
        all.lock().insert(this.clone(), false);
        Self { engine, all, this, keep_folder: false }
    }

    /// Returns raft id and generation number.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.this.raft_id, self.this.generation)
    }

    /// Returns the generation number.
    pub(crate) fn generation(&self) -> u64 {
        self.this.generation
    }

    /// Opens an empty database for it.
    ///
    /// # Errors
    /// [`Error`] where it cannot be created.
    pub(crate) fn create(&self, cache_bytes: u64) -> Result<Arc<dyn Db>, Error> {
        let name = layout::state_machine(self.this.raft_id, self.this.generation);
        self.engine.open(&name, true, cache_bytes)
    }

    /// Opens its database again, once every handle to it is dropped.
    ///
    /// # Errors
    /// [`Error`] where it cannot be opened.
    pub(crate) fn reopen(&self, cache_bytes: u64) -> Result<Arc<dyn Db>, Error> {
        let name = layout::state_machine(self.this.raft_id, self.this.generation);
        self.engine.open(&name, false, cache_bytes)
    }

    /// Returns the place of its redo records.
    pub(crate) fn redo(&self) -> RedoFile {
        RedoFile::new(self.engine.clone(), layout::redo(self.this.raft_id, self.this.generation))
    }

    /// Returns the free disk space.
    pub(crate) fn space(&self) -> Option<DiskSpace> {
        self.engine.space()
    }

    /// Keeps the folder.
    pub(crate) fn keep(mut self) {
        self.keep_folder = true;
        self.all.lock().insert(self.this.clone(), true);
    }
}

impl Drop for ReservedGeneration {
    fn drop(&mut self) {
        // Dropped without `keep`: the snapshot was aborted.
        if !self.keep_folder {
            // A folder that cannot be removed now is garbage and removed at the next start.
            // As long as it is reserved `garbage` does not list the folder, so no second thread removes it.
            drop(self.engine.remove(&layout::state_machine(self.this.raft_id, self.this.generation)));
            self.all.lock().remove(&self.this);
        }
    }
}
