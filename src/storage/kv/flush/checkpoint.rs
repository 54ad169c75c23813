//! Flushes and snapshots of the state machine: when the active memtable is full, frozen, flushed; where a snapshot begins and ends.
//!
//! Why: they touch the layers and the tree alone, and apply does not know of them.
//!
//! Invariants: one flush is under way at a time, and one snapshot. A snapshot ends between two flushes, when the tree is the state at one
//! index.
//!
//! See also: [`super`] (the steps), `consensus::snapshots` (when), `storage::snapshot` (why a snapshot is exact).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use raft::eraftpb::SnapshotMetadata;

use super::Flush;
use super::redo::RedoFile;
use super::rewrite::Rewrite;
use crate::storage::incoming_generations::ReservedGeneration;
use crate::storage::kv::chunks::Header;
use crate::storage::kv::memtable::FrozenMemtable;
use crate::storage::kv::state_machine::StateMachine;
use crate::storage::layout::{CHUNK_BYTES, Kind};
use crate::storage::snapshot::effects::EffectSender;
use crate::storage::snapshot::send_spool::Spool;
use crate::storage::{Db, Error, SnapshotReader, SpoolBound, Spooler};

/// The file bytes per byte of a memtable that a flush takes: puts of 1 MB took 1.8 in the tree, and the redo record takes one. Deletes took
/// 0.3 to 1.1 of the removed bytes, so each removed chunk counts once, too.
const FILE_BYTES_PER_BYTE: u64 = 3;

/// The removed keys at which the active memtable is full: a scan passes over each of them, here and in the tree.
const MAX_TOMBSTONES: usize = 20_000;

