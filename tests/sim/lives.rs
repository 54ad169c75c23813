//! Disks that are brought back from older copies, and copies that start beside the node that they were made of.
//!
//! Why: a copy says of itself what its original says. Only the lives that others have spoken to since, and the address, tell
//! them apart, by the rules that the real transport asks (`model::BootHistory`, `PeerTable::unconfirmed_move`, `storage::Peers`).
//!
//! Laws: neither a disk that was brought back nor a copy takes part again: its log does not grow and it leads nobody. Disks
//! are brought back one at a time, while all is well and everybody has heard of a later life: what nobody knows of cannot
//! be missed, and a majority that was brought back together is an older cluster.
//!
//! Not here: copies of a cluster whose members are followed by their own word, which are told apart only once both speak.

use huskv::consensus::Input;
use huskv::model::{BootHistory, PeerTable, Status};
use huskv::storage::Peers;

use crate::admin;
use crate::engine::{Fate, SimEngine};
use crate::nemesis;
use crate::world::{Event, World};

/// How often a conflict is told to a node.
const TOLD_EVERY: u64 = 1_000;

/// An image of a node's disk, and who the node was then.
pub struct Image {
    engine: SimEngine,
    table: PeerTable,
}

/// A raft id that must not take part any more, and where its log ended when it came back.
#[derive(Clone, Copy)]
pub struct Barred {
    raft_id: u64,
    last: Option<u64>,
}

/// One fault of this kind.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 100 + world.copyist.below(300);
    world.after(pause, Event::Copy);
    let at = usize::try_from(world.copyist.below(world.size as u64)).expect("small");
    match world.copyist.below(10) {
        // Its configuration is one in which it is no majority.
        0 if world.admin.complete && world.nodes[at].table.peers.len() + 1 == world.size => {
            let (mut rng, node) = (world.copyist.fork(), &mut world.nodes[at]);
            node.image = Some(Image { engine: node.engine.crashed(&mut rng), table: node.table.clone() });
            world.say(|| format!("the disk of n{at} is copied"));
        }
        1..=5 if later_life_is_known(world, at) && admin::settled(world) => bring_back(world, at),
        6 if !world.follow_moves && world.nodes.len() == world.size => start_beside(world, at),
        7 => replace(world),
        _ => {}
    }
}

/// Nodes whose disks were brought back are given empty ones: what an operator is told to do.
pub fn replace(world: &mut World) {
    for at in 0..world.size {
        if world.nodes[at].barred.is_some() {
            nemesis::wipe(world, at);
        }
    }
}

/// Whether all others have heard of a life of this node since its disk was copied.
fn later_life_is_known(world: &World, at: usize) -> bool {
    let node = &world.nodes[at];
    let Some(image) = &node.image else { return false };
    let (raft_id, current) = (node.table.raft_id, node.table.boot_history.current);
    let knows =
        |other: &usize| world.nodes[*other].peers.as_ref().and_then(|peers| peers.boot_id(raft_id)) == Some(current);
    image.table.raft_id == raft_id
        && image.table.boot_history.current.count < current.count
        && (0..world.size).filter(|other| *other != at).all(|other| knows(&other))
}

fn bring_back(world: &mut World, at: usize) {
    world.say(|| format!("the disk of n{at} is brought back from a copy"));
    let mut rng = world.copyist.fork();
    nemesis::lose(world, at);
    let node = &mut world.nodes[at];
    if let Some(image) = &node.image {
        node.engine = image.engine.crashed(&mut rng);
        node.barred = Some(Barred { raft_id: image.table.raft_id, last: None });
        // It does not come under a new raft id.
        node.table = image.table.clone();
    }
    world.after(100, Event::Restart(at));
}

/// The copy starts elsewhere, and what it was made of goes on.
fn start_beside(world: &mut World, at: usize) {
    let mut rng = world.copyist.fork();
    let Some(Image { engine, table }) = &world.nodes[at].image else { return };
    let (engine, table) = (engine.crashed(&mut rng), table.clone());
    let barred = Some(Barred { raft_id: table.raft_id, last: None });
    let beside = world.nodes.len();
    world.say(|| format!("n{beside} starts on a copy of the disk of n{at}"));
    let mut node = world.node(engine, at);
    // No node of the world is ever there.
    (node.table, node.barred, node.place) = (table, barred, 0);
    world.nodes.push(node);
    world.after(1, Event::Restart(beside));
}

