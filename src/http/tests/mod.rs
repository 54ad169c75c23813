//! Tests of the HTTP server through a socket, with a scripted loop behind it.
//!
//! Why: the API is bytes on a connection, so these tests send and compare bytes. The loop's answers are scripted, so each
//! failure can be had at will.
//!
//! Invariants: port 0, loopback, no sleeps.
//!
//! See also: the real loop (`tests/cluster`).

mod announced_closes;
mod audit;
mod client_certificates;
mod cluster;
mod connections;
mod content;
mod limits;
mod list_and_txn;
mod monitoring;
mod refused_connections;
mod store;
mod tls_port;
mod tokens;
mod watch;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Budgets, HttpTls, Options, RequestLimiter, Server, TrustedProxies, start};
use crate::consensus::{Bounds, Consistency, Handle, Input, Names, ReadGrant, Readiness, Reply, channel};
use crate::model::test_store::Map;
use crate::model::{Answer, Code, CommandResult, Item, Leader, MemberStatus, Refusal, Request, Role, State, Status};
use crate::storage::{ReadPoint, StateReader};
use crate::trust::acceptor::{HTTP, TlsAcceptor};
use crate::trust::credentials::{CredentialFiles, CredentialStore};
use crate::trust::test_ca::TestCa;
use crate::trust::{ClientAuth, Mode};

/// Options with small limits, so that exceeding them is cheap.
pub(super) fn options() -> Options {
    Options {
        key_bytes: 16,
        value_bytes: 64,
        body_bytes: 256,
        watchers: 2,
        connections: 4096,
        request_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(75),
        rate_grace: Duration::from_secs(5),
        allowed_origins: vec!["https://ui.example.org".into()],
        allowed_hosts: vec![],
        own_hosts: vec!["127.0.0.1".into()],
        loopback: true,
        port: 2221,
        budgets: Budgets {
            bodies: 1 << 20,
            answers: 1 << 20,
            events: 1 << 20,
            transactions: 1 << 20,
            renewals: 1 << 20,
        },
        join_list: vec!["a:1".into(), "b:2".into()],
        tls: None,
        peer_tls: None,
        tokens: None,
        limiter: Arc::new(RequestLimiter::new(0, 0, 8)),
        trusted_proxies: Arc::default(),
        audit: super::Audit::new("node1", slog::Logger::root(slog::Discard, slog::o!())),
        ui: true,
        reloads: tokio::sync::mpsc::channel(1).0,
        wire_versions: 2..=2,
        formats: &[("journal", 1)],
    }
}

/// TLS in this mode with a new certificate, and its authority.
pub(super) fn tls(mode: Mode) -> (Arc<HttpTls>, TestCa) {
    let (ca, folder) = (TestCa::new("ca"), tempfile::tempdir().unwrap());
    ca.node("kv1").write(folder.path());
    let path = |name: &str| folder.path().join(name);
    let files = CredentialFiles { certificate: path("node.pem"), key: path("node-key.pem"), ca: Some(path("ca.pem")) };
    let credentials = Arc::new(CredentialStore::open(files).unwrap());
    (Arc::new(HttpTls::new(mode, TlsAcceptor::new(credentials, ClientAuth::Optional, HTTP))), ca)
}

/// The status of a leader of two nodes.
pub(super) fn status() -> Status {
    let member = |node_id: &str, raft_id, raft: &str, http: &str, role, match_index, contact| MemberStatus {
        node_id: node_id.into(),
        raft_id,
        raft_address: raft.into(),
        http_address: http.into(),
        role,
        heard_ms: contact,
        connected: contact.is_some(),
        match_index: Some(match_index),
        last_contact_ms: contact,
        disk: None,
    };
    Status {
        node_id: "node1".into(),
        raft_id: 11,
        cluster_id: 77,
        state: State::Leader,
        leader: Some(leader()),
        term: 3,
        last_log_index: 44,
        last_log_term: 3,
        commit_index: 43,
        applied_index: 42,
        applied_term: 3,
        fsm_pending: 1,
        last_snapshot_index: 20,
        last_snapshot_term: 2,
        configuration_index: 9,
        last_contact_ms: Some(0),
        keys: 5,
        disk_syncs: 7,
        members: vec![
            member("node1", 11, "127.0.0.1:1111", "127.0.0.1:2221", Role::Voter, 44, Some(0)),
            member("node2", 12, "localhost:1112", "127.0.0.1:2222", Role::Learner, 40, None),
        ],
        removed: false,
        joining: false,
        previous: None,
        forming: false,
        verifying: None,
        identity_conflicts: Vec::new(),
        not_ready: None,
    }
}

fn leader() -> Leader {
    Leader { node_id: "node1".into(), http_address: "127.0.0.1:2221".into() }
}

