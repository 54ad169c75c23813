//! Values of the machine: cut into pieces, checksummed, and counted into one digest.
//!
//! Why: sled drops updates silently where a byte of its log is flipped in the middle, so a node that trusted what it
//! reads would serve an old value as if it were right. Every value therefore carries a checksum over itself, its key and
//! its version, and the machine keeps the sum of all of them: a start reads everything once and compares.
//!
//! Laws: no piece is longer than [`PIECE_BYTES`]. A value is valid only as a whole. The digest is a plain sum, so it
//! does not depend on any order, and equal states have equal digests on every node.
//!
//! Not here: which values there are (`state_machine`), and the bytes of keys (`layout`).

use super::{item_codec, ttl_index};
use crate::model::codec::MAX_BYTES;
use crate::storage::layout::{Bytes, CELL_VERSION, Kind, PIECE_BYTES, cell_key, is_key_of, length, parse_cell_key};
use crate::storage::{Batch, Db, Error};

/// Bytes of the header in front of the first piece: format, version, length, checksum.
const HEADER_BYTES: usize = 1 + 8 + 4 + 4;

/// What the first piece says of the whole value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// The raft index of the last change.
    pub(crate) version: u64,
    length: u32,
    checksum: u32,
}

impl Header {
    /// That of `value` under `key`.
    pub(crate) fn of(kind: Kind, key: &[u8], version: u64, value: &[u8]) -> Self {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&[kind as u8]);
        sum.update(&length(key).to_le_bytes());
        sum.update(key);
        sum.update(&version.to_le_bytes());
        sum.update(value);
        Self { version, length: length(value), checksum: sum.finalize() }
    }

    /// The beginning of a first piece, with room for `rest` behind it.
    fn encode(self, rest: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + rest);
        bytes.push(CELL_VERSION);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    /// The header of a first piece, and the bytes after it.
    fn decode<'a>(piece: &'a [u8], db: &dyn Db) -> Result<(Self, &'a [u8]), Error> {
        let mut bytes = Bytes(piece);
        let mut read = || Some((bytes.u8()?, bytes.u64()?, bytes.u32()?, bytes.u32()?));
        let (format, version, length, checksum) =
            read().ok_or_else(|| Error::damaged(db, "a value is too short to be one"))?;
        if format > CELL_VERSION {
            return Err(Error::Newer { what: db.name().into(), found: format.into(), known: CELL_VERSION.into() });
        }
        if format < CELL_VERSION || length as usize > MAX_BYTES {
            return Err(Error::damaged(db, "a value begins as none can"));
        }
        Ok((Self { version, length, checksum }, bytes.0))
    }

    /// The length of the value.
    pub(crate) fn length(self) -> usize {
        self.length as usize
    }

    fn total(self) -> usize {
        HEADER_BYTES + self.length()
    }

    /// How many pieces the value has.
    pub(crate) fn pieces(self) -> usize {
        self.total().div_ceil(PIECE_BYTES)
    }

    /// What this value adds to the digest of the machine.
    pub(crate) fn digest(self) -> u64 {
        let mix = |mut x: u64| {
            x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            x ^ (x >> 31)
        };
        let content = u64::from(self.checksum) << 32 | u64::from(self.length);
        mix(content.wrapping_add(mix(self.version.wrapping_add(0x9E37_79B9_7F4A_7C15))))
    }
}

fn piece_number(piece: usize) -> u16 {
    u16::try_from(piece).expect("the codec bounds a value to 64 MiB, a quarter of what piece numbers can count")
}

/// Adds to `batch` what makes `value` the value of `key`, over the `old` one.
pub(crate) fn put(
    batch: &mut Batch,
    kind: Kind,
    key: &[u8],
    version: u64,
    value: &[u8],
    old: Option<Header>,
) -> Header {
    let header = Header::of(kind, key, version, value);
    let (head, mut rest) = value.split_at(value.len().min(PIECE_BYTES - HEADER_BYTES));
    let mut first = header.encode(head.len());
    first.extend_from_slice(head);
    batch.changes.push((cell_key(kind, key, 0), Some(first)));
    for piece in 1..header.pieces() {
        let (bytes, more) = rest.split_at(rest.len().min(PIECE_BYTES));
        batch.changes.push((cell_key(kind, key, piece_number(piece)), Some(bytes.to_vec())));
        rest = more;
    }
    remove_pieces(batch, kind, key, header.pieces(), old);
    header
}

