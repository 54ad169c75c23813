//! The copy is exact whatever is written while it is made, and ends for everybody when one end goes away.

use std::sync::Arc;

use super::super::{Error, Frame, Machine, SledEngine, SnapshotReader, Volume};
use super::machine::{batch, fresh};
use super::{Dice, Memory, boot, put, sled};

/// Reads a copy into a database in memory.
fn receive(mut reader: SnapshotReader) -> Result<(Arc<Memory>, u64), Error> {
    let db = Arc::new(Memory::default());
    loop {
        match reader.next()? {
            Frame::Changes(changes) => {
                assert!(changes.len() < (1 << 20) + 10_000);
                let batch = super::super::snapshot::decode(&changes).unwrap();
                super::super::Db::write(&*db, batch)?;
            }
            Frame::End(metadata) => return Ok((db, metadata.index)),
        }
    }
}

#[test]
fn it_is_exact_over_random_interleavings_with_a_writer() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let (db, mut machine) = fresh();
        for _ in 0..40 {
            machine.apply(batch(&mut dice, machine.applied().0, 400), usize::MAX).unwrap();
        }
        let (mut cut, reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20).unwrap();
        let received = std::thread::scope(|scope| {
            let (sender, scanned) = std::sync::mpsc::channel();
            let reading = scope.spawn(|| receive(reader));
            scope.spawn(move || {
                while cut.next_chunk().unwrap() {
                    std::thread::yield_now();
                }
                sender.send(()).unwrap();
                cut.finish().unwrap();
            });
            let mut rounds = 0;
            while matches!(scanned.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
                machine.apply(batch(&mut dice, machine.applied().0, 400), usize::MAX).unwrap();
                if dice.below(2) == 0 {
                    machine.db().unwrap();
                }
                rounds += 1;
            }
            for _ in 0..rounds.min(dice.below(30)) {
                machine.apply(batch(&mut dice, machine.applied().0, 400), usize::MAX).unwrap();
            }
            machine.end_cut().unwrap();
            let end = machine.applied().0;
            // What is applied after the end is not in the copy.
            let frozen = db.pairs.lock().unwrap().clone();
            machine.apply(batch(&mut dice, end, 400), usize::MAX).unwrap();
            let (copy, index) = reading.join().unwrap().unwrap();
            assert_eq!(index, end);
            assert!(*copy.pairs.lock().unwrap() == frozen, "seed {seed}");
            copy
        });
        Machine::open(received).unwrap();
    }
}

#[test]
fn stepwise_interleavings_are_exact_too() {
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let (db, mut machine) = fresh();
        for _ in 0..60 {
            machine.apply(batch(&mut dice, machine.applied().0, 3000), usize::MAX).unwrap();
        }
        let (mut cut, reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20).unwrap();
        while cut.next_chunk().unwrap() {
            for _ in 0..dice.below(4) {
                machine.apply(batch(&mut dice, machine.applied().0, 3000), usize::MAX).unwrap();
                if dice.below(2) == 0 {
                    machine.db().unwrap();
                }
            }
        }
        machine.end_cut().unwrap();
        cut.finish().unwrap();
        let (copy, index) = receive(reader).unwrap();
        assert_eq!(index, machine.applied().0);
        assert!(*copy.pairs.lock().unwrap() == *db.pairs.lock().unwrap(), "seed {seed}");
    }
}

#[test]
fn chunks_in_the_middle_of_a_batch_are_exact_too() {
    for seed in 0..20 {
        let mut dice = Dice(seed);
        let (db, mut machine) = fresh();
        for _ in 0..400 {
            machine.apply(batch(&mut dice, machine.applied().0, 3000), usize::MAX).unwrap();
        }
        let (cut, reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20).unwrap();
        *db.cut.lock().unwrap() = Some(cut);
        for _ in 0..6 {
            machine.apply(batch(&mut dice, machine.applied().0, 3000), usize::MAX).unwrap();
            machine.db().unwrap();
        }
        machine.end_cut().unwrap();
        let cut = db.cut.lock().unwrap().take().unwrap();
        cut.finish().unwrap();
        let (copy, _) = receive(reader).unwrap();
        assert!(*copy.pairs.lock().unwrap() == *db.pairs.lock().unwrap(), "seed {seed}");
    }
}

