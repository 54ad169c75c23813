//! Forged join offers.
//!
//! Why: a join offer is the one message that makes a node give up its incarnation, and any host that reaches the peer port
//! can send one.
//!
//! Invariants: no forged offer is accepted, whatever ids and addresses it names.

use huskv::consensus::Input;
use huskv::model::{JoinAccepted, JoinOffer, Refusal};

use crate::workload::standalone;
use crate::world::outbox::Reply;
use crate::world::{Event, World};

/// Forges an offer to some node, or writes to one that is alone, and comes again while there are faults.
pub fn act(world: &mut World) {
    let began = world.now < 10;
    let count = world.size;
    for at in 1..count {
        if began && world.offer_rng.chance(30) {
            standalone::store(world, at);
        }
    }
    if world.faults || began {
        let pause = 200 + world.offer_rng.below(1500);
        world.after(pause, Event::ForgedOffer);
    }
    if world.faults {
        let at = usize::try_from(world.offer_rng.below(count as u64)).expect("small");
        if world.offer_rng.chance(20) { standalone::store(world, at) } else { forge(world, at) }
    }
}

/// Sends an offer that no leader has made, often with the victim itself as the leader.
fn forge(world: &mut World, at: usize) {
    let count = world.size as u64;
    let other = usize::try_from(world.offer_rng.below(count)).expect("small");
    let itself = world.offer_rng.chance(30);
    let rng = &mut world.offer_rng;
    let (victim, other) = (&world.nodes[at].table, &world.nodes[if itself { at } else { other }].table);
    // Ids that are true, ids of another node, and ids that no node has.
    let cluster_id = *rng.pick(&[victim.cluster_id, other.cluster_id, world.cluster, 4711]);
    let leader_id = *rng.pick(&[other.raft_id, victim.raft_id, 4712]);
    let offer = JoinOffer {
        prepare: false,
        cluster_id: if itself { victim.cluster_id } else { cluster_id },
        leader_id: if itself { victim.raft_id } else { leader_id },
        offer: rng.next(),
        leader_name: "forged".into(),
        leader_address: other.raft_address.clone(),
        node_id: victim.node_id.clone(),
        raft_address: victim.raft_address.clone(),
        force: rng.chance(50),
        tombstones: vec![victim.raft_id],
    };
    if world.nodes[at].driver.is_none() {
        return;
    }
    world.trace(|| format!("a forged offer to n{at}: {offer:?}"));
    let sent = Box::new(offer.clone());
    let reply = world.outbox(at).reply(move |result| Reply::Forged { offer: sent, result });
    world.input(at, Input::JoinOffer { offer, reply });
}

/// Checks the answer to a forged offer.
pub fn answered(world: &mut World, at: usize, offer: &JoinOffer, result: &Result<JoinAccepted, Refusal>) {
    match result {
        // A joining node repeats its acceptance to whatever host asks.
        Ok(accepted) if world.observed.joined.contains(&accepted.raft_id) => {}
        Ok(accepted) => world.fail(format!("n{at} accepts a forged offer: {offer:?}, {accepted:?}")),
        Err(refusal) => world.trace(|| format!("the forged offer is refused: {}", refusal.detail)),
    }
}
