//! The view that an entry is decided on, and the staging of its changes.
//!
//! Why: each entry sees the effects of all earlier ones, and what it replaces is mostly in the cache of metadata.
//!
//! Invariants: all changes of an entry enter the active memtable under one lock, and the cache with it.
//!
//! See also: [`crate::model::decide`] (the reader), `state_machine` (the caller).

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use bytes::Bytes;

use super::layers::Layers;
use super::memtable::{StoredItem, StoredMeta};
use super::meta_cache::MetaCache;
use super::{chunks::StateTotals, item_codec, merged_scan, ttl_index};
use crate::model::{Item, KeyMeta, View};
use crate::plant::{self, Plant};
use crate::storage::Error;

/// The fixed work of a key access, besides the bytes of its value: the key, its content type and its token name are bounded.
const KEY_WORK: usize = 1 << 10;

/// The state that an entry is decided on.
pub(crate) struct EntryView<'a> {
    layers: &'a Layers,
    metas: RefCell<&'a mut MetaCache>,
    work: Cell<usize>,
}

impl<'a> EntryView<'a> {
    /// Returns a view of `layers`, whose metadata `metas` has a part of.
    pub(crate) fn new(layers: &'a Layers, metas: &'a mut MetaCache) -> Self {
        Self { layers, metas: RefCell::new(metas), work: Cell::new(0) }
    }

    /// Returns the work so far: about the bytes read.
    pub(crate) fn work(&self) -> usize {
        self.work.get()
    }

    fn count(&self, bytes: usize) {
        self.work.set(self.work.get() + KEY_WORK + bytes);
    }

    fn stored_meta(&self, key: &Bytes) -> Result<Option<StoredMeta>, Error> {
        self.count(0);
        stored_meta(self.layers, &mut self.metas.borrow_mut(), key)
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
        self.metas.borrow_mut().set(&key, Some(stored));
        Ok(Some((key, stored.meta)))
    }
}

/// Returns header and metadata of `key` from the cache, or from the layers into it.
///
/// # Errors
/// [`Error`] for damage.
fn stored_meta(layers: &Layers, metas: &mut MetaCache, key: &Bytes) -> Result<Option<StoredMeta>, Error> {
    if let Some(stored) = metas.get(key) {
        debug_assert!(
            layers.stored_meta(key).map_or(true, |read| read == stored) || plant::is(Plant::MetaCacheStale),
            "an entry of the cache is the newest state of its key"
        );
        return Ok(stored);
    }
    let stored = layers.stored_meta(key)?;
    metas.set(key, stored);
    Ok(stored)
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

/// Puts `item` under `key` in the active memtable, or a tombstone; its metadata go into `metas`.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn stage(
    layers: &mut Layers,
    metas: &mut MetaCache,
    counters: &mut Counters<'_>,
    staged: &mut Staged,
    (key, item): (Bytes, Option<Item>),
) -> Result<(), Error> {
    let before = stored_meta(layers, metas, &key)?;
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
    if !plant::is(Plant::MetaCacheStale) {
        metas.set(&key, after);
    }
    layers.active.set(key, stored, before.map_or(0, |before| before.header.chunks()));
    Ok(())
}
