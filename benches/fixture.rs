//! Fixture of the benchmarks: a fresh data directory, puts over a set of keys, options of an HTTP server.
//!
//! See also: `hot` for times, `instructions` for counts.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use huskv::http;
use huskv::model::Command;
use huskv::storage::{Applied, DataDir, Incarnation, OpenOptions, Operation, SledEngine};

/// The size of values.
pub const VALUE_BYTES: usize = 256;

/// The number of keys.
pub const KEYS: u64 = 10_000;

/// A put of one of [`KEYS`] keys; consecutive numbers give keys that are far apart.
pub fn put(number: u64) -> Command {
    let key = format!("key-{:08}", number.wrapping_mul(0x9E37_79B9) % KEYS);
    Command::put(key, vec![b'v'; VALUE_BYTES])
}

/// The entries from `first` on, each a put.
pub fn puts(first: u64, count: u64, term: u64) -> Vec<Applied> {
    let entry = |index| Applied { index, term, operation: Operation::Command(put(index).into()) };
    (first..first + count).map(entry).collect()
}

/// Opens the data directory of a fresh node.
pub fn incarnation(directory: &Path) -> (DataDir, Incarnation) {
    let engine = Arc::new(SledEngine::new(directory).expect("a temporary directory"));
    let ids = AtomicU64::new(1);
    let boot = OpenOptions {
        name: "bench".into(),
        raft_address: "127.0.0.1:1".into(),
        http_address: "127.0.0.1:2".into(),
        cache_bytes: 64 << 20,
        picked_http_port: None,
        picked_raft_port: None,
        random: Box::new(move || ids.fetch_add(1, Ordering::Relaxed)),
    };
    DataDir::open(engine, boot).expect("a fresh directory opens")
}

/// The options of a server at `port` of the loopback address, without TLS, tokens or limits of rates.
pub fn http_options(port: u16) -> http::Options {
    http::Options {
        key_bytes: 1024,
        value_bytes: 1 << 20,
        body_bytes: 2 << 20,
        connections: 4096,
        request_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(75),
        rate_grace: Duration::from_secs(5),
        allowed_origins: Vec::new(),
        allowed_hosts: Vec::new(),
        own_hosts: Vec::new(),
        loopback: true,
        port,
        budgets: http::Budgets {
            bodies: 1 << 28,
            answers: 1 << 28,
            events: 1 << 26,
            transactions: 1 << 28,
            renewals: 1 << 28,
        },
        join_list: Vec::new(),
        tls: None,
        peer_tls: None,
        tokens: None,
        audit: http::Audit::new("node1", slog::Logger::root(slog::Discard, slog::o!())),
        ui: true,
        reloads: tokio::sync::mpsc::channel(1).0,
        wire_versions: 2..=2,
        formats: &[("journal", 1)],
        watchers: 1,
        limiter: Arc::new(http::RequestLimiter::new(0, 0, 1024)),
        trusted_proxies: Arc::default(),
    }
}
