//! Idempotency keys: a repeated request gets the stored result of the first one and is not applied again.

use serde_json::json;

use crate::harness::{Answer, Cluster, ELECTION, Node, Request, Setup};

crate::harness::cases![
    every_write_is_applied_once_and_its_result_repeated_on_any_node,
    a_refusal_is_repeated_too,
    the_same_idempotency_key_for_another_request_is_refused_and_changes_nothing,
    a_result_that_is_too_large_keeps_its_status_and_version,
    stored_results_survive_a_failover_a_restart_and_a_snapshot,
    an_invalid_idempotency_key_is_refused,
];

fn named(method: &str, path: &str, name: &str) -> Request {
    Request::new(method, path).header("Idempotency-Key", name)
}

fn put(path: &str, name: &str, value: &str) -> Request {
    named("PUT", path, name).body(value)
}

/// That an answer is the first one, given again.
#[track_caller]
fn again(first: &Answer, second: &Answer) {
    assert_eq!(second.header("idempotency-replayed"), Some("true"), "{second}");
    assert_eq!(first.header("idempotency-replayed"), None, "{first}");
    for header in ["x-raft-index", "x-raft-term", "etag", "content-type"] {
        assert_eq!(second.header(header), first.header(header), "{header}");
    }
    assert_eq!((second.status, second.text()), (first.status, first.text()));
}

fn applied(node: &Node, key: &str) -> Option<u64> {
    node.get(&format!("/store/{key}")).data()["version"].as_u64()
}

fn every_write_is_applied_once_and_its_result_repeated_on_any_node() {
    let cluster = Cluster::of(3);
    let nodes = &cluster.nodes;
    nodes[0].put("count", 1);
    nodes[0].put("gone/1", 1);
    let txn = json!({"if": [{"key": "count", "exists": true}],
        "then": [{"op": "get", "key": "count"}, {"op": "put", "key": "count", "value": 2}, {"op": "delete", "key": "none"}]});
    let requests = [
        ("POST", "/store", json!({"key": "a", "value": {"b": [1]}}).to_string()),
        ("PUT", "/store/b%20c", "raw".to_owned()),
        ("POST", "/txn", txn.to_string()),
        ("POST", "/touch/a", json!({"ttl": 1000}).to_string()),
        ("DELETE", "/store/count", String::new()),
        ("DELETE", "/store?prefix=gone/", String::new()),
        ("POST", "/keys/d/", json!({"value": "x"}).to_string()),
        ("PUT", "/kv/e", json!({"value": "x"}).to_string()),
        ("DELETE", "/kv/e", String::new()),
        ("DELETE", "/kv/e", String::new()),
    ];
    for (at, (method, path, body)) in requests.iter().enumerate() {
        let name = format!("name-{at}");
        let send = |node: usize, path: &str| nodes[node % 3].request(named(method, path, &name).body(body.as_str()));
        let first = send(at, path);
        assert!(first.status < 300 || (first.status, *method) == (404, "DELETE"), "{method} {path}: {first}");
        let index = nodes[0].put("between", at);
        for node in at..at + 3 {
            // What is asked does not depend on how long it is waited for.
            let separator = if path.contains('?') { '&' } else { '?' };
            again(&first, &send(node, &format!("{path}{separator}timeout=7s")));
        }
        assert!(first.header("x-raft-index").is_some_and(|own| own.parse::<u64>().unwrap() < index));
    }
    assert_eq!(nodes[1].get("/store/count").status, 404, "nothing was done again after it");
}

