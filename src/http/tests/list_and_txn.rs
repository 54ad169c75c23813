//! Tests of lists, removals by prefix and transactions: forms, bounds, refusals.
//!
//! Why: a page that silently leaves keys out, or a transaction that is parsed otherwise than its client meant, would be
//! noticed only much later.
//!
//! See also: what a transaction does ([`crate::model::Txn`]).

use super::*;

async fn filled(keys: &[&str]) -> Node {
    let node = Node::working();
    for key in keys {
        let body = serde_json::json!({"key": key, "value": key}).to_string();
        assert_eq!(node.ask("POST", "/store", &body).await.status, 200);
    }
    node
}

/// The keys of a page and its cursor.
async fn page(node: &Node, query: &str) -> (Vec<String>, Option<String>) {
    let response = node.ask("GET", &format!("/store?{query}"), "").await;
    assert_eq!(response.status, 200, "{response:?}");
    let data = response.json()["data"].clone();
    let items = data["items"].as_array().unwrap().iter();
    let keys = items.map(|item| item["key"].as_str().or(item.as_str()).unwrap().to_owned()).collect();
    (keys, data["next_cursor"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn cursors_lead_through_all_pages_in_both_directions() {
    let node = filled(&["a", "b/1", "b/2", "b/3", "c"]).await;
    let first = node.ask("GET", "/store/?limit=1&prefix=b/", "").await;
    let cursor = first.json()["data"]["next_cursor"].as_str().unwrap().to_owned();
    let expected = format!(
        "{{\"data\":{{\"items\":[{{\"key\":\"b/1\",\"value\":\"b/1\",\"version\":102,\"create_version\":102,\
         \"content_type\":\"text/plain; charset=utf-8\"}}],\"next_cursor\":\"{cursor}\",\"index\":105}},\
         \"message\":\"success fetching data\"}}"
    );
    assert_eq!((first.body.as_str(), first.header("x-raft-index")), (expected.as_str(), Some("105")));
    for (query, all) in [
        ("", &["a", "b/1", "b/2", "b/3", "c"][..]),
        ("prefix=b", &["b/1", "b/2", "b/3"]),
        ("prefix=b/&reverse", &["b/3", "b/2", "b/1"]),
        ("start=b/2&keys", &["b/2", "b/3", "c"]),
        ("end=b/2&keys=true&reverse=true", &["b/1", "a"]),
        ("prefix=x", &[]),
        ("start=c&end=b", &[]),
    ] {
        assert_eq!(page(&node, query).await, (all.iter().map(|key| (*key).to_owned()).collect(), None), "{query}");
        let (mut found, mut cursor) = page(&node, format!("{query}&limit=2").trim_start_matches('&')).await;
        while let Some(at) = cursor {
            let (keys, next) = page(&node, format!("{query}&limit=2&cursor={at}").trim_start_matches('&')).await;
            assert!(!keys.is_empty());
            found.extend(keys);
            cursor = next;
        }
        assert_eq!(found, all, "{query} by two");
    }
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_of_json() {
    let options = Options { value_bytes: 1 << 20, body_bytes: 2 << 20, ..options() };
    let node = Node::start(options, map_loop());
    // A newline is two bytes in JSON, so each value has 600 KiB there, and two are over the bound of a page.
    let value = "\n".repeat(300 << 10);
    for key in ["a", "b", "c"] {
        assert_eq!(node.ask("PUT", &format!("/store/{key}"), &value).await.status, 200);
    }
    let (keys, cursor) = page(&node, "").await;
    assert_eq!(keys, ["a"]);
    let (keys, cursor) = page(&node, &format!("cursor={}", cursor.unwrap())).await;
    assert_eq!(keys, ["b"]);
    assert_eq!(page(&node, &format!("cursor={}", cursor.unwrap())).await, (vec!["c".to_owned()], None));
}

#[tokio::test]
async fn bad_lists_and_removals_are_refused_by_name() {
    let node = filled(&["a", "b"]).await;
    let (_, cursor) = page(&node, "limit=1").await;
    let other_way = format!("/store?reverse&cursor={}", cursor.as_ref().unwrap());
    let outside = format!("/store?prefix=b&cursor={}", cursor.unwrap());
    for (method, target, named) in [
        ("GET", "/store?limit=0", "`limit`"),
        ("GET", "/store?limit=1001", "`limit`"),
        ("GET", "/store?limit=-1", "`limit`"),
        ("GET", "/store?limit=", "`limit`"),
        ("GET", "/store?limit=99999999999999999999", "`limit`"),
        ("GET", "/store?prefix=a&prefix=b", "`prefix`"),
        ("GET", "/store?prefix=%ff", "`prefix`"),
        ("GET", "/store?start=12345678901234567", "`start`"),
        ("GET", "/store?end=", "`end`"),
        ("GET", "/store?keys=no", "`keys`"),
        ("GET", "/store?reverse=1", "`reverse`"),
        ("GET", "/store?cursor=nonsense", "`cursor`"),
        ("GET", "/store?cursor=", "`cursor`"),
        ("GET", &other_way, "`cursor`"),
        ("GET", &outside, "`cursor`"),
        ("GET", "/store?raw", "`raw`"),
        ("DELETE", "/store", "`prefix`"),
        ("DELETE", "/store?prefix=", "`prefix`"),
        ("DELETE", "/store?prefix=12345678901234567", "`prefix`"),
        ("DELETE", "/store?prefix=a&limit=1", "`limit`"),
    ] {
        let problem = node.ask(method, target, "").await.is_problem(400, "bad_query");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{target}: {problem}");
    }
    let conditional = node.ask_with("DELETE", "/store?prefix=a", "If-Match: *\r\n", "").await;
    conditional.is_problem(400, "bad_header");
    assert_eq!(page(&node, "keys").await.0, ["a", "b"]);
    let removed = node.ask("DELETE", "/store?prefix=a", "").await;
    assert_eq!(removed.body, r#"{"data":{"deleted":1,"more":false},"message":"success removing data"}"#);
    assert_eq!(page(&node, "keys").await.0, ["b"]);
}

#[tokio::test]
async fn a_transaction_answers_each_operation() {
    let node = Node::start(Options { body_bytes: 1 << 20, ..options() }, map_loop());
    for key in ["a", "b"] {
        assert_eq!(node.ask("PUT", &format!("/store/{key}"), key).await.status, 200);
    }
    let body = r#"{"if": [{"key": "a", "version": 101}, {"key": "b", "value": "b"}, {"key": "c", "exists": false}],
        "then": [{"op": "put", "key": "c", "value": {"n": 1.0}}, {"op": "delete", "key": "b"}, {"op": "get", "key": "c"},
                 {"op": "get", "key": "none"}, {"op": "delete", "key": "none"}]}"#;
    let done = node.ask("POST", "/txn", body).await;
    let expected = "{\"data\":{\"succeeded\":true,\"results\":[{\"key\":\"c\",\"version\":103},\
        {\"key\":\"b\",\"deleted\":true},{\"key\":\"c\",\"value\":{\"n\": 1.0},\"version\":103,\"create_version\":103,\
        \"content_type\":\"application/json\"},{\"key\":\"none\",\"value\":null,\"version\":0},\
        {\"key\":\"none\",\"deleted\":false}],\"index\":103},\"message\":\"success applying transaction\"}";
    assert_eq!((done.status, done.body.as_str()), (200, expected));
    assert_eq!(done.header("x-raft-index"), Some("103"));
    let otherwise = node
        .ask(
            "POST",
            "/txn/",
            &body.replace("\"then\": [", "\"else\": [{\"op\": \"get\", \"key\": \"a\"}], \"then\": ["),
        )
        .await;
    assert_eq!(otherwise.json()["data"]["succeeded"], false);
    assert_eq!(otherwise.json()["data"]["results"][0]["value"], "a");
    let same_bytes = r#"{"if": [{"key": "a", "value_base64": "YQ=="}], "then": []}"#;
    assert_eq!(node.ask("POST", "/txn", same_bytes).await.json()["data"]["succeeded"], true);
}

#[tokio::test]
async fn bad_transactions_are_refused_with_the_operation() {
    let node = Node::start(Options { body_bytes: 1 << 20, ..options() }, map_loop());
    let many = |count: usize| format!(r#"{{"then":[{}]}}"#, vec![r#"{"op":"get","key":"k"}"#; count].join(","));
    let checks = format!(r#"{{"if":[{}],"then":[]}}"#, vec![r#"{"key":"k","exists":true}"#; 129].join(","));
    assert_eq!(node.ask("POST", "/txn", &many(128)).await.status, 200);
    let long = format!(r#"{{"then":[{{"op":"put","key":"k","value":"{}"}}]}}"#, "v".repeat(65));
    for (body, status, code, named) in [
        ("{}", 400, "bad_body", "`then` is missing"),
        (r#"{"then":[],"than":[]}"#, 400, "bad_body", "`than`"),
        (r#"{"then":[],"then":[]}"#, 400, "bad_body", "`then` is given more than once"),
        (r#"{"then":{}}"#, 400, "bad_body", "`then` must be a list"),
        (r#"{"then":[],"if":null}"#, 400, "bad_body", "`if` must be a list"),
        (r#"{"then":[7]}"#, 400, "bad_body", "`then[0]`"),
        (r#"{"then":[],"else":[{"op":"get","key":"a"},{"op":"get"}]}"#, 400, "bad_body", "`else[1]`: member `key`"),
        (r#"{"then":[{"op":"inc","key":"k"}]}"#, 400, "bad_body", "`then[0]`: member `op`"),
        (r#"{"then":[{"key":"k"}]}"#, 400, "bad_body", "member `op`"),
        (r#"{"then":[{"op":"get","key":""}]}"#, 400, "bad_key", "`then[0]`"),
        (r#"{"then":[{"op":"put","key":"k"}]}"#, 400, "bad_body", "`value` is missing"),
        (r#"{"then":[{"op":"get","key":"k","value":1}]}"#, 400, "bad_body", "`value`"),
        (r#"{"then":[{"op":"get","key":"k","kye":1}]}"#, 400, "bad_body", "`kye`"),
        (r#"{"then":[],"if":[{"key":"k"}]}"#, 400, "bad_body", "`if[0]`: exactly one"),
        (r#"{"then":[],"if":[{"key":"k","version":1,"exists":true}]}"#, 400, "bad_body", "exactly one"),
        (r#"{"then":[],"if":[{"key":"k","version":-1}]}"#, 400, "bad_body", "`version`"),
        (r#"{"then":[],"if":[{"key":"k","exists":1}]}"#, 400, "bad_body", "`exists`"),
        (
            r#"{"then":[{"op":"put","key":"k","value":1},{"op":"get","key":"k"},{"op":"delete","key":"k"}]}"#,
            400,
            "bad_body",
            "key `k` more than once",
        ),
        (&many(129), 400, "bad_body", "`then` has 129"),
        (&checks, 400, "bad_body", "`if` has 129"),
        (&long, 413, "too_large", "`then[0]`"),
    ] {
        let problem = node.ask("POST", "/txn", body).await.is_problem(status, code);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
        assert_eq!(problem["outcome"], "not_applied");
    }
    node.ask_with("POST", "/txn", "If-Match: *\r\n", r#"{"then":[]}"#).await.is_problem(400, "bad_header");
    node.ask("POST", "/txn?if=1", r#"{"then":[]}"#).await.is_problem(400, "bad_query");
    let node = Node::answering(|_| {
        Ok(Answer::Written(crate::model::Written {
            index: 9,
            term: 1,
            clock: 0,
            outcome: CommandResult::TooLarge,
            replayed: false,
        }))
    });
    let large = node.ask("POST", "/txn", r#"{"then":[]}"#).await;
    assert_eq!(large.is_problem(413, "too_large")["outcome"], "not_applied");
}

#[tokio::test]
async fn a_page_is_valid_json_whatever_is_stored() {
    let item = |content_type: &str, bytes: &'static [u8]| {
        let value = crate::model::Value { content_type: content_type.into(), bytes: bytes.into() };
        crate::model::Item { value, version: 7, create_version: 7, expires: None, by: None }
    };
    // Keys and values that no request can store, as a damaged disk might hold them. Each must be shown as base64, or it would break out
    // of the JSON around it.
    let stored = [
        (&b"a"[..], item("application/json", b"1},{\"key\":\"forged\"")),
        (b"b\xff", item("text/plain", b"\xff")),
        (b"c", item("no type\r\nx: y", b"")),
        (b"d", item("application/json", b"\"\xff\"")),
    ];
    let node = Node::start(options(), move |input| {
        if let Input::Read { reply, .. } = input {
            reply(Ok(grant(stored.clone().map(|(key, item)| (Bytes::from(key), item)), 9, 3)));
        }
    });
    let response = node.ask("GET", "/store", "").await;
    assert_eq!(response.status, 200, "{response:?}");
    let found = response.json()["data"]["items"].clone();
    let keys: Vec<_> = found.as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a", "b\u{fffd}", "c", "d"]);
    for at in [0, 1, 2, 3] {
        let item = &found[at];
        assert!(item["value"].is_null() && item["value_base64"].is_string() && item["version"] == 7, "{item}");
    }
    for target in ["/store/a", "/kv/a", "/keys/a/"] {
        let response = node.ask("GET", target, "").await;
        assert_eq!(response.status, 200, "{target}");
        assert!(response.json().to_string().contains("value_base64"), "{target}: {response:?}");
    }
}

#[tokio::test]
async fn a_write_that_is_refused_on_apply_is_a_400_that_changed_nothing() {
    let node = Node::answering(|_| {
        let outcome = CommandResult::Invalid;
        Ok(Answer::Written(crate::model::Written { index: 9, term: 1, clock: 0, outcome, replayed: false }))
    });
    for (method, target, body) in [
        ("PUT", "/store/a", "1"),
        ("POST", "/store", r#"{"key":"a","value":1}"#),
        ("DELETE", "/store/a", ""),
        ("DELETE", "/store?prefix=a", ""),
        ("POST", "/touch/a", r#"{"ttl":1}"#),
        ("POST", "/txn", r#"{"then":[]}"#),
        ("PUT", "/kv/a", r#"{"value":"1"}"#),
        ("POST", "/keys/a/", r#"{"value":"1"}"#),
    ] {
        let problem = node.ask(method, target, body).await.is_problem(400, "bad_request");
        assert_eq!(problem["outcome"], "not_applied", "{method} {target}");
    }
}
