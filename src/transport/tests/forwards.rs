//! Forwarded request tests: each is answered exactly once and truthfully.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::*;
use crate::consensus::{Hop, Reply};
use crate::model::{Answer, Code, Command, CommandResult, Outcome, Refusal, Request, Written};

type Result = std::result::Result<Answer, Refusal>;

fn put() -> Request {
    Request::Write(Command::put("k", "1").into())
}

fn written() -> Answer {
    Answer::Written(Written {
        index: 9,
        term: 2,
        clock: 0,
        outcome: CommandResult::Put { create_version: 9 },
        replayed: false,
    })
}

async fn ended(node: &mut Node) -> (u64, Result) {
    node.wait(|input| match input {
        Input::Forwarded { token, result } => Some((token, result)),
        _ => None,
    })
    .await
}

async fn asked(node: &mut Node) -> (Request, u64, Reply<Result>) {
    node.wait(|input| match input {
        Input::Request { request, deadline, hop, to: _, reply } => {
            assert_eq!(hop, Hop::Leader);
            Some((request, deadline, reply))
        }
        _ => None,
    })
    .await
}

fn outcome(result: Result) -> (Code, Outcome) {
    let refusal = result.unwrap_err();
    assert!(!refusal.detail.is_empty());
    (refusal.code, refusal.outcome)
}

#[tokio::test]
async fn answers_come_back_to_their_tokens() {
    let (mut a, mut b) = pair().await;
    a.post.forward(11, 2, Hop::Leader, put(), 60_000);
    a.post.forward(12, 2, Hop::Leader, Request::Remove { node_id: "x".into() }, 60_000);
    let (request, deadline, first) = asked(&mut b).await;
    assert_eq!(request, put());
    let now = b.inbox.clock.now();
    assert!(deadline > now + 30_000 && deadline <= now + 60_000);
    let (request, _, second) = asked(&mut b).await;
    assert_eq!(request, Request::Remove { node_id: "x".into() });
    second(Err(Refusal::not_applied(Code::LastVoter, "no")));
    first(Ok(written()));
    assert_eq!(ended(&mut a).await, (12, Err(Refusal::not_applied(Code::LastVoter, "no"))));
    assert_eq!(ended(&mut a).await, (11, Ok(written())));
}

/// A way to `address` that holds back what goes there while it is told to, as the socket of a stopped process does.
async fn sluice(address: String) -> (String, watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = listener.local_addr().unwrap().to_string();
    let (hold, held) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (mut held, far) = (held.clone(), tokio::net::TcpStream::connect(&address).await.unwrap());
            let ((mut there, mut back), (mut answers, mut asks)) = (stream.into_split(), far.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut answers, &mut back).await });
            tokio::spawn(async move {
                let mut bytes = vec![0; 4096];
                while let Ok(count @ 1..) = there.read(&mut bytes).await {
                    drop(held.wait_for(|held| !held).await);
                    asks.write_all(&bytes[..count]).await.unwrap();
                }
            });
        }
    });
    (near, hold)
}

#[tokio::test]
async fn a_deadline_holds_even_if_the_request_is_read_late() {
    let (mut a, mut b) = (Node::start(1), Node::start(2));
    let (near, hold) = sluice(b.address.clone()).await;
    a.publish(&[(2, &near)]);
    b.publish(&[(1, &a.address.clone())]);
    tokio::join!(a.up(2), b.up(1));
    a.post.forward(11, 2, Hop::Leader, put(), 60_000);
    asked(&mut b).await.2(Ok(written()));
    assert_eq!(ended(&mut a).await, (11, Ok(written())));
    hold.send_replace(true);
    a.post.forward(12, 2, Hop::Leader, put(), 60_000);
    let handed_on = b.inbox.clock.now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    hold.send_replace(false);
    let (_, deadline, reply) = asked(&mut b).await;
    assert!(b.inbox.clock.now() >= handed_on + 1_500);
    assert!((handed_on + 50_000..=handed_on + 60_000).contains(&deadline), "{handed_on} {deadline}");
    reply(Ok(written()));
}

