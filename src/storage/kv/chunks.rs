//! Chunked values: split into chunks, checksummed, and summed into one digest.
//!
//! Why: sled silently drops updates if a byte in the middle of its log is flipped. So every value carries a checksum over itself,
//! its key and its version, and the state records the sum of all of them.
//!
//! Invariants: no chunk is longer than [`CHUNK_BYTES`]. A value is valid only as a whole. The digest is a plain sum, so it does
//! not depend on any order, and equal states have equal digests on every node.
//!
//! See also: [`super::audit`] (the start-up check), `layout` (the bytes of keys).

use crate::model::codec::MAX_BYTES;
use crate::storage::layout::{CHUNK_BYTES, FieldReader, Kind, NAMED_ITEM_VERSION, VALUE_VERSION, chunk_key, length};
use crate::storage::{Batch, Db, Error};

/// The bytes of the header in front of the first chunk: format, version, length, checksum.
const HEADER_BYTES: usize = 1 + 8 + 4 + 4;

/// The header of a value, in its first chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The format of the value.
    pub(super) format: u8,
    /// The raft index of the last change.
    pub(crate) version: u64,
    /// The length of the value.
    pub(super) length: u32,
    /// The checksum over value, key and version.
    pub(super) checksum: u32,
}

impl Header {
    /// Computes the header of `value` under `key`.
    pub(crate) fn of(kind: Kind, key: &[u8], version: u64, value: &[u8]) -> Self {
        Self::of_format(VALUE_VERSION, kind, key, version, value)
    }

    fn of_format(format: u8, kind: Kind, key: &[u8], version: u64, value: &[u8]) -> Self {
        Self::of_parts(format, kind, key, version, &[value])
    }

    /// Computes the header of an item whose encoding is `parts`, one after the other, without joining them.
    pub(crate) fn of_item(is_named: bool, key: &[u8], version: u64, parts: &[&[u8]]) -> Self {
        let format = if is_named { NAMED_ITEM_VERSION } else { VALUE_VERSION };
        Self::of_parts(format, Kind::Data, key, version, parts)
    }

    fn of_parts(format: u8, kind: Kind, key: &[u8], version: u64, parts: &[&[u8]]) -> Self {
        let mut sum = crc32fast::Hasher::new();
        // The first format is not part of its checksums. Each other one is, so a flipped byte is not read as another format.
        if format != VALUE_VERSION {
            sum.update(&[format]);
        }
        sum.update(&[kind as u8]);
        sum.update(&length(key).to_le_bytes());
        sum.update(key);
        sum.update(&version.to_le_bytes());
        parts.iter().for_each(|part| sum.update(part));
        Self { format, version, length: parts.iter().map(|part| length(part)).sum(), checksum: sum.finalize() }
    }

    /// Whether this is the header of `value` under `key`.
    pub(crate) fn fits(self, kind: Kind, key: &[u8], value: &[u8]) -> bool {
        Self::of_format(self.format, kind, key, self.version, value) == self
    }

    /// Whether the value is an item with a token name.
    pub(crate) fn is_named(self) -> bool {
        self.format == NAMED_ITEM_VERSION
    }

    /// Encodes it, with capacity for `rest` more bytes.
    fn encode(self, rest: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + rest);
        bytes.push(self.format);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// Decodes the header of a first chunk, and returns the bytes after it.
    pub(crate) fn decode<'a>(kind: Kind, chunk: &'a [u8], db: &dyn Db) -> Result<(Self, &'a [u8]), Error> {
        // Items alone have a second format.
        let newest = if kind == Kind::Data { NAMED_ITEM_VERSION } else { VALUE_VERSION };
        let mut bytes = FieldReader(chunk);
        let mut read = || Some((bytes.u8()?, bytes.u64()?, bytes.u32()?, bytes.u32()?));
        let (format, version, length, checksum) =
            read().ok_or_else(|| Error::damaged(db, "a value is too short to be one"))?;
        if format > newest {
            return Err(Error::Newer { what: db.name().into(), found: format.into(), known: newest.into() });
        }
        if format < VALUE_VERSION || length as usize > MAX_BYTES {
            return Err(Error::damaged(db, "a value has an impossible header"));
        }
        Ok((Self { format, version, length, checksum }, bytes.0))
    }

    /// Returns the length of the value.
    pub(crate) fn length(self) -> usize {
        self.length as usize
    }

    /// Returns the bytes of header and value.
    pub(crate) fn total(self) -> usize {
        HEADER_BYTES + self.length()
    }

    /// Returns the number of chunks of the value.
    pub(crate) fn chunks(self) -> usize {
        self.total().div_ceil(CHUNK_BYTES)
    }

    /// Returns the contribution of this value to the digest.
    pub(crate) fn digest(self) -> u64 {
        // splitmix64: spreads similar inputs over all bits, so that a plain sum of digests detects exchanged values.
        let mix = |mut x: u64| {
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            x ^ (x >> 31)
        };
        let content = u64::from(self.checksum) << 32 | u64::from(self.length);
        mix(content.wrapping_add(mix(self.version.wrapping_add(0x9E37_79B9_7F4A_7C15))))
    }
}

