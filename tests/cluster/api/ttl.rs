//! TTL: expiry over failovers, restarts and snapshots.
//!
//! Invariants: no key expires before its deadline by the clock of the test, which starts before the request is sent. The
//! expiry itself is awaited with a generous timeout.

use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, ELECTION, Node, Request, Setup, ask, check, eventually, secs};

crate::harness::cases![
    a_key_expires_on_every_node_and_never_early,
    every_kind_of_write_accepts_a_ttl_and_a_put_without_one_removes_it,
    a_touch_renews_the_ttl_and_changes_nothing_else,
    an_invalid_ttl_is_refused_and_changes_nothing,
    a_failover_expires_no_key_early_and_keeps_every_ttl,
    a_paused_leader_expires_no_key_early,
    a_snapshot_and_a_restart_keep_the_ttl,
    a_watcher_receives_expiries,
];

fn put(node: &Node, path: &str, value: &str) -> Answer {
    node.request(Request::new("PUT", path).body(value))
}

fn touch(key: &str, body: &Value) -> Request {
    Request::new("POST", format!("/touch/{key}")).body(body.to_string())
}

/// The seconds left that a node shows, none where the key is not to expire.
fn ttl(node: &Node, key: &str) -> Option<u64> {
    node.get(&format!("/store/{key}")).expect(200, "the key is there").data()["ttl"].as_u64()
}

/// Waits until the key is gone on all nodes, and panics where that was before so many seconds had passed.
#[track_caller]
fn goes(cluster: &Cluster, key: &str, began: Instant, seconds: u64) {
    for node in cluster.nodes.iter().filter(|node| node.runs()) {
        eventually(secs(60), format!("{key} expires on {}", node.name()), || {
            let answer = node.try_request(Request::new("GET", format!("/store/{key}")))?;
            check(answer.status == 404, answer)
        });
        assert!(began.elapsed() >= secs(seconds), "{key} is gone after {:?}, not {seconds} s", began.elapsed());
    }
}

fn a_key_expires_on_every_node_and_never_early() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[cluster.followers()[0]];
    let began = Instant::now();
    put(node, "/store/short?ttl=2", "a").expect(200, "a put with a ttl");
    put(node, "/store/long?ttl=1000", "a").expect(200, "a put with a ttl");
    for node in &cluster.nodes {
        assert!(ttl(node, "long").is_some_and(|left| (900..=1000).contains(&left)), "on {}", node.name());
    }
    goes(&cluster, "short", began, 2);
    let keys = node.get("/health").expect(200, "health").json()["keys"].clone();
    assert_eq!(keys, "1");
    // The name is free again, also for those who want a key that is not there.
    let new = Request::new("PUT", "/store/short").header("If-None-Match", "*").body("b");
    node.request(new).expect(200, "create only");
}

fn every_kind_of_write_accepts_a_ttl_and_a_put_without_one_removes_it() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[0];
    let began = Instant::now();
    node.post("/store", &json!({"key": "post", "value": 1, "ttl": 2})).expect(200, "POST");
    put(node, "/store/put?ttl=2", "1").expect(200, "PUT");
    let operations = json!([{"op": "put", "key": "txn", "value": 1, "ttl": 2}, {"op": "get", "key": "txn"}]);
    let answer = node.post("/txn", &json!({ "then": operations })).expect(200, "a transaction");
    assert_eq!(answer.data()["results"][1]["ttl"], 2);
    let items = node.get("/store?prefix=").expect(200, "a list").data()["items"].clone();
    let left = |item: &Value| item["ttl"].as_u64().is_some_and(|left| (1..=2).contains(&left));
    assert!(items.as_array().is_some_and(|items| items.len() == 3 && items.iter().all(left)), "{items}");
    put(node, "/store/kept?ttl=1", "1").expect(200, "PUT with a ttl");
    put(node, "/store/kept", "2").expect(200, "PUT without one");
    for key in ["post", "put", "txn"] {
        goes(&cluster, key, began, 2);
    }
    assert_eq!((ttl(node, "kept"), node.value("kept")), (None, json!("2")));
}

fn a_touch_renews_the_ttl_and_changes_nothing_else() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[cluster.followers()[0]];
    let version = put(node, "/store/a/lock?ttl=20", "me").expect(200, "PUT").data()["version"].clone();
    let tag = format!("\"{version}\"");
    let renewed = node.request(touch("a/lock", &json!({"ttl": 60})).header("If-Match", &tag));
    let renewed = renewed.expect(200, "a touch by the holder");
    assert_eq!((renewed.header("etag"), &renewed.data()["version"]), (Some(tag.as_str()), &version));
    assert_eq!((&renewed.data()["value"], &renewed.data()["ttl"]), (&json!("me"), &json!(60)));
    let other = touch("a/lock", &json!({"ttl": 60})).header("If-Match", "\"1\"");
    assert_eq!(node.request(other).problem(412, "another holder").header("etag"), Some(tag.as_str()));
    node.request(touch("nothing", &json!({"ttl": 60}))).problem(404, "no key").code("key_not_found", "no key");
    assert!(ttl(node, "a/lock").is_some_and(|left| left > 20));
    let began = Instant::now();
    node.request(touch("a/lock", &json!({"ttl": 1}))).expect(200, "a touch may shorten too");
    goes(&cluster, "a/lock", began, 1);
}

