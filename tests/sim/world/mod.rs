//! The simulated world: nodes, network, workload and faults on one virtual clock.
//!
//! ```text
//!   workload, faults ----> Event queue <---- messages, replies, syncs, timeouts
//!                              | the earliest event
//!                              v
//!                   Node: Driver::handle, Driver::turn      real consensus and storage
//!                      |                    |
//!                      v                    v
//!                  SimOutbox            SimEngine           simulated network, simulated disk
//!                      |                    |
//!                      v                    v
//!               World::dispatch        journal, states ---> checks
//! ```
//!
//! Invariants: everything that happens is an event of one queue, ordered by time and then by sequence number. Chance
//! comes from seeded generators only. The network promises what the real transport promises, that a message reaches only
//! the incarnation that it was sent to, and nothing more: it delays, drops, repeats and reorders.

pub mod disk;
pub mod handshake;
pub mod network;
pub mod node;
pub mod outbox;
pub mod process;
pub mod rpc;
pub mod snapshot_streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use huskv::consensus::{Driver, Input};
use huskv::model::{BootId, DiskSpace, Millis};
use huskv::storage::{Flush, Rewrite, Spooler};
use raft::eraftpb::Message;

use crate::checks::observed::Observed;
use crate::faults::{certified_stranger, disk_copies, disk_space, forged_offers, nemesis, rogue_member};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::client_reads::{self, ReadUnderWay};
use crate::workload::history::Clients;
use crate::workload::operators::Operators;
use crate::workload::{clients, operators};
use crate::world::disk::SimEngine;
use crate::world::node::Node;
use crate::world::outbox::Process;
use crate::world::snapshot_streams::Streams;

/// An event of the queue.
pub enum Event {
    Tick(Process),
    Input(Process, Box<Input>),
    /// A turn without an input: the loop has work left.
    Turn(Process),
    /// A raft message arrives at whichever node has this raft id by then.
    ToIncarnation {
        from: Process,
        to: u64,
        cluster: u64,
        message: Box<Message>,
        /// The boot id of the receiver when the message was sent.
        boot_id: BootId,
    },
    /// A snapshot scan of this token reads on.
    Scan(Process, u64, Box<Spooler>),
    /// A flush of the state machine of this raft id does its next steps.
    Flush(Process, u64, Box<Flush>),
    /// A slice of a rewrite is copied.
    Slice(Process, Box<Rewrite>),
    /// A thread that serves a client goes on with a read.
    Read(Process, Box<ReadUnderWay>),
    /// All frames of a snapshot stream have arrived.
    StreamArrives(u64),
    /// An RPC that is still pending is answered by `late`.
    RpcTimeout {
        origin: Process,
        token: u64,
        late: Box<Input>,
    },
    StreamTimeout(u64),
    Restart(usize),
    /// This client begins its next operation.
    Client(usize),
    /// The client of this operation sends it again, under the same idempotency key.
    Retry(u64),
    /// The first operator looks at the cluster.
    Operator,
    Nemesis,
    RogueMember,
    /// A node with a certificate that is no member speaks as one.
    CertifiedStranger,
    /// A forged join offer, or a write to a node that is still alone.
    ForgedOffer,
    /// A disk is copied, restored from its copy, or its copy is started.
    DiskCopy,
    /// The free space of a disk changes.
    DiskSpace,
    /// A node receives the free space of the member with this raft id.
    PeerSpace(Process, u64, DiskSpace),
    HealLinks,
    /// The second operator removes this node or transfers the leadership to it.
    Interfere(usize),
    /// This node is cut off for a while, if it has much to apply.
    FallBehind(usize),
}

