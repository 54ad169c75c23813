//! Rogue member: a member with other limits, or with a bug, must not harm the others.
//!
//! Invariants: the rogue is this process. It takes the place of a killed node and uses huskv's own transport, so that its
//! messages are decoded.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use huskv::consensus::{Hop, Inbox, Input, Outbox, channel};
use huskv::model::{
    Answer, Code, Command, CommandResult, Condition, NodeKind, Operation, Outcome, PeerTable, Proposal, Refusal,
    Request, Txn, Value, WhoAmI,
};
use huskv::storage::{DataDir, OpenOptions, Peers, SledEngine};
use huskv::transport::{self, Transport};
use raft::eraftpb::{Entry, Message, MessageType};
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::harness::{Cluster, Node, check, eventually, member, number, secs, throughout};

crate::harness::cases![
    an_invalid_request_forwarded_by_a_member_is_refused,
    an_entry_that_cannot_be_decoded_is_not_appended_and_no_node_stops,
];

/// This process in the place of a member.
struct Rogue {
    runtime: Runtime,
    table: PeerTable,
    inbox: Inbox,
    outbox: Box<dyn Outbox>,
    _transport: Transport,
    token: u64,
}

impl Rogue {
    /// Kills `node` and takes its place.
    fn in_place_of(node: &mut Node) -> Self {
        let stats = node.stats();
        let (name, address) = (node.name().to_owned(), node.raft.clone());
        node.kill9();
        // Without the member's disk it would be taken for a copy.
        let disk = Arc::new(SledEngine::new(node.directory()).expect("the directory is free now"));
        let boot = OpenOptions {
            name: name.clone(),
            raft_address: address.clone(),
            http_address: node.http.clone(),
            cache_bytes: 8 << 20,
            picked_http_port: None,
            picked_raft_port: None,
            random: Box::new(|| 1),
        };
        let (data_dir, _) = DataDir::open(disk.clone(), boot).expect("the member's directory");
        let lives = data_dir.identity().boot_history.clone();
        let id = |row: &Json| row["raft_id"].as_u64().expect("a raft id");
        let text = |row: &Json, name: &str| row[name].as_str().expect("a text").to_owned();
        let rows = stats["members"].as_array().expect("members");
        let others = rows.iter().filter(|row| row["node_id"] != name.as_str());
        let table = PeerTable {
            node_id: name.clone(),
            raft_id: id(member(&stats, &name).expect("its own row")),
            cluster_id: stats["cluster_id"].as_u64().expect("a cluster id"),
            raft_address: address.clone(),
            peers: others.map(|row| (id(row), text(row, "node_id"), text(row, "raft_address"))).collect(),
            boot_history: lives,
            ..PeerTable::default()
        };
        let runtime = Runtime::new().expect("a runtime");
        let entered = runtime.enter();
        let listener = TcpListener::bind(&address).expect("the port is free now");
        let (handle, inbox) = channel(64);
        let log = slog::Logger::root(slog::Discard, slog::o!());
        let options = transport::Options {
            max_inbound: 64,
            member_bytes: 256 << 20,
            queue_bytes: 64 << 20,
            snapshot_bytes_per_second: 0,
            tls: None,
            connection_age: transport::CONNECTION_AGE,
        };
        let peers = Arc::new(Peers::open(disk).expect("what the member knew of its peers"));
        let (transport, mut outbox) = transport::start(listener, handle, peers, options, log).expect("it starts");
        outbox.publish(table.clone());
        drop(entered);
        Self { runtime, table, inbox, outbox, _transport: transport, token: 0 }
    }

    /// Waits for the first input that `want` takes, and answers identity requests meanwhile.
    fn wait<T>(&mut self, mut want: impl FnMut(Input) -> Option<T>) -> T {
        let me = WhoAmI {
            node_id: self.table.node_id.clone(),
            raft_id: self.table.raft_id,
            cluster_id: self.table.cluster_id,
            http_address: "127.0.0.1:1".into(),
            kind: NodeKind::Member,
            offers: Vec::new(),
            raft_address: self.table.raft_address.clone(),
            moved: false,
        };
        let found = async {
            loop {
                let input = match self.inbox.peers.recv().await.expect("the transport lives") {
                    Input::Counted { input, .. } => *input,
                    input => input,
                };
                match input {
                    Input::WhoAmI { reply } => reply(me.clone()),
                    input => {
                        if let Some(found) = want(input) {
                            return found;
                        }
                    }
                }
            }
        };
        self.runtime.block_on(async { timeout(secs(20), found).await }).expect("it comes in time")
    }

    /// Waits until the connection to the member `name` is up; its raft id.
    fn connected(&mut self, name: &str) -> u64 {
        let id = self.table.peers.iter().find(|(_, known, _)| known == name).map(|(id, ..)| *id).expect("a peer");
        self.wait(|input| matches!(input, Input::PeerUp(up) if up == id).then_some(()));
        id
    }

    /// What the member `to` answers to a request that is sent on to it.
    fn send_on(&mut self, to: u64, request: Request) -> Result<Answer, Refusal> {
        self.token += 1;
        let token = self.token;
        let entered = self.runtime.enter();
        self.outbox.forward(token, to, Hop::Client, request, 15_000);
        drop(entered);
        self.wait(|input| match input {
            Input::Forwarded { token: answered, result } if answered == token => Some(result),
            _ => None,
        })
    }
}

