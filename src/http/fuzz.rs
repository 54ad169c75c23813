//! What a client can write into a request, for fuzzers.
//!
//! Why: a request passes hyper, warp and our own parsers, on a port without a login, and a panic in any of them ends the
//! node.
//!
//! Laws: whatever the bytes are, these functions return; what is accepted is within its limits.
//!
//! Not here: a loop that answers.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use warp::http::Method;
use warp::http::header::{HeaderMap, HeaderValue, ORIGIN};

use super::Options;
use super::api::{cluster, list, store, touch, txn, watch};
use super::request::body::Account;
use super::request::context::ServerContext;
use super::request::{body, query, ttl};
use super::response::problem::Problem;
use super::server::browser_guard::{BrowserGuard, OriginCheck};
use super::server::memory_budget::{Budget, Budgets, Source};
use super::server::serve_once;
use crate::consensus::channel;

/// The limits that the targets are run with, small so that short inputs reach them.
const LIMIT: usize = 64;

/// Whole requests, as they come over the connection. There is no loop behind them: what is sound is answered 503.
pub fn request(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    let (handle, inbox) = channel(8);
    drop(inbox);
    handle.begin_serving();
    let context = Arc::new(ServerContext::new(handle, options()));
    let (server, mut client) = tokio::io::duplex(bytes.len().max(64 << 10));
    let (read, asked) = (Arc::new(Mutex::new(Vec::new())), bytes.to_vec());
    let answers = Arc::clone(&read);
    let client = async move {
        client.write_all(&asked).await.expect("there is room for all of it");
        client.shutdown().await.expect("memory can be closed");
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.expect("memory can be read");
        *answers.lock().expect("nobody panics with it") = answer;
    };
    RUNTIME.with(|runtime| runtime.block_on(async { tokio::join!(Box::pin(serve_once(server, context)), client) }));
    let answers = read.lock().expect("nobody panics with it");
    assert!(answers.is_empty() || answers.starts_with(b"HTTP/1."), "what comes back is HTTP");
    assert!(!answers.starts_with(b"HTTP/1.1 500"), "the request is to blame, not the node");
}

/// A body, by way of a stream of pieces whose size the first byte says, as each route reads it.
pub fn body(bytes: &[u8]) {
    let Some((&piece, rest)) = bytes.split_first() else { return };
    let pieces: Vec<_> = rest.chunks(usize::from(piece) + 1).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let limit = rest.len().max(1) - usize::from(piece == u8::MAX);
    let budget = Budget::new(8 * rest.len().max(64 << 10));
    let account = Account { budget: &budget, source: Source::loopback(), patience: options().rate_grace };
    let read = body::collect(Box::pin(futures_util::stream::iter(pieces)), None, limit, account).now_or_never();
    let Ok(whole) = read.expect("bytes in memory are never waited for") else {
        assert!(rest.len() > limit, "only what is over the limit is refused");
        return;
    };
    assert_eq!(&whole.bytes[..], rest, "a body is what was sent");
    refused(store::parse(&whole.bytes, LIMIT, LIMIT).map(drop));
    refused(txn::parse(&whole.bytes, options().limits()).map(drop));
    refused(touch::parse(&whole.bytes).map(drop));
    refused(cluster::parse_join(&whole.bytes).map(drop));
    refused(body::members(&whole.bytes, []).map(drop));
}

/// A query, as that of a read of one key, of a list and of a watch.
pub fn query(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match list::parse(text, LIMIT) {
        Ok(asked) => assert!((1..=1000).contains(&asked.list.limit), "a page is bounded"),
        Err(problem) => refused(Err(problem)),
    }
    if let Ok([value]) = query::parameters(text, ["ttl"]) {
        refused(ttl::of_query(value.as_deref()).map(drop));
    }
    refused(watch::parse(text, Some(text), LIMIT).map(drop));
    refused(watch::parse("prefix=", Some(text), LIMIT).map(drop));
    let [one, two, three] = query::FRESH;
    match query::parameters(text, [query::TIMEOUT, one, two, three]) {
        Ok([timeout, one, two, three]) => {
            let now = Instant::now();
            let deadline = query::deadline(timeout.as_deref(), Duration::from_secs(5), now);
            if let Ok(deadline) = &deadline {
                assert!(deadline.0 > now && deadline.0 <= now + Duration::from_secs(60), "a deadline is bounded");
            }
            refused(deadline.map(drop));
            refused(query::freshness([one, two, three]).map(drop));
        }
        Err(problem) => refused(Err(problem)),
    }
}

/// A key in a path.
pub fn path_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let key = query::key_in_path(text, LIMIT);
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
    let ours = known.iter().any(|known| value.as_bytes().eq_ignore_ascii_case(known.as_bytes()));
    let headers = HeaderMap::from_iter([(ORIGIN, value)]);
    match BrowserGuard::new(&options).check(&headers) {
        OriginCheck::Absent => unreachable!("there is one"),
        OriginCheck::Allowed(_) => assert!(ours, "no other origin is let in"),
        OriginCheck::Refused(problem) => {
            assert!(!ours, "no origin of ours is refused");
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
        // As on loopback for origins; of hosts more are let in elsewhere, so that requests get further.
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
    }
}

/// A refusal can always be written out.
fn refused(result: Result<(), Problem>) {
    if let Err(problem) = result {
        assert!(problem.respond(&Method::POST).status().is_client_error(), "the client is to blame");
    }
}
