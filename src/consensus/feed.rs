//! What happened lately, for those who watch.
//!
//! Why: a watcher that lost its connection goes on where it was, on any node, so every node keeps the latest events
//! whether anybody watches or not. The loop writes here, and any number of readers read at their own speed.
//!
//! Laws: the loop appends, drops what is too old and tells of it, and never waits for a reader. What is kept is bounded
//! in number and bytes; all events of an index come and go together, and those of the newest stay whatever they take.
//! Events begin where the node started or took a copy of the state in. A reader sees each event from its cursor on
//! once and in order, or is told that some are gone.
//!
//! Not here: what an event is ([`crate::model::Event`]), who has sent what to whom (`http::watch`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use super::input::Millis;
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
pub struct Feed {
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
    era: u64,
    /// The first index whose events are all here, if it has any.
    oldest: u64,
    applied: u64,
    footing: Footing,
}

/// How the node is, as far as watchers are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footing {
    /// Its term.
    pub term: u64,
    /// Until when it counts as in contact with a leader that has a majority: an election timeout after the moment as of which
    /// one has confirmed its state.
    pub in_touch_until: Millis,
    /// Why nobody may watch here, if so.
    pub refusal: Option<Refusal>,
}

/// Which keys somebody watches.
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
pub struct Opened {
    /// To be given at each reading.
    pub era: u64,
    /// The first change that it is to have.
    pub cursor: Cursor,
    /// What the node had applied then.
    pub applied: u64,
    /// The node's term then.
    pub term: u64,
}

/// Why a watcher cannot begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unopened {
    /// The node serves no watchers now.
    Refused(Refusal),
    /// Events behind the cursor are gone; this is the first index that is kept.
    Compacted(u64),
}

/// What a reading found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
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
        /// See [`Footing::in_touch_until`].
        in_touch_until: Millis,
    },
}