/// What a scripted loop does with each input.
type Script = Box<dyn FnMut(Input) + Send>;

/// A server in front of a scripted loop.
struct Node {
    address: SocketAddr,
    server: Server,
}

impl Node {
    fn start(options: Options, script: impl FnMut(Input) + Send + 'static) -> Self {
        Self::start_as(Names::default(), options, script)
    }

    /// Starts a node whose loop has published `names`.
    fn start_as(names: Names, options: Options, script: impl FnMut(Input) + Send + 'static) -> Self {
        let (handle, mut inbox) = channel(16);
        inbox.publish(&names);
        let mut script: Script = Box::new(script);
        tokio::spawn(async move {
            loop {
                let input = tokio::select! {
                    Some(input) = inbox.clients.recv() => input,
                    Some(input) = inbox.peers.recv() => input,
                    else => break,
                };
                script(input);
            }
        });
        Self::in_front_of(handle, options)
    }

    fn in_front_of(handle: Handle, options: Options) -> Self {
        handle.begin_serving();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = slog::Logger::root(slog::Discard, slog::o!());
        Self { address, server: start(listener, handle, options, log).unwrap() }
    }

    /// Starts a leader that stores keys in a map.
    fn working() -> Self {
        Self::start(options(), map_loop())
    }

    /// Starts a node whose loop refuses everything but its status.
    fn refusing(refusal: Refusal) -> Self {
        Self::start(options(), move |input| match input {
            Input::Request { reply, .. } => reply(Err(refusal.clone())),
            Input::Read { reply, .. } => reply(Err(refusal.clone())),
            Input::Snapshot { reply, .. } => reply(Err(refusal.clone())),
            Input::Status { reply } => reply(status()),
            _ => {}
        })
    }

    /// Starts a node whose loop answers each request with the result of `answer`.
    fn answering(answer: impl Fn(Request) -> Result<Answer, Refusal> + Send + 'static) -> Self {
        Self::start(options(), move |input| match input {
            Input::Request { request, reply, .. } => reply(answer(request)),
            Input::Snapshot { reply, .. } => reply(Ok(())),
            Input::Status { reply } => reply(status()),
            _ => {}
        })
    }

    /// Sends a request on a new connection.
    async fn ask(&self, method: &str, target: &str, body: &str) -> TestResponse {
        self.ask_with(method, target, "", body).await
    }

    /// As [`Node::ask`], with more header lines, each ending in CRLF.
    async fn ask_with(&self, method: &str, target: &str, headers: &str, body: &str) -> TestResponse {
        let length = body.len();
        self.raw(&format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        ))
        .await
    }

    /// Sends these bytes and reads until the end of file.
    async fn raw(&self, bytes: &str) -> TestResponse {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        TestResponse::parse(&answer)
    }
}

/// The script of a loop that stores keys in a map.
fn map_loop() -> impl FnMut(Input) + Send + 'static {
    let mut map = Map::default();
    let mut index = 100;
    move |input| match input {
        Input::Request { request: Request::Write(write), reply, .. } => {
            index += 1;
            reply(Ok(Answer::Written(map.write(write, index, 3))));
        }
        Input::Read { reply, .. } => {
            let items = map.0.iter().map(|(key, item)| (key.clone(), item.clone()));
            reply(Ok(grant(items, index, 3)));
        }
        Input::Status { reply } => reply(status()),
        _ => panic!("the map takes writes, reads and status requests"),
    }
}

/// Leave to read these items.
fn grant(items: impl IntoIterator<Item = (Bytes, Item)>, index: u64, term: u64) -> ReadGrant {
    let state = StateReader::in_memory(items, ReadPoint { index, term, clock: 0 });
    ReadGrant { state, term, clock: 0 }
}

/// Leave to read a state without keys.
fn nothing(index: u64, term: u64) -> ReadGrant {
    grant([], index, term)
}

/// A response as it was received.
#[derive(Debug)]
struct TestResponse {
    status: u16,
    head: String,
    body: String,
}

impl TestResponse {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        // JSON ends with a newline, so that the shell's prompt after curl is on a new line; raw values are sent as they are.
        let body = if body.starts_with('{') {
            body.strip_suffix('\n').unwrap_or_else(|| panic!("no newline at the end of {body:?}"))
        } else {
            body
        };
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that this is a problem document with this status and code, and returns it.
    #[track_caller]
    fn is_problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!((&body["code"], &body["status"]), (&code.into(), &status.into()), "{body}");
        assert_eq!(body["detail"], body["error"]);
        assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
        body
    }
}

/// A reply that a test sends later.
type HeldReply<T> = Arc<Mutex<Option<Reply<T>>>>;
