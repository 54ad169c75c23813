//! The disk format: every name, key encoding and version of a data directory.
//!
//! Why: two versions of huskv may open one directory, so the format is defined in one place and held by golden tests.
//!
//! Invariants: a newer version is refused by name, never guessed. Encoded keys keep byte order, and the chunks of a value are
//! adjacent. No stored value is longer than [`CHUNK_BYTES`]: sled would put a larger page into a blob file, which it never syncs.
//!
//! See also: [`super::journal::record`], [`super::kv::chunks`], [`super::identity`] (the contents).

use bytes::Buf;

use crate::model::validate;

/// The identity file.
pub(super) const IDENTITY: &str = "identity";
/// The peers file.
pub(super) const PEERS: &str = "peers";
/// The lock file.
pub(super) const LOCK: &str = "LOCK";
/// The name of a scratch file between its creation and its removal.
pub(super) const SPOOL: &str = "spool";

/// The format of the identity file.
pub(super) const IDENTITY_VERSION: u32 = 3;
/// The format of the peers file.
pub(super) const PEERS_VERSION: u32 = 2;
/// The format of a journal record, in its first byte.
pub(super) const RECORD_VERSION: u8 = 1;
/// The format of a chunked value, in the first byte of its first chunk.
pub(super) const VALUE_VERSION: u8 = 1;
/// The format of an item with a token name. Items without one keep [`VALUE_VERSION`], so equal states have equal bytes whatever
/// version of huskv wrote them.
pub(super) const NAMED_ITEM_VERSION: u8 = 2;
/// The format of the state record.
pub(super) const STATE_VERSION: u8 = 1;
/// The format of a redo record, in its first byte.
pub(super) const REDO_VERSION: u8 = 1;
/// The format of a snapshot frame, in its first byte.
pub(super) const CHANGES_VERSION: u8 = 1;

/// The formats that this version writes, by what is written in them.
pub const FORMATS: [(&str, u32); 7] = [
    ("identity", IDENTITY_VERSION),
    ("peers", PEERS_VERSION),
    ("journal", RECORD_VERSION as u32),
    ("state", STATE_VERSION as u32),
    ("item", NAMED_ITEM_VERSION as u32),
    ("redo", REDO_VERSION as u32),
    ("snapshot", CHANGES_VERSION as u32),
];

/// The maximum bytes of one stored value: a leaf of sled holds about 16 values, and a page must stay below a quarter of
/// a segment.
pub(super) const CHUNK_BYTES: usize = 4096;

/// The largest valid index, term or record number. No node ever counts that far, and arithmetic on valid numbers cannot
/// overflow.
pub(super) const MAX_COUNT: u64 = 1 << 62;

/// The key of the flush test; it sorts before every other key and is never read as data.
pub(super) const PROOF_KEY: [u8; 1] = [0];

/// The kind of a key, its first byte. Gaps are left for later kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The state record; one value, under the empty key.
    State = 0x01,
    /// The member table with its tombstones; one value, under the empty key.
    Members = 0x02,
    /// The TTL index: the expiry as eight bytes, big-endian, and the key; no value.
    Expiry = 0x04,
    /// A result in the dedup table, under the index of its entry as eight bytes, big-endian.
    Result = 0x05,
    /// A client's key.
    Data = 0x10,
}

impl Kind {
    /// The smallest possible key.
    pub(super) const FIRST: [u8; 1] = [Self::State as u8];

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::State, Self::Members, Self::Expiry, Self::Result, Self::Data]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Returns the folder of a journal of `raft_id`: the first has number 0, each rewrite the next one.
pub(super) fn journal(raft_id: u64, number: u64) -> String {
    if number == 0 { format!("{raft_id}/journal") } else { format!("{raft_id}/journal-{number}") }
}

/// Parses the folder name of a journal.
pub(super) fn journal_number_of(name: &str) -> Option<u64> {
    if name == "journal" { Some(0) } else { raft_id_of(name.strip_prefix("journal-")?) }
}

/// Returns the folder of a state machine generation of `raft_id`.
pub(super) fn state_machine(raft_id: u64, generation: u64) -> String {
    format!("{raft_id}/machine-{generation}")
}

/// Returns the file of the redo record of a state machine generation of `raft_id`.
pub(super) fn redo(raft_id: u64, generation: u64) -> String {
    format!("{raft_id}/redo-{generation}")
}

/// Parses the name of a redo record's file, or of the file that replaces it.
pub(super) fn redo_generation_of(name: &str) -> Option<u64> {
    raft_id_of(name.strip_prefix("redo-")?.trim_end_matches(".tmp"))
}

/// Parses the folder name of a raft id.
pub(super) fn raft_id_of(name: &str) -> Option<u64> {
    name.parse().ok().filter(|id: &u64| *id != 0 && id.to_string() == name)
}

/// Parses the folder name of a generation.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    raft_id_of(name.strip_prefix("machine-")?)
}

