//! The redo record: all changes of a flush, durable before the first of them is in the tree.
//!
//! Why: a flush writes the tree in pieces. After a crash between two of them some keys would be newer than the applied index, and
//! the entries behind it, applied again, would find other versions than they did on other nodes. With the record the flush is
//! finished before anything is applied.
//!
//! ```text
//!   format u8, from u64, to u64, changes (tag u8, key, value)*, crc32 of all before it
//! ```
//!
//! Example: the tree is the state at 100, the record says from 100 to 250. The process ends after a third of the pieces. The next start
//! writes all of them, and the tree is the state at 250. Without the record, entry 180, `put a if it is at version 90`, would find
//! `a` at 200 in the tree and fail, though it succeeded everywhere else.
//!
//! Invariants: the file is replaced as a whole, so it is never torn. A record is applied to the tree at `from`, or again to the one
//! at `to`: changes are absolute. The state record is its last change.
//!
//! See also: [`super`] (the steps), `layout` (the name of the file).

use std::sync::Arc;

use crate::plant::{self, Plant};
use crate::storage::kv::chunks;
use crate::storage::kv::meta::State;
use crate::storage::layout::{CHUNK_BYTES, FieldReader, Kind, REDO_VERSION, is_key_of, parse_chunk_key, push_prefixed};
use crate::storage::{Batch, Change, Db, Engine, Error};

/// The bytes before the changes.
const HEAD_BYTES: usize = 1 + 8 + 8;

/// The maximum changes of a piece, and about its bytes. A piece is one call of the engine.
const PIECE: (usize, usize) = (128, 128 << 10);

/// The place of the redo record of one generation.
#[derive(Clone)]
pub(crate) struct RedoFile {
    engine: Arc<dyn Engine>,
    name: String,
}

impl RedoFile {
    /// Names the file.
    pub(crate) fn new(engine: Arc<dyn Engine>, name: String) -> Self {
        Self { engine, name }
    }

    /// Writes a record; durable on return.
    ///
    /// # Errors
    /// [`Error`] where the system refuses; the record before is still there then.
    pub(crate) fn write(&self, record: &RedoRecord) -> Result<(), Error> {
        self.engine.replace_file(&self.name, &record.bytes)
    }

    /// Removes the record, which need not be durable: applied again it changes nothing.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        self.engine.remove(&self.name)
    }

    /// Finishes the flush that the last process left, so that `tree` is the state at one applied index; durable on return.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the record does not fit the tree.
    pub(crate) fn recover(&self, tree: &dyn Db) -> Result<(), Error> {
        let Some(bytes) = self.engine.read_file(&self.name)? else { return Ok(()) };
        if plant::is(Plant::RedoIgnored) {
            return self.remove();
        }
        let damaged = |detail: String| Error::Damaged { what: self.name.clone(), detail, path: self.engine.path() };
        if bytes.first().is_some_and(|version| *version > REDO_VERSION) {
            return Err(Error::Newer { what: self.name.clone(), found: bytes[0].into(), known: REDO_VERSION.into() });
        }
        let record = RedoRecord::decode(bytes).ok_or_else(|| damaged("its checksum does not fit".into()))?;
        let applied = applied(tree)?;
        // A record that was not removed in time, and the tree has gone on.
        if applied > record.to {
            return self.remove();
        }
        if applied != record.from && applied != record.to {
            let (from, to) = (record.from, record.to);
            return Err(damaged(format!("it leads from entry {from} to {to}, and the state has applied {applied}")));
        }
        let mut at = record.start();
        while let Some(piece) =
            record.next_changes(&mut at).ok_or_else(|| damaged("it holds other bytes than huskv writes".into()))?
        {
            tree.write_each(&piece)?;
        }
        tree.sync()?;
        self.remove()
    }
}

/// Returns the applied index of the tree's state record.
fn applied(tree: &dyn Db) -> Result<u64, Error> {
    let found = chunks::read(tree, Kind::State, b"")?;
    let state = found.and_then(|(_, bytes)| State::decode(&bytes).ok());
    state.map(|state| state.index).ok_or_else(|| Error::damaged(tree, "the state record is missing or cannot be read"))
}

/// A redo record, encoded.
pub(crate) struct RedoRecord {
    from: u64,
    to: u64,
    bytes: Vec<u8>,
}

