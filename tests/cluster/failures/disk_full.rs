//! Full disk: the node stops and loses nothing.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::{Cluster, Need, Node, Request, Setup, secs};

crate::harness::cases![
    a_full_disk_stops_the_node_and_loses_nothing.needs(Need::Tmpfs),
    a_follower_with_a_full_disk_does_not_stop_the_cluster.needs(Need::Tmpfs),
];

/// A small disk, unmounted at the end.
pub struct Disk {
    home: TempDir,
}

impl Disk {
    pub fn of(megabytes: u64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(home.path()).status();
        assert!(status.unwrap().success(), "mounting a tmpfs");
        Self { home }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.path().join("volume")
    }

    /// Keeps `megabytes` for later; [`Disk::give_back`] frees them.
    fn reserve(&self, megabytes: usize) {
        fs::write(self.home.path().join("reserve"), vec![1; megabytes << 20]).unwrap();
    }

    /// Fills what is left to the last block.
    pub fn fill(&self) {
        let mut file = File::create(self.home.path().join("filler")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Fills what is left but for so many megabytes, and never more than that.
    pub fn fill_but(&self, megabytes: u64) {
        let mut left = self.free().checked_sub(megabytes << 20).expect("so much is left");
        let mut file = File::create(self.home.path().join("filler")).unwrap();
        while left > 0 {
            let size = left.min(1 << 16);
            file.write_all(&vec![1; usize::try_from(size).unwrap()]).unwrap();
            left -= size;
        }
    }

    /// How many bytes are free.
    pub fn free(&self) -> u64 {
        let output = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.home.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
    }

    pub fn give_back(&self) {
        for name in ["reserve", "filler"] {
            _ = fs::remove_file(self.home.path().join(name));
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, since a node that is being killed may still hold it.
        _ = Command::new("umount").arg("-l").arg(self.home.path()).status();
    }
}

/// Writes values of 64 KiB through `node` until one fails; the keys that were acknowledged.
fn write_until_failure(node: &Node, most: usize) -> Vec<String> {
    let mut acked = Vec::new();
    for number in 0..most {
        let key = format!("key-{number}");
        let body = json!({"key": key, "value": key.repeat(65_536 / key.len())}).to_string();
        match node.try_request(Request::new("POST", "/store?timeout=5s").body(body).within(secs(15))) {
            Ok(answer) if answer.status == 200 => acked.push(key),
            Ok(answer) => {
                assert_ne!(answer.word("outcome"), "", "{answer}");
                return acked;
            }
            Err(_) => return acked,
        }
    }
    panic!("{most} writes of 64 KiB did not fill the disk");
}

#[track_caller]
fn exits_for_want_of_space(node: &mut Node, data_dir: &Path, what: &str) {
    let status = node.await_exit(secs(30));
    let log = node.log();
    assert!(status.code().is_some_and(|code| code != 0), "{what}: {status}: {log}");
    assert!(!log.contains("panicked") && !log.contains("RUST_BACKTRACE"), "{what}: {log}");
    let named = |line: &str| {
        let lower = line.to_lowercase();
        let full = lower.contains("disk full") || lower.contains("no space");
        full && line.contains(&data_dir.display().to_string()) && line.chars().any(|c| c.is_ascii_digit())
    };
    assert!(log.lines().any(named), "{what}: directory and bytes free are not named: {log}");
    assert!(log.to_lowercase().contains("free"), "{what}: {log}");
}

fn a_full_disk_stops_the_node_and_loses_nothing() {
    let disk = Disk::of(64);
    disk.reserve(24);
    let mut node = Setup::named("node1").directory(disk.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 0).start();
    let acked = write_until_failure(&node, 2_000);
    assert!(acked.len() > 10, "the disk was full too early: {}", acked.len());
    exits_for_want_of_space(&mut node, &disk.data_dir(), "when it becomes full");
    disk.fill();
    for attempt in ["again", "and again"] {
        node.spawn();
        exits_for_want_of_space(&mut node, &disk.data_dir(), &format!("started {attempt} while it is full"));
    }
    disk.give_back();
    node.start();
    for key in &acked {
        assert_eq!(node.value(key), key.repeat(65_536 / key.len()), "{key} was acknowledged");
    }
    node.put("again", "it takes writes");
}

fn a_follower_with_a_full_disk_does_not_stop_the_cluster() {
    let disk = Disk::of(64);
    disk.reserve(24);
    let mut cluster = Cluster::of(2);
    let small = Setup::named("node3").directory(disk.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 0).start();
    cluster.nodes[0].join(&small).expect(200, "a join");
    cluster.nodes.push(small);
    let reign = cluster.reign();
    let mut written = 0;
    while cluster.nodes[2].exited().is_none() {
        cluster.nodes[0].put(&format!("key-{written}"), "v".repeat(65_536));
        written += 1;
        assert!(written < 2_000, "the disk of the follower did not fill");
    }
    exits_for_want_of_space(&mut cluster.nodes[2], &disk.data_dir(), "a follower");
    cluster.nodes[1].put("still", "a quorum");
    disk.give_back();
    cluster.nodes[2].start();
    for key in 0..written {
        assert_eq!(cluster.nodes[2].value(&format!("key-{key}")), "v".repeat(65_536));
    }
    assert_eq!(cluster.reign(), reign, "leader and term");
}
