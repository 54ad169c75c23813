//! Snapshots: checkpoints, streams to followers, and log compaction.

use std::thread;

use serde_json::json;

use crate::harness::{Cluster, ELECTION, Load, Node, Request, Setup, blobs, check, eventually, millis, number, secs};

crate::harness::cases![
    snapshots_are_taken_automatically_and_on_request,
    a_follower_that_was_down_receives_a_snapshot_during_writes,
    a_new_node_receives_a_snapshot_during_writes,
    a_follower_killed_during_a_snapshot_stream_receives_it_again,
    a_new_leader_restarts_the_snapshot_stream_of_a_killed_one,
    large_values_in_random_order_leave_no_blob_file,
];

/// Thresholds that a test reaches with a few writes.
pub fn small(setup: Setup) -> Setup {
    setup.set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 50).set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 10)
}

/// Writes `count` values of `bytes` bytes under their numbers, with four clients.
pub fn fill(node: &Node, count: usize, bytes: usize) {
    let value = "x".repeat(bytes);
    thread::scope(|scope| {
        for client in 0..4 {
            let value = &value;
            scope.spawn(move || {
                (client..count).step_by(4).for_each(|key| _ = node.put(&format!("key-{key}"), value.as_str()));
            });
        }
    });
}

/// Waits until `node` has what the leader has, then panics unless it has all of it, by its own copy alone.
#[track_caller]
fn has_everything(cluster: &Cluster, node: &Node, count: usize, bytes: usize) {
    let goal = cluster.nodes[cluster.some_leader(ELECTION)].number("commit_index");
    eventually(secs(60), format!("{} has applied {goal}", node.name()), || {
        let stats = node.try_stats()?;
        check(number(&stats, "applied_index") >= goal, stats)
    });
    for key in 0..count {
        let read = node.get(&format!("/store/key-{key}?consistency=stale")).expect(200, "its own copy");
        let value = read.data()["value"].as_str().unwrap_or("").to_owned();
        assert!(value.len() == bytes && value.bytes().all(|byte| byte == b'x'), "key-{key} on {}", node.name());
    }
}

fn snapshots_are_taken_automatically_and_on_request() {
    let mut cluster = Cluster::with(2, small);
    let leader = cluster.agreed();
    let begun: Vec<u64> = cluster.nodes.iter().map(|node| node.number("last_snapshot_index")).collect();
    (0..120).for_each(|round| _ = cluster.nodes[leader].put("key-0", round));
    for (node, begun) in cluster.nodes.iter().zip(begun) {
        eventually(secs(15), format!("{} has taken a snapshot", node.name()), || {
            let stats = node.try_stats()?;
            let now = number(&stats, "last_snapshot_index");
            let term = number(&stats, "last_snapshot_term");
            check(now >= begun + 50 && now <= number(&stats, "applied_index") && term > 0, stats)
        });
    }
    for node in &cluster.nodes {
        node.put("asked", 1);
        let applied = node.number("applied_index");
        let answer = node.request(Request::new("POST", "/raft/snapshot")).expect(200, "now");
        let taken = number(&answer.data(), "last_snapshot_index");
        assert!(taken >= applied, "taken at {taken}, {applied} was applied before: {answer}");
    }
    cluster.nodes[1 - leader].kill9();
    cluster.nodes[1 - leader].start();
    assert_eq!(cluster.nodes[1 - leader].value("key-0"), 119, "after a kill on top of a snapshot");
    let kept = cluster.nodes[1 - leader].number("last_snapshot_index");
    assert!(kept > 100, "the point of the last snapshot survives: {kept}");
}

fn a_follower_that_was_down_receives_a_snapshot_during_writes() {
    let mut cluster = Cluster::with(3, small);
    let reign = cluster.reign();
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    cluster.nodes[place].kill9();
    fill(&cluster.nodes[leader], 300, 2_000);
    let others: Vec<String> = [cluster.nodes[leader].http.clone()].into();
    let load = Load::start(&others, 2, "meanwhile");
    cluster.nodes[place].start();
    has_everything(&cluster, &cluster.nodes[place], 300, 2_000);
    let goal = load.acked() + 20;
    eventually(secs(20), "writes go on", || check(load.acked() >= goal, load.acked()));
    let record = load.finish();
    record.verify_no_failure("writes stalled or failed during the stream");
    record.verify(&cluster.nodes[place]);
    assert_eq!(cluster.reign(), reign, "leader and term");
    for place in [place, leader] {
        let log = cluster.nodes[place].log().to_lowercase();
        assert!(log.contains("snapshot") || log.contains("stream"), "begin and end of a stream are logged: {log}");
    }
    cluster.nodes[place].kill9();
    cluster.nodes[place].start();
    has_everything(&cluster, &cluster.nodes[place], 300, 2_000);
}

