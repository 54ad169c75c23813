//! A flush: writes the frozen memtable into the tree, off the loop, in steps.
//!
//! ```text
//!   1 encoding       all changes, some at a time, in memory
//!   2 redo record    synced: from here on a crash finishes the flush at the next start
//!   3 pieces         in key order, the state record last; each is passed to a running snapshot after it is in the tree
//!   4 sync           the tree is durable up to the frozen index: a checkpoint
//!   5 clean up       the redo record is removed
//! ```
//!
//! Why: a batch of the engine holds off every reader while it is applied, and is written out at its end. Changes that are inserted one by one
//! do neither; what a crash leaves of them is what the redo record is for.
//!
//! Invariants: one flush of a state machine at a time. The frozen memtable answers for all its keys until the flush has ended. The tree is
//! written by flushes alone.
//!
//! See also: [`redo`] (recovery), [`crate::storage::kv::layers`] (readers), `consensus::snapshots` (when).

pub(crate) mod checkpoint;
mod encoder;
pub(crate) mod redo;
pub(crate) mod rewrite;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::plant::{self, Plant};
use crate::storage::kv::memtable::FrozenMemtable;
use crate::storage::snapshot::effects::EffectSender;
use crate::storage::{Change, Db, Error};
use encoder::Encoder;
use redo::{RedoFile, RedoRecord};
use rewrite::Mirror;

/// The bytes between two syncs of the tree.
const SYNC_EVERY: usize = 512 << 10;

/// The running snapshot of a state machine, which receives what is flushed.
#[derive(Clone, Default)]
pub(crate) struct EffectLine(Arc<Mutex<Option<Arc<EffectSender>>>>);

impl EffectLine {
    /// Replaces the running snapshot; returns the one before.
    pub(crate) fn replace(&self, sender: Option<EffectSender>) -> Option<Arc<EffectSender>> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut line, sender.map(Arc::new))
    }

    fn push(&self, piece: &[Change<'_>]) {
        // Read after the piece is in the tree: a snapshot that begins in between finds it there.
        let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(sender) = sender
            && !plant::is(Plant::SnapshotWithoutEffects)
        {
            sender.push(piece);
        }
    }
}

/// What a state machine tells the flush under way.
#[derive(Clone, Default)]
pub(crate) struct FlushSignals {
    /// The state machine is gone, and its tree is garbage.
    pub(crate) cancelled: Arc<AtomicBool>,
    /// How full the active memtable is again, in percent of what makes the next flush due.
    pub(crate) fill: Arc<AtomicUsize>,
}

/// The next step of a flush.
enum Step {
    Encode(Encoder),
    Redo(RedoRecord),
    /// The next piece begins there.
    Pieces(RedoRecord, usize),
    Sync,
    CleanUp,
    Ended,
}

/// A flush under way.
pub struct Flush {
    tree: Arc<dyn Db>,
    frozen: Arc<FrozenMemtable>,
    redo: RedoFile,
    effects: EffectLine,
    signals: FlushSignals,
    /// The new generation that a rewrite is writing.
    mirror: Option<Mirror>,
    step: Step,
    /// The bytes written to the tree since its last sync.
    unsynced: usize,
    tree_bytes: u64,
}

impl Flush {
    /// Prepares the flush of `frozen`; nothing is written yet.
    pub(crate) fn new(
        tree: Arc<dyn Db>,
        frozen: Arc<FrozenMemtable>,
        redo: RedoFile,
        effects: EffectLine,
        signals: FlushSignals,
        mirror: Option<Mirror>,
    ) -> Self {
        let step = Step::Encode(Encoder::new(&frozen));
        Self { tree, frozen, redo, effects, signals, mirror, step, unsynced: 0, tree_bytes: 0 }
    }

    /// Returns the bytes of the tree on disk, once the flush has ended.
    #[must_use]
    pub fn tree_bytes(&self) -> u64 {
        self.tree_bytes
    }

    /// Returns the (index, term) that the tree is the state at once the flush has ended.
    #[must_use]
    pub fn mark(&self) -> (u64, u64) {
        (self.frozen.state.index, self.frozen.state.term)
    }

    /// Does the next step; returns whether there is another one. After the last one the tree is durable up to the mark, unless the
    /// state machine was dropped meanwhile.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn step(&mut self) -> Result<bool, Error> {
        let result = self.next_step();
        // The folder of a dropped state machine may be gone already.
        if self.signals.cancelled.load(Ordering::Relaxed) { Ok(false) } else { result }
    }

    fn next_step(&mut self) -> Result<bool, Error> {
        // A step that fails is the last one: the database is poisoned.
        self.step = match std::mem::replace(&mut self.step, Step::Ended) {
            Step::Encode(mut encoder) => {
                if encoder.step(&self.frozen) {
                    Step::Encode(encoder)
                } else {
                    Step::Redo(encoder.into_record())
                }
            }
            Step::Redo(record) => {
                if !plant::is(Plant::RedoSkipped) {
                    self.redo.write(&record)?;
                }
                let start = record.start();
                Step::Pieces(record, start)
            }
            Step::Pieces(record, mut at) => {
                match record.next_changes(&mut at).flatten() {
                    Some(piece) => {
                        self.tree.write_each(&piece)?;
                        if let Some(mirror) = &self.mirror {
                            mirror.write(&piece)?;
                        }
                        self.effects.push(&piece);
                        // Little by little: one sync of everything would hold up the journal's syncs on the same disk.
                        let size = |(key, value): &Change<'_>| key.len() + value.map_or(0, <[u8]>::len);
                        self.unsynced += piece.iter().map(size).sum::<usize>();
                        if self.unsynced >= SYNC_EVERY {
                            self.unsynced = 0;
                            self.tree.sync()?;
                        }
                        Step::Pieces(record, at)
                    }
                    None => Step::Sync,
                }
            }
            Step::Sync => {
                if plant::is(Plant::RedoRemovedEarly) {
                    self.redo.remove()?;
                }
                self.tree.sync()?;
                if let Some(mirror) = &self.mirror {
                    mirror.sync()?;
                }
                Step::CleanUp
            }
            Step::CleanUp => {
                self.redo.remove()?;
                self.tree_bytes = self.tree.size_on_disk();
                Step::Ended
            }
            Step::Ended => Step::Ended,
        };
        Ok(!matches!(self.step, Step::Ended))
    }

    /// Returns how full the active memtable is again, in percent of what makes the next flush due. At 100 apply will soon wait for this one.
    #[must_use]
    pub fn fill(&self) -> usize {
        self.signals.fill.load(Ordering::Relaxed)
    }

    /// Does all steps that are left.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn run(&mut self) -> Result<(), Error> {
        while self.step()? {}
        Ok(())
    }
}