impl StateMachine {
    /// Returns the applied index of the last flush that has ended: the tree is the state there, unless a flush is under way.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.flushed.index
    }

    /// Whether the active memtable should be frozen as soon as no flush is under way.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.fill() >= 100
    }

    /// Returns how full the active memtable is, in percent.
    pub(crate) fn fill(&self) -> usize {
        // The whole is four parts: one for what is frozen, one for its encoding, and two for what is applied meanwhile.
        let (active, bytes) = (&self.reader.read().active, (self.memtable_bytes / 4).max(1));
        (active.bytes().saturating_mul(100) / bytes).max(active.tombstones() * 100 / MAX_TOMBSTONES)
    }

    /// Whether nothing may be applied until the flush under way has ended.
    #[must_use]
    pub fn stalls(&self) -> bool {
        let layers = self.reader.read();
        layers.frozen.is_some() && layers.active.bytes() >= self.memtable_bytes / 2
    }

    /// Whether a flush is under way.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.reader.read().frozen.is_some()
    }

    /// Freezes the active memtable and returns its flush, which any thread may carry out; [`StateMachine::flush_ended`] follows. None
    /// while one is under way. What `rewrite` has copied is written to its new generation, too.
    pub fn freeze(&mut self, rewrite: Option<&Rewrite>) -> Option<Flush> {
        let mut layers = self.reader.write();
        if layers.frozen.is_some() {
            return None;
        }
        let frozen = Arc::new(FrozenMemtable {
            table: std::mem::take(&mut layers.active),
            from: self.flushed.index,
            state: self.state.clone(),
            state_chunks: self.state_chunks,
        });
        layers.frozen = Some(frozen.clone());
        self.signals.fill.store(0, Ordering::Relaxed);
        // From here on the tree changes beyond what a reader has seen before.
        layers.epoch += 1;
        let tree = layers.tree.clone();
        drop(layers);
        self.members_chunks = self.members_header.chunks();
        self.state_chunks = Header::of(Kind::State, b"", self.state.index, &self.state.encode()).chunks();
        Some(Flush::new(
            tree,
            frozen,
            self.redo.clone(),
            self.effects.clone(),
            self.signals.clone(),
            rewrite.and_then(Rewrite::mirror),
        ))
    }

    /// Notes that the flush with this mark has ended; returns what was frozen, to be dropped on another thread. None if it was not
    /// the one under way.
    pub fn flush_ended(&mut self, mark: (u64, u64)) -> Option<Box<dyn Send>> {
        let mut layers = self.reader.write();
        let frozen = layers.frozen.take_if(|frozen| (frozen.state.index, frozen.state.term) == mark)?;
        self.flushed = frozen.state.clone();
        Some(Box::new(frozen))
    }

    /// Prepares a rewrite of the tree into a reserved generation.
    pub(crate) fn rewrite_into(&self, reserved: ReservedGeneration, cache_bytes: u64) -> Rewrite {
        Rewrite::new(self.reader.tree(), reserved, cache_bytes)
    }

    /// Puts the tree of a complete rewrite in the place of the present one, which is returned to be closed on another thread. Only
    /// while no flush is under way.
    pub(crate) fn replace_tree(&mut self, tree: Arc<dyn Db>, redo: RedoFile) -> Box<dyn Send> {
        debug_assert!(!self.is_flushing(), "the copy is the tree between two flushes");
        let mut layers = self.reader.write();
        layers.epoch += 1;
        let old = std::mem::replace(&mut layers.tree, tree);
        self.redo = redo;
        Box::new(old)
    }

    /// Flushes everything applied, on this thread; durable on return. Only while no flush or rewrite is under way; otherwise nothing is done.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn flush(&mut self) -> Result<(), Error> {
        let Some(mut flush) = self.freeze(None) else { return Ok(()) };
        flush.run()?;
        drop(self.flush_ended(flush.mark()));
        Ok(())
    }

    /// Returns about the bytes of memory of what is not in the tree yet.
    #[must_use]
    pub fn unflushed_bytes(&self) -> usize {
        let layers = self.reader.read();
        layers.active.bytes() + layers.frozen.as_ref().map_or(0, |frozen| frozen.table.bytes())
    }

    /// Estimates the disk space that the applied entries still take until they are flushed and synced.
    #[must_use]
    pub fn pending_bytes(&self) -> u64 {
        let removed = {
            let layers = self.reader.read();
            let frozen = layers.frozen.as_ref().map_or(0, |frozen| frozen.table.removed_chunks());
            layers.active.removed_chunks() + frozen
        };
        FILE_BYTES_PER_BYTE * self.unflushed_bytes() as u64 + (removed * CHUNK_BYTES) as u64
    }

    /// Starts a snapshot; at most one at a time, an earlier one is aborted. What is flushed meanwhile goes through `scratch`.
    pub fn begin_snapshot(
        &mut self,
        scratch: std::fs::File,
        bound: impl Into<SpoolBound>,
    ) -> (Spooler, SnapshotReader) {
        self.abort_snapshot();
        let spool = Arc::new(Spool::new(scratch, bound.into()));
        // From here on each piece of a flush goes to the snapshot, too, once it is in the tree. What was in the tree before is
        // where the scan finds it.
        drop(self.effects.replace(Some(EffectSender::new(spool.clone()))));
        (Spooler::new(spool.clone()), SnapshotReader::new(self.reader.clone(), spool, self.live_bytes()))
    }

    /// Ends the running snapshot at the last flush, whose state it is then exactly. Only while no flush is under way, and once the
    /// tree was scanned.
    pub fn end_snapshot(&mut self) {
        debug_assert!(!self.is_flushing(), "the tree is the state at one index between two flushes alone");
        if let Some(snapshot) = self.effects.replace(None) {
            let mut metadata =
                SnapshotMetadata { index: self.flushed.index, term: self.flushed.term, ..Default::default() };
            metadata.set_conf_state(self.flushed.conf_state.clone());
            snapshot.end(metadata);
        }
    }

    /// Aborts the running snapshot, if any.
    pub fn abort_snapshot(&mut self) {
        if let Some(snapshot) = self.effects.replace(None) {
            snapshot.cancel();
        }
    }
}
