//! Node events: the latest things that happened to a node, each with its reason and the figures that say so.
//!
//! Why: who is woken at night asks why the leader changed, and the log of a node is far away. So the node keeps what matters of it in
//! memory, in a form that programs and people read.
//!
//! Invariants: at most [`CAPACITY`] events are kept, the oldest ones go first, and routine ones (checkpoints, progress, refused joins) fill at most half. Ids
//! begin at 1 with each start of the process and have no gap when they are given. An event is written under a short lock; no reader
//! makes a writer wait for longer than a copy of references. The wall clock is read here, never by the module that notes the event.
//!
//! See also: what can happen ([`Kind`]), `GET /events` (`http::api::events`), `docs/monitoring.md`.

mod kind;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::watch;

pub use kind::{Kind, LeaderChange, Reason};

/// The maximum number of events that are kept.
pub const CAPACITY: usize = 1000;

/// The last second that RFC 3339 has a year for; a clock beyond it is shown as this.
const LAST_SECOND: u64 = 253_402_300_799;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeEvent {
    /// Its number since the start of the process, from 1 on.
    pub id: u64,
    /// The wall clock when it was noted, RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// The applied index of the node then.
    pub index: u64,
    /// Its term then.
    pub term: u64,
    /// One sentence with all figures.
    pub detail: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: Kind,
}

/// A part of the events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The id of the first event that is kept; one more than `last` if there is none.
    pub first: u64,
    /// The id of the last event.
    pub last: u64,
    /// The events, oldest first.
    pub events: Vec<Arc<NodeEvent>>,
}

/// The events of a process; shared by all modules.
#[derive(Debug)]
pub struct NodeEvents {
    boot: String,
    ring: Mutex<Ring>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<NodeEvent>>,
    last: u64,
    routine: usize,
    /// Applied index and term, as the loop published them last.
    point: (u64, u64),
}

impl Default for NodeEvents {
    fn default() -> Self {
        // The keys of the hash are random, so the hash of nothing is a random number.
        let boot = format!("{:016x}", RandomState::new().build_hasher().finish());
        Self { boot, ring: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl NodeEvents {
    /// Returns a random name of this start of the process. Ids of another one mean nothing here.
    #[must_use]
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Returns the id of the last event; 0 for none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.ring().last
    }

    /// Sets applied index and term for events of modules that know neither.
    pub fn set_point(&self, index: u64, term: u64) {
        self.ring().point = (index, term);
    }

    /// Notes an event at the applied index and term that were published last.
    pub fn note(&self, kind: Kind) {
        let mut ring = self.ring();
        let point = ring.point;
        self.push(&mut ring, point, kind);
    }

    /// Notes an event at this applied index and term.
    pub fn note_at(&self, point: (u64, u64), kind: Kind) {
        let mut ring = self.ring();
        ring.point = point;
        self.push(&mut ring, point, kind);
    }

    fn push(&self, ring: &mut Ring, (index, term): (u64, u64), kind: Kind) {
        ring.last += 1;
        let detail = kind.detail();
        ring.add(NodeEvent { id: ring.last, at: rfc3339(SystemTime::now()), index, term, detail, kind });
        self.changed.send_replace(ring.last);
    }

    /// Returns at most `limit` events: the first ones after the id `since`, or the latest ones where that is None.
    #[must_use]
    pub fn read(&self, since: Option<u64>, limit: usize) -> Batch {
        let ring = self.ring();
        let begin = match since {
            Some(since) => ring.events.partition_point(|event| event.id <= since),
            None => ring.events.len().saturating_sub(limit),
        };
        let first = ring.events.front().map_or(ring.last + 1, |event| event.id);
        Batch { first, last: ring.last, events: ring.events.iter().skip(begin).take(limit).cloned().collect() }
    }

    /// Returns the latest events, oldest first: at most `limit`, and at most `routine` of those that happen all the time.
    #[must_use]
    pub fn latest(&self, limit: usize, mut routine: usize) -> Vec<Arc<NodeEvent>> {
        let ring = self.ring();
        let is_wanted = |event: &&Arc<NodeEvent>| {
            let is_routine = event.kind.is_routine();
            let is_wanted = !is_routine || routine > 0;
            routine -= usize::from(is_routine && is_wanted);
            is_wanted
        };
        let mut latest: Vec<_> = ring.events.iter().rev().filter(is_wanted).take(limit).cloned().collect();
        drop(ring);
        latest.reverse();
        latest
    }

    /// Returns what wakes a reader after each event.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn add(&mut self, event: NodeEvent) {
        if self.events.len() == CAPACITY {
            // A busy node makes a checkpoint every few seconds; the last change of the leader must outlive them.
            let oldest = if self.routine > CAPACITY / 2 {
                self.events.iter().position(|event| event.kind.is_routine()).unwrap_or(0)
            } else {
                0
            };
            let gone = self.events.remove(oldest);
            self.routine -= usize::from(gone.is_some_and(|event| event.kind.is_routine()));
        }
        self.routine += usize::from(event.kind.is_routine());
        self.events.push_back(Arc::new(event));
    }
}

fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(Duration::from_secs(LAST_SECOND));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}
