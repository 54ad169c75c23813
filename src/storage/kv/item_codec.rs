//! The encoding of an item as the bytes of one value.
//!
//! Why: the metadata of a key must change in the same write as its value and be covered by the same checksum, so it is stored in
//! front of the value.
//!
//! Invariants: create version, expiry (0 for never), content type and, in an item that has one, the token name come first, so all of
//! them are in the first chunk. An item without a name has the format and the bytes that items had before there were names.
//!
//! See also: [`super::chunks`] (chunks, checksums, version).

use super::chunks;
use super::chunks::Header;
use crate::model::{Item, KeyMeta, TokenName, Value};
use crate::storage::layout::{FieldReader, Kind, length as length_of, push_prefixed};
use crate::storage::{Batch, Db, Error};

/// Adds a write of `item` to `batch`; `old_chunks` is the number of chunks of the value that it replaces.
pub(crate) fn put(batch: &mut Batch, key: &[u8], item: &Item, old_chunks: usize) -> Header {
    let bytes = encode(item);
    match item.by {
        None => chunks::put(batch, Kind::Data, key, item.version, &bytes, old_chunks),
        Some(_) => chunks::put_named(batch, key, item.version, &bytes, old_chunks),
    }
}

/// Computes the header that `item` has once it is encoded, without encoding it.
pub(crate) fn header(key: &[u8], item: &Item) -> Header {
    let Value { content_type, bytes: value } = &item.value;
    let (created, expires) = (item.create_version.to_le_bytes(), item.expires.unwrap_or(0).to_le_bytes());
    let type_length = length_of(content_type.as_bytes()).to_le_bytes();
    let start: [&[u8]; 4] = [&created, &expires, &type_length, content_type.as_bytes()];
    match &item.by {
        None => {
            let [a, b, c, d] = start;
            Header::of_item(false, key, item.version, &[a, b, c, d, value])
        }
        Some(by) => {
            let ([a, b, c, d], name_length) = (start, length_of(by.as_bytes()).to_le_bytes());
            Header::of_item(true, key, item.version, &[a, b, c, d, &name_length, by.as_bytes(), value])
        }
    }
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
    let Prefix { create_version, expires, .. } = parse(header, first).ok_or_else(|| damaged(db))?;
    let bytes = length(db, header, first)?;
    Ok(KeyMeta { version: header.version, create_version, bytes, expires })
}

/// Returns the length of the value of an item from its first chunk.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn length(db: &dyn Db, header: Header, first: &[u8]) -> Result<usize, Error> {
    // The length of the whole value is in the header, that of what comes before the client's bytes is in the first
    // chunk.
    let before = parse(header, first).map(|prefix| prefix.bytes);
    before.and_then(|before| header.length().checked_sub(before)).ok_or_else(|| damaged(db))
}

/// Decodes the item of a complete value.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn decode(db: &dyn Db, header: Header, bytes: Vec<u8>) -> Result<Item, Error> {
    let Prefix { create_version, expires, content_type, by, bytes: before } =
        parse(header, &bytes).ok_or_else(|| damaged(db))?;
    let by = by.map(str::parse).transpose().map_err(|_| damaged(db))?;
    let content_type = content_type.to_owned();
    // Shares the allocation: a large value is not copied to drop a short prefix.
    let value = bytes::Bytes::from(bytes).split_off(before);
    Ok(Item { value: Value { content_type, bytes: value }, version: header.version, create_version, expires, by })
}

/// Validates a complete value and returns its expiry.
///
/// # Errors
/// [`Error`] for damage.
pub(crate) fn check(db: &dyn Db, header: Header, bytes: &[u8]) -> Result<Option<u64>, Error> {
    // A key is created no later than it was changed.
    let is_sound = |prefix: &Prefix<'_>| {
        (1..=header.version).contains(&prefix.create_version) && prefix.by.is_none_or(TokenName::is_valid)
    };
    parse(header, bytes).filter(is_sound).map(|prefix| prefix.expires).ok_or_else(|| damaged(db))
}

