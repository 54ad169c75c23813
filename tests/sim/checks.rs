//! What must be true after every turn, at every answer, and at the end.
//!
//! Not here: what may not leave before which sync (`port`), and that term, vote and commit never move back on a disk
//! (`journal`).

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};

use huskv::changefeed::{FeedRead, Filter};
use huskv::consensus::{Driver, Input};
use huskv::model::{
    Answer, Cursor, EventKind, Item, List, MemberChange, PeerTable, Request, Role, State, Status, Written, after,
};
use huskv::plant::{self, Plant};

use crate::disks;
use crate::engine::SimEngine;
use crate::journal::Entry;
use crate::linear;
use crate::lives;
use crate::nemesis;
use crate::port::Said;
use crate::replay;
use crate::world::World;

/// What one node was at, at least.
#[derive(Debug, Default, Clone, Copy)]
pub struct Seen {
    raft_id: u64,
    term: u64,
    commit: u64,
    applied: u64,
}

impl Seen {
    /// Up to where it had applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// After a crash only what was synced binds the node.
    pub fn crashed(&mut self, engine: &SimEngine, durable: (u64, u64)) {
        if let Some(synced) = engine.journal(self.raft_id, |journal| journal.synced) {
            (self.term, self.commit) = (synced.term, synced.commit);
        }
        self.applied = if durable.0 == self.raft_id { durable.1 } else { 0 };
    }
}

/// A client that watches every key on a node: which of its lives it watches, where it is, and what it makes of the keys.
#[derive(Debug, Default)]
pub struct Mirror {
    watched: (u64, u64),
    cursor: Option<Cursor>,
    items: BTreeMap<Vec<u8>, Item>,
}

/// What is known of the whole cluster.
#[derive(Default)]
pub struct Book {
    /// Who led which term.
    pub leaders: BTreeMap<u64, u64>,
    /// What the store looked like at an applied index, on whichever node got there first.
    states: BTreeMap<u64, u64>,
    /// The entry that was applied at an index, and the hash of it and of all before it that are known.
    applied: BTreeMap<u64, Entry>,
    /// When the entry at an index was first applied.
    applied_at: BTreeMap<u64, u64>,
    /// Where a client's write was applied, and when first.
    operations: BTreeMap<u64, (u64, u64)>,
    /// Raft ids that any node has ever known to be removed.
    tombstones: BTreeSet<u64>,
    /// Raft ids that nodes have taken on because a leader asked them to.
    pub adopted: BTreeSet<u64>,
    /// Writes whose clients were told that they were not applied.
    refused: BTreeSet<u64>,
    /// All raft ids that any node ever had.
    ids: BTreeSet<u64>,
    /// By when each write was to be proposed: the latest that any of its clients waits.
    pub deadlines: BTreeMap<u64, u64>,
    /// When each membership entry was proposed, by index and term.
    changes: BTreeMap<(u64, u64), (u64, MemberChange)>,
    /// The name of each member that there ever was.
    names: BTreeMap<u64, String>,
    /// Membership requests that were refused as not applied.
    pub denied: Vec<Denied>,
}

/// A membership request that was refused as not applied: from the moment that it was asked to the next one about the same
/// name no entry that is applied may have been proposed for it.
pub struct Denied {
    pub request: Request,
    pub name: String,
    pub asked: u64,
    pub next: u64,
}

impl Book {
    /// The cluster's time, as the latest of the entries that are known to be applied say.
    pub fn clock(&self) -> u64 {
        let stamps = self.applied.values().filter_map(|entry| Some(entry.proposal.as_deref()?.stamp));
        stamps.max().unwrap_or(0)
    }

    /// The greatest index that any node had applied at a moment, as far as that is known.
    pub fn applied_by(&self, moment: u64) -> u64 {
        let by = self.applied_at.iter().rev().find(|(_, at)| **at <= moment);
        by.map_or(0, |(index, _)| *index)
    }

    /// Whether a client's write is known to be applied.
    pub fn was_applied(&self, operation: u64) -> bool {
        self.operations.contains_key(&operation)
    }

    /// A refusal that was not true.
    fn broken_word(&self) -> Option<String> {
        self.denied.iter().find_map(|denied| {
            let ((index, _), (at, change)) = self.changes.iter().find(|((index, term), (at, change))| {
                let is_applied = self.applied.get(index).is_some_and(|entry| entry.term == *term);
                let about = match change {
                    MemberChange::Set(member) if member.role == Role::Learner => Some(&member.name),
                    // Any leader promotes any learner that has caught up.
                    MemberChange::Set(_) => None,
                    MemberChange::Remove { raft_id } => self.names.get(raft_id),
                };
                is_applied && (denied.asked..denied.next).contains(at) && about == Some(&denied.name)
            })?;
            let request = &denied.request;
            Some(format!("{request:?} was refused as not applied, and entry {index}, proposed at {at}, is {change:?}"))
        })
    }
}