/// Whether this turn was that of a node that takes no part, which is all that is asked of it.
pub fn takes_no_part(world: &mut World, at: usize, status: &Status) -> bool {
    let Some(Barred { raft_id, last }) = world.nodes[at].barred else { return false };
    if status.raft_id != raft_id {
        world.nodes[at].barred = None;
        return false;
    }
    let last = last.unwrap_or(status.last_log_index);
    world.nodes[at].barred = Some(Barred { raft_id, last: Some(last) });
    if status.last_log_index > last || status.state == huskv::model::State::Leader {
        world.fail(format!("n{at}, on a copy of a disk, takes part again"));
    }
    true
}

impl World {
    /// Lets a node dial every other that it reaches, as the real ones do all the time.
    pub fn greet(&mut self, at: usize) {
        for other in 0..self.size {
            let reached = other != at && self.nodes[other].driver.is_some();
            if reached && self.connected(at, other) && self.connected(other, at) && self.is_peer(at, other) {
                self.met(at, other);
            }
        }
    }

    /// Whether two nodes are of one cluster, and the table of the one lists the other.
    pub fn is_peer(&self, at: usize, other: usize) -> bool {
        let (one, other) = (&self.nodes[at].table, &self.nodes[other].table);
        one.cluster_id == other.cluster_id && one.raft_id != other.raft_id && one.lists(other.raft_id)
    }

    /// The handshake between two nodes: whether what the one sends is heard by the other.
    pub fn met(&mut self, from: usize, to: usize) -> bool {
        let (dialler, acceptor) = (&self.nodes[from], &self.nodes[to]);
        let (Some(known_there), Some(known_here)) = (&acceptor.peers, &dialler.peers) else { return false };
        let (here, there) = (&dialler.table, &acceptor.table);
        if here.unconfirmed_move(there.raft_id, there.moved, &there.raft_address).is_some() {
            return false;
        }
        let told =
            |table: &PeerTable, known: &Peers, to: u64, shown| table.boot_history_for(to, known.heard(to), shown);
        let said = told(here, known_here, there.raft_id, None);
        if known_there.check(here.raft_id, &said).is_err() {
            let (here, there) = (here.raft_id, there.raft_id);
            self.conflict(to, here, false);
            self.conflict(from, there, true);
            return false;
        }
        if there.unconfirmed_move(here.raft_id, here.moved, &here.raft_address).is_some() {
            return false;
        }
        if !note(&acceptor.engine, known_there, here.raft_id, &said, None, there).is_some_and(|met| met) {
            return false;
        }
        let answered = told(there, known_there, here.raft_id, known_here.boot_id(there.raft_id));
        let met = note(&dialler.engine, known_here, there.raft_id, &answered, Some(here), here);
        if met == Some(false) {
            let there = there.raft_id;
            self.conflict(from, there, false);
        }
        met == Some(true)
    }

    fn conflict(&mut self, at: usize, raft_id: u64, of_this_node: bool) {
        let due = self.conflicts.get(&(at, raft_id, of_this_node)).is_none_or(|told| self.now >= told + TOLD_EVERY);
        if due {
            self.conflicts.insert((at, raft_id, of_this_node), self.now);
            let detail = "copy of a disk".into();
            let life = (at, self.nodes[at].life);
            self.after(1, Event::Input(life, Box::new(Input::IdentityConflict { raft_id, of_this_node, detail })));
        }
    }
}

/// Takes note of a peer; None where the disk does not take it, false where it is not the peer that is known.
fn note(
    engine: &SimEngine,
    known: &Peers,
    raft_id: u64,
    boot_history: &BootHistory,
    heard: Option<&PeerTable>,
    table: &PeerTable,
) -> Option<bool> {
    let heard = heard.map(|table| table.boot_history.current);
    if known.is_recorded(raft_id, boot_history.current, heard) {
        return Some(true);
    }
    if !table.lists(raft_id) {
        return Some(known.check(raft_id, boot_history).is_ok());
    }
    // A disk that fails here fails the connection and not the node; that is not what this simulator looks at.
    let outcome = engine.outcome();
    let fails = matches!(outcome, Fate::Fail(_) | Fate::Failed);
    if fails {
        engine.set_outcome(Fate::Whole);
    }
    let met = known.record(raft_id, boot_history, heard, |known| !table.tombstones.contains(&known));
    if fails {
        engine.set_outcome(outcome);
    }
    met.ok().map(|met| met.is_ok())
}
