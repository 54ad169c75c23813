//! Fuzz targets: damaged disks and malformed snapshots.
//!
//! Invariants: every target returns, whatever the input. Targets behind a checksum write a correct one, so they test what a
//! checksum does not catch: bytes of another program or of a malicious peer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raft::eraftpb::{Entry, HardState};

use super::journal::record;
use super::kv::chunks;
use super::kv::flush::redo::RedoFile;
use super::kv::meta::State;
use super::layout::{CHUNK_BYTES, FieldReader, Kind, record_key};
use super::snapshot::send_spool::Spool;
use super::{
    Applied, Batch, Change, Db, Engine, Error, Journal, Operation, Pair, StateMachine, identity, peer_boot_ids,
    snapshot,
};
use crate::model::{Command, codec};

/// A database in memory.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Memory {
    fn pairs(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads pairs: key length u8, key, value length u16, value.
    fn of(bytes: &[u8]) -> Arc<Self> {
        let db = Self::default();
        let mut bytes = FieldReader(bytes);
        while let Some((key, value)) = pair(&mut bytes) {
            db.pairs().insert(key.to_vec(), value.to_vec());
        }
        Arc::new(db)
    }
}

fn pair<'a>(bytes: &mut FieldReader<'a>) -> Option<(&'a [u8], &'a [u8])> {
    let key = bytes.u8()?;
    Some((bytes.take(usize::from(key))?, short_run(bytes)?))
}

fn short_run<'a>(bytes: &mut FieldReader<'a>) -> Option<&'a [u8]> {
    let length = u16::from_le_bytes([bytes.u8()?, bytes.u8()?]);
    bytes.take(usize::from(length))
}

/// A directory in memory with files alone: the place of a redo record.
#[derive(Default)]
pub(crate) struct Files(Mutex<BTreeMap<String, Vec<u8>>>);

impl Files {
    /// Locks the files, by name.
    pub(crate) fn files(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine for Files {
    fn open(&self, name: &str, _: bool, _: u64) -> Result<Arc<dyn Db>, Error> {
        Err(Error::Damaged { what: name.into(), detail: "it holds no databases".into(), path: self.path() })
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.files().remove(name);
        Ok(())
    }

    fn list(&self, _: &str) -> Result<Vec<String>, Error> {
        Ok(self.files().keys().cloned().collect())
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.files().get(name).cloned())
    }

    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.files().insert(name.into(), content.to_vec());
        Ok(())
    }

    fn scratch(&self) -> Result<File, Error> {
        Err(Error::snapshot("it has no scratch files"))
    }

