//! Tests of rpcs and of unknown peers at the port.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::model::{BootHistory, Code, JoinAccepted, JoinOffer, Outcome, Refusal};
use crate::transport::handshake::{WIRE_VERSION, Welcome, preamble};
use crate::transport::wire::Frame;
use crate::transport::wire::frame_limits::ANY;
use crate::transport::wire::framing::{read_frame, read_preamble};

async fn identify(node: &mut Node, address: &str) -> Result<WhoAmI, Refusal> {
    node.post.identify(5, address);
    node.wait(|input| match input {
        Input::Identified { token, result } => {
            assert_eq!(token, 5);
            Some(result)
        }
        _ => None,
    })
    .await
}

async fn refused(node: &mut Node, address: &str, code: Code, says: &str) {
    let refusal = identify(node, address).await.unwrap_err();
    assert_eq!((refusal.code, refusal.outcome), (code, Outcome::NotApplied), "{refusal:?}");
    assert!(refusal.detail.contains(says) && refusal.detail.contains(address), "{refusal:?}");
}

/// Listens for one connection and answers it with `bytes`, whatever it says.
async fn listener_that_says(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        // Open until the other end has enough.
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    address
}

/// The same, and closes then.
async fn listener_that_closes_after(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { listener.accept().await.unwrap().0.write_all(&bytes).await });
    address
}

#[tokio::test]
async fn identify_returns_the_node_at_an_address() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    let address = b.address.clone();
    let (answer, ()) = tokio::join!(identify(&mut a, &address), async {
        let asked = b.inbox.peers.recv().await.unwrap();
        let Input::WhoAmI { reply } = asked else { panic!("something else was asked") };
        reply(who(2));
    });
    assert_eq!(answer, Ok(who(2)));
    let own = a.address.clone();
    assert_eq!(identify(&mut a, &own).await, Ok(who(1)));
    let name = own.replace("127.0.0.1", "localhost");
    assert_eq!(identify(&mut a, &name).await, Ok(who(1)));
}

#[tokio::test]
async fn an_unreachable_address_and_another_protocol_are_distinguished() {
    let mut a = Node::start(1);
    refused(&mut a, &nowhere(), Code::Unreachable, "refused").await;
    let http = listener_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()).await;
    refused(&mut a, &http, Code::Unreachable, "an HTTP port?").await;
    let banner = listener_that_says(b"SSH-2.0-OpenSSH_9.9 secret\r\n".to_vec()).await;
    let refusal = identify(&mut a, &banner).await.unwrap_err();
    assert!(refusal.detail.contains("something answered") && !refusal.detail.contains("begins"), "{refusal:?}");
    assert!(!refusal.detail.contains('S'), "what it said is not told: {refusal:?}");
    let curt = listener_that_closes_after(preamble(WIRE_VERSION)[..4].to_vec()).await;
    let ended = listener_that_closes_after(Vec::new()).await;
    refused(&mut a, &ended, Code::Unreachable, "a node that ends").await;
    refused(&mut a, &curt, Code::Unreachable, "closed the connection before the handshake").await;
    refused(&mut a, "http://127.0.0.1:1", Code::Unreachable, "scheme").await;
    refused(&mut a, "no-port", Code::Unreachable, "port is missing").await;
    refused(&mut a, "no.such.host.invalid:1", Code::Unreachable, "resolved").await;
}

#[tokio::test]
async fn silence_at_an_address_is_an_answer_in_time() {
    let mut a = Node::start(1);
    let silent = listener_that_says(Vec::new()).await;
    let began = std::time::Instant::now();
    refused(&mut a, &silent, Code::Unreachable, "does not answer as a huskv peer port").await;
    let took = began.elapsed();
    assert!(took > Duration::from_secs(2) && took < Duration::from_millis(3_900), "promised 3 s: {took:?}");
}

#[tokio::test]
async fn another_wire_version_is_named_on_both_sides() {
    let mut a = Node::start(1);
    let newer = listener_that_says(preamble(9).to_vec()).await;
    let reported = format!("wire version 9, this one speaks {WIRE_VERSION}");
    refused(&mut a, &newer, Code::VersionMismatch, &reported).await;

    let mut stream = TcpStream::connect(&a.address).await.unwrap();
    stream.write_all(&[&preamble(9)[..], &[0; 5_000]].concat()).await.unwrap();
    let mut answer = Vec::new();
    timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, preamble(WIRE_VERSION));
    assert_eq!(a.lines.count("another wire version"), 1);
}

