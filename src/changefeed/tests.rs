//! Tests of the change feed: order, retention, lag, snapshots and the end of a node.

use super::*;
use crate::model::EventKind;

const LIMITS: FeedLimits = FeedLimits { events: 100, bytes: 1 << 20 };

/// Returns the events of an entry that deletes these keys.
fn index(index: u64, keys: &[String]) -> Vec<Event> {
    let event = |key: &String| Event {
        index,
        place: 1,
        of: 1,
        clock: 0,
        key: Bytes::copy_from_slice(key.as_bytes()),
        kind: EventKind::Deleted { by: None },
    };
    let mut events: Vec<_> = keys.iter().map(event).collect();
    Event::number(&mut events);
    events
}

fn keys(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{}/{number}", if number % 3 == 0 { "a" } else { "b" })).collect()
}

fn status(refusal: Option<Refusal>) -> FeedStatus {
    FeedStatus { term: 4, contact_until: 9, refusal }
}

/// Returns a feed that serves after index 10.
fn feed(limits: FeedLimits) -> ChangeFeed {
    let feed = ChangeFeed::default();
    assert!(matches!(feed.open(None), Err(SubscribeError::Refused(_))), "the loop has not started");
    feed.begin(10, limits);
    feed.set_status(status(None));
    feed
}

fn every_key() -> Filter {
    Filter::Prefix(Bytes::new())
}

/// Reads all events from the cursor on.
fn read(feed: &ChangeFeed, epoch: u64, mut cursor: Cursor, filter: &Filter) -> (Vec<String>, Cursor) {
    let mut ids = Vec::new();
    loop {
        let found = feed.read(epoch, cursor, filter);
        let FeedRead::Found { events, cursor: next, all, .. } = found else { panic!("{found:?}") };
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
    let feed = feed(FeedLimits { events: 100_000, bytes: 10 << 20 });
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
    for (filter, expected) in [(every_key(), &all), (prefix, &wanted)] {
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
fn retention_drops_whole_indexes_and_a_reader_behind_it_is_lagged() {
    for limits in [FeedLimits { events: 5, ..LIMITS }, FeedLimits { bytes: 5 * (size_of::<Event>() + 3), ..LIMITS }] {
        let feed = feed(limits);
        let opened = feed.open(None).unwrap();
        assert_eq!((opened.cursor, opened.applied, opened.term), (Cursor::from(11), 10, 4));
        feed.append(index(11, &keys(0..3)), 11);
        feed.append(index(12, &keys(0..2)), 12);
        assert_eq!(read(&feed, 1, opened.cursor, &every_key()).0.len(), 5);
        // Six events are one too many: 11 goes with all three of its events, although dropping one would be enough.
        feed.append(index(13, &keys(0..1)), 13);
        let lagged = FeedRead::Lagged(12);
        assert_eq!(feed.read(1, opened.cursor, &every_key()), lagged, "an index is dropped as a whole");
        assert_eq!(feed.read(1, Cursor { index: 11, place: 3 }, &every_key()), lagged);
        assert_eq!(feed.open(Some(Cursor::from(11))), Err(SubscribeError::Compacted(12)));
        assert_eq!(read(&feed, 1, Cursor::from(12), &every_key()).0, ["12.1", "12.2", "13"]);
        feed.append(index(14, &keys(0..9)), 14);
        assert_eq!(read(&feed, 1, Cursor::from(14), &every_key()).0.len(), 9, "the newest stay");
        assert_eq!(feed.open(Some(Cursor::from(13))), Err(SubscribeError::Compacted(14)));
    }
}

#[test]
fn a_reader_ahead_of_the_node_waits_for_its_cursor() {
    let feed = feed(LIMITS);
    // The client was served by another node, which has applied 12.1 already; this one is at 10.
    let ahead = feed.open(Some(Cursor { index: 12, place: 2 })).unwrap();
    feed.append(index(11, &keys(0..1)), 11);
    let (ids, cursor) = read(&feed, ahead.epoch, ahead.cursor, &every_key());
    assert_eq!((ids.len(), cursor), (0, ahead.cursor));
    feed.append([index(12, &keys(0..3)), index(13, &keys(0..1))].concat(), 13);
    assert_eq!(read(&feed, ahead.epoch, cursor, &every_key()).0, ["12.2", "12.3", "13"]);
}

#[test]
fn a_snapshot_leaves_a_gap_and_another_cluster_ends_all_watchers() {
    let feed = feed(LIMITS);
    let opened = feed.open(None).unwrap();
    feed.append(index(11, &keys(0..1)), 11);
    // A snapshot at 20: nothing is known of 12 to 20, so a cursor at 12 has lost events.
    feed.skip_to(20);
    assert_eq!(feed.read(1, opened.cursor, &every_key()), FeedRead::Lagged(21));
    assert_eq!(feed.open(Some(Cursor::from(20))), Err(SubscribeError::Compacted(21)));
    assert_eq!(read(&feed, 1, Cursor::after(20), &every_key()), (vec![], Cursor::from(21)));
    let refusal = Refusal::not_applied(Code::Removed, "x");
    feed.set_status(status(Some(refusal.clone())));
    assert_eq!(feed.read(1, Cursor::after(20), &every_key()), FeedRead::Ended);
    assert_eq!(feed.open(None), Err(SubscribeError::Refused(refusal)));
    feed.set_status(status(Some(Refusal::not_applied(Code::Stopping, "x"))));
    assert!(matches!(feed.open(None), Err(SubscribeError::Refused(_))), "a stopping node accepts no watchers");
    // A stopping node still applies 22 and 23; 23 changes no key, so the cursor moves to 24.
    feed.append(index(22, &keys(0..1)), 23);
    assert_eq!(read(&feed, 1, Cursor::after(20), &every_key()), (vec!["22".to_owned()], Cursor::from(24)));
    feed.set_status(status(None));
    feed.begin(3, LIMITS);
    assert_eq!(feed.read(1, Cursor::after(20), &every_key()), FeedRead::Ended, "indexes of another cluster");
    let opened = feed.open(None).unwrap();
    assert_eq!(opened.cursor, Cursor::from(4));
    feed.append(index(5, &keys(0..2)), 6);
    feed.close();
    let found = feed.read(opened.epoch, opened.cursor, &every_key());
    assert!(matches!(found, FeedRead::Found { events, .. } if events.len() == 2), "a closed feed is read to its end");
    assert_eq!(feed.read(opened.epoch, Cursor::after(5), &every_key()), FeedRead::Stopped(Cursor::from(7)));
}

#[test]
fn limits_can_change_and_hold_in_later_clusters() {
    let feed = feed(LIMITS);
    feed.append((11..31).flat_map(|number| index(number, &keys(0..1))).collect(), 30);
    let oldest = |feed: &ChangeFeed| match feed.open(Some(Cursor::after(0))) {
        Err(SubscribeError::Compacted(oldest)) => oldest,
        other => panic!("{other:?}"),
    };
    assert_eq!(oldest(&feed), 11);
    feed.set_limits(FeedLimits { events: 5, ..LIMITS });
    assert_eq!(oldest(&feed), 26);
    feed.begin(40, LIMITS);
    feed.append((41..61).flat_map(|number| index(number, &keys(0..1))).collect(), 60);
    assert_eq!(oldest(&feed), 56, "not those of the start");
}
