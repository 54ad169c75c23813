//! Damaged data directories: never a wrong value, never a panic, always a way to rejoin.
//!
//! Invariants: a node that starts on a damaged directory must serve every value right (the damage hit dead bytes);
//! otherwise it exits with a message that names the damaged file and how to rejoin.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{Cluster, Node, START, Setup, content, copy, eventually, secs, walk};

crate::harness::cases![
    a_damaged_identity_is_refused_and_no_file_is_changed,
    a_newer_format_is_refused_naming_both_versions,
    a_damaged_journal_is_refused_or_harmless,
    a_damaged_state_machine_is_refused_or_harmless,
    a_missing_folder_is_refused,
    a_file_among_the_blobs_is_refused,
    a_damaged_member_rejoins_as_its_message_says,
    a_log_shorter_than_acknowledged_is_detected_at_the_first_message_of_the_leader,
    a_running_node_stops_when_its_directory_is_removed,
];

/// A lone node that was stopped in good order, and what it must answer.
struct Victim {
    node: Node,
    truth: BTreeMap<String, Option<Value>>,
}

impl Victim {
    fn new() -> Self {
        let mut node = Setup::named("node1").start();
        let mut truth = BTreeMap::new();
        for round in 0..3 {
            for number in 0..25 {
                let key = format!("key-{number}");
                let value = json!(format!("{round}-{number}-").repeat(1 + number * 40));
                node.put(&key, value.clone());
                truth.insert(key, Some(value));
            }
            for number in [round, round + 10] {
                let key = format!("key-{number}");
                node.delete(&format!("/store/{key}")).expect(200, "DELETE");
                truth.insert(key, None);
            }
            if round < 2 {
                node.request(crate::harness::Request::new("POST", "/raft/snapshot")).expect(200, "a snapshot");
            }
        }
        assert!(node.sigterm().success());
        Self { node, truth }
    }

    /// The files of this victim whose path below the directory has `part`, none of them empty.
    fn files(&self, part: &str) -> Vec<PathBuf> {
        let below = |path: &PathBuf| path.strip_prefix(self.node.directory()).expect("below the directory").to_owned();
        let files: Vec<PathBuf> = walk(self.node.directory())
            .iter()
            .filter(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
            .map(below)
            .filter(|path| path.to_string_lossy().contains(part))
            .collect();
        assert!(!files.is_empty(), "no file has {part} in its path: {:?}", walk(self.node.directory()));
        files
    }

    /// Copies the directory, does `damage` to the copy, starts a node on it and judges what it does.
    #[track_caller]
    fn suffers(&self, what: &str, untouched: bool, damage: impl Fn(&Path)) -> StartResult {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("volume");
        copy(self.node.directory(), &directory);
        fs::remove_file(directory.join("addresses.json")).unwrap();
        damage(&directory);
        let before = content(&directory);
        let mut node = self.node.setup().directory(&directory).spawn();
        let Some(log) = refusal(&mut node, what) else {
            self.all_right(&node, what);
            return StartResult::Harmless;
        };
        if untouched {
            for (path, bytes) in before {
                assert!(fs::read(&path).is_ok_and(|now| now == bytes), "{what}: {} was changed", path.display());
            }
        }
        StartResult::Refused(log)
    }

    /// Panics unless `node` answers everything as it was written.
    #[track_caller]
    fn all_right(&self, node: &Node, what: &str) {
        for (key, value) in &self.truth {
            let answer = node.get(&format!("/store/{key}"));
            match value {
                Some(value) => {
                    let read = answer.expect(200, &format!("{what}: {key}")).data()["value"].clone();
                    assert!(&read == value, "{what}: a wrong value of {key}");
                }
                None => _ = answer.problem(404, &format!("{what}: {key} was deleted")),
            }
        }
    }
}

enum StartResult {
    Harmless,
    Refused(String),
}

impl StartResult {
    #[track_caller]
    fn refused(self, what: &str) -> String {
        match self {
            Self::Refused(log) => log,
            Self::Harmless => panic!("{what}: the node started"),
        }
    }
}

/// Waits until the node is up (`None`) or has ended, and then returns its log; panics where it ended with a success, a
/// signal, or a panic.
#[track_caller]
fn refusal(node: &mut Node, what: &str) -> Option<String> {
    let status = eventually(START, format!("{what}: it is up or has ended"), || {
        if let Some(status) = node.exited() {
            return Ok(Some(status));
        }
        let up = node.directory().join("addresses.json").exists();
        if up { Ok(None) } else { Err("neither".to_owned()) }
    });
    // Between the file and the first answer it may still give up.
    let status = status.or_else(|| {
        eventually(START, format!("{what}: it answers or has ended"), || {
            if let Some(status) = node.exited() {
                return Ok(Some(status));
            }
            let text =
                fs::read_to_string(node.directory().join("addresses.json")).map_err(|error| error.to_string())?;
            let addresses: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            node.http = addresses["http"].as_str().unwrap_or("").to_owned();
            let health = node.try_request(crate::harness::Request::new("GET", "/health").within(secs(2)))?;
            if health.status == 200 { Ok(None) } else { Err(health.to_string()) }
        })
    })?;
    let log = node.log();
    assert!(status.code().is_some_and(|code| code != 0), "{what}: {status}: {log}");
    for word in ["panicked", "RUST_BACKTRACE", "stack backtrace", "internal error", "src/"] {
        assert!(!log.contains(word), "{what}: {word:?} on stderr: {log}");
    }
    Some(log)
}

/// Panics unless the message names one of the damaged parts and the way back.
#[track_caller]
fn says_what_and_how(log: &str, parts: &[&str], what: &str) {
    assert!(parts.iter().any(|part| log.contains(part)), "{what}: none of {parts:?} is named: {log}");
    assert!(log.contains("/raft/join"), "{what}: no word on how to rejoin: {log}");
}

fn truncate(path: &Path, length: u64) {
    File::options().write(true).open(path).and_then(|file| file.set_len(length)).expect("truncating a file");
}

fn flip(path: &Path, position: usize) {
    let mut bytes = fs::read(path).expect("reading a file");
    bytes[position] ^= 0x55;
    fs::write(path, bytes).expect("writing a file");
}

/// `count` positions spread over the bytes of the file that are not zero: space that was only reserved is of no use.
fn positions(path: &Path, count: usize) -> Vec<usize> {
    let bytes = fs::read(path).expect("reading a file");
    let used: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at] != 0).collect();
    (0..count).filter_map(|step| used.get(step * used.len() / count).copied()).collect()
}

