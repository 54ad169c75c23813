//! Tests of the sled engine: refusals, no blobs, no hangs.

use std::fs;
use std::time::{Duration, Instant};

use super::super::layout::Kind;
use super::super::layout::chunk_key;
use super::super::{Engine, Error, SledEngine, StateMachine};
use super::{Rng, open, put, redo_file, sled};
use crate::model::Members;
use crate::storage::sled::{io_threads, sync_override};
use raft::eraftpb::ConfState;

#[test]
fn a_flush_reaches_the_disk_through_our_sync() {
    let dir = tempfile::tempdir().unwrap();
    let db = sled(dir.path()).open("x", true, 1 << 20).unwrap();
    let before = sync_override::syncs();
    db.put(b"k", b"v").unwrap();
    db.sync().unwrap();
    assert!(sync_override::syncs() > before);
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn surplus_threads_are_parked_while_little_is_written_and_are_back_for_a_burst() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    let (first, second) = (engine.open("a", true, 1 << 20).unwrap(), engine.open("b", true, 1 << 20).unwrap());
    until("five are parked", || io_threads::parked() == 5);
    // Each sync still reaches the disk, of either database, from two threads at once.
    let before = sync_override::syncs();
    std::thread::scope(|scope| {
        for db in [&first, &second] {
            scope.spawn(move || {
                for turn in 0..100_u32 {
                    db.put(&turn.to_be_bytes(), b"v").unwrap();
                    db.sync().unwrap();
                }
            });
        }
    });
    assert!(sync_override::syncs() >= before + 200);
    until("five are parked", || io_threads::parked() == 5);
    for chunk in 0..80_u32 {
        first.put(&chunk.to_be_bytes(), &[7; 4096]).unwrap();
    }
    until("all are back", || io_threads::parked() == 0);
    first.sync().unwrap();
}

#[test]
fn bursts_on_several_databases_end_whatever_is_parked() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    let databases = ["a", "b", "c"].map(|name| engine.open(name, true, 1 << 20).unwrap());
    // Segments are filled, freed and cut off the file's end, with pauses in which threads are parked.
    for round in 0..3_u32 {
        std::thread::scope(|scope| {
            for db in &databases {
                scope.spawn(move || {
                    for key in 0..3000_u32 {
                        db.put(&key.to_be_bytes(), &[u8::try_from(round).unwrap(); 4096]).unwrap();
                    }
                    let changes = (0..3000_u32).map(|key| (key.to_be_bytes().to_vec(), None)).collect();
                    db.write(super::Batch { changes }).unwrap();
                    db.sync().unwrap();
                });
            }
        });
        std::thread::sleep(Duration::from_millis(1200));
    }
}

#[test]
fn a_scan_is_ordered_and_bounded_on_both_sides_and_in_number() {
    let dir = tempfile::tempdir().unwrap();
    let db = sled(dir.path()).open("x", true, 1 << 20).unwrap();
    for key in [b"b", b"d", b"a", b"c"] {
        db.put(key, key).unwrap();
    }
    let keys = |from: &[u8], to: Option<&[u8]>, limit| -> Vec<u8> {
        db.scan(from, to, limit).unwrap().into_iter().map(|(key, _)| key[0]).collect()
    };
    assert_eq!(keys(b"a", Some(b"d"), 9), b"abc");
    assert_eq!(keys(b"b", None, 2), b"bc");
    assert_eq!(keys(b"d0", None, 2), b"");
}

