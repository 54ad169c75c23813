//! RPCs between nodes: forwarded requests, identification, probes, digests and join offers.
//!
//! Invariants: an RPC ends in exactly one input to the process that began it: the reply, a broken connection, or the
//! timeout, whichever event comes first.

use huskv::consensus::{Hop, Input};
use huskv::model::{Code, JoinOffer, Probe, Refusal, Request, StateDigest};

use crate::faults::{forged_offers, rogue_member};
use crate::workload::client_reads;
use crate::workload::{clients, operators, standalone};
use crate::world::handshake::certificate_name;
use crate::world::outbox::{Process, Reply};
use crate::world::{Event, World};

impl World {
    /// Begins an RPC, which ends in `late` unless something else ends it within `timeout`.
    fn begin_rpc(&mut self, origin: Process, token: u64, timeout: u64, late: Input) {
        self.pending_rpcs.insert((origin, token));
        self.after(timeout, Event::RpcTimeout { origin, token, late: Box::new(late) });
    }

    /// Ends an RPC with this input, if it is still pending.
    pub fn rpc_ended(&mut self, origin: Process, token: u64, input: Input) {
        if self.pending_rpcs.remove(&(origin, token)) {
            self.after(1, Event::Input(origin, Box::new(input)));
        }
    }

    pub fn forward(&mut self, process: Process, token: u64, (to, hop): (u64, Hop), request: Request, timeout: u64) {
        if hop == Hop::Client {
            return self.fail(format!("n{} sends a request on as a client", process.0));
        }
        let late = Err(Refusal::unknown(Code::Timeout, "no answer from the leader in time"));
        self.begin_rpc(process, token, timeout, Input::Forwarded { token, result: late });
        if hop == Hop::Relay {
            self.trace(|| format!("n{} sends a request through {to}", process.0));
        }
        let cluster = self.nodes[process.0].table.cluster_id;
        let target = self.incarnation(to, cluster).filter(|at| self.connected(process.0, *at));
        // Not sent at all, so the sender may say `not_applied` and the client may try again.
        let Some(at) = target.filter(|at| self.handshake(process.0, *at)) else {
            let unsent = Err(Refusal::not_applied(Code::NoLeader, "not connected"));
            return self.rpc_ended(process, token, Input::Forwarded { token, result: unsent });
        };
        // Lost on the way: only the timeout ends the RPC, and the outcome stays unknown.
        if self.faults && self.rng.chance(3) {
            return;
        }
        let reply = self.nodes[at].outbox.reply(move |result| Reply::Forwarded { origin: process, token, result });
        // What travels is the time that is left, so clocks need not agree.
        let deadline = self.now + self.nodes[at].clock_offset + timeout;
        let input = Input::Request { request, deadline, hop, to, reply };
        let (delay, to) = (self.delay(), (at, self.nodes[at].starts));
        self.after(delay, Event::Input(to, Box::new(input)));
        if self.faults && self.rng.chance(5) {
            // The connection breaks while the request may be under way: unknown, whatever becomes of it.
            let broken = Err(Refusal::unknown(Code::Timeout, "the connection broke"));
            let broken = Box::new(Input::Forwarded { token, result: broken });
            let at = self.rng.below(timeout.min(500));
            self.after(at, Event::RpcTimeout { origin: process, token, late: broken });
        }
    }

    /// The node that can be dialled at an address: links both ways are whole.
    pub fn dial(&self, from: usize, address: &str) -> Option<usize> {
        self.addressed(address).filter(|at| self.connected(from, *at) && self.connected(*at, from))
    }

    pub fn identify(&mut self, process: Process, token: u64, address: &str) {
        let unreachable = Err(Refusal::not_applied(Code::Unreachable, format!("nothing answers at {address}")));
        self.begin_rpc(process, token, 3000, Input::Identified { token, result: unreachable });
        // A joiner dials back to the leader that made the offer; this is lost more often.
        let back = self.nodes[process.0].table.cluster_id != self.cluster;
        if self.faults && self.rng.chance(if back { 30 } else { 5 }) {
            return;
        }
        if let Some(at) = self.dial(process.0, address) {
            let reply = self.nodes[at].outbox.reply(move |me| Reply::WhoAmI { origin: process, token, me });
            let to = (at, self.nodes[at].starts);
            self.after(2, Event::Input(to, Box::new(Input::WhoAmI { reply })));
        }
    }

