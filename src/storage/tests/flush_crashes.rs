//! Crashes during a flush: between any two steps, with any part of the unsynced changes lost, and again during the recovery.
//!
//! Invariants: after each the state is the one before the flush, or, once the redo record is written, the one after it. From there on
//! the same entries lead to the same state and the same tree as without a crash.
//!
//! See also: `kv::flush::redo` (the bytes of the record).

use std::sync::Arc;

use super::flushes::entry;
use super::multi_key::write;
use super::state_machine::batch;
use super::{Memory, Pairs, Rng, put, redo_in};
use crate::model::Members;
use crate::storage::fuzz::Files;
use crate::storage::{Applied, Error, Flush, StateMachine};

const REDO: &str = "redo-1";

/// What is on a disk.
struct Disk {
    db: Arc<Memory>,
    files: Arc<Files>,
}

impl Disk {
    fn new() -> (Self, StateMachine) {
        let disk = Self { db: Arc::default(), files: Arc::default() };
        let redo = redo_in(disk.files.clone());
        let state_machine = StateMachine::create(
            disk.db.clone(),
            redo,
            (1, 1),
            Members::default(),
            raft::eraftpb::ConfState::default(),
        );
        (disk, state_machine.unwrap())
    }

    /// Returns a disk with this content.
    fn of(pairs: Pairs, redo: Option<Vec<u8>>) -> Self {
        let files = Files::default();
        files.files().extend(redo.map(|bytes| (REDO.to_owned(), bytes)));
        Self { db: Memory::of(pairs), files: files.into() }
    }

    fn redo(&self) -> Option<Vec<u8>> {
        self.files.files().get(REDO).cloned()
    }

    /// What a crash may leave: of each key the value that is `synced` or the present one.
    fn crashed(&self, synced: &Pairs, rng: &mut Rng) -> Self {
        let mut pairs = self.db.copied();
        for key in synced.keys().chain(self.db.copied().keys()) {
            if rng.below(2) == 0 {
                match synced.get(key) {
                    Some(value) => pairs.insert(key.clone(), value.clone()),
                    None => pairs.remove(key),
                };
            }
        }
        Self::of(pairs, self.redo())
    }

    fn open(&self) -> Result<StateMachine, Error> {
        StateMachine::open(self.db.clone(), redo_in(self.files.clone()))
    }
}

/// Random entries: overwrites and removals of keys with values of several chunks, keys with a ttl, results of the dedup table.
fn entries(rng: &mut Rng, after: u64) -> Vec<Applied> {
    let mut entries = batch(rng, after, 300);
    let last = after + entries.len() as u64;
    entries.extend((last + 1..last + 4).map(|index| entry(index, index * 100, write(rng))));
    entries
}

fn apply(state_machine: &mut StateMachine, entries: &[Applied]) {
    let applied = state_machine.applied().0;
    let rest = entries.iter().filter(|entry| entry.index > applied).cloned().collect();
    state_machine.apply(rest, usize::MAX).unwrap();
}

fn end(state_machine: &mut StateMachine, mut flush: Flush) {
    flush.run().unwrap();
    drop(state_machine.flush_ended(flush.mark()));
}

/// Opens a disk after a crash: at `from` without a redo record, at `to` with one; then everything is applied again.
fn check(disk: &Disk, (from, to): (u64, u64), all: &[Applied], complete: &StateMachine, tree: &Pairs, rng: &mut Rng) {
    let has_record = disk.redo().is_some();
    if has_record && rng.below(2) == 0 {
        // The recovery ends early, too, wherever; what it has written may be lost or not.
        let before = disk.db.copied();
        *disk.db.changes_left.lock().unwrap() = Some(rng.below(200));
        if disk.open().is_err() {
            assert!(disk.redo().is_some(), "it is needed again");
            check(&disk.crashed(&before, rng), (from, to), all, complete, tree, rng);
        }
        *disk.db.changes_left.lock().unwrap() = None;
    }
    let mut state_machine = disk.open().unwrap();
    assert_eq!(disk.redo(), None);
    assert_eq!(state_machine.applied().0, if has_record { to } else { from });
    apply(&mut state_machine, all);
    assert_eq!((state_machine.digest(), state_machine.live_bytes()), (complete.digest(), complete.live_bytes()));
    state_machine.flush().unwrap();
    assert!(disk.db.copied() == *tree, "the same tree as without a crash");
}

