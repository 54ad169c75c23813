//! The switch from a journal to its rewritten copy.
//!
//! Invariants: the identity names the journal in use, and the rename of its file is the switch. The copy is complete and durable before it.
//!
//! See also: `journal::rewrite` (the copy), `data_dir` (identity and garbage).

use raft::eraftpb::HardState;

use super::data_dir::JOURNAL_CACHE_BYTES;
use super::{DataDir, Error, Journal, JournalRewrite, layout};

impl DataDir {
    /// Begins a rewrite of this journal into a new folder, with the entries after `from` or, where the log begins later, with all; what the copy has
    /// so far is durable on return. The log has a checkpoint at `from` or later.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed, or poisoned.
    pub fn rewrite_journal(
        &mut self,
        journal: &Journal,
        hard_state: &HardState,
        from: u64,
    ) -> Result<JournalRewrite, Error> {
        debug_assert!(from <= journal.checkpoint().0, "what is before it has left the log");
        let raft_id = self.identity.raft_id;
        let names = self.engine.list(&raft_id.to_string())?;
        // Above those of earlier rewrites that are still being removed.
        let highest = names.iter().filter_map(|name| layout::journal_number_of(name)).max().unwrap_or_default();
        let number = highest.max(self.identity.journal) + 1;
        let db = self.engine.open(&layout::journal(raft_id, number), true, JOURNAL_CACHE_BYTES)?;
        let base = from.max(journal.first_index() - 1);
        let term = journal.term(base).unwrap_or_default();
        let copy = Journal::create(db, base, term, hard_state, journal.generation())?;
        self.new_journal = Some(number);
        Ok(JournalRewrite::new(copy, number))
    }

    /// Takes the copy of a complete rewrite into use, and returns it; durable on return. The old journal is garbage.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn switch_journal(&mut self, rewrite: JournalRewrite) -> Result<Journal, Error> {
        let (number, journal) = rewrite.take();
        self.update(|identity| identity.journal = number)?;
        self.new_journal = None;
        Ok(journal)
    }

    /// Gives the rewrite of the journal up: its folder is garbage.
    pub fn abandon_journal(&mut self) {
        self.new_journal = None;
    }
}
