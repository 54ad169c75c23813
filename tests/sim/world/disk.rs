//! A disk in memory that loses at a crash what a real one may lose.
//!
//! ```text
//!   batches written:   1   2   3 | 4   5   6         | is the last sync
//!   killed process:    1   2   3   4   5   6         the page cache survives; 4 to 6 are still not synced
//!   loss of power:     1   2   3  [4  [5  [6]]]      1 to 3, and any prefix of the rest
//! ```
//!
//! Invariants: a batch survives as a whole or not at all, and in order, as the real engine writes and syncs its buffers in
//! order. Of changes written one by one (`write_each`) a loss of power also takes some in the middle. Small files are replaced durably, as the `Engine` trait promises. A planned crash lets a number of effects
//! (writes, syncs, sends, answers) pass and none after that, so a process ends between any two of them. A planned disk
//! failure lets a number of writes and syncs pass and fails every later one.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard};

use huskv::model::DiskSpace;
use huskv::storage::{Batch, Change, Db, Engine, Error};

use crate::checks::journal::Journal;
use crate::faults::disk_space::PLENTY;
use crate::rng::Rng;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The fault that is planned for a process or its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Everything passes.
    #[default]
    None,
    /// So many more effects pass, then the process is gone; at 0 it is.
    CrashAfter(u64),
    /// So many more writes and syncs pass, then the disk fails.
    FailAfter(u64),
    /// The disk has failed, and fails every write and sync.
    Failed,
}

type FaultCell = Arc<Mutex<Fault>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

/// Counts one write or sync, and fails it where the plan says so.
fn write_passes(fault_cell: &FaultCell) -> Result<(), Error> {
    let mut fault = lock(fault_cell);
    let what = match *fault {
        Fault::None => return Ok(()),
        // The driver sees an error and ends; whatever it does until then has no effect.
        Fault::CrashAfter(0) => "the simulated process crashed",
        Fault::CrashAfter(left) => {
            *fault = Fault::CrashAfter(left - 1);
            return Ok(());
        }
        Fault::FailAfter(left) if left > 0 => {
            *fault = Fault::FailAfter(left - 1);
            return Ok(());
        }
        Fault::FailAfter(_) | Fault::Failed => {
            *fault = Fault::Failed;
            "no space left on the simulated disk"
        }
    };
    let path = "the simulated directory".into();
    Err(Error::Io { what: what.into(), path, source: std::io::Error::other("simulated") })
}

thread_local! {
    static IN_LOOP: Cell<bool> = const { Cell::new(false) };
    static CLOSED_IN_LOOP: Cell<bool> = const { Cell::new(false) };
}

/// Runs the loop of a node. The second value says whether that has closed a database.
pub fn on_loop_thread<T>(run: impl FnOnce() -> T) -> (T, bool) {
    IN_LOOP.set(true);
    let result = run();
    IN_LOOP.set(false);
    (result, CLOSED_IN_LOOP.take())
}

#[derive(Default)]
struct Content {
    /// What a read sees.
    now: Map,
    /// What survives any crash.
    synced: Map,
    /// The batches written since the last sync, in order, each with whether it is a change that a crash may lose alone.
    unsynced: Vec<(Batch, bool)>,
    /// The bytes of everything written: the file never becomes shorter.
    bytes: u64,
    /// What the records of a journal say, read as they are written.
    journal: Option<Journal>,
}

impl Content {
    fn write(&mut self, batch: Batch, is_alone: bool) {
        // The second reader sees each chunk at the moment it is written, before any check asks what the disk holds.
        if let Some(journal) = &mut self.journal {
            for (key, value) in &batch.changes {
                if let Some(value) = value {
                    journal.put_chunk(key, value);
                }
            }
        }
        let size = |(key, value): &(Vec<u8>, Option<Vec<u8>>)| key.len() + value.as_ref().map_or(0, Vec::len);
        self.bytes += batch.changes.iter().map(size).sum::<usize>() as u64;
        apply(&mut self.now, &batch);
        self.unsynced.push((batch, is_alone));
    }

    /// What a killed process leaves: everything it has written, synced or not.
    fn after_kill(&self) -> Self {
        let (now, synced) = (self.now.clone(), self.synced.clone());
        let (unsynced, journal) = (self.unsynced.clone(), self.journal.clone());
        Self { now, synced, unsynced, bytes: self.bytes, journal }
    }

