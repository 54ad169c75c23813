//! The simulated world: nodes, network, clients and faults on one virtual clock.
//!
//! Laws: everything that happens is an event in one queue, ordered by time and then by birth; chance comes from one
//! seeded generator. The network does what the real transport promises (a message reaches only the incarnation that it
//! was meant for) and nothing more: it delays, loses, repeats and reorders.

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
use huskv::storage::{Db, Spooler};
use raft::eraftpb::Message;

use crate::checks::observed::Observed;
use crate::faults::{disk_copies, disk_space, forged_offers, nemesis, rogue_member};
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::history::Clients;
use crate::workload::operators::Operators;
use crate::workload::{clients, operators};
use crate::world::disk::SimEngine;
use crate::world::node::Node;
use crate::world::outbox::Process;
use crate::world::snapshot_streams::Streams;

/// Something that happens at a time.
pub enum Event {
    Tick(Process),
    Input(Process, Box<Input>),
    /// The loop has something to do although nothing has come in.
    Turn(Process),
    ToIncarnation {
        from: Process,
        to: u64,
        cluster: u64,
        message: Box<Message>,
        /// The process of the receiver that it was sent to.
        boot_id: BootId,
    },
    Scan(Process, u64, Box<Spooler>),
    /// The machine of this raft id is to be synced as far as the mark.
    Sync(Process, u64, Arc<dyn Db>, (u64, u64)),
    StreamArrives(u64),
    RpcTimeout {
        origin: Process,
        token: u64,
        late: Box<Input>,
    },
    StreamTimeout(u64),
    Restart(usize),
    Client(usize),
    /// The client of this operation sends it again.
    Retry(u64),
    Operator,
    Nemesis,
    /// A broken member does something.
    RogueMember,
    /// A stranger offers some node to adopt it, or somebody stores something in one that is alone.
    ForgedOffer,
    /// Something happens to the copy of a disk.
    DiskCopy,
    /// A disk falls below its reserve, or has enough again.
    DiskSpace,
    /// A node is told what is left of the disk of this raft id.
    PeerSpace(Process, u64, DiskSpace),
    /// All links are whole again.
    HealLinks,
    /// The second operator asks for something about this node.
    Interfere(usize),
    /// This node hears nobody for a while, if much of what it knows to be committed is not applied yet.
    FallBehind(usize),
}

/// The whole.
pub struct World {
    pub rng: Rng,
    pub now: u64,
    pub nodes: Vec<Node>,
    /// How many nodes the world began with; those behind them are copies.
    pub size: usize,
    /// Whether members are followed to where they say they are.
    pub follow_moves: bool,
    /// What draws the faults of copies, so that they do not shift the others.
    pub copy_rng: Rng,
    /// What draws what the disks have left, likewise.
    pub space_rng: Rng,
    /// When a conflict was told last: to which node, about whom, and which way.
    pub reported_conflicts: BTreeMap<(usize, u64, bool), u64>,
    pub clients: Clients,
    pub cluster: u64,
    /// Directed links that are cut.
    pub cut_links: BTreeSet<(usize, usize)>,
    pub faults: bool,
    /// Whether a stranger has raised a term.
    pub term_raised: bool,
    /// Entries between two cuts, and entries kept behind one.
    pub log_length: (u64, u64),
    /// How long a joining node waits for its cluster.
    pub join_wait: u64,
    /// What strangers draw from, so that they shift no other draw.
    pub offer_rng: Rng,
    /// What a turn of a node applies from its next start on, where it is not drawn from the seed.
    pub apply_work: Option<usize>,
    /// Whether nodes apply one entry a turn, and some take long for a turn, so that much of what is committed waits.
    pub slow: bool,
    pub trace: Trace,
    pub raft_trace: bool,
    pub observed: Observed,
    pub failure: Option<String>,
    pub operators: Operators,
    pub digest: u64,
    pub queue: BTreeMap<(u64, u64), Event>,
    pub sequence: u64,
    pub clock: Arc<Mutex<Millis>>,
    /// Questions and forwards that are not answered yet.
    pub pending_rpcs: BTreeSet<(Process, u64)>,
    pub streams: Streams,
    /// What a broken member draws from.
    pub rogue_rng: Rng,
}

pub const TICK: u64 = 50;

/// How often a node tells the others whom it follows, in virtual milliseconds.
const KEEPALIVE_EVERY: u64 = 1000;

