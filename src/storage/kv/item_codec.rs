//! The encoding of an item as the bytes of one value.
//!
//! Why: the metadata of a key must change in the same write as its value and be covered by the same checksum, so it is stored in
//! front of the value.
//!
//! Invariants: create version, expiry (0 for never) and content type come first, so all of them are in the first chunk.
//!
//! See also: [`super::chunks`] (chunks, checksums, version).

use super::chunks;
use super::chunks::Header;
use crate::model::{Item, KeyMeta, Value};
use crate::storage::layout::{FieldReader, Kind, push_prefixed};
use crate::storage::{Batch, Db, Error};

/// Adds a write of `item` over the `old` one to `batch`.
pub(crate) fn put(batch: &mut Batch, key: &[u8], item: &Item, old: Option<Header>) -> Header {
    chunks::put(batch, Kind::Data, key, item.version, &encode(item), old)
}

/// Reads the item of `key` and verifies its checksum.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn read(db: &dyn Db, key: &[u8]) -> Result<Option<Item>, Error> {
    let Some((header, bytes)) = chunks::read(db, Kind::Data, key)? else { return Ok(None) };
    decode(db, header, bytes).map(Some)
}

/// Decodes the metadata of an item from its first chunk.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn meta(db: &dyn Db, header: Header, first: &[u8]) -> Result<KeyMeta, Error> {
    let (create_version, expires) = FieldReader(first).pair().ok_or_else(|| damaged(db))?;
    let bytes = length(db, header, first)?;
    Ok(KeyMeta { version: header.version, create_version, bytes, expires: some(expires) })
}

/// Returns the length of the value of an item from its first chunk.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn length(db: &dyn Db, header: Header, first: &[u8]) -> Result<usize, Error> {
    // The length of the whole value is in the header, that of what comes before the client's bytes is in the first
    // chunk.
    let mut bytes = FieldReader(first);
    let before = bytes.pair().and_then(|_| bytes.prefixed()).map(prefix_bytes);
    before.and_then(|before| header.length().checked_sub(before)).ok_or_else(|| damaged(db))
}

/// Decodes the item of a complete value.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn decode(db: &dyn Db, header: Header, bytes: Vec<u8>) -> Result<Item, Error> {
    let (create_version, expires, content_type) = parse(&bytes).ok_or_else(|| damaged(db))?;
    let content_type = content_type.to_owned();
    // Shares the allocation: a large value is not copied to drop a short prefix.
    let value = bytes::Bytes::from(bytes).split_off(prefix_bytes(content_type.as_bytes()));
    Ok(Item { value: Value { content_type, bytes: value }, version: header.version, create_version, expires })
}

/// Validates a complete value and returns its expiry.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn check(db: &dyn Db, header: Header, bytes: &[u8]) -> Result<Option<u64>, Error> {
    // A key is created no later than it was changed.
    let made_before = |(create_version, ..): &(u64, Option<u64>, &str)| (1..=header.version).contains(create_version);
    parse(bytes).filter(made_before).map(|(_, expires, _)| expires).ok_or_else(|| damaged(db))
}

fn encode(item: &Item) -> Vec<u8> {
    let Value { content_type, bytes: value } = &item.value;
    let mut bytes = Vec::with_capacity(prefix_bytes(content_type.as_bytes()) + value.len());
    bytes.extend_from_slice(&item.create_version.to_le_bytes());
    bytes.extend_from_slice(&item.expires.unwrap_or(0).to_le_bytes());
    push_prefixed(&mut bytes, content_type.as_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// Splits it into create version, expiry and content type.
fn parse(bytes: &[u8]) -> Option<(u64, Option<u64>, &str)> {
    let mut rest = FieldReader(bytes);
    let (create_version, expires) = rest.pair()?;
    Some((create_version, some(expires), std::str::from_utf8(rest.prefixed()?).ok()?))
}

/// Returns the bytes in front of the value.
fn prefix_bytes(content_type: &[u8]) -> usize {
    8 + 8 + 4 + content_type.len()
}

/// No key expires at time 0, so 0 is stored for never.
fn some(expires: u64) -> Option<u64> {
    (expires != 0).then_some(expires)
}

fn damaged(db: &dyn Db) -> Error {
    Error::damaged(db, "what it holds under a key is not what huskv writes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_an_item() {
        let value = Value { content_type: "t/p".into(), bytes: "v".into() };
        let item = Item { value, version: 9, create_version: 0x0102, expires: Some(0x0304) };
        assert_eq!(encode(&item), b"\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\0\0\0t/pv");
        let item = Item { expires: None, ..item };
        assert_eq!(encode(&item)[8..], *b"\0\0\0\0\0\0\0\0\x03\0\0\0t/pv");
    }
}
