//! The invariants: what must be true after every turn, at every answer, and at the end of a run.
//!
//! | when | checked in | what |
//! |---|---|---|
//! | a record is written | `journal` | term, vote and commit never move back on a disk |
//! | a message leaves | `world::outbox` | it promises nothing that is not synced |
//! | after a turn | `turn` | one leader a term, nothing moves back, equal entries and states at equal indexes |
//! | after a turn | `node_events` | what a node notes about itself has happened: `to` is the leader of that term |
//! | after a turn | `changefeed` | the events lead from the previous state to the present one |
//! | a leader proposes | `turn`, `disk_space` | no request is late, and none needs space that a voter lacks |
//! | a peer table is published | `identity` | raft ids are used once, no member is removed or replaced without an entry |
//! | a write is answered | `acknowledgement` | it is synced on a majority, at the index that it was applied at |
//! | at the end | `history`, `replay` | each register is linearizable, and what was refused has not happened |
//! | before the end | `history` | each stored key has the token of its last write |
//! | at the end | `expiry` | keys with a `ttl` are removed in time |
//!
//! See also: `observed` for what the checks remember of the whole cluster.

pub mod acknowledgement;
pub mod changefeed;
pub mod disk_space;
pub mod expiry;
pub mod history;
pub mod identity;
pub mod journal;
pub mod node_events;
pub mod observed;
pub mod replay;
pub mod turn;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use huskv::consensus::Input;
use huskv::model::{Item, List, Role, Status, after};

use crate::world::World;

/// Asks a driver something that it answers at once.
fn query(world: &mut World, at: usize, make: impl FnOnce(Arc<Mutex<Vec<Status>>>) -> Input) -> Option<Status> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let now = world.now + world.nodes[at].clock_offset;
    let driver = world.nodes[at].driver.as_mut()?;
    driver.handle(now, make(heard.clone())).ok()?;
    heard.lock().expect("one thread").pop()
}

/// The status of a running node. To ask for it has no effect.
pub fn status(world: &mut World, at: usize) -> Option<Status> {
    query(world, at, |heard| Input::Status {
        reply: Box::new(move |status| heard.lock().expect("one thread").push(status)),
    })
}

/// The raft ids of the voters that a node lists.
pub fn voters(status: &Status) -> Vec<u64> {
    status.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.raft_id).collect()
}

/// All keys that a node stores, with their items.
pub fn stored(world: &World, at: usize) -> BTreeMap<Vec<u8>, Item> {
    let mut list = List { start: Vec::new(), end: None, reverse: false, limit: 1000, keys_only: false };
    let mut found = BTreeMap::new();
    while let Some(page) = world.nodes[at].driver.as_ref().and_then(|driver| driver.list(&list).ok()) {
        list.start = page.items.last().map(|(key, _)| after(key)).unwrap_or_default();
        found
            .extend(page.items.into_iter().filter_map(|(key, item)| Some((key.to_vec(), Arc::unwrap_or_clone(item?)))));
        if !page.more {
            break;
        }
    }
    found
}
