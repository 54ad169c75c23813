//! HTTP API of one node: response bodies, errors, limits.

use serde_json::{Value, json};

use crate::harness::{Answer, Node, Request, Setup};

crate::harness::cases![
    successes_have_the_documented_body_and_headers,
    numbers_come_back_exactly_as_sent,
    any_json_is_a_value_and_a_missing_one_is_not,
    bodies_are_parsed_whatever_the_content_type,
    unknown_members_and_parameters_are_refused_and_named,
    keys_in_paths_are_decoded_and_may_hold_anything,
    a_trailing_slash_is_the_same_route,
    unknown_paths_are_404_and_wrong_methods_405_with_allow,
    malformed_requests_are_400_and_change_nothing,
    limits_of_key_value_and_body_hold,
    timeouts_are_taken_or_refused_on_every_route,
    versions_grow_and_are_raft_indexes,
];

fn node() -> Node {
    Setup::named("node1").start()
}

fn store(body: impl Into<Vec<u8>>) -> Request {
    Request::new("POST", "/store").body(body)
}

#[track_caller]
fn has_data_headers(answer: &Answer) {
    for header in ["x-raft-index", "x-raft-term"] {
        let number = answer.header(header).and_then(|value| value.parse::<u64>().ok());
        assert!(number.is_some_and(|number| number > 0), "{header} of {answer}");
    }
    // A value that can be asked for by its tag may be kept, and nothing else.
    let kept = if answer.status == 200 && answer.header("etag").is_some() { "no-cache" } else { "no-store" };
    assert_eq!(answer.header("cache-control"), Some(kept), "{answer}");
}

fn successes_have_the_documented_body_and_headers() {
    let node = node();
    let put = node.post("/store", &json!({"key": "foo", "value": "bar"})).expect(200, "POST");
    assert!(put.header("content-type").is_some_and(|kind| kind.starts_with("application/json")), "{put}");
    assert_eq!(put.word("message"), "success persisting data");
    let version = put.data()["version"].as_u64().unwrap();
    assert_eq!(put.data(), json!({"key": "foo", "value": "bar", "version": version}));
    has_data_headers(&put);
    let get = node.get("/store/foo").expect(200, "GET");
    assert_eq!(get.word("message"), "success fetching data");
    let expected = json!({"key": "foo", "value": "bar", "version": version, "create_version": version,
        "content_type": "text/plain; charset=utf-8"});
    assert_eq!(get.data(), expected);
    has_data_headers(&get);
    let stale = node.get("/store/foo?consistency=stale").expect(200, "stale");
    assert_eq!(stale.data(), get.data());
    node.get("/store/foo?consistency=linearizable").expect(200, "linearizable");
    let gone = node.delete("/store/foo").expect(200, "DELETE");
    assert_eq!(gone.word("message"), "success removing data");
    assert_eq!(gone.data()["key"], "foo");
    assert_eq!(gone.data()["value"], Value::Null);
    assert_eq!(gone.data()["deleted"], true);
    has_data_headers(&gone);
    let again = node.delete("/store/foo").expect(200, "DELETE of nothing");
    assert_eq!(again.data()["deleted"], false);
    let missing = node.get("/store/foo").problem(404, "GET of nothing").code("key_not_found", "GET of nothing");
    has_data_headers(&missing);
    let stale = node.get("/store/foo?consistency=stale").problem(404, "stale GET of nothing");
    assert_eq!(stale.word("code"), "key_not_found");
}

fn numbers_come_back_exactly_as_sent() {
    let node = node();
    let values = [
        "1.0",
        "1.10",
        "-0.0",
        "-0",
        "0.1000000000000000055511151231257827",
        "1e300",
        "1E5",
        "1e+5",
        "123456789012345678901234567890",
        "18446744073709551616",
        "-9223372036854775809",
        "{\"a\":[1.0,2.50,1e2],\"b\":100000000000000000000001}",
    ];
    for value in values {
        let body = format!("{{\"key\": \"number\", \"value\": {value}}}");
        let put = node.request(store(body)).expect(200, value);
        assert_eq!(put.raw_value(), value, "in the answer to the write");
        assert_eq!(node.get("/store/number").raw_value(), value, "in the answer to the read");
        assert_eq!(node.get("/store/number?consistency=stale").raw_value(), value, "in the answer to a stale read");
    }
}

