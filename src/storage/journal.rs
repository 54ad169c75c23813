//! Raft's log and hard state.

use raft::eraftpb::{Entry, HardState};

use super::Error;

/// The log of one incarnation.
pub struct Journal;

impl Journal {
    /// The hard state as recorded last.
    pub fn hard_state(&self) -> HardState {
        todo!()
    }
    /// The index of the first entry that the log holds; one more than [`Journal::last_index`] where it holds none.
    pub fn first_index(&self) -> u64 {
        todo!()
    }
    /// The index of the last entry.
    pub fn last_index(&self) -> u64 {
        todo!()
    }
    /// The term of the entry at `index`; known from `first_index() - 1` to `last_index()`, else None.
    pub fn term(&self, _index: u64) -> Option<u64> {
        todo!()
    }
    /// Entries from `low` to before `high`, at least one, then as many as fit `max_bytes`. The range must be within
    /// `first_index()..=last_index() + 1`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn entries(&self, _low: u64, _high: u64, _max_bytes: u64) -> Result<Vec<Entry>, Error> {
        todo!()
    }
    /// Writes one record: these entries, overriding all from the first one's index on, and the hard state. Not durable
    /// before [`Journal::sync`].
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn append(&mut self, _entries: &[Entry], _hard_state: &HardState) -> Result<(), Error> {
        todo!()
    }
    /// Makes all appended records durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn sync(&mut self) -> Result<(), Error> {
        todo!()
    }
    /// Replaces the whole log by a snapshot that ends at (index, term), names the machine generation that holds it, and
    /// takes over the hard state, whose commit is at least index. One record, durable on return: the flip of an install.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn install(&mut self, _index: u64, _term: u64, _generation: u64, _hard_state: &HardState) -> Result<(), Error> {
        todo!()
    }
    /// Notes a durable cut of the machine at (index, term); recorded with the next record.
    pub fn note_snapshot(&mut self, _index: u64, _term: u64) {
        todo!()
    }
    /// The last durable cut, (0, 0) if none.
    pub fn snapshot(&self) -> (u64, u64) {
        todo!()
    }
    /// The machine generation that belongs to this log.
    pub fn generation(&self) -> u64 {
        todo!()
    }
    /// Removes up to `max_records` of the oldest records whose live entries are all at or below `index`, never the last
    /// record. True where more could be removed.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn compact(&mut self, _index: u64, _max_records: usize) -> Result<bool, Error> {
        todo!()
    }
    /// Bytes of the entries after `index`, about.
    pub fn bytes_after(&self, _index: u64) -> u64 {
        todo!()
    }
}
