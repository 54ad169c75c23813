//! Lists, deletes by prefix and transactions, on any node.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Node, Request, Setup};

crate::harness::cases![
    a_list_has_every_key_once_on_every_node,
    a_page_is_a_consistent_state_during_transactions,
    a_delete_by_prefix_runs_in_bounded_steps,
    a_transaction_is_all_or_nothing_on_every_node,
    counters_by_transaction_lose_no_increment,
    a_transaction_over_the_size_limit_is_413_and_changes_nothing,
];

#[track_caller]
fn txn(node: &Node, body: &Value) -> Answer {
    node.post("/txn", body)
}

/// Puts these keys, some at a time.
fn fill(node: &Node, keys: &[String], value: &str) {
    for some in keys.chunks(100) {
        let then: Vec<_> = some.iter().map(|key| json!({"op": "put", "key": key, "value": value})).collect();
        txn(node, &json!({"then": then})).expect(200, "filling");
    }
}

/// All keys of a scan.
#[track_caller]
fn scan(node: &Node, query: &str) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), String::new());
    let query = if query.is_empty() { String::new() } else { format!("&{query}") };
    loop {
        let page = node.get(&format!("/store?keys{query}{cursor}")).expect(200, "a page").data();
        let items = page["items"].as_array().unwrap();
        keys.extend(items.iter().map(|key| key.as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return keys,
        }
    }
}

fn a_list_has_every_key_once_on_every_node() {
    let cluster = Cluster::of(3);
    let mut keys: Vec<String> = (0..450).map(|number| format!("dir/{}", number * 7)).collect();
    keys.extend(["a".into(), "dir".into(), "dir0".into(), "ключ/1".into(), "z\u{0}z".into()]);
    fill(&cluster.nodes[1], &keys, "v");
    keys.sort();
    let within: Vec<_> = keys.iter().filter(|key| key.starts_with("dir/")).cloned().collect();
    for node in &cluster.nodes {
        assert_eq!(scan(node, "limit=70"), keys, "on {}", node.name());
        assert_eq!(scan(node, "limit=1000&prefix=dir/"), within);
        let down: Vec<_> = within.iter().rev().cloned().collect();
        assert_eq!(scan(node, "limit=99&reverse&prefix=dir/"), down);
        assert_eq!(scan(node, "start=dir0&end=%D0%BA"), ["dir0", "z\u{0}z"]);
    }
    let page = cluster.nodes[2].get("/store?prefix=dir/7&limit=2").expect(200, "a page");
    let index = page.data()["index"].clone();
    assert_eq!(page.header("x-raft-index"), Some(index.to_string().as_str()));
    assert_eq!(page.data()["items"][0], cluster.nodes[0].get("/store/dir/7").data());
    assert_eq!(cluster.nodes[0].get("/store").data()["items"].as_array().map(Vec::len), Some(100));
    assert!(cluster.nodes[0].get("/store?limit=1&consistency=stale").expect(200, "stale").data()["index"].is_u64());
    cluster.nodes[0].get("/store?cursor=nonsense").problem(400, "a bad cursor").code("bad_query", "a bad cursor");
}

fn a_page_is_a_consistent_state_during_transactions() {
    let cluster = Cluster::of(3);
    let keys: Vec<String> = (0..60).map(|number| format!("same/{number:02}")).collect();
    fill(&cluster.nodes[0], &keys, "0");
    let address = cluster.addresses()[cluster.followers()[0]].clone();
    let writer = std::thread::spawn(move || {
        for round in 0..60 {
            let then: Vec<_> =
                (0..60).map(|at| json!({"op": "put", "key": format!("same/{at:02}"), "value": round})).collect();
            let body = json!({"then": then}).to_string();
            let done = Request::new("POST", "/txn").body(body).send(&address).map(|answer| answer.status);
            assert_eq!(done.ok(), Some(200));
        }
    });
    let mut pages = 0;
    while !writer.is_finished() {
        for node in &cluster.nodes {
            let page = node.get("/store?prefix=same/").expect(200, "a page").data();
            let items = page["items"].as_array().unwrap();
            assert_eq!(items.len(), 60);
            assert!(items.iter().all(|item| item["version"] == items[0]["version"]), "torn: {page}");
            assert!(items[0]["version"].as_u64() <= page["index"].as_u64());
            pages += 1;
        }
    }
    writer.join().expect("all transactions were done");
    assert!(pages > 3, "{pages} pages");
}