    /// What a loss of power leaves: what was synced, and any prefix of the rest.
    fn after_power_loss(&self, rng: &mut Rng) -> Self {
        let mut kept = self.synced.clone();
        // The real engine appends batches to one file and syncs it in order, so a lost batch takes all later ones with it. The
        // survivors count as synced at the next start: they are on the disk, and nothing can take them away any more.
        let survives = rng.below(self.unsynced.len() as u64 + 1);
        for (batch, is_alone) in self.unsynced.iter().take(usize::try_from(survives).expect("a length fits")) {
            if !is_alone || rng.chance(80) {
                apply(&mut kept, batch);
            }
        }
        // The records are read again from what is left, as the next start will read them.
        let journal = self.journal.as_ref().map(|journal| journal.reread(kept.iter()));
        Self { now: kept.clone(), synced: kept, unsynced: Vec::new(), bytes: self.bytes, journal }
    }
}

fn apply(map: &mut Map, batch: &Batch) {
    for (key, value) in &batch.changes {
        match value {
            Some(value) => drop(map.insert(key.clone(), value.clone())),
            None => drop(map.remove(key)),
        }
    }
}

/// One simulated database.
#[derive(Clone)]
struct SimDb(Arc<Mutex<Content>>, FaultCell);

/// A handle to an open database.
struct OpenDb(SimDb);

impl Drop for OpenDb {
    fn drop(&mut self) {
        // Background threads may close a database; the loop may not.
        if IN_LOOP.get() {
            CLOSED_IN_LOOP.set(true);
        }
    }
}

impl Db for OpenDb {
    fn name(&self) -> &str {
        "a simulated database"
    }

    fn directory(&self) -> &str {
        "the simulated directory"
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(lock(&self.0.0).now.get(key).cloned())
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.write(Batch { changes: vec![(key.to_vec(), Some(value.to_vec()))] })
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        write_passes(&self.0.1)?;
        lock(&self.0.0).write(batch, false);
        Ok(())
    }