#[tokio::test]
async fn a_request_to_be_relayed_arrives_as_one_and_no_request_as_a_clients() {
    let (mut a, mut b) = pair().await;
    for (token, sent) in [(11, Hop::Relay), (12, Hop::Leader), (13, Hop::Client)] {
        a.post.forward(token, 2, sent, put(), 60_000);
        let (hop, reply) =
            b.wait(|input| if let Input::Request { hop, reply, .. } = input { Some((hop, reply)) } else { None }).await;
        assert_eq!(hop, if sent == Hop::Relay { Hop::Relay } else { Hop::Leader }, "{sent:?}");
        reply(Ok(written()));
        assert_eq!(ended(&mut a).await.0, token);
    }
}

#[tokio::test]
async fn a_request_on_a_broken_connection_is_unknown() {
    let (mut a, mut b) = pair().await;
    a.post.forward(11, 2, Hop::Leader, put(), 60_000);
    let (_, _, reply) = asked(&mut b).await;
    drop(b.transport.take());
    let (token, result) = ended(&mut a).await;
    assert_eq!((token, outcome(result)), (11, (Code::Timeout, Outcome::Unknown)));
    reply(Ok(written()));
    a.down(2).await;
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_is_unknown() {
    let (mut a, mut b) = pair().await;
    a.post.forward(11, 2, Hop::Leader, put(), 150);
    let (_, _, reply) = asked(&mut b).await;
    let (token, result) = ended(&mut a).await;
    assert_eq!((token, outcome(result)), (11, (Code::Timeout, Outcome::Unknown)));
    // Late, and no client waits; the next one is not confused with it.
    reply(Ok(written()));
    a.post.forward(12, 2, Hop::Leader, put(), 60_000);
    asked(&mut b).await.2(Ok(written()));
    assert_eq!(ended(&mut a).await, (12, Ok(written())));
}

#[tokio::test]
async fn a_leader_that_drops_a_request_leaves_it_unknown() {
    let (mut a, mut b) = pair().await;
    a.post.forward(11, 2, Hop::Leader, put(), 60_000);
    drop(asked(&mut b).await);
    assert_eq!(outcome(ended(&mut a).await.1), (Code::Stopping, Outcome::Unknown));
}

#[tokio::test]
async fn a_request_that_never_left_is_not_applied() {
    let mut a = Node::start(1);
    a.publish(&[(2, &nowhere())]);
    a.post.forward(11, 2, Hop::Leader, put(), 60_000);
    let (token, result) = ended(&mut a).await;
    assert!(result.clone().unwrap_err().detail.contains("node2"));
    assert_eq!((token, outcome(result)), (11, (Code::NoLeader, Outcome::NotApplied)));
    a.post.forward(12, 3, Hop::Leader, put(), 60_000);
    let (token, result) = ended(&mut a).await;
    assert_eq!((token, outcome(result)), (12, (Code::NoLeader, Outcome::NotApplied)));
}

#[tokio::test]
async fn every_request_of_a_member_that_leaves_the_table_is_answered_once() {
    let (mut a, mut b) = pair().await;
    for token in 0..50 {
        a.post.forward(token, 2, Hop::Leader, put(), 60_000);
    }
    let (_, _, reply) = asked(&mut b).await;
    reply(Ok(written()));
    a.post.publish(PeerTable { raft_id: 6, ..a.table(&[]) });
    let mut tokens = Vec::new();
    while tokens.len() < 50 {
        let (token, result) = ended(&mut a).await;
        assert!(token == 0 || result.unwrap_err().code != Code::Overloaded);
        tokens.push(token);
    }
    tokens.sort_unstable();
    assert_eq!(tokens, (0..50).collect::<Vec<_>>());
}
