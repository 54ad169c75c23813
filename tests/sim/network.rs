//! The network between nodes: raft's messages, questions, forwarded requests.
//!
//! Laws: a message reaches only the incarnation that it was meant for, as the real transport promises, and nothing more is
//! promised: it is delayed, lost, repeated and reordered.

use huskv::consensus::{Hop, Input, Names};
use huskv::model::{Code, JoinOffer, Probe, Refusal, Request, StateDigest};
use raft::eraftpb::Message;

use crate::port::{Life, Out, Said};
use crate::world::{Event, Node, World};
use crate::{admin, checks, clients, disks, offers, rogue};

impl World {
    pub fn incarnation(&self, raft_id: u64, cluster: u64) -> Option<usize> {
        let is =
            |node: &Node| node.driver.is_some() && node.table.raft_id == raft_id && node.table.cluster_id == cluster;
        // Nobody is led to where a copy is: that is not where the table has the member.
        self.nodes[..self.size].iter().position(|node| is(node) && !node.table.removed)
    }

    fn addressed(&self, address: &str) -> Option<usize> {
        let up = |node: &Node| node.driver.is_some() && node.table.raft_address == address;
        self.nodes.iter().position(up)
    }

    pub fn connected(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    fn delay(&mut self) -> u64 {
        if self.faults && self.rng.chance(5) { 1 + self.rng.below(800) } else { 1 + self.rng.below(8) }
    }

    pub fn let_out(&mut self, life: Life, out: Out) {
        match out {
            Out::Send(message) => self.send(life, *message),
            Out::Wrong(what) => self.fail(format!("n{}: {what}", life.0)),
            Out::Forward { token, to, hop, request, timeout } => self.forward(life, token, (to, hop), request, timeout),
            Out::Identify { token, address } => self.identify(life, token, &address),
            Out::JoinOffer { token, address, adopt } => self.adopt(life, token, &address, *adopt),
            Out::Probe { token, address, probe } => self.probe(life, token, &address, probe),
            Out::TellDigest { to, told } => self.tell_digest(life, to, told),
            Out::TellSpace { to, space } => disks::tell(self, life, to, space),
            Out::EndJoin { address, cluster_id, raft_id } => {
                if let Some(at) = self.dial(life.0, &address) {
                    let to = (at, self.nodes[at].life);
                    self.after(2, Event::Input(to, Box::new(Input::JoinEnded { cluster_id, raft_id })));
                }
            }
            Out::TellRemoved(raft_id) => {
                let cluster_id = self.nodes[life.0].table.cluster_id;
                if let Some(to) = self.incarnation(raft_id, cluster_id)
                    && self.connected(life.0, to)
                    && !(self.faults && self.rng.chance(30))
                {
                    let life = (to, self.nodes[to].life);
                    self.after(2, Event::Input(life, Box::new(Input::Removed { cluster_id, raft_id })));
                }
            }
            Out::Stream { to, message, reader } => self.begin_stream(life, to, message, reader),
            Out::Publish(table) => {
                checks::identity(self, life.0, &table);
                self.nodes[life.0].table = table;
            }
            Out::Sync { db, mark } => {
                let delay = 1 + self.rng.below(100);
                let raft_id = self.nodes[life.0].table.raft_id;
                self.after(delay, Event::Sync(life, raft_id, db, mark));
            }
            Out::Spool { token, spooler } => {
                let delay = 1 + self.rng.below(60);
                self.after(delay, Event::Scan(life, token, spooler));
            }
            Out::Discard { unused, engine, names } => {
                drop(unused);
                names.iter().for_each(|name| drop(engine.remove(name)));
            }
            Out::Said(said) => {
                checks::acknowledged(self, life.0, &said);
                self.hear(life.0, said);
            }
        }
    }

    fn send(&mut self, life: Life, message: Message) {
        let table = &self.nodes[life.0].table;
        let (to, cluster) = (message.to, table.cluster_id);
        if message.from != table.raft_id {
            return self.fail(format!("n{} sends a message of {}", life.0, message.from));
        }
        let Some(at) = self.incarnation(to, cluster) else { return };
        if self.nodes[at].table.tombstones.contains(&message.from) {
            let removed = Input::Removed { cluster_id: cluster, raft_id: message.from };
            return self.after(2, Event::Input(life, Box::new(removed)));
        }
        // A node that is not in the sender's table yet is answered on the connection that it has dialled.
        let (dialler, acceptor) = if self.is_peer(life.0, at) { (life.0, at) } else { (at, life.0) };
        if !self.connected(life.0, at) || !self.met(dialler, acceptor) || (self.faults && self.rng.chance(2)) {
            return;
        }
        let (delay, from) = (self.delay(), life);
        let life = self.nodes[at].table.boot_history.current;
        if let Some(spoiled) = rogue::spoiled(self, &message) {
            self.after(1, Event::ToIncarnation { from, to, cluster, message: Box::new(spoiled), life });
        }
        if self.faults && self.rng.chance(2) {
            let again = delay + self.rng.below(3000);
            self.after(again, Event::ToIncarnation { from, to, cluster, message: Box::new(message.clone()), life });
        }
        self.after(delay, Event::ToIncarnation { from, to, cluster, message: Box::new(message), life });
    }

    /// A node tells the others that it is there and whom it follows, as the real transport does every second.
    pub fn say_whom_it_follows(&mut self, at: usize) {
        let node = &self.nodes[at];
        let Some(driver) = node.driver.as_ref() else { return };
        let (from, cluster, follows) =
            (node.table.raft_id, node.table.cluster_id, driver.names(&Names::default()).follows);
        for other in 0..self.size {
            let table = &self.nodes[other].table;
            let listens = self.nodes[other].driver.is_some() && table.cluster_id == cluster && !table.removed;
            if other != at && listens && self.connected(at, other) && !table.tombstones.contains(&from) {
                let life = (other, self.nodes[other].life);
                self.after(2, Event::Input(life, Box::new(Input::Heard { from, follows })));
            }
        }
    }

    /// Notes an errand that must end in exactly one input: `late` where nothing else ends it within `timeout`.
    fn errand(&mut self, origin: Life, token: u64, timeout: u64, late: Input) {
        self.errands.insert((origin, token));
        self.after(timeout, Event::ErrandTimeout { origin, token, late: Box::new(late) });
    }

    pub fn errand_ends(&mut self, origin: Life, token: u64, input: Input) {
        if self.errands.remove(&(origin, token)) {
            self.after(1, Event::Input(origin, Box::new(input)));
        }
    }

    fn forward(&mut self, life: Life, token: u64, (to, hop): (u64, Hop), request: Request, timeout: u64) {
        if hop == Hop::Client {
            return self.fail(format!("n{} sends a request on as a client", life.0));
        }
        let late = Err(Refusal::unknown(Code::Timeout, "no answer from the leader in time"));
        self.errand(life, token, timeout, Input::Forwarded { token, result: late });
        if hop == Hop::Relay {
            self.say(|| format!("n{} sends a request through {to}", life.0));
        }
        let cluster = self.nodes[life.0].table.cluster_id;
        let target = self.incarnation(to, cluster).filter(|at| self.connected(life.0, *at));
        let Some(at) = target.filter(|at| self.met(life.0, *at)) else {
            let unsent = Err(Refusal::not_applied(Code::NoLeader, "not connected"));
            return self.errand_ends(life, token, Input::Forwarded { token, result: unsent });
        };
        if self.faults && self.rng.chance(3) {
            return;
        }
        let reply = self.nodes[at].port.reply(move |result| Said::Forwarded { origin: life, token, result });
        let deadline = self.now + self.nodes[at].ahead + timeout;
        let input = Input::Request { request, deadline, hop, to, reply };
        let (delay, to) = (self.delay(), (at, self.nodes[at].life));
        self.after(delay, Event::Input(to, Box::new(input)));
        if self.faults && self.rng.chance(5) {
            let broken = Err(Refusal::unknown(Code::Timeout, "the connection broke"));
            let broken = Box::new(Input::Forwarded { token, result: broken });
            let at = self.rng.below(timeout.min(500));
            self.after(at, Event::ErrandTimeout { origin: life, token, late: broken });
        }
    }

    /// Whoever can be dialled at an address now.
    fn dial(&self, from: usize, address: &str) -> Option<usize> {
        self.addressed(address).filter(|at| self.connected(from, *at) && self.connected(*at, from))
    }

    fn identify(&mut self, life: Life, token: u64, address: &str) {
        let nobody = Err(Refusal::not_applied(Code::Unreachable, format!("nothing answers at {address}")));
        self.errand(life, token, 3000, Input::Identified { token, result: nobody });
        // What has no cluster yet dials back to the leader that wants it.
        let back = self.nodes[life.0].table.cluster_id != self.cluster;
        if self.faults && self.rng.chance(if back { 30 } else { 5 }) {
            return;
        }
        if let Some(at) = self.dial(life.0, address) {
            let reply = self.nodes[at].port.reply(move |me| Said::WhoAmI { origin: life, token, me });
            let to = (at, self.nodes[at].life);
            self.after(2, Event::Input(to, Box::new(Input::WhoAmI { reply })));
        }
    }

    fn probe(&mut self, life: Life, token: u64, address: &str, probe: Probe) {
        let nobody = Err(Refusal::not_applied(Code::Unreachable, format!("nothing answers at {address}")));
        self.errand(life, token, 3000, Input::Probed { token, result: nobody });
        if let Some(at) = self.dial(life.0, address) {
            let reply = self.nodes[at].port.reply(move |result| Said::Probed { origin: life, token, result });
            let (delay, to) = (self.delay(), (at, self.nodes[at].life));
            self.after(delay, Event::Input(to, Box::new(Input::Probe { probe, reply })));
        }
    }

    fn tell_digest(&mut self, life: Life, to: u64, told: StateDigest) {
        let table = &self.nodes[life.0].table;
        let (from, cluster) = (table.raft_id, table.cluster_id);
        if let Some(at) = self.incarnation(to, cluster)
            && self.connected(life.0, at)
            && !(self.faults && self.rng.chance(2))
        {
            let (delay, to) = (self.delay(), (at, self.nodes[at].life));
            self.after(delay, Event::Input(to, Box::new(Input::Digest { from, told })));
        }
    }

    fn adopt(&mut self, life: Life, token: u64, address: &str, adopt: JoinOffer) {
        let broken = Err(Refusal::unknown(Code::Unreachable, "the connection broke"));
        self.errand(life, token, 6000, Input::AdoptAnswered { token, result: broken });
        if let Some(at) = self.dial(life.0, address) {
            let reply = self.nodes[at].port.reply(move |result| Said::JoinAccepted { origin: life, token, result });
            let to = (at, self.nodes[at].life);
            self.after(2, Event::Input(to, Box::new(Input::JoinOffer { adopt, reply })));
        }
    }

    fn hear(&mut self, at: usize, said: Said) {
        // A node that went back to what it was before its join answers for another cluster, as it tells its clients.
        let elsewhere = self.nodes[at].table.cluster_id != self.cluster;
        let gone = || Refusal::unknown(Code::Timeout, "answered by a node of another cluster");
        let now = self.now;
        match said {
            Said::Client { operation, result } => {
                let result = if elsewhere && result.is_ok() { Err(gone()) } else { result };
                clients::answered(self, operation, now, result);
            }
            Said::Read { operation, result } => {
                let result = if elsewhere && result.is_ok() { Err(gone()) } else { result };
                clients::read(self, operation, now, result);
            }
            Said::Listed { operation, result } => {
                let result = if elsewhere && result.is_ok() { Err(gone()) } else { result };
                clients::listed(self, operation, now, result);
            }
            Said::Admin { asked, result } => admin::answered(self, at, asked, result),
            Said::Rogue { result } => rogue::answered(self, at, result),
            Said::Forwarded { origin, token, result } => {
                if !(self.faults && self.rng.chance(3)) {
                    self.errand_ends(origin, token, Input::Forwarded { token, result });
                }
            }
            Said::WhoAmI { origin, token, me } => {
                self.errand_ends(origin, token, Input::Identified { token, result: Ok(me) });
            }
            Said::Probed { origin, token, result } => {
                self.errand_ends(origin, token, Input::Probed { token, result });
            }
            Said::JoinAccepted { origin, token, result } => {
                if let Ok(adopted) = &result {
                    self.book.adopted.insert(adopted.raft_id);
                }
                if !(self.faults && self.rng.chance(10)) {
                    self.errand_ends(origin, token, Input::AdoptAnswered { token, result });
                }
            }
            Said::Forged { adopt, result } => offers::answered(self, at, &adopt, &result),
            Said::Own { raft_id, key, result } => offers::wrote(self, at, raft_id, key, result),
            Said::Receive { stream, reception } => self.receive(stream, *reception),
            Said::Installed { stream, metadata, result } => {
                let ended = result.map(|()| metadata).map_err(|error| error.0);
                self.end_stream(stream, ended);
            }
        }
    }
}
