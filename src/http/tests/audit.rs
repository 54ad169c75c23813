//! Tests of the audit file: which requests have a line, and what it says where the client goes away or the loop fails.
//!
//! See also: real nodes (`tests/cluster/operations/audit.rs`).

use super::*;
use crate::http::Audit;
use crate::http::audit::Entry;
use crate::telemetry::logging::OpenedFile;
use serde_json::json;

/// The options of a node with an audit file, and what reads its lines.
fn recorded() -> (Options, impl Fn() -> Vec<Value>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let audit = Audit::new("node1", slog::Logger::root(slog::Discard, slog::o!()));
    audit.switch(Some(OpenedFile::open(&path).unwrap())).unwrap();
    let file = audit.lines();
    let lines = move || {
        file.flush(Duration::from_secs(20));
        let _kept = &folder;
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    (Options { audit, ..options() }, lines)
}

#[tokio::test]
async fn a_change_has_one_line_and_a_read_none() {
    let (options, lines) = recorded();
    let node = Node::start(options, map_loop());
    for (method, target, body) in [
        ("GET", "/store/k", ""),
        ("GET", "/store", ""),
        ("GET", "/health", ""),
        ("OPTIONS", "/store/k", ""),
        ("PATCH", "/store/k", ""),
        ("GET", "/nowhere", ""),
        ("POST", "/nowhere", "{}"),
    ] {
        node.ask(method, target, body).await;
        assert_eq!(lines(), Vec::<Value>::new(), "{method} {target}");
    }
    let put = node.ask_with("PUT", "/store/a%2Fb", "Idempotency-Key: one\r\n", "secret value").await;
    node.ask_with("DELETE", "/store/a%2Fb", "If-Match: \"7\"\r\n", "").await;
    node.ask("POST", "/store", "{\"key\":\"k\"}").await;
    node.ask("POST", "/txn", r#"{"if":[{"key":"b","exists":false}],"then":[{"op":"put","key":"a","value":1}]}"#).await;
    let found = lines();
    let shape = |line: &Value| json!([line["method"], line["route"], line["key"], line["keys"], line["status"]]);
    let shapes: Vec<Value> = found.iter().map(shape).collect();
    let expected = [
        json!(["PUT", "/store/:key", "a/b", null, 200]),
        json!(["DELETE", "/store/:key", "a/b", null, 412]),
        json!(["POST", "/store", null, null, 400]),
        json!(["POST", "/txn", null, ["a", "b"], 200]),
    ];
    assert_eq!(shapes, expected);
    assert_eq!(
        put.header("x-raft-index").map(str::to_owned),
        found[0]["index"].as_u64().map(|index| index.to_string())
    );
    let first = &found[0];
    assert_eq!((&first["event"], &first["node"], &first["token"]), (&json!("write"), &json!("node1"), &json!(null)));
    assert_eq!((&first["address"], &first["idempotency_key"]), (&json!("127.0.0.1"), &json!("one")));
    assert!(first["ms"].is_u64() && humantime::parse_rfc3339(first["at"].as_str().unwrap()).is_ok(), "{first}");
    assert!(!serde_json::to_string(&found).unwrap().contains("secret value"));
}

#[tokio::test]
async fn a_foreign_page_is_a_denial_also_of_a_read() {
    let (options, lines) = recorded();
    let node = Node::start(options, map_loop());
    node.ask_with("GET", "/store/k", "Origin: https://evil.example\r\n", "").await.is_problem(403, "cross_origin");
    // A host of another name is refused before any right is looked at.
    node.raw("PUT /store/k HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    let found = lines();
    assert_eq!(found.len(), 1, "{found:?}");
    let members = ["event", "method", "route", "key", "status"].map(|name| found[0][name].clone());
    assert_eq!(members, [json!("denial"), json!("GET"), json!("/store/:key"), json!("k"), json!(403)]);
}

#[tokio::test]
async fn a_client_that_goes_away_has_a_line_with_the_result() {
    let (options, lines) = recorded();
    let (arrived, mut request) = tokio::sync::mpsc::channel(1);
    let node = Node::start(options, move |input| arrived.try_send(input).unwrap());
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let bytes = "PUT /store/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1";
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let Some(Input::Request { request: Request::Write(write), reply, .. }) = request.recv().await else {
        panic!("a write")
    };
    // A reset.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
    reply(Ok(Answer::Written(Map::default().write(write, 9, 3))));
    let found = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let found = lines();
            if !found.is_empty() {
                break found;
            }
            tokio::task::yield_now().await;
        }
    });
    let found = found.await.unwrap();
    assert_eq!((&found[0]["key"], &found[0]["index"], &found[0]["status"]), (&json!("k"), &json!(9), &json!(200)));
}

#[test]
fn a_request_that_ends_without_an_answer_has_a_line_without_a_status() {
    let (options, lines) = recorded();
    let begin = |method: &str| {
        let request = warp::http::Request::builder().method(method).uri("/store/k").body(()).unwrap();
        let parts = request.into_parts().0;
        let entry = Entry::begin(&options.audit, &parts, [127, 0, 0, 1].into()).unwrap();
        let trail = entry.trail();
        (entry, trail)
    };
    // No route has it, so nothing can have changed.
    drop(begin("PUT"));
    for method in ["GET", "DELETE"] {
        let (entry, trail) = begin(method);
        trail.routed();
        drop(entry);
    }
    let found = lines();
    assert_eq!(found.len(), 1, "{found:?}");
    let members = ["event", "method", "key", "status"].map(|name| found[0][name].clone());
    assert_eq!(members, [json!("write"), json!("DELETE"), json!("k"), json!(null)]);
}
