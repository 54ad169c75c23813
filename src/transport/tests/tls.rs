//! TLS between transports: who comes in, who is refused in which words, downgrades, and connections that are replaced.

use tokio::io::AsyncWriteExt;

use super::*;
use crate::consensus::Hop;
use crate::model::{Answer, Code, Refusal, Request};
use crate::transport::handshake::{Hello, Purpose, WIRE_VERSION, preamble};
use crate::transport::wire::framing::{Preamble, read_frame, read_preamble};
use crate::transport::wire::{Frame, frame_limits};
use crate::trust::Mode;
use crate::trust::credentials::{CredentialFiles, Reload};
use crate::trust::peer_tls::PeerTls;
use crate::trust::test_ca::{Leaf, TestCa};

/// TLS of the node `name` with the certificate of `certified`.
fn peer_tls(ca: &TestCa, mode: Mode, name: &str) -> Arc<PeerTls> {
    let folder = tempfile::tempdir().unwrap();
    ca.node(name).write(folder.path());
    open_tls(folder.path(), mode, name)
}

fn open_tls(folder: &std::path::Path, mode: Mode, name: &str) -> Arc<PeerTls> {
    let path = |file: &str| folder.join(file);
    let files = CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
    Arc::new(PeerTls::open(files, mode, name).unwrap())
}

fn secure(ca: &TestCa, mode: Mode, raft_id: u64) -> Node {
    secure_on(ca, mode, Disk::new(BootHistory::default()), raft_id, "127.0.0.1:0")
}

fn secure_on(ca: &TestCa, mode: Mode, disk: Disk, raft_id: u64, address: &str) -> Node {
    let tls = Some(peer_tls(ca, mode, &format!("node{raft_id}")));
    Node::start_with(disk, raft_id, address, Options { tls, ..options() })
}

async fn connect(a: &mut Node, b: &mut Node) {
    a.publish(&[(2, &b.address.clone())]);
    b.publish(&[(1, &a.address.clone())]);
    tokio::join!(a.up(2), b.up(1));
}

/// The result of an rpc of `a` to `b`, which answers who it is.
async fn identify(a: &mut Node, b: &mut Node) -> Result<WhoAmI, Refusal> {
    a.post.identify(5, &b.address.clone());
    let asks = a.wait(|input| if let Input::Identified { result, .. } = input { Some(result) } else { None });
    let answers = b.wait(|_| None::<()>);
    tokio::select! { result = asks => result, () = answers => unreachable!("it waits for nothing") }
}

#[tokio::test]
async fn members_speak_tls_in_every_pair_of_modes_that_allows_it() {
    let ca = TestCa::new("ca");
    for (one, other) in [(Mode::On, Mode::On), (Mode::On, Mode::Accept), (Mode::Accept, Mode::Accept)] {
        let (mut a, mut b) = (secure(&ca, one, 1), secure(&ca, other, 2));
        connect(&mut a, &mut b).await;
        a.post.send(vec![append(1, 2, 2, 300_000)]);
        assert_eq!(b.message().await.entries[0].data.len(), 300_000);
        let peers = Peers::open(a.disk.engine.clone()).unwrap();
        assert!(peers.spoke_tls(2), "it is recorded");
        assert_eq!(identify(&mut a, &mut b).await.unwrap().node_id, "node2");
    }
}

#[tokio::test]
async fn during_a_migration_plain_and_secure_nodes_are_peers() {
    let ca = TestCa::new("ca");
    let (mut a, mut b) = (secure(&ca, Mode::Accept, 1), Node::start(2));
    connect(&mut a, &mut b).await;
    a.post.send(vec![append(1, 2, 2, 9)]);
    b.message().await;
    b.post.send(vec![append(2, 1, 2, 9)]);
    a.message().await;
    assert!(!Peers::open(a.disk.engine.clone()).unwrap().spoke_tls(2));
    assert_eq!(identify(&mut a, &mut b).await.unwrap().node_id, "node2");
}

#[tokio::test]
async fn a_plain_node_and_one_with_tls_only_refuse_each_other_in_words() {
    let ca = TestCa::new("ca");
    let (mut a, mut b) = (secure(&ca, Mode::On, 1), Node::start(2));
    let refusal = identify(&mut a, &mut b).await.unwrap_err();
    assert!(refusal.code == Code::TlsRefused && refusal.detail.contains("tls.peer is off"), "{refusal:?}");
    let refusal = identify(&mut b, &mut a).await.unwrap_err();
    assert!(refusal.code == Code::TlsRefused && refusal.detail.contains("takes TLS only"), "{refusal:?}");
    a.publish(&[(2, &b.address.clone())]);
    b.publish(&[(1, &a.address.clone())]);
    a.lines.wait("a peer is refused").await;
    assert!(!a.was_reported());
}

