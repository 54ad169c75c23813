//! Fsync: the system calls between a write and its response, traced by strace.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::{Need, Node, Setup, check, eventually, secs};

crate::harness::cases![
    a_single_node_syncs_between_a_write_and_its_response.needs(Need::Strace),
    a_follower_of_two_nodes_syncs_before_the_response.needs(Need::Strace),
];

/// A node under strace, which writes all that matters to `trace`.
fn traced(name: &str, trace: &Path) -> Node {
    let trace = trace.display().to_string();
    let calls = "trace=fdatasync,fsync,sync_file_range,read,recvfrom,readv,recvmsg,write,sendto,writev,sendmsg";
    // -D: the node is the process that was started and can be signalled; -s: long enough for a key.
    Setup::named(name).wrapped(&["strace", "-D", "-f", "-s", "600", "-e", calls, "-o", &trace]).start()
}

/// How many syncs were both begun and ended between the lines `from` and `to`.
fn syncs(lines: &[&str], from: usize, to: usize) -> usize {
    let mut begun = BTreeSet::new();
    let mut done = 0;
    for line in &lines[from..to] {
        let Some((process, call)) = line.trim().split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("fdatasync(") || call.starts_with("fsync(") {
            if call.contains("<unfinished") {
                begun.insert(process);
            } else if call.ends_with("= 0") {
                done += 1;
            }
        } else if (call.starts_with("<... fdatasync") || call.starts_with("<... fsync")) && call.ends_with("= 0") {
            done += usize::from(begun.remove(process));
        }
    }
    done
}

/// The line in which a request with `key` arrived, and the one in which its answer left.
fn request_and_answer(lines: &[&str], key: &str) -> Result<(usize, usize), String> {
    let reads = |line: &str| ["read", "recv"].iter().any(|call| line.contains(call));
    let writes = |line: &str| ["write", "send"].iter().any(|call| line.contains(call));
    let place = |found: Option<usize>, what: &str| found.ok_or(format!("no {what} of {key} in {} lines", lines.len()));
    let arrived = lines.iter().position(|line| reads(line) && line.contains(key));
    let arrived = place(arrived, "arrival")?;
    let left = lines[arrived..].iter().position(|line| writes(line) && line.contains("HTTP/1.1 200"));
    Ok((arrived, arrived + place(left, "answer")?))
}

fn a_single_node_syncs_between_a_write_and_its_response() {
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    let node = traced("node1", &trace);
    for round in 0..5 {
        let key = format!("probe-of-durability-{round}");
        node.put(&key, "value");
        eventually(secs(10), "strace has written everything", || {
            let text = fs::read_to_string(&trace).map_err(|error| error.to_string())?;
            let lines: Vec<&str> = text.lines().collect();
            let (arrived, answered) = request_and_answer(&lines, &key)?;
            let count = syncs(&lines, arrived, answered);
            check(count > 0, format!("no sync between:\n{}", lines[arrived..=answered].join("\n")))
        });
    }
    let text = fs::read_to_string(&trace).unwrap();
    assert!(!text.contains("sync_file_range("), "sled's own call, which is no sync, reaches the kernel");
}

fn a_follower_of_two_nodes_syncs_before_the_response() {
    let home = tempfile::tempdir().unwrap();
    let trace = home.path().join("trace");
    let leader = Setup::named("node1").start();
    let follower = traced("node2", &trace);
    leader.join(&follower).expect(200, "a join");
    let count = || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        syncs(&lines, 0, lines.len())
    };
    for round in 0..5 {
        let before = count();
        leader.put("probe", round);
        eventually(secs(10), "the follower has synced", || check(count() > before, before));
    }
}