#[test]
fn values_of_a_megabyte_in_random_order_make_no_blob_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    let db = engine.open("m", true, 4 << 20).unwrap();
    let mut state_machine =
        StateMachine::create(db.clone(), redo_file(), (1, 1), Members::default(), ConfState::default()).unwrap();
    let mut rng = Rng(7);
    // Long keys full of zeros are the longest there are once they are escaped.
    let key = |number: u64| [&vec![0; 1016][..], &Rng(number).next().to_be_bytes()].concat();
    for index in 2..26 {
        let number = rng.below(12);
        let length = if rng.below(2) == 0 { 1 << 20 } else { 1 + rng.below(20_000) };
        let value = vec![u8::try_from(index).unwrap(); usize::try_from(length).unwrap()];
        state_machine.apply(vec![put(index, &key(number), value)], usize::MAX).unwrap();
    }
    // Enough of them that inner pages are full.
    let mut order: Vec<u64> = (0..6000).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, usize::try_from(rng.below(at as u64 + 1)).unwrap());
    }
    for number in &order {
        db.put(&chunk_key(Kind::Data, &key(100 + number), 0), &[7; 4096]).unwrap();
    }
    for number in &order {
        db.write(super::Batch { changes: vec![(chunk_key(Kind::Data, &key(100 + number), 0), None)] }).unwrap();
    }
    state_machine.flush().unwrap();
    assert_eq!(engine.list("m/blobs").unwrap(), [""; 0]);
    let (digest, keys) = (state_machine.digest(), state_machine.keys());
    drop((state_machine, db));
    let state_machine = open(engine.open("m", false, 4 << 20).unwrap()).unwrap();
    assert_eq!((state_machine.digest(), state_machine.keys()), (digest, keys));
}

