//! The change feed: the latest events, for watchers.
//!
//! Why: a watcher that lost its connection goes on where it was, on any node, so every node keeps the latest events
//! whether there are watchers or not. The loop writes here, and any number of readers read at their own speed.
//!
//! Invariants: the loop appends, drops what is too old and tells of it, and never waits for a reader. What is kept is bounded
//! in number and bytes; all events of an index come and go together, and those of the newest stay whatever they take.
//! Events begin where the node started or installed a snapshot. A reader sees each event from its cursor on
//! once and in order, or is told that some are gone.
//!
//! See also: the event itself ([`crate::model::Event`]), how watchers are sent events (`http::api::watch`).

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::model::Millis;
use crate::model::{Code, Cursor, Event, Refusal};

/// How many events one reading takes along at most, and how many bytes, unless the first has more.
const CHUNK_EVENTS: usize = 64;
const CHUNK_BYTES: usize = 64 << 10;
/// How many events one reading looks at: the loop must not wait for a reader that looks for few among many.
const LOOKED_AT: usize = 1024;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The most events.
    pub events: usize,
    /// The most bytes of keys and values.
    pub bytes: usize,
}

/// The latest events of a node.
pub struct ChangeFeed {
    ring: Mutex<Ring>,
    news: Notify,
    /// Whether a watcher waits for a proof that the node is in contact.
    contact: AtomicBool,
    /// Whether the loop has ended.
    closed: watch::Sender<bool>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    most: History,
    /// Counts the clusters that this node was in: the indexes of one mean nothing in another.
    epoch: u64,
    /// The first index whose events are all here, if it has any.
    oldest: u64,
    applied: u64,
    footing: FeedStatus,
}

/// How the node is, as far as watchers are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedStatus {
    /// Its term.
    pub term: u64,
    /// Until when it counts as in contact with a leader that has a majority: an election timeout after the moment as of which
    /// one has confirmed its state.
    pub in_touch_until: Millis,
    /// Why no client may watch here, if so.
    pub refusal: Option<Refusal>,
}

/// Which keys a client watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// This one.
    Key(Bytes),
    /// Those that begin like this.
    Prefix(Bytes),
}

impl Filter {
    fn takes(&self, key: &[u8]) -> bool {
        match self {
            Self::Key(wanted) => key == wanted,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// Where a watcher begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// To be given at each reading.
    pub epoch: u64,
    /// The first change that it is to have.
    pub cursor: Cursor,
    /// What the node had applied then.
    pub applied: u64,
    /// The node's term then.
    pub term: u64,
}

/// Why a watcher cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscribeError {
    /// The node serves no watchers now.
    Refused(Refusal),
    /// Events behind the cursor are gone; this is the first index that is kept.
    Compacted(u64),
}

/// What a reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedRead {
    /// Nothing more will come here: the node was removed, or became part of another cluster.
    Ended,
    /// The node has stopped and everything was read; one goes on here.
    Stopped(Cursor),
    /// Events behind the cursor are gone; this is the first index that is kept.
    Lagged(u64),
    /// What comes next.
    Found {
        /// Events, in order; empty where there is none that the filter takes.
        events: Vec<Arc<Event>>,
        /// Where the next reading goes on.
        cursor: Cursor,
        /// Whether that is everything so far.
        all: bool,
        /// What the node had applied then.
        applied: u64,
        /// See [`FeedStatus::in_touch_until`].
        in_touch_until: Millis,
    },
}

impl Default for ChangeFeed {
    /// Of a node whose loop has not begun.
    fn default() -> Self {
        let starting = "this node has just started; try again in a moment";
        let footing =
            FeedStatus { term: 0, in_touch_until: 0, refusal: Some(Refusal::not_applied(Code::NoLeader, starting)) };
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            most: History { events: 0, bytes: 0 },
            epoch: 0,
            oldest: 1,
            applied: 0,
            footing,
        };
        Self {
            ring: Mutex::new(ring),
            news: Notify::new(),
            contact: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        }
    }
}

impl ChangeFeed {
    /// Begins anew after `applied`, with indexes that have nothing to do with those before.
    pub fn begin(&self, applied: u64, most: History) {
        let mut ring = self.ring();
        ring.epoch += 1;
        ring.most = most;
        ring.skip_to(applied);
        drop(ring);
        self.news.notify_one();
    }