#[test]
fn whoever_goes_away_nobody_waits_for_ever() {
    let begin = || {
        let (_, mut machine) = fresh();
        let (cut, reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        (machine, cut, reader)
    };
    let (machine, cut, mut reader) = begin();
    drop(machine);
    assert!(matches!(cut.finish(), Err(Error::Copy { .. })));
    assert!(std::iter::from_fn(|| Some(reader.next())).take(9).any(|frame| matches!(frame, Err(Error::Copy { .. }))));

    let (mut machine, cut, mut reader) = begin();
    drop(cut);
    assert!(matches!(reader.next(), Err(Error::Copy { .. })));
    machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();
    machine.end_cut().unwrap();

    let (mut machine, mut cut, reader) = begin();
    drop(reader);
    assert!(matches!(cut.next_chunk(), Err(Error::Copy { .. })));
    machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();

    let (mut machine, mut cut, _reader) = begin();
    machine.begin_cut(tempfile::tempfile().unwrap(), 1 << 20).unwrap();
    assert!(matches!(cut.next_chunk(), Err(Error::Copy { .. })), "the earlier cut is aborted");
}

#[test]
fn over_the_bound_of_the_spool_the_copy_ends_with_a_clear_error() {
    let (_, mut machine) = fresh();
    machine.apply(vec![put(2, b"x", vec![1; 100_000])], usize::MAX).unwrap();
    let (mut cut, mut reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 50_000).unwrap();
    let error = cut.next_chunk().unwrap_err();
    assert!(error.to_string().contains("50000 bytes"), "{error}");
    drop(cut);
    assert!(matches!(reader.next(), Err(Error::Copy { .. })));
}

/// Sends the whole of `machine` to a new generation of `volume`.
fn transfer(machine: &mut Machine, volume: &mut Volume, change: impl Fn(&mut Vec<u8>)) -> Result<(), Error> {
    let (cut, mut reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20)?;
    machine.end_cut().unwrap();
    cut.finish()?;
    let mut writer = volume.receive()?.open(0)?;
    loop {
        match reader.next()? {
            Frame::Changes(mut changes) => {
                change(&mut changes);
                writer.write(&changes)?;
            }
            Frame::End(metadata) => {
                let received = writer.finish(&metadata)?;
                assert_eq!(received.machine().digest(), machine.digest());
                assert_eq!(received.machine().applied(), machine.applied());
                return Ok(());
            }
        }
    }
}

#[test]
fn a_copy_between_real_directories_is_checked_as_a_whole_and_leaves_nothing_behind() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (sender, mut incarnation) = Volume::open(sled(from.path()), boot("a")).unwrap();
    let machine = &mut incarnation.machine;
    let mut dice = Dice(1);
    for _ in 0..20 {
        machine.apply(batch(&mut dice, machine.applied().0, 100), usize::MAX).unwrap();
    }
    let engine: Arc<dyn super::Engine> = Arc::new(SledEngine::new(to.path()).unwrap());
    let (mut volume, _receiver) = Volume::open(engine.clone(), boot("b")).unwrap();
    transfer(machine, &mut volume, |_| {}).unwrap();
    let flipped = transfer(machine, &mut volume, |changes| *changes.last_mut().unwrap() ^= 1);
    assert!(matches!(flipped, Err(Error::Copy { .. })));
    let cut_short = transfer(machine, &mut volume, |changes| changes.truncate(changes.len() - 1));
    assert!(matches!(cut_short, Err(Error::Copy { .. })));
    let newer = transfer(machine, &mut volume, |changes| changes[0] = 9);
    assert!(matches!(newer, Err(Error::Copy { .. })));
    let folder = volume.identity().raft_id.to_string();
    assert_eq!(engine.list(&folder).unwrap(), ["journal", "machine-1"]);
    drop(sender);
}
