//! Clients on all nodes, and the history of their operations.
//!
//! Why: linearizability is checked on a history of every call, every response, and the times of both.
//!
//! Invariants: every value is written once. A write is left out of the history only if it certainly had no effect: the
//! node says `not_applied`, or the connection was refused. Keys are replaced often, so that the history of one key is
//! short. A read that fails is left out. Each request is sent once, except for writes with an idempotency key; one
//! without a response has an unknown outcome in the history.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Answer, Request, millis, secs};
use crate::history::{Event, History, Shared, found, is_truncated};
use crate::linear::{Operation, Seen};
use crate::rng::Rng;
use crate::ttl::{self, Lease};

/// The number of keys that are in use at a time.
const KEYS: u64 = 4;

/// How long a key is in use, in milliseconds.
const SPAN: u64 = 1_500;

/// The number of lock holders.
const HOLDERS: usize = 2;

/// One of so many writes has an idempotency key.
const KEYED: u64 = 3;

/// The maximum number of retries of such a write.
const MAX_RETRIES: usize = 3;

/// The size of a ballast value.
const BALFINAL_READER_BYTES: usize = 200_000;

/// The client number of the final reads.
const FINAL_READER: usize = 100;

/// The client number of probes of a paused node.
const PROBER: usize = 101;

/// The number of reads that wait for a paused node.
const PROBES: u64 = 24;

/// Running clients.
pub struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts `count` clients, each of which goes to any of the addresses and reads with this consistency.
    pub fn start(addresses: &[String], count: usize, consistency: &'static str, rng: &mut Rng) -> Self {
        let shared = Arc::new(Shared {
            addresses: addresses.to_vec(),
            consistency,
            begun: Instant::now(),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(1),
            history: Mutex::default(),
            known: Mutex::default(),
        });
        let threads = (0..count + HOLDERS).map(|client| {
            let (shared, rng) = (shared.clone(), rng.fork());
            std::thread::spawn(
                move || if client < count { run(&shared, client, rng) } else { hold(&shared, client, rng) },
            )
        });
        Self { threads: threads.collect(), shared }
    }

    /// Stops the clients and returns the shared state for the final reads.
    pub fn finish(self) -> Arc<Shared> {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("no client panics");
        }
        self.shared
    }

    /// The state that the clients share.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// The number of writes that are acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.history().acknowledged
    }
}

/// Reads that wait in the sockets of a paused node.
pub struct Probes(Vec<Probe>);

/// When it was called, its key, and how to wait for the answer.
type Probe = (u64, String, Box<dyn FnOnce(Duration) -> std::io::Result<Answer>>);

impl Shared {
    /// Writes large values, so that a snapshot takes a while and faults hit it.
    pub fn ballast(&self, count: usize) {
        for number in 0..count {
            let value = self.next.fetch_add(1, Ordering::SeqCst);
            let key = format!("ballast-{number}");
            let text = format!("{value}:{}", "b".repeat(BALFINAL_READER_BYTES));
            let body = json!({"key": key, "value": text}).to_string();
            let address = &self.addresses[number % self.addresses.len()];
            let request = Request::new("POST", "/store?timeout=5s").body(body).within(secs(10));
            write(self, FINAL_READER, address, &key, PutAttempt { seen: Seen::Put(value), ttl: None, request });
        }
    }

    /// Sends reads to a paused node: they are its first requests after it resumes, when it may still consider itself the
    /// leader. The clients themselves would all time out before another node leads.
    pub fn probe(&self, place: usize) -> Probes {
        let one = |number: u64| -> Option<Probe> {
            let called = self.now();
            let key = format!("e{}-{}", called / 1_000 / SPAN, number % KEYS);
            let path = format!("/store/{key}?timeout=2s&consistency={}", self.consistency);
            let pending = Request::new("GET", path).within(secs(2)).open(&self.addresses[place]).ok()?;
            Some((called, key, Box::new(move |timeout| pending.answer(timeout))))
        };
        Probes((0..PROBES).filter_map(one).collect())
    }