fn any_json_is_a_value_and_a_missing_one_is_not() {
    let mut node = node();
    let values = [
        json!(null),
        json!(true),
        json!(""),
        json!([]),
        json!({}),
        json!({"nested": [{"x": null}, "\u{0}\"\\\u{2603}"]}),
        json!("zażółć ☃ 😀"),
    ];
    for (number, value) in values.iter().enumerate() {
        node.put(&format!("v{number}"), value.clone());
        assert_eq!(&node.value(&format!("v{number}")), value);
    }
    node.kill9();
    node.start();
    for (number, value) in values.iter().enumerate() {
        assert_eq!(&node.value(&format!("v{number}")), value, "after kill -9");
    }
    node.request(store("{\"key\": \"x\"}")).problem(400, "a missing value").outcome("not_applied", "a missing value");
    node.get("/store/x").problem(404, "nothing was stored");
}

fn bodies_are_parsed_whatever_the_content_type() {
    let node = node();
    let form = "application/x-www-form-urlencoded";
    let kinds: [&[&str]; 5] =
        [&[], &[form], &["application/json"], &["application/json", "text/plain"], &["text/plain; charset=utf-8"]];
    for (number, kinds) in kinds.iter().enumerate() {
        let mut request = store(format!("{{\"key\": \"kind{number}\", \"value\": {number}}}"));
        for kind in *kinds {
            request = request.header("Content-Type", kind);
        }
        node.request(request).expect(200, &format!("content types {kinds:?}"));
        assert_eq!(node.value(&format!("kind{number}")), number);
    }
    let latin = store("{\"key\": \"latin\", \"value\": 1}").header("Content-Type", "text/plain; charset=latin1");
    node.request(latin).problem(415, "another charset").code("unsupported_media_type", "another charset");
    let body = json!({"key": "chunked", "value": "x".repeat(5000)}).to_string();
    node.request(store(body).chunked(700)).expect(200, "a chunked body");
    assert_eq!(node.value("chunked"), "x".repeat(5000));
    let spaced = store(" \r\n{ \"value\" : 1 ,\n \"key\" : \"spaced\" }\n");
    node.request(spaced).expect(200, "white space and another order");
    assert_eq!(node.value("spaced"), 1);
}

fn unknown_members_and_parameters_are_refused_and_named() {
    let node = node();
    let members = [
        ("/store", json!({"key": "a", "value": 1, "if_verson": 3}), "if_verson"),
        ("/raft/join", json!({"node_id": "n", "raft_address": "127.0.0.1:1", "voter": true}), "voter"),
        ("/raft/remove", json!({"node_id": "n", "now": true}), "now"),
        ("/raft/transfer", json!({"nodeid": "n"}), "nodeid"),
    ];
    for (path, body, name) in members {
        let answer = node.post(path, &body).problem(400, &format!("{path} with {name}"));
        assert!(answer.word("detail").contains(name), "{name} is not named: {answer}");
    }
    let parameters = [
        ("GET", "/store/a?consistancy=stale", "consistancy"),
        ("DELETE", "/store/a?timout=2s", "timout"),
        ("GET", "/health?verbose=1", "verbose"),
        ("GET", "/raft/stats?x=1", "x"),
        ("POST", "/raft/snapshot?wait=1", "wait"),
    ];
    for (method, path, name) in parameters {
        let answer = node.request(Request::new(method, path)).problem(400, path);
        assert!(answer.word("detail").contains(name), "{name} is not named: {answer}");
    }
    let answer = node.request(Request::new("POST", "/store?sync=no").body("{\"key\": \"a\", \"value\": 1}"));
    answer.problem(400, "an unknown parameter of a write").outcome("not_applied", "an unknown parameter of a write");
    node.get("/store/a?consistency=eventual").problem(400, "an unknown consistency");
    node.get("/store/a").problem(404, "nothing was stored");
}