impl RedoRecord {
    /// Begins the record of a flush that leads from one applied index to another.
    pub(crate) fn new(from: u64, to: u64, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + capacity);
        bytes.push(REDO_VERSION);
        bytes.extend_from_slice(&from.to_le_bytes());
        bytes.extend_from_slice(&to.to_le_bytes());
        Self { from, to, bytes }
    }

    /// Moves the changes of `batch` to the record.
    pub(crate) fn push(&mut self, batch: &mut Batch) {
        for (key, value) in batch.changes.drain(..) {
            self.bytes.push(u8::from(value.is_some()));
            push_prefixed(&mut self.bytes, &key);
            push_prefixed(&mut self.bytes, value.as_deref().unwrap_or_default());
        }
    }

    /// Ends the record with its checksum.
    pub(crate) fn seal(&mut self) {
        let sum = crc32fast::hash(&self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
    }

    /// Returns the position of the first change.
    pub(crate) fn start(&self) -> usize {
        HEAD_BYTES
    }

    fn decode(bytes: Vec<u8>) -> Option<Self> {
        let end = bytes.len().checked_sub(4)?;
        let (content, sum) = bytes.split_at(end);
        if crc32fast::hash(content).to_le_bytes() != sum {
            return None;
        }
        let mut head = FieldReader(content);
        if head.u8()? != REDO_VERSION {
            return None;
        }
        let (from, to) = head.pair()?;
        Some(Self { from, to, bytes })
    }

    /// Returns the next changes, in order, and moves `at` behind them; `Some(None)` at the end, None for malformed bytes.
    pub(crate) fn next_changes(&self, at: &mut usize) -> Option<Option<Vec<Change<'_>>>> {
        let content = self.bytes.get(..self.bytes.len().checked_sub(4)?)?;
        let mut rest = FieldReader(content.get(*at..)?);
        let begun = rest.0.len();
        let mut piece = Vec::new();
        while !rest.is_empty() && piece.len() < PIECE.0 && begun - rest.0.len() < PIECE.1 {
            let tag = rest.u8()?;
            let (key, value) = (rest.prefixed()?, rest.prefixed()?);
            parse_chunk_key(key).filter(|(kind, key, _)| is_key_of(*kind, key))?;
            piece.push(match tag {
                0 if value.is_empty() => (key, None),
                1 if value.len() <= CHUNK_BYTES => (key, Some(value)),
                _ => return None,
            });
        }
        *at += begun - rest.0.len();
        Some((!piece.is_empty()).then_some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fuzz::{Files, redo_in};
    use crate::storage::layout::chunk_key;
    use crate::storage::tests::Memory;

    const GOLDEN: &[u8] = b"\x01\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\
        \x01\x06\0\0\0\x10k\0\x01\0\0\x01\0\0\0v\
        \0\x06\0\0\0\x10l\0\x01\0\x01\0\0\0\0\
        \x4f\x62\x62\x7d";

    fn sealed(from: u64, to: u64, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> RedoRecord {
        let mut record = RedoRecord::new(from, to, 0);
        record.push(&mut Batch { changes });
        record.seal();
        record
    }

    #[test]
    fn golden_bytes() {
        let changes =
            vec![(chunk_key(Kind::Data, b"k", 0), Some(b"v".to_vec())), (chunk_key(Kind::Data, b"l", 1), None)];
        let record = sealed(0x0102, 0x0304, changes.clone());
        assert_eq!(record.bytes, GOLDEN);
        let read = RedoRecord::decode(GOLDEN.to_vec()).unwrap();
        assert_eq!((read.from, read.to), (0x0102, 0x0304));
        let mut at = read.start();
        let piece = read.next_changes(&mut at).unwrap().unwrap();
        let piece: Vec<_> = piece.into_iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
        assert_eq!(piece, changes);
        assert_eq!(read.next_changes(&mut at), Some(None), "the checksum is no change");
    }

    #[test]
    fn pieces_are_bounded_and_hold_every_change_once() {
        let changes = |count: u64, size: usize| {
            let key = |number: u64| chunk_key(Kind::Data, &number.to_be_bytes().map(|byte| byte & 0x7F), 0);
            (0..count).map(|number| (key(number), Some(vec![7; size]))).collect::<Vec<_>>()
        };
        for (count, size, pieces) in [(0, 0, 0), (1, 9, 1), (128, 9, 1), (129, 9, 2), (300, 9, 3), (100, 4_000, 4)] {
            let changes = changes(count, size);
            let record = sealed(1, 2, changes.clone());
            let (mut at, mut found, mut sizes) = (record.start(), Vec::new(), Vec::new());
            while let Some(piece) = record.next_changes(&mut at).unwrap() {
                sizes.push(piece.iter().map(|(key, value)| key.len() + value.map_or(0, <[u8]>::len)).sum::<usize>());
                assert!(piece.len() <= PIECE.0);
                found.extend(piece.into_iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))));
            }
            assert_eq!((found, sizes.len()), (changes, pieces));
            assert!(sizes.iter().all(|size| *size < PIECE.1 + CHUNK_BYTES), "{sizes:?}");
        }
    }

    /// Encodes a record of these raw changes, with a correct checksum.
    fn raw(changes: &[u8]) -> Vec<u8> {
        let mut record = RedoRecord::new(1, 2, 0);
        record.bytes.extend_from_slice(changes);
        record.seal();
        record.bytes
    }

    #[test]
    fn changes_that_huskv_does_not_write_are_refused_behind_a_correct_checksum() {
        let change = |tag: u8, key: &[u8], value: &[u8]| {
            let mut bytes = vec![tag];
            push_prefixed(&mut bytes, key);
            push_prefixed(&mut bytes, value);
            bytes
        };
        let key = chunk_key(Kind::Data, b"k", 0);
        let complete = change(1, &key, b"v");
        let malformed = [
            change(2, &key, b"v"),
            change(0, &key, b"v"),
            change(1, &key, &[7; CHUNK_BYTES + 1]),
            change(1, b"", b"v"),
            change(1, b"\x7fk", b"v"),
            change(1, &chunk_key(Kind::Data, b"\xff", 0), b"v"),
            complete[..complete.len() - 1].to_vec(),
            vec![1],
        ];
        for changes in malformed {
            let db = Memory::default();
            let mut batch = Batch::default();
            chunks::put(&mut batch, Kind::State, b"", 1, &State { index: 1, ..State::default() }.encode(), 0);
            db.write(batch).unwrap();
            let (before, files) = (db.copied(), Arc::new(Files::default()));
            files.files().insert("redo-1".into(), raw(&changes));
            let recovered = redo_in(files.clone()).recover(&db);
            assert!(matches!(&recovered, Err(Error::Damaged { what, .. }) if what == "redo-1"), "{changes:?}");
            assert!(db.copied() == before && files.files().len() == 1);
        }
    }
}
