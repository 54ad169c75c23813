//! Disk reserve: nearly full disks, and snapshots that do not fit.

use serde_json::{Value, json};

use super::disk_full::Disk;
use crate::harness::{Answer, Cluster, ELECTION, Need, Node, Request, Setup, check, eventually, member, secs};

crate::harness::cases![
    while_a_voter_is_nearly_full_writes_that_need_space_are_507_and_others_succeed.needs(Need::Tmpfs),
    below_the_floor_deletes_are_507_and_the_node_lives_and_starts_again.needs(Need::Tmpfs),
    deletes_and_checkpoints_on_a_nearly_full_disk_stop_at_the_floor.needs(Need::Tmpfs),
    a_join_does_not_use_the_disk_reserve_of_the_leader.needs(Need::Tmpfs),
    a_snapshot_that_does_not_fit_is_aborted_and_reported.needs(Need::Tmpfs),
    a_node_whose_disk_is_nearly_full_is_not_joined.needs(Need::Tmpfs),
    a_full_disk_reports_the_space_that_it_needs.needs(Need::Tmpfs),
];

fn post(node: &Node, path: &str, body: &Value) -> Answer {
    node.request(Request::new("POST", path).body(body.to_string()).within(secs(15)))
}

/// What `seen` says of the disk of `name`.
fn disk<'a>(seen: &'a Value, name: &str) -> Result<&'a Value, String> {
    member(seen, name).map(|member| &member["disk"]).filter(|disk| disk.is_object()).ok_or(format!("{name}: {seen}"))
}

/// Waits until every node knows whether the disk of `name` is nearly full.
#[track_caller]
fn known(cluster: &Cluster, name: &str, nearly_full: bool) {
    eventually(ELECTION, format!("all know that {name} is nearly full: {nearly_full}"), || {
        cluster.nodes.iter().try_for_each(|node| {
            let stats = node.try_stats()?;
            check(disk(&stats, name)?["nearly_full"] == nearly_full, format!("{}: {stats}", node.name()))
        })
    });
}

