//! Join offers by strangers, and by leaders that never send the snapshot.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use serde_json::Value as Json;

use crate::harness::wire::{
    ADOPT, ADOPTED, HELLO, OFFER, REMOVED, VERDICT, Value, WHO, connect, frame, preamble, read_frame,
};
use crate::harness::{Cluster, Node, Setup, check, eventually, names, secs, throughout};

crate::harness::cases![
    join_offers_of_strangers_are_refused_by_members_and_erase_no_data,
    a_leader_that_made_no_join_offer_does_not_confirm_one,
    a_forced_join_that_its_leader_aborts_restores_the_data_at_once,
    a_forced_join_that_never_continues_restores_the_data,
];

/// An offer to adopt a node.
struct Offer<'a> {
    cluster_id: u64,
    leader_id: u64,
    offer: u64,
    leader_address: &'a str,
    force: bool,
    tombstones: &'a [u64],
}

impl Offer<'_> {
    /// Sends it; whether it is taken, and the raw answer.
    fn send(&self, node: &Node) -> (bool, String) {
        let mut stream = connect(node, ADOPT);
        let mut value = Value::new().u64(self.cluster_id).u64(self.leader_id).u64(self.offer).text("stranger");
        value = value.text(self.leader_address).text(node.name()).text(&node.raft).u8(u8::from(self.force));
        // Not only the question.
        value = value.u8(0);
        value = self.tombstones.iter().fold(value.u64(self.tombstones.len() as u64), |value, id| value.u64(*id));
        stream.write_all(&frame(OFFER, &value)).expect("an offer is written");
        let (kind, answer) = read_frame(&mut stream).expect("an answer");
        assert_eq!(kind, ADOPTED);
        (answer[1..5] == [0; 4], String::from_utf8_lossy(&answer).into_owned())
    }
}

fn id(stats: &Json, what: &str) -> u64 {
    stats[what].as_u64().expect("an id")
}

fn join_offers_of_strangers_are_refused_by_members_and_erase_no_data() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "bar");
    cluster.caught_up(secs(20));
    let before: Vec<Json> = cluster.nodes.iter().map(Node::stats).collect();
    for (node, stats) in cluster.nodes.iter().zip(&before) {
        let (own, cluster_id) = (id(stats, "raft_id"), id(stats, "cluster_id"));
        let other = (&cluster.nodes[0], id(&before[0], "raft_id"));
        for cluster_id in [cluster_id, 4711] {
            for (leader_id, leader_address) in [(own, &node.raft), (other.1, &other.0.raft), (4712, &node.raft)] {
                // Where a member is said to be removed from its own cluster, that cluster is asked: not this test's matter.
                let tombstones: &[u64] = if cluster_id == 4711 || leader_id == own { &[own] } else { &[] };
                let offer = Offer { cluster_id, leader_id, offer: 1, leader_address, force: true, tombstones };
                let (taken, answer) = offer.send(node);
                assert!(!taken, "{} takes an offer of {leader_id} at {leader_address}: {answer}", node.name());
            }
        }
    }
    for (node, before) in cluster.nodes.iter().zip(&before) {
        let after = node.stats();
        for same in ["raft_id", "cluster_id", "term"] {
            assert_eq!(after[same], before[same], "{same} of {}", node.name());
        }
        assert_eq!(node.value("foo"), "bar");
        assert_eq!(names(&after, "voter").len(), 3);
    }
    // And on the disks.
    cluster.nodes.iter_mut().for_each(Node::kill9);
    cluster.nodes.iter_mut().for_each(Node::start);
    cluster.nodes.iter().for_each(|node| assert_eq!(node.value("foo"), "bar"));
}

fn a_leader_that_made_no_join_offer_does_not_confirm_one() {
    let owner = Setup::named("owner").start();
    owner.put("mine", "my own");
    let honest = Setup::named("honest").start();
    let stats = honest.stats();
    let (cluster_id, leader_id) = (id(&stats, "cluster_id"), id(&stats, "raft_id"));
    let offer = Offer { cluster_id, leader_id, offer: 1, leader_address: &honest.raft, force: true, tombstones: &[] };
    let (taken, answer) = offer.send(&owner);
    assert!(!taken && answer.contains("knows nothing of this join"), "{answer}");
    assert_eq!(owner.value("mine"), "my own");
    assert_eq!(owner.stats()["state"], "Leader");
}

