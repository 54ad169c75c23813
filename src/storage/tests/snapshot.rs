//! Snapshot tests: exact under concurrent writes, and aborted for all ends if one is dropped.

use std::sync::Arc;

use super::state_machine::{batch, fresh};
use super::{Memory, Rng, SteppedSnapshot, boot, open, put, sled, spool_rest};
use crate::storage::{DataDir, Error, Frame, SledEngine, SnapshotReader, Spooled, StateMachine};

/// Reads the rest of a snapshot into a database in memory that has what is read of it already.
pub(super) fn receive(read: Vec<Vec<u8>>, mut reader: SnapshotReader) -> Result<(Arc<Memory>, u64), Error> {
    let db = Arc::new(Memory::default());
    let write = |changes: &[u8]| {
        assert!(changes.len() < (1 << 20) + 10_000);
        crate::storage::Db::write(&*db, crate::storage::snapshot::frames::decode(changes).unwrap())
    };
    read.iter().try_for_each(|changes| write(changes))?;
    loop {
        match reader.next()? {
            Frame::Scan(changes) | Frame::Effects(changes) => write(&changes)?,
            Frame::End(metadata) => return Ok((db.clone(), metadata.index)),
        }
    }
}

#[test]
fn it_is_exact_over_random_interleavings_with_a_writer() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        for _ in 0..40 {
            state_machine.apply(batch(&mut rng, state_machine.applied().0, 400), usize::MAX).unwrap();
        }
        let (mut spooler, reader) = state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 64 << 20);
        let received = std::thread::scope(|scope| {
            let (sender, scanned) = std::sync::mpsc::channel();
            let reading = scope.spawn(|| receive(Vec::new(), reader));
            scope.spawn(move || {
                while spooler.wait().unwrap() == Spooled::Scanned {
                    sender.send(()).unwrap();
                }
            });
            let mut rounds = 0;
            while matches!(scanned.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                state_machine.apply(batch(&mut rng, state_machine.applied().0, 400), usize::MAX).unwrap();
                if rng.below(2) == 0 {
                    state_machine.flush().unwrap();
                }
                rounds += 1;
            }
            for _ in 0..rounds.min(rng.below(30)) {
                state_machine.apply(batch(&mut rng, state_machine.applied().0, 400), usize::MAX).unwrap();
            }
            state_machine.flush().unwrap();
            state_machine.end_snapshot();
            let end = state_machine.applied().0;
            // What is applied after the end is not in the snapshot.
            let frozen = db.pairs.lock().unwrap().clone();
            state_machine.apply(batch(&mut rng, end, 400), usize::MAX).unwrap();
            let (snapshot, index) = reading.join().unwrap().unwrap();
            assert_eq!(index, end);
            assert!(*snapshot.pairs.lock().unwrap() == frozen, "seed {seed}");
            snapshot
        });
        open(received).unwrap();
    }
}

#[test]
fn stepwise_interleavings_are_exact_too() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        for _ in 0..60 {
            state_machine.apply(batch(&mut rng, state_machine.applied().0, 3000), usize::MAX).unwrap();
        }
        let mut copied = SteppedSnapshot::new(state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 64 << 20));
        while copied.step().unwrap() {
            for _ in 0..rng.below(4) {
                state_machine.apply(batch(&mut rng, state_machine.applied().0, 3000), usize::MAX).unwrap();
                if rng.below(2) == 0 {
                    state_machine.flush().unwrap();
                }
            }
        }
        state_machine.flush().unwrap();
        state_machine.end_snapshot();
        spool_rest(&mut copied.spooler).unwrap();
        let (snapshot, index) = receive(copied.frames, copied.reader).unwrap();
        assert_eq!(index, state_machine.applied().0);
        assert!(*snapshot.pairs.lock().unwrap() == *db.pairs.lock().unwrap(), "seed {seed}");
    }
}

#[test]
fn chunks_in_the_middle_of_a_batch_are_exact_too() {
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        for _ in 0..400 {
            state_machine.apply(batch(&mut rng, state_machine.applied().0, 3000), usize::MAX).unwrap();
        }
        let copied = SteppedSnapshot::new(state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 64 << 20));
        *db.snapshot.lock().unwrap() = Some(copied);
        for _ in 0..6 {
            state_machine.apply(batch(&mut rng, state_machine.applied().0, 3000), usize::MAX).unwrap();
            state_machine.flush().unwrap();
        }
        state_machine.flush().unwrap();
        state_machine.end_snapshot();
        let mut copied = db.snapshot.lock().unwrap().take().unwrap();
        spool_rest(&mut copied.spooler).unwrap();
        let (snapshot, _) = receive(copied.frames, copied.reader).unwrap();
        assert!(*snapshot.pairs.lock().unwrap() == *db.pairs.lock().unwrap(), "seed {seed}");
    }
}

#[test]
fn if_one_end_is_dropped_the_others_fail_instead_of_waiting() {
    let begin = || {
        let (_, mut state_machine) = fresh();
        let (spooler, reader) = state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 1 << 20);
        (state_machine, spooler, reader)
    };
    let (state_machine, mut spooler, mut reader) = begin();
    drop(state_machine);
    assert!(matches!(spooler.wait(), Err(Error::Snapshot { .. })));
    assert!(
        std::iter::from_fn(|| Some(reader.next())).take(9).any(|frame| matches!(frame, Err(Error::Snapshot { .. })))
    );

    let (mut state_machine, spooler, mut reader) = begin();
    drop(spooler);
    assert!(matches!(reader.next(), Err(Error::Snapshot { .. })));
    state_machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    state_machine.end_snapshot();

    let (mut state_machine, mut spooler, reader) = begin();
    drop(reader);
    assert!(matches!(spooler.wait(), Err(Error::Snapshot { .. })));
    state_machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();

    let (mut state_machine, mut spooler, _reader) = begin();
    state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 1 << 20);
    assert!(matches!(spooler.wait(), Err(Error::Snapshot { .. })), "the earlier snapshot is aborted");
}

