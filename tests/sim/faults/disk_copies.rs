//! Copied disks: restored from an older copy, or started beside the original.
//!
//! Why: a copy shows the identity of its original. Only the boot ids that peers have recorded since, and the address, tell
//! them apart (`world::handshake`).
//!
//! Invariants: neither a restored disk nor a copy takes part again: its log does not grow, and it does not lead. Disks are
//! restored one at a time, while the cluster is whole and all peers have recorded a later boot: a boot that no peer knows
//! cannot be missed, and a majority restored together is an older cluster.
//!
//! Not simulated: copies where `follow_moves` is set, which are told apart only once both of them speak.

use huskv::model::PeerTable;

use crate::faults::nemesis;
use crate::workload::operators;
use crate::world::disk::SimEngine;
use crate::world::{Event, World};

/// A copy of a node's disk, and the peer table that the node had published by then.
pub struct DiskCopy {
    engine: SimEngine,
    table: PeerTable,
}

/// The raft id on a copied disk, which must not take part, and the end of its log at its first turn.
#[derive(Clone, Copy)]
pub struct StaleDisk {
    pub raft_id: u64,
    pub last: Option<u64>,
}

/// Copies a disk, restores one, starts a copy, or replaces copies by empty disks.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 100 + world.copy_rng.below(300);
    world.after(pause, Event::DiskCopy);
    let at = usize::try_from(world.copy_rng.below(world.size as u64)).expect("small");
    match world.copy_rng.below(10) {
        // Only with a configuration of all nodes, in which one alone is no majority.
        0 if world.operators.complete && world.nodes[at].table.peers.len() + 1 == world.size => {
            let (mut rng, node) = (world.copy_rng.fork(), &mut world.nodes[at]);
            node.disk_copy = Some(DiskCopy { engine: node.engine.after_crash(&mut rng), table: node.table.clone() });
            world.trace(|| format!("the disk of n{at} is copied"));
        }
        1..=5 if later_boot_is_known(world, at) && operators::settled(world) => restore(world, at),
        6 if !world.follow_moves && world.nodes.len() == world.size => start_copy(world, at),
        7 => replace_stale_disks(world),
        _ => {}
    }
}

/// Gives nodes on copied disks empty ones, as their log tells an operator to do.
pub fn replace_stale_disks(world: &mut World) {
    for at in 0..world.size {
        if world.nodes[at].stale_disk.is_some() {
            nemesis::wipe(world, at);
        }
    }
}

/// Whether all peers have recorded a boot of this node that is later than its copied disk.
fn later_boot_is_known(world: &World, at: usize) -> bool {
    let node = &world.nodes[at];
    let Some(disk_copy) = &node.disk_copy else { return false };
    let (raft_id, current) = (node.table.raft_id, node.table.boot_history.current);
    let knows =
        |other: &usize| world.nodes[*other].peers.as_ref().and_then(|peers| peers.boot_id(raft_id)) == Some(current);
    disk_copy.table.raft_id == raft_id
        && disk_copy.table.boot_history.current.count < current.count
        && (0..world.size).filter(|other| *other != at).all(|other| knows(&other))
}

/// Replaces the disk of a node by its older copy.
fn restore(world: &mut World, at: usize) {
    world.trace(|| format!("the disk of n{at} is restored from a copy"));
    let mut rng = world.copy_rng.fork();
    nemesis::lose_disk(world, at);
    let node = &mut world.nodes[at];
    if let Some(disk_copy) = &node.disk_copy {
        node.engine = disk_copy.engine.after_crash(&mut rng);
        node.stale_disk = Some(StaleDisk { raft_id: disk_copy.table.raft_id, last: None });
        // The raft id is not a new one to the checks.
        node.table = disk_copy.table.clone();
    }
    world.after(100, Event::Restart(at));
}

/// Starts a copy at another address, while the original runs on.
fn start_copy(world: &mut World, at: usize) {
    let mut rng = world.copy_rng.fork();
    let Some(DiskCopy { engine, table }) = &world.nodes[at].disk_copy else { return };
    let (engine, table) = (engine.after_crash(&mut rng), table.clone());
    let stale_disk = Some(StaleDisk { raft_id: table.raft_id, last: None });
    let beside = world.nodes.len();
    world.trace(|| format!("n{beside} starts on a copy of the disk of n{at}"));
    let mut node = world.node(engine, at);
    // Port 0 is the address of no other node.
    (node.table, node.stale_disk, node.port) = (table, stale_disk, 0);
    world.nodes.push(node);
    world.after(1, Event::Restart(beside));
}
