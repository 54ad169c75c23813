//! A rewrite: copies the tree into a new generation, which takes its place.
//!
//! Why: the engine gives space back only as fast as it rewrites pages, and never shortens its file. A new generation is as small as the
//! data is.
//!
//! ```text
//!   slice:  tree --keys in order, up to the cursor--> new generation, synced
//!   flush:  memtable --> tree, and what lies below the cursor --> new generation
//!   end:    one journal record names the new generation; the old one is removed
//! ```
//!
//! Slices and flushes never run at once, so the new generation has below the cursor what the tree has, and at the end all of it.
//! Example: a to m are copied. A flush puts c and x: c goes to both, x to the tree, where the next slice finds it.
//!
//! Invariants: until the journal names it, the new generation is garbage, which a crash or an abandoned rewrite leaves to be removed. It is
//! synced before it is named.
//!
//! See also: `consensus::reclaim` (when), [`super`], [`crate::storage::Journal::switch_generation`].

use std::sync::Arc;

use super::redo::RedoFile;
use crate::plant::{self, Plant};
use crate::storage::incoming_generations::ReservedGeneration;
use crate::storage::layout::Kind;
use crate::storage::{Change, Db, Error};

/// The maximum pairs of one scan, up to 1 MiB.
const SCAN_PAIRS: usize = 256;

/// The cache of the new generation while it is written.
const COPY_CACHE_BYTES: u64 = 16 << 20;

/// The bytes that the engine may write between two checks of the free space: a slice, and what it does beside it.
const SPACE_MARGIN: u64 = 4 << 20;

/// The part of a new generation that flushes write to as well.
pub(crate) struct Mirror {
    db: Arc<dyn Db>,
    /// The first key that is not copied yet; None once all are.
    cursor: Option<Vec<u8>>,
}

impl Mirror {
    /// Writes the changes of a flush that lie in the copied part.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub(crate) fn write(&self, piece: &[Change<'_>]) -> Result<(), Error> {
        if plant::is(Plant::RewriteWithoutFlushes) {
            return Ok(());
        }
        let is_copied = |(key, _): &&Change<'_>| self.cursor.as_ref().is_none_or(|cursor| *key < &cursor[..]);
        let copied: Vec<_> = piece.iter().filter(is_copied).copied().collect();
        if copied.is_empty() { Ok(()) } else { self.db.write_each(&copied) }
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        if plant::is(Plant::RewriteUnsynced) { Ok(()) } else { self.db.sync() }
    }
}

/// What a slice has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sliced {
    /// There is more to copy.
    More,
    /// All is copied, durably.
    Complete,
    /// The disk has no room for a second copy.
    NoSpace,
}

/// A rewrite under way. Dropped, its generation is removed.
pub struct Rewrite {
    source: Arc<dyn Db>,
    /// The new generation; None before the first slice.
    target: Option<Arc<dyn Db>>,
    cursor: Option<Vec<u8>>,
    cache_bytes: u64,
    // Behind the database, which is closed before its folder is removed.
    reserved: ReservedGeneration,
}

impl Rewrite {
    /// Prepares the rewrite of `source` into a reserved generation; nothing is on disk yet.
    pub(crate) fn new(source: Arc<dyn Db>, reserved: ReservedGeneration, cache_bytes: u64) -> Self {
        Self { source, target: None, cursor: Some(Kind::FIRST.to_vec()), cache_bytes, reserved }
    }

    /// Returns the raft id and the generation that it writes.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.reserved.id()
    }

    /// Whether everything is copied.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cursor.is_none()
    }

    /// Copies about `max_bytes` more, and syncs them. Not while a flush is under way.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn slice(&mut self, max_bytes: usize) -> Result<Sliced, Error> {
        if self.reserved.space().is_some_and(|space| space.above_floor() < SPACE_MARGIN) {
            return Ok(Sliced::NoSpace);
        }
        let target = match &self.target {
            Some(target) => target.clone(),
            None => self.target.insert(self.reserved.create(COPY_CACHE_BYTES.min(self.cache_bytes))?).clone(),
        };
        let mut copied = 0;
        while let Some(from) = self.cursor.take() {
            let pairs = self.source.scan(&from, None, SCAN_PAIRS)?;
            let changes: Vec<Change<'_>> = pairs.iter().map(|(key, value)| (&key[..], Some(&value[..]))).collect();
            target.write_each(&changes)?;
            copied += pairs.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
            // The first key that can come after `last` in byte order is `last` with a zero byte at its end.
            self.cursor = pairs.last().map(|(last, _)| [last, &[0][..]].concat());
            if copied >= max_bytes {
                break;
            }
        }
        // Slice by slice: one sync of everything at the end would hold up the journal's syncs on the same disk.
        if !plant::is(Plant::RewriteUnsynced) {
            target.sync()?;
        }
        if !self.is_complete() {
            return Ok(Sliced::More);
        }
        if plant::is(Plant::RewriteUnsynced) {
            return Ok(Sliced::Complete);
        }
        // The copy needs no cache, and two full ones would take twice the memory; the reads that follow do.
        drop(target);
        self.target = None;
        self.target = Some(self.reserved.reopen(self.cache_bytes)?);
        Ok(Sliced::Complete)
    }

    /// Returns what flushes have to write to as well; None before the first slice.
    pub(crate) fn mirror(&self) -> Option<Mirror> {
        self.target.clone().map(|db| Mirror { db, cursor: self.cursor.clone() })
    }

    /// Returns the number of the new generation, its tree and the place of its redo record; None if it is not complete.
    pub(crate) fn take(self) -> Option<(u64, Arc<dyn Db>, RedoFile)> {
        let Self { target, cursor, reserved, .. } = self;
        let target = target.filter(|_| cursor.is_none())?;
        let (generation, redo) = (reserved.generation(), reserved.redo());
        reserved.keep();
        Some((generation, target, redo))
    }
}
