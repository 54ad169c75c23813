//! The copy is exact whatever is written while it is made, and ends for everybody when one end goes away.

use std::sync::Arc;

use super::super::{Error, Frame, Machine, SledEngine, SnapshotReader, Spooled, Volume};
use super::machine::{batch, fresh};
use super::{Copied, Dice, Memory, boot, put, sled, spool_rest};

/// Reads the rest of a copy into a database in memory that has what is read of it already.
fn receive(read: Vec<Vec<u8>>, mut reader: SnapshotReader) -> Result<(Arc<Memory>, u64), Error> {
    let db = Arc::new(Memory::default());
    let write = |changes: &[u8]| {
        assert!(changes.len() < (1 << 20) + 10_000);
        super::super::Db::write(&*db, super::super::snapshot::decode(changes).unwrap())
    };
    read.iter().try_for_each(|changes| write(changes))?;
    loop {
        match reader.next()? {
            Frame::Changes(changes) => write(&changes)?,
            Frame::End(metadata) => return Ok((db.clone(), metadata.index)),
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
        let (mut spooler, reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20).unwrap();
        let received = std::thread::scope(|scope| {
            let (sender, scanned) = std::sync::mpsc::channel();
            let reading = scope.spawn(|| receive(Vec::new(), reader));
            scope.spawn(move || {
                loop {
                    match spooler.wait().unwrap() {
                        Spooled::Effects => std::thread::yield_now(),
                        Spooled::Scanned => sender.send(()).unwrap(),
                        Spooled::Whole => break,
                    }
                }
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
        let mut copied = Copied::new(machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20).unwrap());
        while copied.step().unwrap() {
            for _ in 0..dice.below(4) {
                machine.apply(batch(&mut dice, machine.applied().0, 3000), usize::MAX).unwrap();
                if dice.below(2) == 0 {
                    machine.db().unwrap();
                }
            }
        }
        machine.end_cut().unwrap();
        spool_rest(&mut copied.spooler).unwrap();
        let (copy, index) = receive(copied.frames, copied.reader).unwrap();
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
        let copied = Copied::new(machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20).unwrap());
        *db.copy.lock().unwrap() = Some(copied);
        for _ in 0..6 {
            machine.apply(batch(&mut dice, machine.applied().0, 3000), usize::MAX).unwrap();
            machine.db().unwrap();
        }
        machine.end_cut().unwrap();
        let mut copied = db.copy.lock().unwrap().take().unwrap();
        spool_rest(&mut copied.spooler).unwrap();
        let (copy, _) = receive(copied.frames, copied.reader).unwrap();
        assert!(*copy.pairs.lock().unwrap() == *db.pairs.lock().unwrap(), "seed {seed}");
    }
}

#[test]
fn whoever_goes_away_nobody_waits_for_ever() {
    let begin = || {
        let (_, mut machine) = fresh();
        let (spooler, reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 1 << 20).unwrap();
        (machine, spooler, reader)
    };
    let (machine, mut spooler, mut reader) = begin();
    drop(machine);
    assert!(matches!(spooler.wait(), Err(Error::Copy { .. })));
    assert!(std::iter::from_fn(|| Some(reader.next())).take(9).any(|frame| matches!(frame, Err(Error::Copy { .. }))));

    let (mut machine, spooler, mut reader) = begin();
    drop(spooler);
    assert!(matches!(reader.next(), Err(Error::Copy { .. })));
    machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();
    machine.end_cut().unwrap();

    let (mut machine, mut spooler, reader) = begin();
    drop(reader);
    assert!(matches!(spooler.wait(), Err(Error::Copy { .. })));
    machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();

    let (mut machine, mut spooler, _reader) = begin();
    machine.begin_cut(tempfile::tempfile().unwrap(), 1 << 20).unwrap();
    assert!(matches!(spooler.wait(), Err(Error::Copy { .. })), "the earlier cut is aborted");
}

#[test]
fn over_the_bound_of_the_spool_the_copy_ends_with_a_clear_error() {
    let (_, mut machine) = fresh();
    let (mut spooler, mut reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 50_000).unwrap();
    machine.apply(vec![put(2, b"x", vec![1; 100_000])], usize::MAX).unwrap();
    machine.db().unwrap();
    let error = spooler.wait().unwrap_err();
    assert!(error.to_string().contains("50000 bytes"), "{error}");
    let error = reader.next().unwrap_err();
    assert!(error.to_string().contains("50000 bytes"), "{error}");
}

#[test]
fn the_tree_waits_for_its_reader_and_is_never_spooled() {
    let (_, mut machine) = fresh();
    machine.apply((2..40).map(|index| put(index, &[index as u8], vec![1; 100_000])).collect(), usize::MAX).unwrap();
    let scratch = tempfile::tempfile().unwrap();
    let (mut spooler, reader) = machine.begin_cut(scratch.try_clone().unwrap(), 50_000).unwrap();
    assert_eq!((spooler.step().unwrap(), reader.scans()), (None, 0));
    machine.end_cut().unwrap();
    spool_rest(&mut spooler).unwrap();
    let (copy, _) = receive(Vec::new(), reader).unwrap();
    assert_eq!(Machine::open(copy).unwrap().digest(), machine.digest());
    assert_eq!(scratch.metadata().unwrap().len(), 0);
}

#[test]
fn a_copy_leaves_the_reserve_of_the_receivers_disk_alone_and_nothing_behind() {
    let (_, mut machine) = fresh();
    machine.apply(vec![put(2, b"x", vec![1])], usize::MAX).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn super::Engine> = Arc::new(SledEngine::with_reserve(dir.path(), Some(u64::MAX / 2)).unwrap());
    assert!(engine.space().unwrap().is_nearly_full() && engine.last_space().unwrap().is_nearly_full());
    let (mut volume, _incarnation) = Volume::open(engine.clone(), boot("b")).unwrap();
    let failure = transfer(&mut machine, &mut volume, |_| {}).unwrap_err().to_string();
    assert!(failure.contains("receiver's disk") && failure.contains("storage.reserve_mb"), "{failure}");
    assert!(volume.receive().unwrap().open(1 << 40).is_err(), "no room for even a small part of it");
    let folder = volume.identity().raft_id.to_string();
    assert_eq!(engine.list(&folder).unwrap(), ["journal", "machine-1"]);
}

/// Sends the whole of `machine` to a new generation of `volume`.
fn transfer(machine: &mut Machine, volume: &mut Volume, change: impl Fn(&mut Vec<u8>)) -> Result<(), Error> {
    let (mut spooler, mut reader) = machine.begin_cut(tempfile::tempfile().unwrap(), 64 << 20)?;
    machine.end_cut().unwrap();
    spool_rest(&mut spooler)?;
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
