//! Tests of the limit of requests per second: what is refused, when, and for which client.
//!
//! Why: the limit stands before everything else that a request costs, and must hold nothing up but its own caller.
//!
//! Invariants: a bucket gains one request a second here, and requests are sent many at once, so no test depends on being fast.
//!
//! See also: the buckets with a clock of their own (`src/http/clients/rate_limit.rs`), real nodes (`tests/cluster`).

use super::*;
use crate::auth::{NewToken, TokenStore};
use std::time::Instant;

/// How many requests a caller may send at once.
const BURST: u32 = 20;
/// How many are sent: more than the burst and what a slow machine adds to it.
const MANY: usize = 60;

fn limited() -> Options {
    let trusted_proxies = TrustedProxies::new(vec!["127.0.0.1/32".parse().unwrap()]).into();
    Options { limiter: Arc::new(RequestLimiter::new(1, BURST, 8)), trusted_proxies, ..options() }
}

/// Sends [`MANY`] requests with these header lines on one connection, without waiting for a response.
async fn many(node: &Node, method: &str, target: &str, headers: &str) -> Vec<TestResponse> {
    let request = |more: &str| format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}{more}\r\n");
    let mut requests = request("").repeat(MANY - 1);
    requests.push_str(&request("Connection: close\r\n"));
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut responses = Vec::new();
    stream.read_to_end(&mut responses).await.unwrap();
    let responses = String::from_utf8(responses).unwrap();
    let parse = |text: &str| TestResponse::parse(format!("HTTP/1.1 {text}").as_bytes());
    responses.split("HTTP/1.1 ").skip(1).map(parse).collect()
}

/// Asserts that the burst was answered with `status` and that others were 429; returns one of those.
#[track_caller]
fn over_the_limit(mut responses: Vec<TestResponse>, status: u16) -> TestResponse {
    assert_eq!(responses.len(), MANY);
    assert!(responses[..BURST as usize].iter().all(|response| response.status == status), "{responses:?}");
    assert!(responses.iter().all(|response| [status, 429].contains(&response.status)), "{responses:?}");
    let refused = responses.iter().position(|response| response.status == 429).expect("not all are allowed");
    responses.swap_remove(refused)
}

/// Asserts that these requests share a bucket that was emptied after `since`.
#[track_caller]
fn shares_an_empty_bucket(responses: &[TestResponse], since: Instant) {
    let allowed = responses.iter().filter(|response| response.status != 429).count();
    assert!(allowed as u64 <= since.elapsed().as_secs() + 1, "{allowed} of a bucket of {BURST}: {responses:?}");
}

/// Admins' tokens with these names, and the header line of each.
fn tokens<const N: usize>(names: [&str; N]) -> (Arc<TokenStore>, [String; N]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens.toml");
    let drawn = names.map(|name| NewToken { name: name.into(), admin: true, ..NewToken::default() }.draw().unwrap());
    std::fs::write(&path, drawn.iter().map(|(_, table)| table.as_str()).collect::<String>()).unwrap();
    let store = TokenStore::open(&path, slog::Logger::root(slog::Discard, slog::o!())).unwrap();
    (store, drawn.map(|(secret, _)| format!("Authorization: Bearer {}\r\n", secret.expose())))
}

#[tokio::test]
async fn over_the_limit_is_a_429_that_says_when_and_changes_nothing() {
    let node = Node::start(limited(), map_loop());
    let refused = over_the_limit(many(&node, "DELETE", "/store/k", "").await, 200);
    let problem = refused.is_problem(429, "rate_limited");
    assert_eq!((refused.header("retry-after"), &problem["outcome"]), (Some("1"), &"not_applied".into()));
    assert!(problem["detail"].as_str().unwrap().contains("this address"), "{problem}");
}

#[tokio::test]
async fn the_body_of_a_request_over_the_limit_is_not_awaited() {
    let node = Node::start(limited(), map_loop());
    let head = "PUT /store/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n";
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; "HTTP/1.1 100".len()];
        stream.read_exact(&mut answer).await.unwrap();
        if answer.ends_with(b" 100") {
            stream.write_all(b"1").await.unwrap();
        }
        stream.read_to_end(&mut answer).await.unwrap();
        if !answer.starts_with(b"HTTP/1.1 100") {
            TestResponse::parse(&answer).is_problem(429, "rate_limited");
            return;
        }
    }
    panic!("no request was over the limit");
}

#[tokio::test]
async fn every_path_is_limited_but_probes() {
    let node = Node::start(limited(), map_loop());
    for (number, (method, target)) in [
        ("GET", "/nowhere"),
        ("GET", "/raft/stats"),
        ("GET", "/openapi.json"),
        ("OPTIONS", "/store/k"),
        ("OPTIONS", "*"),
    ]
    .into_iter()
    .enumerate()
    {
        let header = format!("X-Forwarded-For: 10.0.0.{number}\r\n");
        let responses = many(&node, method, target, &header).await;
        let first = responses[0].status;
        assert_ne!(first, 429, "{target}");
        over_the_limit(responses, first);
    }
    for target in ["/livez", "/readyz", "/health", "/health/"] {
        let responses = many(&node, "GET", target, "X-Forwarded-For: 10.0.0.0\r\n").await;
        assert!(responses.len() == MANY && responses.iter().all(|response| response.status == 200), "{responses:?}");
    }
}

