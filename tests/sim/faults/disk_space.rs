//! Free disk space: in a fifth of the seeds disks fall below their reserve or their floor and rise again.
//!
//! Invariants: what a node tells of its disk is handed in without a turn of the receiver, so that it has no other effect.
//!
//! See also: `checks::disk_space` for what a leader that was told may propose.

use std::collections::BTreeMap;

use huskv::consensus::Input;
use huskv::model::DiskSpace;

use crate::checks;
use crate::world::outbox::Process;
use crate::world::{Event, World};

/// The free space of a disk without a fault, with its reserve.
pub const PLENTY: DiskSpace = DiskSpace { free_bytes: 1 << 40, reserve_bytes: 1 << 28 };

/// The free space of a disk below its reserve, and of one below its floor.
const BELOW_RESERVE: DiskSpace = DiskSpace { free_bytes: 3 << 26, reserve_bytes: 1 << 28 };
const BELOW_FLOOR: DiskSpace = DiskSpace { free_bytes: 1 << 26, reserve_bytes: 1 << 28 };

/// What a process was told: the free space by raft id, and when it was told.
pub type PeerSpace = BTreeMap<u64, (DiskSpace, u64)>;

/// Whether the free space of disks changes in this seed.
pub fn disks_fill(seed: u64) -> bool {
    seed % 5 == 4
}

/// Changes the free space of a disk.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 200 + world.space_rng.below(2500);
    world.after(pause, Event::DiskSpace);
    let at = usize::try_from(world.space_rng.below(world.size as u64)).expect("small");
    let space = match world.space_rng.below(100) {
        0..25 => BELOW_RESERVE,
        25..40 => BELOW_FLOOR,
        _ => PLENTY,
    };
    world.trace(|| format!("n{at} has {} bytes left", space.free_bytes));
    world.nodes[at].engine.set_space(space);
}

/// Gives every disk enough free space.
pub fn heal(world: &mut World) {
    world.nodes.iter().for_each(|node| node.engine.set_space(PLENTY));
}

/// Sends a node's free space to a member.
pub fn send(world: &mut World, process: Process, to: u64, space: DiskSpace) {
    let table = &world.nodes[process.0].table;
    let (from, cluster) = (table.raft_id, table.cluster_id);
    if let Some(at) = world.incarnation(to, cluster)
        && world.connected(process.0, at)
    {
        let to = (at, world.nodes[at].starts);
        world.after(2, Event::PeerSpace(to, from, space));
    }
}

/// Hands a node the free space of a member.
pub fn receive(world: &mut World, at: usize, from: u64, space: DiskSpace) {
    let now = world.now + world.nodes[at].clock_offset;
    let told_at = world.now;
    // A node that is no member is not believed.
    let is_member = checks::status(world, at).is_some_and(|status| status.members.iter().any(|m| m.raft_id == from));
    let node = &mut world.nodes[at];
    if let Some(driver) = &mut node.driver {
        if is_member {
            node.peer_space.insert(from, (space, told_at));
        }
        drop(driver.handle(now, Input::Space { from, space }));
    }
}
