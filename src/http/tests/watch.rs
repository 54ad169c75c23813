//! Tests of watches: the text of a stream, refusals, and ends.
//!
//! Why: clients resume by the ids in these lines, and proxies must not buffer them.
//!
//! See also: the events of a real node (`tests/cluster`).

use std::time::Instant;

use super::*;
use crate::changefeed::{ChangeFeed, FeedLimits, FeedStatus};
use crate::model::{ApplyPoint, Change, Event, Item, Value as Stored};

const HISTORY: FeedLimits = FeedLimits { events: 100, bytes: 1 << 20 };

fn feed_status(contact_until: u64, refusal: Option<Refusal>) -> FeedStatus {
    FeedStatus { term: 3, contact_until, refusal }
}

/// The commit index of the cluster, beyond what the node has applied.
const COMMITTED: u64 = 20;

/// A node that has applied up to 10 and stays in contact with a leader.
fn node() -> (Node, Arc<ChangeFeed>) {
    node_with(options())
}

/// As [`node`], with these options.
pub(super) fn node_with(options: Options) -> (Node, Arc<ChangeFeed>) {
    let (handle, inbox) = channel(16);
    let feed = Arc::clone(&inbox.feed);
    let mut inbox = inbox;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(input) = inbox.peers.recv() => if let Input::Status { reply } = input {
                    reply(status());
                },
                Some(input) = inbox.clients.recv() => if let Input::Read { reply, .. } = input {
                    reply(Ok(nothing(COMMITTED, 3)));
                },
                else => break,
            }
        }
    });
    feed.begin(10, HISTORY);
    feed.set_status(feed_status(u64::MAX, None));
    (Node::in_front_of(handle, options), feed)
}

fn put(key: &'static str, index: u64, content_type: &str, bytes: &'static str) -> Change {
    let value = Stored { content_type: content_type.into(), bytes: bytes.into() };
    Change::Put { key: key.into(), item: Item { value, version: index, create_version: 2, expires: None, by: None } }
}

fn append(feed: &ChangeFeed, index: u64, changes: &[Change]) {
    let mut events: Vec<_> =
        changes.iter().filter_map(|change| Event::of(change, ApplyPoint { index, clock: 0 })).collect();
    Event::number(&mut events);
    feed.append(events, index);
}

/// An event stream as it is received.
struct Stream {
    stream: TcpStream,
    text: String,
}

impl Stream {
    async fn open(node: &Node, target: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(node.address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Self { stream, text: String::new() };
        stream.until("\r\n\r\n").await;
        // The first chunk of the body.
        stream.until("retry:1000\n\n\r\n").await;
        stream
    }

    /// Reads until `end`; returns the text up to it since the last call.
    async fn until(&mut self, end: &str) -> String {
        let text = async {
            loop {
                if let Some(at) = self.text.find(end) {
                    let rest = self.text.split_off(at + end.len());
                    return std::mem::replace(&mut self.text, rest);
                }
                let mut buffer = [0; 4096];
                let count = self.stream.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "the stream has ended after {:?}", self.text);
                self.text += std::str::from_utf8(&buffer[..count]).unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(20), text).await.expect("the text arrives in time")
    }

    /// Reads to the last chunk of the stream.
    async fn rest(mut self) -> String {
        let text = async {
            let mut bytes = Vec::new();
            while !self.text.contains("\r\n0\r\n\r\n") {
                let mut buffer = [0; 4096];
                let count = self.stream.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "the stream breaks off");
                bytes.extend_from_slice(&buffer[..count]);
                self.text += std::str::from_utf8(&bytes).unwrap();
                bytes.clear();
            }
            self.text
        };
        tokio::time::timeout(Duration::from_secs(20), text).await.expect("the stream ends in time")
    }
}

