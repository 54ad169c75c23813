//! Attacks by a peer that knows the protocol and is no member.

use futures_util::FutureExt;
use raft::eraftpb::SnapshotMetadata;
use slog::o;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::changefeed::FeedLimits;
use crate::consensus;
use crate::model::{BootId, Code, JoinOffer};
use crate::storage::{DataDir, OpenOptions, SledEngine};
use crate::transport::handshake::dial::dial;
use crate::transport::handshake::{Hello, Purpose, WIRE_VERSION, preamble};
use crate::transport::socket::PeerStream;
use crate::transport::wire::frame_limits::ANY;
use crate::transport::wire::framing::{read_frame, read_frame_within, write_frame_within};
use crate::transport::wire::{Frame, HEAD_BYTES};

fn hello(from: u64, to: u64, purpose: Purpose) -> Hello {
    let (node_id, raft_address) = ("x".into(), "x:1".into());
    Hello {
        purpose,
        cluster_id: CLUSTER,
        from,
        to,
        node_id,
        raft_address,
        moved: false,
        boot_history: BootHistory::default(),
        known: None,
    }
}

/// A connection behind its handshake.
async fn greet(address: &str, hello: &Hello) -> PeerStream {
    dial(address, hello, &plain(), TEST_TIMEOUT).await.unwrap().stream
}

/// Waits until the node has closed the connection, without a word.
async fn closed(mut stream: PeerStream) {
    let mut reported = Vec::new();
    drop(timeout(TEST_TIMEOUT, stream.read_to_end(&mut reported)).await.expect("the node keeps the connection"));
    assert!(reported.is_empty(), "{reported:?}");
}

#[tokio::test]
async fn sockets_that_are_held_do_not_keep_members_out_restarts_included() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.publish(&[(1, &a.address)]);
    let (address, mut held) = (b.address.clone(), Vec::new());
    let mut greeted = Vec::new();
    for number in 0..254 {
        held.push(TcpStream::connect(&address).await.unwrap());
        let mut half = TcpStream::connect(&address).await.unwrap();
        half.write_all(&preamble(WIRE_VERSION)[..7]).await.unwrap();
        held.push(half);
        // Made-up raft ids; a raft id of a member needs its boot id, too.
        greeted.push(greet(&address, &hello(1_000 + number, 2, Purpose::Peer)).await);
        assert!(dial(&address, &hello(1, 2, Purpose::Peer), &plain(), TEST_TIMEOUT).await.is_err());
    }
    a.publish(&[(2, &address)]);
    a.up(2).await;
    a.post.send(vec![append(1, 2, 5, 1)]);
    assert_eq!(b.message().await.index, 4);
    let own = a.address.clone();
    a.transport.take().unwrap().stop().await;
    for number in 0..100 {
        greeted.push(greet(&address, &hello(2_000 + number, 2, Purpose::Peer)).await);
        held.push(TcpStream::connect(&address).await.unwrap());
    }
    let mut a = Node::start_on(a.disk, 1, &own);
    a.publish(&[(2, &address)]);
    a.up(2).await;
    a.post.send(vec![append(1, 2, 6, 1)]);
    assert_eq!(b.message().await.index, 5);
    drop(held);
}

#[tokio::test]
async fn a_frame_that_does_not_belong_is_refused_from_its_head() {
    let mut b = Node::start(2);
    b.publish(&[]);
    let head = |kind: u8, length: u32| {
        let mut head = [0; HEAD_BYTES];
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4] = kind;
        head
    };
    // A ping with a body, a snapshot frame, a reply, a raft message over every limit, a kind that no version knows.
    for head in [head(6, 1), head(12, 1 << 20), head(5, 10), head(3, (32 << 20) + 1), head(99, 0)] {
        let mut stream = greet(&b.address, &hello(1, 2, Purpose::Peer)).await;
        stream.write_all(&head).await.unwrap();
        closed(stream).await;
    }
    assert!(b.inbox.peers.try_recv().is_err());
}