    fn path(&self) -> String {
        "nowhere".into()
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Returns the place of a redo record in memory.
pub(crate) fn redo_file() -> RedoFile {
    redo_in(Arc::default())
}

/// Returns the place of a redo record, `redo-1`, in these files.
pub(crate) fn redo_in(files: Arc<Files>) -> RedoFile {
    RedoFile::new(files, "redo-1".into())
}

impl Db for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.pairs().get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.pairs().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let mut pairs = self.pairs();
        for (key, value) in batch.changes {
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
        Ok(())
    }

    fn write_each(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        let changes = changes.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
        self.write(Batch { changes })
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error> {
        let pairs = self.pairs();
        let found = pairs.range(from.to_vec()..to.to_vec()).next_back();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        let pairs = self.pairs();
        let from = pairs.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
        let found = from.take_while(|(key, _)| to.is_none_or(|to| key.as_slice() < to)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn directory(&self) -> &'static str {
        "nowhere"
    }
}

/// The identity file, raw and behind a correct first line.
pub fn identity(bytes: &[u8]) {
    let with_checksum = [format!("huskv-identity 1 {:08x}\n", crc32fast::hash(bytes)).as_bytes(), bytes].concat();
    for bytes in [bytes, &with_checksum] {
        match identity::decode(bytes, "nowhere") {
            Ok(identity) => {
                let again = identity::decode(&identity::encode(&identity), "nowhere");
                assert_eq!(again.ok(), Some(identity), "an identity is the same after a second trip");
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "one line: {error}"),
        }
    }
}

/// The peers file, raw and behind a correct first line.
pub fn peers(bytes: &[u8]) {
    let with_checksum = [format!("huskv-peers 1 {:08x}\n", crc32fast::hash(bytes)).as_bytes(), bytes].concat();
    for bytes in [bytes, &with_checksum] {
        match peer_boot_ids::decode(bytes, "nowhere") {
            Ok(known) => {
                let again = peer_boot_ids::decode(&peer_boot_ids::encode(&known), "nowhere");
                assert_eq!(again.ok(), Some(known), "what is known of peers is the same after a second trip");
            }
            Err(error) => assert!(!error.to_string().contains('\n'), "one line: {error}"),
        }
    }
}

/// The state record.
pub fn state(bytes: &[u8]) {
    if let Ok(state) = State::decode(bytes) {
        assert!(matches!(State::decode(&state.encode()), Ok(again) if again == state));
    }
}

/// A state machine over arbitrary pairs.
pub fn machine_pairs(bytes: &[u8]) {
    use_machine(Memory::of(bytes));
}

/// A state machine over valid values with matching totals and arbitrary content: the state record, the member table,
/// then keys and values. A key that begins with `E@` is an expiry, `R@` a result, `N@` an item with a token name.
pub fn machine_values(bytes: &[u8]) {
    let mut bytes = FieldReader(bytes);
    let (Some(mut state), Some(table)) = (short_run(&mut bytes).map(<[u8]>::to_vec), short_run(&mut bytes)) else {
        return;
    };
    let table = [&[codec::VERSION], table].concat();
    let mut batch = Batch::default();
    let mut digest = chunks::put(&mut batch, Kind::Members, b"", 1, &table, 0).digest();
    let mut values = BTreeMap::new();
    while let Some((key, value)) = pair(&mut bytes) {
        values.insert(key, value);
    }
    let version = |value: &[u8]| value.len() as u64;
    let mut keys = 0;
    for (key, value) in &values {
        let (kind, name, version) = match key.split_first_chunk() {
            Some(([b'E', b'@'], name)) => {
                let of = name.get(8..).and_then(|key| values.get(key)).map_or(0, |value| version(value));
                (Kind::Expiry, name, of)
            }
            Some(([b'R', b'@'], name)) => (Kind::Result, name, name.try_into().map_or(0, u64::from_be_bytes)),
            _ => (Kind::Data, *key, version(value)),
        };
        keys += u64::from(kind == Kind::Data);
        let header = if key.starts_with(b"N@") {
            chunks::put_named(&mut batch, name, version, value, 0)
        } else {
            chunks::put(&mut batch, kind, name, version, value, 0)
        };
        digest = digest.wrapping_add(header.digest());
    }
    if let Ok(mut read) = State::decode(&state) {
        read.totals = chunks::StateTotals { keys, digest };
        state = read.encode();
    }
    chunks::put(&mut batch, Kind::State, b"", 1, &state, 0);
    let db = Memory::default();
    db.write(batch).expect("memory takes everything");
    use_machine(Arc::new(db));
}

/// A journal over arbitrary pairs.
pub fn journal_pairs(bytes: &[u8]) {
    use_journal(Memory::of(bytes));
}

/// A journal of valid records with arbitrary payloads: the first record number, then the payloads.
pub fn journal_records(bytes: &[u8]) {
    let mut bytes = FieldReader(bytes);
    let Some(first) = bytes.u64() else { return };
    let db = Memory::default();
    let mut seq = first;
    while let Some(payload) = short_run(&mut bytes) {
        let record = record::with_checksum(seq, payload);
        for (chunk, number) in record.chunks(CHUNK_BYTES).zip(0..) {
            db.pairs().insert(record_key(seq, number).to_vec(), chunk.to_vec());
        }
        seq = seq.wrapping_add(1);
    }
    use_journal(Arc::new(db));
}

/// A frame of snapshot changes, and the state machine it produces.
pub fn changes(bytes: &[u8]) {
    let db = Memory::default();
    let Some(batch) = snapshot::frames::decode(bytes) else { return };
    assert!(batch.changes.iter().all(|(_, value)| value.as_ref().is_none_or(|value| value.len() <= CHUNK_BYTES)));
    db.write(batch).expect("memory takes everything");
    use_machine(Arc::new(db));
}

/// A damaged spool file.
pub fn spool(bytes: &[u8]) {
    thread_local! {
        static SCRATCH: RefCell<Option<File>> = const { RefCell::new(None) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let file = scratch.get_or_insert_with(|| {
            let (process, thread) = (std::process::id(), std::thread::current().id());
            let path = std::env::temp_dir().join(format!("huskv-fuzz-{process}-{thread:?}"));
            let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a scratch file");
            std::fs::remove_file(&path).expect("it was just made");
            file
        });
        file.set_len(0).and_then(|()| file.write_all_at(bytes, 0)).expect("a small scratch file can be written");
        let spool = Spool::holding(file.try_clone().expect("a second handle"), bytes.len() as u64);
        while let Ok(Some(frame)) = spool.next() {
            drop(snapshot::frames::decode(&frame));
        }
    });
}

fn use_machine(db: Arc<Memory>) {
    let data: Vec<_> = db.pairs().keys().filter_map(|key| super::layout::parse_chunk_key(key)).collect();
    let mut state_machine = match StateMachine::open(db, redo_file()) {
        Ok(state_machine) => state_machine,
        Err(error) => return assert!(!error.to_string().contains('\n'), "one line: {error}"),
    };
    for (kind, key, _) in &data {
        assert!(
            *kind != Kind::Data || state_machine.get(key).is_ok_and(|found| found.is_some()),
            "what was counted is there"
        );
    }
    let (index, term) = state_machine.applied();
    let last = data.iter().rfind(|(kind, ..)| *kind == Kind::Data);
    let key = last.map_or(&b"k"[..], |(_, key, _)| key).to_vec();
    let command = Command::put(key.clone(), "1");
    let operation = Operation::Command(command.into());
    let applied = state_machine.apply(vec![Applied { index: index + 1, term, operation }], usize::MAX);
    assert!(
        applied.is_ok()
            && state_machine.get(&key).is_ok_and(|found| found.is_some_and(|value| value.version == index + 1))
    );
}

fn use_journal(db: Arc<Memory>) {
    let mut journal = match Journal::open(db.clone()) {
        Ok(journal) => journal,
        Err(error) => return assert!(!error.to_string().contains('\n'), "one line: {error}"),
    };
    let (first, last) = (journal.first_index(), journal.last_index());
    assert!(journal.term(first - 1).is_some() && journal.term(last).is_some());
    for index in first..=last {
        let entries = journal.entries(index, last + 1, 1).expect("a log that opens has its entries");
        assert_eq!(entries.first().map(|entry| (entry.index, Some(entry.term))), Some((index, journal.term(index))));
    }
    let hard_state = journal.hard_state();
    let entry = Entry { index: last + 1, term: journal.term(last).unwrap_or_default(), ..Entry::default() };
    journal.append(&[entry], &HardState { commit: last, ..hard_state }).expect("the next entry can be appended");
    drop(journal.compact(last, usize::MAX));
    let again = Journal::open(db).expect("what was appended and compacted opens again");
    assert_eq!((again.last_index(), again.first_index()), (last + 1, journal.first_index()));
}
