//! Ordered scans over memtables and tree: the next key, and pages of keys.
//!
//! Why: a range is in three places, and the chunks of large values lie between the keys of the tree.
//!
//! Invariants: of two layers with one key the upper one wins, a tombstone included. A page is bounded in keys and bytes, and holds
//! at least one item if there is one.
//!
//! See also: [`super::layers`] (why a page is one state), [`super::tree_scan`] (the keys of the tree), `http::api::range_and_prefix_delete` (cursors).

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::chunks::Header;
use super::layers::Layers;
use super::memtable::{KeyRange, Slot, StoredItem, StoredMeta};
use super::tree_scan::{KeyScan, READ_AHEAD, TreeKey};
use super::{chunks, item_codec};
use crate::model::{List, Page};
use crate::storage::layout::Kind;
use crate::storage::{Db, Error};

/// The maximum bytes of a page; a larger first item is returned all the same.
const PAGE_BYTES: usize = 1 << 20;

/// Returns the smallest key in `from..to` with its metadata; without `to` the range is unbounded.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn next(layers: &Layers, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, StoredMeta)>, Error> {
    let from = layers.gap.skip_up(from);
    if to.is_some_and(|to| to <= from) {
        return Ok(None);
    }
    let memory = slots(layers, bounds(from, to), false).map(|(key, slot)| (key.clone(), slot.stored.clone()));
    let tree = KeyScan::new(&*layers.tree, from.to_vec(), to.map(<[u8]>::to_vec), 1);
    let mut merged = Merged { db: &*layers.tree, memory: memory.peekable(), tree, head: None, reverse: false };
    merged.next()?.map(|found| found.meta(&*layers.tree)).transpose()
}

/// The part of a page that is in the memtables: what they hold of the range, up to as many items as the page may have.
pub struct MemoryPage {
    /// What is asked for, without a gap at its beginning.
    list: List,
    slots: VecDeque<(Bytes, Option<StoredItem>)>,
}

impl MemoryPage {
    /// Collects it. The lock of the layers is held meanwhile, so nothing is decoded or read from the disk here.
    pub(crate) fn collect(layers: &Layers, mut list: List) -> Self {
        let mut collected = VecDeque::new();
        if list.reverse {
            list.end = list.end.map(|end| layers.gap.skip_down(&end).to_vec());
        } else {
            list.start = layers.gap.skip_up(&list.start).to_vec();
        }
        if list.end.as_ref().is_some_and(|end| *end <= list.start) {
            return Self { list, slots: collected };
        }
        // One item more than the page has shows whether there are more. Tombstones do not count: each may hide a key of the tree.
        let mut left = list.limit + 1;
        for (key, slot) in slots(layers, bounds(&list.start, list.end.as_deref()), list.reverse) {
            left -= usize::from(slot.stored.is_some());
            collected.push_back((key.clone(), slot.stored.clone()));
            if left == 0 {
                break;
            }
        }
        Self { list, slots: collected }
    }
}

/// Returns the page, of the memtables' part of it and the tree.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn page(memory: MemoryPage, tree: &dyn Db) -> Result<Page, Error> {
    let MemoryPage { list, slots } = memory;
    let mut page = Page::default();
    if list.end.as_ref().is_some_and(|end| *end <= list.start) {
        return Ok(page);
    }
    // Keys of the tree behind the last collected slot need no shadow: the page has ended by then, or the memtables hold nothing
    // there.
    let scan = KeyScan::new(tree, list.start.clone(), list.end.clone(), READ_AHEAD);
    let mut merged =
        Merged { db: tree, memory: slots.into_iter().peekable(), tree: scan, head: None, reverse: list.reverse };
    let mut bytes = 0;
    while let Some(found) = merged.next()? {
        bytes += found.key().len() + if list.keys_only { 0 } else { found.value_bytes(tree)? };
        if page.items.len() == list.limit || (!page.items.is_empty() && bytes > PAGE_BYTES) {
            page.more = true;
            break;
        }
        page.items.push(found.into_item(tree, list.keys_only)?);
    }
    Ok(page)
}

fn bounds<'a>(from: &'a [u8], to: Option<&'a [u8]>) -> KeyRange<'a> {
    (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded))
}

