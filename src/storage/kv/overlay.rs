//! The tree under the effects of a batch that is not written yet.
//!
//! Why: several entries of a batch may touch one key, and each must see what the earlier ones did.
//!
//! Laws: a key is read from the tree at most once a batch; what was read is remembered beside what became of it.
//!
//! Not here: the rule that looks through it ([`crate::model::decide`]), and writing it down (`state_machine`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use super::{item_codec, scan};
use crate::model::{Item, KeyMeta, View, after};
use crate::storage::layout::Kind;
use crate::storage::{Db, Error};

/// What a batch has made of a key so far.
#[derive(Debug)]
pub(crate) enum Now {
    /// Nothing; it was only looked at.
    Unchanged,
    /// It holds this.
    Holds(Item),
    /// It is gone.
    Gone,
}

/// One key of a batch.
pub(crate) struct Slot {
    /// What is stored, before the batch.
    pub(crate) before: Option<(Header, KeyMeta)>,
    /// What the batch makes of it.
    pub(crate) now: Now,
}

/// All keys of a batch.
pub(crate) type Touched = BTreeMap<Bytes, Slot>;

/// What looking at a key or changing it counts besides the bytes of its value.
const KEY_WORK: usize = 1 << 10;

/// The view that the entries of a batch are decided against.
pub(crate) struct Overlay<'a> {
    db: &'a dyn Db,
    touched: RefCell<Touched>,
    work: Cell<usize>,
}

impl<'a> Overlay<'a> {
    /// The tree itself, with no effects yet.
    pub(crate) fn new(db: &'a dyn Db) -> Self {
        Self { db, touched: RefCell::default(), work: Cell::new(0) }
    }

    /// How much the entries so far have cost: about the bytes that they read, replaced and removed.
    pub(crate) fn work(&self) -> usize {
        self.work.get()
    }

    fn count(&self, bytes: usize) {
        self.work.set(self.work.get() + KEY_WORK + bytes);
    }

    /// Adds the effect on one key.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn set(&self, key: Bytes, now: Now) -> Result<(), Error> {
        if let Some(slot) = self.touched.borrow_mut().get_mut(&key) {
            self.count(slot.before.map_or(0, |(_, stamp)| stamp.bytes));
            slot.now = now;
            return Ok(());
        }
        let before = self.stored(&key)?;
        self.count(before.map_or(0, |(_, stamp)| stamp.bytes));
        self.touched.borrow_mut().insert(key, Slot { before, now });
        Ok(())
    }

    /// What became of all keys that were touched.
    pub(crate) fn into_touched(self) -> Touched {
        self.touched.into_inner()
    }

    fn stored(&self, key: &[u8]) -> Result<Option<(Header, KeyMeta)>, Error> {
        let Some((header, first)) = chunks::first(self.db, Kind::Data, key)? else { return Ok(None) };
        Ok(Some((header, item_codec::stamp(self.db, header, &first)?)))
    }
}

impl View for Overlay<'_> {
    type Error = Error;

    fn stamp(&self, key: &Bytes) -> Result<Option<KeyMeta>, Error> {
        if let Some(slot) = self.touched.borrow().get(key) {
            return Ok(match &slot.now {
                Now::Unchanged => slot.before.map(|(_, stamp)| stamp),
                Now::Holds(item) => Some(item.stamp()),
                Now::Gone => None,
            });
        }
        let before = self.stored(key)?;
        self.count(0);
        self.touched.borrow_mut().insert(key.clone(), Slot { before, now: Now::Unchanged });
        Ok(before.map(|(_, stamp)| stamp))
    }

    fn item(&self, key: &Bytes) -> Result<Option<Item>, Error> {
        let item = match self.touched.borrow().get(key).map(|slot| &slot.now) {
            Some(Now::Holds(item)) => Some(item.clone()),
            Some(Now::Gone) => None,
            Some(Now::Unchanged) | None => item_codec::read(self.db, key)?,
        };
        self.count(item.as_ref().map_or(0, |item| item.value.bytes.len()));
        Ok(item)
    }

    fn next(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, KeyMeta)>, Error> {
        let touched = self.touched.borrow();
        let mut held = touched.range(Bytes::copy_from_slice(from)..).filter_map(|(key, slot)| match &slot.now {
            Now::Holds(item) => Some((key, item.stamp())),
            Now::Unchanged | Now::Gone => None,
        });
        let held = held.next().filter(|(key, _)| to.is_none_or(|to| &key[..] < to));
        let mut from = from.to_vec();
        while let Some((key, header, first)) = scan::next(self.db, &from, to)? {
            if held.as_ref().is_some_and(|(held, _)| **held <= key) {
                break;
            }
            // A key that holds something new is among those that are held, so only one that is gone is left to skip.
            if !matches!(touched.get(&key), Some(Slot { now: Now::Gone, .. })) {
                let stamp = item_codec::stamp(self.db, header, &first)?;
                return Ok(Some((key, stamp)));
            }
            from = after(&key);
        }
        Ok(held.map(|(key, stamp)| (key.clone(), stamp)))
    }
}
