//! Watchers: each watches all watched keys, changes nodes when a connection fails, and records every event.
//!
//! Why: a watch outlives its connections, and its guarantee covers all of them together.
//!
//! Invariants: a watcher does what the documentation tells a client: it resumes after the last id on any node, changes
//! nodes after 15 s without a byte, and where every node answers `compacted`, it lists the keys and watches from the
//! index of the list plus one. A list is recorded as a list, so that it hides no lost event.
//!
//! See also: `event_log`, which checks the events.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::event_log::{At, Change, Observed};
use crate::harness::{Event, Request, ask, binary, millis, secs};
use crate::rng::Rng;
use crate::writers::{END, PREFIX, key};

/// How long no node that is with its leader is silent.
const SILENCE: Duration = secs(15);

/// How long the program may take longer, which looks for another node by itself.
const PROGRAM: Duration = secs(45);

/// How a watcher goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchMethod {
    /// Stays with a node for as long as that lasts.
    Steady,
    /// Changes nodes every few seconds.
    Restless,
    /// Is away for a while again and again, at times for longer than a node remembers.
    Sleepy,
    /// `huskv watch`, so the Rust client.
    Program,
}

/// One watcher.
pub struct Watcher {
    manner: WatchMethod,
    addresses: Vec<String>,
    rng: Rng,
    deadline: Instant,
    /// The id to go on after, or else the index to begin with.
    last: Option<String>,
    from: u64,
    /// Everything that it was told.
    pub observed: Vec<Observed>,
    /// How many connections it had, or processes.
    pub connections: u64,
    /// How many nodes answered that they do not remember so much.
    pub compacted: u64,
    /// How often it was told that it was too slow.
    pub lagged: u64,
    /// How often it left a node because of its silence.
    pub silences: u64,
    /// How often it listed the keys.
    pub lists: u64,
}

/// What a stream brings.
enum Polled {
    Event(Event),
    Silence,
    End,
}

impl Watcher {
    /// One that begins behind this index.
    pub fn new(manner: WatchMethod, addresses: &[String], begin: u64, rng: Rng, deadline: Instant) -> Self {
        Self {
            manner,
            addresses: addresses.to_vec(),
            rng,
            deadline,
            last: None,
            from: begin + 1,
            observed: Vec::new(),
            connections: 0,
            compacted: 0,
            lagged: 0,
            silences: 0,
            lists: 0,
        }
    }

    /// Watches until the last key of all was told.
    pub fn run(mut self) -> Self {
        let mut forgotten = Vec::new();
        while Instant::now() < self.deadline {
            let ended = if self.manner == WatchMethod::Program {
                self.program(&mut forgotten)
            } else {
                self.stream(&mut forgotten)
            };
            if ended {
                return self;
            }
            // All nodes, each asked after the last that was told.
            if forgotten.len() == self.addresses.len() {
                forgotten.clear();
                if self.list() {
                    return self;
                }
            }
            if self.manner == WatchMethod::Sleepy && self.rng.chance(30) {
                sleep(millis(self.rng.below(12_000)));
            }
        }
        panic!("{:?} was not told of the end in time; the last was {:?}", self.manner, self.observed.last());
    }

    /// One connection to one node; whether the end was told.
    fn stream(&mut self, forgotten: &mut Vec<String>) -> bool {
        let address = self.rng.pick(&self.addresses[..]).clone();
        let query = match &self.last {
            Some(_) => format!("prefix={PREFIX}"),
            None => format!("prefix={PREFIX}&from={}", self.from),
        };
        let Ok(unread) = ask(&address, &query, self.last.as_deref()) else {
            sleep(millis(20));
            return false;
        };
        match unread.head.status {
            200 => {}
            410 => {
                self.compacted += 1;
                if !forgotten.contains(&address) {
                    forgotten.push(address);
                }
                return false;
            }
            503 => {
                sleep(millis(50));
                return false;
            }
            other => panic!("{address} answers a watch by {other}"),
        }
        let Ok(watch) = unread.listen() else { return false };
        forgotten.clear();
        self.connections += 1;
        let stay = match self.manner {
            WatchMethod::Restless | WatchMethod::Sleepy => millis(500 + self.rng.below(6_000)),
            _ => secs(24 * 3_600),
        };
        self.take(Instant::now() + stay, SILENCE, |patience| received(watch.within(patience)))
    }