fn chunk_number(chunk: usize) -> u16 {
    u16::try_from(chunk).expect("the codec bounds a value to 64 MiB, a quarter of what piece numbers can count")
}

/// Adds a write of `value` to `batch`; `old_chunks` is the number of chunks of the value that it replaces.
pub(crate) fn put(batch: &mut Batch, kind: Kind, key: &[u8], version: u64, value: &[u8], old_chunks: usize) -> Header {
    put_as(batch, Header::of(kind, key, version, value), kind, key, value, old_chunks)
}

/// Adds a write of an item with a token name to `batch`.
pub(crate) fn put_named(batch: &mut Batch, key: &[u8], version: u64, value: &[u8], old_chunks: usize) -> Header {
    let header = Header::of_format(NAMED_ITEM_VERSION, Kind::Data, key, version, value);
    put_as(batch, header, Kind::Data, key, value, old_chunks)
}

fn put_as(batch: &mut Batch, header: Header, kind: Kind, key: &[u8], value: &[u8], old_chunks: usize) -> Header {
    // A value of 10 000 bytes: chunk 0 is the header (17) and 4 079 bytes, chunk 1 has 4 096, chunk 2 the last 1 825.
    let (head, mut rest) = value.split_at(value.len().min(CHUNK_BYTES - HEADER_BYTES));
    let mut first = header.encode(head.len());
    first.extend_from_slice(head);
    batch.changes.push((chunk_key(kind, key, 0), Some(first)));
    for chunk in 1..header.chunks() {
        let (bytes, more) = rest.split_at(rest.len().min(CHUNK_BYTES));
        batch.changes.push((chunk_key(kind, key, chunk_number(chunk)), Some(bytes.to_vec())));
        rest = more;
    }
    // A shorter value leaves no chunk of the older one behind: 3 chunks over 5 remove the numbers 3 and 4.
    remove_chunks(batch, kind, key, header.chunks()..old_chunks);
    debug_assert!(
        batch
            .changes
            .iter()
            .rev()
            .take(header.chunks())
            .all(|(_, chunk)| chunk.as_ref().is_none_or(|chunk| chunk.len() <= CHUNK_BYTES))
    );
    header
}

/// Adds the removal of `key`, whose value has so many chunks, to `batch`.
pub(crate) fn delete(batch: &mut Batch, kind: Kind, key: &[u8], old_chunks: usize) {
    remove_chunks(batch, kind, key, 0..old_chunks);
}

fn remove_chunks(batch: &mut Batch, kind: Kind, key: &[u8], chunks: std::ops::Range<usize>) {
    for chunk in chunks {
        batch.changes.push((chunk_key(kind, key, chunk_number(chunk)), None));
    }
}

/// Reads the header and the first chunk of `key`, unchecked.
pub(crate) fn first(db: &dyn Db, kind: Kind, key: &[u8]) -> Result<Option<(Header, Vec<u8>)>, Error> {
    db.get(&chunk_key(kind, key, 0))?.map(|chunk| begin(db, kind, &chunk)).transpose()
}

/// Decodes a first chunk.
pub(crate) fn begin(db: &dyn Db, kind: Kind, chunk: &[u8]) -> Result<(Header, Vec<u8>), Error> {
    Header::decode(kind, chunk, db).map(|(header, first)| (header, first.to_vec()))
}

/// Returns the complete value if its checksum matches.
pub(crate) fn checked(db: &dyn Db, kind: Kind, key: &[u8], header: Header, value: Vec<u8>) -> Result<Vec<u8>, Error> {
    if header.fits(kind, key, &value) {
        return Ok(value);
    }
    Err(Error::damaged(db, format!("the checksum of the value of {} does not fit", describe(kind, key))))
}

