//! The change feed: a bounded ring of the latest events, for watchers.
//!
//! Why: a watcher that lost its connection resumes at its cursor on any node, so every node retains the latest events, also
//! without watchers. The consensus loop appends, and any number of readers read at their own speed.
//!
//! Invariants: the loop never waits for a reader. Retention is bounded in events and bytes. All events of an index are appended
//! and dropped together, and those of the newest index are always retained. The feed begins at the index at which the node
//! started or installed a snapshot. A reader gets each event from its cursor on once and in order, or `Lagged`.
//!
//! ```text
//!   events    | 40 | 41.1 41.2 | 44 |        42 and 43 changed no key (failed conditions)
//!   oldest = 40                 applied = 47
//!   a read at 41.2 returns 41.2 and 44, and the next cursor is 48: up to 47 there is nothing more
//!   a read at 39 is `Lagged(40)`; an append of 48 that needs space drops 40, and `oldest` becomes 41
//! ```
//!
//! See also: [`crate::model::Event`], `http::api::watch` (server-sent events).

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::model::Millis;
use crate::model::{Code, Cursor, Event, Refusal};

/// The maximum events of one read.
const CHUNK_EVENTS: usize = 64;
/// The maximum bytes of the events of one read; a larger first event is returned anyway.
const CHUNK_BYTES: usize = 64 << 10;
/// The maximum events that one read scans, since the loop waits for the lock meanwhile. It matters for a filter with few
/// matches.
const SCAN_EVENTS: usize = 1024;

/// The retention of a change feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// The maximum events.
    pub events: usize,
    /// The maximum bytes of their keys and values.
    pub bytes: usize,
}

/// The latest events of a node.
pub struct ChangeFeed {
    ring: Mutex<Ring>,
    changed: Notify,
    /// Whether a watcher needs a proof that the node is in contact with a leader.
    contact_requested: AtomicBool,
    /// Whether the loop has ended.
    closed: watch::Sender<bool>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    limits: FeedLimits,
    /// Those of [`ChangeFeed::set_limits`], which take precedence over those of the start.
    reloaded_limits: Option<FeedLimits>,
    /// Counts the clusters that this node was in. Indexes of one mean nothing in another.
    epoch: u64,
    /// The first index whose events are all retained.
    oldest: u64,
    applied: u64,
    status: FeedStatus,
}

/// The state of the node that watchers depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedStatus {
    /// Its term.
    pub term: u64,
    /// Until when the node counts as in contact with a leader that has a majority: one election timeout after the begin of the
    /// last confirmed read index round.
    pub contact_until: Millis,
    /// Why this node serves no watchers; None if it does.
    pub refusal: Option<Refusal>,
}

/// The keys that a client watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// Exactly this key.
    Key(Bytes),
    /// All keys with this prefix.
    Prefix(Bytes),
}

impl Filter {
    fn matches(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(wanted) => key == wanted,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// The start of a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// The epoch to pass to each [`ChangeFeed::read`].
    pub epoch: u64,
    /// The first change to return.
    pub cursor: Cursor,
    /// The applied index of the node.
    pub applied: u64,
    /// The term of the node.
    pub term: u64,
}

/// The error of [`ChangeFeed::open`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscribeError {
    /// The node serves no watchers at present.
    Refused(Refusal),
    /// Events at the cursor were dropped; this is the first index that is retained.
    Compacted(u64),
}

/// The result of [`ChangeFeed::read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedRead {
    /// No events will follow: the node was removed, or belongs to another cluster.
    Ended,
    /// The node has stopped and everything was read; a watcher resumes at this cursor.
    Stopped(Cursor),
    /// Events at the cursor were dropped; this is the first index that is retained.
    Lagged(u64),
    /// The next events.
    Found {
        /// The events in order; empty if none of the scanned ones matches the filter.
        events: Vec<Arc<Event>>,
        /// The cursor of the next read.
        cursor: Cursor,
        /// Whether the cursor is at the end of the feed.
        all: bool,
        /// The applied index of the node.
        applied: u64,
        /// See [`FeedStatus::contact_until`].
        contact_until: Millis,
    },
}

impl Default for ChangeFeed {
    /// Returns the feed of a node whose loop has not started; it refuses watchers.
    fn default() -> Self {
        let starting = "this node has just started; try again in a moment";
        let status =
            FeedStatus { term: 0, contact_until: 0, refusal: Some(Refusal::not_applied(Code::NoLeader, starting)) };
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            limits: FeedLimits { events: 0, bytes: 0 },
            reloaded_limits: None,
            epoch: 0,
            oldest: 1,
            applied: 0,
            status,
        };
        Self {
            ring: Mutex::new(ring),
            changed: Notify::new(),
            contact_requested: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        }
    }
}

impl ChangeFeed {
    /// Starts the feed of a cluster after `applied`. Watchers of an earlier cluster end.
    pub fn begin(&self, applied: u64, limits: FeedLimits) {
        let mut ring = self.ring();
        ring.epoch += 1;
        ring.limits = ring.reloaded_limits.unwrap_or(limits);
        ring.skip_to(applied);
        drop(ring);
        self.changed.notify_one();
    }

    /// Changes the retention, now and for later clusters; events over it are dropped at once.
    pub fn set_limits(&self, limits: FeedLimits) {
        let mut ring = self.ring();
        ring.limits = limits;
        ring.reloaded_limits = Some(limits);
        let dropped = ring.trim();
        drop(ring);
        self.changed.notify_one();
        drop(dropped);
    }

