//! The encoding of a journal record.
//!
//! Why: one turn of the loop is one record, so that one sync makes all of it durable or, torn, none of it.
//!
//! ```text
//!   | version u8 | length u32 | crc of seq + payload u32 | crc of these 9 bytes u32 | payload |
//!   payload: | reset u8 | hard state 3 x u64 | generation | checkpoint | base | prev | count u32 | entries |
//!   entry:   | type u8 | term u64 | data: length u32 + bytes | context: length u32 + bytes |
//! ```
//!
//! Invariants: every record carries the whole hard state and the (index, term) before its first entry, so any suffix of the
//! records is a log of its own. Nothing is decoded before the checksum over the record and its number was compared.
//!
//! See also: [`super::index`] (which records are live).

use raft::eraftpb::{Entry, EntryType, HardState};

use crate::storage::layout::{CHUNK_BYTES, FieldReader, MAX_COUNT, RECORD_VERSION, length, push_prefixed};

/// The header in front of the first chunk: format, length, checksum, and a checksum over these three, because a wrong
/// length must not look like a torn record.
pub(crate) const HEADER_BYTES: usize = 1 + 4 + 4 + 4;

/// The bytes of a payload before its entries.
const META_BYTES: usize = 1 + 10 * 8 + 4;

/// The bytes of an entry besides data and context: type, term and two lengths.
const ENTRY_BYTES: usize = 1 + 8 + 4 + 4;

/// An index with its term.
pub(crate) type LogId = (u64, u64);

/// The metadata of a record: everything besides its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecordMeta {
    /// Term, vote and commit at the end of the turn.
    pub(crate) hard_state: (u64, u64, u64),
    /// The state machine generation that belongs to the log.
    pub(crate) generation: u64,
    /// The last checkpoint of the state machine.
    pub(crate) checkpoint: LogId,
    /// The base of the log when this was written.
    pub(crate) base: LogId,
    /// Whether everything before this record is void: a snapshot was installed, or the log was created.
    pub(crate) reset: bool,
    /// The entry before the first one of this record; without entries the last one of the log.
    pub(crate) prev: LogId,
    /// The number of entries.
    pub(crate) entries: u32,
}

impl RecordMeta {
    /// Whether all counts are in the possible range.
    pub(crate) fn is_possible(&self) -> bool {
        let (term, _, commit) = self.hard_state;
        let points = [self.checkpoint, self.base, self.prev];
        let counts = points.iter().flat_map(|(index, term)| [*index, *term]).chain([term, commit, self.generation]);
        counts.into_iter().all(|count| count <= MAX_COUNT)
    }

    /// Returns the hard state in raft's type.
    pub(crate) fn hard_state(&self) -> HardState {
        let (term, vote, commit) = self.hard_state;
        HardState { term, vote, commit, ..HardState::default() }
    }
}

/// Encodes a record; returns its bytes and the offset of each entry in the payload.
pub(crate) fn encode(seq: u64, meta: &RecordMeta, entries: &[Entry]) -> (Vec<u8>, Vec<u32>) {
    let size = entries.iter().map(|entry| entry.data.len() + entry.context.len() + ENTRY_BYTES).sum::<usize>();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + META_BYTES + size);
    bytes.resize(HEADER_BYTES, 0);
    bytes.push(u8::from(meta.reset));
    let (term, vote, commit) = meta.hard_state;
    let points = [meta.checkpoint, meta.base, meta.prev].into_iter().flat_map(|(index, term)| [index, term]);
    for number in [term, vote, commit, meta.generation].into_iter().chain(points) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    bytes.extend_from_slice(&meta.entries.to_le_bytes());
    // The index of an entry is not stored: the nth entry of a record, counted from 0, has the index `prev + 1 + n`.
    let mut offsets = Vec::with_capacity(entries.len());
    for entry in entries {
        offsets.push(length(&bytes[HEADER_BYTES..]));
        bytes.push(entry.entry_type as u8);
        bytes.extend_from_slice(&entry.term.to_le_bytes());
        push_prefixed(&mut bytes, &entry.data);
        push_prefixed(&mut bytes, &entry.context);
    }
    write_header(seq, &mut bytes);
    (bytes, offsets)
}

/// Writes the header in front of a payload.
fn write_header(seq: u64, record: &mut [u8]) {
    let (header, payload) = record.split_at_mut(HEADER_BYTES);
    header[0] = RECORD_VERSION;
    header[1..5].copy_from_slice(&length(payload).to_le_bytes());
    header[5..9].copy_from_slice(&checksum(seq, payload).to_le_bytes());
    // A checksum of its own for the header: with a wrong length a damaged record would look torn and be dropped silently.
    let own = crc32fast::hash(&header[..9]);
    header[9..].copy_from_slice(&own.to_le_bytes());
}