/// Reads the value of `key` and verifies its checksum.
pub(crate) fn read(db: &dyn Db, kind: Kind, key: &[u8]) -> Result<Option<(Header, Vec<u8>)>, Error> {
    let Some(chunk) = db.get(&chunk_key(kind, key, 0))? else { return Ok(None) };
    let (header, first) = Header::decode(kind, &chunk, db)?;
    let mut value = first.to_vec();
    // A missing chunk is not looked for here: the value is then too short, and its checksum does not match.
    if header.chunks() > 1 {
        let (from, to) = (chunk_key(kind, key, 1), chunk_key(kind, key, chunk_number(header.chunks())));
        for (_, chunk) in db.scan(&from, Some(&to), header.chunks())? {
            value.extend_from_slice(&chunk);
        }
    }
    Ok(Some((header, checked(db, kind, key, header, value)?)))
}

pub(crate) fn describe(kind: Kind, key: &[u8]) -> String {
    match kind {
        Kind::State => "the applied state".into(),
        Kind::Members => "the member table".into(),
        Kind::Expiry => "an expiry".into(),
        Kind::Result => "a kept result".into(),
        Kind::Data => format!("key {:?}", String::from_utf8_lossy(key)),
    }
}

/// The totals of a state machine.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateTotals {
    /// The number of client keys.
    pub(crate) keys: u64,
    /// The sum of the digests of all values but the state record.
    pub(crate) digest: u64,
}

impl StateTotals {
    /// Adds a value.
    pub(crate) fn add(&mut self, header: Header) {
        self.digest = self.digest.wrapping_add(header.digest());
    }

    /// Subtracts a value.
    pub(crate) fn remove(&mut self, header: Header) {
        self.digest = self.digest.wrapping_sub(header.digest());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_value() {
        let mut batch = Batch::default();
        put(&mut batch, Kind::Data, b"k", 0x0102, b"\"v\"", 0);
        let golden = b"\x01\x02\x01\0\0\0\0\0\0\x03\0\0\0\xb2\xee\x74\x09\"v\"".to_vec();
        assert_eq!(batch.changes, [(b"\x10k\0\x01\0\0".to_vec(), Some(golden))]);
    }

    #[test]
    fn golden_bytes_of_an_item_with_a_token_name() {
        // Format 2, and a checksum that begins with the format: zlib's crc32 of 02, kind 10, length of the key, key, version, value.
        let mut batch = Batch::default();
        let header = put_named(&mut batch, b"k", 0x0102, b"\"v\"", 0);
        let golden = b"\x02\x02\x01\0\0\0\0\0\0\x03\0\0\0\xc1\xbb\x54\xa2\"v\"".to_vec();
        assert_eq!(batch.changes, [(b"\x10k\0\x01\0\0".to_vec(), Some(golden.clone()))]);
        let db = crate::storage::tests::Memory::default();
        assert_eq!(begin(&db, Kind::Data, &golden).unwrap(), (header, b"\"v\"".to_vec()));
        assert!(header.fits(Kind::Data, b"k", b"\"v\""));
        // To another kind than items it is a newer format.
        assert!(matches!(begin(&db, Kind::Result, &golden), Err(Error::Newer { found: 2, known: 1, .. })));
        // A format that is flipped to the other one changes the checksum; one that is not known is a newer one.
        let (flipped, value) = begin(&db, Kind::Data, &[&[1], &golden[1..]].concat()).unwrap();
        assert!(!flipped.fits(Kind::Data, b"k", &value));
        assert!(matches!(
            begin(&db, Kind::Data, &[&[3], &golden[1..]].concat()),
            Err(Error::Newer { found: 3, known: 2, .. })
        ));
    }

    #[test]
    fn chunks_are_bounded_and_a_shorter_value_removes_the_rest() {
        let mut batch = Batch::default();
        let fits = vec![7; CHUNK_BYTES - HEADER_BYTES];
        let one = put(&mut batch, Kind::Data, b"k", 1, &fits, 0).chunks();
        assert_eq!(batch.changes.len(), 1);
        let mut batch = Batch::default();
        let big = put(&mut batch, Kind::Data, b"k", 2, &[fits, vec![8; CHUNK_BYTES + 1]].concat(), one).chunks();
        assert_eq!(batch.changes.len(), 3);
        assert!(batch.changes.iter().all(|(_, value)| value.as_ref().is_some_and(|v| v.len() <= CHUNK_BYTES)));
        let mut batch = Batch::default();
        put(&mut batch, Kind::Data, b"k", 3, b"", big);
        let removed: Vec<_> = batch.changes[1..].iter().map(|(key, value)| (key[key.len() - 1], value)).collect();
        assert_eq!(removed, [(1, &None), (2, &None)]);
    }
}
