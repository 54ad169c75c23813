//! Strangers with a socket, and people who store something in a node that is still alone.
//!
//! Why: an offer to adopt a node is the one thing that makes it give up what it is, and anybody can send one.
//!
//! Laws: no stranger's offer is taken, whatever ids and addresses it names. What a stranger draws shifts no draw of
//! others.

use huskv::consensus::{Hop, Input};
use huskv::model::{Answer, Command, JoinAccepted, JoinOffer, Refusal, Request, Written};

use crate::port::Said;
use crate::world::{Event, World};

/// A write that was acknowledged by a node while it was alone.
#[derive(Debug, Clone)]
pub struct Own {
    pub raft_id: u64,
    pub key: String,
    pub version: u64,
}

/// Somebody does something to some node, again and again while there are faults.
pub fn act(world: &mut World) {
    let began = world.now < 10;
    let count = world.size;
    for at in 1..count {
        if began && world.strangers.chance(30) {
            store(world, at);
        }
    }
    if world.faults || began {
        let pause = 200 + world.strangers.below(1500);
        world.after(pause, Event::Offer);
    }
    if world.faults {
        let at = usize::try_from(world.strangers.below(count as u64)).expect("small");
        if world.strangers.chance(20) { store(world, at) } else { forge(world, at) }
    }
}

/// Stores something in a node that belongs to no cluster yet.
pub fn store(world: &mut World, at: usize) {
    let node = &world.nodes[at];
    if node.driver.is_none() || node.table.cluster_id == world.cluster || node.table.removed {
        return;
    }
    let (raft_id, key) = (node.table.raft_id, format!("own/{}", world.strangers.below(3)));
    let named = key.clone();
    let reply = node.port.reply(move |result| Said::Own { raft_id, key, result });
    let request = Request::Write(Command::put(named, "own").into());
    let deadline = world.now + node.ahead + 2000;
    world.input(at, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
}

/// It was stored, or not.
pub fn wrote(world: &mut World, at: usize, raft_id: u64, key: String, result: Result<Answer, Refusal>) {
    if let Ok(Answer::Written(Written { index, .. })) = result {
        world.say(|| format!("n{at}, alone as {raft_id}, holds {key} of version {index}"));
        world.nodes[at].own = Some(Own { raft_id, key, version: index });
    }
}

/// Sends an offer that nobody has made: often with the victim itself as the leader that makes it.
fn forge(world: &mut World, at: usize) {
    let count = world.size as u64;
    let other = usize::try_from(world.strangers.below(count)).expect("small");
    let itself = world.strangers.chance(30);
    let rng = &mut world.strangers;
    let (victim, other) = (&world.nodes[at].table, &world.nodes[if itself { at } else { other }].table);
    let cluster_id = *rng.pick(&[victim.cluster_id, other.cluster_id, world.cluster, 4711]);
    let leader_id = *rng.pick(&[other.raft_id, victim.raft_id, 4712]);
    let adopt = JoinOffer {
        prepare: false,
        cluster_id: if itself { victim.cluster_id } else { cluster_id },
        leader_id: if itself { victim.raft_id } else { leader_id },
        offer: rng.next(),
        leader_name: "stranger".into(),
        leader_address: other.raft_address.clone(),
        node_id: victim.node_id.clone(),
        raft_address: victim.raft_address.clone(),
        force: rng.chance(50),
        tombstones: vec![victim.raft_id],
    };
    if world.nodes[at].driver.is_none() {
        return;
    }
    world.say(|| format!("a stranger to n{at}: {adopt:?}"));
    let sent = Box::new(adopt.clone());
    let reply = world.port(at).reply(move |result| Said::Forged { adopt: sent, result });
    world.input(at, Input::JoinOffer { adopt, reply });
}

/// A node has answered a stranger's offer.
pub fn answered(world: &mut World, at: usize, adopt: &JoinOffer, result: &Result<JoinAccepted, Refusal>) {
    match result {
        // A node that joins says so to anybody.
        Ok(adopted) if world.book.adopted.contains(&adopted.raft_id) => {}
        Ok(adopted) => world.fail(format!("n{at} takes the word of a stranger: {adopt:?}, {adopted:?}")),
        Err(refusal) => world.say(|| format!("the stranger hears {}", refusal.detail)),
    }
}