/// Adds to `batch` what removes the value of `key`.
pub(crate) fn delete(batch: &mut Batch, kind: Kind, key: &[u8], old: Header) {
    remove_pieces(batch, kind, key, 0, Some(old));
}

fn remove_pieces(batch: &mut Batch, kind: Kind, key: &[u8], from: usize, old: Option<Header>) {
    for piece in from..old.map_or(0, Header::pieces) {
        batch.changes.push((cell_key(kind, key, piece_number(piece)), None));
    }
}

/// The header of the value of `key` and the beginning of it; nothing of it is checked.
pub(crate) fn first(db: &dyn Db, kind: Kind, key: &[u8]) -> Result<Option<(Header, Vec<u8>)>, Error> {
    db.get(&cell_key(kind, key, 0))?.map(|piece| begin(db, &piece)).transpose()
}

/// What a first piece holds.
pub(crate) fn begin(db: &dyn Db, piece: &[u8]) -> Result<(Header, Vec<u8>), Error> {
    Header::decode(piece, db).map(|(header, first)| (header, first.to_vec()))
}

/// The whole value of `key`, where its checksum is right.
pub(crate) fn checked(db: &dyn Db, kind: Kind, key: &[u8], header: Header, value: Vec<u8>) -> Result<Vec<u8>, Error> {
    if Header::of(kind, key, header.version, &value) == header {
        return Ok(value);
    }
    Err(Error::damaged(db, format!("the checksum of the value of {} does not fit", shown(kind, key))))
}

/// The value of `key`, checked.
pub(crate) fn read(db: &dyn Db, kind: Kind, key: &[u8]) -> Result<Option<(Header, Vec<u8>)>, Error> {
    let Some(piece) = db.get(&cell_key(kind, key, 0))? else { return Ok(None) };
    let (header, first) = Header::decode(&piece, db)?;
    let mut value = first.to_vec();
    if header.pieces() > 1 {
        let (from, to) = (cell_key(kind, key, 1), cell_key(kind, key, piece_number(header.pieces())));
        for (_, piece) in db.scan(&from, Some(&to), header.pieces())? {
            value.extend_from_slice(&piece);
        }
    }
    Ok(Some((header, checked(db, kind, key, header, value)?)))
}

fn shown(kind: Kind, key: &[u8]) -> String {
    match kind {
        Kind::State => "the applied state".into(),
        Kind::Members => "the member table".into(),
        Kind::Expiry => "an expiry".into(),
        Kind::Result => "a kept result".into(),
        Kind::Data => format!("key {:?}", String::from_utf8_lossy(key)),
    }
}

/// What a whole machine adds up to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StateChecksum {
    /// The number of client keys.
    pub(crate) keys: u64,
    /// The sum of the digests of all values but the state itself.
    pub(crate) digest: u64,
}

impl StateChecksum {
    /// Counts a value in.
    pub(crate) fn add(&mut self, header: Header) {
        self.digest = self.digest.wrapping_add(header.digest());
    }

    /// Counts a value out.
    pub(crate) fn remove(&mut self, header: Header) {
        self.digest = self.digest.wrapping_sub(header.digest());
    }
}

/// The most pairs that one step of a walk reads, up to 1 MiB.
const STEP: usize = 256;

/// What an audit has found so far.
#[derive(Default)]
struct Found {
    tally: StateChecksum,
    /// The digests of all expiries that the items ask for, less those of all that there are.
    expiries: u64,
}

