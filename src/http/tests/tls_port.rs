//! Tests of a port with TLS: what holds for plain connections holds there, too.
//!
//! Why: hyper, the slots and the end of a connection look at bytes and at the socket, and TLS is between the two.
//!
//! See also: handshakes that fail ([`crate::trust::acceptor`]), real nodes (`tests/cluster/secure_port`).

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::Instant;

use super::*;
use crate::model::{Item, Value};
use crate::trust::test_ca::TlsClient;

/// The options of a port with TLS, and the authority of its certificate.
fn secure(mode: Mode) -> (Options, TestCa) {
    let (tls, ca) = tls(mode);
    (Options { tls: Some(tls), ..options() }, ca)
}

/// Sends `bytes` on a new connection.
fn open(node: &Node, ca: &TestCa, bytes: &str) -> TlsClient {
    let mut client = ca.connect(&node.address.to_string(), None);
    client.write_all(bytes.as_bytes()).unwrap();
    client.flush().unwrap();
    client
}

/// Reads to the end of the connection, which must have been announced: a FIN without close_notify is an error.
fn read_all(client: &mut TlsClient) -> TestResponse {
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    TestResponse::parse(&answer)
}

/// Runs blocking code while the server works on other threads.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

const GET: &str = "GET /store/k HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const KEPT: &str = "GET /store/k HTTP/1.1\r\nHost: localhost\r\n\r\n";
const WATCH: &str = "GET /watch?prefix= HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_serves_what_it_says() {
    for (mode, plain_status) in [(Mode::On, 400), (Mode::Accept, 404)] {
        let (options, ca) = secure(mode);
        let node = Node::start(options, map_loop());
        blocking(|| assert_eq!(read_all(&mut open(&node, &ca, GET)).status, 404));
        let plain = node.raw(GET).await;
        assert_eq!(plain.status, plain_status);
        if mode == Mode::On {
            let problem = plain.is_problem(400, "https_required");
            assert_eq!(problem["detail"], "This port speaks HTTPS; use https:// instead of http://.");
            assert_eq!(plain.header("connection"), Some("close"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_tls_client_gets_its_answer_and_a_close_notify() {
    let (options, ca) = secure(Mode::On);
    let (arrived, wait) = tokio::sync::oneshot::channel();
    let (mut arrived, held) = (Some(arrived), Arc::new(Mutex::new(None)));
    let hold = Arc::clone(&held);
    let node = Node::start(options, move |input| {
        if let Input::Read { reply, .. } = input {
            *hold.lock().unwrap() = Some(reply);
            arrived.take().unwrap().send(()).unwrap();
        }
    });
    let mut client = blocking(|| {
        let mut client = open(&node, &ca, KEPT);
        client.conn.send_close_notify();
        client.flush().unwrap();
        client.sock.shutdown(Shutdown::Write).unwrap();
        client
    });
    wait.await.unwrap();
    let reply = held.lock().unwrap().take().unwrap();
    reply(Ok(nothing(1, 1)));
    blocking(|| read_all(&mut client)).is_problem(404, "key_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_goes_away_frees_its_slot_without_an_event() {
    let (options, ca) = secure(Mode::On);
    let (node, _feed) = watch::node_with(options);
    let watching = |client: &mut TlsClient| {
        let mut text = String::new();
        while !text.contains("retry:1000") {
            let mut buffer = [0; 4096];
            let count = client.read(&mut buffer).unwrap();
            text += std::str::from_utf8(&buffer[..count]).unwrap();
        }
        text.starts_with("HTTP/1.1 200")
    };
    blocking(|| {
        let mut one = open(&node, &ca, WATCH);
        let mut two = open(&node, &ca, WATCH);
        assert!(watching(&mut one) && watching(&mut two), "two slots");
        let closed = "GET /watch?prefix= HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        read_all(&mut open(&node, &ca, closed)).is_problem(503, "overloaded");
        // As clients end a connection: close_notify, then the FIN.
        one.conn.send_close_notify();
        one.flush().unwrap();
        drop(one);
        let begun = Instant::now();
        loop {
            let mut next = open(&node, &ca, WATCH);
            let mut first = [0; 12];
            next.read_exact(&mut first).unwrap();
            if &first == b"HTTP/1.1 200" {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the slot is not free");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_take_its_response_is_disconnected() {
    let (secure, ca) = secure(Mode::On);
    let budgets = Budgets { answers: 64 << 20, ..secure.budgets };
    let options = Options { rate_grace: Duration::from_millis(300), value_bytes: 32 << 20, budgets, ..secure };
    let node = Node::start(options, |input| {
        if let Input::Read { reply, .. } = input {
            let value = Value { content_type: "text/plain".into(), bytes: vec![b'x'; 32 << 20].into() };
            let item = Item { value, version: 1, create_version: 1, expires: None, by: None };
            reply(Ok(grant([("k".into(), item)], 1, 1)));
        }
    });
    blocking(|| {
        let mut client = open(&node, &ca, KEPT);
        let begun = Instant::now();
        // The client reads nothing. What it writes is not read either, and is refused once the node has closed the socket.
        while client.sock.write(b"x").is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it still holds its connection");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn half_handshakes_give_way_and_an_evicted_connection_is_told_so() {
    let (options, ca) = secure(Mode::On);
    let node = Node::start(Options { connections: 8, ..options }, map_loop());
    let half = || {
        let mut stream = std::net::TcpStream::connect(node.address).unwrap();
        stream.write_all(b"\x16\x03\x01\x02\x00\x01").unwrap();
        stream
    };
    blocking(|| {
        let mut idle = open(&node, &ca, KEPT);
        let mut head = [0; 12];
        idle.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 404");
        let mut halves: Vec<_> = (0..64).map(|_| half()).collect();
        // A head that is incomplete for a second gives way.
        let begun = Instant::now();
        loop {
            let mut client = ca.connect(&node.address.to_string(), None);
            let sent = client.write_all(GET.as_bytes());
            let mut answer = Vec::new();
            if sent.is_ok() && client.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 404") {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "kept out: {}", String::from_utf8_lossy(&answer));
        }
        // Evicted, refused or still waiting: no half handshake has got a byte.
        for half in &mut halves {
            half.set_nonblocking(true).unwrap();
            let read = half.read(&mut [0; 16]).map_err(|error| error.kind());
            assert!(matches!(read, Ok(0) | Err(ErrorKind::WouldBlock | ErrorKind::ConnectionReset)), "{read:?}");
        }
        // The idle connection was evicted with a close_notify.
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).unwrap();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_drops_handshakes_and_answers_requests_under_way() {
    let (options, ca) = secure(Mode::On);
    let (arrived, wait) = tokio::sync::oneshot::channel();
    let (mut arrived, held) = (Some(arrived), Arc::new(Mutex::new(None)));
    let hold = Arc::clone(&held);
    let node = Node::start(options, move |input| {
        if let Input::Read { reply, .. } = input {
            *hold.lock().unwrap() = Some(reply);
            arrived.take().unwrap().send(()).unwrap();
        }
    });
    let (mut client, _half) = blocking(|| {
        let mut half = std::net::TcpStream::connect(node.address).unwrap();
        half.write_all(b"\x16\x03\x01").unwrap();
        (open(&node, &ca, KEPT), half)
    });
    wait.await.unwrap();
    let begun = Instant::now();
    let stop = tokio::spawn(node.server.stop(Duration::from_secs(60)));
    let reply = held.lock().unwrap().take().unwrap();
    reply(Ok(nothing(1, 1)));
    let answer = blocking(|| read_all(&mut client));
    answer.is_problem(404, "key_not_found");
    drop(client);
    stop.await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}