fn a_damaged_identity_is_refused_and_no_file_is_changed() {
    let victim = Victim::new();
    let identity = victim.files("identity").remove(0);
    let path = victim.node.directory().join(&identity);
    let length = fs::metadata(&path).unwrap().len();
    for position in positions(&path, 12) {
        let what = format!("identity, byte {position} flipped");
        let log = victim.suffers(&what, true, |copy| flip(&copy.join(&identity), position)).refused(&what);
        assert!(log.contains("identity"), "{what}: {log}");
    }
    for left in [0, 1, length / 2, length - 1] {
        let what = format!("identity cut to {left} of {length} bytes");
        let log = victim.suffers(&what, true, |copy| truncate(&copy.join(&identity), left)).refused(&what);
        says_what_and_how(&log, &["identity"], &what);
    }
    let what = "identity removed";
    let log = victim.suffers(what, true, |copy| fs::remove_file(copy.join(&identity)).unwrap()).refused(what);
    says_what_and_how(&log, &["identity"], what);
    victim.suffers("nothing", false, |_| {});
}

fn a_newer_format_is_refused_naming_both_versions() {
    let victim = Victim::new();
    let identity = victim.files("identity").remove(0);
    let text = fs::read_to_string(victim.node.directory().join(&identity)).expect("the identity is text");
    let (first, rest) = text.split_once('\n').expect("a first line with the version");
    let words: Vec<&str> = first.split(' ').map(|word| if word == "3" { "4" } else { word }).collect();
    let newer = format!("{}\n{rest}", words.join(" "));
    assert_ne!(newer, text, "no version 3 in the first line {first:?}");
    let what = "identity of version 4";
    let log = victim.suffers(what, true, |copy| fs::write(copy.join(&identity), &newer).unwrap()).refused(what);
    assert!(log.contains("identity") && log.contains("version 4"), "{what}: {log}");
}

/// Damages every file of the database below `part` in several ways.
fn database_suffers(part: &str) {
    let victim = Victim::new();
    let mut refusals = 0;
    let mut judge = |verdict: StartResult, what: &str| {
        if let StartResult::Refused(log) = verdict {
            says_what_and_how(&log, &["journal", "machine", "log"], what);
            refusals += 1;
        }
    };
    for file in victim.files(part) {
        let path = victim.node.directory().join(&file);
        let length = fs::metadata(&path).unwrap().len();
        let name = file.display();
        for position in positions(&path, 8) {
            let what = format!("{name}, byte {position} of {length} flipped");
            judge(victim.suffers(&what, false, |copy| flip(&copy.join(&file), position)), &what);
        }
        for left in [0, length / 3, length * 2 / 3, length - 1] {
            let what = format!("{name} cut to {left} of {length} bytes");
            judge(victim.suffers(&what, false, |copy| truncate(&copy.join(&file), left)), &what);
        }
        let what = format!("{name} removed");
        judge(victim.suffers(&what, false, |copy| fs::remove_file(copy.join(&file)).unwrap()), &what);
    }
    assert!(refusals > 0, "no damage to {part} was noticed: the positions are of no use");
}

fn a_damaged_journal_is_refused_or_harmless() {
    database_suffers("journal");
}

fn a_damaged_state_machine_is_refused_or_harmless() {
    database_suffers("machine");
}

