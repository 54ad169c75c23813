//! World: a cluster with its proxies and disks, the faults that are active, and their repair.
//!
//! Invariants: nodes form their cluster by `HUSKV_JOIN`, so a node whose directory was wiped never leads a cluster of its own
//! that would answer the clients. Ports are fixed and lie below the range of the system, so that a node that is down
//! finds its ports free when it comes back.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::failing_disk::{DiskFault, SmallDisk, shim};
use crate::harness::{Cluster, Need, Node, Request, Setup, check, eventually, free_port, names, secs};
use crate::history::Shared;
use crate::rng::Rng;
use crate::tcp_proxy::{self, Links};

/// The reserve of the small disk in MB.
pub const RESERVE: u64 = 64;

/// Below how many MB even deletes are refused; with half of them left, a node is not ended by its own work.
pub const FLOOR: u64 = RESERVE / 2;

/// How long a cluster without faults may take until everything is as it was, on a busy machine.
pub const HEALING: Duration = secs(90);

/// What happened in a round, for people.
#[derive(Clone)]
pub struct RunLog {
    begun: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl RunLog {
    /// An empty one.
    pub fn new() -> Self {
        Self { begun: Instant::now(), lines: Arc::default() }
    }

    /// Adds a line.
    pub fn log(&self, line: impl AsRef<str>) {
        let line = format!("{:>7.2} s  {}", self.begun.elapsed().as_secs_f64(), line.as_ref());
        if std::env::var_os("FAULTS_TRACE").is_some() {
            eprintln!("{line}");
        }
        self.lines.lock().expect("no thread panics with the lock").push(line);
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.lines.lock().expect("no thread panics with the lock").join("\n")
    }
}

/// Nodes, links, disks.
pub struct World {
    /// The nodes, and what the harness can ask of them.
    pub cluster: Cluster,
    /// The links between them.
    pub links: Links,
    /// The seed's draws.
    pub rng: Rng,
    /// What happened.
    pub run_log: RunLog,
    /// The disk of the first node, where it has one of its own.
    pub small: Option<SmallDisk>,
    /// What the clients have in common, once they run.
    pub clients: Option<Arc<Shared>>,
    /// Nodes whose disk has failed and that may not have noticed yet.
    pub suspects: BTreeSet<usize>,
    raft_ports: Vec<u16>,
    triggers: TempDir,
}

impl World {
    /// Three to five nodes that form one cluster.
    pub fn new(seed: u64, run_log: RunLog) -> Self {
        let mut rng = Rng::new(seed);
        let count = 3 + usize::try_from(rng.below(3)).expect("small");
        let triggers = tempfile::Builder::new().prefix("huskv-triggers-").tempdir().expect("a folder for triggers");
        let http_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let raft_ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let links = Links::new(&raft_ports);
        let may_mount = Need::Tmpfs.missing().is_none();
        let small = (may_mount && rng.chance(50)).then(|| SmallDisk::of(384));
        let list: Vec<String> = http_ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut nodes = Vec::new();
        for place in 0..count {
            let mut setup = Setup::named(&format!("node{}", place + 1))
                .set("SERVER_PORT", http_ports[place])
                .set("RAFT_PORT", raft_ports[place])
                .set("HUSKV_ADVERTISE_HOST", tcp_proxy::host(place))
                .set("HUSKV_JOIN", list.join(","))
                .set("HUSKV_RAFT_ELECTION_TICKS", 12)
                .set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 50)
                .set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 20);
            if let Some(shim) = shim() {
                let trigger = triggers.path().join(place.to_string());
                setup = setup.set("LD_PRELOAD", shim.display()).set("FAULTS_TRIGGER", trigger.display());
            }
            if let (0, Some(disk)) = (place, &small) {
                setup = setup.directory(disk.data_dir()).set("HUSKV_STORAGE_RESERVE_MB", RESERVE);
            }
            nodes.push(setup.spawn());
        }
        nodes.iter_mut().for_each(Node::await_up);
        let shims = if shim().is_some() { "disks can fail" } else { "no cc: disks cannot fail" };
        let mount = if small.is_some() { ", node1 on a disk of 384 MB" } else { "" };
        run_log.log(format!("seed {seed}: {count} nodes; {shims}{mount}"));
        let world = Self {
            cluster: Cluster { nodes },
            links,
            rng,
            run_log,
            small,
            clients: None,
            suspects: BTreeSet::new(),
            raft_ports,
            triggers,
        };
        eventually(HEALING, "the cluster forms", || world.whole());
        world.run_log.log("the cluster is formed");
        world
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.cluster.nodes.len()
    }

    /// Any node.
    pub fn any(&mut self) -> usize {
        usize::try_from(self.rng.below(self.count() as u64)).expect("small")
    }

    /// Any subset that is not empty.
    pub fn some(&mut self) -> Vec<usize> {
        let chosen = 1 + self.rng.below((1 << self.count()) - 1);
        (0..self.count()).filter(|place| chosen >> place & 1 == 1).collect()
    }

    /// The leader as far as a node that runs says so.
    pub fn leader(&self) -> Option<usize> {
        let leads = |node: &Node| node.runs() && node.try_stats().is_ok_and(|stats| stats["state"] == "Leader");
        self.cluster.nodes.iter().position(leads)
    }

    /// The names of some nodes.
    pub fn names(&self, places: &[usize]) -> String {
        let names: Vec<&str> = places.iter().map(|&place| self.cluster.nodes[place].name()).collect();
        names.join(", ")
    }

    /// The file whose presence makes a node's disk fail.
    pub fn trigger(&self, place: usize) -> PathBuf {
        self.triggers.path().join(place.to_string())
    }

    /// A membership request through any node that runs, whatever is answered.
    pub fn ask(&mut self, through: usize, path: &str, body: &Value, within: u64) -> Result<u16, String> {
        let request = Request::new("POST", format!("{path}?timeout={within}s")).body(body.to_string());
        let answer = self.cluster.nodes[through].try_request(request.within(secs(within + 5)));
        let said = match &answer {
            Ok(answer) if answer.status == 200 => "200".to_owned(),
            Ok(answer) => format!("{} {} {}", answer.status, answer.word("code"), answer.word("detail")),
            Err(error) => error.clone(),
        };
        self.run_log.log(format!("{path} {body} through {}: {said}", self.cluster.nodes[through].name()));
        answer.map(|answer| answer.status)
    }

    /// POST /raft/join of a node at the address that leads through its proxy.
    pub fn join(&mut self, through: usize, place: usize, within: u64) -> Result<u16, String> {
        let name = self.cluster.nodes[place].name().to_owned();
        let address = format!("{}:{}", tcp_proxy::host(place), self.raft_ports[place]);
        self.ask(through, "/raft/join", &json!({"node_id": name, "raft_address": address}), within)
    }

    /// Whether every node runs, is a voter, and all agree on a leader.
    pub fn whole(&self) -> Result<usize, String> {
        for node in &self.cluster.nodes {
            check(node.runs(), format!("{} does not run", node.name()))?;
            let stats = node.try_stats()?;
            let voters = names(&stats, "voter");
            let all = voters.len() == self.count() && names(&stats, "learner").is_empty();
            check(all, format!("{} knows the voters {voters:?}; {stats}", node.name()))?;
        }
        self.cluster.leader_now()
    }

    /// Looks for nodes that have ended by themselves: only one whose disk has failed may, and it is started again.
    pub fn attend(&mut self) {
        for place in 0..self.count() {
            if self.cluster.nodes[place].exited().is_some() {
                let name = self.names(&[place]);
                assert!(self.suspects.remove(&place), "{name} ended by itself: {}", self.cluster.nodes[place].log());
                self.gave_up(place);
                self.start(place);
            }
        }
    }

    /// The node must have ended, or end now, with a code of its own and a message for people; its log.
    #[track_caller]
    pub fn gave_up(&mut self, place: usize) -> String {
        let name = self.names(&[place]);
        let node = &mut self.cluster.nodes[place];
        let status = eventually(secs(20), format!("{name} exits"), || node.exited().ok_or("it runs".to_owned()));
        let log = node.log();
        node.kill9();
        assert!(status.code().is_some_and(|code| code != 0), "{name}: {status}: {log}");
        for word in ["panicked", "stack backtrace", "src/"] {
            assert!(!log.contains(word), "{name}: {word:?} on stderr: {log}");
        }
        let last = log.lines().last().unwrap_or("").to_owned();
        self.run_log.log(format!("{name} ended, {status}: {last}"));
        log
    }

    /// Starts a node after a kill, and waits until it answers.
    #[track_caller]
    pub fn start(&mut self, place: usize) {
        self.cluster.nodes[place].start();
    }

    /// Ends all faults, brings every node back, and waits until the cluster is whole and all have applied the same.
    pub fn heal(&mut self) -> usize {
        self.links.open();
        if let Some(disk) = &self.small {
            disk.give_back();
        }
        for place in 0..self.count() {
            DiskFault::end(&self.trigger(place));
        }
        self.attend();
        let begun = Instant::now();
        while let Err(why) = self.whole() {
            assert!(begun.elapsed() < HEALING, "not whole within {HEALING:?}: {why}");
            let removed = (0..self.count())
                .find(|&place| self.cluster.nodes[place].try_stats().is_ok_and(|stats| stats["removed"] == true));
            if let (Some(place), Some(leader)) = (removed, self.leader()) {
                _ = self.join(leader, place, 20);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eventually(HEALING, "every disk has enough space", || {
            let leader = self.leader().ok_or("there is no leader")?;
            let stats = self.cluster.nodes[leader].try_stats()?;
            let full = |member: &Value| member["disk"]["nearly_full"] == true;
            check(!stats["members"].as_array().is_some_and(|members| members.iter().any(full)), stats)
        });
        self.cluster.caught_up(HEALING);
        let leader = eventually(HEALING, "the cluster is whole", || self.whole());
        self.run_log.log(format!(
            "whole after {:.1} s, {} leads",
            begun.elapsed().as_secs_f64(),
            self.cluster.nodes[leader].name()
        ));
        leader
    }
}
