//! A rewrite of the journal: the live entries are copied into a new database, which takes its place.
//!
//! Why: the engine never shortens its file, so a log that was once long, with large values or a slow follower, would take its space for ever.
//!
//! ```text
//!   step:  entries behind those of the copy --> copy, synced; meanwhile the loop appends to the present journal
//!   end:   the copy has the last entry; the identity names it; the old one is removed
//! ```
//!
//! Example: the log is 101 to 900 and the copy 101 to 400. A step appends 401 to 700; meanwhile the log has grown to 950, and begins at 300.
//! The next one appends 701 to 950, and the copy is complete. That it still begins at 101 is no harm: it is compacted later.
//!
//! Invariants: until the identity names it, the copy is garbage. Each step takes over hard state, checkpoint and generation, so a complete copy
//! says what the journal says.
//!
//! See also: `data_dir` (the switch), `consensus::snapshots` (when), the rewrite of the tree (`kv::flush::rewrite`).

use raft::eraftpb::HardState;

use super::Journal;
use crate::plant::{self, Plant};
use crate::storage::Error;

/// What a step of the rewrite of a journal has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// There is more to copy.
    More,
    /// All is copied, durably.
    Complete,
    /// The log has been replaced from an entry on that the copy has, or compacted beyond its last one.
    Void,
}

/// A rewrite under way.
pub struct JournalRewrite {
    copy: Journal,
    number: u64,
}

impl JournalRewrite {
    /// Begins with a copy that has no entry yet, in the journal folder with this number.
    pub(crate) fn new(copy: Journal, number: u64) -> Self {
        Self { copy, number }
    }

    /// Returns the last index that is copied.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.copy.last_index()
    }

    /// Copies about `max_bytes` more entries of `journal`, with its present hard state; durable on return.
    ///
    /// # Errors
    /// [`Error`]: poisoned, or damage of `journal`.
    pub fn step(&mut self, journal: &Journal, hard_state: &HardState, max_bytes: u64) -> Result<Copied, Error> {
        let last = self.copy.last_index();
        // Logs that have the same term at an index are the same up to it (thesis, section 3.5).
        let follows = journal.term(last).is_some_and(|term| Some(term) == self.copy.term(last));
        if !follows && !plant::is(Plant::JournalRewriteUnmatched) {
            return Ok(Copied::Void);
        }
        let end = journal.last_index();
        let entries = if last < end { journal.entries(last + 1, end + 1, max_bytes)? } else { Vec::new() };
        self.copy.generation = journal.generation;
        self.copy.checkpoint = journal.checkpoint;
        self.copy.append(&entries, hard_state)?;
        if !plant::is(Plant::JournalRewriteUnsynced) {
            self.copy.sync()?;
        }
        Ok(if self.copy.last_index() >= end { Copied::Complete } else { Copied::More })
    }

    /// Returns the number of the folder, and the copy.
    pub(crate) fn take(self) -> (u64, Journal) {
        (self.number, self.copy)
    }
}