fn keys_in_paths_are_decoded_and_may_hold_anything() {
    let node = node();
    let keys = [
        ("a/b/c", "a/b/c"),
        ("a/b/c", "a%2Fb%2fc"),
        ("with space", "with%20space"),
        ("a+b", "a+b"),
        ("100%", "100%25"),
        ("%2F", "%252F"),
        ("q?x=1#f", "q%3Fx=1%23f"),
        ("ключ/☃", "%D0%BA%D0%BB%D1%8E%D1%87/%E2%98%83"),
        ("ends/", "ends%2F"),
        ("/begins", "%2Fbegins"),
        ("a//b", "a//b"),
        ("a/../b", "a/../b"),
        ("..", ".."),
        ("nul\u{0}byte", "nul%00byte"),
    ];
    for (key, path) in keys {
        node.put(key, key);
        let read = node.get(&format!("/store/{path}")).expect(200, path);
        assert_eq!(read.data()["key"], key);
        assert_eq!(read.data()["value"], key);
        let gone = node.delete(&format!("/store/{path}")).expect(200, path);
        assert_eq!(gone.data()["deleted"], true, "{path}");
        node.get(&format!("/store/{path}")).problem(404, path);
    }
    node.get("/store/%FF%FE").problem(400, "a key that is not UTF-8");
    node.get("/store/bad%2").problem(400, "a broken escape");
}

fn a_trailing_slash_is_the_same_route() {
    let node = node();
    let body = json!({"key": "foo", "value": "bar"});
    node.post("/store/", &body).expect(200, "POST /store/");
    let read = node.get("/store/foo/").expect(200, "GET /store/foo/");
    assert_eq!(read.data()["key"], "foo");
    node.get("/health/").expect(200, "/health/");
    node.get("/raft/stats/").expect(200, "/raft/stats/");
    node.get("/store/foo/?consistency=stale").expect(200, "with a query");
    node.put("dir/", "with a slash");
    node.put("dir", "without");
    assert_eq!(node.get("/store/dir%2F").expect(200, "dir%2F").data()["value"], "with a slash");
    assert_eq!(node.get("/store/dir/").expect(200, "dir/").data()["value"], "without");
    node.delete("/store/dir/").expect(200, "DELETE /store/dir/");
    assert_eq!(node.get("/store/dir%2F").expect(200, "dir%2F").data()["value"], "with a slash");
    node.get("/store/dir").problem(404, "dir");
}

fn unknown_paths_are_404_and_wrong_methods_405_with_allow() {
    let node = node();
    for path in ["/", "/nothing", "/stores", "/raft", "/raft/nothing", "/healthy", "/store%2Ffoo"] {
        let answer = node.get(path).problem(404, path);
        assert_ne!(answer.word("code"), "key_not_found", "{path}");
    }
    let wrong = [
        ("PUT", "/store", "POST"),
        ("POST", "/store/foo", "GET"),
        ("POST", "/store/foo", "DELETE"),
        ("POST", "/health", "GET"),
        ("DELETE", "/raft/stats", "GET"),
        ("GET", "/raft/join", "POST"),
        ("GET", "/raft/remove", "POST"),
        ("DELETE", "/raft/transfer", "POST"),
        ("GET", "/raft/snapshot", "POST"),
        ("BREW", "/store", "POST"),
    ];
    for (method, path, allowed) in wrong {
        let answer = node.request(Request::new(method, path)).problem(405, &format!("{method} {path}"));
        let allow = answer.header("allow").unwrap_or("").to_owned();
        let options = node.request(Request::new("OPTIONS", path)).expect(204, path);
        assert_eq!(options.header("allow"), Some(allow.as_str()), "{path}");
        assert!(allow.split(',').any(|one| one.trim() == allowed), "{method} {path}: Allow: {allow:?}");
    }
}