    pub fn probe(&mut self, process: Process, token: u64, address: &str, probe: Probe) {
        let unreachable = Err(Refusal::not_applied(Code::Unreachable, format!("nothing answers at {address}")));
        self.begin_rpc(process, token, 3000, Input::Probed { token, result: unreachable });
        if let Some(at) = self.dial(process.0, address) {
            let reply = self.nodes[at].outbox.reply(move |result| Reply::Probed { origin: process, token, result });
            let (delay, to) = (self.delay(), (at, self.nodes[at].starts));
            self.after(delay, Event::Input(to, Box::new(Input::Probe { probe, reply })));
        }
    }

    pub fn tell_digest(&mut self, process: Process, to: u64, told: StateDigest) {
        let table = &self.nodes[process.0].table;
        let (from, cluster) = (table.raft_id, table.cluster_id);
        if let Some(at) = self.incarnation(to, cluster)
            && self.connected(process.0, at)
            && !(self.faults && self.rng.chance(2))
        {
            let (delay, to) = (self.delay(), (at, self.nodes[at].starts));
            self.after(delay, Event::Input(to, Box::new(Input::Digest { from, told })));
        }
    }

    pub fn offer_join(&mut self, process: Process, token: u64, address: &str, offer: JoinOffer) {
        let broken = Err(Refusal::unknown(Code::Unreachable, "the connection broke"));
        self.begin_rpc(process, token, 6000, Input::JoinOfferAnswered { token, result: broken });
        if let Some(at) = self.dial(process.0, address) {
            let reply =
                self.nodes[at].outbox.reply(move |result| Reply::JoinAccepted { origin: process, token, result });
            let to = (at, self.nodes[at].starts);
            self.after(2, Event::Input(to, Box::new(Input::JoinOffer { offer, reply })));
        }
    }

    /// Delivers what a node has answered: to the client, or to the process that asked.
    pub fn deliver_reply(&mut self, at: usize, reply: Reply) {
        // A node that has rolled its join back answers for its previous cluster, and its clients see that. Such an answer
        // says nothing of this cluster.
        let elsewhere = self.nodes[at].table.cluster_id != self.cluster;
        let gone = || Refusal::unknown(Code::Timeout, "answered by a node of another cluster");
        let now = self.now;
        match reply {
            Reply::Client { operation, result } => {
                let result = if elsewhere && result.is_ok() { Err(gone()) } else { result };
                clients::answered(self, operation, now, result);
            }
            Reply::Read { operation, query, result } => {
                let result = if elsewhere && result.is_ok() { Err(gone()) } else { result };
                let process = (at, self.nodes[at].starts);
                client_reads::granted(self, process, operation, query, result);
            }
            Reply::Operator { asked, result } => operators::answered(self, at, asked, result),
            Reply::RogueMember { result } => rogue_member::answered(self, at, result),
            Reply::Forwarded { origin, token, result } => {
                if !(self.faults && self.rng.chance(3)) {
                    self.rpc_ended(origin, token, Input::Forwarded { token, result });
                }
            }
            Reply::WhoAmI { origin, token, me } => {
                self.rpc_ended(origin, token, Input::Identified { token, result: Ok(me) });
            }
            Reply::Probed { origin, token, result } => {
                self.rpc_ended(origin, token, Input::Probed { token, result });
            }
            Reply::JoinAccepted { origin, token, result } => {
                // From here on a node with this raft id is no surprise to the checks.
                if let Ok(accepted) = &result {
                    self.observed.joined.insert(accepted.raft_id);
                    let leader = self.nodes[origin.0].table.raft_id;
                    self.nodes[at].offered_by = Some((leader, certificate_name(origin.0)));
                }
                if !(self.faults && self.rng.chance(10)) {
                    self.rpc_ended(origin, token, Input::JoinOfferAnswered { token, result });
                }
            }
            Reply::Forged { offer, result } => forged_offers::answered(self, at, &offer, &result),
            Reply::OwnWrite { raft_id, key, result } => standalone::wrote(self, at, raft_id, key, result),
            Reply::Receive { stream, reception } => self.receive(stream, *reception),
            Reply::Installed { stream, metadata, result } => {
                let ended = result.map(|()| metadata).map_err(|error| error.0);
                self.end_stream(stream, ended);
            }
        }
    }
}
