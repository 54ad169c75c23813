//! What the loop has done off its thread.
//!
//! Why: a sync of the whole machine, the scan for a copy and the removal of a folder take long; the loop must not wait
//! for them. In life each gets a thread ([`super::task`]), in a simulator they are steps of the schedule.
//!
//! Laws: no method blocks; results come back as [`Input`](super::Input)s. The clock here is the only one that the driver
//! may ask, and only for how much time has passed within a turn.
//!
//! Not here: the journal's own sync, which is on the way of every write.

use std::sync::Arc;

use super::Millis;
use crate::storage::{Cut, Db, Engine};

/// The loop's errands.
pub trait Chores: Send {
    /// Syncs `db`, in which everything up to the applied (index, term) `mark` is written; ends in one
    /// [`Input::Synced`](super::Input::Synced).
    fn sync(&mut self, db: Arc<dyn Db>, mark: (u64, u64));
    /// Scans the tree for a copy; one [`Input::Scanned`](super::Input::Scanned) says when the end of the tree is
    /// reached, and the cut is then finished.
    fn scan(&mut self, token: u64, cut: Cut);
    /// Removes folders that nothing names any more.
    fn discard(&mut self, engine: Arc<dyn Engine>, names: Vec<String>);
    /// The present time, for measuring what a turn takes.
    fn now(&self) -> Millis;
}
