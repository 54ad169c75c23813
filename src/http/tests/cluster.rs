//! Tests of the cluster routes, health, methods and unknown paths.
//!
//! Why: the tutorial and operators read these messages, and scripts match them.
//!
//! See also: which membership changes are allowed (`consensus::membership`).

use super::*;
use serde_json::json;

fn members(changed: bool) -> Result<Answer, Refusal> {
    Ok(Answer::Members { index: 42, changed, warning: None, dropped: None })
}

#[tokio::test]
async fn a_join_answers_with_name_and_address() {
    let node = Node::answering(|request| {
        let Request::Join { node_id, raft_address, force } = request else { panic!("a join") };
        assert_eq!((node_id.as_str(), raft_address.as_str()), ("node2", "localhost:1112"));
        Ok(Answer::Members {
            index: 42,
            changed: !force,
            warning: force.then(|| "started as node_2".to_owned()),
            dropped: force.then(|| "7 keys".to_owned()),
        })
    });
    let body = r#"{"node_id": "node2", "raft_address": "localhost:1112"}"#;
    let answer = node.ask("POST", "/raft/join", body).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["message"], "node node2 at localhost:1112 joined successfully");
    assert_eq!(answer["data"]["state"], "Leader");
    assert!(answer.get("warning").is_none() && answer.get("dropped").is_none());
    let body = r#"{"node_id": "node2", "raft_address": "localhost:1112", "force": true}"#;
    let forced = node.ask("POST", "/raft/join/", body).await.json();
    assert_eq!((&forced["warning"], &forced["dropped"]), (&json!("started as node_2"), &json!("7 keys")));
    assert_eq!(forced["message"], "node node2 at localhost:1112 joined successfully");
}