fn write(command: Command) -> Request {
    Request::Write(command.into())
}

fn an_invalid_request_forwarded_by_a_member_is_refused() {
    let mut cluster = Cluster::with(3, |setup| setup.set("HUSKV_LIMITS_VALUE_BYTES", 1000));
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    let mut rogue = Rogue::in_place_of(&mut cluster.nodes[place]);
    let to = rogue.connected(cluster.nodes[leader].name());
    let sound = rogue.send_on(to, write(Command::put("k", "v")));
    let put = |answer: &Answer| matches!(answer, Answer::Written(written) if matches!(written.outcome, CommandResult::Put { .. }));
    assert!(sound.as_ref().is_ok_and(put), "{sound:?}");
    let value = |content_type: &str, bytes: &'static [u8]| Command::Put {
        key: "k".into(),
        value: Value { content_type: content_type.into(), bytes: bytes.into() },
        condition: Condition::Always,
        ttl: None,
    };
    // More of them do not pass for a frame.
    let gets = vec![Operation::Get { key: "k".into() }; 4_096];
    let txn = Command::Txn(Txn { checks: vec![], then: gets, otherwise: vec![] });
    let expire = Command::Expire { keys: vec![("k".into(), 1); 100_000] };
    let moved = |raft_address: &str| (to, raft_address.to_owned(), "127.0.0.1:1".to_owned());
    let (raft_id, raft_address, http_address) = moved("127.0.0.1:1");
    for (what, request, code) in [
        ("a key of 2 MiB", write(Command::put(vec![b'k'; 2 << 20], "v")), Code::BadKey),
        ("a key that is no UTF-8", write(Command::put(&b"k\xff"[..], "v")), Code::BadKey),
        ("no key", write(Command::delete("")), Code::BadKey),
        ("JSON that is none", write(value("application/json", b"1},{\"key\":\"forged\"")), Code::BadRequest),
        ("JSON that is no UTF-8", write(value("application/json", b"\"\xff\"")), Code::BadRequest),
        ("a type with a line feed", write(value("a/b\r\nx: y", b"v")), Code::BadRequest),
        ("a value over the leader's own limit", write(Command::put("k", vec![0; 1001])), Code::TooLarge),
        ("4 096 gets", write(txn), Code::BadRequest),
        ("a removal of expired keys", write(expire), Code::BadRequest),
        ("a tick", write(Command::Tick), Code::BadRequest),
        ("a move", write(Command::Move { raft_id, raft_address, http_address }), Code::BadRequest),
        ("a name with escapes", Request::Remove { node_id: "\u{1b}[2J\r\n".into() }, Code::BadRequest),
    ] {
        let refusal = rogue.send_on(to, request).expect_err(what);
        assert_eq!((refusal.code, refusal.outcome), (code, Outcome::NotApplied), "{what}: {refusal:?}");
    }
    for node in cluster.nodes.iter().filter(|node| node.runs()) {
        let listed = node.get("/store").expect(200, "a page").data();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1), "{listed}");
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
    drop(rogue);
    cluster.nodes[place].start();
    cluster.agreed();
    assert_eq!(cluster.nodes[place].get("/store/k?raw").expect(200, "what is sound is there").text(), "v");
}

fn an_entry_that_cannot_be_decoded_is_not_appended_and_no_node_stops() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("before", 1);
    let leader = cluster.agreed();
    let [place, victim] = cluster.followers()[..] else { panic!("two followers") };
    let mut rogue = Rogue::in_place_of(&mut cluster.nodes[place]);
    let to = rogue.connected(cluster.nodes[victim].name());
    let stats = cluster.nodes[victim].stats();
    let (index, log_term) = (number(&stats, "last_log_index"), number(&stats, "last_log_term"));
    let term = number(&stats, "term") + 1;
    let entry = |data: Vec<u8>| Entry { index: index + 1, term, data: data.into(), ..Entry::default() };
    let mut longer = Proposal::encode(1, &Command::put("k", "v").into());
    longer.push(0);
    for data in [b"x".to_vec(), longer] {
        // As a leader of the next term would send it, and it says that it is committed.
        let mut message = Message { from: rogue.table.raft_id, to, term, index, log_term, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.commit = index + 1;
        message.set_entries(vec![entry(data)].into());
        let entered = rogue.runtime.enter();
        rogue.outbox.send(vec![message]);
        drop(entered);
    }
    let refused = || cluster.nodes[victim].log().lines().filter(|line| line.contains("cannot be read")).count();
    eventually(secs(10), "the refusal is logged", || check(refused() > 0, cluster.nodes[victim].log()));
    let line = cluster.nodes[victim].log();
    assert!(line.lines().any(|line| line.contains("is broken") && line.contains(&rogue.table.node_id)), "{line}");
    throughout(Duration::from_millis(500), "it stays in its term", || {
        let now = cluster.nodes[victim].number("term");
        check(now == term - 1, now)
    });
    cluster.nodes[leader].put("after", 2);
    for node in [victim, leader] {
        cluster.nodes[node].kill9();
        cluster.nodes[node].start();
    }
    assert_eq!(cluster.nodes[victim].value("after"), 2);
    drop(rogue);
    cluster.nodes[place].start();
    assert_eq!(cluster.nodes[place].value("after"), 2);
}