    /// Continues after `applied`, the index of an installed snapshot: the changes before it are unknown.
    pub fn skip_to(&self, applied: u64) {
        self.ring().skip_to(applied);
        self.changed.notify_one();
    }

    /// Appends all events up to `applied`, in order.
    pub fn append(&self, events: Vec<Event>, applied: u64) {
        let mut ring = self.ring();
        debug_assert!(applied >= ring.applied, "the applied index never goes back");
        for event in events {
            debug_assert!(
                ring.events.back().is_none_or(|last| last.after() <= event.at()),
                "events come once and in order"
            );
            ring.bytes += event.size();
            ring.events.push_back(Arc::new(event));
        }
        ring.applied = applied;
        let dropped = ring.trim();
        drop(ring);
        self.changed.notify_one();
        // Values are freed after the lock is released: megabytes of them take a while.
        drop(dropped);
    }

    /// Updates the status of the node.
    pub fn set_status(&self, status: FeedStatus) {
        let mut ring = self.ring();
        let changed = ring.status.refusal != status.refusal;
        let confirmed = status.contact_until > ring.status.contact_until;
        ring.status = status;
        drop(ring);
        // The contact is renewed many times a second. It wakes watchers only if one needs it for a `progress` that is due.
        if confirmed && self.contact_requested.swap(false, Ordering::Relaxed) || changed {
            self.changed.notify_one();
        }
    }

    /// Asks for a read index round, which proves the contact that a `progress` needs.
    pub fn request_contact(&self) {
        self.contact_requested.store(true, Ordering::Relaxed);
    }

    /// Whether a watcher has asked for it since the last confirmation.
    pub fn contact_requested(&self) -> bool {
        self.contact_requested.load(Ordering::Relaxed)
    }

    /// Closes the feed: the loop has ended, and nothing will be appended.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.changed.notify_one();
    }

    /// Waits until the feed is closed.
    pub async fn closed(&self) {
        // The only error is a dropped sender, and `self` holds it.
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
    }

    /// Waits for a change since the last call. For one caller, which wakes the watchers.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Subscribes at `cursor`, or after the applied index. A cursor beyond the applied index waits for its events.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn open(&self, cursor: Option<Cursor>) -> Result<Subscription, SubscribeError> {
        let ring = self.ring();
        if let Some(refusal) = &ring.status.refusal {
            return Err(SubscribeError::Refused(refusal.clone()));
        }
        let cursor = cursor.unwrap_or(Cursor::after(ring.applied));
        if cursor.index < ring.oldest {
            return Err(SubscribeError::Compacted(ring.oldest));
        }
        Ok(Subscription { epoch: ring.epoch, cursor, applied: ring.applied, term: ring.status.term })
    }

    /// Returns the first index whose events are kept.
    pub fn oldest(&self) -> u64 {
        self.ring().oldest
    }

    /// Reads a bounded number of events from `cursor` on that match `filter`.
    pub fn read(&self, epoch: u64, cursor: Cursor, filter: &Filter) -> FeedRead {
        // Read before the ring: if the feed closes in between, the next call sees it, and nothing that was appended before
        // is lost.
        let closed = *self.closed.borrow();
        let ring = self.ring();
        // A stopping node still applies what it has acknowledged to others, so its watchers read on until the feed is closed.
        let refuses = ring.status.refusal.as_ref().is_some_and(|refusal| refusal.code != Code::Stopping);
        if ring.epoch != epoch || refuses {
            return FeedRead::Ended;
        }
        if cursor.index < ring.oldest {
            return FeedRead::Lagged(ring.oldest);
        }
        let (mut events, mut bytes, mut next) = (Vec::new(), 0, cursor);
        let first = ring.events.partition_point(|event| event.at() < cursor);
        let mut last = first;
        for event in ring.events.range(first..).take(SCAN_EVENTS) {
            if events.len() == CHUNK_EVENTS || bytes >= CHUNK_BYTES {
                break;
            }
            if filter.matches(&event.key) {
                bytes += event.size();
                events.push(Arc::clone(event));
            }
            next = event.after();
            last += 1;
        }
        // At the end the cursor jumps over indexes without events: events end at 44, applied is 47, and the next cursor is 48.
        // Before the end it must not, since it is the place of the next event.
        let all = last == ring.events.len();
        let cursor = if all { next.max(Cursor::after(ring.applied)) } else { next };
        if closed && all && events.is_empty() {
            return FeedRead::Stopped(cursor);
        }
        FeedRead::Found { events, cursor, all, applied: ring.applied, contact_until: ring.status.contact_until }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().expect("nothing panics while it holds the events")
    }
}

impl Ring {
    fn skip_to(&mut self, applied: u64) {
        self.events.clear();
        self.bytes = 0;
        self.applied = applied;
        self.oldest = applied + 1;
    }

    /// Removes the oldest events over the limits, and returns them.
    fn trim(&mut self) -> Vec<Arc<Event>> {
        let mut dropped = Vec::new();
        let newest = self.events.back().map_or(0, |event| event.index);
        // `oldest` is behind the whole index as soon as its first event goes, and the last condition then removes its other
        // events. The newest index stays, however large: a transaction over the limits must reach the watchers that are at
        // the end.
        while let Some(event) = self.events.front()
            && event.index != newest
            && (self.events.len() > self.limits.events || self.bytes > self.limits.bytes || event.index < self.oldest)
        {
            self.oldest = event.index + 1;
            self.bytes -= event.size();
            dropped.extend(self.events.pop_front());
        }
        debug_assert!(self.events.front().is_none_or(|event| event.index >= self.oldest), "whole indexes are dropped");
        dropped
    }
}
