//! Link tests: order, refusals, moves, removals, shutdown.

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::transport::handshake::{WIRE_VERSION, Welcome, preamble};
use crate::transport::wire::Frame;
use crate::transport::wire::frame_limits::ANY;
use crate::transport::wire::framing::{read_frame, read_preamble, write_frame_within};

#[tokio::test]
async fn messages_arrive_complete_and_in_order() {
    let (mut a, mut b) = pair().await;
    for batch in 0..20 {
        a.post.send((1..=25).map(|i| append(1, 2, batch * 25 + i, 3_000)).collect());
    }
    for index in 1..=500 {
        let message = b.message().await;
        assert_eq!(message, append(1, 2, index, 3_000));
    }
    b.post.send(vec![append(2, 1, 9, 1 << 20)]);
    assert_eq!(a.message().await, append(2, 1, 9, 1 << 20));
}

#[tokio::test]
async fn messages_sent_during_the_first_dial_are_not_lost() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.publish(&[]);
    a.publish(&[(2, &b.address)]);
    a.post.send(vec![append(1, 2, 5, 1)]);
    assert_eq!(b.message().await.index, 4);
}

#[tokio::test]
async fn another_cluster_hears_nothing() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.post.publish(PeerTable { cluster_id: 8, ..b.table(&[]) });
    a.publish(&[(2, &b.address)]);
    a.post.send(vec![append(1, 2, 5, 1)]);
    a.down(2).await;
    b.lines.wait("a peer is refused").await;
    a.lines.wait("peer will not talk").await;
    assert!(!b.was_reported());
}

#[tokio::test]
async fn no_peer_is_admitted_before_the_table_is_published() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    a.publish(&[(2, &b.address)]);
    b.lines.wait("a peer is refused").await;
    b.publish(&[]);
    a.up(2).await;
}

#[tokio::test]
async fn messages_that_are_not_the_peers_own_are_refused_and_the_connection_goes_on() {
    let (mut a, mut b) = pair().await;
    let foreign = Message { from: 3, ..append(1, 2, 5, 1) };
    let local = Message { msg_type: MessageType::MsgHup, from: 1, to: 2, ..Message::default() };
    a.post.send(vec![foreign, local, append(1, 2, 6, 1)]);
    assert_eq!(b.message().await, append(1, 2, 6, 1));
    assert_eq!(b.lines.count("a raft message is refused"), 2);
}

#[tokio::test]
async fn a_removed_member_learns_it_at_its_handshake() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.post.publish(PeerTable { tombstones: vec![1], ..b.table(&[]) });
    a.publish(&[(2, &b.address)]);
    assert_eq!(a.removed().await, (CLUSTER, 1));
}

#[tokio::test]
async fn a_connected_member_that_is_removed_learns_it_before_the_close() {
    let (mut a, mut b) = pair().await;
    b.post.publish(PeerTable { tombstones: vec![1], ..b.table(&[]) });
    assert_eq!(a.removed().await, (CLUSTER, 1));
    a.down(2).await;
    a.post.publish(PeerTable { removed: true, ..a.table(&[]) });
    a.post.send(vec![append(1, 2, 5, 1)]);
    let (mut c, address) = (Node::start(3), a.address.clone());
    c.publish(&[(1, &address)]);
    a.lines.wait("a peer is refused").await;
    while let Ok(input) = b.inbox.peers.try_recv() {
        assert!(!matches!(bare(input), Input::Step(_)));
    }
}

#[tokio::test]
async fn tell_removed_arrives_whether_the_table_comes_before_or_after() {
    for table_first in [true, false] {
        let (mut a, mut b) = pair().await;
        // Without tombstones in the table only the frame can tell.
        if table_first {
            a.publish(&[]);
            for _ in 0..100 {
                // The connection learns that it is not wanted any more.
                tokio::task::yield_now().await;
            }
            a.post.tell_removed(2);
        } else {
            a.post.tell_removed(2);
            a.publish(&[]);
        }
        assert_eq!(b.removed().await, (CLUSTER, 2), "{table_first}");
        a.down(2).await;
    }
}

