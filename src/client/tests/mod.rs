//! Tests of the client against scripted servers: which endpoint a request goes to, how often, and where a watch resumes.
//!
//! See also: `tests/cluster/api/cli.rs` for real nodes.

mod tls;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const PUT: &str = r#"{"data":{"key":"k","version":7},"message":"success persisting data"}"#;

/// The scripted reaction to a request.
#[derive(Clone)]
enum Reply {
    /// Reads the request and closes the connection.
    Close,
    /// Responds with status, headers and body.
    Respond(u16, String, String),
    /// Responds with 200 and this beginning of a body, and keeps the connection open for [`Server::send`].
    Open(String),
}

fn reply(status: u16, body: &str) -> Reply {
    Reply::Respond(status, String::new(), body.to_owned())
}

fn problem(status: u16, code: &str, outcome: &str) -> Reply {
    reply(status, &format!(r#"{{"code":"{code}","detail":"d","outcome":"{outcome}"}}"#))
}

/// A server that follows a script and repeats its last step.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    open: Arc<tokio::sync::Mutex<Vec<TcpStream>>>,
}

impl Server {
    async fn start(name: &'static str, script: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let open = Arc::default();
        let node = Self { address, requests: Arc::clone(&requests), open: Arc::clone(&open) };
        tokio::spawn(async move {
            let mut script = script.into_iter().peekable();
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read_request(&mut stream).await;
                if request.starts_with("GET /health") {
                    let body = format!(r#"{{"node_id":"{name}"}}"#);
                    respond(&mut stream, 200, "", &body).await;
                    continue;
                }
                requests.lock().unwrap().push(request);
                let next = script.next().unwrap();
                match &next {
                    Reply::Close => {}
                    Reply::Respond(status, headers, body) => respond(&mut stream, *status, headers, body).await,
                    Reply::Open(body) => {
                        respond(&mut stream, 200, "", body).await;
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

    /// Sends more on the connections that are kept open.
    async fn send(&self, text: &str) {
        for stream in &mut *self.open.lock().await {
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
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

async fn respond(stream: &mut (impl AsyncWrite + Unpin), status: u16, headers: &str, body: &str) {
    let text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n{headers}\r\n{body}");
    stream.write_all(text.as_bytes()).await.unwrap();
}

fn client(nodes: &[&Server]) -> Client {
    Client::new(nodes.iter().map(|node| node.address.clone()), Duration::from_secs(20))
}

fn keyed() -> Write {
    Write { idempotency_key: Some("once".into()), ..Write::default() }
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_sent_once_unless_it_has_an_idempotency_key() {
    for first in [Reply::Close, problem(504, "timeout", "unknown"), reply(502, "<h1>no</h1>")] {
        let broken = Server::start("n1", vec![first]).await;
        let sound = Server::start("n2", vec![reply(200, PUT)]).await;
        let failure = client(&[&broken, &sound]).put("k", "v", &Write::default()).await.unwrap_err();
        assert_eq!(failure.outcome, Outcome::Unknown, "{failure}");
        assert_eq!((broken.requests().len(), sound.requests().len()), (1, 0), "{failure}");
        assert_eq!(client(&[&broken, &sound]).put("k", "v", &keyed()).await.unwrap(), 7);
        assert!(sound.requests()[0].contains("idempotency-key: once"), "{:?}", sound.requests());
    }
}

#[tokio::test]
async fn a_success_of_something_else_leaves_the_outcome_of_a_write_unknown_and_of_a_read_not() {
    let other = Server::start("n1", vec![reply(200, "<h1>hello</h1>"); 4]).await;
    let client = client(&[&other]);
    let written = client.put("k", "v", &Write::default()).await.unwrap_err();
    let read = client.get("k", &Read::default()).await.unwrap_err();
    let item = client.item("k", &Read::default()).await.unwrap_err();
    let stats = client.stats().await.unwrap_err();
    assert_eq!([&written, &read, &item, &stats].map(|failure| failure.code.as_str()), ["no_node"; 4]);
    assert_eq!(written.outcome, Outcome::Unknown);
    assert_eq!([read, item, stats].map(|failure| failure.outcome), [Outcome::NotApplied; 3]);
}

#[tokio::test]
async fn a_write_that_was_not_applied_goes_to_the_next_endpoint() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    for code in ["no_leader", "overloaded", "stopping"] {
        let refuses = Server::start("n1", vec![problem(503, code, "not_applied")]).await;
        let sound = Server::start("n2", vec![reply(200, PUT)]).await;
        let endpoints = [dead.clone(), refuses.address.clone(), sound.address.clone()];
        let client = Client::new(endpoints, Duration::from_secs(20));
        assert_eq!(client.put("k", "v", &Write::default()).await.unwrap(), 7);
        assert_eq!(client.put("k", "v", &Write::default()).await.unwrap(), 7);
        assert_eq!(
            (refuses.requests().len(), sound.requests().len()),
            (1, 2),
            "the endpoint that responded comes first in the second call"
        );
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_not_overwritten_by_a_later_refusal() {
    let broken = Server::start("n1", vec![Reply::Close, problem(503, "no_leader", "not_applied")]).await;
    let client = Client::new([broken.address.clone()], Duration::from_millis(200));
    let failure = client.put("k", "v", &keyed()).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.outcome), ("no_leader", Outcome::Unknown));
    assert!(broken.requests().len() > 1);
}

#[tokio::test]
async fn the_leader_is_found_among_the_endpoints_and_comes_first() {
    let by =
        |node: &str| Reply::Respond(200, format!("x-huskv-node: {node}\r\nx-huskv-leader: n3\r\n"), PUT.to_owned());
    let first = Server::start("n1", vec![by("n1")]).await;
    let second = Server::start("n2", vec![by("n2")]).await;
    let third = Server::start("n3", vec![by("n3"), Reply::Close]).await;
    let client = client(&[&first, &second, &third]);
    for _ in 0..2 {
        client.put("k", "v", &Write::default()).await.unwrap();
    }
    assert_eq!([&first, &second, &third].map(|node| node.requests().len()), [1, 0, 1]);
    // A leader whose connection breaks is no longer the first.
    client.put("k", "v", &keyed()).await.unwrap();
    assert_eq!(third.requests().len(), 2);
    client.put("k", "v", &Write::default()).await.unwrap();
    assert_eq!((third.requests().len(), first.requests().len()), (2, 3));
}

const EVENTS: &str =
    "id: 7\nevent: put\ndata: {\"key\":\"a\"}\n\nid: 8.1\nevent: delete\ndata: {\"key\":\"b\"}\n\nid: 8.2\nev";

#[tokio::test]
async fn a_watch_resumes_on_another_node_after_its_last_event() {
    let first =
        Server::start("n1", vec![Reply::Respond(200, "x-raft-index: 6\r\n".into(), EVENTS.into()), Reply::Close]).await;
    let rest = "id: 8.2\nevent: put\ndata: {\"key\":\"c\"}\n\nid: 9\nevent: lagged\ndata: {}\n\n";
    let second = Server::start("n2", vec![reply(200, rest)]).await;
    let mut watch = client(&[&first, &second]).watch(Scope::Prefix("a/".into()), None, None);
    for (id, kind) in [("7", EventKind::Put), ("8.1", EventKind::Delete), ("8.2", EventKind::Put)] {
        let event = watch.next().await.unwrap();
        assert_eq!((event.id.as_str(), event.kind), (id, kind));
    }
    assert!(
        second.requests()[0].starts_with("GET /watch?prefix=a%2F HTTP")
            && !first.requests()[0].contains("last-event-id")
    );
    assert!(second.requests()[0].contains("last-event-id: 8.1"), "{:?}", second.requests());
    assert_eq!(watch.next().await.unwrap_err().code, "lagged");
    assert_eq!(watch.last_id(), Some("8.2"));
}

#[tokio::test]
async fn a_watch_leaves_a_node_after_15_s_without_a_byte_and_no_sooner() {
    let event = |id| format!("id: {id}\nevent: put\ndata: {{}}\n\n");
    let first = Server::start("n1", vec![Reply::Open(event(7)), Reply::Close]).await;
    let second = Server::start("n2", vec![Reply::Open(event(9))]).await;
    let mut watch = client(&[&first, &second]).watch(Scope::Prefix(String::new()), Some(7), None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    for (span, id) in [(14_900, "8"), (15_100, "9")] {
        let mut next = Box::pin(watch.next());
        tokio::select! {
            biased;
            event = &mut next => panic!("no server has sent anything, and the watch returned {event:?}"),
            () = tokio::task::yield_now() => {}
        }
        // The clock is resumed before any I/O: a paused clock advances by itself while tasks wait for sockets.
        tokio::time::pause();
        tokio::time::advance(Duration::from_millis(span)).await;
        tokio::time::resume();
        if id == "8" {
            first.send(&event(8)).await;
        }
        let next = tokio::time::timeout(Duration::from_secs(10), next).await;
        assert_eq!(next.expect("the watch resumes in time").unwrap().id, id);
    }
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
    assert!(second.requests()[0].contains("last-event-id: 8"), "{:?}", second.requests());
}

#[tokio::test]
async fn a_watch_from_now_on_skips_no_event_when_its_first_connection_breaks() {
    let first =
        Server::start("n1", vec![Reply::Respond(200, "x-raft-index: 41\r\n".into(), ": hello\n".into()), Reply::Close])
            .await;
    let second = Server::start("n2", vec![reply(200, EVENTS)]).await;
    let mut watch = client(&[&first, &second]).watch(Scope::Key("k".into()), None, None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    assert!(second.requests()[0].starts_with("GET /watch?key=k&from=42 HTTP"), "{:?}", second.requests());
}

#[tokio::test]
async fn a_compacted_node_is_skipped_and_a_watch_ends_where_all_are_compacted() {
    let compacted = reply(410, r#"{"code":"compacted","detail":"d","oldest_index":90}"#);
    let compacted_node = Server::start("n1", vec![compacted.clone()]).await;
    let old = Server::start("n2", vec![reply(200, EVENTS)]).await;
    let mut watch = client(&[&compacted_node, &old]).watch(Scope::Key("k".into()), Some(7), None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    let other = Server::start("n3", vec![compacted]).await;
    let mut watch = client(&[&compacted_node, &other]).watch(Scope::Key("k".into()), Some(7), None);
    let failure = watch.next().await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.oldest_index), ("compacted", Some(90)));
    let anew = Server::start("n4", vec![reply(410, r#"{"code":"compacted","detail":"d","newest_index":6}"#)]).await;
    let mut watch = client(&[&anew]).watch(Scope::Key("k".into()), None, Some("5000".into()));
    assert_eq!(watch.next().await.unwrap_err().newest_index.map(u64::from), Some(6));
}

/// A 429 that names so many seconds.
fn limited(seconds: &str) -> Reply {
    let body = r#"{"code":"rate_limited","detail":"d","outcome":"not_applied"}"#;
    Reply::Respond(429, format!("retry-after: {seconds}\r\n"), body.to_owned())
}

#[tokio::test]
async fn after_a_429_no_node_is_asked_before_the_time_that_it_names() {
    let began = std::time::Instant::now();
    let first = Server::start("n1", vec![limited("1"), reply(200, PUT)]).await;
    let second = Server::start("n2", vec![reply(200, PUT)]).await;
    assert_eq!(client(&[&first, &second]).put("k", "v", &Write::default()).await.unwrap(), 7);
    assert_eq!((first.requests().len(), second.requests().len()), (2, 0), "the same node, which is in order");
    let events = Server::start("n3", vec![limited("1"), reply(200, EVENTS)]).await;
    let mut watch = client(&[&events, &second]).watch(Scope::Key("k".into()), Some(7), None);
    assert_eq!(watch.next().await.unwrap().id, "7");
    let stats = Server::start("n4", vec![limited("1"), reply(200, r#"{"data":{"keys":"1"}}"#)]).await;
    let of_node = NodeClient::new(Duration::from_secs(20)).stats(&stats.address).await.unwrap();
    assert_eq!((&of_node["keys"], stats.requests().len()), (&"1".into(), 2));
    assert_eq!((events.requests().len(), second.requests().len()), (2, 0));
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_429_that_names_more_than_the_timeout_fails_at_once() {
    let node = Server::start("n1", vec![limited("3600")]).await;
    let failure = client(&[&node]).put("k", "v", &Write::default()).await.unwrap_err();
    assert_eq!((failure.code.as_str(), failure.outcome), ("rate_limited", Outcome::NotApplied));
    let mut watch = client(&[&node]).watch(Scope::Key("k".into()), Some(7), None);
    assert_eq!(watch.next().await.unwrap_err().code, "rate_limited");
    let stats = NodeClient::new(Duration::from_secs(20)).stats(&node.address).await;
    assert!(matches!(stats, Err(NodeClientError::NoStats { status: 429, .. })), "{stats:?}");
    assert_eq!(node.requests().len(), 3);
}
