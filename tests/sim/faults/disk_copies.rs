//! Disks that are brought back from older copies, and copies that start beside the node that they were made of.
//!
//! Why: a copy says of itself what its original says. Only the lives that others have spoken to since, and the address, tell
//! them apart, by the rules that the real transport asks (`model::BootHistory`, `PeerTable::unconfirmed_move`, `storage::Peers`).
//!
//! Laws: neither a disk that was brought back nor a copy takes part again: its log does not grow and it leads nobody. Disks
//! are brought back one at a time, while all is well and everybody has heard of a later process: what nobody knows of cannot
//! be missed, and a majority that was brought back together is an older cluster.
//!
//! Not here: copies of a cluster whose members are followed by their own word, which are told apart only once both speak.

use huskv::model::PeerTable;

use crate::faults::nemesis;
use crate::workload::operators;
use crate::world::disk::SimEngine;
use crate::world::{Event, World};

/// An disk_copy of a node's disk, and who the node was then.
pub struct DiskCopy {
    engine: SimEngine,
    table: PeerTable,
}

/// A raft id that must not take part any more, and where its log ended when it came back.
#[derive(Clone, Copy)]
pub struct StaleDisk {
    pub raft_id: u64,
    pub last: Option<u64>,
}

/// One fault of this kind.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 100 + world.copy_rng.below(300);
    world.after(pause, Event::DiskCopy);
    let at = usize::try_from(world.copy_rng.below(world.size as u64)).expect("small");
    match world.copy_rng.below(10) {
        // Its configuration is one in which it is no majority.
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

/// Nodes whose disks were brought back are given empty ones: what an operator is told to do.
pub fn replace_stale_disks(world: &mut World) {
    for at in 0..world.size {
        if world.nodes[at].stale_disk.is_some() {
            nemesis::wipe(world, at);
        }
    }
}

/// Whether all others have heard of a life of this node since its disk was copied.
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

fn restore(world: &mut World, at: usize) {
    world.trace(|| format!("the disk of n{at} is brought back from a copy"));
    let mut rng = world.copy_rng.fork();
    nemesis::lose_disk(world, at);
    let node = &mut world.nodes[at];
    if let Some(disk_copy) = &node.disk_copy {
        node.engine = disk_copy.engine.after_crash(&mut rng);
        node.stale_disk = Some(StaleDisk { raft_id: disk_copy.table.raft_id, last: None });
        // It does not come under a new raft id.
        node.table = disk_copy.table.clone();
    }
    world.after(100, Event::Restart(at));
}

/// The copy starts elsewhere, and what it was made of goes on.
fn start_copy(world: &mut World, at: usize) {
    let mut rng = world.copy_rng.fork();
    let Some(DiskCopy { engine, table }) = &world.nodes[at].disk_copy else { return };
    let (engine, table) = (engine.after_crash(&mut rng), table.clone());
    let stale_disk = Some(StaleDisk { raft_id: table.raft_id, last: None });
    let beside = world.nodes.len();
    world.trace(|| format!("n{beside} starts on a copy of the disk of n{at}"));
    let mut node = world.node(engine, at);
    // No node of the world is ever there.
    (node.table, node.stale_disk, node.port) = (table, stale_disk, 0);
    world.nodes.push(node);
    world.after(1, Event::Restart(beside));
}