fn an_invalid_ttl_is_refused_and_changes_nothing() {
    let node = Setup::named("node1").start();
    put(&node, "/store/there?ttl=1000", "before").expect(200, "PUT");
    for bad in ["0", "-1", "1.5", "315360001", "\"30\"", "null", "true", "99999999999999999999"] {
        for (path, body) in [
            ("/store", format!(r#"{{"key": "there", "value": 1, "ttl": {bad}}}"#)),
            ("/touch/there", format!(r#"{{"ttl": {bad}}}"#)),
            ("/txn", format!(r#"{{"then": [{{"op": "put", "key": "there", "value": 1, "ttl": {bad}}}]}}"#)),
            ("/txn", r#"{"then": [{"op": "delete", "key": "there", "ttl": 3}]}"#.to_owned()),
        ] {
            let problem = node.request(Request::new("POST", path).body(body)).problem(400, bad);
            assert!(problem.word("detail").contains("ttl"), "{problem}");
        }
    }
    for bad in ["0", "", "-1", "1.5", "30s", "315360001"] {
        let problem = put(&node, &format!("/store/there?ttl={bad}"), "x").problem(400, bad);
        assert!(problem.word("detail").contains("ttl"), "{problem}");
    }
    node.request(Request::new("POST", "/touch/there").body("{}")).problem(400, "no ttl");
    node.request(Request::new("GET", "/touch/there")).problem(405, "only POST");
    assert_eq!(node.value("there"), "before");
    assert!(ttl(&node, "there").is_some_and(|left| left > 900));
}

fn a_failover_expires_no_key_early_and_keeps_every_ttl() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let began = Instant::now();
    put(&cluster.nodes[leader], "/store/soon?ttl=4", "a").expect(200, "PUT");
    put(&cluster.nodes[leader], "/store/late?ttl=600", "a").expect(200, "PUT");
    cluster.nodes[leader].kill9();
    cluster.some_leader(ELECTION);
    goes(&cluster, "soon", began, 4);
    let survivor = cluster.nodes.iter().find(|node| node.runs()).unwrap();
    assert!(ttl(survivor, "late").is_some_and(|left| (500..=600).contains(&left)));
    // What has expired stays gone where the old leader comes back.
    cluster.nodes[leader].start();
    cluster.caught_up(ELECTION);
    cluster.nodes[leader].get("/store/soon?consistency=stale").problem(404, "on the node that was away");
}

fn a_paused_leader_expires_no_key_early() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let other = cluster.followers()[0];
    let began = Instant::now();
    put(&cluster.nodes[leader], "/store/soon?ttl=6", "a").expect(200, "PUT");
    cluster.nodes[leader].sigstop();
    eventually(secs(30), "another leader takes writes", || {
        let answer = cluster.nodes[other].try_request(Request::new("PUT", "/store/soon?ttl=30").body("b"))?;
        check(answer.status == 200, answer)
    });
    let renewed = Instant::now();
    cluster.nodes[leader].sigcont();
    // The old leader wakes with the first put due; only what is in force counts.
    eventually(secs(30), "the first time is over", || check(began.elapsed() > secs(8), "not yet"));
    if renewed.elapsed() < secs(30) {
        assert_eq!(cluster.nodes[other].value("soon"), "b");
    }
}

fn a_snapshot_and_a_restart_keep_the_ttl() {
    let small = |setup: Setup| setup.set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 50).set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 10);
    let mut cluster = Cluster::with(3, small);
    let leader = cluster.agreed();
    let away = cluster.followers()[0];
    let began = Instant::now();
    let version = put(&cluster.nodes[leader], "/store/kept?ttl=900", "a").expect(200, "PUT").data()["version"].clone();
    cluster.nodes[away].kill9();
    put(&cluster.nodes[leader], "/store/soon?ttl=5", "a").expect(200, "PUT");
    (0..200).for_each(|round| _ = cluster.nodes[leader].put("busy", round));
    cluster.nodes[away].start();
    cluster.caught_up(ELECTION);
    let copied = cluster.nodes[away].get("/store/kept?consistency=stale").expect(200, "its own copy").data();
    assert_eq!(copied["version"], version);
    assert!(copied["ttl"].as_u64().is_some_and(|left| (700..=900).contains(&left)), "{copied}");
    cluster.nodes.iter_mut().for_each(Node::kill9);
    cluster.nodes.iter_mut().for_each(Node::spawn);
    cluster.nodes.iter_mut().for_each(Node::await_up);
    cluster.agreed();
    goes(&cluster, "soon", began, 5);
    assert!(ttl(&cluster.nodes[away], "kept").is_some_and(|left| (700..=900).contains(&left)));
}

fn a_watcher_receives_expiries() {
    let node = Setup::named("node1").start();
    let watch = ask(&node.http, "prefix=w", None).unwrap().listen().unwrap();
    let began = Instant::now();
    put(&node, "/store/w?ttl=2", "a").expect(200, "PUT");
    node.request(touch("w", &json!({"ttl": 3}))).expect(200, "a touch, which causes no event");
    let told = watch.change(secs(20)).unwrap();
    assert_eq!((told.kind.as_str(), &told.data["value"], &told.data["ttl"]), ("put", &json!("a"), &json!(2)));
    let told = watch.change(secs(30)).unwrap();
    assert!(began.elapsed() >= secs(3));
    let id: u64 = told.id.parse().unwrap();
    assert_eq!(told.kind, "expire");
    assert_eq!(told.data, json!({"key": "w", "value": null, "version": id}));
}