impl World {
    pub fn new(seed: u64, nodes: usize, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let clock = Arc::new(Mutex::new(0));
        let mut world = Self {
            clients: Clients::new(rng.fork()),
            rng,
            now: 0,
            nodes: Vec::new(),
            size: nodes,
            follow_moves: (seed / 2).is_multiple_of(2),
            copy_rng: Rng::new(seed ^ 0x11fe),
            space_rng: Rng::new(seed ^ 0xd15c),
            reported_conflicts: BTreeMap::new(),
            cluster: 0,
            cut_links: BTreeSet::new(),
            faults: false,
            term_raised: false,
            log_length: if seed.is_multiple_of(3) { (60, 40) } else { (15, 4) },
            join_wait: [1_500, 8_000, 60_000][usize::try_from(seed % 3).expect("small")],
            offer_rng: Rng::new(seed ^ 0x5741),
            apply_work: None,
            slow: seed % 3 == 1,
            raft_trace: !matches!(trace, Trace::Off) && std::env::var_os("SIM_RAFT").is_some(),
            trace,
            observed: Observed::default(),
            failure: None,
            operators: Operators::default(),
            digest: seed,
            queue: BTreeMap::new(),
            sequence: 0,
            clock: clock.clone(),
            pending_rpcs: BTreeSet::new(),
            streams: Streams::default(),
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

    pub fn trace(&mut self, line: impl FnOnce() -> String) {
        if !matches!(self.trace, Trace::Off) {
            self.trace.line(&format!("{:>8} {}", self.now, line()));
        }
    }

    pub fn fail(&mut self, what: String) {
        self.trace(|| format!("FAILED: {what}"));
        self.failure.get_or_insert(what);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    /// Lets the next event happen; false where `until` comes first.
    pub fn step(&mut self, until: u64) -> bool {
        let Some((&(at, sequence), _)) = self.queue.first_key_value() else { return false };
        if at > until || self.failure.is_some() {
            self.now = self.now.max(until);
            return false;
        }
        self.now = at;
        *self.clock.lock().expect("one thread") = at;
        if let Some(event) = self.queue.remove(&(at, sequence)) {
            self.handle_event(event);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].driver.is_some() && self.nodes[at].engine.has_crashed() {
                self.crash(at);
                let delay = 100 + self.rng.below(5000);
                self.after(delay, Event::Restart(at));
            }
        }
        true
    }

    /// Whether what was sent to a process of a node arrives: its connection ends there, and what is still queued by the sender
    /// goes to a later process only once the sender has met that.
    fn still_reaches(&self, from: Process, to: usize, boot_id: BootId) -> bool {
        let (current, raft_id) = (self.nodes[to].table.boot_history.current, self.nodes[to].table.raft_id);
        let met = || self.nodes[from.0].peers.as_ref().and_then(|peers| peers.boot_id(raft_id)) == Some(current);
        current == boot_id || (self.alive(from) && met())
    }

    /// Puts off what happens to a paused node.
    fn paused(&mut self, process: Process, event: Event) -> Option<Event> {
        let until = self.nodes[process.0].paused_until;
        if self.now >= until {
            return Some(event);
        }
        self.after(until - self.now, event);
        None
    }

    pub fn handle_event(&mut self, event: Event) {
        match event {
            Event::Tick(process)
            | Event::Turn(process)
            | Event::Input(process, _)
            | Event::Scan(process, ..)
            | Event::PeerSpace(process, ..)
            | Event::Sync(process, ..) => {
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
                    self.handle_event(Event::Input((at, self.nodes[at].starts), Box::new(Input::Step(message))));
                }
            }
            Event::StreamArrives(stream) => self.stream_arrives(stream),
            Event::RpcTimeout { origin, token, late } => self.rpc_ended(origin, token, *late),
            Event::StreamTimeout(stream) => self.end_stream(stream, Err("no progress".into())),
            Event::Restart(at) if self.nodes[at].driver.is_none() => self.boot(at),
            Event::Restart(_) => {}
            Event::Client(client) => clients::act(self, client),
            Event::Retry(id) => clients::retry(self, id),
            Event::Operator => operators::act(self),
            Event::ForgedOffer => forged_offers::act(self),
            Event::Nemesis => nemesis::act(self),
            Event::RogueMember => rogue_member::act(self),
            Event::DiskCopy => disk_copies::act(self),
            Event::DiskSpace => disk_space::act(self),
            Event::HealLinks => nemesis::heal_links(self),
            Event::Interfere(at) => operators::interfere(self, at),
            Event::FallBehind(at) => nemesis::fall_behind(self, at),
        }
    }

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
            Event::Sync(process, raft_id, db, mark) => {
                let result = db.sync();
                if result.is_ok() && raft_id == self.nodes[process.0].table.raft_id {
                    self.nodes[process.0].durable = (raft_id, mark.0);
                }
                if !self.nodes[process.0].engine.has_crashed() {
                    self.drive(process.0, |driver, now| driver.handle(now, Input::Synced { mark, result }));
                }
            }
            _ => {}
        }
    }
}