fn a_new_node_receives_a_snapshot_during_writes() {
    let mut cluster = Cluster::with(2, small);
    fill(&cluster.nodes[0], 300, 2_000);
    let load = Load::start(&cluster.addresses(), 2, "meanwhile");
    let joiner = small(Setup::named("node3")).start();
    cluster.nodes[0].join(&joiner).expect(200, "a join under load");
    cluster.nodes.push(joiner);
    let goal = load.acked() + 20;
    eventually(secs(20), "writes go on", || check(load.acked() >= goal, load.acked()));
    let record = load.finish();
    record.verify_no_failure("writes stalled or failed during the join");
    has_everything(&cluster, &cluster.nodes[2], 300, 2_000);
    record.verify(&cluster.nodes[2]);
}

fn a_follower_killed_during_a_snapshot_stream_receives_it_again() {
    let mut cluster = Cluster::with(3, small);
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    cluster.nodes[place].kill9();
    fill(&cluster.nodes[leader], 120, 100_000);
    for delay in [0_u64, 30, 100, 300, 800] {
        cluster.nodes[place].spawn();
        cluster.nodes[place].await_up();
        // The moment is what this test varies; nothing depends on what has happened by then.
        thread::sleep(millis(delay));
        cluster.nodes[place].kill9();
        cluster.nodes[leader].put("during", delay);
    }
    cluster.nodes[place].start();
    has_everything(&cluster, &cluster.nodes[place], 120, 100_000);
    assert_eq!(cluster.nodes[place].value("during"), 800);
}

fn a_new_leader_restarts_the_snapshot_stream_of_a_killed_one() {
    let mut cluster = Cluster::with(3, small);
    let place = cluster.followers()[0];
    cluster.nodes[place].kill9();
    let leader = cluster.agreed();
    fill(&cluster.nodes[leader], 120, 100_000);
    for delay in [0_u64, 100, 400] {
        let leader = cluster.agreed();
        cluster.nodes[place].start();
        // The moment is what this test varies; nothing depends on what has happened by then.
        thread::sleep(millis(delay));
        cluster.nodes[leader].kill9();
        let next = cluster.some_leader(ELECTION);
        // The follower that is sent a snapshot is the second voter of two, so the write waits for the end of that.
        let put = Request::new("PUT", "/store/after?timeout=60s").body(delay.to_string());
        cluster.nodes[next].request(put.within(secs(70))).expect(200, "a write after the election");
        cluster.nodes[leader].start();
        has_everything(&cluster, &cluster.nodes[place], 120, 100_000);
        // For the next round it must be behind again.
        if cluster.agreed() == place {
            cluster.nodes[place].post("/raft/transfer", &json!({})).expect(200, "a transfer");
        }
        cluster.nodes[place].kill9();
        let leader = cluster.agreed();
        fill(&cluster.nodes[leader], 120, 100_000);
    }
    cluster.nodes[place].start();
    has_everything(&cluster, &cluster.nodes[place], 120, 100_000);
    assert_eq!(cluster.nodes[place].value("after"), "400");
}

fn large_values_in_random_order_leave_no_blob_file() {
    let mut cluster = Cluster::with(1, small);
    let sizes = [(12_u64, (1 << 20) - 2), (24, 300_000), (60, 16_384), (120, 8_192)];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut last = std::collections::BTreeMap::new();
    for (count, bytes) in sizes {
        for round in 0..count * 2 {
            let key = format!("size{bytes}-{:08}", random(count) * 7_919 % 100_003);
            let letter = char::from(b'a' + u8::try_from(round % 26).expect("a letter"));
            cluster.nodes[0].put(&key, letter.to_string().repeat(bytes));
            last.insert(key, (letter, bytes));
        }
        assert_eq!(blobs(cluster.nodes[0].directory()), Vec::<std::path::PathBuf>::new(), "after values of {bytes}");
    }
    let joiner = small(Setup::named("node2")).start();
    cluster.nodes[0].join(&joiner).expect(200, "a copy of it");
    cluster.nodes.push(joiner);
    for node in &mut cluster.nodes {
        node.kill9();
        node.spawn();
    }
    cluster.nodes.iter_mut().for_each(Node::await_up);
    cluster.agreed();
    for node in &cluster.nodes {
        for (key, (letter, bytes)) in &last {
            let value = node.value(key);
            let value = value.as_str().unwrap_or("");
            assert!(value.len() == *bytes && value.chars().all(|c| c == *letter), "{key} on {}", node.name());
        }
        assert_eq!(blobs(node.directory()), Vec::<std::path::PathBuf>::new(), "on {}", node.name());
    }
}
