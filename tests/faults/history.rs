//! History: the operations of all clients with their times, for the checkers.
//!
//! See also: `clients`, which records it; `checker` and `ttl`, which check it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Answer, millis};
use crate::linear::{Operation, Seen};
use crate::ttl::Lease;

/// An operation with what its response showed.
#[derive(Debug, Clone)]
pub struct Event {
    /// The operation.
    pub operation: Operation,
    /// The version that was written or read.
    pub version: Option<u64>,
    /// The remaining TTL in seconds that a read showed.
    pub left: Option<u64>,
}

/// The operations of all clients, by key.
#[derive(Debug, Default)]
pub struct History {
    /// The operations, without those that certainly had no effect.
    pub events: BTreeMap<String, Vec<Event>>,
    /// The requests for a TTL, by key.
    pub leases: BTreeMap<String, Vec<Lease>>,
    /// Responses that violate the API.
    pub wrong: Vec<String>,
    /// The number of acknowledged writes.
    pub acknowledged: u64,
    /// The number of writes of unknown outcome.
    pub unknown: u64,
    /// The number of successful reads.
    pub reads: u64,
}

/// The state that all clients share.
pub struct Shared {
    pub addresses: Vec<String>,
    pub consistency: &'static str,
    pub begun: Instant,
    pub stop: AtomicBool,
    pub next: AtomicU64,
    pub history: Mutex<History>,
    /// The latest version and value of each key that any client saw; what conditions are about.
    pub known: Mutex<BTreeMap<String, (u64, u64)>>,
}

impl Shared {
    /// Microseconds since the clients began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).expect("a round is shorter than half a million years")
    }

    pub fn history(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().expect("no client panics")
    }
}

impl History {
    pub fn add_lease(&mut self, key: &str, lease: Lease) {
        self.leases.entry(key.to_owned()).or_default().push(lease);
    }
}

impl Shared {
    /// Compares the response of a write with that of its repetition under the same idempotency key.
    pub fn compare_replay(&self, first: &Answer, again: &Answer) {
        let is_whole = !is_truncated(again);
        let facts = |answer: &Answer| {
            let text = is_whole.then(|| answer.text());
            (answer.status, text, answer.header("x-raft-index").map(str::to_owned))
        };
        let decided = [200, 412, 422].contains(&again.status);
        if decided && (facts(first) != facts(again) || again.header("idempotency-replayed") != Some("true")) {
            self.history().wrong.push(format!("a write was answered {first}, and when it was sent again {again}"));
        }
    }

    /// Waits for `span`, or until the clients are to stop.
    pub fn wait(&self, span: Duration) {
        let end = Instant::now() + span;
        while Instant::now() < end && !self.stop.load(Ordering::SeqCst) {
            sleep(millis(20));
        }
    }

    /// Whether the last read of a key did not find it.
    pub fn is_missing(&self, key: &str) -> bool {
        let history = self.history();
        let last = history.events.get(key).and_then(|events| events.last());
        last.is_some_and(|event| event.operation.seen == Seen::Get(None))
    }

    pub fn known(&self, key: &str) -> Option<(u64, u64)> {
        self.known.lock().expect("no client panics").get(key).copied()
    }

    /// Records the version and value of a key.
    pub fn record_version(&self, key: &str, seen: &Seen, version: Option<u64>) {
        if let (Seen::Put(value) | Seen::Get(Some(value)) | Seen::Cas { new: Some(value), .. }, Some(version)) =
            (seen, version)
        {
            self.known.lock().expect("no client panics").insert(key.to_owned(), (version, *value));
        }
    }

    /// Records a read; false if it failed.
    pub fn record_read(&self, client: usize, key: &str, called: u64, answer: std::io::Result<Answer>) -> bool {
        let returned = Some(self.now());
        let (value, version, left) = match answer {
            Ok(answer) if answer.status == 200 => match found(&answer.data()) {
                Some((value, version, left)) => (Some(value), Some(version), left),
                None => {
                    self.history().wrong.push(format!("a get of {key}: {answer}"));
                    return false;
                }
            },
            Ok(answer) if answer.status == 404 && answer.word("code") == "key_not_found" => (None, None, None),
            _ => return false,
        };
        let operation = Operation { client, called, returned, seen: Seen::Get(value) };
        self.record_version(key, &operation.seen, version);
        let mut history = self.history();
        history.reads += 1;
        history.events.entry(key.to_owned()).or_default().push(Event { operation, version, left });
        true
    }

    /// Records a response that only shows that the key does not exist.
    pub fn record_missing(&self, client: usize, key: &str, called: u64) {
        let operation = Operation { client, called, returned: Some(self.now()), seen: Seen::Get(None) };
        let mut history = self.history();
        history.reads += 1;
        history.events.entry(key.to_owned()).or_default().push(Event { operation, version: None, left: None });
    }
}

/// The value of an item, its version, and the seconds that it has left.
pub fn found(data: &Value) -> Option<(u64, u64, Option<u64>)> {
    let value = data["value"].as_str()?.split(':').next()?.parse().ok()?;
    Some((value, data["version"].as_u64()?, data["ttl"].as_u64()))
}

/// Whether all that is left of a result is its version, which does not tell which branch of a transaction was taken.
pub fn is_truncated(answer: &Answer) -> bool {
    answer.status == 200 && answer.json()["data"]["truncated"] == true
}