fn a_delete_by_prefix_runs_in_bounded_steps() {
    let mut node = Setup::named("node1").start();
    let keys: Vec<String> = (0..1500).map(|number| format!("old/{number}")).collect();
    fill(&node, &keys, "x");
    node.put("old", 1);
    node.put("new/1", 1);
    let removed = node.delete("/store?prefix=old/").expect(200, "the first step");
    assert_eq!(removed.data(), json!({"deleted": 1000, "more": true}));
    assert_eq!(node.delete("/store?prefix=old/").data(), json!({"deleted": 500, "more": false}));
    assert_eq!(node.delete("/store?prefix=old/").data(), json!({"deleted": 0, "more": false}));
    assert_eq!(scan(&node, ""), ["new/1", "old"]);
    for number in 0..6 {
        let put = Request::new("PUT", format!("/store/big/{number}")).body(vec![b'x'; 1 << 20]);
        node.request(put).expect(200, "1 MiB");
    }
    assert_eq!(node.delete("/store?prefix=big/").data(), json!({"deleted": 4, "more": true}), "4 MiB");
    node.kill9();
    node.start();
    assert_eq!(scan(&node, ""), ["big/4", "big/5", "new/1", "old"]);
    assert_eq!(node.get("/health").json()["keys"], "4");
    node.delete("/store").problem(400, "no prefix").outcome("not_applied", "no prefix");
    node.delete("/store?prefix=").problem(400, "an empty prefix");
    assert_eq!(scan(&node, "").len(), 4);
}

fn a_transaction_is_all_or_nothing_on_every_node() {
    let cluster = Cluster::of(3);
    for (round, node) in cluster.nodes.iter().enumerate() {
        let version = node.put("from", 10);
        let body = json!({
            "if": [{"key": "from", "version": version}, {"key": "from", "value": 10}, {"key": "none", "exists": false}],
            "then": [
                {"op": "put", "key": "from", "value": 7},
                {"op": "put", "key": format!("to/{round}"), "value_base64": "/w==", "content_type": "image/png"},
                {"op": "get", "key": "from"},
                {"op": "delete", "key": "none"},
            ],
            "else": [{"op": "get", "key": "from"}],
        });
        let done = txn(node, &body).expect(200, "then");
        let index = done.data()["index"].clone();
        assert_eq!(done.data()["succeeded"], true);
        assert_eq!(done.word("message"), "success applying transaction");
        assert_eq!(done.header("x-raft-index"), Some(index.to_string().as_str()));
        let results = done.data()["results"].clone();
        assert_eq!(results[0], json!({"key": "from", "version": index}));
        assert_eq!((&results[2]["value"], &results[2]["version"]), (&json!(7), &index));
        assert_eq!(results[3], json!({"key": "none", "deleted": false}));
        for reader in &cluster.nodes {
            assert_eq!(reader.get("/store/from").data(), results[2]);
            assert_eq!(reader.get(&format!("/store/to/{round}")).data()["version"], index, "one index for all");
        }
        let other = txn(node, &body).expect(200, "else").data();
        assert_eq!((&other["succeeded"], &other["results"]), (&json!(false), &json!([results[2]])));
        let missing = txn(node, &json!({"then": [{"op": "get", "key": "none"}]})).data();
        assert_eq!(missing["results"], json!([{"key": "none", "value": null, "version": 0}]));
    }
    let twice = json!({"then": [{"op": "put", "key": "k", "value": 1}, {"op": "delete", "key": "k"}]});
    txn(&cluster.nodes[0], &twice).problem(400, "a key written twice").outcome("not_applied", "a key written twice");
}

fn counters_by_transaction_lose_no_increment() {
    let cluster = Cluster::of(3);
    cluster.nodes[0].put("counter", 0);
    let addresses = Arc::new(cluster.addresses());
    let clients: Vec<_> = (0..4_usize)
        .map(|client| {
            let addresses = Arc::clone(&addresses);
            std::thread::spawn(move || {
                let address = &addresses[client % addresses.len()];
                let mut done = 0;
                while done < 10 {
                    let read =
                        Request::new("GET", "/store/counter").send(address).unwrap().expect(200, "reading").data();
                    let next = read["value"].as_u64().unwrap() + 1;
                    let body = json!({"if": [{"key": "counter", "version": read["version"]}],
                        "then": [{"op": "put", "key": "counter", "value": next}]});
                    let answer = Request::new("POST", "/txn").body(body.to_string()).send(address).unwrap();
                    done += u64::from(answer.expect(200, "adding").data()["succeeded"] == true);
                }
            })
        })
        .collect();
    for client in clients {
        client.join().expect("a client that counts");
    }
    assert_eq!(cluster.nodes[0].value("counter"), 40);
}

fn a_transaction_over_the_size_limit_is_413_and_changes_nothing() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[cluster.followers()[0]];
    let keys: Vec<String> = (0..17).map(|number| format!("big{number}")).collect();
    for key in &keys {
        node.request(Request::new("PUT", format!("/store/{key}")).body(vec![b'x'; 1 << 20])).expect(200, key);
    }
    let all = |op: &str, keys: &[String]| json!({"then": keys.iter().map(|key| json!({"op": op, "key": key})).collect::<Vec<_>>()});
    for op in ["get", "delete"] {
        let large = txn(node, &all(op, &keys)).problem(413, op).code("too_large", op);
        assert_eq!(large.word("outcome"), "not_applied");
    }
    assert_eq!(scan(node, "").len(), 17);
    let read = txn(node, &all("get", &keys[..16])).expect(200, "16 MiB through a follower");
    assert_eq!(read.data()["results"].as_array().map(Vec::len), Some(16));
    txn(node, &all("delete", &keys[..16])).expect(200, "removing 16 MiB");
    assert_eq!(scan(node, ""), ["big16"]);
}
