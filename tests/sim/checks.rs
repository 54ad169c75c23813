//! What must be true after every turn, and at the end.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use huskv::consensus::{Bounds, Consistency, Input};
use huskv::model::{State, Status};

use crate::clients;
use crate::linear;
use crate::world::World;

fn ask(world: &mut World, at: usize, make: impl FnOnce(Arc<Mutex<Vec<Status>>>) -> Input) -> Option<Status> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let driver = world.nodes[at].driver.as_mut()?;
    driver.handle(make(heard.clone())).ok()?;
    heard.lock().expect("one thread").pop()
}

/// How a living node is.
pub fn status(world: &mut World, at: usize) -> Option<Status> {
    ask(world, at, |heard| Input::Status {
        reply: Box::new(move |status| heard.lock().expect("one thread").push(status)),
    })
}

/// One leader a term; nothing moves back; equal state at equal index.
pub fn after_turn(world: &mut World, at: usize) {
    let Some(status) = status(world, at) else { return };
    if status.applied_index > status.commit_index || status.commit_index > status.last_log_index {
        world.fail(format!(
            "n{at} has applied {} > committed {} > last {}",
            status.applied_index, status.commit_index, status.last_log_index
        ));
    }
    if status.cluster_id != world.cluster || status.removed || status.joining {
        world.nodes[at].seen = (0, 0);
        return;
    }
    let seen = world.nodes[at].seen;
    if status.term < seen.0 || status.applied_index < seen.1 {
        world.fail(format!("n{at} moves back: term {} applied {}, before {seen:?}", status.term, status.applied_index));
    }
    world.nodes[at].seen = (status.term, status.applied_index);
    if status.state == State::Leader {
        let first = *world.leaders.entry(status.term).or_insert(status.raft_id);
        if first != status.raft_id {
            world.fail(format!("term {} is led by {first} and by {}", status.term, status.raft_id));
        }
    }
    if status.applied_index != seen.1 {
        let state = fingerprint(world, at, &status);
        let known = *world.states.entry(status.applied_index).or_insert(state);
        if known != state {
            world.fail(format!("n{at} differs from another node at applied index {}", status.applied_index));
        }
    }
}

/// Everything that has to be equal at an equal index.
fn fingerprint(world: &mut World, at: usize, status: &Status) -> u64 {
    let mut hasher = DefaultHasher::new();
    status.keys.hash(&mut hasher);
    for member in &status.members {
        (&member.node_id, member.raft_id, &member.raft_address, format!("{:?}", member.role)).hash(&mut hasher);
    }
    let found = Arc::new(Mutex::new(Vec::new()));
    let Some(driver) = world.nodes[at].driver.as_mut() else { return 0 };
    for key in clients::keys() {
        let found = found.clone();
        let reply = Box::new(move |fetched: Result<huskv::consensus::Fetched, _>| {
            let value = fetched.ok().and_then(|fetched| fetched.value);
            found.lock().expect("one thread").push(value.map(|value| (value.value, value.version)));
        });
        let read = Input::Read {
            key: key.to_vec(),
            consistency: Consistency::Stale,
            bounds: Bounds::default(),
            deadline: u64::MAX,
            reply,
        };
        if driver.handle(read).is_err() {
            return 0;
        }
    }
    found.lock().expect("one thread").hash(&mut hasher);
    hasher.finish()
}

/// Every key's history has an order that explains it.
pub fn linearizable(world: &mut World) {
    for (key, history) in world.clients.histories() {
        if let Err(timeline) = linear::check(&history) {
            world.fail(format!("key k{key} is not linearizable: {timeline}"));
        }
    }
}