/// Returns a record with correct checksums around any payload.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn with_checksum(seq: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = [&[0; HEADER_BYTES], payload].concat();
    write_header(seq, &mut record);
    record
}

fn checksum(seq: u64, payload: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    // The number is covered, so that a record cannot be taken for another one.
    sum.update(&seq.to_be_bytes());
    sum.update(payload);
    sum.finalize()
}

/// The header of a record, in its first chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// The record's format.
    pub(crate) version: u8,
    /// The length of all chunks together.
    pub(crate) total: usize,
    checksum: u32,
}

impl RecordHeader {
    /// Decodes it from the first chunk; None if its checksum does not match.
    pub(crate) fn read(chunk: &[u8]) -> Option<Self> {
        let mut bytes = FieldReader(chunk);
        let (version, length, checksum) = (bytes.u8()?, bytes.u32()?, bytes.u32()?);
        if crc32fast::hash(&chunk[..9]) != bytes.u32()? {
            return None;
        }
        Some(Self { version, total: HEADER_BYTES + length as usize, checksum })
    }

    /// Returns the number of chunks of the record.
    pub(crate) fn chunks(self) -> usize {
        self.total.div_ceil(CHUNK_BYTES)
    }

    /// Returns the payload of a complete record; None if its checksum does not match.
    pub(crate) fn payload(self, seq: u64, record: &[u8]) -> Option<&[u8]> {
        let payload = record.get(HEADER_BYTES..)?;
        (record.len() == self.total && checksum(seq, payload) == self.checksum).then_some(payload)
    }
}

/// Decodes the metadata and leaves `bytes` at the first entry.
pub(crate) fn decode_meta(bytes: &mut FieldReader<'_>) -> Option<RecordMeta> {
    let reset = match bytes.u8()? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let (term, vote) = bytes.pair()?;
    let (commit, generation) = bytes.pair()?;
    Some(RecordMeta {
        hard_state: (term, vote, commit),
        generation,
        checkpoint: bytes.pair()?,
        base: bytes.pair()?,
        reset,
        prev: bytes.pair()?,
        entries: bytes.u32()?,
    })
}

/// Decodes one entry with this index.
pub(crate) fn decode_entry(bytes: &mut FieldReader<'_>, index: u64) -> Option<Entry> {
    let entry_type = match bytes.u8()? {
        0 => EntryType::EntryNormal,
        1 => EntryType::EntryConfChange,
        2 => EntryType::EntryConfChangeV2,
        _ => return None,
    };
    let term = bytes.u64()?;
    let data = bytes::Bytes::copy_from_slice(bytes.prefixed()?);
    let context = bytes::Bytes::copy_from_slice(bytes.prefixed()?);
    Some(Entry { entry_type, term, index, data, context, ..Entry::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (RecordMeta, Vec<Entry>) {
        let entry = Entry {
            entry_type: EntryType::EntryConfChangeV2,
            term: 9,
            index: 8,
            data: "ab".into(),
            context: "c".into(),
            ..Entry::default()
        };
        let meta = RecordMeta {
            hard_state: (9, 5, 6),
            generation: 2,
            checkpoint: (4, 3),
            base: (1, 1),
            reset: false,
            prev: (7, 8),
            entries: 1,
        };
        (meta, vec![entry])
    }

    #[test]
    fn golden_bytes() {
        let (meta, entries) = sample();
        let (bytes, offsets) = encode(11, &meta, &entries);
        let mut golden = b"\x01\x69\0\0\0jw=@\xe1\xdb\xc7\x27\0".to_vec();
        for number in [9_u8, 5, 6, 2, 4, 3, 1, 1, 7, 8] {
            golden.extend_from_slice(&[number, 0, 0, 0, 0, 0, 0, 0]);
        }
        golden.extend_from_slice(b"\x01\0\0\0\x02\x09\0\0\0\0\0\0\0\x02\0\0\0ab\x01\0\0\0c");
        assert_eq!(bytes, golden);
        assert_eq!(offsets, [85]);
    }

    #[test]
    fn a_record_comes_back_and_every_flipped_byte_is_found() {
        let (meta, entries) = sample();
        let (bytes, _) = encode(11, &meta, &entries);
        let header = RecordHeader::read(&bytes).unwrap();
        let mut payload = FieldReader(header.payload(11, &bytes).unwrap());
        assert_eq!(decode_meta(&mut payload), Some(meta));
        assert_eq!(decode_entry(&mut payload, 8), Some(entries[0].clone()));
        assert!(payload.is_empty());
        assert!(header.payload(12, &bytes).is_none(), "a record under another number");
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            let found = RecordHeader::read(&flipped).is_none_or(|header| header.payload(11, &flipped).is_none());
            assert!(found, "flipped byte {at}");
        }
    }
}