fn while_a_voter_is_nearly_full_writes_that_need_space_are_507_and_others_succeed() {
    let small = Disk::of(512);
    let mut cluster = Cluster::of(2);
    let third = Setup::named("node3").directory(small.data_dir()).start();
    cluster.nodes[0].join(&third).expect(200, "a join");
    cluster.nodes.push(third);
    let first = &cluster.nodes[0];
    for key in ["a", "b", "c/1", "c/2", "d"] {
        first.put(key, 1);
    }
    post(first, "/store", &json!({"key": "lock", "value": 1, "ttl": 100})).expect(200, "a lock");
    let named = |node: &Node| {
        let put = Request::new("PUT", "/store/named").header("Idempotency-Key", "one").body("1").within(secs(15));
        node.request(put)
    };
    named(first).expect(200, "a named write");
    small.fill_but(45);
    known(&cluster, "node3", true);
    let [first, second, third] = &cluster.nodes[..] else { panic!("three nodes") };
    let reserve = disk(&first.stats(), "node3").unwrap()["reserve_bytes"].as_u64().unwrap();
    assert_eq!(reserve, 64 << 20, "the least that a disk of this size keeps");
    for node in [first, second, third] {
        let put = post(node, "/store", &json!({"key": "e", "value": 1}));
        let put = put.problem(507, "a put").code("disk_nearly_full", "a put").outcome("not_applied", "a put");
        assert!(put.word("detail").contains("node3") && put.word("detail").contains("storage.reserve_mb"), "{put}");
        assert!(put.header("retry-after").is_none());
        let writes = json!({"then": [{"op": "delete", "key": "d"}, {"op": "put", "key": "a", "value": 2}]});
        post(node, "/txn", &writes).problem(507, "a transaction that puts");
        node.get("/store/a").expect(200, "a read");
        node.request(Request::new("POST", "/touch/lock").body(r#"{"ttl": 50}"#)).expect(200, "a touch");
    }
    assert_eq!(named(second).expect(200, "done before").header("idempotency-replayed"), Some("true"));
    first.delete("/store/b").expect(200, "a delete");
    second.delete("/store?prefix=c/").expect(200, "a removal by prefix");
    post(third, "/txn", &json!({"then": [{"op": "delete", "key": "d"}, {"op": "get", "key": "a"}]}))
        .expect(200, "no put");
    let extra = Setup::named("node4").start();
    first.join(&extra).expect(200, "membership goes on");
    first.remove("node4").expect(200, "membership goes on");
    first.get("/store/e").problem(404, "what was refused");
    small.give_back();
    known(&cluster, "node3", false);
    for (number, node) in cluster.nodes.iter_mut().enumerate() {
        node.put("f", number);
        assert!(node.exited().is_none());
    }
    let log = cluster.nodes[2].log();
    assert!(log.contains("the disk is nearly full") && log.contains("enough space again"), "{log}");
}

/// Waits until the leader refuses this request for want of space, or takes it.
fn eventually_answers(node: &Node, request: impl Fn() -> Request, status: u16) -> Answer {
    eventually(ELECTION, format!("an answer {status}"), || {
        let answer = node.request(request());
        check(answer.status == status, &answer)?;
        Ok(answer)
    })
}

fn below_the_floor_deletes_are_507_and_the_node_lives_and_starts_again() {
    let small = Disk::of(256);
    let mut cluster = Cluster::of(2);
    let third = Setup::named("node3").directory(small.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 64).start();
    cluster.nodes[0].join(&third).expect(200, "a join");
    cluster.nodes.push(third);
    let first = &cluster.nodes[0];
    for key in ["a", "b", "c"] {
        first.put(key, 1);
    }
    post(first, "/store", &json!({"key": "lock", "value": 1, "ttl": 1000})).expect(200, "a lock");
    post(first, "/store", &json!({"key": "short", "value": 1, "ttl": 3})).expect(200, "a key that expires");
    small.fill_but(30);
    let delete = |key: &str| Request::new("DELETE", format!("/store/{key}")).within(secs(15));
    eventually_answers(first, || delete("nothing"), 507);
    for node in &cluster.nodes {
        for refused in [
            delete("a"),
            Request::new("DELETE", "/store?prefix=b"),
            Request::new("POST", "/touch/lock").body(r#"{"ttl": 50}"#),
            Request::new("PUT", "/store/d").body("1"),
            Request::new("POST", "/txn").body(r#"{"then": [{"op": "delete", "key": "a"}]}"#),
        ] {
            let answer = node.request(refused.within(secs(15)));
            let answer = answer.problem(507, "a write").code("disk_nearly_full", "a write");
            let answer = answer.outcome("not_applied", "a write");
            let detail = answer.word("detail");
            assert!(detail.contains("node3") && detail.contains("below 32.0 MiB"), "{answer}");
        }
        node.get("/store/a").expect(200, "a read");
        post(node, "/txn", &json!({"then": [{"op": "get", "key": "a"}]})).expect(200, "a transaction that reads");
    }
    let checkpoint = cluster.nodes[2].request(Request::new("POST", "/raft/snapshot").within(secs(15)));
    checkpoint
        .problem(507, "a checkpoint")
        .code("disk_nearly_full", "a checkpoint")
        .outcome("not_applied", "a checkpoint");
    first.request(Request::new("POST", "/raft/snapshot").within(secs(15))).expect(200, "a checkpoint of another node");
    post(first, "/raft/transfer", &json!({"node_id": "node3"})).expect(200, "leadership moves");
    let [first, _, third] = &mut cluster.nodes[..] else { panic!("three nodes") };
    let mut free = Vec::new();
    for _ in 0..3 {
        third.kill9();
        third.start();
        eventually_answers(first, || delete("a"), 507);
        free.push(small.free() >> 20);
    }
    // The first start begins segments in both databases; later ones use the space of those again.
    assert!(free[2] >= 20, "MiB free after each start: {free:?}");
    first.get("/store/short").expect(200, "an expiry waits");
    small.give_back();
    known(&cluster, "node3", false);
    let first = &cluster.nodes[0];
    eventually_answers(first, || delete("a"), 200);
    eventually_answers(first, || Request::new("GET", "/store/short").within(secs(15)), 404);
    assert!(cluster.nodes[2].log().contains("the disk is almost full"));
}

fn deletes_and_checkpoints_on_a_nearly_full_disk_stop_at_the_floor() {
    let small = Disk::of(512);
    let mut node = Setup::named("node1").directory(small.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 64).start();
    fill(&node, 40);
    // What is not in the tree yet counts as used, several times.
    node.request(Request::new("POST", "/raft/snapshot").within(secs(15))).expect(200, "a checkpoint");
    small.fill_but(62);
    eventually_answers(&node, || Request::new("PUT", "/store/x").body("1").within(secs(15)), 507);
    let mut statuses = Vec::new();
    for key in (0..40).rev() {
        let path = if key % 10 == 3 { format!("/store?prefix=key-{}", key / 10) } else { format!("/store/key-{key}") };
        for request in [Request::new("DELETE", path), Request::new("POST", "/raft/snapshot")] {
            statuses.push(node.request(request.within(secs(15))).status);
        }
    }
    assert!(statuses.contains(&200) && statuses.iter().all(|status| [200, 507].contains(status)), "{statuses:?}");
    assert!(small.free() >= 20 << 20, "{} bytes are free: {statuses:?}", small.free());
    assert!(node.exited().is_none());
    node.kill9();
    node.start();
    node.get("/store").expect(200, "it starts again");
}

/// Values of 1 MiB under `count` keys.
fn fill(node: &Node, count: usize) {
    let value = "x".repeat(1 << 20);
    for key in 0..count {
        let put = Request::new("PUT", format!("/store/key-{key}")).body(value.as_str()).within(secs(20));
        node.request(put).expect(200, "a value of 1 MiB");
    }
}

/// Thresholds that leave a joiner no log.
fn short(setup: Setup) -> Setup {
    setup.set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 5).set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 1)
}

fn a_join_does_not_use_the_disk_reserve_of_the_leader() {
    let small = Disk::of(256);
    let leader = short(Setup::named("node1")).directory(small.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 4).start();
    fill(&leader, 24);
    // A flush under way would find the disk full, and the node would end.
    leader.request(Request::new("POST", "/raft/snapshot").within(secs(15))).expect(200, "a checkpoint");
    // Less than the state has, so that it cannot lie on the disk a second time.
    small.fill_but(16);
    let joiner = short(Setup::named("node2")).start();
    leader.join(&joiner).expect(200, "a join");
    assert_eq!(
        joiner.get("/store/key-23?consistency=stale").expect(200, "the copy").data()["value"].as_str().map(str::len),
        Some(1 << 20)
    );
    let mut leader = leader;
    assert!(leader.exited().is_none());
    assert!(small.free() >= 4 << 20, "{} bytes are free", small.free());
}

fn a_snapshot_that_does_not_fit_is_aborted_and_reported() {
    let small = Disk::of(64);
    let mut leader = short(Setup::named("node1")).start();
    fill(&leader, 48);
    let mut joiner =
        short(Setup::named("node2")).directory(small.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 8).start();
    let body = json!({"node_id": "node2", "raft_address": joiner.raft});
    let join = || {
        let post = Request::new("POST", "/raft/join?timeout=2s").body(body.to_string()).within(secs(20));
        leader.request(post).problem(504, "a join that cannot end").code("join_unfinished", "a join that cannot end")
    };
    // A first attempt may still be under way at the deadline; the same POST resumes it.
    eventually(secs(30), "the answer says why", || {
        let answer = join();
        let words = ["node2", "fit on the receiver's disk", "free there", "storage.reserve_mb"];
        check(words.iter().all(|word| answer.word("detail").contains(word)), &answer)
    });
    for node in [&leader, &joiner] {
        eventually(secs(20), format!("{} says why", node.name()), || {
            let log = node.log();
            check(log.contains("fit on the receiver's disk") && log.contains("storage.reserve_mb"), log)
        });
    }
    assert!(leader.exited().is_none() && joiner.exited().is_none());
    assert!(small.free() >= 4 << 20, "{} bytes are free", small.free());
    leader.put("still", "it takes writes");
}

fn a_node_whose_disk_is_nearly_full_is_not_joined() {
    let small = Disk::of(64);
    let joiner = Setup::named("node2").directory(small.data_dir()).start();
    small.fill_but(3);
    let leader = Setup::named("node1").start();
    eventually(ELECTION, "it knows", || {
        let stats = joiner.try_stats()?;
        check(disk(&stats, "node2")?["nearly_full"] == true, stats)
    });
    let alone = post(&joiner, "/store", &json!({"key": "a", "value": 1}));
    alone.problem(507, "a put on it alone").code("disk_nearly_full", "a put on it alone");
    let refused = leader.join(&joiner).problem(507, "a join").code("disk_nearly_full", "a join");
    assert!(refused.outcome("not_applied", "a join").word("detail").contains("node2"));
    assert_eq!(leader.stats()["voters"], 1);
}

fn a_full_disk_reports_the_space_that_it_needs() {
    let small = Disk::of(64);
    let mut node = Setup::named("node1").directory(small.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", 0).start();
    small.fill();
    // Without a reserve nothing is refused, and the disk ends the node.
    for number in 0..2_000 {
        let put = Request::new("PUT", format!("/store/key-{number}")).body("x".repeat(65_536)).within(secs(15));
        if node.try_request(put).map_or(true, |answer| answer.status != 200) {
            break;
        }
    }
    let status = node.await_exit(secs(30));
    let log = node.log();
    let last = log.lines().last().unwrap_or("");
    assert!(status.code().is_some_and(|code| code != 0), "{status}: {log}");
    for word in
        ["disk full", &small.data_dir().display().to_string(), "free there now", "at least 20.0 MiB", "start again"]
    {
        assert!(last.contains(word), "{word:?} is missing: {last}");
    }
    small.give_back();
    small.fill_but(20);
    node.start();
}
