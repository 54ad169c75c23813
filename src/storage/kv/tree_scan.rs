//! Ordered scans of the tree, key by key.
//!
//! Why: the chunks of large values lie between the keys, and a scan that read them all would be slow.
//!
//! See also: [`super::merged_scan`] (with the memtables on top).

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use crate::model::after;
use crate::storage::layout::{Kind, chunk_key, parse_chunk_key};
use crate::storage::{Db, Error, Pair};

/// The maximum pairs read ahead; small, because a large value in between makes them useless.
pub(crate) const READ_AHEAD: usize = 64;

/// A key of the tree with the first chunk of its value; None where the tree has only others of its chunks, as while a flush writes
/// or removes the value.
pub(crate) struct TreeKey {
    /// The key.
    pub(crate) key: Bytes,
    first: Option<(Header, Vec<u8>)>,
}

impl TreeKey {
    /// Returns key, header and first chunk.
    ///
    /// # Errors
    /// [`Error`]: damage, unless a memtable answers for the key.
    pub(crate) fn into_first(self, db: &dyn Db) -> Result<(Bytes, Header, Vec<u8>), Error> {
        let (header, start) = self.first.ok_or_else(|| Error::damaged(db, "a value has no beginning"))?;
        Ok((self.key, header, start))
    }
}

/// An iteration over the keys of a range. Once it has found no more, it finds none: keys that a flush brings there later are in
/// the frozen memtable, and the reader has passed them.
pub(crate) struct KeyScan<'a> {
    db: &'a dyn Db,
    /// The inclusive start of the rest.
    from: Vec<u8>,
    /// The exclusive end of the rest.
    to: Option<Vec<u8>>,
    /// Pairs read ahead, the next one last.
    ahead: Vec<Pair>,
    /// The number of pairs to read next.
    count: usize,
    has_ended: bool,
}

impl<'a> KeyScan<'a> {
    /// Begins a scan of `from..to`, which reads `count` pairs first; without `to` the range is unbounded.
    pub(crate) fn new(db: &'a dyn Db, from: Vec<u8>, to: Option<Vec<u8>>, count: usize) -> Self {
        Self { db, from, to, ahead: Vec::new(), count, has_ended: false }
    }

    /// Returns the next key, in ascending order.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn next_up(&mut self) -> Result<Option<TreeKey>, Error> {
        // Example: the tree has a, and the frozen memtable m. The scan ends after a, and the reader goes on with m. By now a flush has
        // put m into the tree: another read would find it a second time, and also where the active memtable has removed it.
        while !self.has_ended {
            // The count doubles after a large value: 1, 2, 4, ... 64 pairs, so one large value among small ones costs a few
            // short reads. Upwards small values come in one read of 64 pairs; downwards the interface has only `last`.
            if self.ahead.is_empty() {
                let (from, to) = bounds(&self.from, self.to.as_deref());
                self.ahead = self.db.scan(&from, Some(&to), self.count)?;
                self.ahead.reverse();
                self.count = (self.count * 2).min(READ_AHEAD);
            }
            let Some((stored, chunk)) = self.ahead.pop() else { break };
            let (key, number) = self.parse(&stored)?;
            // Another chunk of the last key, which a flush has just made longer.
            if key < self.from {
                continue;
            }
            self.from = after(&key);
            let first = if number == 0 { Some(chunks::begin(self.db, Kind::Data, &chunk)?) } else { None };
            // The rest of the pairs read ahead are chunks of this value: drops them and reads only the next key.
            if first.as_ref().is_none_or(|(header, _)| header.chunks() > 1) {
                self.ahead.clear();
                self.count = 1;
            }
            return Ok(Some(TreeKey { key: key.into(), first }));
        }
        self.has_ended = true;
        Ok(None)
    }

    /// Returns the next key, in descending order.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub(crate) fn next_down(&mut self) -> Result<Option<TreeKey>, Error> {
        let (from, to) = bounds(&self.from, self.to.as_deref());
        // The last stored key below `to` may be any chunk of a value; its first chunk is read separately.
        let last = if self.has_ended { None } else { self.db.last(&from, &to)? };
        let Some((stored, chunk)) = last else {
            self.has_ended = true;
            return Ok(None);
        };
        let (key, number) = self.parse(&stored)?;
        let first = match number {
            0 => Some(chunks::begin(self.db, Kind::Data, &chunk)?),
            _ => chunks::first(self.db, Kind::Data, &key)?,
        };
        self.to = Some(key.clone());
        Ok(Some(TreeKey { key: key.into(), first }))
    }

    fn parse(&self, stored: &[u8]) -> Result<(Vec<u8>, u16), Error> {
        match parse_chunk_key(stored) {
            Some((Kind::Data, key, number)) => Ok((key, number)),
            _ => Err(Error::damaged(self.db, "a key is none of huskv's")),
        }
    }
}

/// Returns the stored key range of these keys.
fn bounds(from: &[u8], to: Option<&[u8]>) -> (Vec<u8>, Vec<u8>) {
    let to = to.map_or_else(|| vec![Kind::Data as u8 + 1], |to| chunk_key(Kind::Data, to, 0));
    (chunk_key(Kind::Data, from, 0), to)
}
