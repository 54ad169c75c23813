//! Background jobs off the loop: flushes and rewrites of the state machine, the progress of a snapshot, and closing and removal of databases.
//!
//! Why: each takes long, and the loop must not wait for it. In life each gets a thread ([`crate::consensus::thread`]), in
//! a simulator they are steps of the schedule.
//!
//! Invariants: no method blocks; results come back as [`Input`](crate::consensus::Input)s. The clock here is the only
//! one that the driver may ask, and only for how much time has passed within a turn.
//!
//! See also: the journal's own sync, which is part of every write (`core::persist`).

use std::sync::Arc;
use std::time::Duration;

use crate::model::Millis;
use crate::storage::{Engine, Flush, Rewrite, Spooler};

/// A step of a turn whose duration is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredStep {
    /// A sync of the journal.
    Sync,
    /// The apply of a batch of entries.
    Apply,
}

/// Work that the loop hands to other threads.
pub trait Background: Send {
    /// Carries out a flush; ends in one [`Input::Flushed`](crate::consensus::Input::Flushed).
    fn flush(&mut self, flush: Flush);
    /// Copies a slice of a rewrite; ends in one [`Input::Sliced`](crate::consensus::Input::Sliced), which brings the rewrite back.
    fn slice(&mut self, rewrite: Box<Rewrite>, max_bytes: usize);
    /// Follows a snapshot. One [`Input::Scanned`](crate::consensus::Input::Scanned) follows when
    /// the reader has scanned the tree, or when the snapshot has failed before.
    fn spool(&mut self, token: u64, spooler: Spooler);
    /// Drops unused databases, which closes them and may remove received snapshots; then removes the folders `names`.
    fn discard(&mut self, unused: Vec<Box<dyn Send>>, engine: Arc<dyn Engine>, names: Vec<String>);
    /// Returns the present time, to measure the length of a turn.
    fn now(&self) -> Millis;
    /// Returns a time for [`Background::measured`]; always the same where nothing is measured. No decision rests on it.
    fn stopwatch(&self) -> Duration {
        Duration::ZERO
    }
    /// Notes that a step has ended that began at this time of the stopwatch.
    fn measured(&self, _step: MeasuredStep, _began: Duration) {}
}