fn malformed_requests_are_400_and_change_nothing() {
    let node = node();
    let bodies: [&[u8]; 12] = [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{\"key\": \"a\", \"value\": }",
        b"{\"key\": \"a\", \"value\": 1} trailing",
        b"{\"key\": 1, \"value\": 1}",
        b"{\"value\": 1}",
        b"{\"key\": \"\", \"value\": 1}",
        b"{\"key\": \"a\", \"value\": 01}",
        b"{\"key\": \"a\xff\", \"value\": 1}",
        b"key=a&value=1",
    ];
    for body in bodies {
        let what = String::from_utf8_lossy(body).into_owned();
        node.request(store(body)).problem(400, &what).outcome("not_applied", &what);
    }
    for body in ["{}", "", "{\"node_id\": \"n\"}", "{\"node_id\": 3, \"raft_address\": \"x:1\"}"] {
        node.request(Request::new("POST", "/raft/join").body(body)).problem(400, &format!("join {body}"));
    }
    for address in ["", "localhost", "localhost:", "localhost:99999", "http://localhost:1112"] {
        let body = json!({"node_id": "n", "raft_address": address});
        node.post("/raft/join", &body).problem(400, &format!("the address {address:?}"));
    }
    node.request(Request::new("POST", "/raft/remove").body("{}")).problem(400, "remove without a name");
    assert_eq!(node.get("/health").json()["keys"], "0", "something was stored");
}

fn limits_of_key_value_and_body_hold() {
    let node = node();
    let long = "k".repeat(1024);
    node.put(&long, 1);
    assert_eq!(node.value(&long), 1, "1024 bytes are a key");
    let too_long = "k".repeat(1025);
    let body = json!({"key": too_long, "value": 1});
    node.post("/store", &body).problem(400, "1025 bytes").outcome("not_applied", "1025 bytes");
    node.get(&format!("/store/{too_long}")).problem(400, "GET of 1025 bytes");
    let umlauts = "ü".repeat(513);
    node.post("/store", &json!({"key": umlauts, "value": 1})).problem(400, "bytes count, not characters");
    let largest = "v".repeat(1 << 20);
    node.put("large", largest.clone());
    assert_eq!(node.value("large"), largest, "1 MiB is a value");
    let body = json!({"key": "larger", "value": format!("{largest}v")});
    node.post("/store", &body).problem(413, "1 MiB and a byte").outcome("not_applied", "1 MiB and a byte");
    let huge = format!("{{\"key\": \"huge\", \"value\": 1, \"pad\": \"{}\"}}", "p".repeat(2 << 20));
    node.request(store(huge.clone())).problem(413, "a body over 2 MiB").outcome("not_applied", "a body over 2 MiB");
    node.request(store(huge).chunked(60_000)).problem(413, "a chunked body over 2 MiB");
    for key in ["larger", "huge"] {
        node.get(&format!("/store/{key}")).problem(404, key);
    }
}

fn timeouts_are_taken_or_refused_on_every_route() {
    let node = node();
    node.put("foo", "bar");
    for good in ["500ms", "2s", "60s", "60000ms", "1s"] {
        for path in ["/health", "/raft/stats", "/store/foo"] {
            node.get(&format!("{path}?timeout={good}")).expect(200, &format!("{path} with {good}"));
        }
    }
    let shortest = node.get("/store/foo?timeout=1ms");
    assert!([200, 503].contains(&shortest.status), "1 ms is allowed: {shortest}");
    for bad in ["0ms", "0s", "61s", "60001ms", "5", "s", "ms", "-1s", "1.5s", "2m", "abc", "", "1%20s", "99999999999s"]
    {
        for path in ["/health", "/raft/stats", "/store/foo"] {
            node.get(&format!("{path}?timeout={bad}")).problem(400, &format!("{path} with {bad:?}"));
        }
        for path in ["/store", "/raft/join", "/raft/remove", "/raft/transfer", "/raft/snapshot"] {
            let request = Request::new("POST", format!("{path}?timeout={bad}"));
            let request = if path == "/store" { request.body("{\"key\": \"foo\", \"value\": 2}") } else { request };
            node.request(request).problem(400, &format!("POST {path} with {bad:?}"));
        }
    }
    assert_eq!(node.value("foo"), "bar", "a refused write was done");
}

fn versions_grow_and_are_raft_indexes() {
    let node = node();
    let mut last = 0;
    for round in 0..20 {
        let put = node.post("/store", &json!({"key": "same", "value": round})).expect(200, "POST");
        let version = put.data()["version"].as_u64().unwrap();
        assert!(version > last, "{version} after {last}");
        last = version;
        let applied = node.number("applied_index");
        assert!(version <= applied, "version {version} is no applied index, {applied} is the last");
        assert_eq!(node.get("/store/same").data()["version"], version);
    }
    let other = node.put("other", 1);
    assert!(other > last);
    assert_eq!(node.get("/store/same").data()["version"], last, "the version of a key moves with its own writes only");
}