/// Returns the slots of both memtables in order, descending if `reverse`; of one key only the newest.
fn slots<'a>(layers: &'a Layers, range: KeyRange<'a>, reverse: bool) -> impl Iterator<Item = (&'a Bytes, &'a Slot)> {
    let is_empty = matches!(range, (Bound::Included(from), Bound::Excluded(to)) if to <= from);
    let of = move |table: &'a super::memtable::Memtable| (!is_empty).then(|| table.range(range)).into_iter().flatten();
    let mut active = directed(of(&layers.active), reverse).peekable();
    let mut frozen = directed(layers.frozen.iter().flat_map(move |frozen| of(&frozen.table)), reverse).peekable();
    std::iter::from_fn(move || {
        let order = match (active.peek(), frozen.peek()) {
            (Some((upper, _)), Some((lower, _))) => directed_cmp(upper, lower, reverse),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => active.next(),
            Ordering::Greater => frozen.next(),
            Ordering::Equal => {
                frozen.next();
                active.next()
            }
        }
    })
}

fn directed<'a, T: 'a>(
    items: impl DoubleEndedIterator<Item = T> + 'a,
    reverse: bool,
) -> Box<dyn Iterator<Item = T> + 'a> {
    if reverse { Box::new(items.rev()) } else { Box::new(items) }
}

fn directed_cmp(a: &Bytes, b: &Bytes, reverse: bool) -> Ordering {
    if reverse { b.cmp(a) } else { a.cmp(b) }
}

/// A key of the merged range.
enum Found {
    InMemory(Bytes, StoredItem),
    InTree(Bytes, Header, Vec<u8>),
}

impl Found {
    fn key(&self) -> &Bytes {
        match self {
            Self::InMemory(key, _) | Self::InTree(key, ..) => key,
        }
    }

    fn value_bytes(&self, tree: &dyn Db) -> Result<usize, Error> {
        match self {
            Self::InMemory(_, stored) => Ok(stored.item.value.bytes.len()),
            Self::InTree(_, header, first) => item_codec::length(tree, *header, first),
        }
    }

    fn meta(self, tree: &dyn Db) -> Result<(Bytes, StoredMeta), Error> {
        Ok(match self {
            Self::InMemory(key, stored) => (key, stored.meta()),
            Self::InTree(key, header, first) => {
                let meta = item_codec::meta(tree, header, &first)?;
                (key, StoredMeta { header, meta })
            }
        })
    }

    fn into_item(self, tree: &dyn Db, keys_only: bool) -> Result<(Bytes, Option<Arc<crate::model::Item>>), Error> {
        Ok(match self {
            Self::InMemory(key, stored) => (key, (!keys_only).then_some(stored.item)),
            Self::InTree(key, ..) if keys_only => (key, None),
            Self::InTree(key, header, start) if header.chunks() == 1 => {
                let value = chunks::checked(tree, Kind::Data, &key, header, start)?;
                (key, Some(Arc::new(item_codec::decode(tree, header, value)?)))
            }
            Self::InTree(key, ..) => {
                let item = item_codec::read(tree, &key)?;
                (key, item.map(Arc::new))
            }
        })
    }
}

/// The keys of memtables and tree in order.
struct Merged<'a, M: Iterator<Item = (Bytes, Option<StoredItem>)>> {
    db: &'a dyn Db,
    memory: Peekable<M>,
    tree: KeyScan<'a>,
    /// The next key of the tree, if it was read.
    head: Option<TreeKey>,
    reverse: bool,
}

impl<M: Iterator<Item = (Bytes, Option<StoredItem>)>> Merged<'_, M> {
    fn next(&mut self) -> Result<Option<Found>, Error> {
        // Example: the tree has a, c; the memtables have a tombstone for a, and b. The walk drops a with its tombstone, returns b,
        // then c.
        loop {
            if self.head.is_none() {
                self.head = if self.reverse { self.tree.next_down()? } else { self.tree.next_up()? };
            }
            let order = match (self.memory.peek(), &self.head) {
                (None, None) => return Ok(None),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((upper, _)), Some(lower)) => directed_cmp(upper, &lower.key, self.reverse),
            };
            if order != Ordering::Less
                && let Some(head) = self.head.take()
                && order == Ordering::Greater
            {
                let (key, header, start) = head.into_first(self.db)?;
                return Ok(Some(Found::InTree(key, header, start)));
            }
            if let Some((key, Some(stored))) = self.memory.next() {
                return Ok(Some(Found::InMemory(key, stored)));
            }
        }
    }
}