#[tokio::test]
async fn a_proxy_names_the_client_and_a_stranger_does_not() {
    let (node, since) = (Node::start(limited(), map_loop()), Instant::now());
    let of = |address: &str| format!("X-Forwarded-For: 198.51.100.1, {address}\r\n");
    over_the_limit(many(&node, "GET", "/store?limit=1", &of("203.0.113.1")).await, 200);
    over_the_limit(many(&node, "GET", "/store?limit=1", &of("203.0.113.2")).await, 200);
    over_the_limit(many(&node, "GET", "/store?limit=1", "X-Forwarded-For: unknown\r\n").await, 200);
    // A malformed header counts for the proxy itself.
    shares_an_empty_bucket(&many(&node, "GET", "/store?limit=1", "").await, since);
    let node = Node::start(Options { trusted_proxies: Arc::default(), ..limited() }, map_loop());
    over_the_limit(many(&node, "GET", "/store?limit=1", &of("203.0.113.1")).await, 200);
    shares_an_empty_bucket(&many(&node, "GET", "/store?limit=1", &of("203.0.113.2")).await, since);
}

#[tokio::test]
async fn wrong_tokens_use_up_the_limit_of_their_address_and_a_valid_one_has_its_own() {
    let (store, [root]) = tokens(["root"]);
    let names = Names { node: "node1".into(), ..Names::default() };
    let since = Instant::now();
    let node = Node::start_as(names, Options { tokens: Some(store), ..limited() }, map_loop());
    let refused = over_the_limit(many(&node, "GET", "/store/k", "Authorization: Bearer guess\r\n").await, 401);
    refused.is_problem(429, "rate_limited");
    assert_eq!(refused.header("x-huskv-node"), None, "a stranger learns no names");
    let valid = root;
    let refused = over_the_limit(many(&node, "GET", "/store/k", &valid).await, 404);
    let problem = refused.is_problem(429, "rate_limited");
    assert!(problem["detail"].as_str().unwrap().starts_with("token \"root\""), "{problem}");
    assert_eq!(refused.header("x-huskv-node"), Some("node1"));
    let elsewhere = format!("{valid}X-Forwarded-For: 203.0.113.9\r\n");
    shares_an_empty_bucket(&many(&node, "GET", "/store/k", &elsewhere).await, since);
}

#[tokio::test]
async fn an_event_source_gets_an_event_after_which_it_comes_again() {
    let node = Node::start(limited(), map_loop());
    // A wrong cursor, so that what is allowed is a 400 and no stream.
    for _ in 0..MANY {
        let events = node.ask_with("GET", "/watch?prefix=&from=x", "Accept: text/event-stream\r\n", "").await;
        if events.status != 400 {
            assert_eq!((events.status, events.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
            assert!(events.body.contains("event:refused") && events.body.contains("rate_limited"), "{events:?}");
            return;
        }
    }
    panic!("no request was over the limit");
}

#[tokio::test]
async fn the_limit_and_the_proxies_are_replaced_while_the_node_runs() {
    let options = limited();
    let (limiter, proxies) = (Arc::clone(&options.limiter), Arc::clone(&options.trusted_proxies));
    let node = Node::start(options, map_loop());
    over_the_limit(many(&node, "GET", "/nowhere", "").await, 404);
    limiter.set(0, 0);
    assert!(many(&node, "GET", "/nowhere", "").await.iter().all(|response| response.status == 404));
    limiter.set(1, BURST);
    proxies.set(Vec::new());
    let since = Instant::now();
    over_the_limit(many(&node, "GET", "/nowhere", "X-Forwarded-For: 203.0.113.9\r\n").await, 404);
    // The header is not believed any more.
    shares_an_empty_bucket(&many(&node, "GET", "/nowhere", "").await, since);
}

#[tokio::test]
async fn a_token_leaves_watchers_to_other_tokens_at_its_address() {
    let (store, [first, second]) = tokens(["first", "second"]);
    let (node, _feed) = watch::node_with(Options { tokens: Some(store), watchers: 16, ..options() });
    let ask = async |token: &str| {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let request = format!("GET /watch?prefix= HTTP/1.1\r\nHost: localhost\r\n{token}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status).await.unwrap();
        (String::from_utf8_lossy(&status[9..]).into_owned(), stream)
    };
    // An eighth of 16 is left to others.
    let mut watching = Vec::new();
    for (token, expected) in [(&first, 14), (&second, 2)] {
        for _ in 0..expected {
            let (status, stream) = ask(token).await;
            assert_eq!(status, "200");
            watching.push(stream);
        }
        assert_eq!(ask(token).await.0, "503");
    }
}