fn ask(world: &mut World, at: usize, make: impl FnOnce(Arc<Mutex<Vec<Status>>>) -> Input) -> Option<Status> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let now = world.now + world.nodes[at].ahead;
    let driver = world.nodes[at].driver.as_mut()?;
    driver.handle(now, make(heard.clone())).ok()?;
    heard.lock().expect("one thread").pop()
}

/// How a living node is.
pub fn status(world: &mut World, at: usize) -> Option<Status> {
    ask(world, at, |heard| Input::Status {
        reply: Box::new(move |status| heard.lock().expect("one thread").push(status)),
    })
}

/// How many turns of a node are remembered; no entry that is committed waits longer for its own.
const LATEST_TURNS: usize = 512;

/// One leader a term; nothing moves back; equal entries and equal state at equal index.
pub fn after_turn(world: &mut World, at: usize) {
    let Some(status) = status(world, at) else { return };
    if lives::takes_no_part(world, at, &status) {
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
    if world.nodes[at].seen.raft_id != raft_id {
        world.nodes[at].seen = Seen { raft_id, ..Seen::default() };
    }
    let seen = world.nodes[at].seen;
    let is = Seen { raft_id, term: status.term, commit: status.commit_index, applied: status.applied_index };
    if is.term < seen.term || is.commit < seen.commit || is.applied < seen.applied {
        world.fail(format!("n{at} moves back: {is:?}, before {seen:?}"));
    }
    world.nodes[at].seen = is;
    let latest = &mut world.nodes[at].voters;
    latest.truncate(LATEST_TURNS - 1);
    latest.push_front((status.commit_index, voters(&status)));
    kept(world, at, &status);
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
        world.book.names.entry(member.raft_id).or_insert_with(|| member.node_id.clone());
    }
    proposed(world, at, &status);
    if status.state == State::Leader {
        let first = *world.book.leaders.entry(status.term).or_insert(raft_id);
        if first != raft_id {
            world.fail(format!("term {} is led by {first} and by {raft_id}", status.term));
        }
    }
    if is.applied != seen.applied {
        entries(world, at, seen, is);
        watch(world, at, is.applied);
        let state = fingerprint(world, at, &status);
        let known = *world.book.states.entry(is.applied).or_insert(state);
        // That bug is to be found by the nodes themselves.
        if known != state && !plant::is(Plant::SilentDivergence) {
            world.fail(format!("n{at} differs from another node at applied index {}", is.applied));
        }
    }
}