/// The whole state of a run.
pub struct World {
    /// The generator of everything that has none of its own: network, nemesis, operators, starts.
    pub rng: Rng,
    /// Virtual milliseconds since the start.
    pub now: u64,
    pub nodes: Vec<Node>,
    /// The number of nodes at the start; nodes from this index on run on copied disks.
    pub size: usize,
    /// The setting `follow_moves`: whether a member's own word is enough to record its new address.
    pub follow_moves: bool,
    /// Whether nodes have certificates, and take raft messages and requests from members alone.
    pub secure: bool,
    /// The generator of the certified stranger.
    pub stranger_rng: Rng,
    /// The generator of copied disks.
    pub copy_rng: Rng,
    /// The generator of free disk space.
    pub space_rng: Rng,
    /// When an identity conflict was last reported, by node, raft id, and whether it is about the node itself.
    pub reported_conflicts: BTreeMap<(usize, u64, bool), u64>,
    pub clients: Clients,
    /// The id of the cluster that all nodes are to join: that of node 0.
    pub cluster: u64,
    /// Cut links, each direction for itself: from, to.
    pub cut_links: BTreeSet<(usize, usize)>,
    /// Whether faults are injected; false while the cluster forms and heals.
    pub faults: bool,
    /// Whether the impostor has raised a term, which it does once in a run.
    pub term_raised: bool,
    /// The entries between two checkpoints, and those kept behind one.
    pub log_length: (u64, u64),
    /// The memory of a node's memtables.
    pub memtable_bytes: usize,
    /// How long a joining node waits for its cluster before it goes back to its previous incarnation.
    pub join_wait: u64,
    /// The generator of forged offers and of writes to nodes that are alone.
    pub offer_rng: Rng,
    /// The bytes that a turn applies from the next start on; where it is `None`, the seed decides.
    pub apply_work: Option<usize>,
    /// Whether nodes apply one entry a turn and some turns are long, so that committed entries wait to be applied.
    pub slow: bool,
    pub trace_sink: Trace,
    /// Where raft's own log lines go.
    pub raft_trace: bool,
    pub observed: Observed,
    /// The first violation.
    pub failure: Option<String>,
    pub operators: Operators,
    /// A digest of all answers to clients; equal runs have equal digests.
    pub digest: u64,
    pub queue: BTreeMap<(u64, u64), Event>,
    /// The number of events and streams created so far.
    pub sequence: u64,
    /// `now`, for loggers and outboxes.
    pub clock: Arc<Mutex<Millis>>,
    /// RPCs without an answer, by the process and token that began them.
    pub pending_rpcs: BTreeSet<(Process, u64)>,
    pub streams: Streams,
    /// The generator of the rogue member.
    pub rogue_rng: Rng,
}

pub const TICK: u64 = 50;

/// The interval of a node's keepalives, in virtual milliseconds.
const KEEPALIVE_EVERY: u64 = 1000;

impl World {
    pub fn new(seed: u64, nodes: usize, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let clock = Arc::new(Mutex::new(0));
        let mut world = Self {
            // The first draw of the run, so it comes before `rng` is moved.
            clients: Clients::new(rng.fork()),
            rng,
            now: 0,
            nodes: Vec::new(),
            size: nodes,
            // Settings follow from the seed by its remainders, so a few seeds in a row cover most combinations.
            follow_moves: (seed / 2).is_multiple_of(2),
            secure: (seed / 4).is_multiple_of(2),
            stranger_rng: Rng::new(seed ^ 0xce27),
            copy_rng: Rng::new(seed ^ 0x11fe),
            space_rng: Rng::new(seed ^ 0xd15c),
            reported_conflicts: BTreeMap::new(),
            cluster: 0,
            cut_links: BTreeSet::new(),
            faults: false,
            term_raised: false,
            // Some nodes flush every few keys, and wait for flushes.
            memtable_bytes: if seed % 4 == 1 { 4096 } else { 1 << 20 },
            log_length: if seed.is_multiple_of(3) { (60, 40) } else { (15, 4) },
            join_wait: [1_500, 8_000, 60_000][usize::try_from(seed % 3).expect("small")],
            offer_rng: Rng::new(seed ^ 0x5741),
            apply_work: None,
            slow: seed % 3 == 1,
            raft_trace: !matches!(trace, Trace::Off) && std::env::var_os("SIM_RAFT").is_some(),
            trace_sink: trace,
            observed: Observed::default(),
            failure: None,
            operators: Operators::default(),
            digest: seed,
            queue: BTreeMap::new(),
            sequence: 0,
            clock: clock.clone(),
            pending_rpcs: BTreeSet::new(),
            streams: Streams::default(),
            // Generators of their own are seeded without a draw, so that adding one shifts no other.
            rogue_rng: Rng::new(!seed),
        };
        for at in 0..nodes {
            let mut node = world.node(SimEngine::default(), at);
            (node.clock_offset, node.tick) = (world.rng.below(100_000), TICK - 3 + world.rng.below(7));
            world.nodes.push(node);
        }
        for at in 0..nodes {
            world.boot(at);
        }
        world.cluster = world.nodes[0].table.cluster_id;
        world
    }

