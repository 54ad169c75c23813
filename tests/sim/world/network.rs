//! The network between nodes: where the output of a turn goes, and how raft messages travel.
//!
//! Invariants: a message reaches only the incarnation that it was sent to, as the real transport promises, and nothing more
//! is promised: it is delayed, dropped, repeated and reordered.
//!
//! See also: `rpc` for what is answered, `handshake` for who may speak, `snapshot_streams`.

use huskv::consensus::{Input, Names};
use raft::eraftpb::Message;

use crate::checks::{acknowledgement, identity};
use crate::faults::{disk_space, rogue_member};
use crate::world::outbox::{Output, Process};
use crate::world::{Event, Node, World};

impl World {
    /// The running node that has this raft id in this cluster.
    pub fn incarnation(&self, raft_id: u64, cluster: u64) -> Option<usize> {
        let is =
            |node: &Node| node.driver.is_some() && node.table.raft_id == raft_id && node.table.cluster_id == cluster;
        // A copied disk is never found here: the table has the member at the address of the original.
        self.nodes[..self.size].iter().position(|node| is(node) && !node.table.removed)
    }

    /// The running node at this raft address.
    pub fn addressed(&self, address: &str) -> Option<usize> {
        let up = |node: &Node| node.driver.is_some() && node.table.raft_address == address;
        self.nodes.iter().position(up)
    }

    /// Whether the link from one node to another is whole.
    pub fn connected(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut_links.contains(&(from, to))
    }

    /// Draws the delay of a message: up to 8 ms, and under faults up to 800 ms in 5 of 100 cases.
    pub fn delay(&mut self) -> u64 {
        if self.faults && self.rng.chance(5) { 1 + self.rng.below(800) } else { 1 + self.rng.below(8) }
    }

    /// Sends one output of a turn on its way.
    pub fn dispatch(&mut self, process: Process, out: Output) {
        match out {
            Output::Send(message) => self.send(process, *message),
            Output::Violation(what) => self.fail(format!("n{}: {what}", process.0)),
            Output::Forward { token, to, hop, request, timeout } => {
                self.forward(process, token, (to, hop), request, timeout)
            }
            Output::Identify { token, address } => self.identify(process, token, &address),
            Output::JoinOffer { token, address, offer } => self.offer_join(process, token, &address, *offer),
            Output::Probe { token, address, probe } => self.probe(process, token, &address, probe),
            Output::TellDigest { to, told } => self.tell_digest(process, to, told),
            Output::TellSpace { to, space } => disk_space::send(self, process, to, space),
            Output::EndJoin { address, cluster_id, raft_id } => {
                if let Some(at) = self.dial(process.0, &address) {
                    let to = (at, self.nodes[at].starts);
                    self.after(2, Event::Input(to, Box::new(Input::JoinEnded { cluster_id, raft_id })));
                }
            }
            Output::TellRemoved(raft_id) => {
                let cluster_id = self.nodes[process.0].table.cluster_id;
                if let Some(to) = self.incarnation(raft_id, cluster_id)
                    && self.connected(process.0, to)
                    && !(self.faults && self.rng.chance(30))
                {
                    let process = (to, self.nodes[to].starts);
                    self.after(2, Event::Input(process, Box::new(Input::Removed { cluster_id, raft_id })));
                }
            }
            Output::Stream { to, message, reader } => self.begin_stream(process, to, message, reader),
            Output::Publish(table) => {
                identity::published(self, process.0, &table);
                self.nodes[process.0].table = table;
            }
            Output::Flush(flush) => {
                // On a real node this runs on a thread of its own, so other turns pass before it ends.
                let delay = 1 + self.rng.below(30);
                let raft_id = self.nodes[process.0].table.raft_id;
                self.after(delay, Event::Flush(process, raft_id, flush));
            }
            Output::Slice(rewrite) => {
                let delay = 1 + self.rng.below(30);
                self.after(delay, Event::Slice(process, rewrite));
            }
            Output::Spool { token, spooler } => {
                let delay = 1 + self.rng.below(60);
                self.after(delay, Event::Scan(process, token, spooler));
            }
            Output::Discard { unused, engine, names } => {
                drop(unused);
                names.iter().for_each(|name| drop(engine.remove(name)));
            }
            Output::Reply(reply) => {
                // Checked before the client has the answer, at the moment when it can no longer be taken back.
                acknowledgement::check(self, process.0, &reply);
                self.deliver_reply(process.0, reply);
            }
        }
    }

    fn send(&mut self, process: Process, message: Message) {
        let table = &self.nodes[process.0].table;
        let (to, cluster) = (message.to, table.cluster_id);
        if message.from != table.raft_id {
            return self.fail(format!("n{} sends a message of {}", process.0, message.from));
        }
        // No node of that incarnation is up: the message is lost.
        let Some(at) = self.incarnation(to, cluster) else { return };
        // The handshake refuses a raft id with a tombstone, and tells the sender so.
        if self.nodes[at].table.tombstones.contains(&message.from) {
            let removed = Input::Removed { cluster_id: cluster, raft_id: message.from };
            return self.after(2, Event::Input(process, Box::new(removed)));
        }
        // A node that the sender's table does not list yet is answered on the connection that it has dialled itself.
        let (dialler, acceptor) = if self.is_peer(process.0, at) { (process.0, at) } else { (at, process.0) };
        if !self.connected(process.0, at) || !self.handshake(dialler, acceptor) || (self.faults && self.rng.chance(2)) {
            return;
        }
        let (delay, from) = (self.delay(), process);
        let boot_id = self.nodes[at].table.boot_history.current;
        // The rogue member sends a corrupt form first, on the same way as the sound one.
        if let Some(corrupt) = rogue_member::corrupt_append(self, &message) {
            self.after(1, Event::ToIncarnation { from, to, cluster, message: Box::new(corrupt), boot_id });
        }
        if self.faults && self.rng.chance(2) {
            // A duplicate, up to 3 s late: raft must bear a message of an earlier term or index.
            let again = delay + self.rng.below(3000);
            self.after(again, Event::ToIncarnation { from, to, cluster, message: Box::new(message.clone()), boot_id });
        }
        self.after(delay, Event::ToIncarnation { from, to, cluster, message: Box::new(message), boot_id });
    }

    /// Sends the keepalive that the real transport sends every second: the sender is there, and whom it follows.
    pub fn send_keepalives(&mut self, at: usize) {
        let node = &self.nodes[at];
        let Some(driver) = node.driver.as_ref() else { return };
        let (from, cluster, follows) =
            (node.table.raft_id, node.table.cluster_id, driver.names(&Names::default()).follows);
        for other in 0..self.size {
            let table = &self.nodes[other].table;
            let listens = self.nodes[other].driver.is_some() && table.cluster_id == cluster && !table.removed;
            if other != at && listens && self.connected(at, other) && !table.tombstones.contains(&from) {
                let process = (other, self.nodes[other].starts);
                self.after(2, Event::Input(process, Box::new(Input::Heard { from, follows })));
            }
        }
    }
}
