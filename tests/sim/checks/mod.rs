//! What must be true after every turn, at every answer, and at the end.
//!
//! Not here: what may not leave before which sync (`outbox`), and that term, vote and commit never move back on a disk
//! (`journal`).

pub mod acknowledgement;
pub mod changefeed;
pub mod disk_space;
pub mod expiry;
pub mod history;
pub mod identity;
pub mod journal;
pub mod observed;
pub mod replay;
pub mod turn;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use huskv::consensus::Input;
use huskv::model::{Item, List, Role, Status, after};

use crate::world::World;

fn query(world: &mut World, at: usize, make: impl FnOnce(Arc<Mutex<Vec<Status>>>) -> Input) -> Option<Status> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let now = world.now + world.nodes[at].clock_offset;
    let driver = world.nodes[at].driver.as_mut()?;
    driver.handle(now, make(heard.clone())).ok()?;
    heard.lock().expect("one thread").pop()
}

/// How a living node is.
pub fn status(world: &mut World, at: usize) -> Option<Status> {
    query(world, at, |heard| Input::Status {
        reply: Box::new(move |status| heard.lock().expect("one thread").push(status)),
    })
}

/// The voters that a node lists.
pub fn voters(status: &Status) -> Vec<u64> {
    status.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.raft_id).collect()
}

/// All that a node holds.
pub fn stored(world: &World, at: usize) -> BTreeMap<Vec<u8>, Item> {
    let mut list = List { start: Vec::new(), end: None, reverse: false, limit: 1000, keys_only: false };
    let mut found = BTreeMap::new();
    while let Some(page) = world.nodes[at].driver.as_ref().and_then(|driver| driver.list(&list).ok()) {
        list.start = page.items.last().map(|(key, _)| after(key)).unwrap_or_default();
        found.extend(page.items.into_iter().filter_map(|(key, item)| Some((key.to_vec(), item?))));
        if !page.more {
            break;
        }
    }
    found
}
