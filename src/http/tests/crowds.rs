//! More clients than there are places, and clients that come at a stop.
//!
//! Why: a connection that is reset says nothing, and a client cannot know whether its request was done.
//!
//! Not here: which connection gives way ([`crate::http::server::connection_slots`]).

use std::io::{Read, Write};

use futures_util::future::join_all;

use super::*;

const GET: &[u8] = b"GET /store/key HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A node with eight places, seven of which are for anything, and none of whose reads is ever answered.
fn small() -> Node {
    Node::start(Options { connections: 8, ..options() }, {
        let mut kept = Vec::new();
        move |input| kept.push(input)
    })
}

/// Reads all that comes, up to the end or a break behind it.
async fn told(stream: &mut TcpStream) -> Seen {
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    Seen::parse(&answer)
}

async fn connect(node: &Node, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn a_burst_is_told_to_the_last_one_that_there_is_no_place() {
    let node = small();
    let _busy = join_all((0..7).map(|_| connect(&node, GET))).await;
    let all = join_all((0..400).map(|_| async { told(&mut connect(&node, GET).await).await })).await;
    for seen in all {
        seen.is_problem(503, "overloaded");
        assert_eq!(seen.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn whoever_gives_way_before_it_has_asked_is_told_so_and_a_probe_is_answered() {
    let node = Node::start(Options { connections: 8, ..options() }, store());
    let mut all = Vec::new();
    for _ in 0..60 {
        all.push(connect(&node, b"GET /store/key HTTP/1.1\r\nHost: lo").await);
    }
    assert_eq!(node.ask("GET", "/livez", "").await.status, 200);
    assert_eq!(node.ask("GET", "/health", "").await.status, 200);
    // Seven have places, and one had the eighth.
    for stream in &mut all[7..] {
        told(stream).await.is_problem(503, "overloaded");
    }
    for stream in &mut all[..7] {
        stream.write_all(b"calhost\r\nConnection: close\r\n\r\n").await.unwrap();
        told(stream).await.is_problem(404, "key_not_found");
    }
}

#[tokio::test]
async fn whoever_waits_to_be_accepted_when_the_node_stops_is_answered() {
    let node = Node::working();
    // These connect without the server, which has this thread, taking any of them.
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(node.address).unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let begun = std::time::Instant::now();
    node.server.stop(Duration::from_secs(60)).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "they hold nothing up");
    let mut late = 0;
    for mut stream in waiting {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let seen = Seen::parse(&answer);
        if seen.status != 200 {
            seen.is_problem(503, "stopping");
            late += 1;
        }
    }
    assert!(late > 0, "most came too late");
}
