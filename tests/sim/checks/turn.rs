//! After every turn.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use huskv::consensus::Driver;
use huskv::model::{Role, State, Status};
use huskv::plant::{self, Plant};

use crate::checks::{changefeed, disk_space, identity, status, voters};
use crate::faults::nemesis;
use crate::world::World;
use crate::world::disk::SimEngine;

/// What one node was at, at least.
#[derive(Debug, Default, Clone, Copy)]
pub struct Progress {
    raft_id: u64,
    term: u64,
    commit: u64,
    applied: u64,
}

impl Progress {
    /// Up to where it had applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// After a crash only what was synced binds the node.
    pub fn after_crash(&mut self, engine: &SimEngine, durable: (u64, u64)) {
        if let Some(synced) = engine.journal(self.raft_id, |journal| journal.synced) {
            (self.term, self.commit) = (synced.term, synced.commit);
        }
        self.applied = if durable.0 == self.raft_id { durable.1 } else { 0 };
    }
}

/// How many turns of a node are remembered; no entry that is committed waits longer for its own.
const LATEST_TURNS: usize = 512;

/// One leader a term; nothing moves back; equal entries and equal state at equal index.
pub fn check(world: &mut World, at: usize) {
    let Some(status) = status(world, at) else { return };
    if identity::stale_disk_takes_no_part(world, at, &status) {
        return;
    }
    if status.applied_index > status.commit_index || status.commit_index > status.last_log_index {
        world.fail(format!(
            "n{at} has applied {} > committed {} > last {}",
            status.applied_index, status.commit_index, status.last_log_index
        ));
    }
    let raft_id = status.raft_id;
    if let Some(Some(broken)) = world.nodes[at].engine.journal(raft_id, |journal| journal.broken.clone()) {
        world.fail(format!("n{at}: on its disk {broken}"));
    }
    if world.nodes[at].progress.raft_id != raft_id {
        world.nodes[at].progress = Progress { raft_id, ..Progress::default() };
    }
    let before = world.nodes[at].progress;
    let is = Progress { raft_id, term: status.term, commit: status.commit_index, applied: status.applied_index };
    if is.term < before.term || is.commit < before.commit || is.applied < before.applied {
        world.fail(format!("n{at} moves back: {is:?}, before {before:?}"));
    }
    world.nodes[at].progress = is;
    let latest = &mut world.nodes[at].recent_voters;
    latest.truncate(LATEST_TURNS - 1);
    latest.push_front((status.commit_index, voters(&status)));
    identity::previous_incarnation(world, at, &status);
    if status.cluster_id != world.cluster || status.removed || status.joining {
        return;
    }
    if !world.nodes[at].driver.as_ref().is_some_and(Driver::configuration_agrees) {
        world.fail(format!("n{at} counts votes by another configuration than the one that it has stored"));
    }
    let names: BTreeSet<_> = status.members.iter().map(|member| &member.node_id).collect();
    if names.len() < status.members.len() {
        world.fail(format!("n{at} lists two members of one name: {:?}", status.members));
    }
    for member in &status.members {
        world.observed.names.entry(member.raft_id).or_insert_with(|| member.node_id.clone());
    }
    proposed(world, at, &status);
    if status.state == State::Leader {
        let first = *world.observed.leaders.entry(status.term).or_insert(raft_id);
        if first != raft_id {
            world.fail(format!("term {} is led by {first} and by {raft_id}", status.term));
        }
    }
    if is.applied != before.applied {
        applied_entries(world, at, before, is);
        changefeed::check(world, at, is.applied);
        let state = fingerprint(world, at, &status);
        let known = *world.observed.states.entry(is.applied).or_insert(state);
        // That bug is to be found by the nodes themselves.
        if known != state && !plant::is(Plant::SilentDivergence) {
            world.fail(format!("n{at} differs from another node at applied index {}", is.applied));
        }
    }
}

/// What a leader has just proposed: no request whose time is over, by the clock that its client looks at.
fn proposed(world: &mut World, at: usize, status: &Status) {
    let from = world.nodes[at].checked_log.min(status.last_log_index);
    world.nodes[at].checked_log = status.last_log_index;
    if status.state != State::Leader {
        return;
    }
    let entries = world.nodes[at].engine.journal(status.raft_id, |journal| {
        let own = journal.entries.range(from + 1..).filter(|(_, entry)| entry.term == status.term);
        own.map(|(index, entry)| (*index, entry.clone())).collect::<Vec<_>>()
    });
    let now = world.now;
    for (index, entry) in entries.unwrap_or_default() {
        disk_space::check(world, at, status, index, &entry);
        let (operation, change) = (entry.operation(), entry.change);
        if let Some(change) = change {
            world.observed.changes.entry((index, status.term)).or_insert((now, change));
            nemesis::on_membership_proposal(world);
        }
        if let Some(id) = operation
            && let Some(deadline) = world.observed.deadlines.get(&id).copied()
            && now > deadline
        {
            world.fail(format!(
                "n{at} proposes op{id} as entry {index} at {now}, which nobody waits for since {deadline}"
            ));
        }
    }
}

/// The entries that a node has just applied are those that every other node applied there. Equal at each index, they
/// make equal sequences.
fn applied_entries(world: &mut World, at: usize, from: Progress, to: Progress) {
    let applied = world.nodes[at].engine.journal(to.raft_id, |journal| {
        let range = journal.entries.range(from.applied + 1..=to.applied);
        range.map(|(index, entry)| (*index, entry.clone())).collect::<Vec<_>>()
    });
    for (index, entry) in applied.unwrap_or_default() {
        let known = world.observed.applied.get(&index).cloned();
        match known {
            Some(known) if known != entry => {
                world.fail(format!("n{at} applies {entry:?} at {index}, another node applied {known:?} there"));
            }
            Some(_) => {}
            None => {
                let (operation, named) = (entry.operation(), entry.is_named());
                world.observed.applied.insert(index, entry);
                world.observed.applied_at.insert(index, world.now);
                let Some(id) = operation else { continue };
                match world.observed.operations.get(&id) {
                    // Only the first of them does anything.
                    Some(_) if named => {}
                    Some((other, _)) => {
                        let failure = format!("op{id} is applied at {other} and again at {index}");
                        world.fail(failure);
                    }
                    None => drop(world.observed.operations.insert(id, (index, world.now))),
                }
            }
        }
    }
}

/// Everything that has to be equal at an equal index.
fn fingerprint(world: &World, at: usize, status: &Status) -> u64 {
    let mut hasher = DefaultHasher::new();
    (status.keys, status.applied_term, status.configuration_index).hash(&mut hasher);
    for member in &status.members {
        let voter = member.role == Role::Voter;
        (&member.node_id, member.raft_id, &member.raft_address, &member.http_address, voter).hash(&mut hasher);
    }
    world.nodes[at].driver.as_ref().map(Driver::digest).hash(&mut hasher);
    hasher.finish()
}
