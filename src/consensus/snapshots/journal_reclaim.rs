//! Reclaiming the journal's disk space: when it is rewritten, step by step, and when the copy takes its place.
//!
//! Why: the engine never shortens its file; see [`super::reclaim`] for the tree.
//!
//! Invariants: one rewrite at a time, and not where the disk is short of space. The copy begins behind what a compaction will remove, and the
//! log is not compacted beyond what is copied, or the copy would never reach its end under load. A step is small where little is written, because the loop does
//! it. The identity is the commit point: before it is replaced a crash leaves the old journal, after it the copy.
//!
//! See also: `storage::journal::rewrite` (the copy).

use slog::info;

use super::reclaim;
use crate::consensus::core::Core;
use crate::model::Millis;
use crate::storage::{Copied, Error, JournalRewrite};

/// The part of the slack that a step copies at least, which is synced by the loop: 256 KiB of 64 MiB. Where more is added it is twice that,
/// however much, or the copy would not reach the end of the log under large values.
const STEP_PART: u64 = 256;

/// The shortest interval between two steps.
const STEP_EVERY: Millis = 10;

/// The time between two looks at the size of the file, after a start and after a rewrite too.
const REWRITE_EVERY: Millis = 10_000;

/// The rewrite of this node's journal.
pub(crate) enum JournalReclaim {
    /// None before this time, when the file is measured.
    Waiting(Millis),
    /// A copy.
    Copying(Copying),
}

/// A copy under way.
pub(crate) struct Copying {
    rewrite: Box<JournalRewrite>,
    /// The earliest time for the next step.
    not_before: Millis,
    /// The bytes that the journal had written at the last one.
    written: u64,
}

impl Default for JournalReclaim {
    fn default() -> Self {
        Self::Waiting(REWRITE_EVERY)
    }
}

impl JournalReclaim {
    /// Goes on: measures the file now and then, copies a step, or takes the complete copy into use. The log is kept
    /// behind `kept_from`.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn run(&mut self, core: &mut Core, kept_from: u64) -> Result<(), Error> {
        match self {
            Self::Waiting(until) if core.now >= *until => self.measure(core, kept_from),
            Self::Copying(copying) if core.now >= copying.not_before => self.step(core),
            _ => Ok(()),
        }
    }

    /// Returns the last index that is copied, behind which the log may not be compacted.
    pub fn copied(&self) -> Option<u64> {
        match self {
            Self::Waiting(_) => None,
            Self::Copying(copying) => Some(copying.rewrite.last_index()),
        }
    }

    /// Begins a rewrite where the file is much larger than its entries.
    fn measure(&mut self, core: &mut Core, kept_from: u64) -> Result<(), Error> {
        *self = Self::Waiting(core.now + REWRITE_EVERY);
        let log = core.raw.store();
        let (bytes, live) = (log.journal.size_on_disk(), log.journal.bytes_after(kept_from));
        let most = 2 * live + reclaim::slack_bytes(core);
        if bytes <= most || !reclaim::has_room(core, live) {
            return Ok(());
        }
        info!(core.log, "the journal is rewritten to give space back"; "bytes" => bytes, "live" => live);
        let hard_state = log.hard_state.clone();
        let journal = &core.raw.store().journal;
        let rewrite = Box::new(core.data_dir.rewrite_journal(journal, &hard_state, kept_from)?);
        *self = Self::Copying(Copying { rewrite, not_before: core.now, written: journal.written_bytes() });
        Ok(())
    }

    fn step(&mut self, core: &mut Core) -> Result<(), Error> {
        let Self::Copying(copying) = self else { return Ok(()) };
        let log = core.raw.store();
        let written = log.journal.written_bytes();
        let added = written.saturating_sub(std::mem::replace(&mut copying.written, written));
        let bytes = (2 * added).max(core.options.reclaim_slack_bytes / STEP_PART);
        match copying.rewrite.step(&log.journal, &log.hard_state, bytes)? {
            Copied::More => copying.not_before = core.now + STEP_EVERY,
            Copied::Void => {
                info!(core.log, "a rewrite of the journal is given up: its log has been replaced or compacted");
                self.abandon(core)?;
            }
            Copied::Complete => {
                let next = Self::Waiting(core.now + REWRITE_EVERY);
                let Self::Copying(Copying { rewrite, .. }) = std::mem::replace(self, next) else { return Ok(()) };
                let journal = core.data_dir.switch_journal(*rewrite)?;
                core.replace_journal(journal);
                info!(core.log, "the journal is rewritten"; "bytes" => core.raw.store().journal.size_on_disk());
                core.discard_garbage()?;
            }
        }
        Ok(())
    }

    /// Gives the rewrite up: the log has been replaced.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be listed.
    pub fn abandon(&mut self, core: &mut Core) -> Result<(), Error> {
        let next = Self::Waiting(core.now + REWRITE_EVERY);
        let Self::Copying(Copying { rewrite, .. }) = std::mem::replace(self, next) else { return Ok(()) };
        core.data_dir.abandon_journal();
        core.unused.push(rewrite);
        core.discard_garbage()
    }
}
