//! Unproven claims: a stranger sends what would stop a node if it were true.
//!
//! Invariants: the bytes are made by hand, as an attacker who knows the protocol would make them.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::wire::{VERDICT, read_frame};
use crate::harness::{Cluster, Node, Setup, check, eventually, number, secs, throughout};

crate::harness::cases![
    an_impossible_term_is_refused_and_closes_its_connection,
    the_largest_accepted_term_sent_repeatedly_stops_no_node,
    messages_that_raft_ignores_stop_no_node,
    a_single_voter_survives_both,
    a_false_removal_removes_no_member,
    a_false_commit_and_a_false_digest_stop_no_node,
];

/// The wire version that this stranger speaks.
const WIRE_VERSION: u16 = 2;

/// What a message does to a term at most.
const LEAP: u64 = 1 << 20;

/// A connection on which a stranger passes for a member.
struct Stranger {
    stream: TcpStream,
    to: u64,
    from: u64,
    cluster_id: u64,
}

fn id(stats: &Value, name: &str) -> u64 {
    stats[name].as_u64().unwrap_or_else(|| panic!("{name} in {stats}"))
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    let mut bytes = [&length.to_le_bytes()[..], &[kind], payload].concat();
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Numbers and texts as the program encodes its own values.
fn value(numbers: &[u64], texts: &[&str]) -> Vec<u8> {
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    for text in texts {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The present life of a member, as one knows it who has looked into its directory: count and nonce.
fn boot_id(member: &Node) -> (u64, u64) {
    let identity = std::fs::read_to_string(member.directory().join("identity")).expect("a member has one");
    let (_, json) = identity.split_once('\n').expect("its first line");
    let current = serde_json::from_str::<Value>(json).expect("JSON")["lives"]["current"].take();
    (id(&current, "count"), id(&current, "nonce"))
}

impl Stranger {
    /// Comes in at `node` as the member with raft id `from`.
    fn at(node: &Node, from: u64, life: (u64, u64), address: &str) -> Self {
        let stats = node.stats();
        let (cluster_id, to) = (id(&stats, "cluster_id"), id(&stats, "raft_id"));
        let mut stream = TcpStream::connect(&node.raft).expect("the peer port takes connections");
        stream.set_read_timeout(Some(secs(20))).expect("a timeout");
        let peer = 0_u32.to_le_bytes();
        let words = value(&[cluster_id, from, to], &["member", address]);
        // Not moved, its present life, none before it, and none of the node that it knows.
        let lives = [&[0], &value(&[life.0, life.1, 0], &[])[..], &[0]].concat();
        let hello = [&[1], &peer[..], &words, &lives].concat();
        let preamble = [&b"\x89HUSKV\r\n"[..], &WIRE_VERSION.to_le_bytes()].concat();
        stream.write_all(&[preamble, frame(1, &hello)].concat()).expect("a handshake fits");
        stream.read_exact(&mut [0; 10]).expect("an answer to the handshake");
        let (kind, verdict) = read_frame(&mut stream).expect("a verdict");
        assert_eq!((kind, &verdict[..5]), (VERDICT, &[1, 0, 0, 0, 0][..]), "come in");
        Self { stream, to, from, cluster_id }
    }

    /// Says it; the node may have closed already.
    fn send_frame(&mut self, kind: u8, payload: &[u8]) {
        _ = self.stream.write_all(&frame(kind, payload));
    }

    fn heartbeat(&mut self, term: u64, commit: u64) {
        self.message(&[(1, 8), (4, term), (8, commit)]);
    }

    /// A raft message with these fields, by number, of `eraftpb.Message`.
    fn message(&mut self, fields: &[(u64, u64)]) {
        let fields = [&[(2, self.to), (3, self.from)], fields].concat();
        let message: Vec<u8> = fields.iter().flat_map(|(field, n)| [varint(field << 3), varint(*n)].concat()).collect();
        self.send_frame(3, &message);
    }

    fn removed(&mut self) {
        let removed = [&[1], &value(&[self.cluster_id, self.to], &[])[..]].concat();
        self.send_frame(8, &removed);
    }

    fn digest(&mut self, term: u64, index: u64) {
        let told = [&[1], &value(&[term, index, 4711], &[])[..]].concat();
        self.send_frame(18, &told);
    }

    /// Waits until the node ends the connection, which it must.
    fn shown_out(mut self) {
        if let Err(error) = self.stream.read_to_end(&mut Vec::new()) {
            let late = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind());
            assert!(!late, "the connection goes on");
        }
    }
}

/// A stranger at each node for each member that it is not.
fn strangers(cluster: &Cluster) -> Vec<Stranger> {
    let ids: Vec<u64> = cluster.nodes.iter().map(|node| id(&node.stats(), "raft_id")).collect();
    let mut all = Vec::new();
    for (at, node) in cluster.nodes.iter().enumerate() {
        let others = (0..cluster.nodes.len()).filter(|other| *other != at);
        all.extend(
            others.map(|other| {
                Stranger::at(node, ids[other], boot_id(&cluster.nodes[other]), &cluster.nodes[other].raft)
            }),
        );
    }
    all
}

/// Every node takes a write and shows what the others took.
#[track_caller]
fn whole(cluster: &Cluster, round: u64) {
    for node in &cluster.nodes {
        eventually(secs(30), "a write is taken", || {
            let write = crate::harness::Request::new("PUT", "/store/round").body(round.to_string());
            let answer = node.try_request(write.header("content-type", "text/plain"))?;
            check([200, 201].contains(&answer.status), &answer)
        });
    }
    for node in &cluster.nodes {
        eventually(secs(10), "it is read", || {
            let answer = node.try_request(crate::harness::Request::new("GET", "/store/round"))?;
            check(answer.status == 200 && answer.text().contains(&round.to_string()), &answer)
        });
    }
}

fn an_impossible_term_is_refused_and_closes_its_connection() {
    let mut cluster = Cluster::of(3);
    let reign = cluster.reign();
    for mut stranger in strangers(&cluster) {
        stranger.heartbeat(1 << 62, 0);
        stranger.shown_out();
    }
    whole(&cluster, 1);
    assert_eq!(cluster.reign(), reign, "leader and term");
    for node in &mut cluster.nodes {
        node.kill9();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    whole(&cluster, 2);
}

fn the_largest_accepted_term_sent_repeatedly_stops_no_node() {
    let mut cluster = Cluster::of(3);
    let place = cluster.followers()[0];
    let leader = cluster.agreed();
    let (from, address) = (id(&cluster.nodes[leader].stats(), "raft_id"), cluster.nodes[leader].raft.clone());
    let victim = &cluster.nodes[place];
    for _ in 0..4 {
        let term = victim.number("term") + LEAP;
        eventually(secs(10), "the term is taken", || {
            // The member itself comes again and takes the stranger's place, so the stranger does, too.
            Stranger::at(victim, from, boot_id(&cluster.nodes[leader]), &address).heartbeat(term, 0);
            let is = number(&cluster.nodes[place].try_stats()?, "term");
            check(is >= term, is)
        });
    }
    // Its own cluster hears it again, although its term is above all that the others believe of a message.
    whole(&cluster, 1);
    let term = cluster.nodes[place].number("term");
    assert!(term >= 4 * LEAP, "{term}");
    for node in &mut cluster.nodes {
        node.kill9();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    whole(&cluster, 2);
}

/// An append far behind the log, of the term that raft finds there, with a commit and without; and a request for a read
/// index that has nothing in it.
fn messages_that_raft_ignores_stop_no_node() {
    let mut cluster = Cluster::of(3);
    for round in 0..2 {
        let reign = cluster.reign();
        for mut stranger in strangers(&cluster) {
            let behind = cluster.nodes[0].number("last_log_index") + 100;
            stranger.message(&[(1, 15)]);
            stranger.message(&[(1, 15), (4, reign.1)]);
            stranger.message(&[(1, 3), (4, reign.1 + round), (5, 0), (6, behind), (8, 1 << 40)]);
            stranger.message(&[(1, 3), (4, reign.1 + round), (5, 0), (6, behind)]);
        }
        throughout(secs(2), "no node stops", || {
            for node in &mut cluster.nodes {
                check(node.exited().is_none(), node.log())?;
            }
            Ok(())
        });
        whole(&cluster, round);
    }
}

fn a_single_voter_survives_both() {
    let mut lone = Setup::named("node1").start();
    lone.put("foo", "bar");
    let mut stranger = Stranger::at(&lone, 4711, (0, 0), "127.0.0.1:1");
    stranger.heartbeat(1 << 62, 0);
    stranger.shown_out();
    for _ in 0..3 {
        let term = lone.number("term") + LEAP;
        let mut stranger = Stranger::at(&lone, 4711, (0, 0), "127.0.0.1:1");
        stranger.heartbeat(term, 0);
        // The node follows the stranger, and a single voter has no other voter to ask.
        stranger.digest(term, lone.number("applied_index"));
        eventually(secs(10), "the term is taken, and the node leads again", || {
            let stats = lone.try_stats()?;
            check(number(&stats, "term") >= term && stats["state"] == "Leader", stats)
        });
    }
    lone.kill9();
    lone.start();
    assert_eq!(lone.value("foo"), "bar");
    lone.put("foo", "again");
    assert!(lone.number("term") >= 3 * LEAP);
}

fn a_false_removal_removes_no_member() {
    for size in [2, 3] {
        let cluster = Cluster::of(size);
        for mut stranger in strangers(&cluster) {
            stranger.removed();
        }
        throughout(secs(3), "no member is removed", || {
            for node in &cluster.nodes {
                let stats = node.try_stats()?;
                check(stats["removed"] != true, &stats)?;
            }
            Ok(())
        });
        eventually(secs(10), "no node asks the voters any more", || {
            for node in &cluster.nodes {
                let stats = node.try_stats()?;
                check(stats["verifying"].is_null(), &stats)?;
            }
            Ok(())
        });
        whole(&cluster, 1);
        for node in &cluster.nodes {
            assert!(node.log().contains("the other voters are asked"), "{}", node.log());
        }
    }
}

fn a_false_commit_and_a_false_digest_stop_no_node() {
    let mut cluster = Cluster::of(3);
    let reign = cluster.reign();
    let leader = cluster.agreed();
    let stats = cluster.nodes[leader].stats();
    let (from, address) = (id(&stats, "raft_id"), cluster.nodes[leader].raft.clone());
    for place in cluster.followers() {
        let mut stranger = Stranger::at(&cluster.nodes[place], from, boot_id(&cluster.nodes[leader]), &address);
        stranger.heartbeat(reign.1, number(&stats, "last_log_index") + 1000);
        stranger.digest(reign.1, number(&stats, "applied_index"));
    }
    for mut stranger in strangers(&cluster) {
        stranger.heartbeat(reign.1, 1 << 40);
    }
    throughout(secs(3), "no node stops", || {
        for node in &mut cluster.nodes {
            check(node.exited().is_none(), node.log())?;
        }
        Ok(())
    });
    whole(&cluster, 1);
    let followers = cluster.followers();
    let log = cluster.nodes[followers[0]].log();
    assert!(log.contains("is not borne out") && !log.contains("panicked"), "{log}");
}
