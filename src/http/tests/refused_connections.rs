//! Tests with more connections than slots, and with connections that arrive during a shutdown.
//!
//! Why: after a reset a client cannot know whether its request was carried out.
//!
//! See also: which connection is evicted ([`crate::http::server::connection_slots`]).

use std::io::{Read, Write};

use futures_util::future::join_all;

use super::*;

const GET: &[u8] = b"GET /store/key HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A node with eight slots, seven general ones and one for probes, whose loop never answers a read.
fn stalled_node() -> Node {
    Node::start(Options { connections: 8, ..options() }, {
        // Dropping an input would answer it.
        let mut held = Vec::new();
        move |input| held.push(input)
    })
}

/// Reads to the end of file; a reset after the response is no failure.
async fn read_response(stream: &mut TcpStream) -> TestResponse {
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    TestResponse::parse(&answer)
}

async fn connect(node: &Node, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

#[tokio::test]
async fn every_connection_of_a_burst_over_the_bound_gets_a_503() {
    let node = stalled_node();
    let _busy = join_all((0..7).map(|_| connect(&node, GET))).await;
    // All at once: the response must not wait for a slot, a task or another client.
    let all = join_all((0..400).map(|_| async { read_response(&mut connect(&node, GET).await).await })).await;
    for response in all {
        response.is_problem(503, "overloaded");
        assert_eq!(response.header("connection"), Some("close"));
    }
}

#[tokio::test]
async fn a_stalled_upload_holds_the_slot_for_probes_only_until_its_response() {
    let node = stalled_node();
    let _busy = join_all((0..7).map(|_| connect(&node, GET))).await;
    // Half of the body never comes. A wait for it takes 200 ms each time; the fastest of ten responses shows that there is none.
    for request in ["PUT /store/key", "GET /livez"] {
        let mut fastest = Duration::MAX;
        for _ in 0..10 {
            let began = std::time::Instant::now();
            let stalled =
                format!("{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(50));
            let response = read_response(&mut connect(&node, stalled.as_bytes()).await).await;
            assert_eq!(response.header("connection"), Some("close"));
            fastest = fastest.min(began.elapsed());
        }
        assert!(fastest < Duration::from_millis(150), "{request}: {fastest:?}");
        assert_eq!(node.ask("GET", "/livez", "").await.status, 200);
    }
}

#[tokio::test]
async fn evicted_connections_get_a_503_and_probes_are_answered() {
    let node = Node::start(Options { connections: 8, ..options() }, map_loop());
    let mut all = Vec::new();
    for _ in 0..60 {
        all.push(connect(&node, b"GET /store/key HTTP/1.1\r\nHost: lo").await);
    }
    assert_eq!(node.ask("GET", "/livez", "").await.status, 200);
    assert_eq!(node.ask("GET", "/health", "").await.status, 200);
    // The first seven have the general slots. The others have had the slot for probes, one after the other.
    for stream in &mut all[7..] {
        read_response(stream).await.is_problem(503, "overloaded");
    }
    for stream in &mut all[..7] {
        stream.write_all(b"calhost\r\nConnection: close\r\n\r\n").await.unwrap();
        read_response(stream).await.is_problem(404, "key_not_found");
    }
}

#[tokio::test]
async fn connections_in_the_backlog_are_answered_at_a_shutdown() {
    let node = Node::working();
    // The runtime has one thread, which this blocking code holds, so the server accepts none of them yet.
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = std::net::TcpStream::connect(node.address).unwrap();
            stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
            stream
        })
        .collect();
    let began = std::time::Instant::now();
    node.server.stop(Duration::from_secs(60)).await;
    assert!(began.elapsed() < Duration::from_secs(30), "they do not delay the shutdown");
    let mut late = 0;
    for mut stream in waiting {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let response = TestResponse::parse(&answer);
        if response.status != 200 {
            response.is_problem(503, "stopping");
            late += 1;
        }
    }
    assert!(late > 0, "some were still in the backlog");
}
