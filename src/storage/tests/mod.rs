//! Tests of the storage module, and their shared helpers.
//!
//! Invariants: an in-memory database where only logic is tested, a real directory where sled's behaviour matters. Golden bytes
//! and parsers are tested beside their code.

mod damage;
mod data_dir;
mod flush_crashes;
mod flush_during_scans;
mod flushes;
mod halved_reads;
mod join_crashes;
mod journal;
mod multi_key;
mod rewrites;
mod sled_engine;
mod snapshot;
mod state_machine;
mod token_names;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{
    Applied, Batch, Change, Db, Engine, Error, Frame, OpenOptions, Operation, Pair, SledEngine, SnapshotReader,
    Spooled, Spooler, StateMachine,
};
use crate::model::Command;
pub(super) use crate::storage::fuzz::{redo_file, redo_in};

/// What a database in memory holds.
pub(super) type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database in memory, whose content a test can look at and change.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) pairs: Mutex<Pairs>,
    /// A snapshot that is read one scan further before and after each change that a batch brings.
    pub(super) snapshot: Mutex<Option<SteppedSnapshot>>,
    /// Called before and after each change that a batch brings.
    pub(super) between: Mutex<Option<Box<dyn FnMut() + Send>>>,
    /// Called with the pairs before each read of one.
    pub(super) before_read: Mutex<Option<BeforeRead>>,
    /// The changes that it takes before every write fails; None for all.
    pub(super) changes_left: Mutex<Option<u64>>,
}

/// What changes the pairs before each read of one.
type BeforeRead = Box<dyn FnMut(&mut Pairs) + Send>;

/// A running snapshot, one step at a time.
pub(super) struct SteppedSnapshot {
    pub(super) spooler: Spooler,
    pub(super) reader: SnapshotReader,
    pub(super) frames: Vec<Vec<u8>>,
}

impl SteppedSnapshot {
    pub(super) fn new((spooler, reader): (Spooler, SnapshotReader)) -> Self {
        Self { spooler, reader, frames: Vec::new() }
    }

    /// Spools what was applied, then reads one part of the tree with what is to be sent before it; whether there is more of
    /// the tree.
    pub(super) fn step(&mut self) -> Result<bool, Error> {
        let mut more = true;
        while let Some(done) = self.spooler.step()? {
            more &= done != Spooled::Scanned;
        }
        let before = self.reader.scans();
        while self.reader.scans() == before
            && let Some(frame) = self.reader.try_next()?
        {
            if let Frame::Scan(frame) | Frame::Effects(frame) = frame {
                self.frames.push(frame);
            }
        }
        Ok(more)
    }
}

/// Spools what is left, once the state machine has ended the snapshot.
pub(super) fn spool_rest(spooler: &mut Spooler) -> Result<(), Error> {
    while spooler.wait()? != Spooled::Complete {}
    Ok(())
}

impl Memory {
    /// Returns a database that holds these pairs.
    pub(super) fn of(pairs: Pairs) -> Arc<Self> {
        Arc::new(Self { pairs: pairs.into(), ..Self::default() })
    }

    /// Returns a copy of what it holds.
    pub(super) fn copied(&self) -> Pairs {
        self.pairs.lock().unwrap().clone()
    }

    /// Locks the pairs to read one of them.
    fn read(&self) -> MutexGuard<'_, Pairs> {
        let mut pairs = self.pairs.lock().unwrap();
        if let Some(change) = self.before_read.lock().unwrap().as_mut() {
            change(&mut pairs);
        }
        pairs
    }

    fn chunk(&self) {
        if let Some(between) = self.between.lock().unwrap().as_mut() {
            between();
        }
        if let Some(snapshot) = self.snapshot.lock().unwrap().as_mut() {
            snapshot.step().unwrap();
        }
    }
}

impl Db for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.read().get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.pairs.lock().unwrap().insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        self.chunk();
        for (key, value) in batch.changes {
            if let Some(left) = self.changes_left.lock().unwrap().as_mut() {
                *left = left.checked_sub(1).ok_or_else(|| Error::damaged(self, "the process has ended"))?;
            }
            // Key by key, as sled does: a reader sees a batch half done.
            let mut pairs = self.pairs.lock().unwrap();
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
            drop(pairs);
            self.chunk();
        }
        Ok(())
    }

    fn write_each(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        let changes = changes.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect();
        self.write(Batch { changes })
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        let mut pairs = Vec::new();
        let mut from = std::ops::Bound::Included(from.to_vec());
        // One lock a pair, as sled does: batches go on between two of them.
        while pairs.len() < limit {
            let held = self.read();
            let Some((key, value)) = held.range::<Vec<u8>, _>((from, std::ops::Bound::Unbounded)).next() else { break };
            if to.is_some_and(|to| key.as_slice() >= to) {
                break;
            }
            pairs.push((key.clone(), value.clone()));
            from = std::ops::Bound::Excluded(key.clone());
        }
        Ok(pairs)
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error> {
        let held = self.read();
        let found = held.range(from.to_vec()..to.to_vec()).next_back();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
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

/// Opens a state machine whose last flush was not interrupted.
pub(super) fn open(db: Arc<dyn Db>) -> Result<StateMachine, Error> {
    StateMachine::open(db, redo_file())
}

/// Numbers that look random and are the same in every run.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    /// From 0 to before `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

pub(super) fn sled(dir: &std::path::Path) -> Arc<dyn Engine> {
    Arc::new(SledEngine::new(dir).unwrap())
}

pub(super) fn boot(name: &str) -> OpenOptions {
    let mut rng = Rng(name.len() as u64);
    OpenOptions {
        name: name.into(),
        raft_address: "127.0.0.1:1".into(),
        http_address: "127.0.0.1:2".into(),
        cache_bytes: 8 << 20,
        picked_http_port: None,
        picked_raft_port: None,
        random: Box::new(move || rng.next()),
    }
}

pub(super) fn put(index: u64, key: &[u8], bytes: Vec<u8>) -> Applied {
    Applied { index, term: 1, operation: Operation::Command(Command::put(key.to_vec(), bytes).into()) }
}

pub(super) fn delete(index: u64, key: &[u8]) -> Applied {
    Applied { index, term: 1, operation: Operation::Command(Command::delete(key.to_vec()).into()) }
}

/// What entries came to, without where that was.
fn outcomes_of(written: Vec<crate::model::Written>) -> Vec<crate::model::CommandResult> {
    written.into_iter().map(|written| written.outcome).collect()
}