/// What a leader has just proposed: no request whose time is over, by the clock that its client looks at.
fn proposed(world: &mut World, at: usize, status: &Status) {
    let from = world.nodes[at].scanned_log.min(status.last_log_index);
    world.nodes[at].scanned_log = status.last_log_index;
    if status.state != State::Leader {
        return;
    }
    let entries = world.nodes[at].engine.journal(status.raft_id, |journal| {
        let own = journal.entries.range(from + 1..).filter(|(_, entry)| entry.term == status.term);
        own.map(|(index, entry)| (*index, entry.clone())).collect::<Vec<_>>()
    });
    let now = world.now;
    for (index, entry) in entries.unwrap_or_default() {
        disks::check(world, at, status, index, &entry);
        let (operation, change) = (entry.operation(), entry.change);
        if let Some(change) = change {
            world.book.changes.entry((index, status.term)).or_insert((now, change));
            nemesis::at_change(world);
        }
        if let Some(id) = operation
            && let Some(deadline) = world.book.deadlines.get(&id).copied()
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
fn entries(world: &mut World, at: usize, from: Seen, to: Seen) {
    let applied = world.nodes[at].engine.journal(to.raft_id, |journal| {
        let range = journal.entries.range(from.applied + 1..=to.applied);
        range.map(|(index, entry)| (*index, entry.clone())).collect::<Vec<_>>()
    });
    for (index, entry) in applied.unwrap_or_default() {
        let known = world.book.applied.get(&index).cloned();
        match known {
            Some(known) if known != entry => {
                world.fail(format!("n{at} applies {entry:?} at {index}, another node applied {known:?} there"));
            }
            Some(_) => {}
            None => {
                let (operation, named) = (entry.operation(), entry.is_named());
                world.book.applied.insert(index, entry);
                world.book.applied_at.insert(index, world.now);
                let Some(id) = operation else { continue };
                match world.book.operations.get(&id) {
                    // Only the first of them does anything.
                    Some(_) if named => {}
                    Some((other, _)) => {
                        let failure = format!("op{id} is applied at {other} and again at {index}");
                        world.fail(failure);
                    }
                    None => drop(world.book.operations.insert(id, (index, world.now))),
                }
            }
        }
    }
}

/// A raft id belongs to one incarnation of one directory, for ever. A member becomes another one only once it was removed;
/// a node that joins may go back to what it was.
pub fn identity(world: &mut World, at: usize, table: &PeerTable) {
    // Nodes whose effects were not synced may show an older table after a crash.
    world.book.tombstones.extend(table.tombstones.iter().copied());
    if table.removed && !world.nodes[at].table.removed && !world.book.tombstones.contains(&table.raft_id) {
        world.fail(format!("n{at} is removed, and no node has removed it"));
    }
    let old = world.nodes[at].table.raft_id;
    if old == table.raft_id {
        return;
    }
    // What a node was told before, it has forgotten.
    world.nodes[at].told.clear();
    if world.nodes[at].kept == Some(table.raft_id) {
        world.nodes[at].kept = None;
        return world.say(|| format!("n{at} goes back to what it was"));
    }
    if !world.book.ids.insert(table.raft_id) {
        world.fail(format!("n{at} comes under raft id {}, which was used before", table.raft_id));
    }
    if old == 0 {
        return;
    }
    if world.nodes[at].member == Some(old) && !world.nodes[at].table.removed {
        world.fail(format!("n{at} gives up that it is a member, and nobody has removed it"));
    }
    world.nodes[at].kept.get_or_insert(old);
}

/// What a node was is there until the state of the cluster that has adopted it is, and what was stored in it with it.
fn kept(world: &mut World, at: usize, status: &Status) {
    let node = &mut world.nodes[at];
    if let Some(kept) = node.kept {
        if !status.joining {
            node.kept = None;
        } else if node.engine.journal(kept, |_| ()).is_none() {
            world.fail(format!(
                "n{at} joins and cannot go back: what it was is gone before the cluster's state has come"
            ));
            return;
        }
    }
    let node = &mut world.nodes[at];
    if !status.joining && !status.removed && status.members.len() > 1 {
        node.member = Some(status.raft_id);
    }
    let Some(own) = node.own.clone().filter(|own| own.raft_id == status.raft_id) else { return };
    if status.applied_index >= own.version && status.members.len() == 1 {
        let held = stored(world, at).get(own.key.as_bytes()).map(|item| item.version);
        // A later write of it may have been done without an answer.
        if held.is_none_or(|version| version < own.version) {
            world.fail(format!("n{at} has lost {own:?}, which was acknowledged: it holds version {held:?}"));
        }
    }
}

/// A write that a leader acknowledges is on the synced disks of a majority of the voters.
pub fn acknowledged(world: &mut World, at: usize, said: &Said) {
    let (Said::Client { result: Ok(answer), .. } | Said::Forwarded { result: Ok(answer), .. }) = said else { return };
    let Answer::Written(Written { index, term, .. }) = *answer else { return };
    let Some(status) = status(world, at) else { return };
    if status.state != State::Leader || status.term != term || world.admin.wiped.is_some() {
        return;
    }
    let synced = |voters: &[u64]| {
        let has = |raft_id: &&u64| {
            let on = |engine: &SimEngine| engine.journal(**raft_id, |journal| journal.synced.last >= index);
            world.nodes.iter().any(|node| on(&node.engine) == Some(true))
        };
        voters.iter().filter(has).count()
    };
    // An entry is committed by the voters that are in force then; entries before it that are applied in the same turn, or in
    // earlier ones while it waits for its own, may change them. In one turn they change once, or twice where a removal leaves
    // a voter alone, which promotes the next by itself.
    let now = voters(&status);
    let latest = &world.nodes[at].voters;
    let since = latest.iter().position(|(commit, _)| *commit < index).map_or(latest.len(), |at| at + 1);
    let mut sets: Vec<_> = std::iter::once(&now).chain(latest.iter().take(since).map(|(_, voters)| voters)).collect();
    let between: Vec<Vec<u64>> =
        sets.windows(2).map(|two| two[0].iter().copied().filter(|voter| two[1].contains(voter)).collect()).collect();
    sets.extend(&between);
    if !sets.iter().any(|voters| synced(voters) > voters.len() / 2) {
        let (has, all) = (synced(&now), now.len());
        world.fail(format!("n{at} acknowledges entry {index} of term {term}, which {has} of {all} voters have synced"));
    }
}

/// The voters that a node lists.
pub fn voters(status: &Status) -> Vec<u64> {
    status.members.iter().filter(|member| member.role == Role::Voter).map(|member| member.raft_id).collect()
}

/// What a client was told of its write agrees with what the nodes have applied.
pub fn told(world: &mut World, id: u64, version: Option<u64>) {
    match version {
        Some(version) => {
            let there = world.book.applied.get(&version).map(Entry::operation);
            if there.is_some_and(|there| there != Some(id)) {
                world.fail(format!("op{id} is acknowledged at {version}, where op {there:?} was applied"));
            }
        }
        None => drop(world.book.refused.insert(id)),
    }
}

/// The events of a node, in order, lead from what the keys were to what they are. Where there are none to go on from, the
/// keys are read anew, as a client would list them.
fn watch(world: &mut World, at: usize, applied: u64) {
    let every = Filter::Prefix(bytes::Bytes::new());
    let life = world.nodes[at].life;
    let Some(driver) = world.nodes[at].driver.as_ref() else { return };
    let feed = driver.feed().clone();
    let Ok(opened) = feed.open(None) else { return };
    let mut mirror = std::mem::take(&mut world.nodes[at].mirror);
    let mut cursor = mirror.cursor.take().filter(|_| mirror.watched == (life, opened.epoch));
    let mut wrong = None;
    while let Some(from) = cursor {
        let FeedRead::Found { events, cursor: next, all, .. } = feed.read(opened.epoch, from, &every) else {
            cursor = None;
            break;
        };
        let mut last = from;
        for event in events {
            if event.at() < last {
                wrong = Some(format!("n{at} tells of {} again", event.id()));
            }
            last = event.after();
            let known = match &event.kind {
                EventKind::Put(item) => mirror.items.insert(event.key.to_vec(), item.clone()),
                EventKind::Deleted | EventKind::Expired => mirror.items.remove(&event.key[..]),
            };
            if matches!(event.kind, EventKind::Put(_)) || known.is_some() {
                continue;
            }
            wrong = Some(format!("n{at} tells at {} that a key is gone which was not there", event.id()));
        }
        cursor = Some(next);
        if all {
            break;
        }
    }
    let items = stored(world, at);
    // Whoever watches is not told of a touch.
    mirror.items.iter_mut().for_each(|(key, item)| item.expires = items.get(key).and_then(|item| item.expires));
    if cursor.is_some() && mirror.items != items {
        let (told, is) = (&mirror.items, &items);
        wrong = wrong.or(Some(format!("n{at} at {applied}: its events make {told:?} of the keys, which are {is:?}")));
    }
    if let Some(wrong) = wrong {
        world.fail(wrong);
    }
    let cursor = Some(cursor.unwrap_or(opened.cursor));
    world.nodes[at].mirror = Mirror { watched: (life, opened.epoch), cursor, items };
}

/// All that a node holds.
pub fn stored(world: &World, at: usize) -> BTreeMap<Vec<u8>, Item> {
    let mut list = List { start: Vec::new(), end: None, reverse: false, limit: 1000, keys_only: false };
    let mut found = BTreeMap::new();
    while let Some(page) = world.nodes[at].driver.as_ref().and_then(|driver| driver.list(&list).ok()) {
        list.start = page.items.last().map(|(key, _)| after(key)).unwrap_or_default();
        found.extend(page.items.into_iter().filter_map(|(key, item)| Some((key.to_vec(), item?))));
        if !page.more {
            break;
        }
    }
    found
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

/// At the end: every key's history has an order that explains it, and what was refused never happened.
pub fn history(world: &mut World) {
    let both = world.book.refused.iter().find_map(|id| Some((*id, world.book.operations.get(id)?.0)));
    if let Some((id, index)) = both {
        world.fail(format!("op{id} was refused as not applied, and is applied at {index}"));
    }
    if world.failure.is_some() {
        return;
    }
    if let Some(broken) = world.book.broken_word() {
        return world.fail(broken);
    }
    let applied = |id: u64| world.book.operations.get(&id).map(|(_, at)| *at);
    let written = |index: u64| world.book.applied.get(&index)?.operation();
    let entries = world.book.applied.iter().map(|(index, entry)| (*index, entry.proposal.as_deref()));
    let replay::Replayed { done, expired } = replay::replay(entries);
    // Kept from the moment that it was asked for: no clock, failover or pause may end that early.
    let early = expired.iter().find_map(|(version, removal)| {
        let (id, at) = (written(*version)?, *world.book.applied_at.get(removal)?);
        let until = *world.clients.keeps.get(&id)?;
        (at < until).then(|| format!("op{id} was to be kept until {until}, and is gone by entry {removal} at {at}"))
    });
    if let Some(early) = early {
        return world.fail(early);
    }
    let histories = match world.clients.histories(applied, written, &done) {
        Ok(histories) => histories,
        Err(failure) => return world.fail(failure),
    };
    for (key, history) in histories {
        if let Err(timeline) = linear::check(&history) {
            world.fail(format!("key k{key} is not linearizable: {timeline}"));
        }
    }
}
