//! The simulated world: nodes, network, clients and faults on one virtual clock.
//!
//! Laws: everything that happens is an event in one queue, ordered by time and then by birth; chance comes from one
//! seeded generator. The network does what the real transport promises (a message reaches only the incarnation that it
//! was meant for) and nothing more: it delays, loses, repeats and reorders.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use huskv::changefeed::FeedLimits;
use huskv::consensus::{Driver, Input, Options};
use huskv::model::Millis;
use huskv::model::{DiskSpace, Limits, PeerTable};
use huskv::storage::{DataDir, Db, Error, OpenOptions, Peers, Spooler};
use raft::eraftpb::Message;

use crate::checks::{self, Seen};
use crate::clients::Clients;
use crate::disks::Told;
use crate::engine::{Fate, SimEngine, in_loop};
use crate::lives::{Barred, Image};
use crate::narrator::{self, Trace};
use crate::offers::Own;
use crate::port::{Life, Port};
use crate::rng::Rng;
use crate::streams::Streams;

/// One node, up or down.
pub struct Node {
    pub engine: SimEngine,
    pub driver: Option<Driver>,
    pub life: u64,
    pub table: PeerTable,
    pub paused_until: u64,
    /// Until when its disk fails writes again after each start.
    pub full_until: u64,
    /// Where it is to be dialled from its next start on.
    pub place: u64,
    /// How much its own clock is ahead, and how long its ticks are.
    pub ahead: u64,
    tick: u64,
    pub port: Port,
    /// The spooler of the copy whose scan is through, waiting for the loop to end it.
    pub scanned: Option<Box<Spooler>>,
    /// What this life of it was told of the disks of others.
    pub told: Told,
    /// What was seen of it, or was durable when its last life ended: nothing may move back from there.
    pub seen: Seen,
    /// What the events of its feed make of the keys.
    pub mirror: checks::Mirror,
    /// The raft id and applied index that its machine was synced at last.
    pub durable: (u64, u64),
    /// What it must be able to go back to while it joins: the raft id that it had.
    pub kept: Option<u64>,
    /// The raft id under which it was seen as one member of several.
    pub member: Option<u64>,
    /// What was last stored in it while it was alone.
    pub own: Option<Own>,
    /// The voters that it knew after each of its latest turns, with what it knew to be committed then.
    pub voters: VecDeque<(u64, Vec<u64>)>,
    /// Up to where its log was looked at.
    pub scanned_log: u64,
    /// How long a turn of this life takes at least: inputs gather meanwhile, as they do while a slow disk syncs.
    pub pace: u64,
    /// When its next turn may be, and whether that is in the queue.
    next_turn: (u64, bool),
    /// Which of the nodes that the world began with it is, or is a copy of.
    number: usize,
    /// In which life it has spoken to each peer last, while it is up.
    pub peers: Option<Peers>,
    /// An older copy of its disk.
    pub image: Option<Image>,
    /// Set while its disk is a copy, so that it must not take part.
    pub barred: Option<Barred>,
}

