//! The simulated world: nodes, network, clients and faults on one virtual clock.
//!
//! Laws: everything that happens is an event in one queue, ordered by time and then by birth; chance comes from one
//! seeded generator. The network does what the real transport promises (a message reaches only the incarnation that it
//! was meant for) and nothing more: it delays, loses, repeats and reorders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use huskv::consensus::{Chores, Driver, Fetched, Input, InstallError, Millis, Options, Outbox};
use huskv::model::{Adopt, Adopted, Answer, Code, PeerTable, Refusal, Request, WhoAmI};
use huskv::storage::{Boot, Cut, Db, Engine, Frame, SnapshotReader, SnapshotWriter, Volume};
use raft::eraftpb::{Message, SnapshotMetadata};

use crate::clients::Clients;
use crate::engine::SimEngine;
use crate::rng::Rng;

/// A node's place in the world and which of its lives is meant.
pub type Life = (usize, u64);

/// What a driver let out.
pub enum Out {
    Send(Vec<Message>),
    Forward { token: u64, to: u64, request: Request, timeout: u64 },
    Identify { token: u64, address: String },
    Adopt { token: u64, address: String, adopt: Box<Adopt> },
    TellRemoved(u64),
    Stream { to: u64, message: Box<Message>, reader: Box<SnapshotReader> },
    Publish(PeerTable),
    Sync { db: Arc<dyn Db>, mark: (u64, u64) },
    Scan { token: u64, cut: Box<Cut> },
    Discard { engine: Arc<dyn Engine>, names: Vec<String> },
    Said(Said),
}

/// What a reply that an input carried brought.
pub enum Said {
    Client { operation: u64, result: Result<Answer, Refusal> },
    Read { operation: u64, result: Result<Fetched, Refusal> },
    Admin { result: Result<Answer, Refusal> },
    Forwarded { origin: Life, token: u64, result: Result<Answer, Refusal> },
    WhoAmI { origin: Life, token: u64, me: WhoAmI },
    Adopted { origin: Life, token: u64, result: Result<Adopted, Refusal> },
    Receive { stream: u64, writer: Box<Result<SnapshotWriter, InstallError>> },
    Installed { stream: u64, metadata: SnapshotMetadata, result: Result<(), InstallError> },
}

/// The ways out of one life of one node.
#[derive(Clone)]
pub struct Port(pub Arc<Mutex<Vec<Out>>>, Arc<Mutex<Millis>>);

impl Port {
    pub fn push(&self, out: Out) {
        self.0.lock().expect("one thread").push(out);
    }

    /// A reply that reports through this port.
    pub fn reply<T: 'static>(&self, said: impl FnOnce(T) -> Said + Send + 'static) -> Box<dyn FnOnce(T) + Send> {
        let port = self.clone();
        Box::new(move |value| port.push(Out::Said(said(value))))
    }
}

impl Outbox for Port {
    fn send(&mut self, messages: Vec<Message>) {
        self.push(Out::Send(messages));
    }
    fn forward(&mut self, token: u64, to: u64, request: Request, timeout: u64) {
        self.push(Out::Forward { token, to, request, timeout });
    }
    fn identify(&mut self, token: u64, address: &str) {
        self.push(Out::Identify { token, address: address.to_owned() });
    }
    fn adopt(&mut self, token: u64, address: &str, adopt: Adopt) {
        self.push(Out::Adopt { token, address: address.to_owned(), adopt: Box::new(adopt) });
    }
    fn tell_removed(&mut self, raft_id: u64) {
        self.push(Out::TellRemoved(raft_id));
    }
    fn stream(&mut self, to: u64, message: Message, reader: SnapshotReader) {
        self.push(Out::Stream { to, message: Box::new(message), reader: Box::new(reader) });
    }
    fn publish(&mut self, table: PeerTable) {
        self.push(Out::Publish(table));
    }
}

