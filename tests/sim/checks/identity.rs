//! Raft ids.

use huskv::model::{PeerTable, Status};

use crate::checks::stored;
use crate::faults::disk_copies::StaleDisk;
use crate::world::World;

/// A raft id belongs to one incarnation of one directory, for ever. A member becomes another one only once it was removed;
/// a node that joins may go back to what it was.
pub fn published(world: &mut World, at: usize, table: &PeerTable) {
    // Nodes whose effects were not synced may show an older table after a crash.
    world.observed.tombstones.extend(table.tombstones.iter().copied());
    if table.removed && !world.nodes[at].table.removed && !world.observed.tombstones.contains(&table.raft_id) {
        world.fail(format!("n{at} is removed, and no node has removed it"));
    }
    let old = world.nodes[at].table.raft_id;
    if old == table.raft_id {
        return;
    }
    // What a node was told before, it has forgotten.
    world.nodes[at].peer_space.clear();
    if world.nodes[at].previous == Some(table.raft_id) {
        world.nodes[at].previous = None;
        return world.trace(|| format!("n{at} goes back to what it was"));
    }
    if !world.observed.ids.insert(table.raft_id) {
        world.fail(format!("n{at} comes under raft id {}, which was used before", table.raft_id));
    }
    if old == 0 {
        return;
    }
    if world.nodes[at].member_as == Some(old) && !world.nodes[at].table.removed {
        world.fail(format!("n{at} gives up that it is a member, and nobody has removed it"));
    }
    world.nodes[at].previous.get_or_insert(old);
}

/// What a node was is there until the state of the cluster that has adopted it is, and what was stored in it with it.
pub fn previous_incarnation(world: &mut World, at: usize, status: &Status) {
    let node = &mut world.nodes[at];
    if let Some(kept) = node.previous {
        if !status.joining {
            node.previous = None;
        } else if node.engine.journal(kept, |_| ()).is_none() {
            world.fail(format!(
                "n{at} joins and cannot go back: what it was is gone before the cluster's state has come"
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
        // A later write of it may have been done without an answer.
        if held.is_none_or(|version| version < own.version) {
            world.fail(format!("n{at} has lost {own:?}, which was acknowledged: it holds version {held:?}"));
        }
    }
}

/// Whether this turn was that of a node that takes no part, which is all that is asked of it.
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