/// Something that happens at a time.
pub enum Event {
    Tick(Life),
    Input(Life, Box<Input>),
    /// The loop has something to do although nothing has come in.
    Turn(Life),
    ToIncarnation {
        from: Life,
        to: u64,
        cluster: u64,
        message: Box<Message>,
        /// The life of the receiver that it was sent to.
        life: huskv::model::BootId,
    },
    Scan(Life, u64, Box<Spooler>),
    /// The machine of this raft id is to be synced as far as the mark.
    Sync(Life, u64, Arc<dyn Db>, (u64, u64)),
    StreamArrives(u64),
    ErrandTimeout {
        origin: Life,
        token: u64,
        late: Box<Input>,
    },
    StreamTimeout(u64),
    Restart(usize),
    Client(usize),
    /// The client of this operation sends it again.
    Again(u64),
    Admin,
    Nemesis,
    /// A broken member does something.
    Rogue,
    /// A stranger offers some node to adopt it, or somebody stores something in one that is alone.
    Offer,
    /// Something happens to the copy of a disk.
    Copy,
    /// A disk falls below its reserve, or has enough again.
    Disk,
    /// A node is told what is left of the disk of this raft id.
    Space(Life, u64, DiskSpace),
    /// All links are whole again.
    Mend,
    /// The second operator asks for something about this node.
    Meddle(usize),
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
    pub copyist: Rng,
    /// What draws what the disks have left, likewise.
    pub disks: Rng,
    /// When a conflict was told last: to which node, about whom, and which way.
    pub conflicts: BTreeMap<(usize, u64, bool), u64>,
    pub clients: Clients,
    pub cluster: u64,
    /// Directed links that are cut.
    pub cut: BTreeSet<(usize, usize)>,
    pub faults: bool,
    /// Whether a stranger has raised a term.
    pub leapt: bool,
    /// Entries between two cuts, and entries kept behind one.
    log_length: (u64, u64),
    /// How long a joining node waits for its cluster.
    pub join_wait: u64,
    /// What strangers draw from, so that they shift no other draw.
    pub strangers: Rng,
    /// What a turn of a node applies from its next start on, where it is not drawn from the seed.
    pub apply_work: Option<usize>,
    /// Whether nodes apply one entry a turn, and some take long for a turn, so that much of what is committed waits.
    pub slow: bool,
    trace: Trace,
    raft_trace: bool,
    pub book: checks::Book,
    pub failure: Option<String>,
    pub admin: crate::admin::Admin,
    pub digest: u64,
    queue: BTreeMap<(u64, u64), Event>,
    pub born: u64,
    clock: Arc<Mutex<Millis>>,
    /// Questions and forwards that are not answered yet.
    pub errands: BTreeSet<(Life, u64)>,
    pub streams: Streams,
    /// What a broken member draws from.
    pub rogue: Rng,
}

pub const TICK: u64 = 50;

