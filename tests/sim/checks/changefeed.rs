//! The events of a node.

use std::collections::BTreeMap;

use huskv::changefeed::{FeedRead, Filter};
use huskv::model::{Cursor, EventKind, Item};

use crate::checks::stored;
use crate::world::World;

/// A client that watches every key on a node: which of its lives it watches, where it is, and what it makes of the keys.
#[derive(Debug, Default)]
pub struct Watcher {
    watched: (u64, u64),
    cursor: Option<Cursor>,
    items: BTreeMap<Vec<u8>, Item>,
}

/// The events of a node, in order, lead from what the keys were to what they are. Where there are none to go on from, the
/// keys are read anew, as a client would list them.
pub fn check(world: &mut World, at: usize, applied: u64) {
    let every = Filter::Prefix(bytes::Bytes::new());
    let process = world.nodes[at].starts;
    let Some(driver) = world.nodes[at].driver.as_ref() else { return };
    let feed = driver.feed().clone();
    let Ok(opened) = feed.open(None) else { return };
    let mut watcher = std::mem::take(&mut world.nodes[at].watcher);
    let mut cursor = watcher.cursor.take().filter(|_| watcher.watched == (process, opened.epoch));
    let mut wrong = None;
    while let Some(from) = cursor {
        let FeedRead::Found { events, cursor: next, all, .. } = feed.read(opened.epoch, from, &every) else {
            cursor = None;
            break;
        };
        let mut last = from;
        for event in events {
            if event.at() < last {
                wrong = Some(format!("n{at} tells of {} again", event.id()));
            }
            last = event.after();
            let known = match &event.kind {
                EventKind::Put(item) => watcher.items.insert(event.key.to_vec(), item.clone()),
                EventKind::Deleted | EventKind::Expired => watcher.items.remove(&event.key[..]),
            };
            if matches!(event.kind, EventKind::Put(_)) || known.is_some() {
                continue;
            }
            wrong = Some(format!("n{at} tells at {} that a key is gone which was not there", event.id()));
        }
        cursor = Some(next);
        if all {
            break;
        }
    }
    let items = stored(world, at);
    // Whoever watches is not told of a touch.
    watcher.items.iter_mut().for_each(|(key, item)| item.expires = items.get(key).and_then(|item| item.expires));
    if cursor.is_some() && watcher.items != items {
        let (told, is) = (&watcher.items, &items);
        wrong = wrong.or(Some(format!("n{at} at {applied}: its events make {told:?} of the keys, which are {is:?}")));
    }
    if let Some(wrong) = wrong {
        world.fail(wrong);
    }
    let cursor = Some(cursor.unwrap_or(opened.cursor));
    world.nodes[at].watcher = Watcher { watched: (process, opened.epoch), cursor, items };
}
