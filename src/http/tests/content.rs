//! Tests of raw values, content types, conditions, and headers for caches and browsers.
//!
//! Why: bytes must be returned as they were sent, and a condition that is not understood must never be ignored.
//!
//! See also: how conditions are decided ([`crate::model::decide`]).

use super::*;
use crate::model::json_interoperability::{RESPONSE_DEPTH, VALUE_DEPTH};

const STORE_K: &str = "/store/k";

async fn put(node: &Node, headers: &str, body: &str) -> TestResponse {
    node.ask_with("PUT", STORE_K, headers, body).await
}

#[tokio::test]
async fn a_raw_body_is_returned_as_it_was_sent_with_its_type() {
    let node = Node::working();
    let stored = put(&node, "Content-Type: text/html\r\n", "<b>\u{e9}</b>\n").await;
    assert_eq!(stored.body, r#"{"data":{"key":"k","version":101},"message":"success persisting data"}"#);
    assert_eq!(stored.header("etag"), Some("\"101\""));
    let raw = node.ask("GET", "/store/k?raw", "").await;
    assert_eq!((raw.status, raw.body.as_str()), (200, "<b>\u{e9}</b>\n"));
    for (name, value) in [
        ("content-type", "text/html"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox"),
        ("etag", "\"101\""),
        ("x-raft-index", "101"),
        ("cache-control", "no-cache"),
    ] {
        assert_eq!(raw.header(name), Some(value), "{name}");
    }
    let shown = node.ask("GET", STORE_K, "").await.json();
    assert_eq!(shown["data"]["value"], "<b>\u{e9}</b>\n");
    assert_eq!(shown["data"]["content_type"], "text/html");
    let again = put(&node, "Content-Type: image/x\r\n", "a").await;
    assert_eq!(again.json()["data"]["version"], 102);
    let shown = node.ask("GET", STORE_K, "").await.json();
    let expected = serde_json::json!({"key": "k", "value": null, "value_base64": "YQ==", "version": 102,
        "create_version": 101, "content_type": "image/x"});
    assert_eq!(shown["data"], expected);
    let json = r#"{"key": "k", "value_base64": "PGI+", "content_type": "text/html"}"#;
    assert_eq!(node.ask("POST", "/store", json).await.json()["data"]["value"], "<b>");
    assert_eq!(put(&node, "Content-Type: application/json\r\n", "{").await.is_problem(400, "bad_body")["status"], 400);
    assert_eq!(node.ask("GET", STORE_K, "").await.json()["data"]["version"], 103);
}

#[tokio::test]
async fn head_has_the_headers_of_get() {
    let node = Node::working();
    put(&node, "", "bar").await;
    for target in [STORE_K, "/store/k?raw=true", "/store/none"] {
        let get = node.ask("GET", target, "").await;
        let head = node.ask("HEAD", target, "").await;
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{target}");
        for name in ["content-type", "content-length", "etag", "x-raft-index"] {
            assert_eq!(head.header(name), get.header(name), "{name} of {target}");
        }
    }
}

#[tokio::test]
async fn a_read_with_the_present_etag_is_a_304() {
    let node = Node::working();
    put(&node, "", "bar").await;
    // A read compares weakly; a tag of another form matches no version, and a list is searched.
    for (tags, status) in
        [("\"101\"", 304), ("W/\"101\"", 304), ("\"9\", \"101\"", 304), ("*", 304), ("\"102\"", 200), ("\"x\"", 200)]
    {
        let found = node.ask_with("GET", STORE_K, &format!("If-None-Match: {tags}\r\n"), "").await;
        assert_eq!((found.status, found.header("etag")), (status, Some("\"101\"")), "{tags}");
        assert_eq!(found.body.is_empty(), status == 304);
    }
    let bad = node.ask_with("GET", STORE_K, "If-None-Match: 101\r\n", "").await;
    assert!(bad.is_problem(400, "bad_header")["detail"].as_str().unwrap().contains("If-None-Match"));
    let missing = node.ask_with("GET", "/store/none", "If-None-Match: *\r\n", "").await;
    missing.is_problem(404, "key_not_found");
}

#[tokio::test]
async fn a_write_with_a_false_condition_is_a_412_with_the_version() {
    let node = Node::working();
    let absent = put(&node, "If-Match: *\r\n", "x").await;
    let problem = absent.is_problem(412, "precondition_failed");
    assert_eq!((&problem["version"], &problem["outcome"]), (&0.into(), &"not_applied".into()));
    assert_eq!((absent.header("etag"), absent.header("x-raft-index")), (None, Some("101")));
    assert_eq!(put(&node, "If-None-Match: *\r\n", "x").await.status, 200);
    let body = |version: u64| format!(r#"{{"key":"k","value":1,"if_version":{version}}}"#);
    // The key has version 102 by now, and each failed write takes an index: 103 to 108.
    let stale = [
        put(&node, "If-None-Match: *\r\n", "x").await,
        put(&node, "If-Match: \"101\"\r\n", "x").await,
        node.ask_with("DELETE", STORE_K, "If-Match: \"7\"\r\n", "").await,
        node.ask("POST", "/store", &body(0)).await,
        node.ask("POST", "/store", &body(101)).await,
        node.ask_with("POST", "/store", "If-Match: \"101\"\r\n", r#"{"key":"k","value":1}"#).await,
    ];
    for failed in stale {
        assert_eq!(failed.is_problem(412, "precondition_failed")["version"], 102);
        assert_eq!(failed.header("etag"), Some("\"102\""));
    }
    assert_eq!(node.ask("POST", "/store", &body(102)).await.json()["data"]["version"], 109);
    assert_eq!(put(&node, "If-Match: \"109\"\r\n", "x").await.status, 200);
    assert_eq!(node.ask_with("DELETE", STORE_K, "If-Match: *\r\n", "").await.json()["data"]["deleted"], true);
    assert_eq!(node.ask("POST", "/store", &body(0)).await.status, 200);
}

#[tokio::test]
async fn a_condition_that_is_not_understood_is_refused_by_name() {
    let node = Node::working();
    for (headers, named) in [
        ("If-Match: 5\r\n", "`If-Match`"),
        ("If-Match: \"0\"\r\n", "`If-Match`"),
        ("If-Match: \"5\", \"6\"\r\n", "`If-Match`"),
        ("If-Match: \"5\"\r\nIf-Match: \"6\"\r\n", "`if-match` is given more than once"),
        ("If-None-Match: \"5\"\r\n", "`If-None-Match`"),
        ("If-Match: *\r\nIf-None-Match: *\r\n", "exclude"),
        ("If-Unmodified-Since: Sat, 29 Oct 1994 19:43:31 GMT\r\n", "`if-unmodified-since`"),
    ] {
        for method in ["PUT", "DELETE"] {
            let problem = node.ask_with(method, STORE_K, headers, "").await.is_problem(400, "bad_header");
            assert!(problem["detail"].as_str().unwrap().contains(named), "{problem}");
        }
    }
    for method in ["PUT", "DELETE"] {
        let weak = node.ask_with(method, STORE_K, "If-Match: W/\"5\"\r\n", "").await;
        let problem = weak.is_problem(412, "precondition_failed");
        assert!(problem["detail"].as_str().unwrap().contains("proxy that compresses"), "{problem}");
        assert_eq!(problem["outcome"], "not_applied");
    }
    for (target, body) in [("/txn", r#"{"then":[]}"#), ("/store?prefix=a", ""), ("/raft/remove", r#"{"node_id":"n"}"#)]
    {
        let method = if body.is_empty() { "DELETE" } else { "POST" };
        node.ask_with(method, target, "If-Match: \"5\"\r\n", body).await.is_problem(400, "bad_header");
    }
    let body = r#"{"key":"k","value":1,"if_version":5}"#;
    let both = node.ask_with("POST", "/store", "If-None-Match: *\r\n", body).await;
    assert!(both.is_problem(400, "bad_header")["detail"].as_str().unwrap().contains("`if_version`"));
    for headers in ["Content-Type: text\r\n", "Content-Type: a/b\r\nContent-Type: a/b\r\n"] {
        let problem = put(&node, headers, "x").await.is_problem(400, "bad_header");
        assert!(problem["detail"].as_str().unwrap().to_lowercase().contains("content-type"), "{problem}");
    }
    node.ask("GET", STORE_K, "").await.is_problem(404, "key_not_found");
}

#[tokio::test]
async fn a_header_that_changes_the_meaning_of_the_body_is_refused_on_every_route() {
    let node = Node::working();
    for (headers, status, code) in [
        ("Content-Range: bytes 4-9/10\r\n", 400, "bad_header"),
        ("Content-Encoding: gzip\r\n", 415, "unsupported_media_type"),
        ("Content-Encoding: identity, br\r\n", 415, "unsupported_media_type"),
        ("X-HTTP-Method-Override: DELETE\r\n", 400, "bad_header"),
        ("Expect: something\r\n", 400, "bad_header"),
    ] {
        for (method, target) in
            [("PUT", STORE_K), ("POST", "/store"), ("POST", "/txn"), ("PUT", "/kv/k"), ("GET", "/health")]
        {
            node.ask_with(method, target, headers, "{}").await.is_problem(status, code);
        }
    }
    let latin = "Content-Type: application/json; charset=iso-8859-1\r\n";
    for (method, target) in
        [("PUT", STORE_K), ("POST", "/store"), ("POST", "/txn"), ("PUT", "/kv/k"), ("POST", "/keys/k/")]
    {
        node.ask_with(method, target, latin, "{}").await.is_problem(415, "unsupported_media_type");
    }
    let coded = "PUT /store/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    node.raw(coded).await.is_problem(415, "unsupported_media_type");
    node.ask("GET", STORE_K, "").await.is_problem(404, "key_not_found");
    let plain = "Content-Encoding: identity\r\nContent-Type: text/plain; charset=iso-8859-1\r\n";
    assert_eq!(put(&node, plain, "x").await.status, 200, "text in another charset is stored as its bytes");
    let part = node.ask_with("GET", "/store/k?raw", "Range: bytes=0-0\r\n", "").await;
    assert_eq!((part.status, part.header("accept-ranges")), (200, Some("none")));
}

#[tokio::test]
async fn an_empty_body_is_a_value_only_where_the_request_says_so() {
    let node = Node::working();
    for headers in ["", "Content-Type: application/x-www-form-urlencoded\r\n"] {
        let problem = put(&node, headers, "").await.is_problem(400, "bad_body");
        assert!(problem["detail"].as_str().unwrap().contains("?empty"), "{problem}");
    }
    assert_eq!(put(&node, "Content-Type: text/plain\r\n", "").await.status, 200);
    assert_eq!(node.ask("PUT", "/store/k?empty", "").await.status, 200);
    let raw = node.ask("GET", "/store/k?raw", "").await;
    assert_eq!((raw.status, raw.body.as_str()), (200, ""));
    node.ask("PUT", "/store/k?empty", "x").await.is_problem(400, "bad_query");
}

#[tokio::test]
async fn every_response_has_the_headers_for_browsers_and_caches() {
    let node = Node::working();
    put(&node, "", "x").await;
    let foreign = "Origin: http://evil.example\r\n";
    for (method, target, headers) in [
        ("GET", STORE_K, ""),
        ("GET", "/store/k?raw", ""),
        ("GET", "/nowhere", ""),
        ("GET", STORE_K, foreign),
        ("OPTIONS", STORE_K, ""),
        ("PUT", STORE_K, "Content-Range: bytes 1-2/3\r\n"),
    ] {
        let answer = node.ask_with(method, target, headers, "").await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{target}");
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"), "{target}");
        assert!(answer.header("cache-control").is_some() && answer.header("date").is_some(), "{target}");
    }
}

#[tokio::test]
async fn a_multipart_form_is_refused_and_the_detail_names_what_sends_the_file_alone() {
    let node = Node::working();
    let form = "Content-Type: Multipart/form-data; boundary=x\r\n";
    let envelope = "--x\r\nContent-Disposition: form-data; name=\"f\"\r\n\r\nbar\r\n--x--\r\n";
    let problem = put(&node, form, envelope).await.is_problem(415, "unsupported_media_type");
    for flag in ["--data-binary @FILE", "-T FILE"] {
        assert!(problem["detail"].as_str().unwrap().contains(flag), "{problem}");
    }
    node.ask("GET", STORE_K, "").await.is_problem(404, "key_not_found");
}

/// Returns the deepest nesting of brackets in JSON whose strings have none.
fn depth(json: &str) -> usize {
    let levels = json.chars().scan(0_usize, |level, c| {
        match c {
            '[' | '{' => *level += 1,
            ']' | '}' => *level -= 1,
            _ => {}
        }
        Some(*level)
    });
    levels.max().unwrap_or(0)
}

#[tokio::test]
async fn a_value_of_the_deepest_nesting_can_be_parsed_by_common_parsers_in_every_response() {
    let node = Node::start(Options { value_bytes: 256, body_bytes: 1024, ..options() }, map_loop());
    let json = "Content-Type: application/json\r\n";
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let refused = put(&node, json, &nested(VALUE_DEPTH + 1)).await.is_problem(400, "bad_body");
    assert!(refused["detail"].as_str().unwrap().contains("56 levels"), "{refused}");
    assert_eq!(put(&node, json, &nested(VALUE_DEPTH)).await.status, 200);
    let get = r#"{"then": [{"op": "get", "key": "k"}]}"#;
    let answers =
        [node.ask("GET", STORE_K, "").await, node.ask("GET", "/store", "").await, node.ask("POST", "/txn", get).await];
    let deepest = answers.iter().map(|answer| depth(&answer.body)).max();
    assert_eq!(deepest, Some(VALUE_DEPTH + RESPONSE_DEPTH), "{answers:?}");
    const { assert!(VALUE_DEPTH + RESPONSE_DEPTH <= 64, "the limit of .NET") };
}
