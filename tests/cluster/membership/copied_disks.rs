//! Copied disks: copies beside the original, and restored old copies.

use std::fs;

use tempfile::TempDir;

use crate::harness::{Cluster, Node, check, copy, eventually, free_port, secs, throughout};

crate::harness::cases![
    a_copy_of_the_whole_cluster_replaces_no_member_of_the_original,
    a_member_restored_from_an_old_copy_is_refused_and_rejoins_as_its_message_says,
    a_majority_restored_from_old_copies_is_refused_by_the_third_node,
    a_majority_restored_from_copies_of_running_nodes_is_detected_by_the_third_node,
];

/// Whether this start has logged an identity conflict as an error, with what to do.
fn says_conflict(node: &Node) -> Result<(), String> {
    let log = node.log();
    let says = |line: &str| line.contains("ERRO") && line.contains("identity conflict") && line.contains("/raft/join");
    check(log.lines().any(says), format!("{}: {log}", node.name()))
}

/// The conflicts in its stats.
fn shown(node: &Node) -> usize {
    node.stats()["identity_conflict"].as_array().map_or(0, Vec::len)
}

/// A node on a copy of this one's directory, at other addresses.
fn beside(node: &Node) -> Node {
    let mut beside = node.setup().prepare();
    copy(node.directory(), beside.directory());
    beside.set("SERVER_PORT", free_port());
    beside.set("RAFT_PORT", free_port());
    beside
}

/// A copy of a node's directory, outside of it.
fn copied(node: &Node) -> TempDir {
    let old = tempfile::tempdir().expect("a directory for the copy");
    copy(node.directory(), old.path());
    old
}

/// Kills all nodes, and starts the first of them on these copies of their directories.
fn restore(cluster: &mut Cluster, copies: &[TempDir]) {
    cluster.nodes.iter_mut().for_each(Node::kill9);
    for (node, old) in cluster.nodes.iter().zip(copies) {
        fs::remove_dir_all(node.directory()).expect("removing the directory");
        copy(old.path(), node.directory());
    }
    let restored = &mut cluster.nodes[..copies.len()];
    restored.iter_mut().for_each(Node::spawn);
    restored.iter_mut().for_each(Node::await_up);
}

fn a_copy_of_the_whole_cluster_replaces_no_member_of_the_original() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "bar");
    cluster.caught_up(secs(20));
    // As a snapshot of the volumes catches them.
    cluster.nodes.iter_mut().for_each(Node::sigstop);
    let mut copies: Vec<Node> = cluster.nodes.iter().map(beside).collect();
    cluster.nodes.iter_mut().for_each(Node::sigcont);
    copies.iter_mut().for_each(Node::spawn);
    copies.iter_mut().for_each(Node::await_up);
    let place = cluster.followers()[0];
    let leader = cluster.agreed();
    assert!(cluster.nodes[place].sigterm().success());
    // The member is away: its copy knocks at the others, who have heard of no later life.
    cluster.nodes[leader].put("meanwhile", "1");
    eventually(secs(20), "the copy is not let in", || {
        let log = copies[place].log();
        check(log.contains("peer will not talk") && log.contains("/raft/join"), &log)
    });
    cluster.nodes[place].start();
    cluster.agreed();
    assert_eq!(cluster.nodes[place].value("meanwhile"), "1");
    cluster.nodes[place].put("after", "2");
    for node in [&copies[place], &cluster.nodes[leader]] {
        eventually(secs(20), "both sides say it", || says_conflict(node));
        eventually(secs(20), "their stats say it", || check(shown(node) > 0, node.stats()));
    }
    for node in &copies {
        assert!(node.stats()["leader"].is_null(), "{}", node.stats());
        let answer = node.post("/store", &serde_json::json!({"key": "foo", "value": "copy"}));
        assert!([503, 504].contains(&answer.status), "a write to a copy: {answer}");
    }
    assert_eq!(cluster.nodes[leader].value("foo"), "bar");
    cluster.agreed();
}