fn encode(item: &Item) -> Vec<u8> {
    let Value { content_type, bytes: value } = &item.value;
    let mut bytes = Vec::with_capacity(FIXED_BYTES + item.size());
    bytes.extend_from_slice(&item.create_version.to_le_bytes());
    bytes.extend_from_slice(&item.expires.unwrap_or(0).to_le_bytes());
    push_prefixed(&mut bytes, content_type.as_bytes());
    if let Some(by) = &item.by {
        push_prefixed(&mut bytes, by.as_bytes());
    }
    bytes.extend_from_slice(value);
    bytes
}

/// The bytes of create version, expiry, and the lengths of content type and token name.
const FIXED_BYTES: usize = 8 + 8 + 4 + 4;

/// What stands in front of the value.
struct Prefix<'a> {
    create_version: u64,
    expires: Option<u64>,
    content_type: &'a str,
    by: Option<&'a str>,
    /// Its length.
    bytes: usize,
}

/// Reads what stands in front of the value.
fn parse(header: Header, bytes: &[u8]) -> Option<Prefix<'_>> {
    let mut rest = FieldReader(bytes);
    let (create_version, expires) = rest.pair()?;
    let content_type = std::str::from_utf8(rest.prefixed()?).ok()?;
    let by = if header.is_named() { Some(std::str::from_utf8(rest.prefixed()?).ok()?) } else { None };
    Some(Prefix { create_version, expires: some(expires), content_type, by, bytes: bytes.len() - rest.0.len() })
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
    use crate::storage::tests::Memory;

    fn item() -> Item {
        let value = Value { content_type: "t/p".into(), bytes: "v".into() };
        Item { value, version: 0x0900, create_version: 0x0102, expires: Some(0x0304), by: None }
    }

    fn stored(item: &Item) -> (Header, Vec<u8>) {
        let mut batch = Batch::default();
        let header = put(&mut batch, b"k", item, 0);
        assert_eq!(super::header(b"k", item), header);
        let [(_, Some(chunk))] = &batch.changes[..] else { panic!("{batch:?}") };
        let (read, bytes) = chunks::begin(&Memory::default(), Kind::Data, chunk).unwrap();
        assert_eq!(read, header);
        (header, bytes)
    }

    #[test]
    fn golden_bytes_of_an_item_without_a_token_name() {
        // As they were before items had names: format 1.
        let item = item();
        assert_eq!(encode(&item), b"\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\0\0\0t/pv");
        assert!(!stored(&item).0.is_named());
        let item = Item { expires: None, ..item };
        assert_eq!(encode(&item)[8..], *b"\0\0\0\0\0\0\0\0\x03\0\0\0t/pv");
    }

    #[test]
    fn golden_bytes_of_an_item_with_a_token_name() {
        // Format 2: the name with its length behind the content type.
        let item = Item { by: Some("ab".parse().unwrap()), ..item() };
        assert_eq!(encode(&item), b"\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\0\0\0t/p\x02\0\0\0abv");
        assert!(stored(&item).0.is_named());
    }

    #[test]
    fn an_item_is_read_with_and_without_a_token_name_and_its_value_has_the_same_length() {
        let db = Memory::default();
        for by in [None, Some("ab".parse().unwrap()), Some("a".repeat(TokenName::MAX_BYTES).parse().unwrap())] {
            let item = Item { by, ..item() };
            let (header, bytes) = stored(&item);
            assert_eq!(meta(&db, header, &bytes).unwrap(), item.meta());
            assert_eq!(check(&db, header, &bytes).unwrap(), item.expires);
            assert_eq!(decode(&db, header, bytes).unwrap(), item);
        }
        // A name that no token has, and one that is cut off.
        let (header, _) = stored(&Item { by: Some("ab".parse().unwrap()), ..item() });
        let start = &b"\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x03\0\0\0t/p"[..];
        for bad in [&b"\x02\0\0\0a v"[..], b"\0\0\0\0v", b"\x02\0\0\0\xff\xffv", b"\x09\0\0\0ab", b""] {
            let bytes = [start, bad].concat();
            assert!(check(&db, header, &bytes).is_err() && decode(&db, header, bytes).is_err(), "{bad:?}");
        }
    }
}
