//! Reclaiming disk space: when the tree is rewritten, slice by slice, and when the copy takes its place.
//!
//! Why: the engine's cleaner keeps the tree at twice its data under overwrites, but after removals the file stays as large as it was.
//!
//! ```text
//!   a flush has ended, the tree is too large --> begin
//!   a tick, no flush under way               --> slice, on another thread --> sliced
//!   complete, no flush under way             --> switch: journal record, synced; the old generation is discarded
//! ```
//!
//! Invariants: one rewrite at a time. It takes of the disk's reserve only where that is touched already, since it gives more back, and nothing
//! below the floor. Slices and flushes exclude each other; where flushes follow each other, a rewrite has its turn between two. The rate of
//! slices is bounded. The journal's record is the commit point: before it a crash leaves the old generation, after it the new one.
//!
//! See also: `storage::kv::rewrite` (why the copy is exact), [`super`] (flushes).

use slog::info;

use crate::consensus::core::Core;
use crate::model::Millis;
use crate::plant::{self, Plant};
use crate::storage::{Error, Rewrite, Sliced};

/// The bytes of a slice. With [`SLICE_EVERY`] that is at most 20 MB a second: a small part of a core.
const SLICE_BYTES: usize = 1 << 20;

/// The shortest interval between two slices, and between two in a turn between flushes.
const SLICE_EVERY: (Millis, Millis) = (50, 20);

/// The time between the end of a rewrite, or the start of the process, and the next look at the size of the tree.
const REWRITE_EVERY: Millis = 10_000;

/// A rewrite has one part in so many of the time of a flush before the next one.
const TURN_PART: Millis = 4;

/// The tree is rewritten where it has more than so many tenths of its data, and the slack. Uniform overwrites at the highest rate lead to 20
/// tenths (measured), and a copy has 18 when it is new.
const MOST_TENTHS: u64 = 25;

/// The least slack of a file, however little space the disk has: an engine takes some before it has anything.
const LEAST_SLACK_BYTES: u64 = 8 << 20;

/// The space that a copy may take beyond twice its data.
const COPY_MARGIN_BYTES: u64 = 8 << 20;

/// Returns the slack: the bytes that a file may have beyond some times its data. On a disk with little space that is less, or the file would hold what
/// writes need.
pub(super) fn slack_bytes(core: &Core) -> u64 {
    let slack = core.options.reclaim_slack_bytes;
    core.own_space().map_or(slack, |space| slack.min((space.above_floor() / 2).max(LEAST_SLACK_BYTES)))
}

/// Whether the disk has room for a copy of so many bytes.
pub(super) fn has_room(core: &Core, live: u64) -> bool {
    core.own_space().is_none_or(|space| {
        if space.is_nearly_full() {
            space.above_floor() > 2 * live + COPY_MARGIN_BYTES
        } else {
            space.room() > 2 * live
        }
    })
}

/// The rewrite of this node's tree.
pub(crate) enum Reclaim {
    /// None is under way; the next flush measures the tree.
    Idle,
    /// None before this time. A flush is due then, also without writes, to measure the tree.
    Waiting(Millis),
    /// Between two slices; when the last one began.
    Between(Box<Rewrite>, Millis),
    /// A slice is copied on another thread: the raft id and the generation, and when it began.
    Slicing((u64, u64), Millis),
}

impl Default for Reclaim {
    fn default() -> Self {
        Self::Waiting(REWRITE_EVERY)
    }
}

impl Reclaim {
    /// Whether the tree has to be measured, for which a flush is needed.
    pub fn wants_flush(&self, now: Millis) -> bool {
        matches!(self, Self::Waiting(until) if now >= *until)
    }

    /// Returns the rewrite that flushes have to write to as well. None while a slice is copied, when no flush may begin.
    pub fn rewrite(&self) -> Option<&Rewrite> {
        match self {
            Self::Between(rewrite, _) => Some(rewrite),
            _ => None,
        }
    }

    /// Whether a slice is being copied.
    pub fn is_slicing(&self) -> bool {
        matches!(self, Self::Slicing(..))
    }

