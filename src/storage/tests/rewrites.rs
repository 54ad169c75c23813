//! Rewrites of the tree: exact under flushes, garbage until the journal names them, and nothing left of an abandoned one.
//!
//! See also: `kv::flush::rewrite`, [`super::flushes`].

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft::eraftpb::{Entry, HardState};

use super::snapshot::receive;
use super::state_machine::{batch, fresh};
use super::{Memory, Pairs, Rng, SteppedSnapshot, boot, open, put, sled, spool_rest};
use crate::storage::incoming_generations::{Reservation, Reservations, ReservedGeneration};
use crate::storage::kv::layers::ReadPoint;
use crate::storage::{DataDir, Db, Engine, Error, Incarnation, Rewrite, Sliced, StateMachine, layout};

/// An engine whose only database is in memory.
#[derive(Default)]
struct One {
    db: Arc<Memory>,
    removals: AtomicUsize,
}

impl Engine for One {
    fn open(&self, _: &str, _: bool, _: u64) -> Result<Arc<dyn Db>, Error> {
        Ok(self.db.clone())
    }

    fn remove(&self, _: &str) -> Result<(), Error> {
        self.removals.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn list(&self, _: &str) -> Result<Vec<String>, Error> {
        Ok(Vec::new())
    }

    fn read_file(&self, _: &str) -> Result<Option<Vec<u8>>, Error> {
        Ok(None)
    }

    fn replace_file(&self, _: &str, _: &[u8]) -> Result<(), Error> {
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

fn rewrite_into(engine: &Arc<One>, state_machine: &StateMachine) -> Rewrite {
    let reserved = ReservedGeneration::new(
        engine.clone(),
        Arc::<Reservations>::default(),
        Reservation { raft_id: 5, generation: 2 },
    );
    state_machine.rewrite_into(reserved, 0)
}

/// Compares the copied part, which ends with `last`; with None it is all.
fn compare(source: &Memory, target: &Memory, last: Option<&Vec<u8>>) {
    let mut expected = source.copied();
    if let Some(last) = last {
        expected.retain(|key, _| key <= last);
    }
    assert!(target.copied() == expected, "the copied part is what the tree has there");
}

#[test]
fn a_rewrite_is_exact_whatever_is_flushed_between_its_slices() {
    let mut mirrored = 0;
    for seed in 0..30 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        for _ in 0..150 {
            state_machine.apply(batch(&mut rng, state_machine.applied().0, 1_000), usize::MAX).unwrap();
        }
        state_machine.flush().unwrap();
        let engine = Arc::new(One::default());
        let mut rewrite = rewrite_into(&engine, &state_machine);
        let (mut last, mut after) = (Some(Vec::new()), 4);
        while after > 0 {
            if rewrite.is_complete() {
                after -= 1;
            } else if rng.below(2) == 0 {
                let sliced = rewrite.slice(usize::try_from(rng.below(500_000)).unwrap()).unwrap();
                assert_eq!(sliced == Sliced::Complete, rewrite.is_complete());
                last = (sliced == Sliced::More).then(|| engine.db.copied().pop_last().unwrap().0);
                compare(&db, &engine.db, last.as_ref());
            }
            for _ in 0..rng.below(40) {
                state_machine.apply(batch(&mut rng, state_machine.applied().0, 1_000), usize::MAX).unwrap();
            }
            if rng.below(2) == 0 {
                let before = engine.db.copied();
                let mut flush = state_machine.freeze(Some(&rewrite)).unwrap();
                flush.run().unwrap();
                drop(state_machine.flush_ended(flush.mark()));
                compare(&db, &engine.db, last.as_ref());
                mirrored += usize::from(before != engine.db.copied());
            }
        }
        let (generation, tree, redo) = rewrite.take().unwrap();
        compare(&db, &engine.db, None);
        let (digest, reader) = (state_machine.digest(), state_machine.reader().clone());
        let begun = reader.begin_get(b"\0missing");
        drop(state_machine.replace_tree(tree, redo));
        assert!(reader.end_get(begun, b"\0missing").unwrap().is_none(), "another tree is another epoch");
        // From here on the new tree alone is written.
        let left = db.copied();
        state_machine.apply(vec![put(state_machine.applied().0 + 1, b"after", vec![1; 9_000])], usize::MAX).unwrap();
        let applied = state_machine.digest();
        state_machine.flush().unwrap();
        assert!(left == db.copied() && digest != applied);
        let again = open(Memory::of(engine.db.copied())).unwrap();
        assert_eq!((again.applied(), again.digest()), (state_machine.applied(), applied), "seed {seed}");
        assert_eq!((generation, engine.removals.load(Ordering::Relaxed)), (2, 1), "the redo record alone");
    }
    assert!(mirrored > 60, "only {mirrored} flushes reached the copied part");
}

#[test]
fn a_stream_goes_on_with_the_tree_that_takes_the_place_of_the_one_it_began_with() {
    let mut switched = 0;
    for seed in 0..30 {
        let mut rng = Rng(seed);
        let (_, mut state_machine) = fresh();
        for _ in 0..60 {
            state_machine.apply(batch(&mut rng, state_machine.applied().0, 3_000), usize::MAX).unwrap();
        }
        state_machine.flush().unwrap();
        let engine = Arc::new(One::default());
        let mut rewrite = Some(rewrite_into(&engine, &state_machine));
        let mut stream = SteppedSnapshot::new(state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 64 << 20));
        while stream.step().unwrap() {
            if let Some(copy) = &mut rewrite {
                copy.slice(300_000).unwrap();
            }
            if let Some((_, tree, redo)) = rewrite.take_if(|copy| copy.is_complete()).and_then(Rewrite::take) {
                drop(state_machine.replace_tree(tree, redo));
                switched += 1;
            }
            for _ in 0..rng.below(3) {
                state_machine.apply(batch(&mut rng, state_machine.applied().0, 3_000), usize::MAX).unwrap();
            }
            let mut flush = state_machine.freeze(rewrite.as_ref()).unwrap();
            flush.run().unwrap();
            drop(state_machine.flush_ended(flush.mark()));
        }
        state_machine.flush().unwrap();
        state_machine.end_snapshot();
        spool_rest(&mut stream.spooler).unwrap();
        let (received, index) = receive(stream.frames, stream.reader).unwrap();
        assert_eq!(index, state_machine.applied().0);
        assert!(received.copied() == pairs(&*tree_of(&state_machine)), "seed {seed}");
    }
    assert!(switched > 20, "only {switched} streams saw another tree");
}

#[test]
fn an_incomplete_rewrite_is_not_taken_and_its_folder_is_removed() {
    let (_, mut state_machine) = fresh();
    let entries = (2..300).map(|index| put(index, &index.to_be_bytes().map(|byte| byte & 0x7F), vec![1; 4_000]));
    state_machine.apply(entries.collect(), usize::MAX).unwrap();
    state_machine.flush().unwrap();
    for slices in 0..2 {
        let engine = Arc::new(One::default());
        let mut rewrite = rewrite_into(&engine, &state_machine);
        for _ in 0..slices {
            assert_eq!(rewrite.slice(1).unwrap(), Sliced::More);
        }
        assert!(rewrite.take().is_none());
        assert_eq!(engine.removals.load(Ordering::Relaxed), 1);
    }
}

fn start(dir: &Path) -> (DataDir, Incarnation) {
    DataDir::open(sled(dir), boot("n1")).unwrap()
}

/// Applies entries that are in the log, too.
fn apply(incarnation: &mut Incarnation, count: u64) {
    let Incarnation { journal, state_machine } = incarnation;
    let first = state_machine.applied().0 + 1;
    for index in first..first + count {
        let entry = Entry { index, term: 1, data: "x".into(), ..Entry::default() };
        journal.append(&[entry], &hard_state(index)).unwrap();
        let key = format!("k{:03}", index * 7 % 50);
        state_machine
            .apply(vec![put(index, key.as_bytes(), vec![index.to_le_bytes()[0]; 10_000])], usize::MAX)
            .unwrap();
    }
    journal.sync().unwrap();
}

fn hard_state(commit: u64) -> HardState {
    HardState { term: 1, commit, ..HardState::default() }
}

fn pairs(db: &dyn Db) -> Pairs {
    db.scan(&[], None, usize::MAX).unwrap().into_iter().filter(|(key, _)| *key != layout::PROOF_KEY).collect()
}

fn tree_of(state_machine: &StateMachine) -> Arc<dyn Db> {
    state_machine.reader().read().tree.clone()
}

fn flush(state_machine: &mut StateMachine, rewrite: &Rewrite) {
    let mut flush = state_machine.freeze(Some(rewrite)).unwrap();
    flush.run().unwrap();
    drop(state_machine.flush_ended(flush.mark()));
}

#[test]
fn a_dropped_rewrite_leaves_nothing_and_a_reserved_one_is_no_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let (mut data_dir, mut incarnation) = start(dir.path());
    apply(&mut incarnation, 100);
    incarnation.state_machine.flush().unwrap();
    let mut rewrite = data_dir.rewrite(&incarnation.state_machine).unwrap();
    let folder = dir.path().join(layout::state_machine(data_dir.identity().raft_id, 2));
    assert!(rewrite.id().1 == 2 && !folder.exists());
    assert_eq!(rewrite.slice(1).unwrap(), Sliced::More);
    assert!(folder.exists() && data_dir.garbage(1).unwrap().is_empty());
    apply(&mut incarnation, 10);
    flush(&mut incarnation.state_machine, &rewrite);
    drop(rewrite);
    assert!(!folder.exists());
    assert!(data_dir.garbage(1).unwrap().is_empty());
    assert_eq!(data_dir.rewrite(&incarnation.state_machine).unwrap().id().1, 3, "no number is used twice");
}