fn a_member_restored_from_an_old_copy_is_refused_and_rejoins_as_its_message_says() {
    let mut cluster = Cluster::of(3);
    let (leader, place) = (cluster.agreed(), cluster.followers()[0]);
    cluster.caught_up(secs(20));
    assert!(cluster.nodes[place].sigterm().success());
    let old = copied(&cluster.nodes[place]);
    cluster.nodes[place].start();
    cluster.nodes[leader].put("since", "1");
    cluster.caught_up(secs(20));
    let reign = cluster.reign();
    assert!(cluster.nodes[place].sigterm().success());
    cluster.nodes[place].wipe();
    copy(old.path(), cluster.nodes[place].directory());
    cluster.nodes[place].start();
    for node in &cluster.nodes {
        eventually(secs(20), "each says it", || says_conflict(node));
        eventually(secs(20), "its stats say it", || check(shown(node) > 0, node.stats()));
    }
    cluster.nodes[leader].put("meanwhile", "2");
    cluster.nodes[place].kill9();
    cluster.nodes[place].wipe();
    cluster.nodes[place].start();
    cluster.nodes[leader].join(&cluster.nodes[place]).expect(200, "joining it again");
    assert_eq!(cluster.nodes[place].value("since"), "1");
    assert_eq!(cluster.nodes[place].value("meanwhile"), "2");
    assert_eq!(cluster.reign(), reign, "leader and term");
}

/// Their copies were made of running nodes, so no node knows of a later start of theirs: what the third has applied, and
/// they have lost, tells.
fn a_majority_restored_from_copies_of_running_nodes_is_detected_by_the_third_node() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "old");
    cluster.caught_up(secs(20));
    let old: Vec<TempDir> = (0..2)
        .map(|at| {
            cluster.nodes[at].sigstop();
            let old = copied(&cluster.nodes[at]);
            cluster.nodes[at].sigcont();
            old
        })
        .collect();
    cluster.agreed();
    (0..20).for_each(|n| _ = cluster.nodes[2].put("foo", format!("new {n}")));
    cluster.caught_up(secs(20));
    restore(&mut cluster, &old);
    cluster.nodes[0].put("foo", "other");
    cluster.nodes[2].spawn();
    cluster.nodes[2].await_up();
    eventually(secs(30), "the third says that what was committed is lost, and serves no client", || {
        let answer = cluster.nodes[2].get("/store/foo?timeout=1s");
        check(answer.status == 503 && answer.text().contains("has lost what was committed"), answer.text())
    });
    eventually(secs(10), "its log says it", || {
        let log = cluster.nodes[2].log();
        check(log.lines().any(|line| line.contains("ERRO") && line.contains("what was committed is lost")), &log)
    });
    assert!(cluster.nodes[2].stats()["verifying"].as_str().is_some_and(|text| text.contains("older copies")));
}

fn a_majority_restored_from_old_copies_is_refused_by_the_third_node() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "old");
    cluster.caught_up(secs(20));
    cluster.nodes.iter_mut().for_each(Node::kill9);
    let old: Vec<TempDir> = cluster.nodes[..2].iter().map(copied).collect();
    cluster.nodes.iter_mut().for_each(Node::spawn);
    cluster.nodes.iter_mut().for_each(Node::await_up);
    cluster.agreed();
    cluster.nodes[0].put("foo", "new");
    cluster.caught_up(secs(20));
    for name in ["node1", "node2"] {
        eventually(secs(20), format!("node3 has spoken to {name} in this life"), || {
            let log = cluster.nodes[2].log();
            check(log.lines().any(|line| line.contains("peer found") && line.contains(name)), &log)
        });
    }
    // Two that are restored together are an older cluster, and nothing on their disks says otherwise.
    restore(&mut cluster, &old);
    cluster.agreed();
    (0..5).for_each(|n| _ = cluster.nodes[0].put("foo", format!("other {n}")));
    cluster.nodes[2].spawn();
    cluster.nodes[2].await_up();
    for node in &cluster.nodes {
        eventually(secs(20), "each says it", || says_conflict(node));
        eventually(secs(20), "its stats say it", || check(shown(node) > 0, node.stats()));
    }
    assert_eq!(shown(&cluster.nodes[2]), 2, "{}", cluster.nodes[2].stats());
    let applied = cluster.nodes[2].number("applied_index").to_string();
    throughout(secs(3), "the third takes nothing from them", || {
        let stats = cluster.nodes[2].try_stats()?;
        check(stats["leader"].is_null() && stats["applied_index"] == applied.as_str(), stats)
    });
    // What the log says to do.
    cluster.nodes[2].kill9();
    cluster.nodes[2].wipe();
    cluster.nodes[2].start();
    let joined = cluster.nodes[0].join(&cluster.nodes[2]);
    joined.expect(200, "joining the third again");
    assert_eq!(cluster.nodes[2].value("foo"), "other 4");
    cluster.agreed();
}
