//! The memtable: the newest state of every key since the last flush, typed.
//!
//! Why: most keys are overwritten before they reach the tree, and a write needs what was there before. So recent state is kept as
//! items, with the header that each will have on disk, and is encoded once, when it is flushed.
//!
//! ```text
//!   apply --> active memtable --freeze--> frozen memtable --flush (a thread of its own)--> tree
//!   read  --> active, then frozen, then tree
//! ```
//!
//! Invariants: a removed key is a tombstone until the flush, because the tree may still have it. Each slot knows how many chunks
//! the value below it has in the tree, so that a shorter value leaves none behind.
//!
//! See also: [`super::layers`] (active, frozen and tree together), [`super::flush`] (the way to the tree).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::chunks::Header;
use super::meta::State;
use crate::model::{Item, KeyMeta};

/// The memory of a slot besides key and item: its place in the map, the allocation of the item, the allocator's rounding.
const SLOT_BYTES: usize = 256;

/// The bytes of the removal of one chunk in the encoding of a flush, besides the key.
const REMOVAL_BYTES: usize = 16;

/// An item with the header that it has on disk.
#[derive(Debug, Clone)]
pub(crate) struct StoredItem {
    /// The item.
    pub(crate) item: Arc<Item>,
    /// Its header.
    pub(crate) header: Header,
}

/// Header and metadata of a stored item: what a write needs of the one that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredMeta {
    /// The header.
    pub(crate) header: Header,
    /// The metadata.
    pub(crate) meta: KeyMeta,
}

impl StoredItem {
    /// Returns header and metadata.
    pub(crate) fn meta(&self) -> StoredMeta {
        StoredMeta { header: self.header, meta: self.item.meta() }
    }
}

/// The newest state of a key.
#[derive(Debug)]
pub(crate) struct Slot {
    /// The item; None for a tombstone.
    pub(crate) stored: Option<StoredItem>,
    /// The number of chunks of the value that the flush replaces.
    pub(crate) chunks_below: usize,
}

impl Slot {
    /// Returns the number of chunks that the flush removes from the tree.
    fn removed_chunks(&self) -> usize {
        self.chunks_below.saturating_sub(self.stored.as_ref().map_or(0, |stored| stored.header.chunks()))
    }

    /// Returns about its bytes, in memory or encoded, under a key of this length.
    fn bytes(&self, key_bytes: usize) -> usize {
        let item = self.stored.as_ref().map_or(0, |stored| stored.item.size());
        item + self.removed_chunks() * (key_bytes + REMOVAL_BYTES)
    }
}

/// A record of one value in the memtable: bytes and version, None for a removal.
#[derive(Debug)]
pub(crate) struct Record {
    /// The raft index of the change.
    pub(crate) version: u64,
    /// The encoded value; None for a removal.
    pub(crate) value: Option<Vec<u8>>,
    /// The number of chunks of the value that the flush replaces.
    pub(crate) chunks_below: usize,
}

/// One memtable.
#[derive(Default)]
pub(crate) struct Memtable {
    items: BTreeMap<Bytes, Slot>,
    /// The TTL index: (expiry, key) with the version of the item, None for a removed record.
    pub(crate) expiries: BTreeMap<(u64, Bytes), Option<u64>>,
    /// Changes of the dedup table, by the index of the result.
    pub(crate) results: BTreeMap<u64, Record>,
    /// The member table, where it changed.
    pub(crate) members: Option<Record>,
    bytes: usize,
    tombstones: usize,
    removed_chunks: usize,
}

/// A range over keys, either way.
pub(crate) type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Memtable {
    /// Returns about its bytes of memory, or of its encoding.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the number of keys that are removed.
    pub(crate) fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Returns the number of chunks of values that its flush removes from the tree.
    pub(crate) fn removed_chunks(&self) -> usize {
        self.removed_chunks
    }

    /// Returns the slot of `key`; None where this memtable says nothing of it.
    pub(crate) fn slot(&self, key: &[u8]) -> Option<&Slot> {
        self.items.get(key)
    }

    /// Returns the slots of a range, in ascending order.
    pub(crate) fn range(&self, range: KeyRange<'_>) -> std::collections::btree_map::Range<'_, Bytes, Slot> {
        self.items.range::<[u8], _>(range)
    }

    /// Sets a key, or removes it with None; `chunks_below` is the number of chunks that its value has in the layers below.
    pub(crate) fn set(&mut self, key: Bytes, stored: Option<StoredItem>, chunks_below: usize) {
        let length = key.len();
        self.tombstones += usize::from(stored.is_none());
        let slot = match self.items.entry(key) {
            // What lies below stays as it is, whatever is put here.
            Entry::Occupied(entry) => {
                let slot = entry.into_mut();
                self.bytes -= slot.bytes(length);
                self.removed_chunks -= slot.removed_chunks();
                self.tombstones -= usize::from(slot.stored.is_none());
                slot.stored = stored;
                slot
            }
            Entry::Vacant(entry) => {
                self.bytes += length + SLOT_BYTES;
                entry.insert(Slot { stored, chunks_below })
            }
        };
        self.bytes += slot.bytes(length);
        self.removed_chunks += slot.removed_chunks();
    }

    /// Sets a record of the TTL index; None removes it.
    pub(crate) fn set_expiry(&mut self, key: &Bytes, expires: u64, version: Option<u64>) {
        if self.expiries.insert((expires, key.clone()), version).is_none() {
            self.bytes += SLOT_BYTES;
        }
    }

    /// Sets a result of the dedup table.
    pub(crate) fn set_result(&mut self, index: u64, record: Record) {
        let size = |record: &Record| SLOT_BYTES + record.value.as_ref().map_or(0, Vec::len);
        self.bytes += size(&record);
        if let Some(before) = self.results.insert(index, record) {
            self.bytes -= size(&before);
        }
    }
}

/// A memtable that takes no more changes, with the state record of the moment when it was frozen.
pub(crate) struct FrozenMemtable {
    /// Its content.
    pub(crate) table: Memtable,
    /// The applied index that the tree has before the flush.
    pub(crate) from: u64,
    /// The state record that the tree has after it.
    pub(crate) state: State,
    /// The number of chunks of the state record in the tree.
    pub(crate) state_chunks: usize,
}