fn a_refusal_is_repeated_too() {
    let cluster = Cluster::of(3);
    let [one, two, _] = &cluster.nodes[..] else { panic!() };
    let version = one.put("k", 1);
    let create = || put("/store/k", "create", "2").header("If-None-Match", "*");
    let first = one.request(create()).problem(412, "there is such a key");
    assert_eq!(first.header("etag"), Some(&format!("\"{version}\"")[..]));
    let touch = || named("POST", "/touch/new", "touch").body(r#"{"ttl": 5}"#);
    let missing = one.request(touch()).problem(404, "there is no such key");
    two.delete("/store/k").expect(200, "delete");
    two.put("new", 1);
    again(&first, &two.request(create()));
    again(&missing, &two.request(touch()));
    assert_eq!(one.get("/store/k").status, 404);
    // What was not decided by the store is no result: it may be tried again under its name.
    one.request(put("/store/k?ttl=0", "bad", "x")).problem(400, "no such ttl");
    assert_eq!(one.request(put("/store/k", "bad", "x")).expect(200, "put").header("idempotency-replayed"), None);
}

fn the_same_idempotency_key_for_another_request_is_refused_and_changes_nothing() {
    let cluster = Cluster::of(3);
    let [one, two, _] = &cluster.nodes[..] else { panic!() };
    let version = one.request(put("/store/k", "n", "1")).expect(200, "put").data()["version"].as_u64();
    let others = [
        put("/store/k", "n", "2"),
        put("/store/k2", "n", "1"),
        put("/store/k?ttl=5", "n", "1"),
        put("/store/k", "n", "1").header("If-Match", "*"),
        put("/store/k", "n", "1").header("Content-Type", "text/html"),
        named("DELETE", "/store/k", "n"),
        named("POST", "/store", "n").body(r#"{"key": "k", "value": "1"}"#),
    ];
    for other in others {
        let refused = two.request(other).problem(422, "another request").code("idempotency_key_reused", "code");
        let refused = refused.outcome("not_applied", "outcome");
        assert_eq!(refused.header("idempotency-replayed"), None);
    }
    assert_eq!(applied(one, "k"), version);
    assert_eq!(one.get("/store/k2").status, 404);
    two.request(put("/store/k", "n", "1")).expect(200, "the first request still has its answer");
}

fn a_result_that_is_too_large_keeps_its_status_and_version() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[0];
    let version = node.put("large", "x".repeat(5000));
    let touch = || named("POST", "/touch/large", "touch").body(r#"{"ttl": 1000}"#);
    node.request(touch()).expect(200, "touch");
    let txn = || named("POST", "/txn", "txn").body(r#"{"then": [{"op": "get", "key": "large"}]}"#);
    let index = node.request(txn()).expect(200, "txn").data()["index"].as_u64();
    for (request, version) in [(touch(), Some(version)), (txn(), index)] {
        let answer = cluster.nodes[1].request(request).expect(200, "again");
        assert_eq!(answer.data(), json!({"version": version, "truncated": true}));
        assert_eq!(answer.header("idempotency-replayed"), Some("true"));
    }
    // What the request itself carries is not part of the result.
    let post = || named("POST", "/store", "post").body(json!({"key": "k", "value": "y".repeat(9000)}).to_string());
    let first = node.request(post()).expect(200, "post");
    again(&first, &cluster.nodes[2].request(post()));
}

fn stored_results_survive_a_failover_a_restart_and_a_snapshot() {
    let small = |setup: Setup| setup.set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 50).set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 10);
    let mut cluster = Cluster::with(3, small);
    let leader = cluster.agreed();
    let away = cluster.followers()[0];
    cluster.nodes[away].kill9();
    let first = cluster.nodes[leader].request(put("/store/k", "n", "1")).expect(200, "put");
    (0..200).for_each(|round| _ = cluster.nodes[leader].put("other", round));
    // The log does not reach this one any more: it gets a snapshot.
    cluster.nodes[away].start();
    cluster.caught_up(ELECTION);
    let transfer = json!({"node_id": cluster.nodes[away].name()}).to_string();
    cluster.nodes[leader].request(Request::new("POST", "/raft/transfer").body(transfer)).expect(200, "transfer");
    cluster.nodes.iter().for_each(|node| again(&first, &node.request(put("/store/k", "n", "1"))));
    cluster.nodes[away].kill9();
    let survivor = cluster.some_leader(ELECTION);
    again(&first, &cluster.nodes[survivor].request(put("/store/k", "n", "1")));
    cluster.nodes.iter_mut().for_each(Node::kill9);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    cluster.nodes.iter_mut().for_each(Node::await_up);
    cluster.agreed();
    cluster.nodes.iter().for_each(|node| again(&first, &node.request(put("/store/k", "n", "1"))));
}

fn an_invalid_idempotency_key_is_refused() {
    let node = Setup::named("node1").start();
    for name in ["", " ", "two words", "\u{e9}", &"x".repeat(65)] {
        node.request(put("/store/k", name, "1")).problem(400, "no such name").code("bad_header", name);
    }
    let twice = put("/store/k", "a", "1").header("Idempotency-Key", "b");
    node.request(twice).problem(400, "two names").code("bad_header", "two names");
    assert_eq!(node.get("/store/k").status, 404);
    node.request(put("/store/k", &"x".repeat(64), "1")).expect(200, "64 bytes");
}
