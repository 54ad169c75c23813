//! Tests of the store routes: values are returned as they were sent, and errors name what is wrong.
//!
//! Why: a misspelt member or parameter must be named in the error, and nothing may be stored then.
//!
//! See also: connections ([`super::connections`]).

use super::*;

#[tokio::test]
async fn a_key_is_put_read_and_deleted() {
    let node = Node::working();
    let put = node.ask("POST", "/store", r#"{"key": "foo", "value": "bar"}"#).await;
    assert_eq!(
        (put.status, put.body.as_str()),
        (200, r#"{"data":{"key":"foo","value":"bar","version":101},"message":"success persisting data"}"#)
    );
    assert_eq!(put.header("content-type"), Some("application/json"));
    let get = node.ask("GET", "/store/foo", "").await;
    assert_eq!(
        get.body,
        r#"{"data":{"key":"foo","value":"bar","version":101,"create_version":101,"content_type":"text/plain; charset=utf-8"},"message":"success fetching data"}"#
    );
    for answer in [&put, &get] {
        assert_eq!(answer.header("etag"), Some("\"101\""));
        assert_eq!(answer.header("x-raft-index"), Some("101"));
        assert_eq!(answer.header("x-raft-term"), Some("3"));
        assert_eq!(answer.header("cache-control"), Some("no-cache"));
    }
    let deleted = node.ask("DELETE", "/store/foo", "").await;
    assert_eq!(deleted.body, r#"{"data":{"key":"foo","value":null,"deleted":true},"message":"success removing data"}"#);
    let again = node.ask("DELETE", "/store/foo", "").await;
    assert_eq!(again.json()["data"]["deleted"], Value::Bool(false));
    let gone = node.ask("GET", "/store/foo", "").await;
    let body = gone.is_problem(404, "key_not_found");
    assert!(body.get("outcome").is_none(), "a read has no outcome");
    assert_eq!(gone.header("x-raft-index"), Some("103"));
    assert_eq!(gone.header("cache-control"), Some("no-store"), "a 404 is not cached");
}

#[tokio::test]
async fn json_values_are_returned_as_they_were_sent() {
    let node = Node::working();
    // Numbers that a parser would round, and white space and the order of members that it would lose.
    for value in ["null", "1.10", "123456789012345678901234567890", "1e300", r#"{"b":1,"a":[ 1 ]}"#, r#""é\"""#] {
        let put = node.ask("POST", "/store", &format!(r#"{{"value":  {value} , "key":"k"}}"#)).await;
        assert_eq!(put.status, 200, "{put:?}");
        let get = node.ask("GET", "/store/k", "").await;
        assert!(get.body.contains(&format!(r#""value":{value},"version""#)), "{}", get.body);
    }
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let node = Node::working();
    for headers in [
        "",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
        "Content-Type: \r\n",
    ] {
        let put = node.ask_with("POST", "/store", headers, r#"{"key":"k","value":1}"#).await;
        assert_eq!(put.status, 200, "{headers}");
    }
}

#[tokio::test]
async fn a_path_can_name_any_key() {
    let node = Node::working();
    for (key, path) in [
        ("foo", "/store/foo"),
        ("foo", "/store/foo/"),
        ("a/b", "/store/a/b"),
        // A slash at the end is the same route, so a key that ends with one needs `%2F`.
        ("a/b", "/store/a%2Fb/"),
        ("a//b", "/store/a//b"),
        ("a/", "/store/a%2f"),
        ("/a", "/store//a"),
        ("/", "/store/%2F"),
        ("a b%", "/store/a%20b%25"),
        ("é+", "/store/%C3%A9+"),
        ("store", "/store/store"),
        ("..", "/store/.."),
    ] {
        let body = serde_json::json!({"key": key, "value": path}).to_string();
        assert_eq!(node.ask("POST", "/store/", &body).await.status, 200);
        let get = node.ask("GET", path, "").await;
        assert_eq!((get.status, &get.json()["data"]["key"]), (200, &Value::from(key)), "{path}");
        assert_eq!(get.json()["data"]["value"], Value::from(path));
    }
}

#[tokio::test]
async fn bad_bodies_are_refused_and_the_member_is_named() {
    let node = Node::working();
    let long_key = format!(r#"{{"key":"{}","value":1}}"#, "k".repeat(17));
    let long_value = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(65));
    for (body, status, code, named) in [
        ("", 400, "bad_body", "empty"),
        (" \n", 400, "bad_body", "empty"),
        ("[]", 400, "bad_body", "JSON object"),
        ("\"x\"", 400, "bad_body", "JSON object"),
        ("{", 400, "bad_body", "EOF"),
        ("key=foo&value=bar", 400, "bad_body", "expected value"),
        (r#"{"key":"k","value":1} x"#, 400, "bad_body", "trailing"),
        (r#"{"key":"k","value":1}{}"#, 400, "bad_body", "trailing"),
        (r#"{"key":"k","value":01}"#, 400, "bad_body", "invalid number"),
        (r#"{"key":"k","value":nul}"#, 400, "bad_body", "expected"),
        (r#"{"key":"k","value":1,}"#, 400, "bad_body", "trailing comma"),
        (r#"{"key":"k"}"#, 400, "bad_body", "`value` is missing"),
        (r#"{"value":1}"#, 400, "bad_body", "`key` is missing"),
        (r#"{"key":"k","value":1,"if_versoin":3}"#, 400, "bad_body", "`if_versoin`"),
        (r#"{"key":"k","value":1,"key":"j"}"#, 400, "bad_body", "`key` is given more than once"),
        (r#"{"key":"k","value":1,"value":1}"#, 400, "bad_body", "`value` is given more than once"),
        (r#"{"key":5,"value":1}"#, 400, "bad_body", "`key` must be a string"),
        (r#"{"key":null,"value":1}"#, 400, "bad_body", "`key` must be a string"),
        (r#"{"key":"\ud800","value":1}"#, 400, "bad_body", r"`key` has the lone surrogate \ud800"),
        (r#"{"key":"","value":1}"#, 400, "bad_key", "empty"),
        (r#"{"key":"k","value":"\udc00"}"#, 400, "bad_body", r"`value` has the lone surrogate \udc00"),
        (r#"{"key":"k","\ud800":1}"#, 400, "bad_body", r"lone surrogate \ud800"),
        (r#"{"key":"k","value":{"\ud800":1}}"#, 400, "bad_body", r"lone surrogate \ud800"),
        (r#""\ud800""#, 400, "bad_body", r"lone surrogate \ud800"),
        ("{\"key\":\"k\",\u{feff}\"value\":1}", 400, "bad_body", "byte order mark at byte 11"),
        ("{\0\"\0k\0", 400, "bad_body", "UTF-16"),
        (r#"{"key":"k","value":["\ud800"]}"#, 400, "bad_body", r"lone surrogate \ud800"),
        (r#"{"key":"k","value":{"n":1e400}}"#, 400, "bad_body", "1e400"),
        ("\u{feff}{}", 400, "bad_body", "byte order mark"),
        (r#"{"key":"k","value":1,"value_base64":"YQ=="}"#, 400, "bad_body", "`value_base64` exclude"),
        (r#"{"key":"k","value":1,"content_type":"a/b"}"#, 400, "bad_body", "`content_type`"),
        (r#"{"key":"k","value_base64":"YQ"}"#, 400, "bad_body", "`value_base64`"),
        (r#"{"key":"k","value_base64":7}"#, 400, "bad_body", "`value_base64`"),
        (r#"{"key":"k","value_base64":"YQ==","content_type":"text"}"#, 400, "bad_body", "`content_type`"),
        (r#"{"key":"k","value_base64":"YQ==","content_type":"application/json"}"#, 400, "bad_body", "`value_base64`"),
        (r#"{"key":"k","value":1,"if_version":-1}"#, 400, "bad_body", "`if_version`"),
        (r#"{"key":"k","value":1,"if_version":1.0}"#, 400, "bad_body", "`if_version`"),
        (r#"{"key":"k","value":1,"if_version":"1"}"#, 400, "bad_body", "`if_version`"),
        (r#"{"key":"k","value":1,"if_version":18446744073709551616}"#, 400, "bad_body", "`if_version`"),
        (&long_key, 400, "bad_key", "limits.key_bytes"),
        (&long_value, 413, "too_large", "limits.value_bytes"),
    ] {
        let answer = node.ask("POST", "/store", body).await;
        let problem = answer.is_problem(status, code);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
        assert_eq!(problem["outcome"], "not_applied", "{body}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    // Exactly at the limits. Version 101 is the first one that the loop gives.
    let longest = format!(r#"{{"key":"{}","value":"{}"}}"#, "k".repeat(16), "v".repeat(64));
    assert_eq!(node.ask("POST", "/store", &longest).await.json()["data"]["version"], 101, "nothing was stored before");
}

#[tokio::test]
async fn a_lone_surrogate_is_named_on_every_route() {
    let node = Node::working();
    for (method, target, body) in [
        ("PUT", "/store/k", r#""\ud800""#),
        ("PUT", "/store/k", r#"[{"\ud800":1}]"#),
        ("POST", "/txn", r#"{"then":[{"op":"put","key":"k","value":"\ud800"}]}"#),
        ("POST", "/txn", r#"{"then":[{"op":"get","key":"\ud800"}]}"#),
        ("POST", "/txn", r#"{"then":[],"if":[{"key":"k","value":{"\ud800":1}}]}"#),
        ("PUT", "/kv/a", r#"{"value":"\ud800"}"#),
        ("POST", "/keys/a/", r#"{"value":"\ud800"}"#),
    ] {
        let answer = node.ask_with(method, target, "Content-Type: application/json\r\n", body).await;
        let problem = answer.is_problem(400, "bad_body");
        assert!(problem["detail"].as_str().unwrap().contains(r"lone surrogate \ud800"), "{target}: {problem}");
    }
}

#[tokio::test]
async fn bad_keys_and_parameters_are_refused_by_name() {
    let node = Node::working();
    let long = format!("/store/{}", "k".repeat(17));
    for (method, target, code, named) in [
        ("GET", "/store/%", "bad_key", "%25"),
        ("GET", "/store/a%4", "bad_key", "%25"),
        ("DELETE", "/store/%zz", "bad_key", "%25"),
        ("GET", "/store/%ff", "bad_key", "UTF-8"),
        ("GET", &long, "bad_key", "limits.key_bytes"),
        ("GET", "/store/k?consistency=eventual", "bad_query", "`consistency`"),
        ("GET", "/store/k?consistency=stale&consistency=stale", "bad_query", "more than once"),
        ("GET", "/store/k?consitency=stale", "bad_query", "`consitency`"),
        ("DELETE", "/store/k?consistency=stale", "bad_query", "`consistency`"),
        ("POST", "/store?ttl=3", "bad_query", "`ttl`"),
        ("POST", "/store?timeout=0ms", "bad_query", "`timeout`"),
        ("GET", "/store/k?consistency=stale&max_stale=5", "bad_query", "`max_stale`"),
        ("GET", "/store/k?max_stale=5s", "bad_query", "`max_stale`"),
        ("GET", "/store?max_stale=5s", "bad_query", "`max_stale`"),
        ("GET", "/store/k?min_index=-1", "bad_query", "`min_index`"),
        ("GET", "/store?min_index=18446744073709551616", "bad_query", "`min_index`"),
        ("GET", "/store?keys=+", "bad_query", "not ` `"),
        ("GET", "/store/k?timeout=61s", "bad_query", "`timeout`"),
        ("GET", "/store/k?raw=yes", "bad_query", "`raw`"),
        ("PUT", "/store/k?raw", "bad_query", "`raw`"),
        ("GET", "/health?timeout=soon", "bad_query", "`timeout`"),
        ("GET", "/raft/stats?verbose", "bad_query", "`verbose`"),
    ] {
        let problem = node.ask(method, target, "").await.is_problem(400, code);
        assert!(problem["detail"].as_str().unwrap().contains(named), "{target}: {problem}");
        assert_eq!(problem.get("outcome").is_some(), method != "GET", "{target}");
    }
}

#[tokio::test]
async fn a_read_is_linearizable_unless_the_query_says_stale() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let node = Node::start(options(), move |input| {
        if let Input::Read { consistency, bounds, reply, .. } = input {
            seen.lock().unwrap().push((consistency, bounds));
            reply(Ok(nothing(1, 1)));
        }
    });
    let bounds = |min_index, max_stale_ms| Bounds { min_index, max_stale_ms };
    for (query, expected) in [
        ("", (Consistency::Linearizable, Bounds::default())),
        ("?consistency=linearizable&min_index=7", (Consistency::Linearizable, bounds(7, None))),
        ("?consistency=stale", (Consistency::Stale, Bounds::default())),
        ("?consistency=stale&max_stale=500ms&min_index=0", (Consistency::Stale, bounds(0, Some(500)))),
    ] {
        node.ask("GET", &format!("/store/k{query}"), "").await.is_problem(404, "key_not_found");
        assert_eq!(asked.lock().unwrap().pop(), Some(expected), "{query}");
    }
}

#[tokio::test]
async fn every_refusal_of_the_loop_has_its_status() {
    // The whole table, so that a changed status is a changed line here.
    for (code, status) in [
        (Code::NoLeader, 503),
        (Code::NoQuorum, 503),
        (Code::Timeout, 504),
        (Code::Overloaded, 503),
        (Code::Stopping, 503),
        (Code::Joining, 503),
        (Code::Removed, 410),
        (Code::NameInUse, 409),
        (Code::AddressInUse, 409),
        (Code::HasData, 409),
        (Code::OtherCluster, 409),
        (Code::JoinInProgress, 409),
        (Code::VersionMismatch, 409),
        (Code::JoinUnfinished, 504),
        (Code::JoinSelf, 409),
        (Code::Unreachable, 502),
        (Code::LeaderUnreachable, 409),
        (Code::QuorumLoss, 409),
        (Code::LastVoter, 409),
        (Code::UnknownMember, 404),
        (Code::NotAVoter, 409),
        (Code::TransferFailed, 503),
        (Code::TooStale, 503),
        (Code::Lagging, 503),
        (Code::Starting, 503),
        (Code::Verifying, 503),
        (Code::BadKey, 400),
        (Code::TooLarge, 413),
        (Code::DiskNearlyFull, 507),
        (Code::BadRequest, 400),
    ] {
        let node = Node::refusing(Refusal { leader: Some(leader()), ..Refusal::unknown(code, "why") });
        let write = node.ask("POST", "/store", r#"{"key":"k","value":1}"#).await;
        let problem = write.is_problem(status, code.as_str());
        assert_eq!(problem["outcome"], "unknown");
        assert_eq!(problem["detail"], "why");
        assert_eq!(problem["leader"], serde_json::json!({"node_id": "node1", "http_address": "127.0.0.1:2221"}));
        assert_eq!(write.header("retry-after").is_some(), status == 503);
        let read = node.ask("GET", "/store/k", "").await.is_problem(status, code.as_str());
        assert!(read.get("outcome").is_none());
    }
    let node = Node::refusing(Refusal::not_applied(Code::NoLeader, "why"));
    let problem = node.ask("DELETE", "/store/k", "").await.is_problem(503, "no_leader");
    assert_eq!(problem["outcome"], "not_applied");
    assert!(problem.get("leader").is_none());
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_with_the_members_of_the_route() {
    let node = Node::working();
    for body in ["[]", " \"a\"", "1", "null", "true", "[{\"key\": 1}]"] {
        let problem = node.ask("POST", "/store", body).await.is_problem(400, "bad_body");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with("the body must be a JSON object with `key`, `value`, "), "{body}: {detail}");
    }
}
