//! Tests of a node with tokens: what each route answers to which token, and what no answer tells.
//!
//! Why: a route without a rule, or an answer that says whether a key exists, opens the store to a client that was shut out.
//!
//! See also: real nodes (`tests/cluster/api/tokens.rs`).

use super::*;
use crate::auth::{NewToken, TokenStore};
use crate::http::{ReloadReport, ReloadRequest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use std::collections::BTreeSet;

/// A node with tokens, and the secrets of its tokens.
pub(super) struct SecureNode {
    node: Node,
    store: Arc<TokenStore>,
    folder: tempfile::TempDir,
    admin: String,
    pub(super) reader: String,
    writer: String,
    expired: String,
    scraper: String,
}

impl SecureNode {
    fn start() -> Self {
        Self::start_as(Names { node: "node1".into(), cluster_id: 7, ..Names::default() }, scripted_loop())
    }

    pub(super) fn start_as(names: Names, script: impl FnMut(Input) + Send + 'static) -> Self {
        let prefix = || vec!["a/".to_owned()];
        let tokens = [
            NewToken { name: "root".into(), admin: true, ..NewToken::default() },
            NewToken { name: "reader".into(), read: prefix(), ..NewToken::default() },
            NewToken { name: "writer".into(), write: prefix(), ..NewToken::default() },
            NewToken { name: "scraper".into(), metrics: true, ..NewToken::default() },
            NewToken {
                name: "late".into(),
                admin: true,
                expires: Some("2001-01-01T00:00:00Z".into()),
                ..NewToken::default()
            },
        ];
        let drawn = tokens.map(|token| token.draw().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.toml");
        std::fs::write(&path, drawn.iter().map(|(_, table)| table.as_str()).collect::<String>()).unwrap();
        let store = TokenStore::open(&path, slog::Logger::root(slog::Discard, slog::o!())).unwrap();
        let (reloads, mut requests) = tokio::sync::mpsc::channel::<ReloadRequest>(1);
        tokio::spawn(async move {
            while let Some(reply) = requests.recv().await {
                reply.send(Ok(ReloadReport::default())).unwrap();
            }
        });
        let node = Node::start_as(names, Options { tokens: Some(Arc::clone(&store)), reloads, ..options() }, script);
        let [admin, reader, writer, scraper, expired] = drawn.map(|(secret, _)| secret.expose().to_owned());
        Self { node, store, folder, admin, reader, writer, expired, scraper }
    }

    pub(super) async fn ask(&self, secret: Option<&str>, method: &str, target: &str, body: &str) -> TestResponse {
        let header = secret.map(|secret| format!("Authorization: Bearer {secret}\r\n")).unwrap_or_default();
        let answer = self.node.ask_with(method, target, &header, body).await;
        for secret in [&self.admin, &self.reader, &self.writer, &self.expired, &self.scraper] {
            assert!(!answer.head.contains(secret.as_str()) && !answer.body.contains(secret.as_str()), "{answer:?}");
        }
        answer
    }
}

/// A loop that answers everything with a success.
fn scripted_loop() -> impl FnMut(Input) + Send + 'static {
    let mut map = map_loop();
    move |input| match input {
        Input::Request { request: Request::Transfer { .. }, reply, .. } => {
            reply(Ok(Answer::Transferred { node_id: "node2".into() }));
        }
        Input::Request { request: Request::Join { .. } | Request::Remove { .. }, reply, .. } => {
            reply(Ok(Answer::Members { index: 1, changed: true, warning: None, dropped: None }));
        }
        Input::Snapshot { reply, .. } => reply(Ok(())),
        input => map(input),
    }
}

/// Who may use an operation.
#[derive(Clone, Copy, PartialEq)]
enum Allowed {
    /// Every client.
    Open,
    /// Every client; one with a wrong token is told so.
    Outline,
    AnyToken,
    Admin,
    Read,
    Write,
}

/// Every operation of the document: method, path, target, body, and who may use it.
const OPERATIONS: &[(&str, &str, &str, &str, Allowed)] = &[
    ("post", "/store", "/store", r#"{"key":"a/k","value":1}"#, Allowed::Write),
    ("get", "/store", "/store?prefix=a/", "", Allowed::Read),
    ("delete", "/store", "/store?prefix=a/", "", Allowed::Write),
    ("get", "/store/{key}", "/store/a/k", "", Allowed::Read),
    ("put", "/store/{key}", "/store/a/k", "1", Allowed::Write),
    ("delete", "/store/{key}", "/store/a/k", "", Allowed::Write),
    ("post", "/txn", "/txn", r#"{"then":[{"op":"put","key":"a/k","value":1}]}"#, Allowed::Write),
    ("post", "/touch/{key}", "/touch/a/k", r#"{"ttl":5}"#, Allowed::Write),
    ("get", "/watch", "/watch?prefix=a/x", "", Allowed::Read),
    ("get", "/keys/{key}/", "/keys/a/k/", "", Allowed::Read),
    ("post", "/keys/{key}/", "/keys/a/k/", r#"{"value":"1"}"#, Allowed::Write),
    ("get", "/kv/{key}", "/kv/a/k", "", Allowed::Read),
    ("put", "/kv/{key}", "/kv/a/k", r#"{"value":"1"}"#, Allowed::Write),
    ("delete", "/kv/{key}", "/kv/a/k", "", Allowed::Write),
    ("get", "/health", "/health", "", Allowed::Open),
    ("get", "/readyz", "/readyz", "", Allowed::Open),
    ("get", "/readyz/{check}", "/readyz/leader", "", Allowed::Open),
    ("get", "/livez", "/livez", "", Allowed::Open),
    ("get", "/version", "/version", "", Allowed::Open),
    ("get", "/metrics", "/metrics", "", Allowed::Admin),
    ("get", "/events", "/events", "", Allowed::Admin),
    ("get", "/load", "/load?seconds=5", "", Allowed::Admin),
    ("get", "/cluster/overview", "/cluster/overview", "", Allowed::Admin),
    ("get", "/ui/", "/ui/", "", Allowed::Open),
    ("get", "/ui/app.js", "/ui/app.js", "", Allowed::Open),
    ("get", "/ui/app.css", "/ui/app.css", "", Allowed::Open),
    ("get", "/cluster/events", "/cluster/events?limit=5", "", Allowed::Admin),
    ("get", "/raft/stats", "/raft/stats", "", Allowed::Outline),
    ("post", "/raft/join", "/raft/join", r#"{"node_id":"n","raft_address":"localhost:1"}"#, Allowed::Admin),
    ("post", "/raft/remove", "/raft/remove", r#"{"node_id":"n"}"#, Allowed::Admin),
    ("post", "/raft/transfer", "/raft/transfer", "", Allowed::Admin),
    ("post", "/raft/snapshot", "/raft/snapshot", "", Allowed::Admin),
    ("post", "/admin/reload", "/admin/reload", "", Allowed::Admin),
    ("get", "/openapi.json", "/openapi.json", "", Allowed::AnyToken),
];

#[tokio::test]
async fn every_operation_of_the_document_answers_by_the_token() {
    let document: Value = serde_json::from_str(include_str!("../api/openapi.json")).unwrap();
    let methods = |item: &Value| {
        let methods = ["get", "put", "post", "delete"].into_iter().filter(|method| item.get(*method).is_some());
        methods.map(str::to_owned).collect::<Vec<_>>()
    };
    let documented: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| methods(item).into_iter().map(|method| (method, path.clone())))
        .collect();
    let tested: BTreeSet<(String, String)> =
        OPERATIONS.iter().map(|(method, path, ..)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(documented, tested, "each operation has a row in this table");

    let secure = SecureNode::start();
    let unknown = NewToken { name: "x".into(), admin: true, ..NewToken::default() }.draw().unwrap().0;
    for &(method, path, target, body, allowed) in OPERATIONS {
        // A stream has no end, and HEAD has the same rule.
        let method = if path == "/watch" { "HEAD".to_owned() } else { method.to_uppercase() };
        let ask = async |secret: Option<&str>| secure.ask(secret, &method, target, body).await;
        let place = format!("{method} {target}");
        let is_open = allowed == Allowed::Open;
        for (secret, passes) in [
            (None, is_open || allowed == Allowed::Outline),
            (Some(unknown.expose()), is_open),
            (Some("hkv_x"), is_open),
            (Some(secure.expired.as_str()), is_open),
        ] {
            let answer = ask(secret).await;
            assert_eq!(answer.status == 401, !passes, "{place}: {answer:?}");
            assert_eq!(answer.header("www-authenticate").is_some(), !passes, "{place}");
            assert!(answer.header("x-huskv-node").is_none() && answer.header("x-huskv-cluster").is_none(), "{place}");
        }
        for (secret, passes) in [
            (&secure.reader, !matches!(allowed, Allowed::Write | Allowed::Admin)),
            (&secure.writer, !matches!(allowed, Allowed::Read | Allowed::Admin)),
            (&secure.admin, true),
        ] {
            let answer = ask(Some(secret)).await;
            assert_eq!(answer.status != 403, passes, "{place}: {answer:?}");
            assert_ne!(answer.status, 401, "{place}: {answer:?}");
            assert_eq!(answer.header("x-huskv-node"), Some("node1"), "{place}");
            assert!(!passes || answer.status < 300 || [404, 503].contains(&answer.status), "{place}: {answer:?}");
        }
        // A key outside of the grants, by any of the ways to write it.
        if matches!(allowed, Allowed::Read | Allowed::Write) {
            let secret = if allowed == Allowed::Read { &secure.reader } else { &secure.writer };
            for outside in ["b/", "a%2", "%61", "a"] {
                let (target, body) = (target.replace("a/", outside), body.replace("a/", outside));
                let answer = secure.ask(Some(secret), &method, &target, &body).await;
                assert!([400, 403].contains(&answer.status), "{method} {target} {body}: {answer:?}");
            }
        }
    }
    for target in ["/nowhere", "/raft", "/admin", "/"] {
        assert_eq!(secure.ask(None, "GET", target, "").await.status, 401, "{target}");
        assert_eq!(secure.ask(Some(&secure.reader), "GET", target, "").await.status, 404, "{target}");
    }
    assert_eq!(secure.ask(None, "OPTIONS", "/store/a/k", "").await.status, 204);
}

#[tokio::test]
async fn a_refusal_names_what_is_missing_and_reasons_of_a_wrong_token() {
    let secure = SecureNode::start();
    for (secret, method, target, body, missing) in [
        (&secure.reader, "PUT", "/store/a/k", "1", r#"token "reader" needs write on "a/k""#),
        (&secure.writer, "GET", "/store/a/k", "", r#"token "writer" needs read on "a/k""#),
        (&secure.reader, "GET", "/store", "", r#"token "reader" needs read on every key with the prefix """#),
        (&secure.reader, "GET", "/store?prefix=a&start=a/&end=a0", "", r#"with the prefix "a""#),
        (&secure.reader, "GET", "/watch?key=b", "", r#"needs read on "b""#),
        (&secure.writer, "DELETE", "/store?prefix=a", "", r#"needs write on every key with the prefix "a""#),
        (&secure.reader, "POST", "/raft/transfer", "", r#"token "reader" needs admin"#),
        (&secure.writer, "POST", "/txn", r#"{"if":[{"key":"a/k","exists":true}],"then":[]}"#, r#"needs read on "a/k""#),
        (&secure.writer, "POST", "/txn", r#"{"then":[],"else":[{"op":"get","key":"a/k"}]}"#, r#"needs read on "a/k""#),
        (&secure.writer, "POST", "/txn", r#"{"then":[],"else":[{"op":"delete","key":"b"}]}"#, r#"needs write on "b""#),
    ] {
        let problem = secure.ask(Some(secret), method, target, body).await.is_problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains(missing), "{problem}");
    }
    for (secret, reason) in [
        (None, "wants a token"),
        (Some("hkv_x"), "form of a secret"),
        (Some(secure.expired.as_str()), r#"token "late" has expired at 2001-01-01T00:00:00Z"#),
    ] {
        let answer = secure.ask(secret, "PUT", "/store/a/k", "1").await;
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="huskv""#));
        let problem = answer.is_problem(401, "unauthorized");
        assert!(
            problem["detail"].as_str().unwrap().contains(reason) && problem["outcome"] == "not_applied",
            "{problem}"
        );
    }
    let basic = |user: &str| {
        let encoded = STANDARD.encode(format!("{user}:{}", secure.admin));
        format!("Authorization: Basic {encoded}\r\n")
    };
    for user in ["", "me"] {
        assert_eq!(secure.node.ask_with("PUT", "/store/x", &basic(user), "1").await.status, 200);
    }
    let twice = format!("{}{}", basic("a"), basic("b"));
    secure.node.ask_with("PUT", "/store/x", &twice, "1").await.is_problem(401, "unauthorized");
}

#[tokio::test]
async fn answers_tell_nothing_of_a_key_that_the_token_may_not_read() {
    let secure = SecureNode::start();
    for key in ["there", "missing"] {
        if key == "there" {
            assert_eq!(secure.ask(Some(&secure.admin), "PUT", "/store/a/there", "1").await.status, 200);
        }
        let refused = secure.ask(Some(&secure.writer), "GET", &format!("/store/a/{key}"), "").await;
        let detail = refused.is_problem(403, "forbidden")["detail"].as_str().unwrap().replace(key, "K");
        assert_eq!(detail, r#"token "writer" needs read on "a/K""#);
        for (method, target) in
            [("PUT", "/store/a/"), ("DELETE", "/store/a/"), ("DELETE", "/kv/a/"), ("POST", "/touch/a/")]
        {
            let body = if method == "POST" { r#"{"ttl":5}"# } else { "1" };
            let header = format!("Authorization: Bearer {}\r\nIf-Match: \"9\"\r\n", secure.writer);
            let answer = secure.node.ask_with(method, &format!("{target}{key}"), &header, body).await;
            // There is nothing to renew, which is a result and not a refusal.
            if (key, method) == ("missing", "POST") {
                answer.is_problem(404, "key_not_found");
                continue;
            }
            let problem = answer.is_problem(412, "precondition_failed");
            assert_eq!((answer.header("etag"), problem.get("version")), (None, None), "{method} {target}");
            assert!(!problem.to_string().contains("no key"), "{problem}");
        }
    }
    let touched = secure.ask(Some(&secure.writer), "POST", "/touch/a/there", r#"{"ttl":5}"#).await;
    assert_eq!((touched.status, &touched.json()["data"]), (200, &json!({"truncated": true})));
    assert_eq!(touched.header("etag"), None);
    let header = format!("Authorization: Bearer {}\r\nIf-Match: \"9\"\r\n", secure.admin);
    let full = secure.node.ask_with("PUT", "/store/a/there", &header, "1").await;
    assert!(full.is_problem(412, "precondition_failed")["version"].is_u64() && full.header("etag").is_some());
}

#[tokio::test]
async fn replays_tell_nothing_of_a_key_that_the_token_may_not_read() {
    let secure = SecureNode::start();
    let there = secure.ask(Some(&secure.admin), "PUT", "/store/a/there", "1").await;
    let version = there.header("etag").unwrap().to_owned();
    for _ in 0..2 {
        let header = format!("Authorization: Bearer {}\r\nIdempotency-Key: touch\r\n", secure.writer);
        let answer = secure.node.ask_with("POST", "/touch/a/there", &header, r#"{"ttl":5}"#).await;
        assert_eq!((answer.status, &answer.json()["data"]), (200, &json!({"truncated": true})));
        assert_eq!(answer.header("etag"), None);
        let header = format!("Authorization: Bearer {}\r\nIdempotency-Key: put\r\nIf-Match: \"9\"\r\n", secure.writer);
        let answer = secure.node.ask_with("PUT", "/store/a/there", &header, "2").await;
        let problem = answer.is_problem(412, "precondition_failed");
        assert_eq!((answer.header("etag"), problem.get("version")), (None, None));
        assert!(!answer.body.contains(&version.replace('"', "")), "{answer:?}");
    }
    // Its own write has its own version.
    let own = secure.ask(Some(&secure.writer), "PUT", "/store/a/there", "2").await;
    assert_eq!(own.status, 200);
    assert!(own.header("etag").is_some());
    // The reader sees it, and a touch by a token with both rights does, too.
    let touched = secure.ask(Some(&secure.admin), "POST", "/touch/a/there", r#"{"ttl":5}"#).await;
    assert_eq!(touched.header("etag"), own.header("etag"));
}

#[tokio::test]
async fn idempotency_keys_are_each_tokens_own() {
    let secure = SecureNode::start();
    let put = async |secret: &str| {
        let headers = format!("Authorization: Bearer {secret}\r\nIdempotency-Key: one\r\n");
        let answer = secure.node.ask_with("PUT", "/store/a/k", &headers, "1").await;
        (answer.status, answer.header("idempotency-replayed").is_some())
    };
    assert_eq!(put(&secure.writer).await, (200, false));
    assert_eq!(put(&secure.writer).await, (200, true));
    assert_eq!(put(&secure.admin).await, (200, false));
}

#[tokio::test]
async fn items_show_the_token_of_the_last_write_and_no_client_can_choose_it() {
    let secure = SecureNode::start();
    let by = async |target: &str| {
        let answer = secure.ask(Some(&secure.reader), "GET", target, "").await;
        let data = answer.json()["data"].clone();
        data.get("items").map_or_else(|| data["by"].clone(), |items| items[0]["by"].clone())
    };
    // Each way to write a key, by each of two tokens in turn.
    for (at, (method, target, body)) in [
        ("POST", "/store", r#"{"key":"a/k","value":1}"#),
        ("PUT", "/store/a/k", "1"),
        ("POST", "/txn", r#"{"then":[{"op":"put","key":"a/k","value":1}]}"#),
        ("POST", "/touch/a/k", r#"{"ttl":5}"#),
        ("POST", "/keys/a/k/", r#"{"value":"1"}"#),
        ("PUT", "/kv/a/k", r#"{"value":"1"}"#),
    ]
    .into_iter()
    .cycle()
    .take(12)
    .enumerate()
    {
        let turn = (at + at / 6) % 2 == 0;
        let (secret, name) = if turn { (&secure.writer, "writer") } else { (&secure.admin, "root") };
        // What a client says of itself is no name.
        let headers = format!("Authorization: Bearer {secret}\r\nX-Huskv-By: forged\r\nBy: forged\r\nFrom: forged\r\n");
        let answer = secure.node.ask_with(method, target, &headers, body).await;
        assert!([200, 201].contains(&answer.status), "{method} {target}: {answer:?}");
        for shown in ["/store/a/k", "/store?prefix=a/"] {
            assert_eq!(by(shown).await, name, "{method} {target}, {shown}");
        }
    }
    for (method, target, body) in [
        ("POST", "/store", r#"{"key":"a/k","value":1,"by":"forged"}"#),
        ("POST", "/touch/a/k", r#"{"ttl":5,"by":"forged"}"#),
        ("POST", "/txn", r#"{"then":[{"op":"put","key":"a/k","value":1,"by":"forged"}]}"#),
        ("PUT", "/store/a/k?by=forged", "1"),
    ] {
        assert_eq!(secure.ask(Some(&secure.admin), method, target, body).await.status, 400, "{method} {target}");
    }
    let txn = r#"{"then":[{"op":"get","key":"a/k"},{"op":"put","key":"a/k","value":2},{"op":"get","key":"a/x"}]}"#;
    let results = secure.ask(Some(&secure.admin), "POST", "/txn", txn).await.json()["data"]["results"].clone();
    assert_eq!(
        (&results[0]["by"], results[1].get("by"), results[2].get("by")),
        (&json!("writer"), None, None),
        "{results}"
    );
    let touched = secure.ask(Some(&secure.admin), "POST", "/touch/a/k", r#"{"ttl":5}"#).await.json();
    assert_eq!((&touched["data"]["by"], &touched["data"]["ttl"]), (&json!("root"), &json!(5)), "{touched}");
    // A token that may not read the key is not shown a name either.
    let unread = secure.ask(Some(&secure.writer), "POST", "/touch/a/k", r#"{"ttl":5}"#).await.json();
    assert_eq!(unread["data"].get("by"), None, "{unread}");

    let open = Node::working();
    let header = format!("Authorization: Bearer {}\r\n", secure.admin);
    assert_eq!(open.ask_with("PUT", "/store/a/k", &header, "1").await.status, 200);
    assert_eq!(
        open.ask("GET", "/store/a/k", "").await.json()["data"].get("by"),
        None,
        "a node without tokens checks none"
    );
}

#[tokio::test]
async fn without_a_token_stats_tell_as_little_as_they_can() {
    let names = Names { node: "node1".into(), ..Names::default() };
    let forming = Arc::new(Mutex::new(false));
    let is_forming = Arc::clone(&forming);
    let secure = SecureNode::start_as(names, move |input| {
        if let Input::Status { reply } = input {
            reply(Status { forming: *is_forming.lock().unwrap(), ..status() });
        }
    });
    let outline = |answer: TestResponse| answer.json()["data"].clone();
    let raft_id = status().raft_id;
    assert_eq!(
        outline(secure.ask(None, "GET", "/raft/stats", "").await),
        json!({ "raft_id": raft_id, "raft_address": "127.0.0.1:1111" })
    );
    *forming.lock().unwrap() = true;
    let shown = outline(secure.ask(None, "GET", "/raft/stats", "").await);
    assert_eq!((&shown["forming"], &shown["node_id"]), (&json!(["a:1", "b:2"]), &json!("node1")));
    assert_eq!(shown["members"][0], json!({"raft_address": "127.0.0.1:1111", "http_address": "127.0.0.1:2221"}));
    let full = outline(secure.ask(Some(&secure.reader), "GET", "/raft/stats", "").await);
    assert_eq!(
        (&full["auth_tokens_sha256"], &full["auth_tokens_reloaded_ok"]),
        (&json!(secure.store.sha256()), &json!(true))
    );
    std::fs::write(secure.folder.path().join("tokens.toml"), "[[token]]").unwrap();
    assert!(secure.store.reload().is_err());
    let full = outline(secure.ask(Some(&secure.reader), "GET", "/raft/stats", "").await);
    assert_eq!(full["auth_tokens_reloaded_ok"], json!(false));
}

#[tokio::test]
async fn any_host_will_do_where_tokens_are_and_origins_are_checked_still() {
    let secure = SecureNode::start();
    let ask = async |headers: &str| {
        let head = format!(
            "GET /store/a/k HTTP/1.1\r\nConnection: close\r\n{headers}Authorization: Bearer {}\r\n\r\n",
            secure.reader
        );
        secure.node.raw(&head).await
    };
    assert_eq!(ask("Host: evil.example\r\n").await.status, 404);
    ask("Host: localhost\r\nOrigin: https://evil.example\r\n").await.is_problem(403, "cross_origin");
    assert_eq!(ask("Host: localhost\r\nOrigin: https://ui.example.org\r\n").await.status, 404);
    let preflight = secure
        .node
        .raw(
            "OPTIONS /store/a/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: https://ui.example.org\r\n\
              Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization\r\n\r\n",
        )
        .await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-headers")), (204, Some("authorization")));
    let bare = Node::working().ask("GET", "/raft/stats", "").await.json();
    assert!(bare["data"].get("auth_tokens_sha256").is_none(), "without tokens nothing is added");
}

#[tokio::test]
async fn figures_are_for_their_own_token_which_opens_no_key() {
    let secure = SecureNode::start();
    let scraper = Some(secure.scraper.as_str());
    for path in ["/metrics", "/events", "/load", "/cluster/overview", "/cluster/events"] {
        for secret in [scraper, Some(&secure.admin)] {
            assert_eq!(secure.ask(secret, "GET", path, "").await.status, 200, "{path}");
        }
    }
    let denied = secure.ask(Some(&secure.reader), "GET", "/metrics", "").await.is_problem(403, "forbidden");
    assert_eq!(denied["detail"], "token \"reader\" needs metrics");
    secure.ask(scraper, "GET", "/store/a/k", "").await.is_problem(403, "forbidden");
    secure.ask(scraper, "POST", "/raft/snapshot", "").await.is_problem(403, "forbidden");
    let body = secure.ask(scraper, "GET", "/metrics", "").await.body;
    assert!(body.lines().any(|line| line == r#"huskv_auth_denied_total{reason="forbidden"} 3"#), "{body}");
}