#[tokio::test]
async fn a_new_incarnation_is_another_node() {
    let (mut a, mut b) = pair().await;
    // b becomes raft id 5: what was opened for 2 ends, and 2 is not let in again.
    b.post.publish(PeerTable { raft_id: 5, ..b.table(&[(1, &a.address)]) });
    a.down(2).await;
    a.lines.wait("peer will not talk").await;
    a.publish(&[(5, &b.address)]);
    a.up(5).await;
    a.post.send(vec![append(1, 5, 6, 1)]);
    assert_eq!(b.message().await.to, 5);
}

#[tokio::test]
async fn peers_hear_each_other_on_either_connection_again_and_again() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    // Only one of them dials.
    b.publish(&[]);
    a.publish(&[(2, &b.address)]);
    for _ in 0..2 {
        for (node, peer) in [(&mut a, 2), (&mut b, 1)] {
            let heard = |input| if let Input::Heard { from, follows } = input { Some((from, follows)) } else { None };
            assert_eq!(node.wait(heard).await, (peer, 0), "there, and without a leader");
        }
    }
}

#[tokio::test]
async fn a_member_that_restarts_is_found_again() {
    let (mut a, mut b) = pair().await;
    let address = b.address.clone();
    b.transport.take().unwrap().stop().await;
    a.down(2).await;
    let mut b = Node::start_on(b.disk, 2, &address);
    b.publish(&[(1, &a.address)]);
    a.up(2).await;
    a.post.send(vec![append(1, 2, 6, 1)]);
    assert_eq!(b.message().await.index, 5);
    assert_eq!((a.lines.count("peer lost"), a.lines.count("peer found")), (1, 2));
}

#[tokio::test]
async fn a_member_that_moved_is_found_where_it_says_it_is_if_moves_are_followed() {
    let (mut a, mut b) = pair().await;
    a.follow_moves = true;
    a.publish(&[(2, &b.address)]);
    let old = b.address.clone();
    b.transport.take().unwrap().stop().await;
    drop(b.post);
    a.down(2).await;
    let mut b = Node::start_on(b.disk, 2, "127.0.0.1:0");
    assert_ne!(b.address, old);
    b.post.publish(PeerTable { moved: true, ..b.table(&[(1, &a.address)]) });
    a.up(2).await;
    a.post.send(vec![append(1, 2, 6, 1)]);
    assert_eq!(b.message().await.index, 5);
    // The table follows; nothing breaks.
    a.publish(&[(2, &b.address)]);
    a.post.send(vec![append(1, 2, 7, 1)]);
    assert_eq!(b.message().await.index, 6);
}

#[tokio::test]
async fn a_table_that_names_another_address_is_followed() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.publish(&[]);
    a.publish(&[(2, &nowhere())]);
    a.post.send(vec![append(1, 2, 6, 1)]);
    a.down(2).await;
    a.publish(&[(2, &b.address)]);
    a.up(2).await;
}

#[tokio::test]
async fn an_address_reported_before_the_table_lists_the_member_is_used() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    a.publish(&[]);
    b.publish(&[(1, &a.address)]);
    b.up(1).await;
    b.post.send(vec![append(2, 1, 6, 1)]);
    assert_eq!(a.message().await.index, 5);
    // The table has an address that the member has left; it starts no new dial meanwhile.
    a.publish(&[(2, &nowhere())]);
    a.up(2).await;
}

#[tokio::test]
async fn a_node_with_an_empty_table_answers_admitted_peers() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    b.publish(&[]);
    a.publish(&[(2, &b.address)]);
    a.post.send(vec![append(1, 2, 6, 1)]);
    assert_eq!(b.message().await.index, 5);
    b.post.send(vec![append(2, 1, 7, 1)]);
    assert_eq!(a.message().await.index, 6);
    // The table arrives and has it: the connection stays.
    b.publish(&[(1, &a.address)]);
    b.post.send(vec![append(2, 1, 8, 1)]);
    assert_eq!(a.message().await.index, 7);
    assert_eq!(b.lines.count("peer lost") + b.lines.count("peer released"), 0);
    // It is removed: no node answers there any more.
    b.post.publish(PeerTable { tombstones: vec![1], ..b.table(&[]) });
    assert_eq!(a.removed().await, (CLUSTER, 1));
    b.lines.wait("peer released").await;
}

