//! Writes to a node that is still alone, and that a later join must not destroy unasked.

use huskv::consensus::{Hop, Input};
use huskv::model::{Answer, Command, Refusal, Request, Written};

use crate::world::World;
use crate::world::outbox::Reply;

/// A write that was acknowledged by a node while it was alone.
#[derive(Debug, Clone)]
pub struct OwnWrite {
    pub raft_id: u64,
    pub key: String,
    pub version: u64,
}

/// Writes to a node that is in no cluster yet.
pub fn store(world: &mut World, at: usize) {
    let node = &world.nodes[at];
    if node.driver.is_none() || node.table.cluster_id == world.cluster || node.table.removed {
        return;
    }
    let (raft_id, key) = (node.table.raft_id, format!("own/{}", world.offer_rng.below(3)));
    let named = key.clone();
    let reply = node.outbox.reply(move |result| Reply::OwnWrite { raft_id, key, result });
    let request = Request::Write(Command::put(named, "own").into());
    let deadline = world.now + node.clock_offset + 2000;
    world.input(at, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
}

/// Records an acknowledged write.
pub fn wrote(world: &mut World, at: usize, raft_id: u64, key: String, result: Result<Answer, Refusal>) {
    if let Ok(Answer::Written(Written { index, .. })) = result {
        world.trace(|| format!("n{at}, alone as {raft_id}, holds {key} of version {index}"));
        world.nodes[at].own_write = Some(OwnWrite { raft_id, key, version: index });
    }
}
