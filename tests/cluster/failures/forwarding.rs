//! Forwarding: any node serves any request.

use serde_json::json;

use crate::harness::{Cluster, Load, Request, Setup, check, eventually, names, secs};

crate::harness::cases![
    a_follower_serves_every_request_that_the_leader_serves,
    reads_on_every_node_see_every_write_at_once,
    no_two_writes_share_a_version_on_any_node,
    a_stale_read_with_the_index_of_a_write_sees_it,
    a_stale_read_can_bound_its_staleness,
    a_resumed_node_does_not_count_queued_messages_as_contact,
    a_resumed_leader_does_not_propose_requests_after_their_deadline,
];

fn a_follower_serves_every_request_that_the_leader_serves() {
    let cluster = Cluster::of(3);
    let reign = cluster.reign();
    let follower = &cluster.nodes[cluster.followers()[0]];
    let put = follower.post("/store", &json!({"key": "foo", "value": 1.5})).expect(200, "POST on a follower");
    assert_eq!(put.word("message"), "success persisting data");
    assert!(put.header("x-raft-index").is_some() && put.header("x-raft-term").is_some(), "{put}");
    let got = follower.get("/store/foo").expect(200, "GET").data();
    assert_eq!((&got["value"], &got["version"]), (&put.data()["value"], &put.data()["version"]), "{got}");
    let gone = follower.delete("/store/foo").expect(200, "DELETE on a follower");
    assert_eq!(gone.data()["deleted"], true);
    let again = follower.delete("/store/foo").expect(200, "DELETE of nothing");
    assert_eq!(again.data()["deleted"], false);
    let fourth = Setup::named("node4").start();
    let joined = follower.join(&fourth).expect(200, "join on a follower");
    // The node asked answers with its own stats, once it has applied the change itself.
    assert_eq!(joined.data()["node_id"], follower.name());
    assert_eq!(names(&joined.data(), "voter").len(), 4, "{joined}");
    let removed = follower.remove("node4").expect(200, "remove on a follower");
    assert_eq!(removed.data()["node_id"], follower.name());
    assert_eq!(names(&removed.data(), "voter").len(), 3, "{removed}");
    assert_eq!(cluster.reign(), reign, "nothing of this moves leadership or term");
    follower.post("/raft/transfer", &json!({"node_id": follower.name()})).expect(200, "transfer on a follower");
    assert_eq!(cluster.reign().0, follower.name());
    let missing = follower.post("/store", &json!({"key": "x"})).problem(400, "a bad write on a follower");
    missing.outcome("not_applied", "a bad write on a follower");
}

fn reads_on_every_node_see_every_write_at_once() {
    let cluster = Cluster::of(3);
    for round in 0..60 {
        let writer = &cluster.nodes[round % 3];
        let version = writer.put("turns", round);
        for node in &cluster.nodes {
            let read = node.get("/store/turns").expect(200, "GET");
            assert_eq!(read.data()["value"], round, "on {} after a write on {}", node.name(), writer.name());
            assert_eq!(read.data()["version"], version);
            let index = read.header("x-raft-index").and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
            assert!(index >= version, "X-Raft-Index {index} below the version {version} that was read");
        }
    }
}

fn no_two_writes_share_a_version_on_any_node() {
    let cluster = Cluster::of(3);
    let load = Load::start(&cluster.addresses(), 8, "versions");
    eventually(secs(60), "some hundred writes", || check(load.acked() >= 400, load.acked()));
    let record = load.finish();
    record.verify_no_failure("a healthy cluster refuses nothing");
    for node in &cluster.nodes {
        record.verify(node);
    }
}

fn a_stale_read_with_the_index_of_a_write_sees_it() {
    let cluster = Cluster::of(3);
    for round in 0..30 {
        let put = cluster.nodes[round % 3].post("/store", &json!({"key": "own", "value": round})).expect(200, "POST");
        let index = put.header("x-raft-index").unwrap_or("").to_owned();
        for node in &cluster.nodes {
            for path in ["/store/own?consistency=stale", "/store?prefix=own&consistency=stale", "/store/own?timeout=5s"]
            {
                let read = node.get(&format!("{path}&min_index={index}")).expect(200, path);
                assert!(read.text().contains(&format!("\"value\":{round},")), "{path} on {}: {read}", node.name());
                assert_eq!(read.header("x-huskv-node"), Some(node.name()));
                assert_eq!(read.header("x-huskv-leader"), Some(cluster.reign().0.as_str()));
            }
        }
    }
    for query in ["", "&consistency=stale"] {
        let late = cluster.nodes[0].get(&format!("/store/own?min_index=99999999&timeout=300ms{query}"));
        late.problem(504, "an index that is far ahead").code("timeout", "an index that is far ahead");
    }
}

fn a_stale_read_can_bound_its_staleness() {
    let mut cluster = Cluster::of(2);
    let follower = cluster.followers()[0];
    cluster.nodes[0].put("k", 1);
    let path = "/store/k?consistency=stale&max_stale=3s";
    for node in &cluster.nodes {
        node.get(path).expect(200, "a leader is there");
    }
    cluster.nodes[1 - follower].kill9();
    let node = &cluster.nodes[follower];
    eventually(secs(20), "the last contact is too old", || {
        let read = node.get(path);
        check(read.status == 503, read)
    });
    node.get(path).problem(503, "no leader").code("too_stale", "no leader");
    node.get("/store?consistency=stale&max_stale=3s").problem(503, "no leader").code("too_stale", "no leader");
    node.get("/store/k?consistency=stale").expect(200, "unbounded");
}

/// What the leader sent while the node was stopped waits in its sockets, and says nothing of now.
fn a_resumed_node_does_not_count_queued_messages_as_contact() {
    let mut cluster = Cluster::of(3);
    let (leader, follower) = (cluster.agreed(), cluster.followers()[0]);
    cluster.nodes[leader].put("k", "old");
    cluster.caught_up(secs(10));
    let path = "/store/k?consistency=stale&max_stale=500ms";
    assert_eq!(cluster.nodes[follower].get(path).expect(200, "in contact").data()["value"], "old");
    for round in 0..5 {
        cluster.nodes[follower].sigstop();
        cluster.nodes[leader].put("k", round);
        std::thread::sleep(secs(1));
        let asked = Request::new("GET", path).open(&cluster.nodes[follower].http).expect("the kernel takes it");
        cluster.nodes[follower].sigcont();
        let read = asked.answer(secs(10)).expect("an answer");
        if read.status == 200 {
            assert_eq!(read.data()["value"], round, "superseded for a second: {read}");
        } else {
            read.problem(503, "after a stop").code("too_stale", "after a stop");
        }
    }
}

/// Its client has long been told 504, and may have written something else since.
fn a_resumed_leader_does_not_propose_requests_after_their_deadline() {
    let mut cluster = Cluster::of(2);
    let (leader, follower) = (cluster.agreed(), cluster.followers()[0]);
    cluster.nodes[follower].put("before", 1);
    cluster.nodes[leader].sigstop();
    let late = cluster.nodes[follower].post("/store?timeout=500ms", &json!({"key": "late", "value": "old"}));
    late.problem(504, "a leader that is stopped").outcome("unknown", "a leader that is stopped");
    std::thread::sleep(secs(1));
    cluster.nodes[leader].sigcont();
    let follower = &cluster.nodes[follower];
    // It comes after the other one over the same connection.
    eventually(secs(20), "writes go on", || {
        let put = follower.post("/store", &json!({"key": "after", "value": 1}));
        check(put.status == 200, put)
    });
    follower.get("/store/late").problem(404, "a request after its deadline");
}
