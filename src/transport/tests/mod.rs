//! Transport tests: whole transports in one process, on loopback and free ports, each with a scripted consensus loop.
//!
//! Invariants: tests wait for conditions, never for time; a wait of [`TEST_TIMEOUT`] is a failure.

mod boot_ids;
mod forwards;
mod impostors;
mod links;
mod member_reports;
mod rpc_and_unknown_peers;
mod snapshot_end_to_end;
mod snapshot_protocol;
mod tls;

use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use raft::eraftpb::{Entry, Message, MessageType};
use tempfile::TempDir;
use tokio::time::timeout;

use super::handshake::dial::Target;
use super::{CONNECTION_AGE, Options, Transport, start};
use crate::consensus::{Inbox, Input, Outbox, channel};
use crate::model::{BootHistory, NodeKind, PeerTable, WhoAmI};
use crate::storage::{Engine, Peers, SledEngine};

/// The bytes of messages queued for one member.
const QUEUE_BYTES: usize = 64 << 20;
/// How long anything may take on a busy machine.
const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// The cluster of all nodes that a test says nothing else about.
const CLUSTER: u64 = 7;

/// Keeps what was logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl slog::Drain for Lines {
    type Ok = ();
    type Err = slog::Never;
    fn log(&self, record: &slog::Record<'_>, _: &slog::OwnedKVList) -> Result<(), slog::Never> {
        self.0.lock().unwrap().push(record.msg().to_string());
        Ok(())
    }
}

impl Lines {
    fn count(&self, line: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|it| *it == line).count()
    }

    async fn wait(&self, line: &str) {
        self.wait_until(line, |it| it == line).await;
    }

    /// Waits for a line with these words.
    async fn wait_for(&self, words: &str) {
        self.wait_until(words, |it| it.contains(words)).await;
    }

    async fn wait_until(&self, line: &str, found: impl Fn(&str) -> bool) {
        let seen = async {
            while !self.0.lock().unwrap().iter().any(|it| found(it)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, seen)
            .await
            .unwrap_or_else(|_| panic!("never logged: {line}; {:?}", self.0.lock().unwrap()));
    }
}

/// A transport, and the loop's ends of it.
struct Node {
    raft_id: u64,
    address: String,
    inbox: Inbox,
    post: Box<dyn Outbox>,
    transport: Option<Transport>,
    lines: Lines,
    disk: Disk,
    follow_moves: bool,
}

/// What a node has on its disk: its boot history, and the recorded boot ids of peers.
#[derive(Clone)]
struct Disk {
    boot_history: BootHistory,
    engine: Arc<dyn Engine>,
    _directory: Arc<TempDir>,
}

impl Disk {
    fn new(boot_history: BootHistory) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            boot_history,
            engine: Arc::new(SledEngine::new(directory.path()).unwrap()),
            _directory: Arc::new(directory),
        }
    }

    /// Another disk that holds the same.
    fn copy(&self) -> Self {
        let copy = Self::new(self.boot_history.clone());
        if let Some(bytes) = self.engine.read_file("peers").unwrap() {
            copy.engine.replace_file("peers", &bytes).unwrap();
        }
        copy
    }
}

impl Node {
    fn start(raft_id: u64) -> Self {
        Self::start_at(raft_id, "127.0.0.1:0")
    }

    fn start_at(raft_id: u64, address: &str) -> Self {
        Self::start_on(Disk::new(BootHistory::default()), raft_id, address)
    }

    /// The next boot on what `disk` holds.
    fn start_on(disk: Disk, raft_id: u64, address: &str) -> Self {
        Self::start_with(disk, raft_id, address, options())
    }

    /// The next boot on what `disk` holds, with these options.
    fn start_with(mut disk: Disk, raft_id: u64, address: &str, options: Options) -> Self {
        disk.boot_history.start(getrandom::u64().unwrap());
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (handle, inbox) = channel(64);
        let lines = Lines::default();
        let log = slog::Logger::root(lines.clone(), slog::o!());
        let peers = Peers::open(disk.engine.clone()).unwrap();
        let (transport, post) = start(listener, handle, Arc::new(peers), options, log).unwrap();
        Self { raft_id, address, inbox, post, transport: Some(transport), lines, disk, follow_moves: false }
    }