#[tokio::test]
async fn a_member_that_spoke_tls_is_never_spoken_to_in_plain_again() {
    let ca = TestCa::new("ca");
    let (mut a, mut b) = (secure(&ca, Mode::Accept, 1), secure(&ca, Mode::Accept, 2));
    connect(&mut a, &mut b).await;
    // The same member without TLS: an attacker that drops every handshake makes it look like this.
    let (disk, address) = (b.disk.clone(), b.address.clone());
    b.transport.take().unwrap().stop().await;
    drop(b);
    a.down(2).await;
    let mut plain = Node::start_on(disk, 2, &address);
    plain.publish(&[(1, &a.address.clone())]);
    a.lines.wait("a peer is refused").await;
    assert!(!plain.was_reported() && !a.was_reported());
    // Nor is another node of that name, with an empty disk and without a certificate.
    let mut again = Node::start(2);
    again.publish(&[]);
    let refusal = identify(&mut a, &mut again).await.unwrap_err();
    assert!(
        refusal.code == Code::TlsRefused && refusal.detail.contains("has spoken TLS with this node before"),
        "{refusal:?}"
    );
    // A node without TLS forgets; its records must not stop a later migration.
    let peers = Peers::open(a.disk.engine.clone()).unwrap();
    peers.forget_tls().unwrap();
    assert!(!Peers::open(a.disk.engine.clone()).unwrap().spoke_tls(2));
}

#[tokio::test]
async fn another_node_of_the_cluster_cannot_speak_as_a_member() {
    let ca = TestCa::new("ca");
    let mut a = secure(&ca, Mode::On, 1);
    // The certificate of node3, and the raft id and the disk of node2.
    let tls = Some(peer_tls(&ca, Mode::On, "node3"));
    let mut thief = Node::start_with(Disk::new(BootHistory::default()), 2, "127.0.0.1:0", Options { tls, ..options() });
    a.publish(&[(2, &thief.address.clone())]);
    thief.publish(&[(1, &a.address.clone())]);
    a.lines.wait("a peer is refused").await;
    // Dialled as node2, it shows that it is node3.
    a.lines.wait("peer will not talk").await;
    let refusal = identify(&mut a, &mut thief).await.unwrap_err();
    assert!(refusal.detail.contains("its certificate is that of node3"), "{refusal:?}");
    assert!(!a.was_reported() && !thief.was_reported());
}

#[tokio::test]
async fn a_node_of_another_authority_is_refused_by_both_ends() {
    let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
    let (mut a, mut foreign) = (secure(&ca, Mode::On, 1), secure(&other, Mode::On, 2));
    let refusal = identify(&mut a, &mut foreign).await.unwrap_err();
    assert!(refusal.code == Code::TlsRefused && refusal.detail.contains("unknown issuer CN=other"), "{refusal:?}");
    a.publish(&[(2, &foreign.address.clone())]);
    foreign.publish(&[(1, &a.address.clone())]);
    a.lines.wait("peer will not talk").await;
    assert!(!a.was_reported() && !foreign.was_reported());
}

/// A handshake as a client with the certificate `own` that trusts `ca` and says hello as node2; false where it is refused.
async fn is_welcome(address: &str, ca: &TestCa, own: Option<&Leaf>) -> bool {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let Ok(mut stream) = ca.handshake(stream, "node1.test.huskv", own).await else { return false };
    let hello = Hello {
        purpose: Purpose::Identify,
        cluster_id: CLUSTER,
        from: 2,
        to: 0,
        node_id: "node2".into(),
        raft_address: "h:1".into(),
        moved: false,
        boot_history: BootHistory::default(),
        known: None,
    };
    let bytes = [&preamble(WIRE_VERSION)[..], &Frame::Hello(hello).encode().unwrap()].concat();
    if stream.write_all(&bytes).await.is_err() || !matches!(read_preamble(&mut stream).await, Ok(Preamble::Huskv(_))) {
        return false;
    }
    matches!(read_frame(&mut stream, frame_limits::VERDICT).await, Ok(Frame::Verdict(Ok(_))))
}