impl Chores for Port {
    fn sync(&mut self, db: Arc<dyn Db>, mark: (u64, u64)) {
        self.push(Out::Sync { db, mark });
    }
    fn scan(&mut self, token: u64, cut: Cut) {
        self.push(Out::Scan { token, cut: Box::new(cut) });
    }
    fn discard(&mut self, engine: Arc<dyn Engine>, names: Vec<String>) {
        self.push(Out::Discard { engine, names });
    }
    fn now(&self) -> Millis {
        *self.1.lock().expect("one thread")
    }
}

/// One node, up or down.
pub struct Node {
    pub engine: SimEngine,
    pub driver: Option<Driver>,
    pub life: u64,
    pub table: PeerTable,
    pub paused_until: u64,
    port: Port,
    /// The cut whose scan is through, waiting for the loop to end it.
    scanned: Option<(u64, Box<Cut>)>,
    /// The highest term and applied index seen in this life.
    pub seen: (u64, u64),
}

/// A copy on its way.
struct Stream {
    from: Life,
    to: u64,
    message: Box<Message>,
    reader: Option<Box<SnapshotReader>>,
    frames: Vec<Vec<u8>>,
    metadata: SnapshotMetadata,
}

/// Something that happens at a time.
pub enum Event {
    Tick(Life),
    Input(Life, Box<Input>),
    ToIncarnation { to: u64, cluster: u64, message: Box<Message> },
    Scan(Life, u64, Box<Cut>),
    Sync(Life, Arc<dyn Db>, (u64, u64)),
    StreamArrives(u64),
    ErrandTimeout { origin: Life, token: u64, late: Box<Input> },
    StreamTimeout(u64),
    Restart(usize),
    Client(usize),
    Admin,
    Nemesis,
}

/// The whole.
pub struct World {
    pub rng: Rng,
    pub now: u64,
    pub nodes: Vec<Node>,
    pub clients: Clients,
    pub cluster: u64,
    /// Directed links that are cut.
    pub cut: BTreeSet<(usize, usize)>,
    pub faults: bool,
    pub trace: bool,
    raft_trace: bool,
    /// Who led which term of the cluster.
    pub leaders: BTreeMap<u64, u64>,
    /// What the store looked like at an applied index, on whichever node got there first.
    pub states: BTreeMap<u64, u64>,
    pub failure: Option<String>,
    pub admin: crate::admin::Admin,
    pub digest: u64,
    queue: BTreeMap<(u64, u64), Event>,
    born: u64,
    clock: Arc<Mutex<Millis>>,
    /// Questions and forwards that are not answered yet.
    errands: BTreeSet<(Life, u64)>,
    streams: BTreeMap<u64, Stream>,
}

pub const TICK: u64 = 50;

