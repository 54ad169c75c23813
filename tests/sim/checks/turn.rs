//! Invariants of a node after each of its turns, and of its log against those of all others.
//!
//! Why: two nodes need not be compared with each other. The first to apply an index fixes the entry and the state there
//! (`Observed`), and every later one is compared with that.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use huskv::consensus::Driver;
use huskv::model::{Role, State, Status};
use huskv::plant::{self, Plant};

use crate::checks::{changefeed, disk_space, identity, node_events, status, voters};
use crate::faults::nemesis;
use crate::world::World;
use crate::world::disk::SimEngine;

/// How far a node has come, as far as that binds it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Progress {
    raft_id: u64,
    term: u64,
    commit: u64,
    applied: u64,
}

impl Progress {
    /// Goes back to what was synced, which is all that binds a node after a crash.
    ///
    /// Term and commit are those of the synced journal. The applied index is that of the last sync of the state machine,
    /// or 0 for another raft id than the one that was synced.
    pub fn after_crash(&mut self, engine: &SimEngine, durable: (u64, u64)) {
        if let Some(synced) = engine.journal(self.raft_id, |journal| journal.synced) {
            (self.term, self.commit) = (synced.term, synced.commit);
        }
        self.applied = if durable.0 == self.raft_id { durable.1 } else { 0 };
    }
}

/// The number of turns of a node whose voters are kept: a committed entry is applied within fewer.
const LATEST_TURNS: usize = 512;

/// Checks a node after a turn.
pub fn check(world: &mut World, at: usize) {
    let Some(status) = status(world, at) else { return };
    // A copied disk shows an old state on purpose, so nothing else can be asked of it.
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
    // A new incarnation begins from nothing; what bound the previous one is checked in `identity`.
    if world.nodes[at].progress.raft_id != raft_id {
        world.nodes[at].progress = Progress { raft_id, ..Progress::default() };
    }
    let before = world.nodes[at].progress;
    let is = Progress { raft_id, term: status.term, commit: status.commit_index, applied: status.applied_index };
    // Within one incarnation nothing moves back, also not over a crash: then `before` is what was synced.
    if is.term < before.term || is.commit < before.commit || is.applied < before.applied {
        return world.fail(format!("n{at} moves back: {is:?}, before {before:?}"));
    }
    world.nodes[at].progress = is;
    let latest = &mut world.nodes[at].recent_voters;
    // Kept for `acknowledgement`, which must know who voted when an entry was committed.
    latest.truncate(LATEST_TURNS - 1);
    latest.push_front((status.commit_index, voters(&status)));
    identity::previous_incarnation(world, at, &status);
    let is_outside = status.cluster_id != world.cluster || status.removed || status.joining;
    node_events::check(world, at, is_outside);
    // What follows compares nodes of the one cluster with each other.
    if is_outside {
        return;
    }
    // raft counts votes by its own copy of the configuration, which a crash or a snapshot could leave behind.
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
        // Election safety: the first node seen as the leader of a term is the only one, for ever.
        let first = *world.observed.leaders.entry(status.term).or_insert(raft_id);
        if first != raft_id {
            world.fail(format!("term {} is led by {first} and by {raft_id}", status.term));
        }
    }
    if is.applied != before.applied {
        applied_entries(world, at, before, is);
        changefeed::check(world, at, is.applied);
        // State machine safety: whichever node is first at an index fixes the state of all others there.
        let state = fingerprint(world, at, &status);
        let known = *world.observed.states.entry(is.applied).or_insert(state);
        // The nodes must find this planted bug by their own digests.
        if known != state && !plant::is(Plant::SilentDivergence) {
            world.fail(format!("n{at} differs from another node at applied index {}", is.applied));
        }
    }
}

/// Checks the entries that a leader has just proposed: no request after its deadline, by virtual time.
fn proposed(world: &mut World, at: usize, status: &Status) {
    let from = world.nodes[at].checked_log.min(status.last_log_index);
    world.nodes[at].checked_log = status.last_log_index;
    if status.state != State::Leader {
        return;
    }
    let entries = world.nodes[at].engine.journal(status.raft_id, |journal| {
        // Entries of its own term are those that it has proposed itself; the others it has inherited.
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
            world.fail(format!("n{at} proposes op{id} as entry {index} at {now}, past its deadline, {deadline}"));
        }
    }
}

/// Checks that the entries which a node has just applied are those that every other node has applied at their indexes.
fn applied_entries(world: &mut World, at: usize, from: Progress, to: Progress) {
    let applied = world.nodes[at].engine.journal(to.raft_id, |journal| {
        let range = journal.entries.range(from.applied + 1..=to.applied);
        range.map(|(index, entry)| (*index, entry.clone())).collect::<Vec<_>>()
    });
    for (index, entry) in applied.unwrap_or_default() {
        let known = world.observed.applied.get(&index).cloned();
        match known {
            // Log matching, at the moment of applying: index, term and data are the same on every node.
            Some(known) if known != entry => {
                world.fail(format!("n{at} applies {entry:?} at {index}, another node applied {known:?} there"));
            }
            Some(_) => {}
            None => {
                let (operation, has_key) = (entry.operation(), entry.has_key());
                world.observed.applied.insert(index, entry);
                world.observed.applied_at.insert(index, world.now);
                let Some(id) = operation else { continue };
                match world.observed.operations.get(&id) {
                    // With an idempotency key only the first one has an effect.
                    Some(_) if has_key => {}
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

/// A hash of all that must be equal at an equal applied index.
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