#[test]
fn a_crash_leaves_the_state_before_the_flush_or_after_it() {
    let mut all_steps = 0;
    for seed in 0..25 {
        let mut rng = Rng(seed);
        let (disk, mut state_machine) = Disk::new();
        let (twin_disk, mut twin) = Disk::new();
        let mut all = Vec::new();
        let mut marks = [0; 3];
        for mark in &mut marks {
            for _ in 0..30 {
                all.extend(entries(&mut rng, all.len() as u64 + 1));
            }
            *mark = all.len() as u64 + 1;
        }
        let [from, to, _] = marks;
        let until = |mark: u64| usize::try_from(mark - 1).unwrap();
        apply(&mut twin, &all);
        twin.flush().unwrap();
        let tree = twin_disk.db.copied();
        apply(&mut state_machine, &all[..until(from)]);
        state_machine.flush().unwrap();
        apply(&mut state_machine, &all[..until(to)]);
        let synced = disk.db.copied();
        let mut flush = state_machine.freeze(None).unwrap();
        // What is applied meanwhile is in no flush.
        apply(&mut state_machine, &all);
        let (mut steps, mut stale) = (0, None);
        loop {
            let is_begun = disk.redo().is_some();
            assert_eq!(is_begun, steps > 1, "it is encoded first");
            let copy = Disk::of(disk.db.copied(), disk.redo());
            check(&copy, (from, to), &all, &twin, &tree, &mut rng);
            check(&disk.crashed(&synced, &mut rng), (from, to), &all, &twin, &tree, &mut rng);
            stale = disk.redo().or(stale);
            steps += 1;
            if !flush.step().unwrap() {
                break;
            }
        }
        all_steps += steps;
        assert_eq!(disk.redo(), None);
        // Now the tree is synced: nothing of it is lost, and a record that was not removed in time changes nothing.
        check(&Disk::of(disk.db.copied(), None), (to, to), &all, &twin, &tree, &mut rng);
        check(&Disk::of(disk.db.copied(), stale.clone()), (to, to), &all, &twin, &tree, &mut rng);
        drop(state_machine.flush_ended(flush.mark()));
        let next = state_machine.freeze(None).unwrap();
        end(&mut state_machine, next);
        assert!(disk.db.copied() == tree);
        // The tree has gone on.
        let last = state_machine.applied().0;
        check(&Disk::of(tree.clone(), None), (last, last), &all, &twin, &tree, &mut rng);
        let late = Disk::of(tree.clone(), stale);
        assert_eq!(late.open().unwrap().applied().0, last);
        assert!(late.redo().is_none() && late.db.copied() == tree, "removed and ignored");
    }
    assert!(all_steps > 25 * 5, "only {all_steps} steps");
}

/// Does the steps of a flush up to its redo record, and returns that.
fn recorded_by(flush: &mut Flush, disk: &Disk) -> Vec<u8> {
    loop {
        assert!(flush.step().unwrap());
        if let Some(record) = disk.redo() {
            return record;
        }
    }
}