    /// What this node publishes where the others are its peers.
    fn table(&self, others: &[(u64, &str)]) -> PeerTable {
        PeerTable {
            node_id: format!("node{}", self.raft_id),
            raft_id: self.raft_id,
            cluster_id: CLUSTER,
            raft_address: self.address.clone(),
            peers: others.iter().map(|(id, address)| (*id, format!("node{id}"), (*address).to_owned())).collect(),
            boot_history: self.disk.boot_history.clone(),
            follow_moves: self.follow_moves,
            ..PeerTable::default()
        }
    }

    fn publish(&mut self, others: &[(u64, &str)]) {
        self.post.publish(self.table(others));
    }

    /// Waits for the first input that `want` takes, and answers who asks for the node meanwhile.
    async fn wait<T>(&mut self, mut want: impl FnMut(Input) -> Option<T>) -> T {
        let found = async {
            loop {
                match bare(self.inbox.peers.recv().await.expect("the handle lives in the transport")) {
                    Input::WhoAmI { reply } => reply(who(self.raft_id)),
                    input => {
                        if let Some(found) = want(input) {
                            return found;
                        }
                    }
                }
            }
        };
        timeout(TEST_TIMEOUT, found).await.expect("the input that the test waits for")
    }

    /// Whether anything lies in the loop's queue besides word of whom peers follow.
    fn was_reported(&mut self) -> bool {
        std::iter::from_fn(|| self.inbox.peers.try_recv().ok()).any(|input| !matches!(input, Input::Heard { .. }))
    }

    async fn up(&mut self, peer: u64) {
        self.wait(|input| matches!(input, Input::PeerUp(id) if id == peer).then_some(())).await;
    }

    async fn down(&mut self, peer: u64) {
        self.wait(|input| matches!(input, Input::PeerDown(id) if id == peer).then_some(())).await;
    }

    /// The next raft message.
    async fn message(&mut self) -> Message {
        self.wait(|input| if let Input::Step(message) = input { Some(*message) } else { None }).await
    }

    /// The (cluster, raft id) of the next word that this node was removed.
    async fn removed(&mut self) -> (u64, u64) {
        self.wait(|input| match input {
            Input::Removed { cluster_id, raft_id } => Some((cluster_id, raft_id)),
            _ => None,
        })
        .await
    }
}

/// The target of a plain dial.
fn plain() -> Target {
    Target { tls: None, name: None, spoke_tls: false }
}

/// Options without TLS.
fn options() -> Options {
    let (queue_bytes, connection_age) = (QUEUE_BYTES, CONNECTION_AGE);
    let (member_bytes, snapshot_bytes_per_second) = (256 << 20, 0);
    Options { max_inbound: 64, member_bytes, queue_bytes, snapshot_bytes_per_second, tls: None, connection_age }
}

/// An input without the room that it takes.
fn bare(input: Input) -> Input {
    if let Input::Counted { input, .. } = input { *input } else { input }
}

fn who(raft_id: u64) -> WhoAmI {
    WhoAmI {
        node_id: format!("node{raft_id}"),
        raft_id,
        cluster_id: CLUSTER,
        http_address: "h:1".into(),
        kind: NodeKind::Member,
        offers: Vec::new(),
        raft_address: "h:2".into(),
        moved: false,
    }
}

/// Two nodes that know each other, both ways up.
async fn pair() -> (Node, Node) {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    a.publish(&[(2, &b.address.clone())]);
    b.publish(&[(1, &a.address.clone())]);
    tokio::join!(a.up(2), b.up(1));
    (a, b)
}

/// An append of one entry of `bytes` bytes.
fn append(from: u64, to: u64, index: u64, bytes: usize) -> Message {
    let entry = Entry { index, term: 1, data: vec![0; bytes].into(), ..Entry::default() };
    let msg_type = MessageType::MsgAppend;
    let index = index - 1;
    Message { msg_type, from, to, term: 1, log_term: 1, index, entries: vec![entry].into(), ..Message::default() }
}

/// An address without a listener.
fn nowhere() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