#[test]
fn the_cleaner_gives_the_space_of_overwritten_values_back() {
    let dir = tempfile::tempdir().unwrap();
    let db = sled(dir.path()).open("m", true, 8 << 20).unwrap();
    let (mut rng, keys, value) = (Rng(7), 20_000_u64, 400);
    for number in 0..7 * keys {
        // All keys first, so that the data is as large as it will be.
        let key = if number < keys { number } else { rng.below(keys) };
        db.put(&key.to_be_bytes(), &vec![u8::try_from(number % 251).unwrap(); value]).unwrap();
    }
    db.sync().unwrap();
    // 8 MB of data, 56 MB of puts: 34 MB on disk, and 63 without the cleaner (measured).
    let most = 5 * keys * value as u64;
    let begun = std::time::Instant::now();
    while db.size_on_disk() > most {
        assert!(begun.elapsed().as_secs() < 60, "{} bytes", db.size_on_disk());
        for _ in 0..100 {
            db.put(&rng.below(keys).to_be_bytes(), &vec![7; value]).unwrap();
        }
        db.sync().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn missing_and_foreign_files_are_refused_before_anything_is_opened() {
    type Spoil = fn(&std::path::Path);
    let spoil: [(&str, Spoil); 6] = [
        ("db is missing", |dir| fs::remove_file(dir.join("db")).unwrap()),
        ("db is empty", |dir| fs::write(dir.join("db"), b"").unwrap()),
        ("conf is missing", |dir| fs::remove_file(dir.join("conf")).unwrap()),
        ("conf is not", |dir| fs::write(dir.join("conf"), b"segment_size: 512\n").unwrap()),
        ("in a blob", |dir| fs::write(dir.join("blobs/9"), b"x").unwrap()),
        ("folder is missing", |dir| fs::remove_dir_all(dir).unwrap()),
    ];
    for (expected, spoil) in spoil {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled(dir.path());
        drop(engine.open("x", true, 1 << 20).unwrap());
        spoil(&dir.path().join("x"));
        let error = engine.open("x", false, 1 << 20).err().unwrap();
        assert!(matches!(error, Error::Damaged { .. }) && error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn a_half_written_snapshot_of_sled_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    let db = engine.open("x", true, 1 << 20).unwrap();
    db.put(b"k", b"v").unwrap();
    drop(db);
    fs::write(dir.path().join("x/snap.7FFFFFFFFFFFFFFF.generating"), b"half").unwrap();
    let db = engine.open("x", false, 1 << 20).unwrap();
    assert_eq!(db.get(b"k").unwrap(), Some(b"v".to_vec()));
}

#[test]
fn small_files_are_replaced_and_the_scratch_file_has_no_name() {
    use std::io::{Read, Seek, Write};
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    assert_eq!(engine.read_file("f.json").unwrap(), None);
    engine.replace_file("f.json", b"one").unwrap();
    engine.replace_file("f.json", b"two").unwrap();
    assert_eq!(engine.read_file("f.json").unwrap(), Some(b"two".to_vec()));
    let mut scratch = engine.scratch().unwrap();
    scratch.write_all(b"abc").unwrap();
    scratch.rewind().unwrap();
    let mut back = String::new();
    scratch.read_to_string(&mut back).unwrap();
    assert_eq!(back, "abc");
    assert_eq!(engine.list("").unwrap(), ["LOCK", "f.json"]);
    engine.remove("not-there").unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_failing_sync_ends_in_an_error_and_poisons_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    let db = engine.open("x", true, 1 << 20).unwrap();
    sync_override::faults::fail(&fs::canonicalize(dir.path().join("x/db")).unwrap());
    let begun = Instant::now();
    let mut failed = None;
    for round in 0..2000_u32 {
        let written = db.put(&round.to_be_bytes(), &[7; 4000]).and_then(|()| db.sync());
        if let Err(error) = written {
            failed = Some(error);
            break;
        }
    }
    assert!(failed.is_some(), "acknowledged what no sync had reached");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert!(db.put(b"k", b"v").is_err() && db.get(b"k").is_err() && db.sync().is_err());
}

#[test]
fn a_link_in_the_place_of_a_temporary_file_is_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, b"mine").unwrap();
    let node = dir.path().join("node");
    let engine = sled(&node);
    for name in ["identity.tmp", "spool"] {
        std::os::unix::fs::symlink(&victim, node.join(name)).unwrap();
    }
    engine.replace_file("identity", b"new").unwrap();
    drop(engine.scratch().unwrap());
    assert_eq!(fs::read(&victim).unwrap(), b"mine");
    assert_eq!(engine.read_file("identity").unwrap(), Some(b"new".to_vec()));
    drop(engine);
    fs::remove_file(node.join("LOCK")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("nothing"), node.join("LOCK")).unwrap();
    assert!(SledEngine::new(&node).is_err(), "a LOCK that is a link");
    assert!(!dir.path().join("nothing").exists());
}

#[test]
fn files_that_are_no_longer_in_their_place_are_noticed_and_removed_ones_are_not() {
    let missing_file_error = |engine: &dyn Engine| {
        let begun = Instant::now();
        while engine.check().is_ok() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(20));
        }
        engine.check().expect_err("nothing was noticed")
    };
    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    let (dropped, kept) = (engine.open("1/x", true, 1 << 20).unwrap(), engine.open("kept", true, 1 << 20).unwrap());
    engine.remove("1").unwrap();
    fs::rename(dir.path().join("kept/db"), dir.path().join("kept/elsewhere")).unwrap();
    let error = missing_file_error(&*engine);
    // The folder that the engine removed itself was opened first, and would be named in its place.
    assert!(matches!(&error, Error::Gone { what, .. } if what == "kept/db"), "{error}");
    drop((kept, dropped));

    let dir = tempfile::tempdir().unwrap();
    let engine = sled(dir.path());
    fs::remove_dir_all(dir.path()).unwrap();
    fs::create_dir(dir.path()).unwrap();
    fs::write(dir.path().join("LOCK"), b"").unwrap();
    assert!(matches!(missing_file_error(&*engine), Error::Gone { what, .. } if what == "LOCK"));

    // Without these a node goes on, and does not start again.
    for removed in ["identity", "kept/conf"] {
        let dir = tempfile::tempdir().unwrap();
        let engine = sled(dir.path());
        let kept = engine.open("kept", true, 1 << 20).unwrap();
        engine.replace_file("identity", b"1").unwrap();
        fs::remove_file(dir.path().join(removed)).unwrap();
        assert!(matches!(missing_file_error(&*engine), Error::Gone { what, .. } if what == removed));
        drop(kept);
    }
}