/// Encodes the key of a chunk of a journal record.
pub(super) fn record_key(seq: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&seq.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// Decodes a [`record_key`].
pub(super) fn parse_record_key(key: &[u8]) -> Option<(u64, u32)> {
    let mut bytes = key;
    let (seq, chunk) = (bytes.try_get_u64().ok()?, bytes.try_get_u32().ok()?);
    bytes.is_empty().then_some((seq, chunk))
}

/// Encodes the key of a chunk of a value: kind, the key with 0x00 escaped as 0x00 0xFF and terminated by 0x00 0x01,
/// chunk number.
///
/// Example: chunk 2 of the client key `a` is `10 61 00 01 00 02`. The terminator keeps byte order: `a` sorts before
/// `ab`, and all chunks of `a` are adjacent.
pub(super) fn chunk_key(kind: Kind, key: &[u8], chunk: u16) -> Vec<u8> {
    // Why a key does not end in 0x00 alone: then chunk 0 of the key `a\0`, `61 00 00 00 00`, would lie between chunk 0
    // of `a`, `61 00 00 00`, and its chunk 1, `61 00 00 01`. Escaped, `a\0` begins with `61 00 FF` and sorts behind all
    // of `61 00 01`.
    let mut bytes = Vec::with_capacity(key.len() + 5);
    bytes.push(kind as u8);
    for &byte in key {
        bytes.push(byte);
        if byte == 0 {
            bytes.push(0xFF);
        }
    }
    bytes.extend_from_slice(&[0, 1]);
    bytes.extend_from_slice(&chunk.to_be_bytes());
    bytes
}

/// Whether `key` is valid for this kind. A longer key would create a blob file.
pub(super) fn is_key_of(kind: Kind, key: &[u8]) -> bool {
    let of_client = |key: &[u8]| validate::key(key, validate::KEY_BYTES).is_ok();
    match kind {
        Kind::State | Kind::Members => key.is_empty(),
        Kind::Expiry => key.get(8..).is_some_and(of_client),
        Kind::Result => key.len() == 8,
        Kind::Data => of_client(key),
    }
}

/// Decodes a [`chunk_key`].
pub(super) fn parse_chunk_key(bytes: &[u8]) -> Option<(Kind, Vec<u8>, u16)> {
    let (&kind, mut rest) = bytes.split_first()?;
    let kind = Kind::from_byte(kind)?;
    let mut key = Vec::with_capacity(rest.len());
    loop {
        match *rest {
            [0, 0xFF, ref more @ ..] => {
                key.push(0);
                rest = more;
            }
            [0, 1, high, low] => return Some((kind, key, u16::from_be_bytes([high, low]))),
            // 0x00 before any other byte is neither an escaped zero nor the end of a key.
            [0, ..] | [] => return None,
            [byte, ref more @ ..] => {
                key.push(byte);
                rest = more;
            }
        }
    }
}

/// Reads little-endian fields from untrusted bytes; every method returns None if too few are left.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    /// Reads `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    /// Reads one byte.
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }
    /// Reads four bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.0.try_get_u32_le().ok()
    }
    /// Reads eight bytes.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.0.try_get_u64_le().ok()
    }
    /// Reads two integers of eight bytes.
    pub(super) fn pair(&mut self) -> Option<(u64, u64)> {
        Some((self.u64()?, self.u64()?))
    }
    /// Reads a four-byte length and that many bytes.
    pub(super) fn prefixed(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }
    /// Whether all bytes were read.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes a four-byte length and the bytes.
pub(super) fn push_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Returns the length of `bytes` as a u32.
pub(super) fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("raft and the codec bound everything stored to far below 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_keys() {
        assert_eq!(record_key(0x0102, 3), [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        assert_eq!(chunk_key(Kind::Data, b"a\0b", 258), [0x10, b'a', 0, 0xFF, b'b', 0, 1, 1, 2]);
        assert_eq!(chunk_key(Kind::State, b"", 0), [1, 0, 1, 0, 0]);
        assert_eq!(chunk_key(Kind::Members, b"", 0), [2, 0, 1, 0, 0]);
        assert_eq!(chunk_key(Kind::Expiry, b"e", 0), [4, b'e', 0, 1, 0, 0]);
        assert_eq!(chunk_key(Kind::Result, b"r", 0), [5, b'r', 0, 1, 0, 0]);
        assert_eq!((journal(7, 0), state_machine(7, 2)), ("7/journal".into(), "7/machine-2".into()));
        assert_eq!(journal(7, 3), "7/journal-3");
        assert_eq!(
            ["journal", "journal-3", "journal-0", "journals"].map(journal_number_of),
            [Some(0), Some(3), None, None]
        );
    }

    #[test]
    fn only_the_exact_form_is_a_folder_of_ours() {
        assert_eq!(raft_id_of("42"), Some(42));
        assert_eq!(generation_of("machine-3"), Some(3));
        for name in ["", "0", "042", "+4", "4x", "-1", "identity", "99999999999999999999"] {
            assert_eq!(raft_id_of(name), None, "{name}");
            assert_eq!(generation_of(&format!("machine-{name}")), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(a: Vec<u8>, b: Vec<u8>, p: u16, q: u16) {
            let (x, y) = (chunk_key(Kind::Data, &a, p), chunk_key(Kind::Data, &b, q));
            prop_assert_eq!(parse_chunk_key(&x), Some((Kind::Data, a.clone(), p)));
            prop_assert_eq!((&a, p).cmp(&(&b, q)), x.cmp(&y));
        }

        #[test]
        fn no_bytes_break_the_parser(bytes: Vec<u8>) {
            if let Some((kind, key, chunk)) = parse_chunk_key(&bytes) {
                prop_assert_eq!(chunk_key(kind, &key, chunk), bytes);
            }
        }
    }
}
