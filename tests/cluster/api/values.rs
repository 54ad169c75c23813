//! Binary values and conditional requests, on any node.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Node, Request, Setup};

crate::harness::cases![
    values_are_returned_byte_for_byte_on_every_node_and_after_kill_9,
    a_value_is_rendered_by_its_content_type,
    a_snapshot_contains_versions_and_content_types,
    conditions_hold_on_every_node,
    exactly_one_of_many_writers_with_the_same_condition_wins,
];

const BYTES: &[u8] = b"\x00\xff\xfe\r\n\x80 bytes";

fn put(node: &Node, key: &str, kind: Option<&str>, body: impl Into<Vec<u8>>) -> Answer {
    let request = Request::new("PUT", format!("/store/{key}")).body(body);
    node.request(match kind {
        Some(kind) => request.header("Content-Type", kind),
        None => request,
    })
}

#[track_caller]
fn is_raw(node: &Node, key: &str, kind: &str, body: &[u8]) {
    let raw = node.get(&format!("/store/{key}?raw")).expect(200, key);
    assert_eq!((raw.header("content-type"), &raw.body[..]), (Some(kind), body), "{key} on {}", node.name());
    assert_eq!(raw.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(raw.header("content-security-policy"), Some("sandbox"));
}

fn values_are_returned_byte_for_byte_on_every_node_and_after_kill_9() {
    let mut cluster = Cluster::of(3);
    let follower = cluster.followers()[0];
    let answer = put(&cluster.nodes[follower], "image", Some("image/png"), BYTES).expect(200, "PUT");
    let version = answer.data()["version"].as_u64().unwrap();
    assert_eq!(answer.data(), json!({"key": "image", "version": version}));
    assert_eq!(answer.word("message"), "success persisting data");
    put(&cluster.nodes[0], "big", None, vec![0xA5; 1 << 20]).expect(200, "1 MiB");
    put(&cluster.nodes[0], "empty", None, "").problem(400, "no byte at all").code("bad_body", "no byte at all");
    put(&cluster.nodes[0], "empty?empty", None, "").expect(200, "no byte at all, as it is meant");
    for node in &cluster.nodes {
        is_raw(node, "image", "image/png", BYTES);
        is_raw(node, "big", "application/octet-stream", &[0xA5; 1 << 20]);
        is_raw(node, "empty", "text/plain; charset=utf-8", b"");
    }
    cluster.nodes[follower].kill9();
    cluster.nodes[follower].start();
    is_raw(&cluster.nodes[follower], "image", "image/png", BYTES);
    put(&cluster.nodes[0], "bigger", None, vec![1; (1 << 20) + 1]).problem(413, "1 MiB and a byte");
}

fn a_value_is_rendered_by_its_content_type() {
    let node = Setup::named("node1").start();
    let text = "text/plain; charset=utf-8";
    let form = Some("application/x-www-form-urlencoded");
    let cases = [
        (form, &b"a=b"[..], text, json!("a=b"), Value::Null),
        (None, b"\xff", "application/octet-stream", Value::Null, json!("/w==")),
        (Some("application/json"), b"{\"a\": 1.0}", "application/json", json!({"a": 1.0}), Value::Null),
        (Some("application/problem+json"), b"[1]\n", "application/problem+json", json!([1]), Value::Null),
        (Some("text/csv"), b"a,b\n", "text/csv", json!("a,b\n"), Value::Null),
        (Some("application/xml"), b"<a/>", "application/xml", Value::Null, json!("PGEvPg==")),
    ];
    for (announced, body, kind, value, base64) in cases {
        put(&node, "k", announced, body).expect(200, kind);
        let data = node.get("/store/k").expect(200, kind).data();
        assert_eq!((&data["value"], &data["value_base64"]), (&value, &base64), "{kind}");
        assert_eq!(data["content_type"], kind);
        is_raw(&node, "k", kind, body);
    }
    node.post("/store", &json!({"key": "k", "value": "\u{e9}\n"})).expect(200, "a string");
    is_raw(&node, "k", text, "\u{e9}\n".as_bytes());
    node.request(Request::new("POST", "/store").body("{\"key\": \"k\", \"value\": [1.0 ,2] }")).expect(200, "JSON");
    is_raw(&node, "k", "application/json", b"[1.0 ,2]");
    let encoded = json!({"key": "k", "value_base64": "/w==", "content_type": "image/png"});
    node.post("/store", &encoded).expect(200, "base64");
    is_raw(&node, "k", "image/png", b"\xff");
    put(&node, "k", Some("application/json"), "{nope").problem(400, "no JSON").outcome("not_applied", "no JSON");
    put(&node, "k", Some("nonsense"), "x").problem(400, "no type").code("bad_header", "no type");
    let deep = "[".repeat(100_000);
    let refused = put(&node, "k", Some("application/json"), deep).problem(400, "deep and broken");
    assert_eq!(refused.word("outcome"), "not_applied");
    is_raw(&node, "k", "image/png", b"\xff");
    let head = node.request(Request::new("HEAD", "/store/none")).expect(404, "HEAD of nothing");
    assert!(head.body.is_empty());
}

fn a_snapshot_contains_versions_and_content_types() {
    let setup = Setup::named("node1").set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 100).set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 10);
    let node = setup.start();
    put(&node, "image", Some("image/png"), BYTES).expect(200, "PUT");
    put(&node, "image", Some("image/gif"), BYTES).expect(200, "PUT again");
    for round in 0..300 {
        node.put("noise", round);
    }
    let second = Setup::named("node2").start();
    node.join(&second).expect(200, "join");
    let (here, there) = (node.get("/store/image"), second.get("/store/image?consistency=stale"));
    assert_eq!(there.data(), here.data());
    assert!(there.data()["create_version"].as_u64() < there.data()["version"].as_u64(), "{there}");
    is_raw(&second, "image", "image/gif", BYTES);
}