#[test]
fn a_full_spool_aborts_the_snapshot_with_a_clear_error() {
    let (_, mut state_machine) = fresh();
    let (mut spooler, mut reader) = state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 50_000);
    // The tree is scanned in one part, which the change is then behind.
    let mut frame = None;
    while reader.scans() == 0 || frame.is_some() {
        frame = reader.try_next().unwrap();
    }
    state_machine.apply(vec![put(2, b"x", vec![1; 100_000])], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    let error = spooler.wait().unwrap_err();
    assert!(error.to_string().contains("50000 bytes"), "{error}");
    let error = reader.next().unwrap_err();
    assert!(error.to_string().contains("50000 bytes"), "{error}");
}

#[test]
fn the_tree_waits_for_its_reader_and_is_never_spooled() {
    let (_, mut state_machine) = fresh();
    state_machine
        .apply((2..40).map(|index| put(index, &[index as u8], vec![1; 100_000])).collect(), usize::MAX)
        .unwrap();
    state_machine.flush().unwrap();
    let scratch = tempfile::tempfile().unwrap();
    let (mut spooler, reader) = state_machine.begin_snapshot(scratch.try_clone().unwrap(), 50_000);
    assert_eq!((spooler.step().unwrap(), reader.scans()), (None, 0));
    state_machine.end_snapshot();
    spool_rest(&mut spooler).unwrap();
    let (snapshot, _) = receive(Vec::new(), reader).unwrap();
    assert_eq!(open(snapshot).unwrap().digest(), state_machine.digest());
    assert_eq!(scratch.metadata().unwrap().len(), 0);
}

#[test]
fn a_snapshot_stops_at_the_disk_reserve_of_the_receiver() {
    let (_, mut state_machine) = fresh();
    state_machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn super::Engine> = Arc::new(SledEngine::with_reserve(dir.path(), Some(u64::MAX / 2)).unwrap());
    assert!(engine.space().unwrap().is_nearly_full() && engine.last_space().unwrap().is_nearly_full());
    let (mut data_dir, _incarnation) = DataDir::open(engine.clone(), boot("b")).unwrap();
    let failure = transfer(&mut state_machine, &mut data_dir, |_| {}).unwrap_err().to_string();
    assert!(failure.contains("receiver's disk") && failure.contains("storage.reserve_mb"), "{failure}");
    assert!(data_dir.reserve_generation().unwrap().open(1 << 40).is_err(), "no room for even a small part of it");
    let folder = data_dir.identity().raft_id.to_string();
    assert_eq!(engine.list(&folder).unwrap(), ["journal", "machine-1"]);
}

/// Sends the whole of `state_machine` to a new generation of `data_dir`.
fn transfer(
    state_machine: &mut StateMachine,
    data_dir: &mut DataDir,
    change: impl Fn(&mut Vec<u8>),
) -> Result<(), Error> {
    let (mut spooler, mut reader) = state_machine.begin_snapshot(tempfile::tempfile().unwrap(), 64 << 20);
    state_machine.flush().unwrap();
    state_machine.end_snapshot();
    spool_rest(&mut spooler)?;
    let mut writer = data_dir.reserve_generation()?.open(0)?;
    loop {
        match reader.next()? {
            Frame::Scan(mut changes) | Frame::Effects(mut changes) => {
                change(&mut changes);
                writer.write(&changes)?;
            }
            Frame::End(metadata) => {
                let received = writer.finish(&metadata)?;
                assert_eq!(received.state_machine().digest(), state_machine.digest());
                assert_eq!(received.state_machine().applied(), state_machine.applied());
                return Ok(());
            }
        }
    }
}

#[test]
fn a_received_snapshot_is_verified_and_an_invalid_one_removed() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, mut incarnation) = DataDir::open(sled(from.path()), boot("a")).unwrap();
    let state_machine = &mut incarnation.state_machine;
    let mut rng = Rng(1);
    for _ in 0..20 {
        state_machine.apply(batch(&mut rng, state_machine.applied().0, 100), usize::MAX).unwrap();
    }
    let engine: Arc<dyn super::Engine> = Arc::new(SledEngine::new(to.path()).unwrap());
    let (mut data_dir, _receiver) = DataDir::open(engine.clone(), boot("b")).unwrap();
    transfer(state_machine, &mut data_dir, |_| {}).unwrap();
    let flipped = transfer(state_machine, &mut data_dir, |changes| *changes.last_mut().unwrap() ^= 1);
    assert!(matches!(flipped, Err(Error::Snapshot { .. })));
    let truncated = transfer(state_machine, &mut data_dir, |changes| changes.truncate(changes.len() - 1));
    assert!(matches!(truncated, Err(Error::Snapshot { .. })));
    let newer = transfer(state_machine, &mut data_dir, |changes| changes[0] = 9);
    assert!(matches!(newer, Err(Error::Snapshot { .. })));
    let folder = data_dir.identity().raft_id.to_string();
    assert_eq!(engine.list(&folder).unwrap(), ["journal", "machine-1"]);
    drop(sender);
}
