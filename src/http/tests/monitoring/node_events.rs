//! Tests of `GET /events`.
//!
//! See also: what is noted (`src/telemetry/node_events`), real nodes (`tests/cluster/monitoring/node_events.rs`).

use super::super::*;
use crate::telemetry::node_events::Kind;

/// A node whose loop has not begun, with so many events.
fn starting(events: usize) -> Node {
    let (handle, _inbox) = channel(16);
    (0..events).for_each(|_| handle.events().note(Kind::Draining));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    Node { address, server: start(listener, handle, options(), log).unwrap() }
}

#[tokio::test]
async fn events_need_no_answer_of_the_loop_and_no_cluster() {
    let joining = Node::start_as(Names { in_no_cluster: true, ..Names::default() }, options(), |_| {});
    let answer = joining.ask("GET", "/events", "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let node = starting(7);
    let answer = node.ask("GET", "/events?since=2&limit=3&timeout=1s", "").await;
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&body["first"], &body["last"]), (&1.into(), &7.into()), "{answer:?}");
    let ids: Vec<_> = body["events"].as_array().unwrap().iter().map(|event| event["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, [3, 4, 5]);
    let head = node.ask("HEAD", "/events/", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    node.ask("POST", "/events", "").await.is_problem(405, "method_not_allowed");
    for query in ["since=x", "limit=0", "limit=1001", "from=1", "timeout=x"] {
        node.ask("GET", &format!("/events?{query}"), "").await.is_problem(400, "bad_query");
    }
    let header = "Last-Event-ID: x\r\n";
    node.ask_with("GET", "/events", header, "").await.is_problem(400, "bad_header");
}

#[tokio::test]
async fn a_stream_begins_after_an_id_takes_a_slot_and_follows() {
    let (handle, _inbox) = channel(16);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let log = slog::Logger::root(slog::Discard, slog::o!());
    let node = Node { address, server: start(listener, handle.clone(), options(), log).unwrap() };
    (0..3).for_each(|_| handle.events().note(Kind::Draining));
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let head =
            "GET /events?since=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\nLast-Event-ID: 2\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        streams.push((stream, String::new()));
    }
    let boot = handle.events().boot();
    for (stream, text) in &mut streams {
        read_until(stream, text, &format!("id:{boot}.3\nevent:draining\ndata:")).await;
        assert!(text.contains("retry:1000") && !text.contains(".2\n"), "{text}");
    }
    // Both slots are taken: to an `EventSource` that is an event, to others a problem.
    let full = node.ask_with("GET", "/events", "Accept: application/json, text/event-stream\r\n", "").await;
    full.is_problem(503, "overloaded");
    let full = node.ask_with("GET", "/events", "Accept: text/event-stream\r\n", "").await;
    assert!(full.status == 200 && full.body.contains("event:refused\ndata:{"), "{full:?}");
    handle.events().note(Kind::Draining);
    for (stream, text) in &mut streams {
        read_until(stream, text, "event:overload_began\n").await;
        read_until(stream, text, &format!("id:{boot}.5\nevent:draining\n")).await;
    }
}

/// Reads on until `text` has `end`.
async fn read_until(stream: &mut TcpStream, text: &mut String, end: &str) {
    let mut chunk = [0; 4096];
    while !text.contains(end) {
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk)).await;
        let length = read.unwrap_or_else(|_| panic!("no {end} in {text}")).unwrap();
        assert!(length > 0, "the stream has ended: {text}");
        text.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
}