fn conditions_hold_on_every_node() {
    let cluster = Cluster::of(3);
    let with = |node: &Node, method: &str, header: &str, value: &str| {
        node.request(Request::new(method, "/store/lock").header(header, value).body("x"))
    };
    for node in &cluster.nodes {
        let what = node.name().to_owned();
        let missing = with(node, "PUT", "If-Match", "*").problem(412, &what).code("precondition_failed", &what);
        assert_eq!((&missing.json()["version"], missing.header("etag")), (&json!(0), None), "{missing}");
        let made = with(node, "PUT", "If-None-Match", "*").expect(200, &what);
        let (version, tag) = (made.data()["version"].clone(), made.header("etag").unwrap_or("").to_owned());
        assert_eq!(tag, format!("\"{version}\""));
        assert_eq!(made.header("x-raft-index"), Some(version.to_string().as_str()));
        let second = with(node, "PUT", "If-None-Match", "*").problem(412, &what).outcome("not_applied", &what);
        assert_eq!((&second.json()["version"], second.header("etag")), (&version, Some(tag.as_str())), "{second}");
        with(node, "DELETE", "If-Match", "\"1\"").problem(412, &what);
        for reader in &cluster.nodes {
            let known = with(reader, "GET", "If-None-Match", &tag).expect(304, &what);
            assert!(known.body.is_empty() && known.header("etag") == Some(tag.as_str()), "{known}");
            with(reader, "GET", "If-None-Match", "\"1\"").expect(200, &what);
        }
        let body = |version: &Value| json!({"key": "lock", "value": "y", "if_version": version});
        node.post("/store", &body(&json!(0))).problem(412, "0 is a key that must not exist");
        let next = node.post("/store", &body(&version)).expect(200, "if_version");
        node.post("/store", &body(&version)).problem(412, "the version has moved on");
        assert_eq!(node.get("/store/lock").data()["create_version"], version);
        let tag = next.header("etag").unwrap_or("").to_owned();
        assert_eq!(with(node, "DELETE", "If-Match", &tag).expect(200, &what).data()["deleted"], true);
    }
}

fn exactly_one_of_many_writers_with_the_same_condition_wins() {
    let cluster = Cluster::of(3);
    let addresses = Arc::new(cluster.addresses());
    let mut last = cluster.nodes[0].put("counter", 0);
    for round in 0..10 {
        let writers: Vec<_> = (0..6)
            .map(|writer: usize| {
                let address = addresses[writer % addresses.len()].clone();
                let tag = format!("\"{last}\"");
                std::thread::spawn(move || {
                    let put = Request::new("PUT", "/store/counter").header("If-Match", &tag).body(writer.to_string());
                    put.send(&address).map(|answer| answer.status).unwrap_or(0)
                })
            })
            .collect();
        let mut statuses: Vec<u16> = writers.into_iter().map(|writer| writer.join().unwrap_or(0)).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 412, 412, 412, 412, 412], "round {round}");
        last = cluster.nodes[0].get("/store/counter").data()["version"].as_u64().unwrap();
    }
}