    /// Records the results of the probes.
    pub fn record_probes(&self, probes: Probes) {
        for (called, key, pending) in probes.0 {
            let answer = pending(secs(4));
            _ = self.record_read(PROBER, &key, called, answer);
        }
    }
}

/// Reads every key once more through the nodes in turn, and hands out the history.
pub fn read_all(shared: &Shared) -> Result<History, String> {
    let keys: Vec<String> = shared.history().events.keys().cloned().collect();
    for (at, key) in keys.iter().enumerate() {
        let address = &shared.addresses[at % shared.addresses.len()];
        let answered = (0..5).any(|_| read(shared, FINAL_READER, address, key, secs(5)));
        if !answered {
            return Err(format!("{key} cannot be read at {address} from a cluster that is whole"));
        }
    }
    Ok(std::mem::take(&mut *shared.history()))
}

fn run(shared: &Shared, client: usize, mut rng: Rng) {
    while !shared.stop.load(Ordering::SeqCst) {
        let address = rng.pick(&shared.addresses).clone();
        let key = format!("e{}-{}", shared.now() / 1_000 / SPAN, rng.below(KEYS));
        // Some give up early, so that not all of them hang on a node that sleeps.
        let timeout = millis(300 + rng.below(2_200));
        match rng.below(10) {
            0..5 => {
                let value = shared.next.fetch_add(1, Ordering::SeqCst);
                let mut attempt = put(shared, &key, value, &mut rng);
                attempt.request = attempt.request.within(timeout);
                write(shared, client, &address, &key, attempt);
            }
            5 => {
                let request = Request::new("DELETE", format!("/store/{key}?timeout=1s"));
                let (seen, request) = match shared.known(&key) {
                    Some((version, value)) if rng.chance(50) => {
                        let seen = Seen::Cas { expected: Some(value), new: None, done: None };
                        (seen, request.header("If-Match", &format!("\"{version}\"")))
                    }
                    _ => (Seen::Delete(None), request),
                };
                let request = request.within(timeout);
                write(shared, client, &address, &key, PutAttempt { seen, ttl: None, request });
            }
            6 if rng.chance(50) => {
                let version = shared.known(&key).filter(|_| rng.chance(50)).map(|(version, _)| version);
                Touch { ttl: 1 + rng.below(3), version, timeout }.send(shared, client, &address, &key);
            }
            _ => _ = read(shared, client, &address, &key, timeout),
        }
        sleep(millis(2 + rng.below(20)));
    }
}

/// A lock holder: creates a key with a TTL, renews it for a while, then deletes it or lets it expire.
fn hold(shared: &Shared, client: usize, mut rng: Rng) {
    let stays = |rng: &mut Rng| 2 + rng.below(ttl::MAX_SECONDS - 1);
    let any = |rng: &mut Rng| rng.pick(&shared.addresses[..]).clone();
    for number in 0.. {
        let key = format!("lease-{client}-{number}");
        let (value, ttl) = (shared.next.fetch_add(1, Ordering::SeqCst), stays(&mut rng));
        let make = Request::new("PUT", format!("/store/{key}?timeout=1s&ttl={ttl}")).body(format!("{value}:"));
        let request = make.header("If-None-Match", "*").within(secs(2));
        let seen = Seen::Cas { expected: None, new: Some(value), done: None };
        write(shared, client, &any(&mut rng), &key, PutAttempt { seen, ttl: Some(ttl), request });
        for _ in 0..rng.below(5) {
            shared.wait(millis(100 + rng.below(1_500)));
            let version = shared.known(&key).map(|(version, _)| version);
            let touch = Touch { ttl: stays(&mut rng), version, timeout: secs(2) };
            touch.send(shared, client, &any(&mut rng), &key);
        }
        if rng.chance(20) {
            let request = Request::new("DELETE", format!("/store/{key}?timeout=1s")).within(secs(2));
            write(shared, client, &any(&mut rng), &key, PutAttempt { seen: Seen::Delete(None), ttl: None, request });
        }
        // Looked at until it is gone, so that what goes too early is seen to.
        for _ in 0..40 {
            shared.wait(millis(50 + rng.below(300)));
            if shared.stop.load(Ordering::SeqCst) {
                return;
            }
            if read(shared, client, &any(&mut rng), &key, secs(1)) && shared.is_missing(&key) {
                break;
            }
        }
    }
}

