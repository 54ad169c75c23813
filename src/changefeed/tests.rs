//! The feed: what is kept, what is told, and what is gone.

use super::*;
use crate::model::EventKind;

const MOST: History = History { events: 100, bytes: 1 << 20 };

/// An index with one deletion of each of these keys.
fn index(index: u64, keys: &[String]) -> Vec<Event> {
    let event = |key: &String| Event {
        index,
        place: 1,
        of: 1,
        clock: 0,
        key: Bytes::copy_from_slice(key.as_bytes()),
        kind: EventKind::Deleted,
    };
    let mut events: Vec<_> = keys.iter().map(event).collect();
    Event::number(&mut events);
    events
}

fn keys(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("{}/{number}", if number % 3 == 0 { "a" } else { "b" })).collect()
}

fn footing(refusal: Option<Refusal>) -> FeedStatus {
    FeedStatus { term: 4, in_touch_until: 9, refusal }
}

/// A feed that is open after index 10.
fn feed(most: History) -> ChangeFeed {
    let feed = ChangeFeed::default();
    assert!(matches!(feed.open(None), Err(SubscribeError::Refused(_))), "the loop has not begun");
    feed.begin(10, most);
    feed.stand(footing(None));
    feed
}

fn every() -> Filter {
    Filter::Prefix(Bytes::new())
}

/// Everything from the cursor on, by as many readings as it takes.
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
        let lagged = FeedRead::Lagged(12);
        assert_eq!(feed.read(1, opened.cursor, &every()), lagged, "one is gone, so all of its index are");
        assert_eq!(feed.read(1, Cursor { index: 11, place: 3 }, &every()), lagged);
        assert_eq!(feed.open(Some(Cursor::from(11))), Err(SubscribeError::Compacted(12)));
        assert_eq!(read(&feed, 1, Cursor::from(12), &every()).0, ["12.1", "12.2", "13"]);
        feed.append(index(14, &keys(0..9)), 14);
        assert_eq!(read(&feed, 1, Cursor::from(14), &every()).0.len(), 9, "the newest stay");
        assert_eq!(feed.open(Some(Cursor::from(13))), Err(SubscribeError::Compacted(14)));
    }
}

#[test]
fn a_reader_may_be_ahead_of_the_node_and_misses_nothing_then() {
    let feed = feed(MOST);
    let ahead = feed.open(Some(Cursor { index: 12, place: 2 })).unwrap();
    feed.append(index(11, &keys(0..1)), 11);
    let (ids, cursor) = read(&feed, ahead.epoch, ahead.cursor, &every());
    assert_eq!((ids.len(), cursor), (0, ahead.cursor));
    feed.append([index(12, &keys(0..3)), index(13, &keys(0..1))].concat(), 13);
    assert_eq!(read(&feed, ahead.epoch, cursor, &every()).0, ["12.2", "12.3", "13"]);
}

#[test]
fn a_copy_of_the_state_leaves_a_gap_and_another_cluster_ends_everything() {
    let feed = feed(MOST);
    let opened = feed.open(None).unwrap();
    feed.append(index(11, &keys(0..1)), 11);
    feed.skip_to(20);
    assert_eq!(feed.read(1, opened.cursor, &every()), FeedRead::Lagged(21));
    assert_eq!(feed.open(Some(Cursor::from(20))), Err(SubscribeError::Compacted(21)));
    assert_eq!(read(&feed, 1, Cursor::after(20), &every()), (vec![], Cursor::from(21)));
    let refusal = Refusal::not_applied(Code::Removed, "x");
    feed.stand(footing(Some(refusal.clone())));
    assert_eq!(feed.read(1, Cursor::after(20), &every()), FeedRead::Ended);
    assert_eq!(feed.open(None), Err(SubscribeError::Refused(refusal)));
    feed.stand(footing(Some(Refusal::not_applied(Code::Stopping, "x"))));
    assert!(matches!(feed.open(None), Err(SubscribeError::Refused(_))), "a node that stops takes no new ones");
    feed.append(index(22, &keys(0..1)), 23);
    assert_eq!(read(&feed, 1, Cursor::after(20), &every()), (vec!["22".to_owned()], Cursor::from(24)));
    feed.stand(footing(None));
    feed.begin(3, MOST);
    assert_eq!(feed.read(1, Cursor::after(20), &every()), FeedRead::Ended, "these were other indexes");
    let opened = feed.open(None).unwrap();
    assert_eq!(opened.cursor, Cursor::from(4));
    feed.append(index(5, &keys(0..2)), 6);
    feed.close();
    let found = feed.read(opened.epoch, opened.cursor, &every());
    assert!(matches!(found, FeedRead::Found { events, .. } if events.len() == 2), "what is there is read to its end");
    assert_eq!(feed.read(opened.epoch, Cursor::after(5), &every()), FeedRead::Stopped(Cursor::from(7)));
}