impl Default for Feed {
    /// Of a node whose loop has not begun.
    fn default() -> Self {
        let starting = "this node has just started; try again in a moment";
        let footing =
            Footing { term: 0, in_touch_until: 0, refusal: Some(Refusal::not_applied(Code::NoLeader, starting)) };
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            most: History { events: 0, bytes: 0 },
            era: 0,
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

impl Feed {
    /// Begins anew after `applied`, with indexes that have nothing to do with those before.
    pub fn begin(&self, applied: u64, most: History) {
        let mut ring = self.ring();
        ring.era += 1;
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
        for event in events {
            ring.bytes += event.size();
            ring.events.push_back(Arc::new(event));
        }
        ring.applied = applied;
        let dropped = ring.trim();
        drop(ring);
        self.news.notify_one();
        // Freeing values takes time that nobody has to wait for.
        drop(dropped);
    }

    /// Takes in how the node is.
    pub fn stand(&self, footing: Footing) {
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
    /// [`Unopened`].
    pub fn open(&self, cursor: Option<Cursor>) -> Result<Opened, Unopened> {
        let ring = self.ring();
        if let Some(refusal) = &ring.footing.refusal {
            return Err(Unopened::Refused(refusal.clone()));
        }
        let cursor = cursor.unwrap_or(Cursor::after(ring.applied));
        if cursor.index < ring.oldest {
            return Err(Unopened::Compacted(ring.oldest));
        }
        Ok(Opened { era: ring.era, cursor, applied: ring.applied, term: ring.footing.term })
    }

    /// What comes at `cursor` and after it, of what `filter` takes; a bounded number at a time.
    pub fn read(&self, era: u64, cursor: Cursor, filter: &Filter) -> Reading {
        // Looked at first: what was appended before the end is read to its end.
        let closed = *self.closed.borrow();
        let ring = self.ring();
        // A node that stops still applies what it has promised, and those who watch hear of it.
        let refuses = ring.footing.refusal.as_ref().is_some_and(|refusal| refusal.code != Code::Stopping);
        if ring.era != era || refuses {
            return Reading::Ended;
        }
        if cursor.index < ring.oldest {
            return Reading::Lagged(ring.oldest);
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
            return Reading::Stopped(cursor);
        }
        Reading::Found { events, cursor, all, applied: ring.applied, in_touch_until: ring.footing.in_touch_until }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Happening;

    const MOST: History = History { events: 100, bytes: 1 << 20 };

    /// An index with one deletion of each of these keys.
    fn index(index: u64, keys: &[String]) -> Vec<Event> {
        let event = |key: &String| Event {
            index,
            place: 1,
            of: 1,
            clock: 0,
            key: Bytes::copy_from_slice(key.as_bytes()),
            happening: Happening::Deleted,
        };
        let mut events: Vec<_> = keys.iter().map(event).collect();
        Event::number(&mut events);
        events
    }

    fn keys(range: std::ops::Range<usize>) -> Vec<String> {
        range.map(|number| format!("{}/{number}", if number % 3 == 0 { "a" } else { "b" })).collect()
    }

    fn footing(refusal: Option<Refusal>) -> Footing {
        Footing { term: 4, in_touch_until: 9, refusal }
    }

    /// A feed that is open after index 10.
    fn feed(most: History) -> Feed {
        let feed = Feed::default();
        assert!(matches!(feed.open(None), Err(Unopened::Refused(_))), "the loop has not begun");
        feed.begin(10, most);
        feed.stand(footing(None));
        feed
    }

    fn every() -> Filter {
        Filter::Prefix(Bytes::new())
    }

    /// Everything from the cursor on, by as many readings as it takes.
    fn read(feed: &Feed, era: u64, mut cursor: Cursor, filter: &Filter) -> (Vec<String>, Cursor) {
        let mut ids = Vec::new();
        loop {
            let found = feed.read(era, cursor, filter);
            let Reading::Found { events, cursor: next, all, .. } = found else { panic!("{found:?}") };
            assert!(events.len() <= CHUNK_EVENTS && next >= cursor, "{next:?}");
            ids.extend(events.iter().map(|event| event.id()));
            cursor = next;
            if all {
                return (ids, cursor);
            }
        }
    }

    #[test]
    fn a_reader_sees_each_event_once_and_in_order_wherever_it_begins() {
        let feed = feed(History { events: 100_000, bytes: 10 << 20 });
        let (mut all, mut wanted) = (Vec::new(), Vec::new());
        for at in 11..200 {
            let keys = keys(0..(at as usize * 7) % 130);
            let events = index(at, &keys);
            all.extend(events.iter().map(|event| (event.at(), event.id())));
            let taken = events.iter().filter(|event| event.key.starts_with(b"a/"));
            wanted.extend(taken.map(|event| (event.at(), event.id())));
            feed.append(events, at);
        }
        let prefix = Filter::Prefix(Bytes::from_static(b"a/"));
        for (filter, expected) in [(every(), &all), (prefix, &wanted)] {
            for (begin, (_, id)) in expected.iter().enumerate().step_by(97) {
                let after: Cursor = id.parse().unwrap();
                let (ids, cursor) = read(&feed, 1, after, &filter);
                let rest: Vec<_> = expected[begin + 1..].iter().map(|(_, id)| id.clone()).collect();
                assert_eq!((ids, cursor), (rest, Cursor::after(199)), "after {id}");
            }
        }
        let key = Filter::Key(Bytes::from_static(b"a/0"));
        let (ids, _) = read(&feed, 1, Cursor::from(190), &key);
        assert!(!ids.is_empty() && ids.len() <= 10, "{ids:?}");
    }

    #[test]
    fn what_is_too_much_goes_by_whole_indexes_and_whoever_needed_it_is_told() {
        for most in [History { events: 5, ..MOST }, History { bytes: 5 * (size_of::<Event>() + 3), ..MOST }] {
            let feed = feed(most);
            let opened = feed.open(None).unwrap();
            assert_eq!((opened.cursor, opened.applied, opened.term), (Cursor::from(11), 10, 4));
            feed.append(index(11, &keys(0..3)), 11);
            feed.append(index(12, &keys(0..2)), 12);
            assert_eq!(read(&feed, 1, opened.cursor, &every()).0.len(), 5);
            feed.append(index(13, &keys(0..1)), 13);
            let lagged = Reading::Lagged(12);
            assert_eq!(feed.read(1, opened.cursor, &every()), lagged, "one is gone, so all of its index are");
            assert_eq!(feed.read(1, Cursor { index: 11, place: 3 }, &every()), lagged);
            assert_eq!(feed.open(Some(Cursor::from(11))), Err(Unopened::Compacted(12)));
            assert_eq!(read(&feed, 1, Cursor::from(12), &every()).0, ["12.1", "12.2", "13"]);
            feed.append(index(14, &keys(0..9)), 14);
            assert_eq!(read(&feed, 1, Cursor::from(14), &every()).0.len(), 9, "the newest stay");
            assert_eq!(feed.open(Some(Cursor::from(13))), Err(Unopened::Compacted(14)));
        }
    }

    #[test]
    fn a_reader_may_be_ahead_of_the_node_and_misses_nothing_then() {
        let feed = feed(MOST);
        let ahead = feed.open(Some(Cursor { index: 12, place: 2 })).unwrap();
        feed.append(index(11, &keys(0..1)), 11);
        let (ids, cursor) = read(&feed, ahead.era, ahead.cursor, &every());
        assert_eq!((ids.len(), cursor), (0, ahead.cursor));
        feed.append([index(12, &keys(0..3)), index(13, &keys(0..1))].concat(), 13);
        assert_eq!(read(&feed, ahead.era, cursor, &every()).0, ["12.2", "12.3", "13"]);
    }

    #[test]
    fn a_copy_of_the_state_leaves_a_gap_and_another_cluster_ends_everything() {
        let feed = feed(MOST);
        let opened = feed.open(None).unwrap();
        feed.append(index(11, &keys(0..1)), 11);
        feed.skip_to(20);
        assert_eq!(feed.read(1, opened.cursor, &every()), Reading::Lagged(21));
        assert_eq!(feed.open(Some(Cursor::from(20))), Err(Unopened::Compacted(21)));
        assert_eq!(read(&feed, 1, Cursor::after(20), &every()), (vec![], Cursor::from(21)));
        let refusal = Refusal::not_applied(Code::Removed, "x");
        feed.stand(footing(Some(refusal.clone())));
        assert_eq!(feed.read(1, Cursor::after(20), &every()), Reading::Ended);
        assert_eq!(feed.open(None), Err(Unopened::Refused(refusal)));
        feed.stand(footing(Some(Refusal::not_applied(Code::Stopping, "x"))));
        assert!(matches!(feed.open(None), Err(Unopened::Refused(_))), "a node that stops takes no new ones");
        feed.append(index(22, &keys(0..1)), 23);
        assert_eq!(read(&feed, 1, Cursor::after(20), &every()), (vec!["22".to_owned()], Cursor::from(24)));
        feed.stand(footing(None));
        feed.begin(3, MOST);
        assert_eq!(feed.read(1, Cursor::after(20), &every()), Reading::Ended, "these were other indexes");
        let opened = feed.open(None).unwrap();
        assert_eq!(opened.cursor, Cursor::from(4));
        feed.append(index(5, &keys(0..2)), 6);
        feed.close();
        let found = feed.read(opened.era, opened.cursor, &every());
        assert!(
            matches!(found, Reading::Found { events, .. } if events.len() == 2),
            "what is there is read to its end"
        );
        assert_eq!(feed.read(opened.era, Cursor::after(5), &every()), Reading::Stopped(Cursor::from(7)));
    }
}