#[tokio::test]
async fn invalid_bytes_close_the_connection_with_few_log_lines() {
    let (mut a, mut b) = pair().await;
    let lie = [&preamble(WIRE_VERSION)[..], &[0xff, 0xff, 0xff, 0xff, 1]].concat();
    let broken = [&preamble(WIRE_VERSION)[..], &[3, 0, 0, 0, 1, 1, 2, 3, 4, 5, 6, 7]].concat();
    for _ in 0..30 {
        for garbage in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0x89, b'x'], &[0; 4_000], &lie, &broken] {
            let mut stream = TcpStream::connect(&b.address).await.unwrap();
            drop(stream.write_all(garbage).await);
            let mut answer = Vec::new();
            // It is closed, with a reset where it was still being talked to.
            drop(timeout(TEST_TIMEOUT, stream.read_to_end(&mut answer)).await.unwrap());
            assert!(answer.is_empty(), "{answer:?}");
        }
        drop(TcpStream::connect(&b.address).await.unwrap());
    }
    assert!((1..=10).contains(&b.lines.count("not huskv")), "{}", b.lines.count("not huskv"));
    a.post.send(vec![append(1, 2, 5, 1)]);
    assert_eq!(b.message().await.index, 4);
    assert_eq!(a.lines.count("peer lost"), 0);
}

#[tokio::test]
async fn silent_connections_do_not_block_members() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.publish(&[]);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(&b.address).await.unwrap());
    }
    a.publish(&[(2, &b.address)]);
    a.up(2).await;
    assert!(b.lines.count("too many connections to the peer port") > 0);
    assert_eq!(b.lines.count("not huskv"), 0, "the member did not wait for the time of the others to run out");
    drop(silent);
}

fn offer() -> JoinOffer {
    JoinOffer {
        cluster_id: CLUSTER,
        leader_id: 1,
        offer: 8,
        leader_name: "node1".into(),
        leader_address: "h:1".into(),
        node_id: "node2".into(),
        raft_address: "h:2".into(),
        force: false,
        prepare: false,
        tombstones: vec![3, 4],
    }
}

async fn accepted(node: &mut Node) -> Result<JoinAccepted, Refusal> {
    node.wait(|input| if let Input::JoinOfferAnswered { token: 6, result } = input { Some(result) } else { None }).await
}

#[tokio::test]
async fn an_offer_is_answered_by_the_joiners_loop() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    let yes = JoinAccepted { raft_id: 5, started_as: "n".into(), http_address: "h:1".into(), dropped: None };
    for answer in [Ok(yes), Err(Refusal::not_applied(Code::HasData, "it has data"))] {
        a.post.offer_join(6, &b.address, offer());
        let reply = b.wait(|input| match input {
            Input::JoinOffer { offer: received, reply } => {
                assert_eq!(received, offer());
                Some(reply)
            }
            _ => None,
        });
        reply.await(answer.clone());
        match (accepted(&mut a).await, answer) {
            (Err(reported_to), Err(reported)) => {
                assert_eq!((reported_to.code, reported_to.outcome), (reported.code, reported.outcome));
                assert!(
                    reported_to.detail.contains(&b.address) && reported_to.detail.ends_with(&reported.detail),
                    "{reported_to:?}"
                );
            }
            (reported_to, reported) => assert_eq!(reported_to, reported),
        }
    }
    a.post.offer_join(6, &nowhere(), offer());
    let refusal = accepted(&mut a).await.unwrap_err();
    assert_eq!((refusal.code, refusal.outcome), (Code::Unreachable, Outcome::NotApplied));
}

#[tokio::test]
async fn a_joiner_is_notified_that_its_join_has_ended() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    a.post.end_join(&nowhere(), CLUSTER, 5);
    a.post.end_join(&b.address, CLUSTER, 5);
    let ended = b.wait(|input| match input {
        Input::JoinEnded { cluster_id, raft_id } => Some((cluster_id, raft_id)),
        _ => None,
    });
    assert_eq!(ended.await, (CLUSTER, 5));
}

#[tokio::test]
async fn an_offer_without_an_answer_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut a = Node::start(1);
    a.post.offer_join(6, &listener.local_addr().unwrap().to_string(), offer());
    let (mut joiner, _) = listener.accept().await.unwrap();
    read_preamble(&mut joiner).await.unwrap();
    read_frame(&mut joiner, ANY).await.unwrap();
    joiner.write_all(&preamble(WIRE_VERSION)).await.unwrap();
    let welcome = Frame::Verdict(Ok(Welcome { cluster_id: 9, raft_id: 2, boot_history: BootHistory::default() }));
    joiner.write_all(&welcome.encode().unwrap()).await.unwrap();
    assert_eq!(read_frame(&mut joiner, ANY).await.unwrap(), Frame::JoinOffer(offer()));
    drop(joiner);
    let refusal = accepted(&mut a).await.unwrap_err();
    assert_eq!((refusal.code, refusal.outcome), (Code::Unreachable, Outcome::Unknown));
}