/// A write in the making: what it is to do, for how many seconds it is to stay, and how it is asked for.
struct PutAttempt {
    seen: Seen,
    ttl: Option<u64>,
    request: Request,
}

/// One of the ways to set a key: with and without a condition, as JSON, as a raw body, in a transaction; some of each
/// with a time to stay.
fn put(shared: &Shared, key: &str, value: u64, rng: &mut Rng) -> PutAttempt {
    // Now and then a large one, so that records and copies are of several pieces.
    let padding = if rng.chance(4) { 40_000 } else { 0 };
    let text = format!("{value}:{}", "p".repeat(padding));
    let ttl = rng.chance(20).then(|| 1 + rng.below(2));
    let query = ttl.map_or(String::new(), |ttl| format!("&ttl={ttl}"));
    let raw = Request::new("PUT", format!("/store/{key}?timeout=1s{query}")).body(text.clone());
    let cas = |expected| Seen::Cas { expected, new: Some(value), done: None };
    let staying = |mut members: Value| {
        if let Some(ttl) = ttl {
            members["ttl"] = json!(ttl);
        }
        members
    };
    let (seen, request) = match (rng.below(8), shared.known(key)) {
        (0, _) => (Seen::Put(value), raw),
        (1, _) => (cas(None), raw.header("If-None-Match", "*")),
        (2, Some((version, held))) => (cas(Some(held)), raw.header("If-Match", &format!("\"{version}\""))),
        (3, Some((version, held))) => {
            let body = json!({"if": [{"key": key, "version": version}],
                "then": [staying(json!({"op": "put", "key": key, "value": text}))], "else": [{"op": "get", "key": key}]});
            (cas(Some(held)), Request::new("POST", "/txn?timeout=1s").body(body.to_string()))
        }
        _ => {
            let body = staying(json!({"key": key, "value": text})).to_string();
            (Seen::Put(value), Request::new("POST", "/store?timeout=1s").body(body))
        }
    };
    PutAttempt { seen, ttl, request }
}

/// Sends a write. One that has an idempotency key is sent on to other nodes until it is answered, and then once more: it
/// must be done once, and answered alike.
fn send(shared: &Shared, address: &str, request: Request) -> std::io::Result<Answer> {
    let number = shared.next.fetch_add(1, Ordering::SeqCst);
    if !number.is_multiple_of(KEYED) {
        return request.send(address);
    }
    let request = request.header("Idempotency-Key", &format!("write-{number}"));
    let others = shared.addresses.iter().cycle().skip_while(|other| *other != address).map(String::as_str);
    let (mut doubt, mut last) = (false, request.clone().send(address));
    for other in others.skip(1).take(MAX_RETRIES) {
        match &last {
            Ok(answer) if [200, 412].contains(&answer.status) => {
                if let Ok(again) = request.send(other) {
                    shared.compare_replay(answer, &again);
                }
                return last;
            }
            Ok(answer) => doubt |= answer.word("outcome") == "unknown",
            Err(error) => doubt |= error.kind() != ErrorKind::ConnectionRefused,
        }
        last = request.clone().send(other);
    }
    match &last {
        Ok(answer) if [200, 412].contains(&answer.status) => last,
        _ if doubt => Err(std::io::Error::other("none of its attempts was answered with its outcome")),
        _ => last,
    }
}