#[tokio::test]
async fn strangers_are_refused_in_words() {
    let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
    let mut a = secure(&ca, Mode::On, 1);
    a.publish(&[]);
    let named = |name: &str, cluster: &str| ca.leaf("x", |leaf| leaf.of_node(name, cluster));
    for (own, words) in [
        (None, "no certificate was sent, and one is required"),
        (Some(other.node("node2")), "unknown issuer CN=other"),
        (Some(ca.leaf("x", |leaf| leaf.of_node("node2", "test").days((-9, -1)))), "the certificate expired on"),
        (Some(ca.leaf("x", |leaf| leaf.of_node("node2", "test").days((1, 9)))), "the certificate is not valid before"),
        (Some(ca.leaf("x", |leaf| leaf.of_node("node2", "test").for_servers_only())), "not for this use"),
        (
            Some(ca.client("billing")),
            "node.test.huskv, which every node of the cluster has, is not among DNS:localhost",
        ),
        (Some(named("node2", "prod")), "node.test.huskv, which every node of the cluster has, is not among"),
        (Some(named("*", "test")), "no name NAME.test.huskv is among"),
        (Some(ca.leaf("x", |leaf| leaf.of_node("node2", "test").of_node("node3", "test"))), "names two nodes"),
    ] {
        assert!(!is_welcome(&a.address, &ca, own.as_ref()).await, "{words}");
        a.lines.wait_for(words).await;
    }
    // A valid certificate, and the name of another node in the hello.
    assert!(!is_welcome(&a.address, &ca, Some(&ca.node("node3"))).await);
    a.lines.wait("a peer is refused").await;
    let mut http = tokio::net::TcpStream::connect(&a.address).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    a.lines.wait_for("plain HTTP on a port that speaks TLS only").await;
    assert!(!a.was_reported());
    assert!(is_welcome(&a.address, &ca, Some(&ca.node("node2"))).await);
}

#[tokio::test]
async fn a_node_that_the_table_does_not_have_comes_in_once_a_member_has_told_of_it() {
    let ca = TestCa::new("ca");
    let (mut a, mut b, mut c) = (secure(&ca, Mode::On, 1), secure(&ca, Mode::On, 2), secure(&ca, Mode::On, 3));
    let address = |node: &Node| node.address.clone();
    // Node 1 was away while node 3 joined: only node 2 lists it.
    a.publish(&[(2, &address(&b))]);
    c.publish(&[(1, &address(&a)), (2, &address(&b))]);
    a.lines.wait("a peer is refused").await;
    c.post.send(vec![append(3, 1, 2, 9)]);
    assert!(!a.was_reported(), "nothing of a node that no member knows");
    b.publish(&[(1, &address(&a)), (3, &address(&c))]);
    c.up(1).await;
    let received = async {
        loop {
            c.post.send(vec![append(3, 1, 2, 9)]);
            if let Ok(message) = timeout(Duration::from_millis(100), a.message()).await {
                return message;
            }
        }
    };
    assert_eq!(timeout(TEST_TIMEOUT, received).await.unwrap().from, 3);
    // A member under a new raft id needs no word of others: its name is its identity.
    let tls = Some(peer_tls(&ca, Mode::On, "node2"));
    let mut again = Node::start_with(Disk::new(BootHistory::default()), 4, "127.0.0.1:0", Options { tls, ..options() });
    let table = PeerTable { node_id: "node2".into(), ..again.table(&[(1, &address(&a))]) };
    again.post.publish(table);
    again.up(1).await;
}

#[tokio::test]
async fn a_removed_member_loses_its_connection() {
    let ca = TestCa::new("ca");
    let (mut a, mut b) = (secure(&ca, Mode::On, 1), secure(&ca, Mode::On, 2));
    connect(&mut a, &mut b).await;
    let table = PeerTable { tombstones: vec![2], ..a.table(&[]) };
    a.post.publish(table);
    assert_eq!(b.removed().await, (CLUSTER, 2));
    b.down(1).await;
}

