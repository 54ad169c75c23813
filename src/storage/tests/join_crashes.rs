//! The crash matrix of a join: a crash between any two steps leaves the old or the new incarnation.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::{Arc, Mutex};

use raft::eraftpb::{ConfState, HardState, SnapshotMetadata};

use super::{Batch, Change, Db, Engine, Error, Memory, Pair, boot, put, spool_rest};
use crate::storage::{DataDir, Frame, Incarnation};

/// What survives of a database, and what there is of it now.
#[derive(Clone)]
struct Content {
    now: Arc<Memory>,
    synced: Arc<Memory>,
}

/// A directory in memory that takes so many effects and none after that.
#[derive(Clone, Default)]
struct Disk {
    databases: Arc<Mutex<BTreeMap<String, Content>>>,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    left: Arc<Mutex<Option<usize>>>,
}

impl Disk {
    fn effect(&self) -> Result<(), Error> {
        let mut left = self.left.lock().unwrap();
        match left.as_mut() {
            Some(0) => {
                let source = std::io::Error::other("crashed");
                return Err(Error::Io { what: "the process crashed".into(), path: "memory".into(), source });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    /// The directory as a crash leaves it: with a loss of power only what was synced is there.
    fn crashed(&self, power: bool) -> Self {
        let snapshot = |pairs: &Memory| {
            Arc::new(Memory { pairs: Mutex::new(pairs.pairs.lock().unwrap().clone()), ..Memory::default() })
        };
        let databases = self.databases.lock().unwrap();
        let left = databases.iter().map(|(name, content)| {
            let kept = if power { &content.synced } else { &content.now };
            (name.clone(), Content { now: snapshot(kept), synced: snapshot(kept) })
        });
        let files = self.files.lock().unwrap().clone();
        Self {
            databases: Arc::new(Mutex::new(left.collect())),
            files: Arc::new(Mutex::new(files)),
            left: Arc::default(),
        }
    }

    fn start(&self) -> (DataDir, Incarnation) {
        DataDir::open(Arc::new(self.clone()), boot("n1")).unwrap()
    }
}

struct Fused(Content, Disk);

impl Db for Fused {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.0.now.get(key)
    }
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.1.effect()?;
        self.0.now.put(key, value)
    }
    fn write(&self, batch: Batch) -> Result<(), Error> {
        self.1.effect()?;
        self.0.now.write(batch)
    }
    fn write_each(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        changes.iter().try_for_each(|change| {
            self.1.effect()?;
            self.0.now.write_each(&[*change])
        })
    }
    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        self.0.now.scan(from, to, limit)
    }
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error> {
        self.0.now.last(from, to)
    }
    fn sync(&self) -> Result<(), Error> {
        self.1.effect()?;
        let now = self.0.now.pairs.lock().unwrap().clone();
        *self.0.synced.pairs.lock().unwrap() = now;
        Ok(())
    }
    fn name(&self) -> &'static str {
        "memory"
    }
    fn directory(&self) -> &'static str {
        "nowhere"
    }
}

impl Engine for Disk {
    fn open(&self, name: &str, create: bool, _: u64) -> Result<Arc<dyn Db>, Error> {
        let mut databases = self.databases.lock().unwrap();
        if !create && !databases.contains_key(name) {
            return Err(Error::Damaged { what: name.into(), detail: "it is missing".into(), path: "memory".into() });
        }
        if create {
            self.effect()?;
        }
        let fresh = || Content { now: Arc::default(), synced: Arc::default() };
        Ok(Arc::new(Fused(databases.entry(name.into()).or_insert_with(fresh).clone(), self.clone())))
    }
    fn remove(&self, name: &str) -> Result<(), Error> {
        self.effect()?;
        self.files.lock().unwrap().remove(name);
        self.databases.lock().unwrap().retain(|known, _| known != name && !known.starts_with(&format!("{name}/")));
        Ok(())
    }
    fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let databases = self.databases.lock().unwrap();
        let inside = databases.keys().filter_map(|name| name.strip_prefix(&prefix)?.split('/').next());
        let mut names: Vec<String> = inside.map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }
    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.files.lock().unwrap().get(name).cloned())
    }
    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        self.effect()?;
        self.files.lock().unwrap().insert(name.into(), content.to_vec());
        Ok(())
    }
    fn scratch(&self) -> Result<File, Error> {
        Ok(tempfile::tempfile().unwrap())
    }
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    fn path(&self) -> String {
        "memory".into()
    }
}

