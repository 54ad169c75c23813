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

use bytes::Bytes;

use super::memtable::{FrozenMemtable, Memtable, Slot, StoredItem, StoredMeta};
use super::merged_scan::{self, MemoryPage};
use super::{chunks, item_codec};
use crate::model::{CommandResult, Item, List, Page, after, after_prefix};
use crate::plant::{self, Plant};
use crate::storage::layout::Kind;
use crate::storage::{Batch, Change, Db, Error, Pair};

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
    /// A range without a key, which scans skip: the last one that removals by prefix have left. Its keys are tombstones, and without it
    /// each removal would pass over those of all before it.
    pub(crate) gap: Gap,
    /// What all of it is the state of.
    pub(crate) at: ReadPoint,
    /// The number of freezes and of changes of the tree's database.
    pub(crate) epoch: u64,
}

/// A range of keys, from its start to before its end, in which no key is.
#[derive(Debug, Default)]
pub(crate) struct Gap {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Gap {
    /// Takes in that the range has no key; it is joined to the present gap where they touch.
    pub(crate) fn add(&mut self, from: &[u8], to: Vec<u8>) {
        let touches = *from <= self.to[..] && self.from <= to;
        if !touches {
            *self = Self { from: from.to_vec(), to };
            return;
        }
        if *from < self.from[..] {
            self.from = from.to_vec();
        }
        self.to = std::mem::take(&mut self.to).max(to);
    }

    /// Takes in a removal by prefix: no key is left from the prefix to the last one that it has removed, or to the end of the prefix.
    pub(crate) fn add_removed(&mut self, prefix: &[u8], outcome: &CommandResult, last: Option<&Bytes>) {
        let end = match outcome {
            CommandResult::PrefixDeleted { more: false, .. } => after_prefix(prefix),
            _ => None,
        };
        if let Some(end) = end.or_else(|| last.map(|last| after(last))) {
            self.add(prefix, end);
        }
    }

    /// Takes in that there is a key: the gap ends before it.
    pub(crate) fn end_at(&mut self, key: &[u8]) {
        if *key >= self.from[..] && *key < self.to[..] {
            self.to = key.to_vec();
        }
    }

    /// Returns where a scan from `from` begins.
    pub(crate) fn skip_up<'a>(&'a self, from: &'a [u8]) -> &'a [u8] {
        if *from >= self.from[..] && *from < self.to[..] { &self.to } else { from }
    }

    /// Returns before which key a descending scan from before `to` begins.
    pub(crate) fn skip_down<'a>(&'a self, to: &'a [u8]) -> &'a [u8] {
        if *to > self.from[..] && *to <= self.to[..] { &self.from } else { to }
    }
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
        let layers = Layers { active: Memtable::default(), frozen: None, tree, gap: Gap::default(), at, epoch: 0 };
        Self { layers: Arc::new(RwLock::new(layers)) }
    }

    /// Returns the state of these items in memory, without a disk: for a loop that a test or a benchmark plays.
    #[must_use]
    pub fn in_memory(items: impl IntoIterator<Item = (Bytes, Item)>, at: ReadPoint) -> Self {
        let reader = Self::new(Arc::new(NoTree), at);
        {
            let mut layers = reader.write();
            for (key, item) in items {
                let stored = StoredItem { header: item_codec::header(&key, &item), item: Arc::new(item) };
                layers.active.set(key, Some(stored), 0);
            }
        }
        reader
    }

    /// Locks the layers for reading.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the layers for a change; the loop alone does.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the tree in use, which a rewrite replaces by another with the same content.
    pub(crate) fn tree(&self) -> Arc<dyn Db> {
        self.read().tree.clone()
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
    pub fn get(&self, key: &[u8]) -> Result<KeyAt, Error> {
        loop {
            if let Some(found) = self.end_get(self.begin_get(key), key)? {
                return Ok(found);
            }
        }
    }

    /// Returns a page of keys, which is one state, and that state. Any thread may call it; it may read the disk.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<(Page, ReadPoint), Error> {
        loop {
            if let Some(found) = self.end_list(self.begin_list(list))? {
                return Ok(found);
            }
        }
    }