#[tokio::test]
async fn a_connection_is_replaced_before_its_age_and_no_reply_is_lost() {
    let ca = TestCa::new("ca");
    let age = Duration::from_secs(4);
    let node = |raft_id: u64| {
        let tls = Some(peer_tls(&ca, Mode::On, &format!("node{raft_id}")));
        let options = Options { tls, connection_age: age, ..options() };
        Node::start_with(Disk::new(BootHistory::default()), raft_id, "127.0.0.1:0", options)
    };
    let (mut a, mut b) = (node(1), node(2));
    connect(&mut a, &mut b).await;
    let began = tokio::time::Instant::now();
    // A request is on its way at every moment, and each is answered a tenth of a second later.
    let (mut held, mut asked, mut answered) = (Vec::new(), 0, 0);
    while answered < asked || began.elapsed() < 2 * age {
        if held.len() < 5 && began.elapsed() < 2 * age {
            a.post.forward(asked, 2, Hop::Leader, Request::Transfer { node_id: None }, 8_000);
            asked += 1;
            let reply = b.wait(|input| if let Input::Request { reply, .. } = input { Some(reply) } else { None });
            held.push((tokio::time::Instant::now() + Duration::from_millis(100), reply.await));
            continue;
        }
        let (due, reply) = held.remove(0);
        tokio::time::sleep_until(due).await;
        reply(Ok(Answer::Transferred { node_id: "x".into() }));
        let result = a.wait(|input| match input {
            Input::Forwarded { result, .. } => Some(result),
            Input::PeerDown(peer) => panic!("the connection to {peer} was lost"),
            _ => None,
        });
        assert!(result.await.is_ok());
        answered += 1;
    }
    assert_eq!((a.lines.count("peer found"), a.lines.count("peer lost")), (1, 0));
}

#[tokio::test]
async fn no_reply_is_lost_where_a_connection_is_replaced_twice_before_it() {
    let (ca, folder) = (TestCa::new("ca"), tempfile::tempdir().unwrap());
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    ca.node("node1").write(folder.path());
    let tls = open_tls(folder.path(), Mode::On, "node1");
    let with = |tls| Options { tls: Some(tls), ..options() };
    let start = |raft_id, tls| Node::start_with(Disk::new(BootHistory::default()), raft_id, "127.0.0.1:0", with(tls));
    let (mut a, mut b) = (start(1, Arc::clone(&tls)), start(2, peer_tls(&ca, Mode::On, "node2")));
    connect(&mut a, &mut b).await;
    let accepted = b.lines.count("peer connected");
    a.post.forward(7, 2, Hop::Leader, Request::Transfer { node_id: None }, 8_000);
    let reply = b.wait(|input| if let Input::Request { reply, .. } = input { Some(reply) } else { None }).await;
    for replaced in 1..=2 {
        ca.node("node1").write(folder.path());
        assert!(matches!(tls.credentials().reload(&silent), Reload::Replaced));
        while b.lines.count("peer connected") < accepted + replaced {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // By the new connection: the one before is not written to any more.
        a.post.send(vec![append(1, 2, 2, 9)]);
        b.message().await;
    }
    reply(Ok(Answer::Transferred { node_id: "x".into() }));
    let result = a.wait(|input| if let Input::Forwarded { result, .. } = input { Some(result) } else { None }).await;
    assert_eq!(result, Ok(Answer::Transferred { node_id: "x".into() }));
}

#[tokio::test]
async fn a_member_whose_authority_is_no_longer_trusted_loses_its_connections_at_once() {
    let (ca, other) = (TestCa::new("ca"), TestCa::new("other"));
    let both = [ca.certificate(), other.certificate()].concat();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let node = |raft_id: u64, ca: &TestCa| {
        let (folder, name) = (folders[usize::try_from(raft_id).unwrap() - 1].path(), format!("node{raft_id}"));
        ca.node(&name).write(folder);
        std::fs::write(folder.join("ca.pem"), &both).unwrap();
        let tls = open_tls(folder, Mode::On, &name);
        let options = Options { tls: Some(Arc::clone(&tls)), ..options() };
        (Node::start_with(Disk::new(BootHistory::default()), raft_id, "127.0.0.1:0", options), tls)
    };
    let ((mut a, tls), (mut b, _)) = (node(1, &ca), node(2, &other));
    connect(&mut a, &mut b).await;
    // Its own certificate is replaced: the peers are who they were.
    ca.node("node1").write(folders[0].path());
    std::fs::write(folders[0].path().join("ca.pem"), &both).unwrap();
    let silent = slog::Logger::root(slog::Discard, slog::o!());
    assert!(matches!(tls.credentials().reload(&silent), Reload::Replaced));
    a.post.send(vec![append(1, 2, 2, 9)]);
    b.message().await;
    assert_eq!(a.lines.count("peer lost"), 0);

    std::fs::write(folders[0].path().join("ca.pem"), ca.certificate()).unwrap();
    assert!(matches!(tls.credentials().reload(&silent), Reload::Replaced));
    // What it had dialled, and what it had accepted. Node 2 trusts both still.
    tokio::join!(a.down(2), b.down(1));
    a.lines.wait("a peer's connection is closed").await;
}