    /// Adds a line to the trace.
    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if !matches!(self.trace_sink, Trace::Off) {
            self.trace_sink.line(&format!("{:>8} {}", self.now, line()));
        }
    }

    /// Records a violation; the first one ends the run.
    pub fn fail(&mut self, what: String) {
        self.trace(|| format!("FAILED: {what}"));
        self.failure.get_or_insert(what);
    }

    /// Puts an event into the queue, `delay` ms from the present.
    pub fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    /// Handles the next event; false where none is due by `until`.
    pub fn step(&mut self, until: u64) -> bool {
        let Some((&(at, sequence), _)) = self.queue.first_key_value() else { return false };
        if at > until || self.failure.is_some() {
            // Time passes all the same, so that a caller which waits does not loop for ever.
            self.now = self.now.max(until);
            return false;
        }
        self.now = at;
        *self.clock.lock().expect("one thread") = at;
        if let Some(event) = self.queue.remove(&(at, sequence)) {
            self.handle_event(event);
        }
        // A planned crash takes effect inside a turn: from then on nothing passes. The process ends here, after the event.
        for at in 0..self.nodes.len() {
            if self.nodes[at].driver.is_some() && self.nodes[at].engine.has_crashed() {
                self.crash(at);
                let delay = 100 + self.rng.below(5000);
                self.after(delay, Event::Restart(at));
            }
        }
        true
    }

    /// Whether a message to an earlier process of a node still arrives at the present one.
    ///
    /// The connection ended with the earlier process. What the sender still has in its queue goes to the present process
    /// once the two have shaken hands, so only then does the message arrive.
    fn still_reaches(&self, from: Process, to: usize, boot_id: BootId) -> bool {
        let (current, raft_id) = (self.nodes[to].table.boot_history.current, self.nodes[to].table.raft_id);
        let met = || self.nodes[from.0].peers.as_ref().and_then(|peers| peers.boot_id(raft_id)) == Some(current);
        current == boot_id || (self.alive(from) && met())
    }

    /// Puts an event of a paused node off until its pause ends.
    fn paused(&mut self, process: Process, event: Event) -> Option<Event> {
        let until = self.nodes[process.0].paused_until;
        if self.now >= until {
            return Some(event);
        }
        self.after(until - self.now, event);
        None
    }

    /// Handles one event.
    pub fn handle_event(&mut self, event: Event) {
        match event {
            Event::Tick(process)
            | Event::Turn(process)
            | Event::Input(process, _)
            | Event::Scan(process, ..)
            | Event::PeerSpace(process, ..)
            | Event::Flush(process, ..)
            | Event::Slice(process, ..) => {
                if self.alive(process)
                    && let Some(event) = self.paused(process, event)
                {
                    self.handle_process_event(event);
                }
            }
            Event::ToIncarnation { from, to, cluster, message, boot_id } => {
                if let Some(at) = self.incarnation(to, cluster)
                    && self.still_reaches(from, at, boot_id)
                {
                    // To the present process, if the receiver has restarted meanwhile.
                    self.handle_event(Event::Input((at, self.nodes[at].starts), Box::new(Input::Step(message))));
                }
            }
            Event::StreamArrives(stream) => self.stream_arrives(stream),
            Event::RpcTimeout { origin, token, late } => self.rpc_ended(origin, token, *late),
            Event::Read(process, read) => client_reads::go_on(self, process, read),
            Event::StreamTimeout(stream) => self.end_stream(stream, Err("no progress".into())),
            Event::Restart(at) if self.nodes[at].driver.is_none() => self.boot(at),
            Event::Restart(_) => {}
            Event::Client(client) => clients::act(self, client),
            Event::Retry(id) => clients::retry(self, id),
            Event::Operator => operators::act(self),
            Event::ForgedOffer => forged_offers::act(self),
            Event::Nemesis => nemesis::act(self),
            Event::RogueMember => rogue_member::act(self),
            Event::CertifiedStranger => certified_stranger::act(self),
            Event::DiskCopy => disk_copies::act(self),
            Event::DiskSpace => disk_space::act(self),
            Event::HealLinks => nemesis::heal_links(self),
            Event::Interfere(at) => operators::interfere(self, at),
            Event::FallBehind(at) => nemesis::fall_behind(self, at),
        }
    }

    /// Handles an event of a process that is alive and not paused.
    fn handle_process_event(&mut self, event: Event) {
        match event {
            Event::Tick(process) => {
                self.drive(process.0, Driver::tick);
                if self.now / KEEPALIVE_EVERY > (self.now - TICK.min(self.now)) / KEEPALIVE_EVERY {
                    self.send_keepalives(process.0);
                }
                self.dial_peers(process.0);
                if self.alive(process) {
                    self.after(self.nodes[process.0].tick, Event::Tick(process));
                }
            }
            Event::Input(process, input) => self.drive(process.0, |driver, now| driver.handle(now, *input)),
            Event::Turn(process) => self.drive(process.0, |_, _| Ok(())),
            Event::Scan(process, token, spooler) => self.scan(process, token, spooler),
            Event::PeerSpace(process, from, space) => disk_space::receive(self, process.0, from, space),
            Event::Flush(process, raft_id, flush) => self.flush(process, raft_id, flush),
            Event::Slice(process, mut rewrite) => {
                // A few hundred bytes at a time, so that flushes and crashes come between slices.
                let result = rewrite.slice(50 + usize::try_from(self.rng.below(2000)).expect("it is small"));
                if !self.nodes[process.0].engine.has_crashed() {
                    let rewrite = Some(rewrite);
                    self.drive(process.0, |driver, now| driver.handle(now, Input::Sliced { rewrite, result }));
                }
            }
            _ => {}
        }
    }

    /// Does some steps of a flush; turns, reads and crashes come between two events of it.
    fn flush(&mut self, process: Process, raft_id: u64, mut flush: Box<Flush>) {
        let mut result = Ok(true);
        for _ in 0..=self.rng.below(4) {
            result = flush.step();
            if !matches!(result, Ok(true)) {
                break;
            }
        }
        // The planned crash may have happened inside the step itself.
        if self.nodes[process.0].engine.has_crashed() {
            return;
        }
        if matches!(result, Ok(true)) {
            let delay = 1 + self.rng.below(30);
            return self.after(delay, Event::Flush(process, raft_id, flush));
        }
        let mark = flush.mark();
        if result.is_ok() && raft_id == self.nodes[process.0].table.raft_id {
            self.nodes[process.0].durable = (raft_id, mark.0);
        }
        let result = result.map(|_| flush.tree_bytes());
        self.drive(process.0, |driver, now| driver.handle(now, Input::Flushed { mark, result }));
    }
}
