//! Reclaiming the journal's disk space: when it is rewritten, step by step, and when the copy takes its place.
//!
//! Why: the engine never shortens its file; see [`super::reclaim`] for the tree.
//!
//! Invariants: one rewrite at a time, and not where the disk is short of space. A step is small, because the loop does it. The identity is
//! the commit point: before it is replaced a crash leaves the old journal, after it the copy.
//!
//! See also: `storage::journal::rewrite` (the copy).

use slog::info;

use crate::consensus::core::Core;
use crate::model::{DiskSpace, Millis};
use crate::storage::{Copied, Error, JournalRewrite};

/// The bytes of a step, which is synced by the loop.
const STEP_BYTES: u64 = 256 << 10;

/// The shortest interval between two steps.
const STEP_EVERY: Millis = 10;

/// The time between the end of a rewrite, or the start of the process, and the next one.
const REWRITE_EVERY: Millis = 10_000;

/// The rewrite of this node's journal.
pub(crate) enum JournalReclaim {
    /// None before this time.
    Waiting(Millis),
    /// The next step is not before this time.
    Copying(Box<JournalRewrite>, Millis),
}

impl Default for JournalReclaim {
    fn default() -> Self {
        Self::Waiting(REWRITE_EVERY)
    }
}

impl JournalReclaim {
    /// Measures the journal, and begins a rewrite where its file is much larger than its entries.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn measure(&mut self, core: &mut Core) -> Result<(), Error> {
        let Self::Waiting(until) = self else { return Ok(()) };
        if core.now < *until {
            return Ok(());
        }
        let log = core.raw.store();
        let (bytes, live) = (log.journal.size_on_disk(), log.journal.live_bytes());
        // Between two checkpoints the log grows by more than the slack of the tree, and shrinks again.
        let most = 2 * (live + core.options.reclaim_slack_bytes);
        let has_room = core.own_space().map(DiskSpace::room).is_none_or(|room| room > most);
        if bytes <= most || !has_room {
            return Ok(());
        }
        info!(core.log, "the journal is rewritten to give space back"; "bytes" => bytes, "live" => live);
        let hard_state = log.hard_state.clone();
        let rewrite = core.data_dir.rewrite_journal(&core.raw.store().journal, &hard_state)?;
        *self = Self::Copying(Box::new(rewrite), core.now);
        Ok(())
    }

    /// Goes on: the next step, and the switch to the copy once it is complete.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn go_on(&mut self, core: &mut Core) -> Result<(), Error> {
        let now = core.now;
        let Self::Copying(rewrite, not_before) = self else { return Ok(()) };
        if now < *not_before {
            return Ok(());
        }
        let log = core.raw.store();
        match rewrite.step(&log.journal, &log.hard_state, STEP_BYTES)? {
            Copied::More => *not_before = now + STEP_EVERY,
            Copied::Void => self.abandon(core)?,
            Copied::Complete => {
                let Self::Copying(rewrite, _) = std::mem::replace(self, Self::Waiting(now + REWRITE_EVERY)) else {
                    return Ok(());
                };
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
        let Self::Copying(rewrite, _) = std::mem::replace(self, next) else { return Ok(()) };
        core.data_dir.abandon_journal();
        core.unused.push(rewrite);
        core.discard_garbage()
    }
}
