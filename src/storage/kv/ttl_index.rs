//! The TTL index: keys in the order of their expiry.
//!
//! Why: the search for expired keys must not read all the others.
//!
//! Invariants: an item with an expiry has exactly one record here, written in the same batch, with the item's version; the audit
//! compares both. The index is part of the state: in snapshots and in the digest.
//!
//! See also: [`crate::model::Command::Expire`] (which removes keys).

use bytes::Bytes;

use super::chunks;
use super::chunks::Header;
use super::item_codec;
use crate::model::DELETE_PREFIX_BYTES;
use crate::model::validate::{EXPIRE_BYTES, EXPIRE_KEYS};
use crate::storage::layout::{Kind, chunk_key, parse_chunk_key};
use crate::storage::{Batch, Db, Error, Pair};

fn name(key: &[u8], expires: u64) -> Vec<u8> {
    [&expires.to_be_bytes(), key].concat()
}

/// Returns the header of the index record of `key` at this version.
pub(crate) fn header(key: &[u8], version: u64, expires: u64) -> Header {
    Header::of(Kind::Expiry, &name(key, expires), version, b"")
}

/// Adds the index record of `key` to `batch`.
pub(crate) fn put(batch: &mut Batch, key: &[u8], version: u64, expires: u64) -> Header {
    chunks::put(batch, Kind::Expiry, &name(key, expires), version, b"", None)
}

/// Adds the removal of an index record to `batch`.
pub(crate) fn delete(batch: &mut Batch, key: &[u8], version: u64, expires: u64) -> Header {
    let header = header(key, version, expires);
    chunks::delete(batch, Kind::Expiry, &name(key, expires), header);
    header
}

/// Returns the earliest expiry.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn first(db: &dyn Db) -> Result<Option<u64>, Error> {
    let found = db.scan(&[Kind::Expiry as u8], Some(&[Kind::Expiry as u8 + 1]), 1)?;
    found.first().map(|pair| parse(db, pair).map(|(expires, _, _)| expires)).transpose()
}

/// Returns the first keys due at `clock` with their versions: as many as one command may name. Their values have at
/// most [`DELETE_PREFIX_BYTES`], unless the first one has more, because one entry is applied in one turn.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn due(db: &dyn Db, clock: u64) -> Result<Vec<(Bytes, u64)>, Error> {
    // Due at clock 500 are the records from `04` up to, not including, `04` + 501 as eight bytes.
    let end = clock.checked_add(1).map_or(vec![Kind::Expiry as u8 + 1], |end| {
        let mut end = chunk_key(Kind::Expiry, &end.to_be_bytes(), 0);
        // Without the key terminator, so that longer keys are included.
        end.truncate(end.len() - 4);
        end
    });
    // Bounded three times: number of keys, bytes of keys in the command, bytes of values that its apply removes.
    let (mut keys, mut bytes, mut stored) = (Vec::new(), 0, 0);
    for pair in db.scan(&[Kind::Expiry as u8], Some(&end), EXPIRE_KEYS)? {
        let (_, key, version) = parse(db, &pair)?;
        bytes += key.len();
        // The size of a value is in its first chunk, so no value is read. The index says nothing of sizes.
        if let Some((header, first)) = chunks::first(db, Kind::Data, &key)? {
            stored += item_codec::length(db, header, &first)?;
        }
        if !keys.is_empty() && (bytes > EXPIRE_BYTES || stored > DELETE_PREFIX_BYTES) {
            break;
        }
        keys.push((key, version));
    }
    Ok(keys)
}

/// Decodes expiry, key and version.
fn parse(db: &dyn Db, (stored, chunk): &Pair) -> Result<(u64, Bytes, u64), Error> {
    let damaged = || Error::damaged(db, "an expiry is not what huskv writes");
    let Some((Kind::Expiry, name, 0)) = parse_chunk_key(stored) else { return Err(damaged()) };
    let (expires, key) = name.split_first_chunk().ok_or_else(damaged)?;
    let (header, _) = chunks::begin(db, Kind::Expiry, chunk)?;
    Ok((u64::from_be_bytes(*expires), Bytes::copy_from_slice(key), header.version))
}
