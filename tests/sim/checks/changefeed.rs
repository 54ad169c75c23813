//! Invariants of the change feed: the events of a node lead from one state to the next.

use std::collections::BTreeMap;

use huskv::changefeed::{FeedRead, Filter};
use huskv::model::{Cursor, EventKind, Item};

use crate::checks::stored;
use crate::world::World;

/// A client that watches all keys of a node: the process and epoch that it watches, its cursor, and the state by its events.
#[derive(Debug, Default)]
pub struct Watcher {
    watched: (u64, u64),
    cursor: Option<Cursor>,
    items: BTreeMap<Vec<u8>, Item>,
}

/// Checks that the events since the last turn, in order, make the present state of the previous one.
///
/// Where the cursor is no longer kept, the watcher begins with the present state, as a client does that lists the keys.
pub fn check(world: &mut World, at: usize, applied: u64) {
    let every = Filter::Prefix(bytes::Bytes::new());
    let process = world.nodes[at].starts;
    let Some(driver) = world.nodes[at].driver.as_ref() else { return };
    let feed = driver.feed().clone();
    let Ok(opened) = feed.open(None) else { return };
    let mut watcher = std::mem::take(&mut world.nodes[at].watcher);
    // The cursor of another process or epoch says nothing here, as a client is told too.
    let mut cursor = watcher.cursor.take().filter(|_| watcher.watched == (process, opened.epoch));
    let mut wrong = None;
    while let Some(from) = cursor {
        let FeedRead::Found { events, cursor: next, all, .. } = feed.read(opened.epoch, from, &every) else {
            cursor = None;
            break;
        };
        let mut last = from;
        for event in events {
            // Events come once and in order: none lies before the cursor that the last one has left.
            if event.at() < last {
                wrong = Some(format!("n{at} repeats the event {}", event.id()));
            }
            last = event.after();
            let known = match &event.kind {
                EventKind::Put(item) => watcher.items.insert(event.key.to_vec(), item.clone()),
                EventKind::Deleted { .. } | EventKind::Expired => watcher.items.remove(&event.key[..]),
            };
            // A removal of a key that is not there is no change, so it must not be an event.
            if matches!(event.kind, EventKind::Put(_)) || known.is_some() {
                continue;
            }
            wrong = Some(format!("n{at} has the event {}, by which a key is removed that was not there", event.id()));
        }
        cursor = Some(next);
        if all {
            break;
        }
    }
    let items = stored(world, at);
    // A touch is no event, so expiries are taken from the state, and the tokens of the keys that have one.
    for (key, item) in &mut watcher.items {
        item.expires = items.get(key).and_then(|item| item.expires);
        if let Some(touched) = items.get(key).filter(|item| item.expires.is_some()) {
            item.by.clone_from(&touched.by);
        }
    }
    if cursor.is_some() && watcher.items != items {
        let (by_events, is) = (&watcher.items, &items);
        wrong =
            wrong.or(Some(format!("n{at} at {applied}: its events make {by_events:?} of the keys, which are {is:?}")));
    }
    if let Some(wrong) = wrong {
        world.fail(wrong);
    }
    let cursor = Some(cursor.unwrap_or(opened.cursor));
    world.nodes[at].watcher = Watcher { watched: (process, opened.epoch), cursor, items };
}