/// A directory whose node holds the key `own`, durably.
fn owner() -> (Disk, u64) {
    let disk = Disk::default();
    let (data_dir, Incarnation { mut journal, mut state_machine }) = disk.start();
    let entry = raft::eraftpb::Entry { index: 2, term: 1, data: "x".into(), ..Default::default() };
    journal.append(&[entry], &HardState { term: 1, commit: 2, ..HardState::default() }).unwrap();
    journal.sync().unwrap();
    state_machine.apply(vec![put(2, b"own", vec![1])], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    (disk, data_dir.identity().raft_id)
}

/// A snapshot of another cluster, which holds the key `theirs`.
fn snapshot() -> (Vec<Vec<u8>>, SnapshotMetadata) {
    let disk = Disk::default();
    let (data_dir, Incarnation { mut state_machine, .. }) = disk.start();
    state_machine.apply(vec![put(2, b"theirs", vec![2])], usize::MAX).unwrap();
    let (mut spooler, mut reader) = state_machine.begin_snapshot(data_dir.engine().scratch().unwrap(), 1 << 20);
    state_machine.flush().unwrap();
    state_machine.end_snapshot();
    spool_rest(&mut spooler).unwrap();
    let mut frames = Vec::new();
    loop {
        match reader.next().unwrap() {
            Frame::Scan(changes) | Frame::Effects(changes) => frames.push(changes),
            Frame::End(metadata) => return (frames, metadata),
        }
    }
}

fn remove_garbage(data_dir: &DataDir, generation: u64) -> Result<(), Error> {
    data_dir.garbage(generation)?.iter().try_for_each(|name| data_dir.engine().remove(name))
}

/// Everything that a join which is finished does to the directory.
fn joined(disk: &Disk) -> Result<(), Error> {
    let (frames, metadata) = snapshot();
    let (mut data_dir, old) = DataDir::open(Arc::new(disk.clone()), boot("n1"))?;
    let Incarnation { mut journal, .. } = data_dir.switch_incarnation(77, "r:1", "h:1", true)?;
    drop(old);
    remove_garbage(&data_dir, 1)?;
    let mut writer = data_dir.reserve_generation()?.open(0)?;
    frames.iter().try_for_each(|frame| writer.write(frame))?;
    let (generation, _machine) = writer.finish(&metadata)?.take();
    journal.install(
        metadata.index,
        metadata.term,
        generation,
        &HardState { term: 1, commit: metadata.index, ..HardState::default() },
    )?;
    data_dir.commit_join()?;
    remove_garbage(&data_dir, generation)
}

/// Everything that an abandoned join does to it.
fn given_up(disk: &Disk) -> Result<(), Error> {
    let (mut data_dir, _) = DataDir::open(Arc::new(disk.clone()), boot("n1"))?;
    data_dir.switch_incarnation(77, "r:1", "h:1", true)?;
    remove_garbage(&data_dir, 1)?;
    let Some(Incarnation { journal, .. }) = data_dir.roll_back()? else { panic!("nothing was kept") };
    remove_garbage(&data_dir, journal.generation())
}

/// What a start finds: the own data, at once or by going back, or the cluster's. Never neither, whatever is removed as
/// garbage first.
fn found(disk: &Disk, own: u64) -> &'static str {
    let (mut data_dir, Incarnation { journal, state_machine }) = disk.start();
    remove_garbage(&data_dir, journal.generation()).unwrap();
    let (raft_id, previous) = (data_dir.identity().raft_id, data_dir.identity().previous.clone());
    if raft_id == own {
        assert_eq!(previous, None);
        assert_eq!(state_machine.get(b"own").unwrap().unwrap().value.bytes, vec![1]);
        return "its own";
    }
    assert_eq!(data_dir.identity().cluster_id, 77);
    if state_machine.applied().0 == 0 {
        let previous = previous.expect("an empty incarnation names the one before");
        assert!(previous.raft_id == own && previous.holds_data && state_machine.conf_state() == &ConfState::default());
        drop((journal, state_machine));
        let Incarnation { state_machine, .. } = data_dir.roll_back().unwrap().unwrap();
        assert_eq!((data_dir.identity().raft_id, data_dir.identity().cluster_id), (own, previous.cluster_id));
        assert_eq!(state_machine.get(b"own").unwrap().unwrap().value.bytes, vec![1]);
        return "kept";
    }
    assert_eq!((previous, data_dir.identity().formed), (None, true));
    assert_eq!(state_machine.get(b"theirs").unwrap().unwrap().value.bytes, vec![2]);
    assert!(!data_dir.engine().list("").unwrap().contains(&own.to_string()), "and the rest is gone");
    "the cluster's"
}

fn crash_everywhere(steps: fn(&Disk) -> Result<(), Error>, expected: &[&str]) {
    for power in [false, true] {
        let mut seen = Vec::new();
        for left in 0.. {
            let (disk, own) = owner();
            *disk.left.lock().unwrap() = Some(left);
            let complete = steps(&disk).is_ok();
            seen.push(found(&disk.crashed(power), own));
            if complete {
                break;
            }
        }
        seen.dedup();
        assert_eq!(seen, expected, "with a loss of power: {power}");
    }
}

#[test]
fn a_crash_during_a_join_keeps_the_old_data_until_the_snapshot_is_installed() {
    crash_everywhere(joined, &["its own", "kept", "the cluster's"]);
}

#[test]
fn a_crash_during_a_rollback_keeps_the_old_data() {
    crash_everywhere(given_up, &["its own", "kept", "its own"]);
}

#[test]
fn a_second_join_before_any_snapshot_keeps_the_first_incarnation() {
    let (disk, own) = owner();
    let (mut data_dir, _) = disk.start();
    data_dir.switch_incarnation(77, "r:1", "h:1", true).unwrap();
    let first = data_dir.identity().raft_id;
    data_dir.switch_incarnation(78, "r:1", "h:1", false).unwrap();
    assert_eq!(data_dir.garbage(1).unwrap(), [first.to_string()]);
    let previous = data_dir.identity().previous.clone().unwrap();
    assert!(previous.raft_id == own && previous.holds_data);
    let second = data_dir.identity().raft_id;
    data_dir.roll_back().unwrap().unwrap();
    assert_eq!(data_dir.garbage(1).unwrap().len(), 2);
    data_dir.switch_incarnation(77, "r:1", "h:1", true).unwrap();
    assert!(![own, first, second].contains(&data_dir.identity().raft_id), "a raft id is never used again");
    assert!(data_dir.roll_back().unwrap().is_some() && data_dir.roll_back().unwrap().is_none());
}
