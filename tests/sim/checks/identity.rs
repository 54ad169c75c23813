//! Invariants of identities: raft ids, incarnations, and copied disks.

use huskv::model::{PeerTable, Status};

use crate::checks::stored;
use crate::faults::disk_copies::StaleDisk;
use crate::world::World;

/// Checks a newly published peer table against the one before.
///
/// A raft id belongs to one incarnation of one directory, for ever. A member takes another raft id only after its removal.
/// A node that joins may go back to its previous incarnation.
pub fn published(world: &mut World, at: usize, table: &PeerTable) {
    // A node whose last writes were not synced may publish an older table after a crash, so tombstones are kept here.
    world.observed.tombstones.extend(table.tombstones.iter().copied());
    // A claim at the peer port must never be enough: some node must have applied the removal.
    if table.removed && !world.nodes[at].table.removed && !world.observed.tombstones.contains(&table.raft_id) {
        world.fail(format!("n{at} is removed, and no node has removed it"));
    }
    let old = world.nodes[at].table.raft_id;
    if old == table.raft_id {
        return;
    }
    // A new incarnation knows no free space of peers.
    world.nodes[at].peer_space.clear();
    // The join was rolled back: the only raft id that may come a second time.
    if world.nodes[at].previous == Some(table.raft_id) {
        world.nodes[at].previous = None;
        return world.trace(|| format!("n{at} goes back to its previous incarnation"));
    }
    // A reused raft id could vote twice in a term, once before and once after its disk was lost.
    if !world.observed.ids.insert(table.raft_id) {
        world.fail(format!("n{at} comes under raft id {}, which was used before", table.raft_id));
    }
    if old == 0 {
        return;
    }
    if world.nodes[at].member_as == Some(old) && !world.nodes[at].table.removed {
        world.fail(format!("n{at} gives up its membership, and no node has removed it"));
    }
    world.nodes[at].previous.get_or_insert(old);
}

/// Checks that the previous incarnation of a joining node is on its disk, with its data, until the cluster's state is.
pub fn previous_incarnation(world: &mut World, at: usize, status: &Status) {
    let node = &mut world.nodes[at];
    if let Some(kept) = node.previous {
        // The state of the cluster has been installed, so the previous incarnation may go.
        if !status.joining {
            node.previous = None;
        } else if node.engine.journal(kept, |_| ()).is_none() {
            world.fail(format!(
                "n{at} joins and cannot go back: its previous incarnation is gone before the cluster's state is there"
            ));
            return;
        }
    }
    let node = &mut world.nodes[at];
    if !status.joining && !status.removed && status.members.len() > 1 {
        node.member_as = Some(status.raft_id);
    }
    let Some(own) = node.own_write.clone().filter(|own| own.raft_id == status.raft_id) else { return };
    if status.applied_index >= own.version && status.members.len() == 1 {
        let held = stored(world, at).get(own.key.as_bytes()).map(|item| item.version);
        // A later write of the same key may have been applied without an answer, so the version may be greater.
        if held.is_none_or(|version| version < own.version) {
            world.fail(format!("n{at} has lost {own:?}, which was acknowledged: it holds version {held:?}"));
        }
    }
}

/// Whether a node runs on a copied disk. If so, its log must not grow and it must not lead, and nothing else is checked.
pub fn stale_disk_takes_no_part(world: &mut World, at: usize, status: &Status) -> bool {
    let Some(StaleDisk { raft_id, last }) = world.nodes[at].stale_disk else { return false };
    if status.raft_id != raft_id {
        world.nodes[at].stale_disk = None;
        return false;
    }
    let last = last.unwrap_or(status.last_log_index);
    world.nodes[at].stale_disk = Some(StaleDisk { raft_id, last: Some(last) });
    if status.last_log_index > last || status.state == huskv::model::State::Leader {
        world.fail(format!("n{at}, on a copy of a disk, takes part again"));
    }
    true
}
