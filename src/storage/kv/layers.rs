//! The layers of the state: active memtable, frozen memtable, tree; and how any thread reads them.
//!
//! Why: the loop applies, a thread of its own flushes, and the threads that serve clients read, all at once.
//!
//! ```text
//!   active   changes since the freeze                 written by the loop, under the lock, for microseconds
//!   frozen   what a flush is writing to the tree      never changes
//!   tree     the state at the last flush, and an      written by the flush, read without the lock
//!            arbitrary part of the frozen memtable
//! ```
//!
//! A reader looks into both memtables under the lock, and into the tree without it. That is one state: whatever part of a flush
//! the tree has shows only keys that the frozen memtable answers for. It no longer holds once the next flush writes, so the
//! reader compares the epoch afterwards, and reads again where it has changed.
//!
//! Example: `a` is in the tree at index 5. It is put at 9 and frozen; the flush has written it. A reader finds `a` of 9 in the frozen
//! memtable and does not ask the tree. Later nothing is frozen, and the tree has `a` of 9. The next freeze holds `a` of 12: a
//! reader that saw no slot for `a` before that freeze and reads the tree after it may find 12, sees another epoch, and begins again.
//!
//! Invariants: the active memtable shadows the frozen one, and that one the tree. Each entry becomes visible as a whole, with its
//! index. The epoch changes whenever the tree may change beyond the frozen memtable that a reader has seen.
//!
//! See also: [`super::state_machine`] (the only writer), [`super::merged_scan`] (ranges).

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::memtable::{FrozenMemtable, Memtable, Slot, StoredItem, StoredMeta};
use super::merged_scan::{self, MemoryPage};
use super::{chunks, item_codec};
use crate::model::{Item, List, Page};
use crate::plant::{self, Plant};
use crate::storage::layout::Kind;
use crate::storage::{Db, Error};

/// The point that a read is of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadPoint {
    /// The applied index.
    pub index: u64,
    /// The term of that entry.
    pub term: u64,
    /// The cluster clock, in milliseconds.
    pub clock: u64,
}

/// The layers at one applied index.
pub(crate) struct Layers {
    /// The changes since the last freeze.
    pub(crate) active: Memtable,
    /// What is being flushed.
    pub(crate) frozen: Option<Arc<FrozenMemtable>>,
    /// The database below.
    pub(crate) tree: Arc<dyn Db>,
    /// What all of it is the state of.
    pub(crate) at: ReadPoint,
    /// The number of freezes and of changes of the tree's database.
    pub(crate) epoch: u64,
}

impl Layers {
    /// Returns the slot of `key` in the memtables, the newest first.
    fn slot(&self, key: &[u8]) -> Option<&Slot> {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.table.slot(key));
        self.active.slot(key).or_else(frozen)
    }

    /// Returns header and metadata of `key`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn stored_meta(&self, key: &[u8]) -> Result<Option<StoredMeta>, Error> {
        if let Some(slot) = self.slot(key) {
            return Ok(slot.stored.as_ref().map(StoredItem::meta));
        }
        let tree = &*self.tree;
        let Some((header, first)) = chunks::first(tree, Kind::Data, key)? else { return Ok(None) };
        Ok(Some(StoredMeta { header, meta: item_codec::meta(tree, header, &first)? }))
    }

    /// Returns the item of `key`.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn item(&self, key: &[u8]) -> Result<Option<Arc<Item>>, Error> {
        match self.slot(key) {
            Some(slot) => Ok(slot.stored.as_ref().map(|stored| stored.item.clone())),
            None => Ok(item_codec::read(&*self.tree, key)?.map(Arc::new)),
        }
    }
}

/// The layers of one state machine, shared by the threads that read it. A clone reads the same ones.
#[derive(Clone)]
pub struct StateReader {
    layers: Arc<RwLock<Layers>>,
}

impl StateReader {
    /// Wraps the layers over `tree`, which is the state at `at`.
    pub(crate) fn new(tree: Arc<dyn Db>, at: ReadPoint) -> Self {
        let layers = Layers { active: Memtable::default(), frozen: None, tree, at, epoch: 0 };
        Self { layers: Arc::new(RwLock::new(layers)) }
    }

    /// Locks the layers for reading.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the layers for a change; the loop alone does.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what the state is of now.
    #[must_use]
    pub fn point(&self) -> ReadPoint {
        self.read().at
    }

    /// Returns the item of `key`, and the state that it was read in. Any thread may call it; it may read the disk.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn get(&self, key: &[u8]) -> Result<(Option<Arc<Item>>, ReadPoint), Error> {
        self.of_one_epoch(
            |layers| match layers.slot(key) {
                Some(slot) => Found::InMemory(slot.stored.as_ref().map(|stored| stored.item.clone())),
                None => Found::Below(()),
            },
            |tree, ()| Ok(item_codec::read(tree, key)?.map(Arc::new)),
        )
    }

    /// Returns a page of keys, which is one state, and that state. Any thread may call it; it may read the disk.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<(Page, ReadPoint), Error> {
        self.of_one_epoch(
            |layers| Found::Below(MemoryPage::collect(layers, list)),
            |tree, memory: MemoryPage| merged_scan::page(memory, tree, list),
        )
    }

    /// Reads the memtables under the lock, then the tree without it, until no freeze came between.
    fn of_one_epoch<T, M>(
        &self,
        memory: impl Fn(&Layers) -> Found<T, M>,
        below: impl Fn(&dyn Db, M) -> Result<T, Error>,
    ) -> Result<(T, ReadPoint), Error> {
        loop {
            let (tree, epoch, at, found) = {
                let layers = self.read();
                let found = match memory(&layers) {
                    Found::InMemory(found) => return Ok((found, layers.at)),
                    Found::Below(found) => found,
                };
                (layers.tree.clone(), layers.epoch, layers.at, found)
            };
            let read = below(&*tree, found);
            // An error counts only in the same epoch: a value of several chunks may be replaced while it is read.
            if self.read().epoch == epoch || plant::is(Plant::EpochUnchecked) {
                return Ok((read?, at));
            }
        }
    }
}

/// What the memtables know of a read.
enum Found<T, M> {
    /// All of it.
    InMemory(T),
    /// What is to be completed with the tree.
    Below(M),
}
