//! Keys in their order: the next one, and a page of them.
//!
//! Why: pieces of values lie between the keys, and a walk that read them all to count keys would be slow for nothing.
//!
//! Laws: a page is taken between two batches, by the thread that applies, so it is one state. It is bounded in keys and
//! in bytes, and always has one item where there is one.
//!
//! Not here: cursors (`http::api::list`).

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use super::item_codec;
use crate::model::{List, Page, after};
use crate::storage::layout::{Kind, cell_key, parse_cell_key};
use crate::storage::{Db, Error, Pair};

/// The most bytes of keys and values of a page, unless its first item has more.
const PAGE_BYTES: usize = 1 << 20;
/// The most pairs that are read ahead; small, for what a large value shows to be in the way was read for nothing.
const AHEAD: usize = 64;

/// A key with the beginning of its value.
pub(crate) type First = (Bytes, Header, Vec<u8>);

/// The smallest key from `from` on, and smaller than `to` where given.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn next(db: &dyn Db, from: &[u8], to: Option<&[u8]>) -> Result<Option<First>, Error> {
    let (from, to) = bounds(from, to);
    db.scan(&from, Some(&to), 1)?.into_iter().next().map(|pair| first(db, pair)).transpose()
}

/// The page that `list` asks for.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn page(db: &dyn Db, list: &List) -> Result<Page, Error> {
    let mut page = Page::default();
    let mut steps = Steps { db, from: list.start.clone(), to: list.end.clone(), ahead: Vec::new(), count: AHEAD };
    let mut bytes = 0;
    if list.end.as_ref().is_some_and(|end| *end <= list.start) {
        return Ok(page);
    }
    while let Some((key, header, start)) = if list.reverse { steps.down()? } else { steps.up()? } {
        bytes += key.len() + if list.keys_only { 0 } else { item_codec::length(db, header, &start)? };
        if page.items.len() == list.limit || (!page.items.is_empty() && bytes > PAGE_BYTES) {
            page.more = true;
            break;
        }
        let item = match (list.keys_only, header.pieces()) {
            (true, _) => None,
            (false, 1) => Some(item_codec::decode(db, header, chunks::checked(db, Kind::Data, &key, header, start)?)?),
            (false, _) => item_codec::read(db, &key)?,
        };
        page.items.push((key, item));
    }
    Ok(page)
}

/// A walk over the keys of a range.
struct Steps<'a> {
    db: &'a dyn Db,
    /// The smallest key that may come.
    from: Vec<u8>,
    /// What the keys that may come are smaller than.
    to: Option<Vec<u8>>,
    /// Pairs that were read already, the next one last.
    ahead: Vec<Pair>,
    /// How many to read next time.
    count: usize,
}

impl Steps<'_> {
    fn up(&mut self) -> Result<Option<First>, Error> {
        if self.ahead.is_empty() {
            let (from, to) = bounds(&self.from, self.to.as_deref());
            self.ahead = self.db.scan(&from, Some(&to), self.count)?;
            self.ahead.reverse();
            self.count = (self.count * 2).min(AHEAD);
        }
        let Some(pair) = self.ahead.pop() else { return Ok(None) };
        let (key, header, start) = first(self.db, pair)?;
        self.from = after(&key);
        if header.pieces() > 1 {
            self.ahead.clear();
            self.count = 1;
        }
        Ok(Some((key, header, start)))
    }

    fn down(&mut self) -> Result<Option<First>, Error> {
        let (from, to) = bounds(&self.from, self.to.as_deref());
        let Some((stored, _)) = self.db.last(&from, &to)? else { return Ok(None) };
        let (_, key, _) = parse_cell_key(&stored).ok_or_else(|| Error::damaged(self.db, "a key is none of huskv's"))?;
        let found = chunks::first(self.db, Kind::Data, &key)?;
        let (header, start) = found.ok_or_else(|| Error::damaged(self.db, "a value has no beginning"))?;
        self.to = Some(key.clone());
        Ok(Some((key.into(), header, start)))
    }
}

/// The stored keys between which the pieces of these keys lie.
fn bounds(from: &[u8], to: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let to = to.map_or_else(|| vec![Kind::Data as u8 + 1], |to| cell_key(Kind::Data, to, 0));
    (cell_key(Kind::Data, from, 0), to)
}

fn first(db: &dyn Db, (stored, piece): Pair) -> Result<First, Error> {
    match parse_cell_key(&stored) {
        Some((Kind::Data, key, 0)) => {
            let (header, start) = chunks::begin(db, &piece)?;
            Ok((key.into(), header, start))
        }
        _ => Err(Error::damaged(db, "a value has no beginning")),
    }
}