    /// Reads what the memtables say of `key`; the first half of [`StateReader::get`].
    #[must_use]
    pub fn begin_get(&self, key: &[u8]) -> BegunRead<KeyInMemory> {
        let layers = self.read();
        let memory = layers.slot(key).map(|slot| slot.stored.as_ref().map(|stored| stored.item.clone()));
        let tree = memory.is_none().then(|| layers.tree.clone());
        BegunRead { memory, tree, epoch: layers.epoch, at: layers.at }
    }

    /// Completes [`StateReader::begin_get`] with the tree; None where it has to begin again.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn end_get(&self, begun: BegunRead<KeyInMemory>, key: &[u8]) -> Result<Option<KeyAt>, Error> {
        let BegunRead { memory, tree, epoch, at } = begun;
        match (memory, tree) {
            (Some(found), _) => Ok(Some((found, at))),
            (None, Some(tree)) => self.in_epoch(epoch, item_codec::read(&*tree, key), |item| (item.map(Arc::new), at)),
            (None, None) => Ok(Some((None, at))),
        }
    }

    /// Reads what the memtables have of a page; the first half of [`StateReader::list`].
    #[must_use]
    pub fn begin_list(&self, list: &List) -> BegunRead<MemoryPage> {
        let layers = self.read();
        let memory = MemoryPage::collect(&layers, list.clone());
        BegunRead { memory, tree: Some(layers.tree.clone()), epoch: layers.epoch, at: layers.at }
    }

    /// Completes [`StateReader::begin_list`] with the tree; None where it has to begin again.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn end_list(&self, begun: BegunRead<MemoryPage>) -> Result<Option<(Page, ReadPoint)>, Error> {
        let BegunRead { memory, tree, epoch, at } = begun;
        let Some(tree) = tree else { return Ok(None) };
        self.in_epoch(epoch, merged_scan::page(memory, &*tree), |page| (page, at))
    }

    /// Takes what was read from the tree only where no freeze came since the memtables were read. An error counts no more than a
    /// value does then: a value of several chunks may have been replaced while it was read.
    fn in_epoch<T, R>(&self, epoch: u64, read: Result<T, Error>, of: impl FnOnce(T) -> R) -> Result<Option<R>, Error> {
        if self.read().epoch == epoch || plant::is(Plant::EpochUnchecked) {
            read.map(|read| Some(of(read)))
        } else {
            Ok(None)
        }
    }
}

/// The item of a key, None for a missing one, and the state that it was read in.
pub type KeyAt = (Option<Arc<Item>>, ReadPoint);

/// What the memtables say of a key; None where they have no slot for it.
pub type KeyInMemory = Option<Option<Arc<Item>>>;

/// A read between its two halves: the memtables were read, the tree was not. Other threads may apply and flush meanwhile.
pub struct BegunRead<M> {
    memory: M,
    /// The tree; None where the memtables answer.
    tree: Option<Arc<dyn Db>>,
    epoch: u64,
    at: ReadPoint,
}

/// An empty database that takes nothing.
struct NoTree;

impl Db for NoTree {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn put(&self, _: &[u8], _: &[u8]) -> Result<(), Error> {
        Err(Error::damaged(self, "it takes no writes"))
    }

    fn write(&self, _: Batch) -> Result<(), Error> {
        Err(Error::damaged(self, "it takes no writes"))
    }

    fn write_each(&self, _: &[Change<'_>]) -> Result<(), Error> {
        Err(Error::damaged(self, "it takes no writes"))
    }

    fn scan(&self, _: &[u8], _: Option<&[u8]>, _: usize) -> Result<Vec<Pair>, Error> {
        Ok(Vec::new())
    }

    fn last(&self, _: &[u8], _: &[u8]) -> Result<Option<Pair>, Error> {
        Ok(None)
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "no database"
    }

    fn directory(&self) -> &'static str {
        "memory"
    }
}