#[tokio::test]
async fn events_are_sent_as_they_happen_each_on_three_lines() {
    let (node, feed) = node();
    let mut stream = Stream::open(&node, "/watch?prefix=a", "").await;
    assert!(stream.until("event:progress\ndata:{\"index\":10}\nid:10\n\n").await.contains("data"));
    append(&feed, 11, &[put("a/1", 11, "application/json", "{\"n\":\r\n 1.10}")]);
    let item =
        r#"{"key":"a/1","value":{"n":   1.10},"version":11,"create_version":2,"content_type":"application/json"}"#;
    stream.until(&format!("event:put\ndata:{item}\nid:11\n\n")).await;
    // The key `b` does not match the prefix, but counts in the numbering: the watcher sees 12.2 and 12.3.
    let gone = |key: &'static str, expired| Change::Delete { key: key.into(), expired, by: None };
    append(&feed, 12, &[gone("b", false), gone("a/1", false), gone("a/2", true)]);
    let text = stream.until("id:12.3\n\n").await;
    let data = |key: &str| format!(r#"data:{{"key":"{key}","value":null,"version":12}}"#);
    assert!(text.contains(&format!("event:delete\n{}\nid:12.2\n\n", data("a/1"))), "{text}");
    assert!(text.contains(&format!("event:expire\n{}\nid:12.3\n\n", data("a/2"))) && !text.contains("12.1"), "{text}");
}

#[tokio::test]
async fn the_head_has_the_applied_index_and_headers_against_caches_and_proxies() {
    let (node, feed) = node();
    append(&feed, 11, &[put("k", 11, "text/plain", "x")]);
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(b"GET /watch?key=k HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut stream = Stream { stream, text: String::new() };
    let head = TestResponse::parse(stream.until("\r\n\r\n").await.as_bytes());
    let expected = [
        ("content-type", "text/event-stream; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-accel-buffering", "no"),
        ("x-raft-index", "11"),
        ("x-raft-term", "3"),
    ];
    assert_eq!(head.status, 200);
    for (name, value) in expected {
        assert_eq!(head.header(name), Some(value), "{name}");
    }
    append(&feed, 12, &[put("kk", 12, "text/plain", "x"), put("k", 12, "text/plain", "y")]);
    let text = stream.until("id:12.2\n\n").await;
    assert!(!text.contains("\"x\"") && text.contains("\"y\""), "from now on, and this key alone: {text}");
}

#[tokio::test]
async fn a_resume_goes_on_after_exactly_that_change() {
    let (node, feed) = node();
    let changes = |index| [put("a", index, "text/plain", "1"), put("b", index, "text/plain", "2")];
    append(&feed, 11, &changes(11));
    append(&feed, 12, &changes(12));
    // `11.2` is the second event of index 11, so its successor is 12.1. `11` alone, as a progress event has it, means that
    // all of index 11 was seen. An empty id is what a browser sends that has had no event.
    for (query, id, first) in [
        ("&from=12", "", "12.1"),
        ("&from=11", "Last-Event-ID: 11.2\r\n", "12.1"),
        ("", "Last-Event-ID: 11.1\r\n", "11.2"),
        ("", "Last-Event-ID: 11\r\n", "12.1"),
        ("&from=11", "Last-Event-ID: \r\n", "11.1"),
    ] {
        let mut stream = Stream::open(&node, &format!("/watch?prefix={query}"), id).await;
        let text = stream.until("\n\n").await;
        assert!(text.ends_with(&format!("id:{first}\n\n")), "{query} {id}: {text}");
        drop(stream);
    }
    let mut ahead = Stream::open(&node, "/watch?prefix=", "Last-Event-ID: 13.1\r\n").await;
    append(&feed, 13, &changes(13));
    assert!(ahead.until("\n\n").await.ends_with("id:13.2\n\n"), "an event that the client has had is not sent again");
    node.ask("GET", "/watch?prefix=&from=10", "").await.is_problem(410, "compacted");
    let gone = node.ask_with("GET", "/watch?prefix=", "Last-Event-ID: 9.5\r\n", "").await.is_problem(410, "compacted");
    assert_eq!(gone["oldest_index"], 11);
}

#[tokio::test]
async fn bad_parameters_and_event_ids_are_refused_by_name() {
    let (node, _feed) = node();
    let long = format!("prefix={}", "x".repeat(17));
    for (query, names) in [
        ("", "`prefix` and `key`"),
        ("prefix=a&key=b", "`prefix` and `key`"),
        ("from=3", "`prefix` and `key`"),
        ("prefix=&from=x", "`from`"),
        ("prefix=&from=", "`from`"),
        ("prefix=&from=-1", "`from`"),
        ("prefix=&from=18446744073709551616", "`from`"),
        ("prefix=&form=3", "`form`"),
        ("prefix=&prefix=", "`prefix`"),
        ("prefix=%ff", "`prefix`"),
        (long.as_str(), "`prefix`"),
    ] {
        let problem = node.ask("GET", &format!("/watch?{query}"), "").await.is_problem(400, "bad_query");
        assert!(problem["detail"].as_str().unwrap().contains(names), "{query}: {problem}");
    }
    node.ask("GET", "/watch?key=", "").await.is_problem(400, "bad_key");
    node.ask("GET", &format!("/watch?key={}", "x".repeat(17)), "").await.is_problem(400, "bad_key");
    for id in ["x", "1.0", "1.2.3", "-1", "1, 2"] {
        let answer = node.ask_with("GET", "/watch?prefix=", &format!("Last-Event-ID: {id}\r\n"), "").await;
        let problem = answer.is_problem(400, "bad_header");
        assert!(problem["detail"].as_str().unwrap().contains("Last-Event-ID"), "{problem}");
    }
    let twice = "Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n";
    node.ask_with("GET", "/watch?prefix=", twice, "").await.is_problem(400, "bad_header");
    for method in ["POST", "DELETE"] {
        assert_eq!(node.ask(method, "/watch?prefix=", "").await.status, 405, "{method}");
    }
    let head = node.ask("HEAD", "/watch?prefix=", "").await;
    assert_eq!((head.status, head.body.as_str(), head.header("x-raft-index")), (200, "", Some("10")));
}

#[tokio::test]
async fn a_stream_ends_after_a_lag_and_when_the_node_is_removed() {
    let (node, feed) = node();
    let mut slow = Stream::open(&node, "/watch?prefix=", "").await;
    slow.until("id:10\n\n").await;
    feed.skip_to(20);
    assert!(slow.rest().await.contains("event:lagged\ndata:{\"oldest_index\":21}\n\n"));
    let mut stream = Stream::open(&node, "/watch?prefix=", "").await;
    stream.until("id:20\n\n").await;
    feed.set_status(feed_status(u64::MAX, Some(Refusal::not_applied(Code::Removed, "removed"))));
    assert!(!stream.rest().await.contains("event"), "it ends without another event");
    node.ask("GET", "/watch?prefix=", "").await.is_problem(410, "removed");
}

#[tokio::test]
async fn a_shutdown_ends_a_stream_with_a_progress_event() {
    let (node, feed) = node();
    let mut stream = Stream::open(&node, "/watch?key=k", "").await;
    stream.until("id:10\n\n").await;
    feed.set_status(feed_status(0, Some(Refusal::not_applied(Code::Stopping, "stopping"))));
    let stop = tokio::spawn(node.server.stop(Duration::from_secs(60)));
    // Entries that were committed are still applied, and their events sent.
    append(&feed, 11, &[put("other", 11, "text/plain", "x")]);
    append(&feed, 12, &[put("k", 12, "text/plain", "y")]);
    append(&feed, 13, &[put("other", 13, "text/plain", "z")]);
    feed.close();
    let rest = stream.rest().await;
    assert!(rest.contains("id:12\n\n") && rest.contains("event:progress\ndata:{\"index\":13}\nid:13\n\n"), "{rest}");
    tokio::time::timeout(Duration::from_secs(20), stop).await.expect("no client delays the shutdown").unwrap();
}

#[tokio::test]
async fn a_cursor_beyond_the_commit_index_is_refused_at_once() {
    let (node, _feed) = node();
    for (query, id) in
        [("&from=22", ""), ("", "Last-Event-ID: 21\r\n"), ("", "Last-Event-ID: 21.1\r\n"), ("&from=5000", "")]
    {
        let answer = node.ask_with("GET", &format!("/watch?prefix={query}"), id, "").await;
        let problem = answer.is_problem(410, "compacted");
        assert_eq!((&problem["newest_index"], problem.get("oldest_index")), (&COMMITTED.into(), None), "{query}{id}");
    }
    for (query, id) in [("&from=21", ""), ("", "Last-Event-ID: 20\r\n"), ("", "Last-Event-ID: 20.1\r\n")] {
        drop(Stream::open(&node, &format!("/watch?prefix={query}"), id).await);
    }
}

#[tokio::test]
async fn an_event_source_gets_failures_of_the_node_as_an_event() {
    let (node, feed) = node();
    let ask = async |target: &str| {
        node.ask_with("GET", target, "Accept: text/event-stream\r\nCache-Control: no-cache\r\n", "").await
    };
    for (target, refusal, status, code) in [
        ("/watch?prefix=&from=3", None, 410, "compacted"),
        ("/watch?prefix=&from=3000", None, 410, "compacted"),
        ("/watch?prefix=", Some(Code::Removed), 410, "removed"),
        ("/watch?prefix=", Some(Code::Stopping), 503, "stopping"),
        ("/watch?prefix=", Some(Code::Joining), 503, "joining"),
    ] {
        feed.set_status(feed_status(u64::MAX, refusal.map(|code| Refusal::not_applied(code, "why"))));
        let text = ask(target).await;
        assert_eq!((text.status, text.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
        let data = text.body.split("event:refused\ndata:").nth(1).unwrap_or_else(|| panic!("{text:?}"));
        let problem: Value = serde_json::from_str(data.split('\n').next().unwrap()).unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()));
        assert!(text.body.contains("retry:1000\n\n"), "{text:?}");
    }
    feed.set_status(feed_status(u64::MAX, None));
    // A bad request stays one, so the browser must not try again.
    ask("/watch?prefix=&form=3").await.is_problem(400, "bad_query");
}

#[tokio::test]
async fn watchers_are_bounded_and_a_slot_is_free_again_when_one_ends() {
    let (node, _feed) = node();
    let one = Stream::open(&node, "/watch?prefix=", "").await;
    let _two = Stream::open(&node, "/watch?prefix=", "").await;
    node.ask("GET", "/watch?prefix=", "").await.is_problem(503, "overloaded");
    drop(one);
    let free = async {
        let mut stream = loop {
            let mut stream = TcpStream::connect(node.address).await.unwrap();
            stream.write_all(b"GET /watch?prefix= HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).await.unwrap();
            if first == *b"HTTP/1.1 200" {
                break Stream { stream, text: String::new() };
            }
        };
        stream.until("id:10\n\n").await
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.expect("the slot is free");
}

#[tokio::test]
async fn a_half_closed_connection_goes_on_watching() {
    let (node, feed) = node();
    let mut stream = Stream::open(&node, "/watch?prefix=a", "").await;
    stream.until("id:10\n\n").await;
    stream.stream.shutdown().await.unwrap();
    // The FIN makes the node send a comment line; a client that is gone would answer it with a reset.
    stream.until(":\n\n").await;
    for index in 11..14 {
        append(&feed, index, &[put("a/1", index, "text/plain", "x")]);
        stream.until(&format!("id:{index}")).await;
    }
    // It still has one of the two slots.
    let _other = Stream::open(&node, "/watch?prefix=a", "").await;
    node.ask("GET", "/watch?prefix=a", "").await.is_problem(503, "overloaded");
    drop(node);
}

#[tokio::test]
async fn a_shutdown_cuts_streams_whose_clients_do_not_read() {
    let (node, feed) = node();
    let stuck = Stream::open(&node, "/watch?prefix=", "").await;
    let value = Stored { content_type: "text/plain".into(), bytes: vec![b'x'; 16 << 20].into() };
    let change =
        Change::Put { key: "k".into(), item: Item { value, version: 11, create_version: 11, expires: None, by: None } };
    append(&feed, 11, &[change]);
    let mut other = Stream::open(&node, "/watch?prefix=", "").await;
    other.until("id:11\n\n").await;
    feed.set_status(feed_status(0, Some(Refusal::not_applied(Code::Stopping, "stopping"))));
    feed.close();
    let drain = Duration::from_secs(60);
    tokio::time::timeout(Duration::from_secs(20), node.server.stop(drain))
        .await
        .expect("no client delays the shutdown");
    drop(stuck);
}

#[tokio::test]
async fn progress_is_sent_only_in_contact_with_a_leader_and_then_every_few_seconds() {
    let (node, feed) = node();
    feed.set_status(feed_status(0, None));
    let mut stream = Stream::open(&node, "/watch?prefix=", "").await;
    append(&feed, 11, &[put("k", 11, "text/plain", "x")]);
    assert!(!stream.until("id:11\n\n").await.contains("progress"), "the node has no contact with a leader");
    feed.set_status(feed_status(u64::MAX, None));
    for _ in 0..3 {
        let began = Instant::now();
        assert!(stream.until("id:11\n\n").await.contains("event:progress\ndata:{\"index\":11}\n"));
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_watcher_survives_whatever_was_stored() {
    let (node, feed) = node();
    let mut stream = Stream::open(&node, "/watch?prefix=&from=11", "").await;
    let value = Stored { content_type: "application/json".into(), bytes: (&b"\"\xff\"\n\nevent: put\n"[..]).into() };
    let item = Item { value, version: 11, create_version: 2, expires: None, by: None };
    append(&feed, 11, &[Change::Put { key: (&b"k\xff"[..]).into(), item }]);
    append(&feed, 12, &[put("after", 12, "text/plain", "still there")]);
    let text = stream.until("still there").await;
    assert!(text.contains("value_base64") && text.contains("k\u{fffd}"), "{text}");
    assert_eq!(text.matches("event: put").count() + text.matches("event:put").count(), 2, "{text}");
}