impl World {
    pub fn new(seed: u64, nodes: usize, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let clock = Arc::new(Mutex::new(0));
        let mut world = Self {
            clients: Clients::new(rng.fork()),
            rng,
            now: 0,
            nodes: Vec::new(),
            cluster: 0,
            cut: BTreeSet::new(),
            faults: false,
            trace,
            raft_trace: trace && std::env::var_os("SIM_RAFT").is_some(),
            leaders: BTreeMap::new(),
            states: BTreeMap::new(),
            failure: None,
            admin: crate::admin::Admin::default(),
            digest: seed,
            queue: BTreeMap::new(),
            born: 0,
            clock: clock.clone(),
            errands: BTreeSet::new(),
            streams: BTreeMap::new(),
        };
        for _ in 0..nodes {
            world.nodes.push(Node {
                engine: SimEngine::default(),
                driver: None,
                life: 0,
                table: PeerTable::default(),
                paused_until: 0,
                port: Port(Arc::default(), clock.clone()),
                scanned: None,
                seen: (0, 0),
            });
        }
        for at in 0..nodes {
            world.boot(at);
        }
        world.cluster = world.nodes[0].table.cluster_id;
        world
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>8} {}", self.now, line());
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
            if self.nodes[at].driver.is_some() && self.nodes[at].engine.crashed_by_fuse() {
                self.crash(at);
                let delay = 100 + self.rng.below(5000);
                self.after(delay, Event::Restart(at));
            }
        }
        true
    }

    fn alive(&self, life: Life) -> bool {
        self.nodes[life.0].life == life.1 && self.nodes[life.0].driver.is_some()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(life) if self.alive(life) => {
                let paused = self.nodes[life.0].paused_until;
                if self.now < paused {
                    self.after(paused - self.now, Event::Tick(life));
                    return;
                }
                self.drive(life.0, Driver::tick);
                if self.alive(life) {
                    self.after(TICK, Event::Tick(life));
                }
            }
            Event::Input(life, input) if self.alive(life) => {
                let paused = self.nodes[life.0].paused_until;
                if self.now < paused {
                    self.after(paused - self.now, Event::Input(life, input));
                    return;
                }
                self.drive(life.0, |driver, _| driver.handle(*input));
            }
            Event::ToIncarnation { to, cluster, message } => {
                if let Some(at) = self.incarnation(to, cluster) {
                    self.happen(Event::Input((at, self.nodes[at].life), Box::new(Input::Step(message))));
                }
            }
            Event::Scan(life, token, cut) if self.alive(life) => self.scan(life, token, cut),
            Event::Sync(life, db, mark) if self.alive(life) => {
                let result = db.sync();
                if result.is_ok() {
                    self.happen(Event::Input(life, Box::new(Input::Synced { mark, result })));
                }
            }
            Event::StreamArrives(stream) => self.stream_arrives(stream),
            Event::ErrandTimeout { origin, token, late } => self.errand_ends(origin, token, *late),
            Event::StreamTimeout(stream) => self.end_stream(stream, Err("no progress".into())),
            Event::Restart(at) if self.nodes[at].driver.is_none() => self.boot(at),
            Event::Client(client) => crate::clients::act(self, client),
            Event::Admin => crate::admin::act(self),
            Event::Nemesis => crate::nemesis::act(self),
            _ => {}
        }
    }

    /// Opens the node's directory as it is and starts its driver.
    pub fn boot(&mut self, at: usize) {
        let mut ids = self.rng.fork();
        let (range, nonce) = (20 + usize::try_from(self.rng.below(20)).expect("small"), self.rng.next());
        let node = &mut self.nodes[at];
        node.life += 1;
        node.port = Port(Arc::default(), self.clock.clone());
        node.scanned = None;
        node.seen = (0, 0);
        node.paused_until = 0;
        let options = Options {
            tick_ms: TICK,
            heartbeat_ticks: 2,
            election_ticks: 20,
            election_range: Some((range, range + 1)),
            snapshot_every_entries: 15,
            snapshot_every_bytes: 1 << 30,
            snapshot_keep_entries: 4,
            snapshot_spool_bytes: 1 << 30,
            pending_requests: 1000,
            raft_address: format!("n{at}:1"),
            http_address: format!("n{at}:2"),
            forming: false,
            nonce,
        };
        let boot = Boot {
            name: format!("n{at}"),
            raft_address: options.raft_address.clone(),
            http_address: options.http_address.clone(),
            cache_bytes: 1 << 20,
            picked_http_port: None,
            picked_raft_port: None,
            mint: Box::new(move || ids.next()),
        };
        let log = crate::narrator::logger(at, self.clock.clone(), self.trace);
        let quiet = crate::narrator::logger(at, self.clock.clone(), self.raft_trace);
        let port = node.port.clone();
        let driver = Volume::open(Arc::new(node.engine.clone()), boot).and_then(|(volume, incarnation)| {
            Driver::new(volume, incarnation, Box::new(port.clone()), Box::new(port), options, log, quiet)
        });
        let life = node.life;
        match driver {
            Ok(driver) => self.nodes[at].driver = Some(driver),
            Err(_) if self.nodes[at].engine.crashed_by_fuse() => {
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

    /// Ends a life: what was not synced may be gone.
    pub fn crash(&mut self, at: usize) {
        self.say(|| format!("n{at} crashes"));
        self.nodes[at].driver = None;
        self.nodes[at].scanned = None;
        let mut rng = self.rng.fork();
        self.nodes[at].engine = self.nodes[at].engine.crashed(&mut rng);
    }

    /// Runs something on a driver, then a turn, and lets everything that comes out of it loose.
    pub fn drive(&mut self, at: usize, run: impl FnOnce(&mut Driver, u64) -> Result<(), huskv::storage::Error>) {
        let now = self.now;
        let Some(driver) = self.nodes[at].driver.as_mut() else { return };
        let result = run(driver, now).and_then(|()| driver.turn(now));
        if result.is_ok()
            && let Some((token, cut)) = self.nodes[at].scanned.take()
        {
            self.finish_cut(at, token, *cut);
        }
        let outs = std::mem::take(&mut *self.nodes[at].port.0.lock().expect("one thread"));
        let life = (at, self.nodes[at].life);
        for out in outs {
            self.let_out(life, out);
        }
        match result {
            Ok(()) => crate::checks::after_turn(self, at),
            Err(_) if self.nodes[at].engine.crashed_by_fuse() => {}
            Err(failure) => self.fail(format!("n{at} stops: {failure}")),
        }
    }

    fn incarnation(&self, raft_id: u64, cluster: u64) -> Option<usize> {
        let is =
            |node: &Node| node.driver.is_some() && node.table.raft_id == raft_id && node.table.cluster_id == cluster;
        self.nodes.iter().position(|node| is(node) && !node.table.removed)
    }

    fn addressed(&self, address: &str) -> Option<usize> {
        let at: usize = address.strip_prefix('n')?.strip_suffix(":1")?.parse().ok()?;
        (self.nodes.get(at)?.driver.is_some()).then_some(at)
    }

    fn connected(&self, from: usize, to: usize) -> bool {
        from == to || !self.cut.contains(&(from, to))
    }

    fn delay(&mut self) -> u64 {
        if self.faults && self.rng.chance(5) { 1 + self.rng.below(800) } else { 1 + self.rng.below(8) }
    }

    fn let_out(&mut self, life: Life, out: Out) {
        match out {
            Out::Send(messages) => messages.into_iter().for_each(|message| self.send(life, message)),
            Out::Forward { token, to, request, timeout } => self.forward(life, token, to, request, timeout),
            Out::Identify { token, address } => self.identify(life, token, &address),
            Out::Adopt { token, address, adopt } => self.adopt(life, token, &address, *adopt),
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
            Out::Stream { to, message, reader } => {
                self.born += 1;
                let stream = Stream {
                    from: life,
                    to,
                    message,
                    reader: Some(reader),
                    frames: Vec::new(),
                    metadata: SnapshotMetadata::default(),
                };
                let id = self.born;
                self.streams.insert(id, stream);
                self.after(30_000, Event::StreamTimeout(id));
            }
            Out::Publish(table) => self.nodes[life.0].table = table,
            Out::Sync { db, mark } => {
                let delay = 1 + self.rng.below(100);
                self.after(delay, Event::Sync(life, db, mark));
            }
            Out::Scan { token, cut } => self.after(1, Event::Scan(life, token, cut)),
            Out::Discard { engine, names } => names.iter().for_each(|name| drop(engine.remove(name))),
            Out::Said(said) => self.hear(said),
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
        if !self.connected(life.0, at) || (self.faults && self.rng.chance(2)) {
            return;
        }
        let delay = self.delay();
        if self.faults && self.rng.chance(2) {
            let again = delay + self.rng.below(3000);
            self.after(again, Event::ToIncarnation { to, cluster, message: Box::new(message.clone()) });
        }
        self.after(delay, Event::ToIncarnation { to, cluster, message: Box::new(message) });
    }

    /// Notes an errand that must end in exactly one input: `late` where nothing else ends it within `timeout`.
    fn errand(&mut self, origin: Life, token: u64, timeout: u64, late: Input) {
        self.errands.insert((origin, token));
        self.after(timeout, Event::ErrandTimeout { origin, token, late: Box::new(late) });
    }

    fn errand_ends(&mut self, origin: Life, token: u64, input: Input) {
        if self.errands.remove(&(origin, token)) {
            self.after(1, Event::Input(origin, Box::new(input)));
        }
    }

    fn forward(&mut self, life: Life, token: u64, to: u64, request: Request, timeout: u64) {
        let late = Err(Refusal::unknown(Code::Timeout, "no answer from the leader in time"));
        self.errand(life, token, timeout, Input::Forwarded { token, result: late });
        let cluster = self.nodes[life.0].table.cluster_id;
        let target = self.incarnation(to, cluster).filter(|at| self.connected(life.0, *at));
        let Some(at) = target else {
            let unsent = Err(Refusal::not_applied(Code::NoLeader, "not connected"));
            return self.errand_ends(life, token, Input::Forwarded { token, result: unsent });
        };
        if self.faults && self.rng.chance(3) {
            return;
        }
        let reply = self.nodes[at].port.reply(move |result| Said::Forwarded { origin: life, token, result });
        let input = Input::Request { request, deadline: self.now + timeout, forwarded: true, reply };
        let (delay, life) = (self.delay(), (at, self.nodes[at].life));
        self.after(delay, Event::Input(life, Box::new(input)));
    }

    /// Whoever can be dialled at an address now.
    fn dial(&self, from: usize, address: &str) -> Option<usize> {
        self.addressed(address).filter(|at| self.connected(from, *at) && self.connected(*at, from))
    }

    fn identify(&mut self, life: Life, token: u64, address: &str) {
        let nobody = Err(Refusal::not_applied(Code::Unreachable, format!("nothing answers at {address}")));
        self.errand(life, token, 3000, Input::Identified { token, result: nobody });
        if let Some(at) = self.dial(life.0, address) {
            let reply = self.nodes[at].port.reply(move |me| Said::WhoAmI { origin: life, token, me });
            let to = (at, self.nodes[at].life);
            self.after(2, Event::Input(to, Box::new(Input::WhoAmI { reply })));
        }
    }

    fn adopt(&mut self, life: Life, token: u64, address: &str, adopt: Adopt) {
        let broken = Err(Refusal::unknown(Code::Unreachable, "the connection broke"));
        self.errand(life, token, 6000, Input::AdoptAnswered { token, result: broken });
        if let Some(at) = self.dial(life.0, address) {
            let reply = self.nodes[at].port.reply(move |result| Said::Adopted { origin: life, token, result });
            let to = (at, self.nodes[at].life);
            self.after(2, Event::Input(to, Box::new(Input::Adopt { adopt, reply })));
        }
    }

    fn hear(&mut self, said: Said) {
        match said {
            Said::Client { operation, result } => {
                let now = self.now;
                crate::clients::answered(self, operation, now, result);
            }
            Said::Read { operation, result } => {
                let now = self.now;
                crate::clients::read(self, operation, now, result);
            }
            Said::Admin { result } => crate::admin::answered(self, result),
            Said::Forwarded { origin, token, result } => {
                if !(self.faults && self.rng.chance(3)) {
                    self.errand_ends(origin, token, Input::Forwarded { token, result });
                }
            }
            Said::WhoAmI { origin, token, me } => {
                self.errand_ends(origin, token, Input::Identified { token, result: Ok(me) });
            }
            Said::Adopted { origin, token, result } => {
                if !(self.faults && self.rng.chance(10)) {
                    self.errand_ends(origin, token, Input::AdoptAnswered { token, result });
                }
            }
            Said::Receive { stream, writer } => self.receive(stream, *writer),
            Said::Installed { stream, metadata, result } => {
                let ended = result.map(|()| metadata).map_err(|error| error.0);
                self.end_stream(stream, ended);
            }
        }
    }

    fn scan(&mut self, life: Life, token: u64, mut cut: Box<Cut>) {
        let result = match cut.next_chunk() {
            Ok(true) => return self.after(3, Event::Scan(life, token, cut)),
            Ok(false) => {
                self.nodes[life.0].scanned = Some((token, cut));
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        let failed = result.is_err();
        self.happen(Event::Input(life, Box::new(Input::Scanned { token, result })));
        if failed {
            self.fail_streams_of(life, "the scan failed");
        }
    }

    fn finish_cut(&mut self, at: usize, _token: u64, cut: Cut) {
        let life = (at, self.nodes[at].life);
        let whole = cut.finish().is_ok();
        let Some((&stream, _)) = self.streams.iter().rfind(|(_, stream)| stream.from == life) else { return };
        if !whole {
            return self.fail_streams_of(life, "the cut was given up");
        }
        if let Some(entry) = self.streams.get_mut(&stream)
            && let Some(mut reader) = entry.reader.take()
        {
            loop {
                match reader.next() {
                    Ok(Frame::Changes(changes)) => entry.frames.push(changes),
                    Ok(Frame::End(metadata)) => {
                        entry.metadata = metadata;
                        break;
                    }
                    Err(failure) => return self.fail(format!("a whole copy cannot be read: {failure}")),
                }
            }
        }
        let delay = 5 + self.rng.below(200);
        self.after(delay, Event::StreamArrives(stream));
    }

    fn fail_streams_of(&mut self, life: Life, why: &str) {
        let theirs: Vec<u64> = self.streams.iter().filter(|(_, s)| s.from == life).map(|(id, _)| *id).collect();
        for stream in theirs {
            self.end_stream(stream, Err(why.to_owned()));
        }
    }

    fn end_stream(&mut self, stream: u64, result: Result<SnapshotMetadata, String>) {
        if let Some(Stream { from, to, .. }) = self.streams.remove(&stream) {
            self.after(1, Event::Input(from, Box::new(Input::StreamEnded { to, result })));
        }
    }

    fn stream_arrives(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = (stream.from, stream.to);
        let cluster = self.nodes[from.0].table.cluster_id;
        let target = self.incarnation(to, cluster).filter(|at| self.connected(from.0, *at));
        let Some(at) = target.filter(|_| !(self.faults && self.rng.chance(20))) else {
            return self.end_stream(id, Err("the connection broke".into()));
        };
        let sender = self.streams[&id].message.from;
        let reply = self.nodes[at].port.reply(move |writer| Said::Receive { stream: id, writer: Box::new(writer) });
        let life = (at, self.nodes[at].life);
        self.happen(Event::Input(life, Box::new(Input::Receive { from: sender, reply })));
    }

    fn receive(&mut self, id: u64, writer: Result<SnapshotWriter, InstallError>) {
        let Some(stream) = self.streams.get(&id) else { return };
        let (to, from) = (stream.to, stream.from);
        let mut writer = match writer {
            Ok(writer) => writer,
            Err(error) => return self.end_stream(id, Err(error.0)),
        };
        let metadata = stream.metadata.clone();
        let written = stream.frames.iter().try_for_each(|frame| writer.write(frame));
        let received = match written.and_then(|()| writer.finish(&metadata)) {
            Ok(received) => received,
            Err(failure) => return self.end_stream(id, Err(failure.to_string())),
        };
        let mut message = self.streams[&id].message.clone();
        message.mut_snapshot().set_metadata(metadata.clone());
        let cluster = self.nodes[from.0].table.cluster_id;
        let Some(at) = self.incarnation(to, cluster) else {
            return self.end_stream(id, Err("the receiver is gone".into()));
        };
        let reply = self.nodes[at].port.reply(move |result| Said::Installed { stream: id, metadata, result });
        let life = (at, self.nodes[at].life);
        let delay = 1 + self.rng.below(50);
        self.after(delay, Event::Input(life, Box::new(Input::Install { message, received, reply })));
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
