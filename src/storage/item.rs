//! An item as the bytes of one value of the machine.
//!
//! Why: what a key carries beside its value must change in the same write and be covered by the same checksum, so it is
//! stored in front of the value itself.
//!
//! Laws: the index that made the key comes first and the content type second, so both are in the first piece.
//!
//! Not here: pieces, checksums and the version of the last change ([`super::cells`]).

use super::cells::{self, Header};
use super::layout::{Bytes, Kind, push_run};
use super::{Batch, Db, Error};
use crate::model::{Item, Stamp, Value};

/// Adds to `batch` what makes `item` the item of `key`, over the `old` one.
pub(super) fn put(batch: &mut Batch, key: &[u8], item: &Item, old: Option<Header>) -> Header {
    cells::put(batch, Kind::Data, key, item.version, &encode(item), old)
}

/// The item of `key`, checked.
///
/// # Errors
/// [`Error`] for damage.
pub(super) fn read(db: &dyn Db, key: &[u8]) -> Result<Option<Item>, Error> {
    let Some((header, bytes)) = cells::read(db, Kind::Data, key)? else { return Ok(None) };
    decode(db, header, bytes).map(Some)
}

/// What is known of an item of which `first` is the beginning.
///
/// # Errors
/// [`Error`] for damage.
pub(super) fn stamp(db: &dyn Db, header: Header, first: &[u8]) -> Result<Stamp, Error> {
    let create_version = Bytes(first).u64().ok_or_else(|| damaged(db))?;
    Ok(Stamp { version: header.version, create_version, bytes: length(db, header, first)? })
}

/// The length of the value of an item of which `first` is the beginning.
///
/// # Errors
/// [`Error`] for damage.
pub(super) fn length(db: &dyn Db, header: Header, first: &[u8]) -> Result<usize, Error> {
    let mut bytes = Bytes(first);
    let before = bytes.u64().and_then(|_| bytes.run()).map(|content_type| 8 + 4 + content_type.len());
    before.and_then(|before| header.length().checked_sub(before)).ok_or_else(|| damaged(db))
}

/// The item that a whole value holds.
///
/// # Errors
/// [`Error`] for damage.
pub(super) fn decode(db: &dyn Db, header: Header, bytes: Vec<u8>) -> Result<Item, Error> {
    let (create_version, content_type) = parse(&bytes).ok_or_else(|| damaged(db))?;
    let content_type = content_type.to_owned();
    let value = bytes::Bytes::from(bytes).split_off(8 + 4 + content_type.len());
    Ok(Item { value: Value { content_type, bytes: value }, version: header.version, create_version })
}

/// Whether a whole value holds an item.
///
/// # Errors
/// [`Error`] for damage.
pub(super) fn check(db: &dyn Db, header: Header, bytes: &[u8]) -> Result<(), Error> {
    let made_before = |(create_version, _): &(u64, &str)| (1..=header.version).contains(create_version);
    parse(bytes).filter(made_before).map(drop).ok_or_else(|| damaged(db))
}

fn encode(item: &Item) -> Vec<u8> {
    let Value { content_type, bytes: value } = &item.value;
    let mut bytes = Vec::with_capacity(8 + 4 + content_type.len() + value.len());
    bytes.extend_from_slice(&item.create_version.to_le_bytes());
    push_run(&mut bytes, content_type.as_bytes());
    bytes.extend_from_slice(value);
    bytes
}

/// The index that made the key, and the content type.
fn parse(bytes: &[u8]) -> Option<(u64, &str)> {
    let mut rest = Bytes(bytes);
    Some((rest.u64()?, std::str::from_utf8(rest.run()?).ok()?))
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
        let item = Item { value, version: 9, create_version: 0x0102 };
        assert_eq!(encode(&item), b"\x02\x01\0\0\0\0\0\0\x03\0\0\0t/pv");
    }
}
