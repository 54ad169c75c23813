//! Ordered scans: the next key, and pages of keys.
//!
//! Why: the chunks of large values lie between the keys, and a scan that read them all would be slow.
//!
//! Invariants: a page is read between two batches by the applying thread, so it is one consistent state. It is bounded in keys and
//! bytes, and holds at least one item if there is one.
//!
//! See also: `http::api::range_and_prefix_delete` (cursors).

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use super::item_codec;
use crate::model::{List, Page, after};
use crate::storage::layout::{Kind, chunk_key, parse_chunk_key};
use crate::storage::{Db, Error, Pair};

/// The maximum bytes of a page; a larger first item is returned all the same.
const PAGE_BYTES: usize = 1 << 20;
/// The maximum pairs read ahead; small, because a large value in between makes them useless.
const READ_AHEAD: usize = 64;

/// A key with its header and first chunk.
pub(crate) type First = (Bytes, Header, Vec<u8>);

/// Returns the smallest key in `from..to`; without `to` the range is unbounded.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn next(db: &dyn Db, from: &[u8], to: Option<&[u8]>) -> Result<Option<First>, Error> {
    let (from, to) = bounds(from, to);
    db.scan(&from, Some(&to), 1)?.into_iter().next().map(|pair| first(db, pair)).transpose()
}

/// Returns the page of `list`.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn page(db: &dyn Db, list: &List) -> Result<Page, Error> {
    let mut page = Page::default();
    let mut scan = KeyScan { db, from: list.start.clone(), to: list.end.clone(), ahead: Vec::new(), count: READ_AHEAD };
    // Why `next_up` looks ahead and `next_down` does not: upwards the small values of a listing come in one read of 64
    // pairs. Downwards the interface has only `last`, one pair at a time.
    let mut bytes = 0;
    if list.end.as_ref().is_some_and(|end| *end <= list.start) {
        return Ok(page);
    }
    while let Some((key, header, start)) = if list.reverse { scan.next_down()? } else { scan.next_up()? } {
        bytes += key.len() + if list.keys_only { 0 } else { item_codec::length(db, header, &start)? };
        if page.items.len() == list.limit || (!page.items.is_empty() && bytes > PAGE_BYTES) {
            page.more = true;
            break;
        }
        let item = match (list.keys_only, header.chunks()) {
            (true, _) => None,
            (false, 1) => Some(item_codec::decode(db, header, chunks::checked(db, Kind::Data, &key, header, start)?)?),
            (false, _) => item_codec::read(db, &key)?,
        };
        page.items.push((key, item));
    }
    Ok(page)
}

/// An iteration over the keys of a range.
struct KeyScan<'a> {
    db: &'a dyn Db,
    /// The inclusive start of the rest.
    from: Vec<u8>,
    /// The exclusive end of the rest.
    to: Option<Vec<u8>>,
    /// Pairs read ahead, the next one last.
    ahead: Vec<Pair>,
    /// The number of pairs to read next.
    count: usize,
}

impl KeyScan<'_> {
    fn next_up(&mut self) -> Result<Option<First>, Error> {
        // The count doubles after a large value: 1, 2, 4, ... 64 pairs, so one large value among small ones costs a few
        // short reads.
        if self.ahead.is_empty() {
            let (from, to) = bounds(&self.from, self.to.as_deref());
            self.ahead = self.db.scan(&from, Some(&to), self.count)?;
            self.ahead.reverse();
            self.count = (self.count * 2).min(READ_AHEAD);
        }
        let Some(pair) = self.ahead.pop() else { return Ok(None) };
        let (key, header, start) = first(self.db, pair)?;
        self.from = after(&key);
        // The rest of the pairs read ahead are chunks of this value: drops them and reads only the next key.
        if header.chunks() > 1 {
            self.ahead.clear();
            self.count = 1;
        }
        Ok(Some((key, header, start)))
    }

    fn next_down(&mut self) -> Result<Option<First>, Error> {
        let (from, to) = bounds(&self.from, self.to.as_deref());
        // The last stored key below `to` may be any chunk of a value; its first chunk is read separately.
        let Some((stored, _)) = self.db.last(&from, &to)? else { return Ok(None) };
        let (_, key, _) =
            parse_chunk_key(&stored).ok_or_else(|| Error::damaged(self.db, "a key is none of huskv's"))?;
        let found = chunks::first(self.db, Kind::Data, &key)?;
        let (header, start) = found.ok_or_else(|| Error::damaged(self.db, "a value has no beginning"))?;
        self.to = Some(key.clone());
        Ok(Some((key.into(), header, start)))
    }
}

/// Returns the stored key range of these keys.
fn bounds(from: &[u8], to: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let to = to.map_or_else(|| vec![Kind::Data as u8 + 1], |to| chunk_key(Kind::Data, to, 0));
    (chunk_key(Kind::Data, from, 0), to)
}

fn first(db: &dyn Db, (stored, chunk): Pair) -> Result<First, Error> {
    match parse_chunk_key(&stored) {
        Some((Kind::Data, key, 0)) => {
            let (header, start) = chunks::begin(db, Kind::Data, &chunk)?;
            Ok((key.into(), header, start))
        }
        _ => Err(Error::damaged(db, "a value has no beginning")),
    }
}
