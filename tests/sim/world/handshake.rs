//! Handshakes: which boot of a peer a node speaks to.
//!
//! Why: a copied disk shows the identity of its original. Only boot ids and addresses tell them apart, by the rules of the
//! real transport (`model::BootHistory`, `PeerTable::unconfirmed_move`, `storage::Peers`), which are called here.
//!
//! Example: node 1 has run as boots 1 and 2, and node 2 has recorded boot 2. The disk of node 1 as of boot 1 is started
//! again. It shows a boot history that continues from boot 1, node 2 knows boot 2, and refuses it.

use huskv::consensus::Input;
use huskv::model::{BootHistory, PeerTable};
use huskv::storage::Peers;
use huskv::transport::is_member;

use crate::world::disk::{Fault, SimEngine};
use crate::world::{Event, World};

/// The least time between two reports of the same identity conflict to a node.
const REPORT_EVERY: u64 = 1_000;

impl World {
    /// Has a node dial every peer that it reaches, as the real transport does all the time.
    pub fn dial_peers(&mut self, at: usize) {
        for other in 0..self.size {
            let reached = other != at && self.nodes[other].driver.is_some();
            if reached && self.connected(at, other) && self.connected(other, at) && self.is_peer(at, other) {
                self.handshake(at, other);
            }
        }
    }

    /// Whether two nodes are of one cluster and the table of the first lists the second.
    pub fn is_peer(&self, at: usize, other: usize) -> bool {
        let (one, other) = (&self.nodes[at].table, &self.nodes[other].table);
        one.cluster_id == other.cluster_id && one.raft_id != other.raft_id && one.lists(other.raft_id)
    }

    /// Shakes hands: whether the acceptor takes what the dialler sends.
    ///
    /// Both sides show their boot history, check the other one's, and record the boot id durably before they speak.
    pub fn handshake(&mut self, from: usize, to: usize) -> bool {
        let (dialler, acceptor) = (&self.nodes[from], &self.nodes[to]);
        let (Some(known_there), Some(known_here)) = (&acceptor.peers, &dialler.peers) else { return false };
        let (here, there) = (&dialler.table, &acceptor.table);
        if !self.is_certified(from, here.raft_id, to) || !self.is_certified(to, there.raft_id, from) {
            return false;
        }
        // A node that reports a move is spoken to once its new address is recorded: a copied disk would report the same.
        if here.unconfirmed_move(there.raft_id, there.moved, &there.raft_address).is_some() {
            return false;
        }
        let shown =
            |table: &PeerTable, known: &Peers, to: u64, latest| table.boot_history_for(to, known.heard(to), latest);
        let presented = shown(here, known_here, there.raft_id, None);
        // The acceptor knows a later boot than the dialler shows: one of them runs on a copied disk. Both are told.
        if known_there.check(here.raft_id, &presented).is_err() {
            let (here, there) = (here.raft_id, there.raft_id);
            self.report_conflict(to, here, false);
            self.report_conflict(from, there, true);
            return false;
        }
        if there.unconfirmed_move(here.raft_id, here.moved, &here.raft_address).is_some() {
            return false;
        }
        // Recorded first by the acceptor, then by the dialler. A crash between the two leaves a boot id that the next handshake
        // confirms, since a history may always continue from what is known.
        if !record_boot(&acceptor.engine, known_there, here.raft_id, &presented, None, there)
            .is_some_and(|is_peer| is_peer)
        {
            return false;
        }
        let answered = shown(there, known_there, here.raft_id, known_here.boot_id(there.raft_id));
        let is_peer = record_boot(&dialler.engine, known_here, there.raft_id, &answered, Some(here), here);
        if is_peer == Some(false) {
            let there = there.raft_id;
            self.report_conflict(from, there, false);
        }
        is_peer == Some(true)
    }

    /// Whether the certificate of a node lets it speak to another one under this raft id, by the rule of the real transport.
    fn is_certified(&self, speaker: usize, raft_id: u64, listener: usize) -> bool {
        self.is_certified_as(&certificate_name(self.nodes[speaker].original), raft_id, listener)
    }

    /// As [`World::is_certified`], by the name in the certificate.
    pub fn is_certified_as(&self, certified: &str, raft_id: u64, listener: usize) -> bool {
        if !self.secure {
            return true;
        }
        let (table, offered_by) = (&self.nodes[listener].table, &self.nodes[listener].offered_by);
        let offered_by = offered_by.as_ref().map(|(leader, name)| (*leader, name.as_str()));
        let is_believed = |member: &PeerTable| {
            table.lists(member.raft_id)
                || offered_by.is_some_and(|(leader, _)| table.joining && leader == member.raft_id)
        };
        // Members tell each other whom they list, once a second.
        let tells = |at: usize| {
            let member = &self.nodes[at];
            member.driver.is_some()
                && at != listener
                && self.connected(at, listener)
                && self.connected(listener, at)
                && member.table.cluster_id == table.cluster_id
                && is_believed(&member.table)
                && member.table.name_of(raft_id).is_some_and(|name| name == certified)
        };
        is_member(table, raft_id, certified, offered_by, || (0..self.size).any(tells))
    }

    /// Reports an identity conflict to a node, at most once in [`REPORT_EVERY`].
    fn report_conflict(&mut self, at: usize, raft_id: u64, of_this_node: bool) {
        let due = self
            .reported_conflicts
            .get(&(at, raft_id, of_this_node))
            .is_none_or(|reported| self.now >= reported + REPORT_EVERY);
        if due {
            self.reported_conflicts.insert((at, raft_id, of_this_node), self.now);
            let detail = "copy of a disk".into();
            let process = (at, self.nodes[at].starts);
            self.after(1, Event::Input(process, Box::new(Input::IdentityConflict { raft_id, of_this_node, detail })));
        }
    }
}

/// The name in the certificate of a node, and of a copy of its disk.
pub fn certificate_name(at: usize) -> String {
    format!("n{at}")
}

/// Records the boot id of a peer.
///
/// `None` where the disk does not take it, `false` where the history does not continue from the known boot id.
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
    // A host that is no member leaves no trace on the disk: only the check is made.
    if !table.lists(raft_id) {
        return Some(known.check(raft_id, boot_history).is_ok());
    }
    // On a real node a disk that fails here ends the connection alone, which is not simulated: the write always passes.
    let fault = engine.fault();
    let fails = matches!(fault, Fault::FailAfter(_) | Fault::Failed);
    if fails {
        engine.set_fault(Fault::None);
    }
    let is_peer = known.record(raft_id, boot_history, heard, |known| !table.tombstones.contains(&known));
    if fails {
        engine.set_fault(fault);
    }
    is_peer.ok().map(|is_peer| is_peer.is_ok())
}