/// Answers at a port of its own as the leader that made the offer would.
fn pretended_leader(preamble: Vec<u8>, cluster_id: u64, leader_id: u64, offer: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    let answer = move |mut stream: TcpStream| -> std::io::Result<()> {
        stream.read_exact(&mut [0; 10])?;
        if read_frame(&mut stream)?.0 == HELLO {
            let verdict = Value::new().variant(0).u64(cluster_id).u64(leader_id).u64(0).u64(0).u64(0);
            let who = Value::new().variant(0).text("leader").u64(leader_id).u64(cluster_id).text("127.0.0.1:1");
            let who = who.variant(3).u64(1).u64(offer).text("127.0.0.1:1").u8(0);
            stream.write_all(&[preamble.clone(), frame(VERDICT, &verdict), frame(WHO, &who)].concat())?;
            stream.read_to_end(&mut Vec::new())?;
        }
        Ok(())
    };
    thread::spawn(move || listener.incoming().flatten().for_each(|stream| _ = answer(stream)));
    address
}

/// A node with data, taken by a leader that will never send anything; and the raft id that it had.
fn taken() -> (Node, u64) {
    let owner = Setup::named("owner").start();
    owner.put("mine", "my own");
    let before = id(&owner.stats(), "raft_id");
    let leader_address = pretended_leader(preamble(&owner), 4711, 4712, 9);
    let tombstones = [before];
    let offer = |force| Offer {
        cluster_id: 4711,
        leader_id: 4712,
        offer: 9,
        leader_address: &leader_address,
        force,
        tombstones: &tombstones,
    };
    let (taken, answer) = offer(false).send(&owner);
    assert!(!taken && answer.contains("force"), "a list of removed ids is no leave to take data: {answer}");
    let (taken, answer) = offer(true).send(&owner);
    assert!(taken, "{answer}");
    joins(&owner, before);
    (owner, before)
}

/// The node is being taken, says so, and keeps what it was.
fn joins(owner: &Node, before: u64) {
    let stats = owner.stats();
    assert_eq!((&stats["joining"], id(&stats, "cluster_id")), (&Json::Bool(true), 4711), "{stats}");
    assert_eq!(id(&stats["previous"], "raft_id"), before, "{stats}");
    assert!((1..=60_000).contains(&id(&stats["previous"], "goes_back_in_ms")), "{stats}");
    owner.get("/store/mine").problem(503, "while it joins").code("joining", "while it joins");
    assert!(owner.directory().join(before.to_string()).join("journal").is_dir(), "what it was is on its disk");
}

fn is_back(owner: &Node, before: u64) -> Result<(), String> {
    let stats = owner.try_stats()?;
    check(id(&stats, "raft_id") == before && stats["state"] == "Leader" && stats["previous"].is_null(), stats)
}

fn a_forced_join_that_its_leader_aborts_restores_the_data_at_once() {
    let (mut owner, before) = taken();
    let joined = id(&owner.stats(), "raft_id");
    let mut stream = connect(&owner, ADOPT);
    stream.write_all(&frame(REMOVED, &Value::new().u64(4711).u64(joined))).expect("a word is written");
    eventually(secs(20), "it goes back", || is_back(&owner, before));
    assert_eq!(owner.value("mine"), "my own");
    owner.put("still", "well");
    owner.kill9();
    owner.start();
    assert_eq!((owner.value("mine"), owner.value("still")), ("my own".into(), "well".into()));
    assert_ne!(id(&owner.stats(), "raft_id"), joined);
}

fn a_forced_join_that_never_continues_restores_the_data() {
    let (mut owner, before) = taken();
    owner.kill9();
    owner.start();
    joins(&owner, before);
    throughout(secs(3), "it waits for its cluster", || {
        let stats = owner.try_stats()?;
        check(stats["joining"] == true, stats)
    });
    eventually(secs(90), "it goes back", || is_back(&owner, before));
    assert_eq!(owner.value("mine"), "my own");
    assert!(owner.log().contains("goes back to what it was"), "{}", owner.log());
    // A real join takes it then, with the data gone only once the cluster's is there.
    let leader = Setup::named("leader").start();
    leader.put("theirs", 1);
    let body = serde_json::json!({"node_id": "owner", "raft_address": owner.raft, "force": true});
    leader.post("/raft/join", &body).expect(200, "a forced join");
    assert_eq!(owner.value("theirs"), 1);
    owner.get("/store/mine").problem(404, "what was given up");
    let folder = owner.directory().join(before.to_string());
    eventually(secs(20), "what it was is removed", || check(!folder.exists(), folder.display()));
}