    /// Goes on after `applied`; what happened between is not known.
    pub fn skip_to(&self, applied: u64) {
        self.ring().skip_to(applied);
        self.news.notify_one();
    }

    /// Takes in all events up to `applied`, in order.
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
        self.news.notify_one();
        // Freeing values takes time that no reader has to wait for.
        drop(dropped);
    }

    /// Takes in how the node is.
    pub fn stand(&self, footing: FeedStatus) {
        let mut ring = self.ring();
        let changed = ring.footing.refusal != footing.refusal;
        let proven = footing.in_touch_until > ring.footing.in_touch_until;
        ring.footing = footing;
        drop(ring);
        if proven && self.contact.swap(false, Ordering::Relaxed) || changed {
            self.news.notify_one();
        }
    }

    /// A watcher has everything and would be told so, if only the node were known to be in contact.
    pub fn want_contact(&self) {
        self.contact.store(true, Ordering::Relaxed);
    }

    /// Whether a watcher waits for that.
    pub fn wants_contact(&self) -> bool {
        self.contact.load(Ordering::Relaxed)
    }

    /// Nothing is appended any more: the loop has ended.
    pub fn close(&self) {
        self.closed.send_replace(true);
        self.news.notify_one();
    }

    /// Waits until the loop has ended.
    pub async fn closed(&self) {
        // An error means that the feed is gone, and it is here.
        drop(self.closed.subscribe().wait_for(|closed| *closed).await);
    }

    /// Waits for anything that is new since the last time. For one waiter; it tells the others.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Begins to watch at `cursor`, or after what is applied now.
    ///
    /// # Errors
    /// [`SubscribeError`].
    pub fn open(&self, cursor: Option<Cursor>) -> Result<Subscription, SubscribeError> {
        let ring = self.ring();
        if let Some(refusal) = &ring.footing.refusal {
            return Err(SubscribeError::Refused(refusal.clone()));
        }
        let cursor = cursor.unwrap_or(Cursor::after(ring.applied));
        if cursor.index < ring.oldest {
            return Err(SubscribeError::Compacted(ring.oldest));
        }
        Ok(Subscription { epoch: ring.epoch, cursor, applied: ring.applied, term: ring.footing.term })
    }

    /// What comes at `cursor` and after it, of what `filter` takes; a bounded number at a time.
    pub fn read(&self, epoch: u64, cursor: Cursor, filter: &Filter) -> FeedRead {
        // Looked at first: what was appended before the end is read to its end.
        let closed = *self.closed.borrow();
        let ring = self.ring();
        // A node that stops still applies what it has promised, and watchers hear of it.
        let refuses = ring.footing.refusal.as_ref().is_some_and(|refusal| refusal.code != Code::Stopping);
        if ring.epoch != epoch || refuses {
            return FeedRead::Ended;
        }
        if cursor.index < ring.oldest {
            return FeedRead::Lagged(ring.oldest);
        }
        let (mut events, mut bytes, mut next) = (Vec::new(), 0, cursor);
        let first = ring.events.partition_point(|event| event.at() < cursor);
        let mut last = first;
        for event in ring.events.range(first..).take(LOOKED_AT) {
            if events.len() == CHUNK_EVENTS || bytes >= CHUNK_BYTES {
                break;
            }
            if filter.takes(&event.key) {
                bytes += event.size();
                events.push(Arc::clone(event));
            }
            next = event.after();
            last += 1;
        }
        let all = last == ring.events.len();
        let cursor = if all { next.max(Cursor::after(ring.applied)) } else { next };
        if closed && all && events.is_empty() {
            return FeedRead::Stopped(cursor);
        }
        FeedRead::Found { events, cursor, all, applied: ring.applied, in_touch_until: ring.footing.in_touch_until }
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

    /// Takes out what is too much.
    fn trim(&mut self) -> Vec<Arc<Event>> {
        let mut dropped = Vec::new();
        let newest = self.events.back().map_or(0, |event| event.index);
        while let Some(event) = self.events.front()
            && event.index != newest
            && (self.events.len() > self.most.events || self.bytes > self.most.bytes || event.index < self.oldest)
        {
            self.oldest = event.index + 1;
            self.bytes -= event.size();
            dropped.extend(self.events.pop_front());
        }
        dropped
    }
}
