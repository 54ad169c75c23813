//! Tests of the ring of events: ids, the latest, waiting for more.

use super::*;

fn checkpoint(upto: u64) -> Kind {
    Kind::Checkpoint { upto, ms: 1 }
}

fn ids(batch: &Batch) -> Vec<u64> {
    batch.events.iter().map(|event| event.id).collect()
}

#[test]
fn events_are_read_from_an_id_on_or_the_latest() {
    let events = NodeEvents::default();
    assert_eq!(events.read(None, 10), Batch { first: 1, last: 0, events: vec![] });
    (1..=5).for_each(|upto| events.note(checkpoint(upto)));
    for (since, limit, expected) in [
        (None, 2, vec![4, 5]),
        (None, 9, vec![1, 2, 3, 4, 5]),
        (Some(0), 2, vec![1, 2]),
        (Some(2), 9, vec![3, 4, 5]),
        (Some(5), 9, vec![]),
        (Some(u64::MAX), 9, vec![]),
    ] {
        assert_eq!(ids(&events.read(since, limit)), expected, "{since:?} {limit}");
    }
}

#[test]
fn the_ring_is_bounded_and_checkpoints_do_not_push_out_everything_else() {
    let events = NodeEvents::default();
    events.note(Kind::Started { version: "1" });
    (0..5000).for_each(|upto| events.note(checkpoint(upto)));
    let all = events.read(Some(0), usize::MAX);
    assert_eq!((all.events.len(), all.first, all.last), (CAPACITY, 1, 5001));
    assert_eq!(all.events[0].kind.name(), "started");
    // Others push out the oldest, whatever it is.
    (0..2000).for_each(|_| events.note(Kind::Draining));
    let all = events.read(Some(0), usize::MAX);
    assert_eq!(all.events.len(), CAPACITY);
    assert!(all.events.iter().all(|event| !event.kind.is_routine()), "they are older than the last 1 000");
}

#[test]
fn the_latest_events_have_room_for_more_than_routine() {
    let events = NodeEvents::default();
    (0..3).for_each(|_| events.note(Kind::Draining));
    (0..9).for_each(|upto| events.note(checkpoint(upto)));
    events.note(Kind::Draining);
    let latest = |limit, routine| events.latest(limit, routine).iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(latest(6, 2), [1, 2, 3, 11, 12, 13]);
    assert_eq!(latest(3, 9), [11, 12, 13]);
    assert_eq!((latest(9, 0), latest(0, 9)), (vec![1, 2, 3, 13], vec![]));
}

#[test]
fn an_event_has_its_point_and_wakes_readers() {
    let events = NodeEvents::default();
    let mut changes = events.changes();
    assert!(!changes.has_changed().unwrap());
    events.set_point(7, 2);
    events.note(Kind::Draining);
    events.note_at((9, 3), Kind::Draining);
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), 2);
    let points: Vec<_> = events.read(None, 9).events.iter().map(|event| (event.index, event.term)).collect();
    assert_eq!(points, [(7, 2), (9, 3)]);
    assert_ne!(events.boot(), NodeEvents::default().boot());
}

#[test]
fn any_wall_clock_is_shown() {
    for (at, expected) in [
        (UNIX_EPOCH - Duration::from_secs(5), "1970-01-01T00:00:00.000Z"),
        (UNIX_EPOCH + Duration::from_millis(1_500), "1970-01-01T00:00:01.500Z"),
        (UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 5), "9999-12-31T23:59:59.000Z"),
    ] {
        assert_eq!(rfc3339(at), expected);
    }
}

#[test]
fn the_sentence_has_the_figures_and_the_json_the_fields() {
    let change = LeaderChange {
        from: Some("node1".into()),
        to: Some("node2".into()),
        reason: Reason::SlowSync,
        last_contact_ms: Some(20),
        last_contact: Some("node2".into()),
        longest_sync_ms: Some(3021),
        stalled_ms: Some(3033),
        led: true,
    };
    let event = NodeEvent {
        id: 5,
        at: "2026-11-29T20:50:01.000Z".into(),
        index: 9,
        term: 4,
        detail: change.detail(),
        kind: Kind::LeaderChanged(change),
    };
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "id": 5, "at": "2026-11-29T20:50:01.000Z", "index": 9, "term": 4, "kind": "leader_changed",
            "from": "node1", "to": "node2", "reason": "slow_sync", "last_contact_ms": 20, "last_contact": "node2",
            "longest_sync_ms": 3021, "stalled_ms": 3033,
            "detail": "node2 leads instead of node1: a slow sync held its loop up for 3033 ms, and no heartbeat left; \
                       the longest sync took 3021 ms",
        })
    );
    assert_eq!(json["kind"], event.kind.name());
    assert_eq!(json["reason"], Reason::SlowSync.as_str());
}
