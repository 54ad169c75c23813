//! Writers: clients that change the watched keys by every kind of write and record the outcome of each change.
//!
//! Invariants: every value is written once, and each request is sent once, to any node. Without a response the outcome is
//! unknown.
//!
//! See also: `event_log`, which compares the changes with the events.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};

use serde_json::{Value, json};

use crate::event_log::{Attempted, Change, Outcome};
use crate::harness::{Answer, Request, millis, secs};
use crate::rng::Rng;

/// How many keys are watched.
const KEYS: u64 = 60;

/// The number of the first key that is not; it only takes a place in a transaction.
const BESIDE: u32 = 1_000;

/// The number of the key that is written last.
pub const END: u32 = 999;

/// Below what the watched keys lie.
pub const PREFIX: &str = "w/";

/// The name of a key.
pub fn name(key: u32) -> String {
    if key < BESIDE { format!("{PREFIX}{key}") } else { format!("x/{key}") }
}

/// The number of a watched key.
pub fn key(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// What all writers have in common.
pub struct Shared {
    addresses: Vec<String>,
    stop: AtomicBool,
    next: AtomicU64,
    attempts: Mutex<Vec<Attempted>>,
}

impl Shared {
    fn value(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// How many changes are known to have happened, and how many were asked for.
    pub fn count(&self) -> (usize, usize) {
        let attempts = self.attempts.lock().expect("no writer panics");
        (attempts.iter().filter(|one| matches!(one.outcome, Outcome::Done(_))).count(), attempts.len())
    }
}

/// Running writers.
pub struct Writers {
    /// What they have in common.
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts some.
    pub fn start(addresses: &[String], count: usize, rng: &mut Rng) -> Self {
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(1),
            attempts: Mutex::default(),
        });
        let threads = (0..count).map(|_| {
            let (shared, mut rng) = (shared.clone(), rng.fork());
            std::thread::spawn(move || {
                while !shared.stop.load(Ordering::SeqCst) {
                    write(&shared, &mut rng);
                    sleep(millis(2 + rng.below(12)));
                }
            })
        });
        Self { threads: threads.collect(), shared }
    }

    /// Ends them, writes the last key of all, and hands out what was asked for. The cluster must be whole.
    pub fn finish(self) -> Vec<Attempted> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no writer panics");
        }
        let last = Attempt::put(&self.shared, END, None);
        send(&self.shared, &self.shared.addresses[0], last);
        let attempts = std::mem::take(&mut *self.shared.attempts.lock().expect("no writer panics"));
        let told = attempts.last().is_some_and(|last| last.key == END && matches!(last.outcome, Outcome::Done(_)));
        assert!(told, "a cluster that is whole takes no write: {:?}", attempts.last());
        attempts
    }
}

/// A request with the changes that it asks for, in their order.
struct Attempt {
    changes: Vec<(u32, Change)>,
    ttl: bool,
    request: Request,
}

impl Attempt {
    fn put(shared: &Shared, key: u32, ttl: Option<u64>) -> Self {
        let value = shared.value();
        let query = ttl.map_or(String::new(), |ttl| format!("&ttl={ttl}"));
        let request = Request::new("PUT", format!("/store/{}?timeout=2s{query}", name(key))).body(value.to_string());
        Self { changes: vec![(key, Change::Put(value))], ttl: ttl.is_some(), request }
    }

    fn delete(key: u32) -> Self {
        let request = Request::new("DELETE", format!("/store/{}?timeout=2s", name(key)));
        Self { changes: vec![(key, Change::Delete)], ttl: false, request }
    }

    /// Two to four keys, of which one may not be watched.
    fn txn(shared: &Shared, rng: &mut Rng) -> Self {
        let first = rng.below(KEYS);
        let mut changes = Vec::new();
        for number in 0..2 + rng.below(3) {
            let watched = u32::try_from((first + number) % KEYS).expect("small");
            let key = if rng.chance(20) { BESIDE + watched } else { watched };
            let delete = rng.chance(25);
            changes.push((key, if delete { Change::Delete } else { Change::Put(shared.value()) }));
        }
        let operation = |(key, change): &(u32, Change)| match change {
            Change::Put(value) => json!({"op": "put", "key": name(*key), "value": value.to_string()}),
            _ => json!({"op": "delete", "key": name(*key)}),
        };
        let body = json!({"then": changes.iter().map(operation).collect::<Vec<_>>()}).to_string();
        Self { changes, ttl: false, request: Request::new("POST", "/txn?timeout=2s").body(body) }
    }
}

fn write(shared: &Shared, rng: &mut Rng) {
    let key = u32::try_from(rng.below(KEYS)).expect("small");
    let attempt = match rng.below(20) {
        0..3 => Attempt::delete(key),
        3..6 => Attempt::txn(shared, rng),
        6..8 => Attempt::put(shared, key, Some(1 + rng.below(2))),
        _ => Attempt::put(shared, key, None),
    };
    let address: &String = rng.pick(&shared.addresses);
    send(shared, address, attempt);
}

/// Sends it, and writes down what came of each of its changes.
fn send(shared: &Shared, address: &str, Attempt { changes, ttl, request }: Attempt) {
    let answer = request.within(secs(4)).send(address);
    let fates = match &answer {
        Ok(answer) if answer.status == 200 => done(&changes, answer),
        Ok(answer) if answer.word("outcome") == "not_applied" => vec![Some(Outcome::Refused); changes.len()],
        Ok(answer) if answer.word("outcome") == "unknown" => vec![Some(Outcome::Unknown); changes.len()],
        Ok(answer) => panic!("{address} on {changes:?}: {answer}"),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            sleep(millis(20));
            vec![Some(Outcome::Refused); changes.len()]
        }
        Err(_) => vec![Some(Outcome::Unknown); changes.len()],
    };
    let known = changes.into_iter().zip(fates).filter_map(|((key, change), outcome)| {
        // A removal that is not known to have happened asks for nothing that a watcher must be told.
        let counts = key < BESIDE && (change != Change::Delete || matches!(outcome, Some(Outcome::Done(_))));
        counts.then_some(Attempted { key, change, ttl, outcome: outcome? })
    });
    shared.attempts.lock().expect("no writer panics").extend(known);
}

/// Where each change happened, none for the removal of a key that was not there.
fn done(changes: &[(u32, Change)], answer: &Answer) -> Vec<Option<Outcome>> {
    let index = answer.header("x-raft-index").and_then(|text| text.parse().ok()).expect("a write's own index");
    let data = answer.json()["data"].clone();
    let results: Vec<Value> = data["results"].as_array().cloned().unwrap_or(vec![data]);
    assert_eq!(results.len(), changes.len(), "{answer}");
    let happens: Vec<bool> = results.iter().map(|result| result["deleted"] != false).collect();
    let many = happens.iter().filter(|happens| **happens).count() > 1;
    let mut place = 0;
    let outcome = |happens: bool| {
        happens.then(|| {
            place += 1;
            Outcome::Done((index, if many { place } else { 0 }))
        })
    };
    happens.into_iter().map(outcome).collect()
}