/// A node that is connected to a peer whose end of the connection is read by the test.
async fn deaf_peer() -> (Node, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut a = Node::start(1);
    a.publish(&[(2, &listener.local_addr().unwrap().to_string())]);
    let (mut deaf, _) = listener.accept().await.unwrap();
    read_preamble(&mut deaf).await.unwrap();
    read_frame(&mut deaf, ANY).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut deaf, &preamble(WIRE_VERSION)).await.unwrap();
    let welcome = Frame::Verdict(Ok(Welcome {
        cluster_id: CLUSTER,
        raft_id: 2,
        boot_history: crate::model::BootHistory::default(),
    }));
    write_frame_within(&mut deaf, &welcome, TEST_TIMEOUT).await.unwrap();
    a.up(2).await;
    (a, deaf)
}

#[tokio::test]
async fn what_must_be_timely_overtakes_the_entries_that_a_slow_member_has_not_taken() {
    let (mut a, mut deaf) = deaf_peer().await;
    let appends = (super::QUEUE_BYTES >> 20) as u64 - 4;
    a.post.send((1..=appends).map(|index| append(1, 2, index, 1 << 20)).collect());
    let heartbeat = Message { msg_type: MessageType::MsgHeartbeat, from: 1, to: 2, term: 1, ..Message::default() };
    a.post.send(vec![heartbeat.clone()]);
    let digest = crate::model::StateDigest { term: 1, index: 5, digest: 6 };
    a.post.tell_digest(2, digest);
    let (mut taken, mut overtook) = (0, Vec::new());
    while taken < appends {
        match read_frame(&mut deaf, ANY).await.unwrap() {
            Frame::Step(message) if *message == heartbeat => overtook.push("heartbeat"),
            Frame::Digest(told) if told == digest => overtook.push("digest"),
            Frame::Step(message) => {
                taken += 1;
                assert_eq!(message.entries[0].index, taken, "appends keep their order");
            }
            Frame::Ping | Frame::Follows(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(overtook, ["heartbeat", "digest"], "they came before the last append, in their order");
}

#[tokio::test]
async fn a_member_that_takes_nothing_fills_its_queue_and_no_more() {
    let (mut a, mut deaf) = deaf_peer().await;
    let first = append(1, 2, 1, 1 << 20);
    // Each clone shares the entry's bytes.
    let message = |index: usize| Message { index: index as u64, ..first.clone() };
    let room = super::QUEUE_BYTES >> 20;
    for index in 0..4 * room {
        a.post.send(vec![message(index)]);
    }
    a.down(2).await;
    assert!(!a.was_reported(), "told once");
    // It wakes up: what was queued arrives, then there is room again.
    for index in 0..room / 2 {
        loop {
            match read_frame(&mut deaf, ANY).await.unwrap() {
                Frame::Ping | Frame::Follows(_) => {}
                frame => break assert_eq!(frame, Frame::Step(Box::new(message(index)))),
            }
        }
    }
}

#[tokio::test]
async fn stop_is_quick_and_sends_what_is_queued() {
    let (mut a, mut b) = pair().await;
    // A connection before its handshake does not delay the stop.
    let _silent = std::net::TcpStream::connect(&a.address).unwrap();
    a.post.send((1..=100).map(|index| append(1, 2, index, 1_000)).collect());
    let began = std::time::Instant::now();
    a.transport.take().unwrap().stop().await;
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
    for index in 1..=100 {
        assert_eq!(b.message().await.index, index - 1);
    }
    assert!(std::net::TcpStream::connect(&a.address).is_err(), "the port is closed");
    a.post.forward(1, 2, crate::consensus::Hop::Leader, crate::model::Request::Transfer { node_id: None }, 1_000);
    let result = a.wait(|input| if let Input::Forwarded { result, .. } = input { Some(result) } else { None }).await;
    assert_eq!(result.unwrap_err().outcome, crate::model::Outcome::NotApplied);
}

#[tokio::test]
async fn a_dropped_transport_closes_its_connections() {
    let (mut a, mut b) = pair().await;
    let mut raw = tokio::net::TcpStream::connect(&a.address).await.unwrap();
    drop(a.transport.take());
    b.down(1).await;
    let end = timeout(TEST_TIMEOUT, raw.read_to_end(&mut Vec::new())).await.unwrap();
    assert!(end.is_err() || end.is_ok_and(|count| count == 0));
}
