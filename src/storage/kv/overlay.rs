//! The overlay: the tree with the unwritten effects of the current batch on top.
//!
//! Why: several entries of a batch may touch one key, and each must see the effects of the earlier ones.
//!
//! Invariants: the metadata of a key is read from the tree at most once a batch.
//!
//! See also: [`crate::model::decide`] (the reader), `state_machine` (which writes the effects).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use super::{item_codec, scan};
use crate::model::{Item, KeyMeta, View, after};
use crate::storage::layout::Kind;
use crate::storage::{Db, Error};

/// The state of a key in the current batch.
#[derive(Debug)]
pub(crate) enum KeyState {
    /// Read, not changed.
    Unchanged,
    /// Set to this item.
    Value(Item),
    /// Deleted.
    Deleted,
}

/// A key that the batch has read or changed.
pub(crate) struct TouchedKey {
    /// Its stored header and metadata, before the batch.
    pub(crate) before: Option<(Header, KeyMeta)>,
    /// Its state in the batch.
    pub(crate) state: KeyState,
}

/// All keys that the batch has read or changed.
pub(crate) type TouchedKeys = BTreeMap<Bytes, TouchedKey>;

/// The fixed work of a key access, besides the bytes of its value: the key, its content type and its token name are bounded.
const KEY_WORK: usize = 1 << 10;

/// The state view of the entries of a batch.
pub(crate) struct Overlay<'a> {
    db: &'a dyn Db,
    touched: RefCell<TouchedKeys>,
    work: Cell<usize>,
}

impl<'a> Overlay<'a> {
    /// Returns an overlay without effects.
    pub(crate) fn new(db: &'a dyn Db) -> Self {
        Self { db, touched: RefCell::default(), work: Cell::new(0) }
    }

    /// Returns the work so far: about the bytes read, replaced and removed.
    pub(crate) fn work(&self) -> usize {
        self.work.get()
    }

    fn count(&self, bytes: usize) {
        self.work.set(self.work.get() + KEY_WORK + bytes);
    }

    /// Sets the state of a key.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn set(&self, key: Bytes, state: KeyState) -> Result<(), Error> {
        if let Some(touched_key) = self.touched.borrow_mut().get_mut(&key) {
            self.count(touched_key.before.map_or(0, |(_, meta)| meta.bytes));
            touched_key.state = state;
            return Ok(());
        }
        // `before` is what the tree has, read at the first access of the batch. Put, delete and put of one key in a
        // batch replace that one value, so the totals subtract it once.
        let before = self.stored(&key)?;
        self.count(before.map_or(0, |(_, meta)| meta.bytes));
        self.touched.borrow_mut().insert(key, TouchedKey { before, state });
        Ok(())
    }

    /// Returns all touched keys.
    pub(crate) fn into_touched(self) -> TouchedKeys {
        self.touched.into_inner()
    }

    fn stored(&self, key: &[u8]) -> Result<Option<(Header, KeyMeta)>, Error> {
        let Some((header, first)) = chunks::first(self.db, Kind::Data, key)? else { return Ok(None) };
        Ok(Some((header, item_codec::meta(self.db, header, &first)?)))
    }
}

impl View for Overlay<'_> {
    type Error = Error;

    fn meta(&self, key: &Bytes) -> Result<Option<KeyMeta>, Error> {
        if let Some(touched_key) = self.touched.borrow().get(key) {
            return Ok(match &touched_key.state {
                KeyState::Unchanged => touched_key.before.map(|(_, meta)| meta),
                KeyState::Value(item) => Some(item.meta()),
                KeyState::Deleted => None,
            });
        }
        let before = self.stored(key)?;
        self.count(0);
        self.touched.borrow_mut().insert(key.clone(), TouchedKey { before, state: KeyState::Unchanged });
        Ok(before.map(|(_, meta)| meta))
    }

    fn item(&self, key: &Bytes) -> Result<Option<Item>, Error> {
        // A value that is only read is not kept: a transaction may read many large ones.
        let item = match self.touched.borrow().get(key).map(|touched_key| &touched_key.state) {
            Some(KeyState::Value(item)) => Some(item.clone()),
            Some(KeyState::Deleted) => None,
            Some(KeyState::Unchanged) | None => item_codec::read(self.db, key)?,
        };
        self.count(item.as_ref().map_or(0, |item| item.value.bytes.len()));
        Ok(item)
    }

    fn next(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, KeyMeta)>, Error> {
        let touched = self.touched.borrow();
        let mut written =
            touched.range(Bytes::copy_from_slice(from)..).filter_map(|(key, touched_key)| match &touched_key.state {
                KeyState::Value(item) => Some((key, item.meta())),
                KeyState::Unchanged | KeyState::Deleted => None,
            });
        let written = written.next().filter(|(key, _)| to.is_none_or(|to| &key[..] < to));
        let mut from = from.to_vec();
        // Merges the tree with the keys that the batch has set. Example: the tree has a, c; the batch has deleted a and set b: the
        // walk skips a, sees c, and returns b, which is smaller.
        while let Some((key, header, first)) = scan::next(self.db, &from, to)? {
            if written.as_ref().is_some_and(|(written, _)| **written <= key) {
                break;
            }
            // Keys set by the batch come from `written`, so only deleted ones are skipped here.
            if !matches!(touched.get(&key), Some(TouchedKey { state: KeyState::Deleted, .. })) {
                let meta = item_codec::meta(self.db, header, &first)?;
                return Ok(Some((key, meta)));
            }
            from = after(&key);
        }
        Ok(written.map(|(key, meta)| (key.clone(), meta)))
    }
}
