//! Fuzz targets for requests.
//!
//! Why: a request passes hyper, warp and this module's parsers, on a port without a login, and a panic in any of them ends
//! the node.
//!
//! Invariants: these functions return for all inputs; what is accepted is within its limits.
//!
//! See also: the list of targets ([`crate::fuzzing`]), their corpora (`fuzz/corpus`).

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use warp::http::Method;
use warp::http::header::{HeaderMap, HeaderValue, ORIGIN};

use super::api::{cluster, range_and_prefix_delete, store, touch, txn, watch};
use super::clients::rate_limit::RequestLimiter;
use super::options::Options;
use super::request::body::BodyQuota;
use super::request::handler_context::ServerContext;
use super::request::timers::Timers;
use super::request::{body, ttl, uri};
use super::response::problem::Problem;
use super::server::browser_guard::{BrowserGuard, OriginCheck};
use super::server::fair_memory::{Budget, Budgets, Source};
use super::server::serve_connection;
use crate::consensus::channel;

/// The limit of keys and values, small so that short inputs reach it.
const LIMIT: usize = 64;

/// Whole requests, as the bytes of a connection. No loop is behind them, so valid requests are answered 503.
pub fn request(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    let (handle, inbox) = channel(8);
    drop(inbox);
    handle.begin_serving();
    let context = Arc::new(ServerContext::new(handle, options()));
    let (server, mut client) = tokio::io::duplex(bytes.len().max(64 << 10));
    let (received, request) = (Arc::new(Mutex::new(Vec::new())), bytes.to_vec());
    let responses = Arc::clone(&received);
    let client = async move {
        client.write_all(&request).await.expect("the pipe has room for all of it");
        client.shutdown().await.expect("a pipe can be closed");
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).await.expect("a pipe can be read");
        *responses.lock().expect("no thread panics with it") = bytes;
    };
    RUNTIME
        .with(|runtime| runtime.block_on(async { tokio::join!(Box::pin(serve_connection(server, context)), client) }));
    let responses = received.lock().expect("no thread panics with it");
    assert!(responses.is_empty() || responses.starts_with(b"HTTP/1."), "a response is HTTP");
    assert!(!responses.starts_with(b"HTTP/1.1 500"), "no request is an internal error");
}

/// A body in chunks, as each route parses it. The first byte is the size of the chunks, less one.
pub fn body(bytes: &[u8]) {
    let Some((&chunk, rest)) = bytes.split_first() else { return };
    let chunks: Vec<_> = rest.chunks(usize::from(chunk) + 1).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    // With 255 the body is one byte over its limit.
    let limit = rest.len().max(1) - usize::from(chunk == u8::MAX);
    let budget = Budget::new(8 * rest.len().max(64 << 10));
    let holder = Source::loopback().into();
    let timers = Timers::default();
    let quota = BodyQuota { budget: &budget, holder: &holder, grace: options().rate_grace, timers: &timers };
    let read = body::collect(futures_util::stream::iter(chunks), None, limit, quota).now_or_never();
    let Ok(whole) = read.expect("bytes in memory are there at once") else {
        assert!(rest.len() > limit, "only a body over the limit is refused");
        return;
    };
    assert_eq!(&whole.bytes[..], rest, "a body is what was sent");
    refused(store::parse(&whole.bytes, LIMIT, LIMIT).map(drop));
    refused(txn::parse(&whole.bytes, options().limits()).map(drop));
    refused(touch::parse(&whole.bytes).map(drop));
    refused(cluster::parse_join(&whole.bytes).map(drop));
    refused(body::members(&whole.bytes, []).map(drop));
}

/// A query, as that of a read, of a list and of a watch.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match range_and_prefix_delete::parse(text, LIMIT) {
        Ok(asked) => assert!((1..=1000).contains(&asked.list.limit), "a page is bounded"),
        Err(problem) => refused(Err(problem)),
    }
    if let Ok([value]) = uri::parameters(text, ["ttl"]) {
        refused(ttl::of_query(value.as_deref()).map(drop));
    }
    refused(watch::parse(text, Some(text), LIMIT).map(drop));
    refused(watch::parse("prefix=", Some(text), LIMIT).map(drop));
    let [one, two, three] = uri::FRESH;
    match uri::parameters(text, [uri::TIMEOUT, one, two, three]) {
        Ok([timeout, one, two, three]) => {
            let now = Instant::now();
            let deadline = uri::deadline(timeout.as_deref(), Duration::from_secs(5), now);
            if let Ok(deadline) = &deadline {
                assert!(deadline.0 > now && deadline.0 <= now + Duration::from_secs(60), "a deadline is bounded");
            }
            refused(deadline.map(drop));
            refused(uri::freshness([one, two, three]).map(drop));
        }
        Err(problem) => refused(Err(problem)),
    }
}

/// A key in a path.
pub fn path_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let key = uri::key_in_path(text, LIMIT);
    if let Ok(key) = &key {
        assert!((1..=LIMIT).contains(&key.len()), "a key is within its limits");
    }
    refused(key.map(drop));
}

/// An `Origin`.
pub fn origin(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let options = options();
    let known = ["https://ui.example.org", "http://localhost:2221", "http://127.0.0.1:2221", "http://[::1]:2221"];
    let allowed = known.iter().any(|known| value.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
    let headers = HeaderMap::from_iter([(ORIGIN, value)]);
    match BrowserGuard::new(&options).check(&headers) {
        OriginCheck::Absent => unreachable!("the request has an origin"),
        OriginCheck::Allowed(_) => assert!(allowed, "no other origin is allowed"),
        OriginCheck::Refused(problem) => {
            assert!(!allowed, "no allowed origin is refused");
            refused(Err(problem));
        }
    }
}

fn options() -> Options {
    Options {
        key_bytes: LIMIT,
        value_bytes: LIMIT,
        body_bytes: 4 * LIMIT,
        watchers: 2,
        connections: 4096,
        request_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(75),
        rate_grace: Duration::from_secs(5),
        allowed_origins: vec!["https://ui.example.org".into()],
        allowed_hosts: Vec::new(),
        // The origins are those on loopback. Off loopback more hosts are allowed, so more inputs get past the host check.
        own_hosts: vec!["127.0.0.1".into(), "localhost".into(), "::1".into()],
        loopback: false,
        port: 2221,
        budgets: Budgets {
            bodies: 1 << 20,
            answers: 1 << 20,
            events: 1 << 20,
            transactions: 1 << 20,
            renewals: 1 << 20,
        },
        join_list: Vec::new(),
        tls: None,
        peer_tls: None,
        tokens: None,
        limiter: Arc::new(RequestLimiter::new(0, 0, 1)),
        trusted_proxies: Arc::default(),
        audit: super::Audit::new("node1", slog::Logger::root(slog::Discard, slog::o!())),
        ui: true,
        reloads: tokio::sync::mpsc::channel(1).0,
        wire_versions: 2..=2,
        formats: &[("journal", 1)],
    }
}

/// Asserts that a refusal is a client error with a response.
fn refused(result: Result<(), Problem>) {
    if let Err(problem) = result {
        assert!(problem.respond(&Method::POST).status().is_client_error(), "a refused input is a client error");
    }
}