#[tokio::test]
async fn an_unlisted_peer_is_answered_on_its_connection_and_never_dialled() {
    let third = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut b = Node::start(2);
    b.publish(&[]);
    let address = third.local_addr().unwrap().to_string();
    let boot_history = BootHistory { current: BootId { count: 1, nonce: 1 }, ..BootHistory::default() };
    let unidentified = Hello { raft_address: address, boot_history, ..hello(1, 2, Purpose::Peer) };
    let mut stream = greet(&b.address, &unidentified).await;
    let ask = Frame::Step(Box::new(append(1, 2, 5, 1)));
    write_frame_within(&mut stream, &ask, TEST_TIMEOUT).await.unwrap();
    assert_eq!(b.message().await.index, 4);
    for index in 6..9 {
        b.post.send(vec![append(2, 1, index, 1)]);
        let answer = read_frame_within(&mut stream, ANY, TEST_TIMEOUT).await.unwrap();
        assert_eq!(answer, Frame::Step(Box::new(append(2, 1, index, 1))));
    }
    // It cannot hand requests on, and is forgotten with its connection.
    let request = crate::model::Request::Transfer { node_id: None };
    let forward = Frame::Forward { token: 3, deadline: 9_000, relay: false, request };
    write_frame_within(&mut stream, &forward, TEST_TIMEOUT).await.unwrap();
    let Frame::Reply { token: 3, result: Err(refusal) } = read_frame(&mut stream, ANY).await.unwrap() else {
        panic!("it was not refused")
    };
    assert_eq!(refusal.code, Code::NoLeader);
    drop(stream);
    let registry = &b.transport.as_ref().unwrap().registry;
    let forgotten = async {
        while !registry.directory().unlisted_peers.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(TEST_TIMEOUT, forgotten).await.expect("callers end with their connection");
    b.post.send(vec![append(2, 1, 9, 1)]);
    assert!(third.accept().now_or_never().is_none(), "a reported address is never dialled");
}

#[tokio::test]
async fn a_peer_that_speaks_as_a_member_makes_a_node_dial_others_only_so_often() {
    let third = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = third.local_addr().unwrap().to_string();
    let mut b = Node::start(2);
    b.publish(&[(1, &nowhere())]);
    let boot_history = BootHistory { current: BootId { count: 1, nonce: 1 }, ..BootHistory::default() };
    let unidentified = Hello { raft_address: address, boot_history, ..hello(1, 2, Purpose::Peer) };
    let mut dialled = 0;
    for _ in 0..60 {
        drop(greet(&b.address, &unidentified).await);
        tokio::time::sleep(Duration::from_millis(60)).await;
        while let Some(Ok(_)) = third.accept().now_or_never() {
            dialled += 1;
        }
    }
    assert!(dialled <= 17, "{dialled} times");
}

#[tokio::test]
async fn names_and_addresses_that_are_none_come_no_further_than_the_port() {
    let mut b = Node::start(2);
    b.publish(&[]);
    let good = hello(1, 2, Purpose::Peer);
    for bad in [
        Hello { node_id: "x\n2026 ERRO all is lost".into(), ..good.clone() },
        Hello { node_id: "x\u{1b}[2J".into(), ..good.clone() },
        Hello { raft_address: "x:1\r\nnode: y".into(), ..good.clone() },
        Hello { raft_address: "0.0.0.0:1".into(), ..good.clone() },
        Hello { node_id: "x".repeat(65), ..good },
    ] {
        let mut stream = TcpStream::connect(&b.address).await.unwrap();
        let bytes = [&preamble(WIRE_VERSION)[..], &Frame::Hello(bad).encode().unwrap()].concat();
        stream.write_all(&bytes).await.unwrap();
        closed(PeerStream::Plain(stream)).await;
    }
    let offer = JoinOffer {
        cluster_id: CLUSTER,
        leader_id: 1,
        leader_name: "node1".into(),
        leader_address: "h:1".into(),
        node_id: "node2".into(),
        raft_address: "h:2".into(),
        force: true,
        tombstones: Vec::new(),
        prepare: false,
        offer: 5,
    };
    for bad in [
        JoinOffer { leader_name: "a\nb".into(), ..offer.clone() },
        JoinOffer { leader_address: "h".into(), ..offer.clone() },
        JoinOffer { node_id: "..".into(), ..offer.clone() },
        JoinOffer { raft_address: "[::]:1".into(), ..offer },
    ] {
        let mut stream = greet(&b.address, &hello(1, 0, Purpose::JoinOffer)).await;
        write_frame_within(&mut stream, &Frame::JoinOffer(bad), TEST_TIMEOUT).await.unwrap();
        let Frame::JoinAccepted(Err(refusal)) = read_frame(&mut stream, ANY).await.unwrap() else {
            panic!("not refused")
        };
        assert_eq!(refusal.code, Code::BadRequest);
    }
    assert!(b.inbox.peers.try_recv().is_err(), "the loop hears nothing of it");
}

/// A node with its loop and its directory, alone in its cluster: its address, raft id and cluster.
async fn alone(dir: &std::path::Path) -> (Transport, String, u64, u64) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let boot = OpenOptions {
        name: "n1".into(),
        raft_address: address.clone(),
        http_address: "h:1".into(),
        cache_bytes: 8 << 20,
        picked_http_port: None,
        picked_raft_port: None,
        random: Box::new(|| 77),
    };
    let (data_dir, incarnation) = DataDir::open(Arc::new(SledEngine::new(dir).unwrap()), boot).unwrap();
    let options = consensus::Options {
        tick_ms: 20,
        heartbeat_ticks: 2,
        election_ticks: 10,
        election_range: None,
        snapshot_every_entries: 10_000,
        snapshot_every_bytes: 64 << 20,
        snapshot_keep_entries: 1_000,
        snapshot_spool_bytes: 64 << 20,
        memtable_bytes: 1 << 20,
        meta_cache_bytes: 1 << 20,
        reclaim_slack_bytes: 64 << 20,
        entry_cache_bytes: 32 << 20,
        follower_bytes: 64 << 20,
        apply_work: 1 << 20,
        pending_requests: 64,
        history: FeedLimits { events: 10, bytes: 1 << 20 },
        raft_address: address.clone(),
        http_address: "h:1".into(),
        follow_moves: false,
        forming: false,
        join_wait_ms: 60_000,
        limits: crate::model::Limits::ALL_NODES,
        nonce: 1,
    };
    let (handle, inbox) = channel(64);
    let log = slog::Logger::root(slog::Discard, o!());
    let peers = Arc::new(Peers::open(data_dir.engine()).unwrap());
    let (transport, outbox) = start(listener, handle.clone(), peers, super::options(), log.clone()).unwrap();
    let (raft_id, cluster_id) = (data_dir.identity().raft_id, data_dir.identity().cluster_id);
    let start = consensus::Start { data_dir, incarnation, outbox, options, log: log.clone(), raft_log: log };
    drop(consensus::spawn(inbox, handle.clone(), start).unwrap());
    timeout(TEST_TIMEOUT, handle.who_am_i()).await.unwrap().unwrap();
    (transport, address, raft_id, cluster_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unannounced_snapshot_is_refused_before_anything_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (_transport, address, raft_id, cluster_id) = alone(dir.path()).await;
    let folder = dir.path().join(raft_id.to_string());
    let names = || std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    let mut end = Message { msg_type: MessageType::MsgSnapshot, from: 5, to: raft_id, term: 9, ..Message::default() };
    end.mut_snapshot().set_metadata(SnapshotMetadata { index: 9, term: 9, ..Default::default() });
    for _ in 0..20 {
        let mut stream = greet(&address, &Hello { cluster_id, ..hello(5, raft_id, Purpose::Snapshot) }).await;
        let announce = Frame::Announce { index: 9, bytes: 1 << 20 };
        write_frame_within(&mut stream, &announce, TEST_TIMEOUT).await.unwrap();
        let outcome = loop {
            match read_frame_within(&mut stream, ANY, TEST_TIMEOUT).await.unwrap() {
                Frame::Ping => {}
                frame => break frame,
            }
        };
        assert_eq!(outcome, Frame::Taken(Err("a snapshot is taken from the present leader alone".into())));
        assert_eq!(names(), before);
    }
    // Nor is one that was not announced.
    let mut stream = greet(&address, &Hello { cluster_id, ..hello(5, raft_id, Purpose::Snapshot) }).await;
    write_frame_within(&mut stream, &Frame::Changes(vec![1; 100]), TEST_TIMEOUT).await.unwrap();
    let outcome = loop {
        match read_frame_within(&mut stream, ANY, TEST_TIMEOUT).await.unwrap() {
            Frame::Ping => {}
            frame => break frame,
        }
    };
    assert!(matches!(outcome, Frame::Taken(Err(_))));
    assert_eq!(names(), before);
}
