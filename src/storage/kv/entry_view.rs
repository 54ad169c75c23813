//! The view that an entry is decided on, and the staging of its changes.
//!
//! Why: each entry sees the effects of all earlier ones, and what it replaces is read once.
//!
//! Invariants: header and metadata of a key are read at most once an entry. All changes of an entry enter the active memtable under
//! one lock.
//!
//! See also: [`crate::model::decide`] (the reader), `state_machine` (the caller).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::layers::Layers;
use super::memtable::{StoredItem, StoredMeta};
use super::{chunks::StateTotals, item_codec, merged_scan, ttl_index};
use crate::model::{Item, KeyMeta, View};
use crate::storage::Error;

/// The keys that an entry has read, with what was stored; None for a missing one.
pub(crate) type SeenKeys = HashMap<Bytes, Option<StoredMeta>>;

/// The fixed work of a key access, besides the bytes of its value: the key, its content type and its token name are bounded.
const KEY_WORK: usize = 1 << 10;

/// The state that an entry is decided on.
pub(crate) struct EntryView<'a> {
    layers: &'a Layers,
    seen: RefCell<&'a mut SeenKeys>,
    work: Cell<usize>,
}

impl<'a> EntryView<'a> {
    /// Returns a view of `layers`; `seen` is cleared.
    pub(crate) fn new(layers: &'a Layers, seen: &'a mut SeenKeys) -> Self {
        seen.clear();
        Self { layers, seen: RefCell::new(seen), work: Cell::new(0) }
    }

    /// Returns the work so far: about the bytes read.
    pub(crate) fn work(&self) -> usize {
        self.work.get()
    }

    fn count(&self, bytes: usize) {
        self.work.set(self.work.get() + KEY_WORK + bytes);
    }

    fn stored_meta(&self, key: &Bytes) -> Result<Option<StoredMeta>, Error> {
        if let Some(stored) = self.seen.borrow().get(key) {
            return Ok(*stored);
        }
        let stored = self.layers.stored_meta(key)?;
        self.count(0);
        self.seen.borrow_mut().insert(key.clone(), stored);
        Ok(stored)
    }
}

impl View for EntryView<'_> {
    type Error = Error;

    fn meta(&self, key: &Bytes) -> Result<Option<KeyMeta>, Error> {
        Ok(self.stored_meta(key)?.map(|stored| stored.meta))
    }

    fn item(&self, key: &Bytes) -> Result<Option<Item>, Error> {
        let item = self.layers.item(key)?;
        self.count(item.as_ref().map_or(0, |item| item.value.bytes.len()));
        Ok(item.map(Arc::unwrap_or_clone))
    }

    fn next(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, KeyMeta)>, Error> {
        let Some((key, stored)) = merged_scan::next(self.layers, from, to)? else { return Ok(None) };
        self.seen.borrow_mut().insert(key.clone(), Some(stored));
        Ok(Some((key, stored.meta)))
    }
}

/// What the changes of an entry add up to.
#[derive(Default)]
pub(crate) struct Staged {
    /// The bytes replaced and removed.
    pub(crate) work: usize,
    /// Whether the earliest expiry may have been removed.
    pub(crate) lost_first_expiry: bool,
}

/// The counters of a state machine that a change of a key moves.
pub(crate) struct Counters<'a> {
    /// Keys and digest.
    pub(crate) totals: &'a mut StateTotals,
    /// The bytes of all keys and values, as stored.
    pub(crate) live_bytes: &'a mut u64,
    /// The number of keys with an expiry.
    pub(crate) ttl_keys: &'a mut u64,
    /// The earliest expiry, or an earlier time.
    pub(crate) first_expiry: &'a mut Option<u64>,
}

/// Puts `item` under `key` in the active memtable, or a tombstone; the keys in `seen` follow.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn stage(
    layers: &mut Layers,
    seen: &mut SeenKeys,
    counters: &mut Counters<'_>,
    staged: &mut Staged,
    (key, item): (Bytes, Option<Item>),
) -> Result<(), Error> {
    let before = match seen.get(&key) {
        Some(stored) => *stored,
        None => layers.stored_meta(&key)?,
    };
    let stored = item.map(|item| StoredItem { header: item_codec::header(&key, &item), item: Arc::new(item) });
    let after = stored.as_ref().map(StoredItem::meta);
    // The version is in the index record, so a put that keeps the expiry still replaces the record.
    let expiry = |stored: StoredMeta| stored.meta.expires.map(|expires| (stored.meta.version, expires));
    let (old_expiry, new_expiry) = (before.and_then(expiry), after.and_then(expiry));
    // Keeps the TTL index in step: a put without ttl over a key with one removes the index record, a touch moves it.
    if old_expiry != new_expiry {
        if let Some((version, expires)) = old_expiry {
            counters.totals.remove(ttl_index::header(&key, version, expires));
            layers.active.set_expiry(&key, expires, None);
            *counters.ttl_keys -= 1;
            staged.lost_first_expiry |= counters.first_expiry.is_some_and(|first| expires <= first);
        }
        if let Some((version, expires)) = new_expiry {
            counters.totals.add(ttl_index::header(&key, version, expires));
            layers.active.set_expiry(&key, expires, Some(version));
            *counters.ttl_keys += 1;
            *counters.first_expiry = Some(counters.first_expiry.map_or(expires, |first| first.min(expires)));
        }
    }
    let bytes = |stored: StoredMeta| (key.len() + stored.header.total()) as u64;
    if let Some(before) = before {
        counters.totals.keys -= 1;
        counters.totals.remove(before.header);
        *counters.live_bytes -= bytes(before);
    }
    if let Some(after) = after {
        counters.totals.keys += 1;
        counters.totals.add(after.header);
        *counters.live_bytes += bytes(after);
    }
    if after.is_some() {
        layers.gap.end_at(&key);
    }
    staged.work += KEY_WORK + before.map_or(0, |before| before.meta.bytes);
    seen.insert(key.clone(), after);
    layers.active.set(key, stored, before.map_or(0, |before| before.header.chunks()));
    Ok(())
}