/// How often a node tells the others whom it follows, in virtual milliseconds.
const WORD_EVERY: u64 = 1000;

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
            copyist: Rng::new(seed ^ 0x11fe),
            disks: Rng::new(seed ^ 0xd15c),
            conflicts: BTreeMap::new(),
            cluster: 0,
            cut: BTreeSet::new(),
            faults: false,
            leapt: false,
            log_length: if seed.is_multiple_of(3) { (60, 40) } else { (15, 4) },
            join_wait: [1_500, 8_000, 60_000][usize::try_from(seed % 3).expect("small")],
            strangers: Rng::new(seed ^ 0x5741),
            apply_work: None,
            slow: seed % 3 == 1,
            raft_trace: !matches!(trace, Trace::Off) && std::env::var_os("SIM_RAFT").is_some(),
            trace,
            book: checks::Book::default(),
            failure: None,
            admin: crate::admin::Admin::default(),
            digest: seed,
            queue: BTreeMap::new(),
            born: 0,
            clock: clock.clone(),
            errands: BTreeSet::new(),
            streams: Streams::default(),
            rogue: Rng::new(!seed),
        };
        for at in 0..nodes {
            let mut node = world.node(SimEngine::default(), at);
            (node.ahead, node.tick) = (world.rng.below(100_000), TICK - 3 + world.rng.below(7));
            world.nodes.push(node);
        }
        for at in 0..nodes {
            world.boot(at);
        }
        world.cluster = world.nodes[0].table.cluster_id;
        world
    }

    /// A node on this disk that was not started yet.
    pub fn node(&self, engine: SimEngine, number: usize) -> Node {
        Node {
            port: Port::new(self.clock.clone(), engine.clone()),
            engine,
            driver: None,
            life: 0,
            table: PeerTable::default(),
            paused_until: 0,
            full_until: 0,
            place: 1,
            ahead: 0,
            tick: TICK,
            scanned: None,
            told: Told::new(),
            seen: Seen::default(),
            mirror: checks::Mirror::default(),
            durable: (0, 0),
            kept: None,
            member: None,
            own: None,
            voters: VecDeque::new(),
            scanned_log: 0,
            pace: 0,
            next_turn: (0, false),
            number,
            peers: None,
            image: None,
            barred: None,
        }
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if !matches!(self.trace, Trace::Off) {
            self.trace.line(&format!("{:>8} {}", self.now, line()));
        }
    }

    pub fn fail(&mut self, what: String) {
        self.say(|| format!("FAILED: {what}"));
        self.failure.get_or_insert(what);
    }

    pub fn after(&mut self, delay: u64, event: Event) {
        self.born += 1;
        self.queue.insert((self.now + delay, self.born), event);
    }

    /// Lets the next event happen; false where `until` comes first.
    pub fn step(&mut self, until: u64) -> bool {
        let Some((&(at, born), _)) = self.queue.first_key_value() else { return false };
        if at > until || self.failure.is_some() {
            self.now = self.now.max(until);
            return false;
        }
        self.now = at;
        *self.clock.lock().expect("one thread") = at;
        if let Some(event) = self.queue.remove(&(at, born)) {
            self.happen(event);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].driver.is_some() && self.nodes[at].engine.gone() {
                self.crash(at);
                let delay = 100 + self.rng.below(5000);
                self.after(delay, Event::Restart(at));
            }
        }
        true
    }

    /// Whether what was sent to a life of a node arrives: its connection ends there, and what is still queued by the sender
    /// goes to a later life only once the sender has met that.
    fn still_reaches(&self, from: Life, to: usize, life: huskv::model::BootId) -> bool {
        let (current, raft_id) = (self.nodes[to].table.boot_history.current, self.nodes[to].table.raft_id);
        let met = || self.nodes[from.0].peers.as_ref().and_then(|peers| peers.boot_id(raft_id)) == Some(current);
        current == life || (self.alive(from) && met())
    }

    fn alive(&self, life: Life) -> bool {
        self.nodes[life.0].life == life.1 && self.nodes[life.0].driver.is_some()
    }

    /// Puts off what happens to a paused node.
    fn paused(&mut self, life: Life, event: Event) -> Option<Event> {
        let until = self.nodes[life.0].paused_until;
        if self.now >= until {
            return Some(event);
        }
        self.after(until - self.now, event);
        None
    }

    pub fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(life)
            | Event::Turn(life)
            | Event::Input(life, _)
            | Event::Scan(life, ..)
            | Event::Space(life, ..)
            | Event::Sync(life, ..) => {
                if self.alive(life)
                    && let Some(event) = self.paused(life, event)
                {
                    self.happen_to(event);
                }
            }
            Event::ToIncarnation { from, to, cluster, message, life } => {
                if let Some(at) = self.incarnation(to, cluster)
                    && self.still_reaches(from, at, life)
                {
                    self.happen(Event::Input((at, self.nodes[at].life), Box::new(Input::Step(message))));
                }
            }
            Event::StreamArrives(stream) => self.stream_arrives(stream),
            Event::ErrandTimeout { origin, token, late } => self.errand_ends(origin, token, *late),
            Event::StreamTimeout(stream) => self.end_stream(stream, Err("no progress".into())),
            Event::Restart(at) if self.nodes[at].driver.is_none() => self.boot(at),
            Event::Restart(_) => {}
            Event::Client(client) => crate::clients::act(self, client),
            Event::Again(id) => crate::clients::again(self, id),
            Event::Admin => crate::admin::act(self),
            Event::Offer => crate::offers::act(self),
            Event::Nemesis => crate::nemesis::act(self),
            Event::Rogue => crate::rogue::act(self),
            Event::Copy => crate::lives::act(self),
            Event::Disk => crate::disks::act(self),
            Event::Mend => crate::nemesis::mend(self),
            Event::Meddle(at) => crate::admin::meddle(self, at),
            Event::FallBehind(at) => crate::nemesis::fall_behind(self, at),
        }
    }

    fn happen_to(&mut self, event: Event) {
        match event {
            Event::Tick(life) => {
                self.drive(life.0, Driver::tick);
                if self.now / WORD_EVERY > (self.now - TICK.min(self.now)) / WORD_EVERY {
                    self.say_whom_it_follows(life.0);
                }
                self.greet(life.0);
                if self.alive(life) {
                    self.after(self.nodes[life.0].tick, Event::Tick(life));
                }
            }
            Event::Input(life, input) => self.drive(life.0, |driver, now| driver.handle(now, *input)),
            Event::Turn(life) => self.drive(life.0, |_, _| Ok(())),
            Event::Scan(life, token, spooler) => self.scan(life, token, spooler),
            Event::Space(life, from, space) => crate::disks::hear(self, life.0, from, space),
            Event::Sync(life, raft_id, db, mark) => {
                let result = db.sync();
                if result.is_ok() && raft_id == self.nodes[life.0].table.raft_id {
                    self.nodes[life.0].durable = (raft_id, mark.0);
                }
                if !self.nodes[life.0].engine.gone() {
                    self.drive(life.0, |driver, now| driver.handle(now, Input::Synced { mark, result }));
                }
            }
            _ => {}
        }
    }

    /// Opens the node's directory as it is and starts its driver.
    pub fn boot(&mut self, at: usize) {
        let mut ids = self.rng.fork();
        let (range, nonce) = (20 + usize::try_from(self.rng.below(20)).expect("small"), self.rng.next());
        let fails = self.now < self.nodes[at].full_until;
        let effects = self.rng.below(6);
        let pace = if self.slow && self.faults && self.rng.chance(50) { 50 + self.rng.below(300) } else { 0 };
        // So little that a transaction or two fill a turn.
        let apply_work = self.apply_work.unwrap_or(if self.slow { 1 } else { 6 << 10 });
        let node = &mut self.nodes[at];
        if fails {
            node.engine.set_outcome(Fate::Fail(effects));
        }
        node.life += 1;
        node.port = Port::new(self.clock.clone(), node.engine.clone());
        node.scanned = None;
        node.told.clear();
        node.paused_until = 0;
        node.scanned_log = 0;
        node.pace = pace;
        node.next_turn = (0, false);
        let options = Options {
            tick_ms: TICK,
            heartbeat_ticks: 2,
            election_ticks: 20,
            election_range: Some((range, range + 1)),
            snapshot_every_entries: self.log_length.0,
            snapshot_every_bytes: 1 << 30,
            snapshot_keep_entries: self.log_length.1,
            snapshot_spool_bytes: 1 << 30,
            entry_cache_bytes: 32 << 20,
            follower_bytes: 64 << 20,
            apply_work,
            limits: Limits::ALL_NODES,
            pending_requests: 1000,
            history: FeedLimits { events: 40, bytes: 1 << 20 },
            raft_address: format!("n{}:{}", node.number, node.place),
            http_address: format!("n{}:80", node.number),
            follow_moves: self.follow_moves,
            forming: false,
            join_wait_ms: self.join_wait,
            nonce,
        };
        let boot = OpenOptions {
            name: format!("n{}", node.number),
            raft_address: options.raft_address.clone(),
            http_address: options.http_address.clone(),
            cache_bytes: 1 << 20,
            picked_http_port: None,
            picked_raft_port: None,
            random: Box::new(move || ids.next()),
        };
        let log = narrator::logger(at, self.clock.clone(), self.trace.clone());
        let raft_trace = if self.raft_trace { self.trace.clone() } else { Trace::Off };
        let quiet = narrator::logger(at, self.clock.clone(), raft_trace);
        let port = node.port.clone();
        node.peers = Peers::open(Arc::new(node.engine.clone())).ok();
        let driver = DataDir::open(Arc::new(node.engine.clone()), boot).and_then(|(data_dir, incarnation)| {
            Driver::new(data_dir, incarnation, Box::new(port.clone()), Box::new(port), options, log, quiet)
        });
        let life = node.life;
        match driver {
            Ok(driver) => self.nodes[at].driver = Some(driver),
            Err(_) if matches!(self.nodes[at].engine.outcome(), Fate::Crash(0) | Fate::Failed) => {
                self.crash(at);
                return self.after(500, Event::Restart(at));
            }
            Err(failure) => return self.fail(format!("n{at} does not start: {failure}")),
        }
        self.say(|| format!("n{at} starts, life {life}"));
        self.drive(at, |driver, now| driver.start(now));
        let offset = self.rng.below(TICK);
        self.after(offset, Event::Tick((at, life)));
    }

    /// Ends a life and begins the next.
    pub fn restart(&mut self, at: usize) {
        self.crash(at);
        self.boot(at);
    }

    /// Ends a life: what was not synced may be gone.
    pub fn crash(&mut self, at: usize) {
        self.say(|| format!("n{at} crashes"));
        let mut rng = self.rng.fork();
        let node = &mut self.nodes[at];
        node.driver = None;
        node.scanned = None;
        node.seen.crashed(&node.engine, node.durable);
        node.engine = node.engine.crashed(&mut rng);
    }

    /// Runs something on a driver, then a turn, and lets everything that comes out of it loose.
    pub fn drive(&mut self, at: usize, run: impl FnOnce(&mut Driver, u64) -> Result<(), Error>) {
        let now = self.now + self.nodes[at].ahead;
        let (next, queued) = self.nodes[at].next_turn;
        let gathers = self.now < next;
        let Some(driver) = self.nodes[at].driver.as_mut() else { return };
        let work = || run(driver, now).and_then(|()| if gathers { Ok(()) } else { driver.turn(now) });
        let (result, closed) = in_loop(work);
        if closed && self.nodes[at].engine.outcome() == Fate::Whole {
            self.fail(format!("n{at} closes a database on the thread of its loop"));
        }
        if gathers && !queued {
            self.after(next - self.now, Event::Turn((at, self.nodes[at].life)));
        }
        let pace = self.nodes[at].pace;
        self.nodes[at].next_turn = if gathers { (next, true) } else { (self.now + pace, false) };
        if result.is_ok()
            && let Some(spooler) = self.nodes[at].scanned.take()
        {
            self.finish_cut(at, *spooler);
        }
        let outs = self.nodes[at].port.take();
        let life = (at, self.nodes[at].life);
        for out in outs {
            self.let_out(life, out);
        }
        match (result, self.nodes[at].engine.outcome()) {
            (Ok(()) | Err(_), Fate::Crash(0)) => {}
            (Ok(()), Fate::Failed) => self.fail(format!("n{at} goes on after its disk has failed")),
            (Ok(()), _) => {
                checks::after_turn(self, at);
                if !gathers && self.nodes[at].driver.as_ref().is_some_and(Driver::has_work) {
                    self.after(1, Event::Turn(life));
                }
                self.end_if_stopped(at);
            }
            (Err(_), Fate::Failed) => {
                self.say(|| format!("n{at} stops: its disk fails"));
                self.crash(at);
                self.after(1000, Event::Restart(at));
            }
            // An operator will see to it.
            (Err(_), _) if self.nodes[at].barred.is_some() => {
                self.say(|| format!("n{at} ends: its disk was brought back"));
                self.crash(at);
            }
            (Err(failure), _) => self.fail(format!("n{at} stops: {failure}")),
        }
    }

    /// Ends the life of a node that was told to stop and has nothing left to wait for. All that it had is durable then.
    fn end_if_stopped(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(driver) = node.driver.as_mut().filter(|driver| driver.stopped()) else { return };
        let finished = driver.finish();
        let (outs, life) = (node.port.take(), (at, node.life));
        for out in outs {
            self.let_out(life, out);
        }
        let node = &mut self.nodes[at];
        match (finished, node.engine.outcome()) {
            (Ok(()), Fate::Failed) => return self.fail(format!("n{at} stops well after its disk has failed")),
            (Ok(()), Fate::Crash(0)) => {}
            (Ok(()), _) => node.durable = (node.table.raft_id, node.seen.applied()),
            (Err(_), Fate::Crash(0) | Fate::Failed) => {}
            (Err(failure), _) => return self.fail(format!("n{at} cannot stop: {failure}")),
        }
        self.say(|| format!("n{at} has stopped"));
        self.crash(at);
        let down = 100 + self.rng.below(3000);
        self.after(down, Event::Restart(at));
    }

    /// A port of a living node, for clients and operators.
    pub fn port(&self, at: usize) -> Port {
        self.nodes[at].port.clone()
    }

    /// Hands a living node an input now.
    pub fn input(&mut self, at: usize, input: Input) {
        let life = (at, self.nodes[at].life);
        self.happen(Event::Input(life, Box::new(input)));
    }
}
