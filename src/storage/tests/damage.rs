//! Damage tests: truncated files and flipped bytes in a real data directory.
//!
//! Each runs in a process of its own: sled's thread pool belongs to the process, so a panic in it would stay, and a start that
//! hangs must not hang the other tests.
//!
//! Invariants: a start on a damaged directory ends without a printed panic, either in an error or in a node whose log is a prefix
//! of what was written and whose state is exactly that of some index.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use raft::eraftpb::{Entry, HardState};

use super::super::{DataDir, Incarnation, catches_panic};
use super::{Rng, boot, put, sled};

/// Entries that the node was given; enough for several segments of sled in both databases.
const ENTRIES: u64 = 1500;
/// The variable that makes this test binary the damaged node.
const CHILD: &str = "HUSKV_TEST_DAMAGED";

fn key(index: u64) -> Vec<u8> {
    (index * index % 83).to_be_bytes().to_vec()
}

fn value(index: u64) -> Vec<u8> {
    let mut rng = Rng(index);
    let length = 500 + rng.below(12_000);
    (0..length / 8).flat_map(|_| rng.next().to_be_bytes()).collect()
}

fn entry(index: u64) -> Entry {
    Entry { index, term: 1, data: value(index).into(), ..Entry::default() }
}

fn hard_state(commit: u64) -> HardState {
    HardState { term: 1, vote: 5, commit, ..HardState::default() }
}

/// Makes a node that was started twice and has compacted its log.
fn build(dir: &Path) {
    for part in 0..3 {
        let (data_dir, Incarnation { mut journal, mut state_machine }) = DataDir::open(sled(dir), boot("n")).unwrap();
        for index in 2 + part * ENTRIES / 3..2 + (part + 1) * ENTRIES / 3 {
            journal.append(&[entry(index)], &hard_state(index - 1)).unwrap();
            state_machine.apply(vec![put(index, &key(index), value(index))], usize::MAX).unwrap();
            if index % 100 == 0 {
                journal.sync().unwrap();
                state_machine.flush().unwrap();
                journal.compact(index.saturating_sub(300), 1000).unwrap();
            }
        }
        state_machine.flush().unwrap();
        drop((journal, state_machine, data_dir));
    }
}

/// The damaged node: says how its start ended.
fn child(dir: &Path) {
    std::panic::set_hook(Box::new(|info| {
        if !catches_panic() {
            println!("PANIC {info}");
        }
    }));
    let (_volume, Incarnation { mut journal, mut state_machine }) = match DataDir::open(sled(dir), boot("n")) {
        Ok(opened) => opened,
        Err(error) => return println!("REFUSED {error}"),
    };
    let last = journal.last_index();
    for index in journal.first_index()..=last {
        if journal.entries(index, index + 1, u64::MAX).unwrap() != [entry(index)] {
            return println!("WRONG entry {index}");
        }
    }
    let applied = state_machine.applied().0;
    let model: BTreeMap<_, _> = (2..=applied).map(|index| (key(index), index)).collect();
    if state_machine.keys() != model.len() as u64 {
        return println!("WRONG number of keys");
    }
    for (key, index) in model {
        let found = state_machine.get(&key).unwrap();
        if found.is_none_or(|found| found.version != index || found.value.bytes != value(index)) {
            return println!("WRONG value at {index}");
        }
    }
    journal.append(&[entry(last + 1)], &hard_state(last)).unwrap();
    journal.sync().unwrap();
    for index in applied + 1..=last + 1 {
        state_machine.apply(vec![put(index, &key(index), value(index))], usize::MAX).unwrap();
    }
    state_machine.flush().unwrap();
    println!("RUNS from {} to {last}, applied {applied}", journal.first_index());
}

fn snapshot(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            snapshot(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if fs::metadata(&path).unwrap().len() > 0 {
            found.push(path);
        }
    }
    found.sort();
}

/// Does something to one file, and says what.
fn spoil(dir: &Path, rng: &mut Rng) -> String {
    let mut all = Vec::new();
    files(dir, &mut all);
    let mut pick = |rng: &mut Rng| all.swap_remove(usize::try_from(rng.below(all.len() as u64)).unwrap());
    // Most of what there is lies in the two files named db.
    let mut path = pick(rng);
    if rng.below(3) > 0 && !path.ends_with("db") {
        path = pick(rng);
    }
    let mut bytes = fs::read(&path).unwrap();
    let at = usize::try_from(rng.below(bytes.len() as u64)).unwrap();
    let what = match rng.below(5) {
        0 => {
            bytes.truncate(at);
            "cut at"
        }
        1 => {
            let end = bytes.len().min(at + usize::try_from(rng.below(20_000)).unwrap());
            bytes[at..end].fill(0);
            "zeros at"
        }
        2 => {
            fs::remove_file(&path).unwrap();
            return format!("removed {}", path.display());
        }
        _ => {
            bytes[at] ^= 1 << rng.below(8);
            "flipped at"
        }
    };
    fs::write(&path, bytes).unwrap();
    format!("{what} {at} of {}", path.display())
}

/// Starts the node in a process of its own; everything it says.
fn start(dir: &Path) -> String {
    let output = dir.with_extension("out");
    let log = fs::File::create(&output).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["storage::tests::damage::a_damaged_directory", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdout(Stdio::from(log.try_clone().unwrap()))
        .stderr(Stdio::from(log))
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.to_string();
        }
        if begun.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            child.wait().unwrap();
            break "HANGS".into();
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    format!("{}{ended}", fs::read_to_string(&output).unwrap())
}

#[test]
fn a_damaged_directory_is_refused_or_served_as_it_was_and_never_panics_or_hangs() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let root = tempfile::tempdir().unwrap();
    let complete = root.path().join("whole");
    build(&complete);
    let cases = std::env::var("HUSKV_TEST_DAMAGE_CASES").map_or(16, |cases| cases.parse().unwrap());
    let (mut refused, mut runs) = (0, 0);
    for case in 0..=cases {
        let dir = root.path().join("damaged");
        snapshot(&complete, &dir);
        let what = if case == 0 { "nothing".into() } else { spoil(&dir, &mut Rng(case)) };
        let message = start(&dir);
        let word = |word: &str| message.contains(word);
        assert!(
            !word("PANIC") && !word("panicked") && !word("WRONG") && !word("HANGS"),
            "case {case}, {what}: {message}"
        );
        assert!(word("REFUSED") != word("RUNS"), "case {case}, {what}: {message}");
        assert!(case > 0 || word("RUNS"), "undamaged: {message}");
        refused += u32::from(word("REFUSED"));
        runs += u32::from(word("RUNS"));
        if cases > 16 {
            let line = message.lines().find(|line| line.contains("REFUSED") || line.contains("RUNS"));
            println!("{case}: {what}: {}", line.unwrap_or_default());
        }
        fs::remove_dir_all(&dir).unwrap();
    }
    assert!(refused > 0 && runs > 0, "{refused} refused, {runs} ran");
}
