//! Load: clients that write without pause and record the acknowledgements.
//!
//! Why: "no acknowledged write is lost" is checked against the recorded acknowledgements.
//!
//! Invariants: a client is the only writer of its keys, so every later read must return its last acknowledged value;
//! no value is written twice.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};

use serde_json::json;

use super::http::Request;
use super::node::Node;
use super::wait::{millis, secs};

/// One write that was answered 200.
#[derive(Debug, Clone)]
pub struct Ack {
    /// Its key.
    pub key: String,
    /// What was written, as JSON text.
    pub value: String,
    /// The version that the answer named.
    pub version: u64,
}

/// What the clients have seen.
#[derive(Debug, Default)]
pub struct Record {
    /// Every acknowledged write, in no order.
    pub acks: Vec<Ack>,
    /// For every client's counter, the highest number acknowledged and the highest tried.
    pub counters: BTreeMap<String, (u64, u64)>,
    /// Reads that were wrong, for the failure message.
    pub wrong: Vec<String>,
    /// How many writes failed or were not answered.
    pub failures: u64,
    /// What was said of the first of them, for the failure message.
    pub first_failure: Option<String>,
}

/// Running clients.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Record>>,
}

impl Load {
    /// Starts `clients` clients, each with its own keys below `prefix`, each going round all `addresses`.
    pub fn start(addresses: &[String], clients: usize, prefix: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicU64::new(0));
        let clients = (0..clients)
            .map(|number| {
                let client = Client {
                    name: format!("{prefix}-{number}"),
                    addresses: addresses.to_vec(),
                    stop: stop.clone(),
                    acked: acked.clone(),
                };
                std::thread::spawn(move || client.run(number))
            })
            .collect();
        Self { stop, acked, clients }
    }

    /// How many writes have been acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::SeqCst)
    }

    /// Ends all clients and returns what they have seen.
    pub fn finish(self) -> Record {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Record::default();
        for client in self.clients {
            let record = client.join().expect("a client does not panic");
            all.acks.extend(record.acks);
            all.counters.extend(record.counters);
            all.wrong.extend(record.wrong);
            all.failures += record.failures;
            all.first_failure = all.first_failure.or(record.first_failure);
        }
        all
    }
}

struct Client {
    name: String,
    addresses: Vec<String>,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
}

impl Client {
    fn run(&self, start: usize) -> Record {
        let mut record = Record::default();
        let counter = format!("{}-counter", self.name);
        record.counters.insert(counter.clone(), (0, 0));
        for turn in 1_u64.. {
            if self.stop.load(Ordering::SeqCst) {
                break;
            }
            let address = &self.addresses[(start + turn as usize) % self.addresses.len()];
            match turn % 3 {
                0 => self.read_back(address, &counter, &mut record),
                1 => {
                    let key = format!("{}-{turn}", self.name);
                    self.write(address, &key, turn, &mut record);
                }
                _ => {
                    if let Some(marks) = record.counters.get_mut(&counter) {
                        marks.1 = turn;
                    }
                    if self.write(address, &counter, turn, &mut record)
                        && let Some(marks) = record.counters.get_mut(&counter)
                    {
                        marks.0 = turn;
                    }
                }
            }
        }
        record
    }

    /// Whether it was acknowledged.
    fn write(&self, address: &str, key: &str, value: u64, record: &mut Record) -> bool {
        let body = json!({"key": key, "value": value}).to_string();
        let sent = Request::new("POST", "/store?timeout=2s").body(body).within(secs(6)).send(address);
        match sent {
            Ok(answer) if answer.status == 200 => {
                let version = answer.data()["version"].as_u64().unwrap_or(0);
                record.acks.push(Ack { key: key.to_owned(), value: value.to_string(), version });
                self.acked.fetch_add(1, Ordering::SeqCst);
                true
            }
            other => {
                record.failures += 1;
                record.first_failure.get_or_insert_with(|| format!("{address}: {other:?}"));
                // A node that is down refuses at once; this keeps the client from spinning.
                sleep(millis(5));
                false
            }
        }
    }

    /// Reads the counter, which only this client writes: anything below the highest number acknowledged is stale.
    fn read_back(&self, address: &str, counter: &str, record: &mut Record) {
        let path = format!("/store/{counter}?timeout=2s");
        let Ok(answer) = Request::new("GET", path).within(secs(6)).send(address) else { return };
        let (low, high) = record.counters.get(counter).copied().unwrap_or_default();
        let seen = match answer.status {
            200 => answer.data()["value"].as_u64().unwrap_or(0),
            404 => 0,
            _ => return,
        };
        if seen < low || seen > high {
            record.wrong.push(format!("{address} said {counter} = {seen}, which must be in {low}..={high}"));
        }
    }
}

impl Record {
    /// Panics where a write failed, with what was said of the first one.
    #[track_caller]
    pub fn verify_no_failure(&self, why: &str) {
        assert_eq!(self.first_failure, None, "{why}: {} writes failed", self.failures);
    }

    /// Panics unless every acknowledged write can be read through `node`, no read was wrong, and no two writes share a
    /// version.
    #[track_caller]
    pub fn verify(&self, node: &Node) {
        assert!(self.wrong.is_empty(), "reads that were wrong: {:?}", self.wrong);
        self.verify_versions();
        for ack in &self.acks {
            if self.counters.contains_key(&ack.key) {
                continue;
            }
            let read = node.get(&format!("/store/{}", ack.key)).expect(200, &format!("the acknowledged {ack:?}"));
            assert_eq!(read.raw_value(), ack.value, "the value of {}", ack.key);
            assert_eq!(read.data()["version"], ack.version, "the version of {}", ack.key);
        }
        for (counter, &(low, high)) in &self.counters {
            if low == 0 {
                continue;
            }
            let value = node.value(counter).as_u64().unwrap_or(0);
            assert!((low..=high).contains(&value), "{counter} is {value}, must be in {low}..={high}");
        }
    }

    /// Panics where two acknowledged writes have one version.
    #[track_caller]
    pub fn verify_versions(&self) {
        let mut seen: BTreeMap<u64, &Ack> = BTreeMap::new();
        for ack in &self.acks {
            if let Some(other) = seen.insert(ack.version, ack) {
                panic!("two writes have version {}: {other:?} and {ack:?}", ack.version);
            }
        }
    }
}
