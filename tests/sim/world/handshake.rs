//! The handshake of two nodes.

use huskv::consensus::Input;
use huskv::model::{BootHistory, PeerTable};
use huskv::storage::Peers;

use crate::world::disk::{Fault, SimEngine};
use crate::world::{Event, World};

/// How often a conflict is told to a node.
const TOLD_EVERY: u64 = 1_000;

impl World {
    /// Lets a node dial every other that it reaches, as the real ones do all the time.
    pub fn dial_peers(&mut self, at: usize) {
        for other in 0..self.size {
            let reached = other != at && self.nodes[other].driver.is_some();
            if reached && self.connected(at, other) && self.connected(other, at) && self.is_peer(at, other) {
                self.handshake(at, other);
            }
        }
    }

    /// Whether two nodes are of one cluster, and the table of the one lists the other.
    pub fn is_peer(&self, at: usize, other: usize) -> bool {
        let (one, other) = (&self.nodes[at].table, &self.nodes[other].table);
        one.cluster_id == other.cluster_id && one.raft_id != other.raft_id && one.lists(other.raft_id)
    }

    /// The handshake between two nodes: whether what the one sends is heard by the other.
    pub fn handshake(&mut self, from: usize, to: usize) -> bool {
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
            self.report_conflict(to, here, false);
            self.report_conflict(from, there, true);
            return false;
        }
        if there.unconfirmed_move(here.raft_id, here.moved, &here.raft_address).is_some() {
            return false;
        }
        if !record_boot(&acceptor.engine, known_there, here.raft_id, &said, None, there).is_some_and(|is_met| is_met) {
            return false;
        }
        let answered = told(there, known_there, here.raft_id, known_here.boot_id(there.raft_id));
        let is_met = record_boot(&dialler.engine, known_here, there.raft_id, &answered, Some(here), here);
        if is_met == Some(false) {
            let there = there.raft_id;
            self.report_conflict(from, there, false);
        }
        is_met == Some(true)
    }

    fn report_conflict(&mut self, at: usize, raft_id: u64, of_this_node: bool) {
        let due =
            self.reported_conflicts.get(&(at, raft_id, of_this_node)).is_none_or(|told| self.now >= told + TOLD_EVERY);
        if due {
            self.reported_conflicts.insert((at, raft_id, of_this_node), self.now);
            let detail = "copy of a disk".into();
            let process = (at, self.nodes[at].starts);
            self.after(1, Event::Input(process, Box::new(Input::IdentityConflict { raft_id, of_this_node, detail })));
        }
    }
}

/// Takes note of a peer; None where the disk does not take it, false where it is not the peer that is known.
fn record_boot(
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
    let fault = engine.fault();
    let fails = matches!(fault, Fault::FailAfter(_) | Fault::Failed);
    if fails {
        engine.set_fault(Fault::None);
    }
    let is_met = known.record(raft_id, boot_history, heard, |known| !table.tombstones.contains(&known));
    if fails {
        engine.set_fault(fault);
    }
    is_met.ok().map(|is_met| is_met.is_ok())
}