/// A tree at 2, the redo record from there to 4, and the tree at 4.
fn recorded() -> (Pairs, Vec<u8>, Pairs) {
    let (disk, mut state_machine) = Disk::new();
    state_machine.apply(vec![put(2, b"a", vec![1; 9_000])], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    let before = disk.db.copied();
    state_machine.apply(vec![put(3, b"a", vec![2; 10]), put(4, b"b", vec![3; 5_000])], usize::MAX).unwrap();
    let mut flush = state_machine.freeze(None).unwrap();
    let record = recorded_by(&mut flush, &disk);
    assert_eq!(disk.db.copied(), before, "the record comes first");
    end(&mut state_machine, flush);
    (before, record, disk.db.copied())
}

#[test]
fn a_damaged_redo_record_is_refused_and_nothing_is_changed() {
    let (before, record, after) = recorded();
    let opened = |bytes: Vec<u8>| {
        let disk = Disk::of(before.clone(), Some(bytes.clone()));
        let error = disk.open().err();
        assert!(error.is_none() || (disk.redo() == Some(bytes) && disk.db.copied() == before), "nothing is changed");
        assert!(error.is_some() || disk.db.copied() == after);
        error
    };
    assert!(opened(record.clone()).is_none());
    let is_damaged = |error: &Option<Error>| matches!(error, Some(Error::Damaged { what, .. }) if what == REDO);
    for at in 0..record.len() {
        if at < 100 || at % 37 == 0 || at + 10 > record.len() {
            let mut flipped = record.clone();
            flipped[at] ^= 1;
            assert!(is_damaged(&opened(flipped)), "byte {at}");
            assert!(is_damaged(&opened(record[..at].to_vec())), "{at} bytes of it");
        }
    }
    assert!(is_damaged(&opened([&record[..], &[0]].concat())), "a byte too many");
    for newer in [vec![2], [&[2], &record[1..]].concat(), vec![255; 40]] {
        let found = u32::from(newer[0]);
        let error = opened(newer);
        assert!(
            matches!(&error, Some(Error::Newer { what, found: f, known: 1 }) if what == REDO && *f == found),
            "{error:?}"
        );
    }
}

#[test]
fn a_redo_record_of_another_state_is_refused_and_a_stale_one_is_removed() {
    let (_, record, _) = recorded();
    // From 2 to 4: trees at 1 and 3 are neither; 5 is behind it.
    for (applied, is_refused) in [(1, true), (2, false), (3, true), (4, false), (5, false)] {
        let (disk, mut state_machine) = Disk::new();
        let entries = [put(2, b"a", vec![1; 9_000]), put(3, b"a", vec![2; 10]), put(4, b"b", vec![3; 5_000])];
        apply(&mut state_machine, &[&entries[..], &[put(5, b"b", vec![4; 20])]].concat()[..applied - 1]);
        state_machine.flush().unwrap();
        let before = disk.db.copied();
        disk.files.files().insert(REDO.into(), record.clone());
        match disk.open() {
            Err(error) => {
                assert!(is_refused && matches!(&error, Error::Damaged { what, .. } if what == REDO), "{error}");
                assert!(
                    error.to_string().contains("from entry 2 to 4") && error.to_string().contains(&applied.to_string())
                );
                assert!(disk.db.copied() == before && disk.redo().is_some(), "nothing is changed");
            }
            Ok(state_machine) => {
                assert!(!is_refused && disk.redo().is_none());
                assert_eq!(state_machine.applied().0, u64::try_from(applied.max(4)).unwrap());
                assert!(disk.db.copied() == before || applied == 2);
            }
        }
    }
}

#[test]
fn a_redo_record_without_a_state_is_refused() {
    let (_, record, _) = recorded();
    let disk = Disk::of(Pairs::new(), Some(record));
    assert!(matches!(disk.open(), Err(Error::Damaged { .. })));
    assert!(disk.db.copied().is_empty() && disk.redo().is_some());
}

#[test]
fn a_flush_of_a_dropped_state_machine_ends_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let engine = super::sled(dir.path());
    // The folder of the incarnation is gone, so the file cannot be replaced.
    let flush = |is_dropped: bool| {
        let redo = crate::storage::kv::flush::redo::RedoFile::new(engine.clone(), "5/redo-1".into());
        let db = Arc::new(Memory::default());
        let base = (Members::default(), raft::eraftpb::ConfState::default());
        let mut state_machine = StateMachine::create(db, redo, (1, 1), base.0, base.1).unwrap();
        state_machine.apply(vec![put(2, b"a", vec![1])], usize::MAX).unwrap();
        let mut flush = state_machine.freeze(None).unwrap();
        if is_dropped {
            drop(state_machine);
        }
        flush.run()
    };
    assert!(matches!(flush(false), Err(Error::Io { .. })));
    flush(true).unwrap();
    // Nor does it go on where it could.
    let (disk, mut state_machine) = Disk::new();
    state_machine.apply(vec![put(2, b"a", vec![1])], usize::MAX).unwrap();
    let mut flush = state_machine.freeze(None).unwrap();
    recorded_by(&mut flush, &disk);
    drop(state_machine);
    *disk.db.changes_left.lock().unwrap() = Some(0);
    assert!(!flush.step().unwrap());
}

#[test]
fn what_a_flush_removes_is_within_the_bounds_too() {
    const VALUE: usize = 200_000;
    let key = |number: u64| format!("{number:0500}");
    let puts =
        |first: u64, size: usize| (0..8).map(move |n| put(first + n, key(n).as_bytes(), vec![1; size])).collect();
    let removals: [Vec<Applied>; 2] = [(0..8).map(|n| super::delete(10 + n, key(n).as_bytes())).collect(), puts(10, 1)];
    for entries in removals {
        let (disk, mut state_machine) = Disk::new();
        state_machine.apply(puts(2, VALUE), usize::MAX).unwrap();
        state_machine.flush().unwrap();
        state_machine.apply(entries, usize::MAX).unwrap();
        let (pending, memory) = (state_machine.pending_bytes(), state_machine.unflushed_bytes());
        assert!(pending >= 8 * VALUE as u64, "the engine writes about what it removes: {pending}");
        let mut flush = state_machine.freeze(None).unwrap();
        let record = recorded_by(&mut flush, &disk).len();
        assert!(record < memory, "the encoding of {record} bytes has the room of a memtable of {memory}");
        // A put that replaces as much removes nothing.
        state_machine.apply(puts(18, VALUE), usize::MAX).unwrap();
        let before = state_machine.pending_bytes();
        state_machine.apply(puts(26, VALUE), usize::MAX).unwrap();
        assert_eq!(state_machine.pending_bytes(), before);
        end(&mut state_machine, flush);
        state_machine.flush().unwrap();
        assert_eq!((state_machine.pending_bytes(), state_machine.unflushed_bytes()), (0, 0));
    }
}
