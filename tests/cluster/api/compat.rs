//! Compatible APIs: the example sessions of the original stores' READMEs, replayed.

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Node, Request, Setup};

crate::harness::cases![
    raft_kv_as_its_readme_prints_it,
    distributed_raft_kv_store_as_its_readme_prints_it,
    binary_values_have_the_form_of_the_item_json,
    unsupported_requests_of_a_compatible_api_are_refused_and_change_nothing,
];

#[track_caller]
fn body(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer}");
    answer.json()
}

fn post(node: &Node, path: &str, value: &str) -> Answer {
    let request = Request::new("POST", path).header("Content-Type", "application/jspn");
    node.request(request.body(json!({ "value": value }).to_string()))
}

fn put(node: &Node, path: &str, value: &str) -> Answer {
    let request = Request::new("PUT", path).header("Content-Type", "application/json");
    node.request(request.body(json!({ "value": value }).to_string()))
}

fn raft_kv_as_its_readme_prints_it() {
    let cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let follower = cluster.followers()[0];
    let missing = cluster.nodes[follower].get("/keys/some-key/");
    assert_eq!(body(&missing, 200), json!({"value": ""}));
    for (place, value) in [(leader, "some-value"), (follower, "another"), (leader, "")] {
        let written = post(&cluster.nodes[place], "/keys/some-key/", value);
        assert_eq!(body(&written, 200), json!({ "value": value }));
        for node in &cluster.nodes {
            assert_eq!(
                body(&node.get("/keys/some-key/"), 200),
                json!({ "value": value }),
                "at once on {}",
                node.name()
            );
        }
    }
    assert_eq!(cluster.nodes[follower].value("some-key"), "");
    // Without the slash at the end it is the same key.
    assert_eq!(body(&post(&cluster.nodes[leader], "/keys/a/b", "c"), 200), json!({"value": "c"}));
    assert_eq!(body(&cluster.nodes[follower].get("/keys/a/b/"), 200), json!({"value": "c"}));
}

fn distributed_raft_kv_store_as_its_readme_prints_it() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[cluster.followers()[0]];
    let health = node.get("/health").expect(200, "health").json();
    assert_eq!((&health["keys"], &health["status"]), (&json!("0"), &json!("healthy")));
    let created = json!({"key": "mykey", "status": "created"});
    assert_eq!(body(&put(node, "/kv/mykey", "myvalue"), 201), created);
    assert_eq!(body(&put(node, "/kv/mykey", "again"), 201), created, "over an existing key");
    for node in &cluster.nodes {
        assert_eq!(body(&node.get("/kv/mykey"), 200), json!({"key": "mykey", "value": "again"}));
        assert_eq!(node.value("mykey"), "again");
    }
    assert_eq!(body(&node.delete("/kv/mykey"), 200), json!({"key": "mykey", "status": "deleted"}));
    let missing = json!({"error": "key not found"});
    assert_eq!(body(&node.get("/kv/mykey"), 404), missing);
    assert_eq!(body(&node.delete("/kv/mykey"), 404), missing);
    for number in 1..=10 {
        let (key, value) = (format!("key{number}"), format!("value{number}"));
        body(&put(node, &format!("/kv/{key}"), &value), 201);
        assert_eq!(body(&node.get(&format!("/kv/{key}")), 200), json!({ "key": key, "value": value }));
    }
    assert_eq!(node.get("/health").expect(200, "health").json()["keys"], "10");
}

fn binary_values_have_the_form_of_the_item_json() {
    let node = Setup::named("node1").start();
    node.post("/store", &json!({"key": "json", "value": {"n": [1, 2]}})).expect(200, "JSON");
    node.request(Request::new("PUT", "/store/bytes").body(b"\xff\x00".as_slice())).expect(200, "bytes");
    assert_eq!(body(&node.get("/keys/json/"), 200), json!({"value": {"n": [1, 2]}}));
    assert_eq!(body(&node.get("/kv/json"), 200), json!({"key": "json", "value": {"n": [1, 2]}}));
    assert_eq!(body(&node.get("/keys/bytes/"), 200), json!({"value": null, "value_base64": "/wA="}));
    assert_eq!(body(&node.get("/kv/bytes"), 200), json!({"key": "bytes", "value": null, "value_base64": "/wA="}));
    let same = Request::new("PUT", "/kv/copy").body(r#"{"value_base64": "/wA="}"#);
    assert_eq!(body(&node.request(same), 201), json!({"key": "copy", "status": "created"}));
    assert_eq!(node.get("/store/copy?raw").expect(200, "raw").body, b"\xff\x00");
}

fn unsupported_requests_of_a_compatible_api_are_refused_and_change_nothing() {
    let node = Setup::named("node1").start();
    node.put("there", "before");
    for (method, path) in [("POST", "/keys/there/"), ("PUT", "/kv/there")] {
        for (sent, named) in [
            (r#"{"value": 1}"#, "value"),
            (r#"{"value": null}"#, "value"),
            (r#"{"value": ["a"]}"#, "value"),
            (r#"{"valeu": "a"}"#, "valeu"),
            (r#"{"value": "a", "value": "b"}"#, "value"),
            ("{}", "value"),
            ("", "value"),
            ("a=b", "JSON"),
        ] {
            let problem = node.request(Request::new(method, path).body(sent)).problem(400, sent);
            assert!(problem.word("detail").contains(named), "{problem}");
        }
        let query = format!("{path}?consistnecy=stale");
        node.request(Request::new(method, query).body(r#"{"value": "a"}"#)).problem(400, "an unknown parameter");
        let failed = Request::new(method, path).header("If-None-Match", "*").body(r#"{"value": "a"}"#);
        node.request(failed).problem(412, "a condition that is not true");
    }
    for (method, path) in [("DELETE", "/keys/there/"), ("PUT", "/keys/there/"), ("POST", "/kv/there")] {
        node.request(Request::new(method, path).body(r#"{"value": "a"}"#)).problem(405, path);
    }
    for path in ["/keys/", "/keys", "/kv/", "/kv", "/kv/%FF"] {
        node.get(path).problem(400, path);
    }
    assert_eq!(node.value("there"), "before");
    assert_eq!(node.get("/health").expect(200, "health").json()["keys"], "1");
}