    /// A flush has ended, and the tree has so many bytes on disk: begins a rewrite where those are too many.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn measured(&mut self, core: &mut Core, tree_bytes: u64) -> Result<(), Error> {
        let live = core.state_machine.live_bytes();
        if self.wants_flush(core.now) {
            *self = Self::Idle;
        }
        let is_free = matches!(self, Self::Idle);
        // The copy is about as large as the data; where the disk has no room for it, it stays as it is.
        if !is_free || !has_room(core, live) || tree_bytes <= MOST_TENTHS * live / 10 + slack_bytes(core) {
            return Ok(());
        }
        let rewrite = Box::new(core.data_dir.rewrite(&core.state_machine)?);
        info!(core.log, "the tree is rewritten to give space back"; "bytes" => tree_bytes, "live" => live, "generation" => rewrite.id().1);
        *self = Self::Between(rewrite, core.now);
        Ok(())
    }

    /// Returns until when a rewrite goes before the next flush, as of the end of one that took so long.
    pub fn turn_until(now: Millis, flush_ms: Millis) -> Millis {
        // Under load the next flush is due when one ends, and the rewrite would never go on.
        now + flush_ms / TURN_PART
    }

    /// Whether a rewrite goes before a flush that is due: with the slices of its turn, and with the switch.
    pub fn goes_first(&self, is_in_turn: bool) -> bool {
        match self {
            Self::Between(rewrite, _) => is_in_turn || rewrite.is_complete(),
            _ => false,
        }
    }

    /// Goes on, where no flush is under way: the next slice, or the switch to the new generation. `is_in_turn` says that a flush waits
    /// for it.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn go_on(&mut self, core: &mut Core, is_in_turn: bool) -> Result<(), Error> {
        let interval = if is_in_turn { SLICE_EVERY.1 } else { SLICE_EVERY.0 };
        match std::mem::replace(self, Self::Idle) {
            Self::Between(rewrite, _) if rewrite.is_complete() => {
                *self = Self::Waiting(core.now + REWRITE_EVERY);
                switch(core, *rewrite)
            }
            Self::Between(rewrite, began) if core.now >= began + interval => {
                *self = Self::Slicing(rewrite.id(), core.now);
                core.background.slice(rewrite, SLICE_BYTES);
                Ok(())
            }
            other => {
                *self = other;
                Ok(())
            }
        }
    }

    /// Takes the end of a slice.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn sliced(
        &mut self,
        core: &mut Core,
        rewrite: Option<Box<Rewrite>>,
        result: Result<Sliced, Error>,
    ) -> Result<(), Error> {
        let Some(rewrite) = rewrite else { return result.map(drop) };
        let began = match self {
            Self::Slicing(id, began) if *id == rewrite.id() => *began,
            // Of a state that is no longer in use: its folder may be gone, and no error of it counts.
            _ => {
                core.discard(rewrite);
                return Ok(());
            }
        };
        let sliced = match result {
            Ok(sliced) => sliced,
            Err(failure) => {
                core.discard(rewrite);
                return Err(failure);
            }
        };
        *self = if sliced == Sliced::NoSpace {
            info!(core.log, "a rewrite of the tree is given up: the disk has no room for it");
            core.discard(rewrite);
            Self::Waiting(core.now + REWRITE_EVERY)
        } else {
            Self::Between(rewrite, began)
        };
        Ok(())
    }

    /// Gives the rewrite up: another state has taken the place of the one that it copies.
    pub fn abandon(&mut self, core: &mut Core) {
        if let Self::Between(rewrite, _) = std::mem::take(self) {
            core.discard(rewrite);
        }
    }
}

/// Takes the copy into use.
fn switch(core: &mut Core, rewrite: Rewrite) -> Result<(), Error> {
    let Some((generation, tree, redo)) = rewrite.take() else { return Ok(()) };
    let log = core.raw.mut_store();
    let hard_state = log.hard_state.clone();
    if !plant::is(Plant::RewriteUnrecorded) {
        log.journal.switch_generation(generation, &hard_state)?;
    }
    let old = core.state_machine.replace_tree(tree, redo);
    core.unused.push(old);
    info!(core.log, "the tree is rewritten"; "generation" => generation);
    core.discard_garbage()
}