    /// One run of `huskv watch`; whether the end was told.
    fn program(&mut self, forgotten: &mut Vec<String>) -> bool {
        let mut command = Command::new(binary());
        command.args(["watch", "--json", "--prefix", PREFIX, "--endpoints", &self.addresses.join(",")]);
        match &self.last {
            Some(last) => command.args(["--after", last]),
            None => command.args(["--from", &self.from.to_string()]),
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = Process::read(child.expect("starting huskv watch"));
        self.connections += 1;
        if self.take(self.deadline, PROGRAM, |patience| received(process.events.recv_timeout(patience))) {
            return true;
        }
        let said = process.said();
        if said.contains("(compacted)") {
            // It has asked them all.
            self.compacted += 1;
            forgotten.clone_from(&self.addresses);
        } else if said.contains("(lagged)") {
            forgotten.clone_from(&self.addresses);
            self.lagged += 1;
        } else {
            let found_no_node = said.contains("go on with --after") || self.last.is_none();
            assert!(found_no_node, "huskv watch says {said:?}");
        }
        false
    }

    /// Writes down what comes until the stream ends, is silent, or it is time to leave; whether the end was told.
    fn take(&mut self, leave: Instant, silence: Duration, mut next: impl FnMut(Duration) -> Polled) -> bool {
        loop {
            let patience = leave.saturating_duration_since(Instant::now()).min(silence);
            let event = match next(patience) {
                Polled::Event(event) => event,
                Polled::Silence => {
                    self.silences += u64::from(Instant::now() < leave);
                    return false;
                }
                Polled::End => return false,
            };
            if event.kind == "lagged" {
                self.lagged += 1;
                return false;
            }
            self.last = Some(event.id.clone());
            let at = place(&event.id).unwrap_or_else(|| panic!("the id of {event:?}"));
            if event.kind == "progress" {
                assert_eq!(event.data["index"], at.0, "{event:?}");
                self.observed.push(Observed::Progress(at.0));
                continue;
            }
            let key = event.data["key"].as_str().and_then(key).unwrap_or_else(|| panic!("the key of {event:?}"));
            let value = || event.data["value"].as_str().and_then(|text| text.parse().ok());
            let change = match event.kind.as_str() {
                "put" => Change::Put(value().unwrap_or_else(|| panic!("the value of {event:?}"))),
                "delete" => Change::Delete,
                "expire" => Change::Expire,
                _ => panic!("{event:?}"),
            };
            assert_eq!(event.data["version"], at.0, "{event:?}");
            self.observed.push(Observed::Event(at, key, change));
            if key == END {
                return true;
            }
        }
    }

    /// Reads what the keys are, to go on behind that; whether the last key of all is among them.
    fn list(&mut self) -> bool {
        let path = format!("/store?prefix={PREFIX}&limit=1000&timeout=5s");
        loop {
            assert!(Instant::now() < self.deadline, "the keys cannot be listed");
            let address = self.rng.pick(&self.addresses[..]);
            let answer = Request::new("GET", &path).within(secs(10)).send(address);
            let Some(answer) = answer.ok().filter(|answer| answer.status == 200) else {
                sleep(millis(50));
                continue;
            };
            let data = answer.data();
            assert!(data["next_cursor"].is_null(), "all keys are one page");
            let item = |item: &Value| Some((key(item["key"].as_str()?)?, item["version"].as_u64()?));
            let items: BTreeMap<u32, u64> = data["items"].as_array().into_iter().flatten().filter_map(item).collect();
            let index = data["index"].as_u64().expect("the index of a list");
            let ended = items.contains_key(&END);
            self.lists += 1;
            self.observed.push(Observed::List(index, items));
            (self.last, self.from) = (None, index + 1);
            return ended;
        }
    }
}

/// Where an id stands.
fn place(id: &str) -> Option<At> {
    match id.split_once('.') {
        Some((index, place)) => Some((index.parse().ok()?, place.parse().ok()?)),
        None => Some((id.parse().ok()?, 0)),
    }
}

fn received(got: Result<Event, RecvTimeoutError>) -> Polled {
    match got {
        Ok(event) => Polled::Event(event),
        Err(RecvTimeoutError::Timeout) => Polled::Silence,
        Err(RecvTimeoutError::Disconnected) => Polled::End,
    }
}

/// A running `huskv watch`, which ends with it.
struct Process {
    child: Child,
    events: Receiver<Event>,
}

impl Process {
    fn read(mut child: Child) -> Self {
        let lines = BufReader::new(child.stdout.take().expect("its stdout"));
        let (observed, events) = channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str::<Value>(&line) else { return };
                let text = |name: &str| line[name].as_str().unwrap_or("").to_owned();
                let event = Event { id: text("id"), kind: text("event"), data: line["data"].clone() };
                if observed.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, events }
    }

    /// Ends it, and what it said at last.
    fn said(&mut self) -> String {
        _ = self.child.kill();
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            _ = stderr.read_to_string(&mut said);
        }
        said
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