fn write(shared: &Shared, client: usize, address: &str, key: &str, PutAttempt { seen, ttl, request }: PutAttempt) {
    let called = shared.now();
    let answer = send(shared, address, request);
    let now = shared.now();
    let answer = answer.and_then(|answer| {
        if is_truncated(&answer) { Err(std::io::Error::other("its result was not kept")) } else { Ok(answer) }
    });
    let (returned, seen, version) = match answer {
        Ok(answer) if [200, 412].contains(&answer.status) => match acknowledged(&seen, &answer) {
            Some((seen, version)) => (Some(now), seen, version),
            None => return shared.history().wrong.push(format!("{address} on {seen:?} of {key}: {answer}")),
        },
        Ok(answer) => match answer.word("outcome").as_str() {
            "not_applied" => return,
            "unknown" => (None, seen, None),
            _ => return shared.history().wrong.push(format!("{address} on {seen:?} of {key}, no outcome: {answer}")),
        },
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return sleep(millis(20)),
        Err(_) => (None, seen, None),
    };
    shared.record_version(key, &seen, version);
    let mut history = shared.history();
    match returned {
        Some(_) => history.acknowledged += 1,
        None => history.unknown += 1,
    }
    if let (Some(ttl), Seen::Put(value) | Seen::Cas { new: Some(value), done: None | Some(true), .. }) = (ttl, &seen) {
        history.add_lease(key, Lease { value: Some(*value), put: true, called, returned, ttl });
    }
    let operation = Operation { client, called, returned, seen };
    history.events.entry(key.to_owned()).or_default().push(Event { operation, version, left: None });
}

/// Lets a key stay for so many seconds from now on, where a version is given only while it has that one.
struct Touch {
    ttl: u64,
    version: Option<u64>,
    timeout: Duration,
}

impl Touch {
    /// What a touch answers is what a read would have found at its place in the order.
    fn send(self, shared: &Shared, client: usize, address: &str, key: &str) {
        let Self { ttl, version, timeout } = self;
        let mut request =
            Request::new("POST", format!("/touch/{key}?timeout=1s")).body(json!({"ttl": ttl}).to_string());
        if let Some(version) = version {
            request = request.header("If-Match", &format!("\"{version}\""));
        }
        let called = shared.now();
        let answer = request.within(timeout).send(address);
        let lease = |value, returned| Lease { value, put: false, called, returned, ttl };
        match answer {
            Ok(answer) if answer.status == 200 => {
                let (value, now) = (found(&answer.data()).map(|(value, ..)| value), shared.now());
                if shared.record_read(client, key, called, Ok(answer)) {
                    shared.history().add_lease(key, lease(value, Some(now)));
                }
            }
            Ok(answer) if answer.status == 412 && answer.json()["version"] == 0 => {
                shared.record_missing(client, key, called);
            }
            Ok(answer) if answer.status == 412 => {}
            Ok(answer) if answer.status == 404 => _ = shared.record_read(client, key, called, Ok(answer)),
            Ok(answer) if answer.word("outcome") == "not_applied" => {}
            Ok(answer) if answer.word("outcome") != "unknown" => {
                shared.history().wrong.push(format!("{address} on a touch of {key}: {answer}"));
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => sleep(millis(20)),
            // It may take effect on whatever is there then.
            Ok(_) | Err(_) => shared.history().add_lease(key, lease(None, None)),
        }
    }
}

/// What a 200, or a 412, says about the write, and the version that it gave the key.
fn acknowledged(seen: &Seen, answer: &Answer) -> Option<(Seen, Option<u64>)> {
    let data = answer.json()["data"].clone();
    match *seen {
        Seen::Delete(_) => Some((Seen::Delete(Some(data["deleted"].as_bool()?)), None)),
        Seen::Cas { expected, new, .. } => {
            let done = answer.status == 200 && data["succeeded"] != false;
            // Where the condition was true there was a key to remove.
            if done && new.is_none() && data["deleted"] != true {
                return None;
            }
            let version = data["version"].as_u64().or(data["index"].as_u64()).filter(|_| done && new.is_some());
            Some((Seen::Cas { expected, new, done: Some(done) }, version))
        }
        Seen::Put(_) | Seen::Get(_) if answer.status == 200 => Some((seen.clone(), Some(data["version"].as_u64()?))),
        Seen::Put(_) | Seen::Get(_) => None,
    }
}

/// Whether it was answered.
fn read(shared: &Shared, client: usize, address: &str, key: &str, timeout: Duration) -> bool {
    let called = shared.now();
    let path = format!("/store/{key}?timeout=1s&consistency={}", shared.consistency);
    let answer = Request::new("GET", path).within(timeout).send(address);
    let heard = shared.record_read(client, key, called, answer);
    if !heard {
        sleep(millis(20));
    }
    heard
}