    fn write_each(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        for (key, value) in changes {
            write_passes(&self.0.1)?;
            let changes = vec![(key.to_vec(), value.map(<[u8]>::to_vec))];
            lock(&self.0.0).write(Batch { changes }, true);
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let content = lock(&self.0.0);
        let below = |key: &Vec<u8>| to.is_none_or(|to| key.as_slice() < to);
        let found = content.now.range(from.to_vec()..).take_while(|(key, _)| below(key)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, Error> {
        let content = lock(&self.0.0);
        let found = content.now.range(from.to_vec()..to.to_vec()).next_back();
        Ok(found.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn sync(&self) -> Result<(), Error> {
        write_passes(&self.0.1)?;
        let mut content = lock(&self.0.0);
        // One sync makes all batches since the last one durable, and with them what the journal promises.
        for (batch, _) in std::mem::take(&mut content.unsynced) {
            apply(&mut content.synced, &batch);
        }
        if let Some(journal) = &mut content.journal {
            journal.sync();
        }
        Ok(())
    }

    fn size_on_disk(&self) -> u64 {
        lock(&self.0.0).bytes
    }
}

struct Disk {
    databases: BTreeMap<String, SimDb>,
    files: BTreeMap<String, Vec<u8>>,
    fault_cell: FaultCell,
    space: DiskSpace,
}

impl Default for Disk {
    fn default() -> Self {
        Self { databases: BTreeMap::new(), files: BTreeMap::new(), fault_cell: FaultCell::default(), space: PLENTY }
    }
}

/// One simulated directory; clones are the same directory.
#[derive(Clone, Default)]
pub struct SimEngine(Arc<Mutex<Disk>>);

impl SimEngine {
    /// The directory after a crash: a new one, since background work of the old process may still hold handles to it.
    pub fn after_crash(&self, rng: &mut Rng) -> Self {
        let disk = lock(&self.0);
        let fault_cell = FaultCell::default();
        // Of 100 crashes 70 are a loss of power, the others kill the process alone.
        let power = rng.chance(70);
        let crashed = |db: &SimDb| {
            let content = lock(&db.0);
            let left = if power { content.after_power_loss(rng) } else { content.after_kill() };
            SimDb(Arc::new(Mutex::new(left)), fault_cell.clone())
        };
        let names = disk.databases.keys().cloned();
        let databases = names.zip(disk.databases.values().map(crashed)).collect();
        let (files, space) = (disk.files.clone(), disk.space);
        Self(Arc::new(Mutex::new(Disk { databases, files, fault_cell: fault_cell.clone(), space })))
    }

    /// Sets the free space of the disk.
    pub fn set_space(&self, space: DiskSpace) {
        lock(&self.0).space = space;
    }

    /// Plans a fault.
    pub fn set_fault(&self, fault: Fault) {
        *lock(&lock(&self.0).fault_cell) = fault;
    }

    /// The planned fault.
    pub fn fault(&self) -> Fault {
        *lock(&lock(&self.0).fault_cell)
    }

    /// Whether the planned crash has happened.
    pub fn has_crashed(&self) -> bool {
        self.fault() == Fault::CrashAfter(0)
    }

    /// Counts one effect that is no write; false where the process is gone before it.
    pub fn effect_passes(&self) -> bool {
        match self.fault() {
            Fault::CrashAfter(0) => false,
            Fault::CrashAfter(left) => {
                self.set_fault(Fault::CrashAfter(left - 1));
                true
            }
            _ => true,
        }
    }

    /// Reads the journal of a raft id, if it is on this disk.
    pub fn journal<T>(&self, raft_id: u64, look: impl FnOnce(&Journal) -> T) -> Option<T> {
        let disk = lock(&self.0);
        let db = disk.databases.get(&journal_of(&disk.files, raft_id))?;
        let content = lock(&db.0);
        content.journal.as_ref().map(look)
    }
}

/// The folder of the journal that the identity file names, read by its documented format.
fn journal_of(files: &BTreeMap<String, Vec<u8>>, raft_id: u64) -> String {
    let json = files.get("identity").and_then(|file| file.splitn(2, |byte| *byte == b'\n').nth(1));
    let identity: Option<serde_json::Value> = json.and_then(|json| serde_json::from_slice(json).ok());
    let incarnations = identity.iter().flat_map(|identity| [identity, &identity["previous"]]);
    let numbers = incarnations.filter(|of| of["raft_id"] == raft_id).filter_map(|of| of["journal"].as_u64());
    match numbers.max() {
        None | Some(0) => format!("{raft_id}/journal"),
        Some(number) => format!("{raft_id}/journal-{number}"),
    }
}

impl Engine for SimEngine {
    fn open(&self, name: &str, create: bool, _cache_bytes: u64) -> Result<Arc<dyn Db>, Error> {
        let mut disk = lock(&self.0);
        if !create && !disk.databases.contains_key(name) {
            return Err(Error::Damaged {
                what: name.to_owned(),
                detail: "it is missing".into(),
                path: "the simulated directory".into(),
            });
        }
        let fault_cell = disk.fault_cell.clone();
        let journal = name.contains("/journal").then(Journal::default);
        let fresh = || SimDb(Arc::new(Mutex::new(Content { journal, ..Content::default() })), fault_cell);
        let db = disk.databases.entry(name.to_owned()).or_insert_with(fresh).clone();
        drop(disk);
        let db = OpenDb(db);
        // As the real engine does: what the last process wrote without a sync must not be answered for before it is synced.
        if !create {
            db.sync()?;
        }
        Ok(Arc::new(db))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let below = format!("{name}/");
        let mut disk = lock(&self.0);
        disk.files.remove(name);
        disk.databases.retain(|known, _| known != name && !known.starts_with(&below));
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let disk = lock(&self.0);
        let names = disk.databases.keys().chain(disk.files.keys());
        let mut found: Vec<String> =
            names.filter_map(|name| name.strip_prefix(&prefix)?.split('/').next().map(str::to_owned)).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(lock(&self.0).files.get(name).cloned())
    }

    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        write_passes(&lock(&self.0).fault_cell)?;
        lock(&self.0).files.insert(name.to_owned(), content.to_vec());
        Ok(())
    }

    fn scratch(&self) -> Result<File, Error> {
        tempfile::tempfile().map_err(|source| Error::Io {
            what: "no scratch file".into(),
            path: "the simulated directory".into(),
            source,
        })
    }

    fn space(&self) -> Option<DiskSpace> {
        Some(lock(&self.0).space)
    }

    fn path(&self) -> String {
        "the simulated directory".into()
    }

    fn check(&self) -> Result<(), Error> {
        Ok(())
    }
}
