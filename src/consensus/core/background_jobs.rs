//! Background jobs off the loop: syncs of the state machine, spooling of a snapshot, and closing and removal of databases.
//!
//! Why: each takes long, and the loop must not wait for it. In life each gets a thread ([`crate::consensus::thread`]), in
//! a simulator they are steps of the schedule.
//!
//! Invariants: no method blocks; results come back as [`Input`](crate::consensus::Input)s. The clock here is the only
//! one that the driver may ask, and only for how much time has passed within a turn.
//!
//! See also: the journal's own sync, which is part of every write (`core::persist`).

use std::sync::Arc;

use crate::model::Millis;
use crate::storage::{Db, Engine, Spooler};

/// Work that the loop hands to other threads.
pub trait Background: Send {
    /// Syncs `db`, in which everything up to the applied (index, term) `mark` is written; ends in one
    /// [`Input::Synced`](crate::consensus::Input::Synced).
    fn sync(&mut self, db: Arc<dyn Db>, mark: (u64, u64));
    /// Spools what is applied during a snapshot. One [`Input::Scanned`](crate::consensus::Input::Scanned) follows when
    /// the reader has scanned the tree, or when the snapshot has failed before.
    fn spool(&mut self, token: u64, spooler: Spooler);
    /// Drops unused databases, which closes them and may remove received snapshots; then removes the folders `names`.
    fn discard(&mut self, unused: Vec<Box<dyn Send>>, engine: Arc<dyn Engine>, names: Vec<String>);
    /// Returns the present time, to measure the length of a turn.
    fn now(&self) -> Millis;
}
