//! The TTL index: keys in the order of their expiry.
//!
//! Why: the search for expired keys must not read all the others.
//!
//! Invariants: an item with an expiry has exactly one record here, written by the same entry, with the item's version; the audit
//! compares both. The index is part of the state: in snapshots and in the digest.
//!
//! See also: [`crate::model::Command::Expire`] (which removes keys).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use super::layers::Layers;
use crate::model::DELETE_PREFIX_BYTES;
use crate::model::after;
use crate::model::validate::{EXPIRE_BYTES, EXPIRE_KEYS};
use crate::storage::layout::{Kind, chunk_key, parse_chunk_key};
use crate::storage::{Batch, Db, Error, Pair};

/// The minimum number of records of the tree that are read at once.
const LEAST_PIECE: usize = 16;

fn name(key: &[u8], expires: u64) -> Vec<u8> {
    [&expires.to_be_bytes(), key].concat()
}

/// Returns the header of the index record of `key` at this version.
pub(crate) fn header(key: &[u8], version: u64, expires: u64) -> Header {
    Header::of(Kind::Expiry, &name(key, expires), version, b"")
}

/// Adds the index record of `key` to `batch`.
pub(crate) fn put(batch: &mut Batch, key: &[u8], version: u64, expires: u64) -> Header {
    chunks::put(batch, Kind::Expiry, &name(key, expires), version, b"", 0)
}

/// Adds the removal of an index record to `batch`.
pub(crate) fn delete(batch: &mut Batch, key: &[u8], expires: u64) {
    chunks::delete(batch, Kind::Expiry, &name(key, expires), 1);
}

/// Returns the earliest expiry of the tree.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn first_in_tree(db: &dyn Db) -> Result<Option<u64>, Error> {
    let found = db.scan(&[Kind::Expiry as u8], Some(&[Kind::Expiry as u8 + 1]), 1)?;
    found.first().map(|pair| parse(db, pair).map(|(expires, _, _)| expires)).transpose()
}

/// Returns the earliest expiry at or after `from`.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn first(layers: &Layers, from: u64) -> Result<Option<u64>, Error> {
    Ok(live(layers, from, None, 1)?.first().map(|(expires, _, _)| *expires))
}

/// Returns the first keys due at `clock`, none before `from`, with their versions: as many as one command may name. Their values
/// have at most [`DELETE_PREFIX_BYTES`], unless the first one has more, because one entry is applied in one turn.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn due(layers: &Layers, from: u64, clock: u64) -> Result<Vec<(Bytes, u64)>, Error> {
    // Bounded three times: number of keys, bytes of keys in the command, bytes of values that its apply removes.
    let (mut keys, mut bytes, mut stored) = (Vec::new(), 0, 0);
    for (_, key, version) in live(layers, from, Some(clock), EXPIRE_KEYS)? {
        bytes += key.len();
        // The index says nothing of sizes.
        stored += layers.stored_meta(&key)?.map_or(0, |stored| stored.meta.bytes);
        if !keys.is_empty() && (bytes > EXPIRE_BYTES || stored > DELETE_PREFIX_BYTES) {
            break;
        }
        keys.push((key, version));
    }
    Ok(keys)
}

/// An index record: expiry, key, version.
type Live = (u64, Bytes, u64);

/// Returns up to `limit` records from `from` up to and including `to`, in order; without `to` the range is unbounded.
fn live(layers: &Layers, from: u64, to: Option<u64>, limit: usize) -> Result<Vec<Live>, Error> {
    let to = to.unwrap_or(u64::MAX);
    let (mut found, mut from) = (Vec::new(), (from, Bytes::new()));
    // The tree is read piece by piece, and the memtables are laid over each piece, the newest last. Example: the tree has 5 a and 9 b,
    // the frozen memtable removes 5 a, the active one adds 7 c. The piece is 7 c, 9 b.
    while found.len() < limit {
        let count = limit.max(LEAST_PIECE);
        let (start, end) = (record_start(&from), record_end(to));
        let pairs = layers.tree.scan(&start, Some(&end), count)?;
        let mut piece = BTreeMap::new();
        for pair in &pairs {
            let (expires, key, version) = parse(&*layers.tree, pair)?;
            piece.insert((expires, key), Some(version));
        }
        // The tree is known up to its last record, or to the end of the range if there were fewer.
        let last = if pairs.len() < count { None } else { piece.last_key_value().map(|(at, _)| at.clone()) };
        let upper = last.clone().map_or(Bound::Excluded((to.saturating_add(1), Bytes::new())), Bound::Included);
        let range = (Bound::Included(from.clone()), upper);
        for table in layers.frozen.iter().map(|frozen| &frozen.table).chain([&layers.active]) {
            piece.extend(table.expiries.range(range.clone()).map(|(at, version)| (at.clone(), *version)));
        }
        let records = piece.into_iter().filter_map(|((expires, key), version)| Some((expires, key, version?)));
        found.extend(records.take(limit - found.len()));
        let Some((expires, key)) = last else { break };
        from = (expires, after(&key).into());
    }
    Ok(found)
}

/// Returns the first stored key at or behind this expiry and key.
fn record_start((expires, key): &(u64, Bytes)) -> Vec<u8> {
    chunk_key(Kind::Expiry, &name(key, *expires), 0)
}

/// Returns the end of the stored keys of records up to and including `to`.
fn record_end(to: u64) -> Vec<u8> {
    to.checked_add(1).map_or(vec![Kind::Expiry as u8 + 1], |end| {
        let mut end = chunk_key(Kind::Expiry, &end.to_be_bytes(), 0);
        // Without the key terminator, so that longer keys are included.
        end.truncate(end.len() - 4);
        end
    })
}

/// Decodes expiry, key and version.
fn parse(db: &dyn Db, (stored, chunk): &Pair) -> Result<(u64, Bytes, u64), Error> {
    let damaged = || Error::damaged(db, "an expiry is not what huskv writes");
    let Some((Kind::Expiry, name, 0)) = parse_chunk_key(stored) else { return Err(damaged()) };
    let (expires, key) = name.split_first_chunk().ok_or_else(damaged)?;
    let (header, _) = chunks::begin(db, Kind::Expiry, chunk)?;
    Ok((u64::from_be_bytes(*expires), Bytes::copy_from_slice(key), header.version))
}
