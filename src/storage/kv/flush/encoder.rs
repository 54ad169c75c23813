//! The encoding of a frozen memtable as the changes of the tree, some at a time.
//!
//! Why: a large memtable takes tens of milliseconds, and a machine with few cores would run nothing else meanwhile.
//!
//! Invariants: the changes are in the order of their keys, but for the state record, which is last.
//!
//! See also: [`super::redo`] (the record), [`super`] (the other steps).

use std::ops::Bound;

use bytes::Bytes;

use super::redo::RedoRecord;
use crate::storage::Batch;
use crate::storage::kv::memtable::{FrozenMemtable, Record, Slot};
use crate::storage::kv::{chunks, item_codec, ttl_index};
use crate::storage::layout::Kind;

/// The records or keys that are encoded at once.
const AT_ONCE: usize = 256;

/// What is encoded next, each after what was encoded last.
enum Position {
    Expiries(Option<(u64, Bytes)>),
    Results(Option<u64>),
    Items(Option<Bytes>),
    State,
}

/// An encoding under way.
pub(super) struct Encoder {
    record: RedoRecord,
    batch: Batch,
    next: Position,
}

impl Encoder {
    /// Begins the encoding of `frozen`.
    pub(super) fn new(frozen: &FrozenMemtable) -> Self {
        let FrozenMemtable { table, from, state, .. } = frozen;
        let mut batch = Batch::default();
        if let Some(members) = &table.members {
            stage(&mut batch, Kind::Members, b"", members);
        }
        Self { record: RedoRecord::new(*from, state.index, table.bytes()), batch, next: Position::Expiries(None) }
    }

    /// Encodes the next changes of `frozen`; returns whether there are more.
    pub(super) fn step(&mut self, frozen: &FrozenMemtable) -> bool {
        let mut left = AT_ONCE;
        while left > 0 {
            let Some(next) = self.some(frozen, &mut left) else { return false };
            self.next = next;
        }
        true
    }

    /// Encodes at most `left` changes of one kind; returns what is next, None at the end.
    fn some(&mut self, frozen: &FrozenMemtable, left: &mut usize) -> Option<Position> {
        let FrozenMemtable { table, state, state_chunks, .. } = frozen;
        let batch = &mut self.batch;
        let next = match &self.next {
            Position::Expiries(last) => {
                let expiries = table.expiries.range((after(last.as_ref()), Bound::Unbounded));
                let last = take(expiries, left, |((expires, key), version)| match version {
                    Some(version) => drop(ttl_index::put(batch, key, *version, *expires)),
                    None => ttl_index::delete(batch, key, *expires),
                });
                Some(last.map_or(Position::Results(None), |(at, _)| Position::Expiries(Some(at.clone()))))
            }
            Position::Results(last) => {
                let results = table.results.range((after(last.as_ref()), Bound::Unbounded));
                let last = take(results, left, |(index, result)| {
                    stage(batch, Kind::Result, &index.to_be_bytes(), result);
                });
                Some(last.map_or(Position::Items(None), |(index, _)| Position::Results(Some(*index))))
            }
            Position::Items(last) => {
                let items = table.range((after(last.as_deref()), Bound::Unbounded));
                let last = take(items, left, |(key, Slot { stored, chunks_below })| match stored {
                    Some(stored) => drop(item_codec::put(batch, key, &stored.item, *chunks_below)),
                    None => chunks::delete(batch, Kind::Data, key, *chunks_below),
                });
                Some(last.map_or(Position::State, |(key, _)| Position::Items(Some(key.clone()))))
            }
            Position::State => {
                chunks::put(batch, Kind::State, b"", state.index, &state.encode(), *state_chunks);
                None
            }
        };
        self.record.push(batch);
        next
    }

    /// Returns the whole record, with its checksum.
    pub(super) fn into_record(mut self) -> RedoRecord {
        self.record.seal();
        self.record
    }
}

/// Returns where what comes after `last` begins.
fn after<T: ?Sized>(last: Option<&T>) -> Bound<&T> {
    last.map_or(Bound::Unbounded, Bound::Excluded)
}

/// Encodes the first `left`, which are counted; returns the last of them, unless these were all.
fn take<T>(mut from: impl Iterator<Item = T>, left: &mut usize, mut encode: impl FnMut(&T)) -> Option<T> {
    let mut last = None;
    for item in from.by_ref().take(*left) {
        encode(&item);
        *left -= 1;
        last = Some(item);
    }
    from.next().and(last)
}

fn stage(batch: &mut Batch, kind: Kind, key: &[u8], Record { version, value, chunks_below }: &Record) {
    match value {
        Some(value) => drop(chunks::put(batch, kind, key, *version, value, *chunks_below)),
        None => chunks::delete(batch, kind, key, *chunks_below),
    }
}