#[tokio::test]
async fn a_bad_join_never_reaches_the_loop() {
    let node = Node::answering(|_| panic!("the loop was asked"));
    for (body, named) in [
        (r#"{"raft_address": "localhost:1112"}"#, "`node_id`"),
        (r#"{"node_id": "node2"}"#, "`raft_address`"),
        (r#"{"node_id": "node 2", "raft_address": "localhost:1112"}"#, "`node_id`"),
        (r#"{"node_id": 2, "raft_address": "localhost:1112"}"#, "`node_id`"),
        (r#"{"node_id": "node2", "raft_address": "http://localhost:1112"}"#, "scheme"),
        (r#"{"node_id": "node2", "raft_address": "localhost"}"#, "`raft_address`"),
        (r#"{"node_id": "node2", "raft_address": "0.0.0.0:1112"}"#, "every address"),
        (r#"{"node_id": "node2", "raft_address": "[::]:1112"}"#, "every address"),
        (r#"{"node_id": "node2", "raft_address": "224.0.0.1:1112"}"#, "multicast"),
        (r#"{"node_id": "node2", "raft_address": "255.255.255.255:1112"}"#, "broadcast"),
        (r#"{"node_id": "node2", "raft_address": "localhost:0"}"#, "from 1 to 65535"),
        (r#"{"node_id": "node2", "raft_address": "a..b:1112"}"#, "`raft_address`"),
        (r#"{"node_id": "node2", "raft_address": "a b:1112"}"#, "`raft_address`"),
        (r#"{"node_id": "node2", "raft_address": "localhost:1112", "force": "yes"}"#, "`force`"),
        (r#"{"node_id": "node2", "raft_address": "localhost:1112", "voter": true}"#, "`voter`"),
    ] {
        let problem = node.ask("POST", "/raft/join", body).await.is_problem(400, "bad_body");
        assert!(problem["detail"].as_str().unwrap().contains(named), "{body}: {problem}");
        assert_eq!(problem["outcome"], "not_applied");
    }
}

#[tokio::test]
async fn a_removal_says_whether_the_member_existed() {
    let node = Node::answering(|request| members(request == Request::Remove { node_id: "node3".into() }));
    let answer = node.ask("POST", "/raft/remove", r#"{"node_id": "node3"}"#).await.json();
    assert_eq!(answer["message"], "node node3 removed successfully");
    assert_eq!(answer["data"]["node_id"], "node1");
    let unknown = node.ask("POST", "/raft/remove", r#"{"node_id": "node9"}"#).await;
    assert_eq!(unknown.status, 200);
    assert_eq!(unknown.json()["message"], "there is no member node9, nothing changed");
}

#[tokio::test]
async fn a_transfer_and_a_snapshot_need_no_body() {
    let node = Node::answering(|request| match request {
        Request::Transfer { node_id } => {
            Ok(Answer::Transferred { node_id: node_id.unwrap_or_else(|| "node3".to_owned()) })
        }
        _ => panic!("a transfer"),
    });
    for (body, name) in [("", "node3"), ("\n", "node3"), ("{}", "node3"), (r#"{"node_id":"node2"}"#, "node2")] {
        let answer = node.ask("POST", "/raft/transfer", body).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["message"], format!("leadership moved to node {name}"));
        assert_eq!(answer.json()["data"]["term"], "3");
    }
    for body in ["", "{}"] {
        let answer = node.ask("POST", "/raft/snapshot", body).await;
        assert_eq!((answer.status, answer.json()["data"]["last_snapshot_index"].clone()), (200, json!("20")));
    }
    node.ask("POST", "/raft/snapshot", r#"{"now":true}"#).await.is_problem(400, "bad_body");
    node.ask("POST", "/raft/transfer", r#"{"node_id":""}"#).await.is_problem(400, "bad_body");
}

#[tokio::test]
async fn stats_and_health_show_the_status() {
    let node = Node::working();
    let stats = node.ask("GET", "/raft/stats", "").await;
    assert_eq!(stats.header("content-type"), Some("application/json"));
    assert_eq!(stats.json()["message"], "Here is the raft status");
    assert_eq!(stats.json()["data"]["num_peers"], "0");
    for target in ["/raft/stats", "/health", "/openapi.json", "/store", "/keys/k/", "/kv/k"] {
        let (get, head) = (node.ask("GET", target, "").await, node.ask("HEAD", target, "").await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{target}");
        assert_eq!(head.header("content-length"), get.header("content-length"), "{target}");
        assert_eq!(get.header("cache-control"), Some("no-store"), "{target}");
    }
    let health = node.ask("GET", "/health/", "").await;
    assert_eq!(
        health.body,
        concat!(
            r#"{"status":"healthy","keys":"5","node_id":"node1","state":"Leader","#,
            r#""leader":{"node_id":"node1","http_address":"127.0.0.1:2221"},"applied_index":42}"#
        )
    );
}

#[tokio::test]
async fn a_node_that_forms_a_cluster_answers_only_health_and_stats() {
    let names = Names { in_no_cluster: true, ..Names::default() };
    let node = Node::start_as(names, options(), |input| match input {
        Input::Request { reply, .. } => reply(Err(Refusal::not_applied(Code::Joining, "joining"))),
        Input::Read { reply, .. } => reply(Err(Refusal::not_applied(Code::Joining, "joining"))),
        Input::Snapshot { reply, .. } => reply(Err(Refusal::not_applied(Code::Joining, "joining"))),
        Input::Status { reply } => reply(Status { joining: true, forming: true, leader: None, ..status() }),
        _ => {}
    });
    for (method, target, body) in [
        ("POST", "/store", r#"{"key":"k","value":1}"#),
        ("POST", "/store", ""),
        ("GET", "/store/k", ""),
        ("POST", "/raft/join", r#"{"node_id": "node2", "raft_address": "localhost:1112"}"#),
        ("POST", "/raft/remove", r#"{"node_id": "node2"}"#),
        ("POST", "/raft/transfer", ""),
        ("POST", "/raft/snapshot", ""),
        ("GET", "/raft/join", ""),
        ("GET", "/nowhere", ""),
    ] {
        let answer = node.ask(method, target, body).await;
        answer.is_problem(503, "joining");
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(node.ask("OPTIONS", "/store/k", "").await.status, 204);
    assert_eq!(node.ask("GET", "/health", "").await.json()["leader"], Value::Null);
    let stats = node.ask("GET", "/raft/stats", "").await.json();
    assert_eq!((&stats["data"]["forming"], &stats["data"]["joining"]), (&json!(["a:1", "b:2"]), &json!(true)));
}

#[tokio::test]
async fn unknown_paths_and_wrong_methods_are_problems() {
    let node = Node::working();
    for path in ["/", "/stor", "/stores", "//store", "/health/x", "/raft", "/raft/join/x", "/raft//stats", "/%73tore"] {
        let problem = node.ask("GET", path, "").await.is_problem(404, "not_found");
        assert!(problem["detail"].as_str().unwrap().contains(path), "{path}: {problem}");
    }
    for (method, path, allow) in [
        ("PUT", "/store", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("PATCH", "/store/", "GET, HEAD, POST, DELETE, OPTIONS"),
        ("GET", "/txn", "POST, OPTIONS"),
        ("GET", "/touch/k", "POST, OPTIONS"),
        ("POST", "/store/k", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("PATCH", "/store/k", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("PATCH", "/store/k/", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("PUT", "/keys/k/", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/kv/k", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("POST", "/watch", "GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("POST", "/openapi.json", "GET, HEAD, OPTIONS"),
        ("POST", "/raft/stats", "GET, HEAD, OPTIONS"),
        ("GET", "/raft/join", "POST, OPTIONS"),
        ("GET", "/raft/remove", "POST, OPTIONS"),
        ("GET", "/raft/transfer", "POST, OPTIONS"),
        ("GET", "/raft/snapshot", "POST, OPTIONS"),
    ] {
        let answer = node.ask(method, path, "").await;
        answer.is_problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
        let options = node.ask("OPTIONS", path, "").await;
        assert_eq!((options.status, options.header("allow"), options.body.as_str()), (204, Some(allow), ""), "{path}");
    }
    node.ask("OPTIONS", "/nowhere", "").await.is_problem(404, "not_found");
    let all = node.ask("OPTIONS", "*", "").await;
    assert_eq!((all.status, all.header("allow")), (204, Some("GET, HEAD, POST, PUT, DELETE, OPTIONS")));
    let head = node.ask("HEAD", "/raft/join", "").await;
    assert_eq!((head.status, head.header("allow"), head.body.as_str()), (405, Some("POST, OPTIONS"), ""));
}

#[tokio::test]
async fn a_change_that_was_made_is_a_success_even_without_the_status() {
    let node = Node::start(options(), |input| match input {
        Input::Request { reply, .. } => reply(members(true)),
        // Dropped, as by a node that stops.
        input => drop(input),
    });
    let answer = node.ask("POST", "/raft/remove", r#"{"node_id": "node3"}"#).await;
    assert_eq!((answer.status, &answer.json()["data"]), (200, &Value::Null));
    node.ask("GET", "/raft/stats", "").await.is_problem(503, "stopping");
}

#[tokio::test]
async fn local_refusals_do_not_reach_the_loop_and_status_requests_queue_one_at_a_time() {
    let node = Node::start(options(), |_| panic!("the loop was asked"));
    for (method, target, status) in
        [("GET", "/nowhere", 404), ("GET", "/store/k?x", 400), ("POST", "/store", 400), ("PATCH", "/store", 405)]
    {
        assert_eq!(node.ask(method, target, "").await.status, status, "{method} {target}");
    }
    let (held, asked) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let (hold, count) = (Arc::clone(&held), Arc::clone(&asked));
    let node = Node::start(options(), move |input| {
        if let Input::Status { reply } = input {
            *count.lock().unwrap() += 1;
            hold.lock().unwrap().push(reply);
        }
    });
    let many: Vec<_> = (0..20).map(|_| node.ask("GET", "/raft/stats", "")).collect();
    let answers = futures_util::future::join_all(many);
    let scripted_loop = async {
        while Arc::strong_count(&held) > 0 {
            let reply = held.lock().unwrap().pop();
            if let Some(reply) = reply {
                reply(status());
            }
            tokio::task::yield_now().await;
        }
    };
    let answers = tokio::select! {
        answers = answers => answers,
        () = scripted_loop => unreachable!("it runs as long as the server"),
    };
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(*asked.lock().unwrap() <= 20);
    assert!(held.lock().unwrap().len() <= 1, "one at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_concurrent_status_request_is_answered() {
    let (handle, mut inbox) = channel(1);
    let scripted_loop = tokio::spawn(async move {
        while let Some(input) = inbox.peers.recv().await {
            if let Input::Status { reply } = input {
                reply(status());
            }
        }
    });
    let clients = (0..8).map(|_| {
        let handle = handle.clone();
        tokio::spawn(async move {
            for _ in 0..2000 {
                assert!(handle.status().await.is_ok());
            }
        })
    });
    for task in futures_util::future::join_all(clients.collect::<Vec<_>>()).await {
        task.expect("each is answered");
    }
    scripted_loop.abort();
}

#[tokio::test]
async fn a_reload_is_answered_with_its_report_or_why_nothing_has_changed() {
    use crate::auth::LastReload;
    use crate::http::{ReloadChange, ReloadReport, ReloadRequest, Reloadable};
    let (reloads, mut requests) = tokio::sync::mpsc::channel::<ReloadRequest>(1);
    let node = Node::start(Options { reloads, ..options() }, map_loop());
    let control = node.server.control();
    let stats = async || node.ask("GET", "/raft/stats", "").await.json()["data"].clone();
    assert!(stats().await.get("reloaded_at").is_none());
    let change = ReloadChange { key: "limits.watchers".into(), old: "2".into(), new: "3".into() };
    let report = ReloadReport { applied: vec![change], needs_restart: Vec::new() };
    let (answer, ()) = tokio::join!(node.ask("POST", "/admin/reload", ""), async {
        requests.recv().await.unwrap().send(Ok(report)).unwrap();
    });
    let expected = json!({ "applied": [{"key": "limits.watchers", "old": "2", "new": "3"}], "needs_restart": [] });
    assert_eq!((answer.status, &answer.json()["data"]), (200, &expected));
    let (answer, ()) = tokio::join!(node.ask("POST", "/admin/reload", "{}"), async {
        requests.recv().await.unwrap().send(Err("limits.watchers: wrong".into())).unwrap();
    });
    let problem = answer.is_problem(422, "reload_failed");
    assert_eq!((&problem["detail"], &problem["outcome"]), (&json!("limits.watchers: wrong"), &json!("not_applied")));
    let at = std::time::SystemTime::UNIX_EPOCH;
    control.record(LastReload { at, problem: Some("why".into()) });
    let shown = stats().await;
    let members = [&shown["reloaded_at"], &shown["reloaded_ok"], &shown["reload_problem"]];
    assert_eq!(members, [&json!("1970-01-01T00:00:00Z"), &json!(false), &json!("why")]);

    // A reload that does not end in time, a wrong request, and a node that stops.
    let (answer, reply) = tokio::join!(node.ask("POST", "/admin/reload?timeout=5ms", ""), requests.recv());
    answer.is_problem(504, "timeout");
    drop(reply);
    node.ask("GET", "/admin/reload", "").await.is_problem(405, "method_not_allowed");
    node.ask("POST", "/admin/reload", "{\"x\":1}").await.is_problem(400, "bad_body");
    drop(requests);
    node.ask("POST", "/admin/reload", "").await.is_problem(503, "stopping");

    // What a reload changes holds for the next request.
    let ask = async |headers: &str| {
        node.raw(&format!("GET /store/k HTTP/1.1\r\nConnection: close\r\n{headers}\r\n")).await.status
    };
    let (host, origin) = ("Host: kv.example\r\n", "Host: localhost\r\nOrigin: https://a.example\r\n");
    assert_eq!([ask(host).await, ask(origin).await], [421, 403]);
    control.apply(Reloadable {
        watchers: 0,
        request_timeout: Duration::from_secs(1),
        allowed_origins: vec!["https://a.example".into()],
        allowed_hosts: vec!["kv.example".into()],
        requests_per_second: 0,
        request_burst: 0,
        trusted_proxies: Vec::new(),
    });
    assert_eq!([ask(host).await, ask(origin).await], [404, 404]);
    node.ask("GET", "/watch?key=a", "").await.is_problem(503, "overloaded");
}
