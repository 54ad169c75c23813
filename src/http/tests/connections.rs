//! Tests of connections: origins and hosts, body limits, deadlines, keep-alive, shutdown.
//!
//! Why: this is where a server hangs, or loses a response that was already written.
//!
//! See also: the routes ([`super::store`], [`super::cluster`]), many connections ([`super::overload`]), closes that a client
//! does not expect ([`super::announced_closes`]).

use super::*;
use tokio::sync::oneshot;

const PUT: &str = r#"{"key":"k","value":1}"#;

#[tokio::test]
async fn pages_of_other_origins_are_refused_on_every_route_before_anything_else() {
    let node = Node::answering(|_| panic!("the loop was asked"));
    for origin in ["http://evil.example", "null", "http://localhost:2222"] {
        let headers = format!("Origin: {origin}\r\n");
        for (method, target) in [
            ("POST", "/store"),
            ("GET", "/health"),
            ("POST", "/raft/remove"),
            ("GET", "/nowhere"),
            ("OPTIONS", "/store"),
        ] {
            let answer = node.ask_with(method, target, &headers, PUT).await;
            answer.is_problem(403, "cross_origin");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    // An `<img>` of a page sends no `Origin`, but Fetch Metadata.
    for target in ["/store/k", "/health", "/watch?prefix="] {
        let image = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n";
        node.ask_with("GET", target, image, "").await.is_problem(403, "cross_origin");
    }
}

/// The request of `fetch('/...')` in a page of `evil.example:2221`, a name that was rebound to this node's address.
fn rebound(method: &str, target: &str, body: &str) -> String {
    let origin = if method == "GET" { "" } else { "Origin: http://evil.example:2221\r\n" };
    let length = body.len();
    format!(
        "{method} {target} HTTP/1.1\r\nHost: evil.example:2221\r\nConnection: close\r\nUser-Agent: Mozilla/5.0\r\n\
         Accept: */*\r\n{origin}Referer: http://evil.example:2221/\r\nSec-Fetch-Site: same-origin\r\n\
         Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_page_of_a_rebound_name_reads_and_writes_nothing() {
    let node = Node::start(options(), |input| match input {
        Input::Status { reply } => reply(status()),
        _ => panic!("the loop was asked"),
    });
    for target in ["/store/k", "/store", "/watch?prefix=", "/raft/stats", "/openapi.json", "/nowhere"] {
        let refused = node.raw(&rebound("GET", target, "")).await;
        let problem = refused.is_problem(421, "unknown_host");
        assert!(problem["detail"].as_str().unwrap().contains("http.allowed_hosts"), "{problem}");
        assert_eq!(refused.header("x-huskv-node"), None, "{target}");
    }
    // Writes have an `Origin`, which is checked before the host.
    node.raw(&rebound("POST", "/store", PUT)).await.is_problem(403, "cross_origin");
    let health = node.raw(&rebound("GET", "/health", "")).await;
    assert_eq!((health.status, health.body.as_str(), health.header("x-huskv-node")), (200, "", None));
    for (host, status) in [("", 400), ("Host: localhost\r\nHost: localhost\r\n", 400), ("Host: a b\r\n", 400)] {
        let request = format!("GET /health HTTP/1.1\r\n{host}Connection: close\r\n\r\n");
        node.raw(&request).await.is_problem(status, "bad_host");
    }
    assert_eq!(node.raw("GET /health HTTP/1.0\r\n\r\n").await.status, 200);
}

#[tokio::test]
async fn a_half_closed_connection_gets_its_response() {
    let (node, held, arrived) = node_with_held_write();
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let put = format!("POST /store HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{PUT}", PUT.len());
    stream.write_all(put.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    arrived.await.unwrap();
    // By the time another connection is served the FIN has arrived.
    assert_eq!(node.ask("OPTIONS", "/store", "").await.status, 204);
    let reply = held.lock().unwrap().take().unwrap();
    reply(Err(Refusal::not_applied(Code::NoLeader, "none")));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    TestResponse::parse(&answer).is_problem(503, "no_leader");
}

/// Sends two requests on one connection, the second after the response to the first; returns both responses.
async fn one_after_the_other(node: &Node, first: &str, second: &str) -> String {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("}\n") {
        let count = stream.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "{text}");
        text += std::str::from_utf8(&buffer[..count]).unwrap();
    }
    if !text.to_lowercase().contains("connection: close") {
        stream.write_all(second.as_bytes()).await.unwrap();
    }
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn an_unread_body_does_not_lose_the_next_request() {
    let node = Node::working();
    let length = PUT.len();
    let second = format!(
        "POST /store HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{PUT}"
    );
    let large = "x".repeat(100_000);
    for (line, headers, body, stays_open) in [
        ("GET /health", "", "{}", true),
        ("PUT /store/k?nonsense", "", "value", true),
        ("PUT /store/k", "Content-Range: bytes 1-2/3\r\n", "value", true),
        ("POST /nowhere", "", &large[..60_000], true),
        ("POST /nowhere", "", &large[..], false),
        ("POST /nowhere", "Expect: 100-continue\r\n", "", false),
    ] {
        let length = if headers.starts_with("Expect") { 5 } else { body.len() };
        let first = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let answers = one_after_the_other(&node, &first, &second).await;
        let both = answers.matches("HTTP/1.1 ").count() == 2 && answers.contains("success persisting data");
        assert_eq!(both, stays_open, "{line} {headers}: {answers}");
        assert!(stays_open || !answers.contains("100 Continue"), "{answers}");
    }
}

#[tokio::test]
async fn allowed_and_own_origins_may_read_responses_and_send_preflights() {
    let node = Node::working();
    for origin in ["https://ui.example.org", "http://localhost:2221", "http://[::1]:2221"] {
        let headers = format!("Origin: {origin}\r\n");
        for (target, status) in [("/store", 200), ("/nowhere", 404)] {
            let answer = node.ask_with("POST", target, &headers, PUT).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, Some(origin)));
            assert_eq!(answer.header("vary"), Some("Origin"));
            assert!(answer.header("access-control-expose-headers").unwrap().contains("X-Raft-Index"));
        }
        let headers = format!(
            "{headers}Access-Control-Request-Method: DELETE\r\nAccess-Control-Request-Headers: content-type\r\n"
        );
        let preflight = node.ask_with("OPTIONS", "/store/k", &headers, "").await;
        assert_eq!((preflight.status, preflight.body.as_str()), (204, ""));
        assert_eq!(preflight.header("access-control-allow-origin"), Some(origin));
        assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, POST, PUT, DELETE"));
        assert_eq!(preflight.header("access-control-allow-headers"), Some("content-type"));
    }
}

#[tokio::test]
async fn a_target_without_a_path_is_a_404() {
    let node = Node::working();
    for line in ["CONNECT localhost:1", "CONNECT [::1]:2221", "GET localhost:1"] {
        for origin in ["", "Origin: http://localhost:2221\r\n"] {
            let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{origin}Connection: close\r\n\r\n");
            node.raw(&request).await.is_problem(404, "not_found");
        }
    }
    let elsewhere = "CONNECT evil.example:1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    node.raw(elsewhere).await.is_problem(421, "unknown_host");
    assert_eq!(node.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_however_it_is_sent() {
    let node = Node::working();
    // With a length: refused before any of it is read, without a `100 Continue`.
    let with_length = "POST /store HTTP/1.1\r\nHost: localhost\r\nContent-Length: 257\r\nExpect: 100-continue\r\n\r\n";
    let answer = node.raw(with_length).await;
    answer.is_problem(413, "too_large");
    assert_eq!(answer.header("connection"), Some("close"));
    // Chunked, and far more of it than the socket buffers hold: the client still reads its response.
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"POST /store HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    for _ in 0..64 {
        stream.write_all(chunk.as_bytes()).await.expect("the node lingers, so no reset comes first");
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    TestResponse::parse(&answer).is_problem(413, "too_large");
    // Chunked and within the limit.
    let fits = format!(
        "POST /store HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                        a\r\n{}\r\nb\r\n{}\r\n0\r\n\r\n",
        &PUT[..10],
        &PUT[10..]
    );
    assert_eq!(node.raw(&fits).await.status, 200);
}

#[tokio::test]
async fn a_head_is_bounded() {
    let node = Node::working();
    let header = |bytes| format!("X-Long: {}\r\n", "x".repeat(bytes));
    assert_eq!(node.ask_with("GET", "/health", &header(300_000), "").await.status, 431);
    assert_eq!(node.ask_with("GET", "/health", &header(30_000), "").await.status, 200);
}

#[tokio::test]
async fn a_body_that_never_ends_is_a_408_at_the_deadline() {
    let node = Node::working();
    let answer = node.raw("POST /store?timeout=20ms HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").await;
    assert_eq!(answer.is_problem(408, "body_timeout")["outcome"], "not_applied");
}

#[tokio::test]
async fn a_loop_that_does_not_answer_is_a_failure_after_the_deadline() {
    let node = Node::start(options(), {
        let mut held = Vec::new();
        move |input| held.push(input)
    });
    let join = r#"{"node_id":"node2","raft_address":"localhost:1112"}"#;
    for (method, target, body, status, code, outcome) in [
        ("POST", "/store?timeout=1ms", PUT, 504, "timeout", Some("unknown")),
        ("DELETE", "/store/k?timeout=1ms", "", 504, "timeout", Some("unknown")),
        ("POST", "/raft/join?timeout=1ms", join, 504, "join_unfinished", Some("unknown")),
        ("GET", "/store/k?timeout=1ms", "", 503, "no_quorum", None),
        ("GET", "/store/k?timeout=1ms&consistency=stale", "", 503, "stalled", None),
        ("GET", "/health?timeout=1ms", "", 503, "stalled", None),
        ("GET", "/raft/stats?timeout=1ms", "", 503, "stalled", None),
        ("POST", "/raft/snapshot?timeout=1ms", "", 503, "stalled", Some("unknown")),
    ] {
        let problem = node.ask(method, target, body).await.is_problem(status, code);
        assert_eq!(problem.get("outcome").and_then(Value::as_str), outcome, "{target}");
    }
}

#[tokio::test]
async fn timeouts_reach_the_loop_as_deadlines() {
    let left = Arc::new(Mutex::new(Vec::new()));
    let (handle, mut inbox) = channel(16);
    let clock = inbox.clock;
    let seen = Arc::clone(&left);
    tokio::spawn(async move {
        while let Some(Input::Request { deadline, reply, .. }) = inbox.clients.recv().await {
            seen.lock().unwrap().push(deadline.saturating_sub(clock.now()));
            reply(Err(Refusal::not_applied(Code::NoLeader, "none")));
        }
    });
    let node = Node::in_front_of(handle, options());
    let join = r#"{"node_id":"node2","raft_address":"localhost:1112"}"#;
    for (target, body) in [
        ("/store", PUT),
        ("/store?timeout=30s", PUT),
        ("/raft/join", join),
        ("/raft/remove", r#"{"node_id":"n"}"#),
        ("/raft/transfer", ""),
    ] {
        node.ask("POST", target, body).await.is_problem(503, "no_leader");
    }
    let left = left.lock().unwrap();
    for (left, full) in left.iter().zip([5000, 30_000, 60_000, 10_000, 10_000]) {
        assert!((full - 3000..=full).contains(left), "{left} of {full}");
    }
    assert_eq!(left.len(), 5);
}

#[tokio::test]
async fn before_the_first_turn_every_request_is_a_503_starting() {
    let (handle, _inbox) = channel(16);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let node = Node { address, server: start(listener, handle.clone(), options(), log).unwrap() };
    for (method, target) in
        [("GET", "/store/k"), ("POST", "/store"), ("GET", "/health"), ("GET", "/watch?prefix="), ("GET", "/x")]
    {
        let answer = node.ask(method, target, "").await;
        let problem = answer.is_problem(503, "starting");
        assert_eq!(problem.get("outcome").is_some(), method == "POST");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    handle.begin_serving();
    node.ask("GET", "/x", "").await.is_problem(404, "not_found");
}

#[tokio::test]
async fn a_full_queue_is_503_at_once() {
    let (handle, _inbox) = channel(1);
    let node = Node::in_front_of(handle, options());
    let mut first = TcpStream::connect(node.address).await.unwrap();
    first.write_all(b"GET /store/a HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    // The queue has one place and no reader. Once the first request is in it, others are refused.
    loop {
        let answer = node.ask("GET", "/store/b?timeout=1ms", "").await;
        let problem = answer.json();
        if problem["code"] == "overloaded" {
            answer.is_problem(503, "overloaded");
            assert_eq!(answer.header("retry-after"), Some("1"));
            break;
        }
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let node = Node::working();
    let length = PUT.len();
    let put = format!("POST /store HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{PUT}");
    let wrong = "GET /raft/join HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let get = "GET /store/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(format!("{put}{put}{wrong}{get}").as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    let statuses: Vec<_> = answers.match_indices("HTTP/1.1 ").map(|(at, _)| &answers[at + 9..at + 12]).collect();
    assert_eq!(statuses, ["200", "200", "405", "200"]);
    let last = r#""content_type":"application/json"},"message":"success fetching data"}"#;
    assert!(answers.trim_end().ends_with(last), "{answers}");
}

/// A node whose loop holds the reply to a write; the signal comes with the write.
fn node_with_held_write() -> (Node, HeldReply<Result<Answer, Refusal>>, oneshot::Receiver<()>) {
    let held: HeldReply<_> = Arc::new(Mutex::new(None));
    let (arrived, signal) = oneshot::channel();
    let (hold, mut arrived) = (Arc::clone(&held), Some(arrived));
    let node = Node::start(options(), move |input| {
        if let Input::Request { reply, .. } = input {
            *hold.lock().unwrap() = Some(reply);
            arrived.take().unwrap().send(()).unwrap();
        }
    });
    (node, held, signal)
}

#[tokio::test]
async fn a_shutdown_lets_requests_under_way_finish_and_accepts_no_more() {
    let (node, held, arrived) = node_with_held_write();
    let mut idle = TcpStream::connect(node.address).await.unwrap();
    let mut busy = TcpStream::connect(node.address).await.unwrap();
    let put = format!("POST /store HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{PUT}", PUT.len());
    busy.write_all(put.as_bytes()).await.unwrap();
    arrived.await.unwrap();
    let address = node.address;
    let stop = tokio::spawn(node.server.stop(Duration::from_secs(60)));
    // An idle connection is closed, and does not wait for the others.
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap(), 0);
    let mut late = TcpStream::connect(address).await.unwrap();
    late.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    late.read_to_end(&mut answer).await.unwrap();
    let answer = TestResponse::parse(&answer);
    answer.is_problem(503, "stopping");
    assert_eq!(answer.header("connection"), Some("close"));
    drop(late);
    assert!(!stop.is_finished());
    let reply = held.lock().unwrap().take().unwrap();
    reply(Ok(Answer::Written(crate::model::Written {
        index: 7,
        term: 1,
        clock: 0,
        outcome: CommandResult::Put { create_version: 7 },
        replayed: false,
    })));
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).await.unwrap();
    let answer = TestResponse::parse(&answer);
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    stop.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_shutdown_answers_unfinished_requests_with_an_unknown_outcome() {
    let (node, held, arrived) = node_with_held_write();
    let mut busy = TcpStream::connect(node.address).await.unwrap();
    let put = format!("POST /store HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{PUT}", PUT.len());
    busy.write_all(put.as_bytes()).await.unwrap();
    arrived.await.unwrap();
    node.server.stop(Duration::from_millis(1600)).await;
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).await.unwrap();
    let problem = TestResponse::parse(&answer).is_problem(503, "stopping");
    assert_eq!(problem["outcome"], "unknown", "the loop has it, and may have proposed it");
    assert!(held.lock().unwrap().is_some(), "the loop never answered");
}

#[tokio::test]
async fn a_request_whose_client_is_gone_ends_by_its_deadline() {
    let (gone, signal) = oneshot::channel();
    let mut gone = Some(gone);
    let (handle, mut inbox) = channel(16);
    tokio::spawn(async move {
        let Some(Input::Request { reply, .. }) = inbox.clients.recv().await else { panic!("a request") };
        gone.take().unwrap().send(()).unwrap();
        // Neither used nor dropped, which would be an answer: only the deadline can end the handler.
        std::mem::forget(reply);
        std::future::pending::<()>().await;
    });
    let node = Node::in_front_of(handle, options());
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    let head =
        format!("POST /store?timeout=50ms HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{PUT}", PUT.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    signal.await.unwrap();
    drop(stream);
    let stopped = tokio::time::timeout(Duration::from_secs(30), node.server.stop(Duration::from_secs(60))).await;
    assert!(stopped.is_ok());
}

#[tokio::test]
async fn an_idle_connection_closes_after_its_timeout_and_a_busy_one_does_not() {
    let held = Arc::new(Mutex::new(Vec::new()));
    let hold = Arc::clone(&held);
    let node = Node::start(Options { idle_timeout: Duration::from_secs(1), ..options() }, move |input| match input {
        Input::Request { reply, .. } => hold.lock().unwrap().push(reply),
        Input::Status { reply } => reply(status()),
        _ => {}
    });
    let mut busy = TcpStream::connect(node.address).await.unwrap();
    let put =
        format!("POST /store?timeout=30s HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{PUT}", PUT.len());
    busy.write_all(put.as_bytes()).await.unwrap();
    let mut unused = TcpStream::connect(node.address).await.unwrap();
    let mut idle = TcpStream::connect(node.address).await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    idle.read_to_end(&mut answer).await.unwrap();
    let answer = TestResponse::parse(&answer);
    assert_eq!(
        (answer.status, answer.header("keep-alive"), answer.header("connection")),
        (200, Some("timeout=1"), None)
    );
    assert_eq!(unused.read(&mut [0; 16]).await.unwrap(), 0);
    // The busy one has waited longer than the idle timeout, and is answered.
    let reply = held.lock().unwrap().pop().expect("it has arrived");
    reply(Err(Refusal::not_applied(Code::NoLeader, "none")));
    let mut answer = Vec::new();
    busy.read_to_end(&mut answer).await.unwrap();
    TestResponse::parse(&answer).is_problem(503, "no_leader");
    // With `Connection: close` there is no `Keep-Alive`.
    assert_eq!(node.ask("GET", "/health", "").await.header("keep-alive"), None);
}
