//! The client against nodes that answer by a script: where a request goes, how often, and where a watch goes on.
//!
//! Not here: real nodes (`tests/cluster/cli.rs`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const PUT: &str = r#"{"data":{"key":"k","version":7},"message":"success persisting data"}"#;

/// What a node does with a request.
#[derive(Clone)]
enum Reply {
    /// Reads it and closes the connection.
    Break,
    /// Answers: status, headers, body.
    Answer(u16, String, String),
    /// Answers 200 and this, on a connection that stays, and says no more until it is told to.
    Open(String),
}

fn reply(status: u16, body: &str) -> Reply {
    Reply::Answer(status, String::new(), body.to_owned())
}

fn problem(status: u16, code: &str, outcome: &str) -> Reply {
    reply(status, &format!(r#"{{"code":"{code}","detail":"d","outcome":"{outcome}"}}"#))
}

/// A node that answers by a script, whose last line it repeats.
struct Node {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
    open: Arc<tokio::sync::Mutex<Vec<TcpStream>>>,
}

impl Node {
    async fn start(name: &'static str, script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::default();
        let node = Self { address, asked: Arc::clone(&asked), open: Arc::clone(&open) };
        tokio::spawn(async move {
            let mut script = script.into_iter().peekable();
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = request(&mut stream).await;
                if request.starts_with("GET /health") {
                    let body = format!(r#"{{"node_id":"{name}"}}"#);
                    answer(&mut stream, 200, "", &body).await;
                    continue;
                }
                asked.lock().unwrap().push(request);
                let next = script.next().unwrap();
                match &next {
                    Reply::Break => {}
                    Reply::Answer(status, headers, body) => answer(&mut stream, *status, headers, body).await,
                    Reply::Open(body) => {
                        answer(&mut stream, 200, "", body).await;
                        open.lock().await.push(stream);
                    }
                }
                if script.peek().is_none() {
                    script = vec![next].into_iter().peekable();
                }
            }
        });
        node
    }

    /// Says more on the connections that stay.
    async fn say(&self, text: &str) {
        for stream in &mut *self.open.lock().await {
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some(head) = text.find("\r\n\r\n") {
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= head + 4 + length {
                return String::from_utf8_lossy(&bytes).into_owned();
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "a whole request");
    }
}

async fn answer(stream: &mut TcpStream, status: u16, headers: &str, body: &str) {
    let text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
}

fn client(nodes: &[&Node]) -> Client {
    Client::new(nodes.iter().map(|node| node.address.clone()), Duration::from_secs(20))
}

fn keyed() -> Write {
    Write { idempotency_key: Some("once".into()), ..Write::default() }
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_sent_once_unless_it_has_a_key() {
    for first in [Reply::Break, problem(504, "timeout", "unknown"), reply(502, "<h1>no</h1>")] {
        let broken = Node::start("n1", vec![first]).await;
        let sound = Node::start("n2", vec![reply(200, PUT)]).await;
        let failure = client(&[&broken, &sound]).put("k", "v", &Write::default()).await.unwrap_err();
        assert_eq!(failure.outcome, Outcome::Unknown, "{failure}");
        assert_eq!((broken.asked().len(), sound.asked().len()), (1, 0), "{failure}");
        assert_eq!(client(&[&broken, &sound]).put("k", "v", &keyed()).await.unwrap(), 7);
        assert!(sound.asked()[0].contains("idempotency-key: once"), "{:?}", sound.asked());
    }
}

#[tokio::test]
async fn what_was_not_applied_is_asked_of_another() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    for code in ["no_leader", "overloaded", "stopping"] {
        let refuses = Node::start("n1", vec![problem(503, code, "not_applied")]).await;
        let sound = Node::start("n2", vec![reply(200, PUT)]).await;
        let endpoints = [dead.clone(), refuses.address.clone(), sound.address.clone()];
        let client = Client::new(endpoints, Duration::from_secs(20));
        assert_eq!(client.put("k", "v", &Write::default()).await.unwrap(), 7);
        assert_eq!(client.put("k", "v", &Write::default()).await.unwrap(), 7);
        assert_eq!((refuses.asked().len(), sound.asked().len()), (1, 2), "the one that answers is asked first then");
    }
}

#[tokio::test]
async fn an_attempt_that_may_have_happened_is_not_forgotten_over_later_ones() {
    let broken = Node::start("n1", vec![Reply::Break, problem(503, "no_leader", "not_applied")]).await;
    let client = Client::new([broken.address.clone()], Duration::from_millis(200));
    let failure = client.put("k", "v", &keyed()).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.outcome), ("no_leader", Outcome::Unknown));
    assert!(broken.asked().len() > 1);
}

#[tokio::test]
async fn the_leader_is_found_among_the_endpoints_and_asked_first() {
    let by = |node: &str| Reply::Answer(200, format!("x-huskv-node: {node}\r\nx-huskv-leader: n3\r\n"), PUT.to_owned());
    let first = Node::start("n1", vec![by("n1")]).await;
    let second = Node::start("n2", vec![by("n2")]).await;
    let third = Node::start("n3", vec![by("n3"), Reply::Break]).await;
    let client = client(&[&first, &second, &third]);
    for _ in 0..2 {
        client.put("k", "v", &Write::default()).await.unwrap();
    }
    assert_eq!([&first, &second, &third].map(|node| node.asked().len()), [1, 0, 1]);
    // A leader that breaks is the first no more.
    client.put("k", "v", &keyed()).await.unwrap();
    assert_eq!(third.asked().len(), 2);
    client.put("k", "v", &Write::default()).await.unwrap();
    assert_eq!((third.asked().len(), first.asked().len()), (2, 3));
}

const EVENTS: &str =
    "id: 7\nevent: put\ndata: {\"key\":\"a\"}\n\nid: 8.1\nevent: delete\ndata: {\"key\":\"b\"}\n\nid: 8.2\nev";

#[tokio::test]
async fn a_watch_goes_on_where_it_was_on_another_node() {
    let first =
        Node::start("n1", vec![Reply::Answer(200, "x-raft-index: 6\r\n".into(), EVENTS.into()), Reply::Break]).await;
    let rest = "id: 8.2\nevent: put\ndata: {\"key\":\"c\"}\n\nid: 9\nevent: lagged\ndata: {}\n\n";
    let second = Node::start("n2", vec![reply(200, rest)]).await;
    let mut watch = client(&[&first, &second]).watch(Scope::Prefix("a/".into()), None, None);
    for (id, kind) in [("7", EventKind::Put), ("8.1", EventKind::Delete), ("8.2", EventKind::Put)] {
        let event = watch.next().await.unwrap();
        assert_eq!((event.id.as_str(), event.kind), (id, kind));
    }
    assert!(
        second.asked()[0].starts_with("GET /watch?prefix=a%2F HTTP") && !first.asked()[0].contains("last-event-id")
    );
    assert!(second.asked()[0].contains("last-event-id: 8.1"), "{:?}", second.asked());
    assert_eq!(watch.next().await.unwrap_err().code, "lagged");
    assert_eq!(watch.last_id(), Some("8.2"));
}

#[tokio::test]
async fn a_watch_leaves_a_node_that_is_silent_for_15_s_and_no_sooner() {
    let event = |id| format!("id: {id}\nevent: put\ndata: {{}}\n\n");
    let first = Node::start("n1", vec![Reply::Open(event(7)), Reply::Break]).await;
    let second = Node::start("n2", vec![Reply::Open(event(9))]).await;
    let mut watch = client(&[&first, &second]).watch(Scope::Prefix(String::new()), Some(7), None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    for (span, id) in [(14_900, "8"), (15_100, "9")] {
        let mut next = Box::pin(watch.next());
        tokio::select! {
            biased;
            event = &mut next => panic!("nobody has said anything, and the watch tells of {event:?}"),
            () = tokio::task::yield_now() => {}
        }
        // Time goes by real clocks again before anything moves on a connection: a clock that stands runs ahead meanwhile.
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(span)).await;
        tokio::time::resume();
        if id == "8" {
            first.say(&event(8)).await;
        }
        let next = tokio::time::timeout(Duration::from_secs(10), next).await;
        assert_eq!(next.expect("it goes on in time").unwrap().id, id);
    }
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
    assert!(second.asked()[0].contains("last-event-id: 8"), "{:?}", second.asked());
}

#[tokio::test]
async fn a_watch_from_now_on_leaves_nothing_out_when_its_first_connection_breaks() {
    let first =
        Node::start("n1", vec![Reply::Answer(200, "x-raft-index: 41\r\n".into(), ": hello\n".into()), Reply::Break])
            .await;
    let second = Node::start("n2", vec![reply(200, EVENTS)]).await;
    let mut watch = client(&[&first, &second]).watch(Scope::Key("k".into()), None, None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    assert!(second.asked()[0].starts_with("GET /watch?key=k&from=42 HTTP"), "{:?}", second.asked());
}

#[tokio::test]
async fn a_node_without_enough_history_is_passed_by_and_none_with_it_ends_the_watch() {
    let compacted = reply(410, r#"{"code":"compacted","detail":"d","oldest_index":90}"#);
    let young = Node::start("n1", vec![compacted.clone()]).await;
    let old = Node::start("n2", vec![reply(200, EVENTS)]).await;
    let mut watch = client(&[&young, &old]).watch(Scope::Key("k".into()), Some(7), None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    let other = Node::start("n3", vec![compacted]).await;
    let mut watch = client(&[&young, &other]).watch(Scope::Key("k".into()), Some(7), None);
    let failure = watch.next().await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.oldest_index), ("compacted", Some(90)));
    let anew = Node::start("n4", vec![reply(410, r#"{"code":"compacted","detail":"d","newest_index":6}"#)]).await;
    let mut watch = client(&[&anew]).watch(Scope::Key("k".into()), None, Some("5000".into()));
    assert_eq!(watch.next().await.unwrap_err().newest_index.map(u64::from), Some(6));
}
