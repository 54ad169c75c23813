//! The disk format: every name, key encoding and version of a data directory.
//!
//! Why: two versions of huskv may open one directory, so the format is defined in one place and held by golden tests.
//!
//! Invariants: a newer version is refused by name, never guessed. Encoded keys keep byte order, and the chunks of a value are
//! adjacent. No stored value is longer than [`CHUNK_BYTES`]: sled would put a larger page into a blob file, which it never syncs.
//!
//! See also: [`super::journal::record`], [`super::kv::chunks`], [`super::identity`] (the contents).

use crate::model::validate;

/// The file that says who the node is.
pub(super) const IDENTITY: &str = "identity";
/// The file that says in which life each peer was spoken to last.
pub(super) const PEERS: &str = "peers";
/// The file that one process holds locked.
pub(super) const LOCK: &str = "LOCK";
/// The name that a scratch file has for the moment between its creation and its removal.
pub(super) const SPOOL: &str = "spool";

/// The format of the identity file.
pub(super) const IDENTITY_VERSION: u32 = 2;
/// The format of the peers file.
pub(super) const PEERS_VERSION: u32 = 1;
/// The format of a journal record, in its first byte.
pub(super) const RECORD_VERSION: u8 = 1;
/// The format of a value of the machine, in the first byte of its first piece.
pub(super) const VALUE_VERSION: u8 = 1;
/// The format of the machine's own state.
pub(super) const STATE_VERSION: u8 = 1;
/// The format of the changes in a copy, in the first byte of each frame.
pub(super) const CHANGES_VERSION: u8 = 1;

/// The most bytes of one stored value: a leaf of sled holds about 16 values, and a page must stay below a quarter of a
/// segment.
pub(super) const CHUNK_BYTES: usize = 4096;

/// The largest index, term or record number that is believed. No node ever counts that far, and nothing that is at or
/// below it overflows where it is added to.
pub(super) const MAX_COUNT: u64 = 1 << 62;

/// The key that the proof of durability writes; it sorts before every other key, and no reader looks at it.
pub(super) const PROOF_KEY: [u8; 1] = [0];

/// What a key of the machine holds, its first byte. Gaps are left for kinds that a later version may put between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    /// The applied index and all that is counted; one value, under the empty key.
    State = 0x01,
    /// The member table with its tombstones; one value, under the empty key.
    Members = 0x02,
    /// When a key may be removed: the cluster's time as eight bytes, big-endian, and the key; no value.
    Expiry = 0x04,
    /// What a named request came to, under the index of the entry that did it as eight bytes, big-endian.
    Result = 0x05,
    /// A client's key.
    Data = 0x10,
}

impl Kind {
    /// The smallest key that any kind may have.
    pub(super) const FIRST: [u8; 1] = [Self::State as u8];

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::State, Self::Members, Self::Expiry, Self::Result, Self::Data]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The folder of the log of `raft_id`.
pub(super) fn journal(raft_id: u64) -> String {
    format!("{raft_id}/journal")
}

/// The folder of a generation of the machine of `raft_id`.
pub(super) fn state_machine(raft_id: u64, generation: u64) -> String {
    format!("{raft_id}/machine-{generation}")
}

/// The raft id whose folder has exactly this name.
pub(super) fn raft_id_of(name: &str) -> Option<u64> {
    name.parse().ok().filter(|id: &u64| *id != 0 && id.to_string() == name)
}

/// The generation whose folder has exactly this name.
pub(super) fn generation_of(name: &str) -> Option<u64> {
    raft_id_of(name.strip_prefix("machine-")?)
}

/// The key of one piece of a journal record.
pub(super) fn record_key(seq: u64, chunk: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&seq.to_be_bytes());
    key[8..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// What [`record_key`] was made of.
pub(super) fn parse_record_key(key: &[u8]) -> Option<(u64, u32)> {
    let mut bytes = FieldReader(key);
    let seq = u64::from_be_bytes(bytes.take(8)?.try_into().ok()?);
    let chunk = u32::from_be_bytes(bytes.take(4)?.try_into().ok()?);
    bytes.is_empty().then_some((seq, chunk))
}

/// The key of one piece of a value: kind, the key with 0x00 written as 0x00 0xFF and ended by 0x00 0x01, piece.
pub(super) fn chunk_key(kind: Kind, key: &[u8], chunk: u16) -> Vec<u8> {
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

/// Whether `key` is one that values of this kind lie under. No other is ever written: a longer one would make a blob.
pub(super) fn is_key_of(kind: Kind, key: &[u8]) -> bool {
    let of_client = |key: &[u8]| validate::key(key, validate::KEY_BYTES).is_ok();
    match kind {
        Kind::State | Kind::Members => key.is_empty(),
        Kind::Expiry => key.get(8..).is_some_and(of_client),
        Kind::Result => key.len() == 8,
        Kind::Data => of_client(key),
    }
}

/// What [`chunk_key`] was made of.
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
            [0, ..] | [] => return None,
            [byte, ref more @ ..] => {
                key.push(byte);
                rest = more;
            }
        }
    }
}

/// Reads little-endian fields off the front of untrusted bytes; None wherever they end too early.
pub(super) struct FieldReader<'a>(pub(super) &'a [u8]);

impl<'a> FieldReader<'a> {
    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    /// One byte.
    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }
    /// Four bytes.
    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }
    /// Eight bytes.
    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
    /// Two times eight bytes.
    pub(super) fn pair(&mut self) -> Option<(u64, u64)> {
        Some((self.u64()?, self.u64()?))
    }
    /// A four-byte length and that many bytes.
    pub(super) fn prefixed(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(usize::try_from(length).ok()?)
    }
    /// Whether everything is used up.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes what [`FieldReader::prefixed`] reads.
pub(super) fn push_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The length of `bytes` as it is stored.
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
        assert_eq!((journal(7), state_machine(7, 2)), ("7/journal".into(), "7/machine-2".into()));
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