fn a_missing_folder_is_refused() {
    let victim = Victim::new();
    for part in ["journal", "machine"] {
        let file = victim.files(part).remove(0);
        let folder =
            file.ancestors().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(part)));
        let folder = folder.expect("a folder of that name").to_owned();
        let what = format!("{} removed", folder.display());
        let log = victim.suffers(&what, false, |copy| fs::remove_dir_all(copy.join(&folder)).unwrap()).refused(&what);
        says_what_and_how(&log, &[part], &what);
    }
}

fn a_file_among_the_blobs_is_refused() {
    let victim = Victim::new();
    for part in ["journal", "machine"] {
        let database = victim.files(part).remove(0);
        let blobs = database
            .ancestors()
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(part)));
        let blobs = blobs.expect("a folder of that name").join("blobs");
        let what = format!("a file in {}", blobs.display());
        let verdict = victim.suffers(&what, false, |copy| {
            fs::create_dir_all(copy.join(&blobs)).unwrap();
            fs::write(copy.join(&blobs).join("1"), "x").unwrap();
        });
        assert!(verdict.refused(&what).contains("blob"), "{what} is not named");
    }
}

fn a_damaged_member_rejoins_as_its_message_says() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "bar");
    let reign = cluster.reign();
    let place = cluster.followers()[0];
    let leader = cluster.agreed();
    assert!(cluster.nodes[place].sigterm().success());
    let identity = cluster.nodes[place].directory().join("identity");
    let length = fs::metadata(&identity).unwrap().len();
    truncate(&identity, length - 3);
    cluster.nodes[place].spawn();
    let log = refusal(&mut cluster.nodes[place], "a cut identity").expect("a member with a cut identity started");
    says_what_and_how(&log, &["identity"], "a cut identity");
    cluster.nodes[place].kill9();
    cluster.nodes[leader].put("meanwhile", 1);
    // "move the directory away, start the node empty and POST /raft/join for it on a healthy member"
    let away = cluster.nodes[place].home().join("away");
    fs::rename(cluster.nodes[place].directory(), &away).unwrap();
    cluster.nodes[place].start();
    cluster.nodes[leader].join(&cluster.nodes[place]).expect(200, "the join that the message names");
    assert_eq!(cluster.nodes[place].value("foo"), "bar");
    assert_eq!(cluster.nodes[place].value("meanwhile"), 1);
    assert_eq!(cluster.reign(), reign, "leader and term");
}

fn a_log_shorter_than_acknowledged_is_detected_at_the_first_message_of_the_leader() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    (0..5).for_each(|round| _ = cluster.nodes[leader].put("key", round));
    cluster.caught_up(secs(10));
    assert!(cluster.nodes[place].sigterm().success());
    let backup = cluster.nodes[place].home().join("backup");
    copy(cluster.nodes[place].directory(), &backup);
    cluster.nodes[place].start();
    (5..10).for_each(|round| _ = cluster.nodes[leader].put("key", round));
    cluster.caught_up(secs(10));
    assert!(cluster.nodes[place].sigterm().success());
    // An older log and state under the identity of now: every checksum is right, and what was acknowledged since is gone.
    // Where the identity is older too, no peer talks to the node (`model::BootHistory`).
    let identity = fs::read(cluster.nodes[place].directory().join("identity")).unwrap();
    cluster.nodes[place].wipe();
    copy(&backup, cluster.nodes[place].directory());
    fs::write(cluster.nodes[place].directory().join("identity"), identity).unwrap();
    cluster.nodes[place].spawn();
    let status = cluster.nodes[place].await_exit(secs(30));
    let log = cluster.nodes[place].log();
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {log}");
    assert!(!log.contains("panicked"), "{log}");
    says_what_and_how(&log, &["log"], "an older directory");
    let leads = cluster.nodes[leader].name();
    assert!(log.contains("Healthy") && log.contains(&format!("{leads} (")), "who has it: {log}");
    cluster.nodes[leader].put("still", "a quorum");
    cluster.nodes[place].wipe();
    cluster.nodes[place].start();
    cluster.nodes[leader].join(&cluster.nodes[place]).expect(200, "rejoining as the message says");
    assert_eq!(cluster.nodes[place].value("key"), 9);
}

fn a_running_node_stops_when_its_directory_is_removed() {
    type Remove = fn(&Path);
    let removals: [(&str, Remove); 3] = [
        ("the whole directory", |directory| fs::remove_dir_all(directory).unwrap()),
        ("the directory, and an empty one in its place", |directory| {
            fs::rename(directory, directory.with_extension("away")).unwrap();
            fs::create_dir(directory).unwrap();
        }),
        ("a file of the journal", |directory| {
            let journal = walk(directory).into_iter().find(|path| path.ends_with("journal/db"));
            fs::remove_file(journal.expect("a node has a journal")).unwrap();
        }),
    ];
    for (what, remove) in removals {
        let mut node = Setup::named("node1").start();
        node.put("k", "v");
        remove(node.directory());
        let status = node.await_exit(secs(10));
        assert_eq!(status.code(), Some(1), "{what}: {}", node.log());
        assert!(node.log().contains("is no longer in"), "{what}: {}", node.log());
    }
}