/// Reads and checks every value there is, and that every expiry belongs to an item and every item has its own.
pub(crate) fn audit(db: &dyn Db) -> Result<StateChecksum, Error> {
    let mut found = Found::default();
    let mut from = Kind::FIRST.to_vec();
    let mut value: Option<Partial> = None;
    loop {
        let pairs = db.scan(&from, None, STEP)?;
        let Some((last, _)) = pairs.last() else { break };
        from.clone_from(last);
        from.push(0);
        for (stored, piece) in &pairs {
            let (kind, key, number) = parse_cell_key(stored)
                .filter(|(kind, key, _)| is_key_of(*kind, key))
                .ok_or_else(|| Error::damaged(db, "it holds a key that huskv does not write"))?;
            if number == 0 {
                finish(value.take(), &mut found, db)?;
                let (header, first) = Header::decode(piece, db)?;
                value = Some(Partial { kind, key, header, bytes: first.to_vec(), pieces: 1 });
                continue;
            }
            match &mut value {
                Some(open) if open.kind == kind && open.key == key && open.pieces == usize::from(number) => {
                    open.bytes.extend_from_slice(piece);
                    open.pieces += 1;
                }
                _ => return Err(Error::damaged(db, format!("a piece of {} is missing", shown(kind, &key)))),
            }
        }
    }
    finish(value, &mut found, db)?;
    if found.expiries != 0 {
        return Err(Error::damaged(db, "the times at which its keys expire do not fit the keys"));
    }
    Ok(found.tally)
}

struct Partial {
    kind: Kind,
    key: Vec<u8>,
    header: Header,
    bytes: Vec<u8>,
    pieces: usize,
}

fn finish(value: Option<Partial>, found: &mut Found, db: &dyn Db) -> Result<(), Error> {
    let Some(Partial { kind, key, header, bytes, pieces }) = value else { return Ok(()) };
    if pieces != header.pieces() || Header::of(kind, &key, header.version, &bytes) != header {
        return Err(Error::damaged(db, format!("the checksum of the value of {} does not fit", shown(kind, &key))));
    }
    match kind {
        Kind::Data => {
            if let Some(expires) = item_codec::check(db, header, &bytes)? {
                let digest = ttl_index::header(&key, header.version, expires).digest();
                found.expiries = found.expiries.wrapping_add(digest);
            }
        }
        Kind::Expiry => found.expiries = found.expiries.wrapping_sub(header.digest()),
        Kind::State | Kind::Members | Kind::Result => {}
    }
    if kind != Kind::State {
        found.tally.add(header);
        found.tally.keys += u64::from(kind == Kind::Data);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_value() {
        let mut batch = Batch::default();
        put(&mut batch, Kind::Data, b"k", 0x0102, b"\"v\"", None);
        let golden = b"\x01\x02\x01\0\0\0\0\0\0\x03\0\0\0\xb2\xee\x74\x09\"v\"".to_vec();
        assert_eq!(batch.changes, [(b"\x10k\0\x01\0\0".to_vec(), Some(golden))]);
    }

    #[test]
    fn pieces_are_bounded_and_a_shorter_value_removes_what_it_does_not_overwrite() {
        let mut batch = Batch::default();
        let fits = vec![7; PIECE_BYTES - HEADER_BYTES];
        let one = put(&mut batch, Kind::Data, b"k", 1, &fits, None);
        assert_eq!(batch.changes.len(), 1);
        let mut batch = Batch::default();
        let big = put(&mut batch, Kind::Data, b"k", 2, &[fits, vec![8; PIECE_BYTES + 1]].concat(), Some(one));
        assert_eq!(batch.changes.len(), 3);
        assert!(batch.changes.iter().all(|(_, value)| value.as_ref().is_some_and(|v| v.len() <= PIECE_BYTES)));
        let mut batch = Batch::default();
        put(&mut batch, Kind::Data, b"k", 3, b"", Some(big));
        let removed: Vec<_> = batch.changes[1..].iter().map(|(key, value)| (key[key.len() - 1], value)).collect();
        assert_eq!(removed, [(1, &None), (2, &None)]);
    }
}