#[test]
fn the_journal_decides_which_generation_a_start_opens() {
    for is_recorded in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (mut data_dir, mut incarnation) = start(dir.path());
        apply(&mut incarnation, 200);
        incarnation.state_machine.flush().unwrap();
        let mut rewrite = data_dir.rewrite(&incarnation.state_machine).unwrap();
        while rewrite.slice(300_000).unwrap() == Sliced::More {
            apply(&mut incarnation, 20);
            flush(&mut incarnation.state_machine, &rewrite);
        }
        let old = tree_of(&incarnation.state_machine);
        let (generation, tree, redo) = rewrite.take().unwrap();
        assert!(generation == 2 && pairs(&*tree) == pairs(&*old));
        assert!(data_dir.garbage(1).unwrap().is_empty(), "taken, and about to be named");
        let flushed = incarnation.state_machine.flushed();
        let digest = incarnation.state_machine.digest();
        if is_recorded {
            incarnation.journal.switch_generation(generation, &hard_state(flushed)).unwrap();
        }
        drop(old);
        drop(incarnation.state_machine.replace_tree(tree, redo));
        // What is flushed after the switch goes to the new generation alone.
        apply(&mut incarnation, 30);
        incarnation.state_machine.flush().unwrap();
        let (later, applied) = (incarnation.state_machine.digest(), incarnation.state_machine.applied().0);
        drop((data_dir, incarnation));
        let (data_dir, incarnation) = start(dir.path());
        let Incarnation { journal, state_machine } = &incarnation;
        let expected = if is_recorded { (2, applied, later) } else { (1, flushed, digest) };
        assert_eq!((journal.generation(), state_machine.applied().0, state_machine.digest()), expected);
        let (used, unused) = if is_recorded { (2, 1) } else { (1, 2) };
        let folder = layout::state_machine(data_dir.identity().raft_id, unused);
        assert_eq!(data_dir.garbage(used).unwrap(), [folder]);
        for index in expected.1 - 40..=expected.1 {
            let item = state_machine.get(format!("k{:03}", index * 7 % 50).as_bytes()).unwrap().unwrap();
            assert_eq!((item.version, &item.value.bytes[..]), (index, &[index.to_le_bytes()[0]; 10_000][..]));
        }
        assert_eq!(state_machine.reader().point(), ReadPoint { index: expected.1, term: 1, clock: 0 });
    }
}
