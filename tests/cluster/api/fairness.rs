//! Slow clients: they use their own budget and delay no other client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::harness::{Answer, Cluster, Node, Request, Seen, Setup, ask, check, eventually, secs};

crate::harness::cases![
    slow_watchers_delay_no_other_client_and_are_disconnected,
    slow_readers_delay_no_small_response_to_other_clients,
    stalled_uploads_are_aborted_and_small_ones_succeed,
    slow_transactions_do_not_delay_the_renewal_of_a_lock,
    a_node_with_little_memory_refuses_requests_over_its_budget,
    memory_is_returned_after_a_load_without_further_requests,
    a_leader_with_little_memory_refuses_forwarded_writes_over_its_budget,
];

const MIB: usize = 1 << 20;

/// How long a client that stands still keeps what it holds, where the test waits for its end. What is to be full has to be full
/// within this time, or the first clients are given up before the last ones have come.
const GRACE: Duration = secs(30);

/// The same where no test waits for the end.
const LONG_GRACE: Duration = secs(120);

/// A node that gives up clients that stand still for so long.
fn with_rate_grace(setup: Setup, grace: Duration) -> Node {
    setup.set("HUSKV_HTTP_RATE_GRACE_MS", grace.as_millis()).start()
}

/// A connection whose client takes as little as it can, which has sent `request`.
fn slow(node: &Node, request: &[u8]) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    // Before it connects, or the window is a large one already.
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&node.http.parse::<SocketAddr>().unwrap().into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.write_all(request).unwrap();
    stream
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn put_large(node: &Node, key: &str) -> Answer {
    node.request(Request::new("PUT", format!("/store/{key}")).body(vec![b'x'; MIB]))
}

/// Whether a request was refused for the memory that its address has taken, and not because the node is slow.
fn refused(answer: &Answer) -> Seen<()> {
    let full =
        answer.status == 503 && answer.word("code") == "overloaded" && answer.word("detail").contains("the memory for");
    check(full, answer.status)
}

/// Writes a large value, however long that takes.
#[track_caller]
fn store_large(node: &Node, key: &str) {
    let put = Request::new("PUT", format!("/store/{key}?timeout=60s")).body(vec![b'x'; MIB]);
    node.request(put.within(secs(70))).expect(200, key);
}

fn slow_watchers_delay_no_other_client_and_are_disconnected() {
    // An address leaves an eighth of the places to others: it has 101.
    let node = Setup::named("node1").set("HUSKV_LIMITS_WATCHERS", 115).start();
    let _slow: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = slow(&node, &get("/watch?prefix=large/"));
            // It has its place once the node has answered; it takes no more than this.
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 200");
            stream
        })
        .collect();
    let healthy = ask(&node.http, "prefix=large/", None).unwrap().listen().unwrap();
    let mut more = Vec::new();
    eventually(secs(10), "all places are taken", || {
        let watcher = ask(&node.http, "prefix=small/", None).unwrap();
        let refused = watcher.head.status == 503;
        more.push(watcher);
        check(refused, "there is another place")
    });
    for number in 0..4 {
        let key = format!("large/{number}");
        store_large(&node, &key);
        let event = healthy.change(secs(10)).unwrap();
        assert_eq!((event.kind.as_str(), &event.data["key"]), ("put", &Value::from(key)));
        assert_eq!(event.data["value"].as_str().unwrap().len(), MIB);
    }
    eventually(secs(20), "a watcher that reads nothing is disconnected", || {
        check(ask(&node.http, "prefix=", None).unwrap().head.status == 200, "there is no place")
    });
}

fn slow_readers_delay_no_small_response_to_other_clients() {
    // Answers have 48 MiB, half of which is for an address.
    let node = with_rate_grace(Setup::named("node1").set("HUSKV_LIMITS_MEMORY_MB", 384), GRACE);
    store_large(&node, "large");
    node.put("small", 1);
    let reader = || slow(&node, &get("/store/large?raw&timeout=60s"));
    let mut readers: Vec<_> = (0..64).map(|_| reader()).collect();
    let large = || node.get("/store/large?raw");
    // Most of the 64 were refused. Where the last part of the share was free again after that, another reader takes it.
    eventually(GRACE, "the share of their address is taken", || {
        refused(&large()).inspect_err(|_| readers.push(reader()))
    });
    for _ in 0..50 {
        assert_eq!(node.value("small"), 1);
    }
    eventually(GRACE + secs(40), "it is given back", || check(large().status == 200, "it is not"));
}

fn stalled_uploads_are_aborted_and_small_ones_succeed() {
    let node = with_rate_grace(Setup::named("node1").set("HUSKV_LIMITS_BODY_BYTES", 16 * MIB), GRACE);
    let mut stalled = Vec::new();
    eventually(GRACE, "the share of their address is taken", || {
        let (length, number) = (16 * MIB, stalled.len());
        let head =
            format!("PUT /store/s{number}?timeout=60s HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        let mut stream = TcpStream::connect(&node.http).unwrap();
        // One that is refused at once does not take all of it.
        drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; length - 1])));
        stalled.push(stream);
        refused(&put_large(&node, "large")).map_err(|status| format!("{status}: {number} are not enough"))
    });
    for number in 0..50 {
        node.put("small", number);
    }
    eventually(GRACE + secs(40), "it is given back", || check(put_large(&node, "large").status == 200, "it is not"));
    let answers: Vec<_> = stalled
        .iter_mut()
        .map(|stream| {
            let mut answer = Vec::new();
            // One that was refused while it still sent may find its connection reset.
            drop(stream.read_to_end(&mut answer));
            String::from_utf8_lossy(&answer).into_owned()
        })
        .collect();
    let of = |code: &str| answers.iter().filter(|answer| answer.contains(code)).count();
    let stalled = of("body_timeout");
    assert!((1..=8).contains(&stalled), "{stalled} held half of the memory of bodies, and no more: {answers:?}");
}

fn slow_transactions_do_not_delay_the_renewal_of_a_lock() {
    let node = with_rate_grace(Setup::named("node1"), LONG_GRACE);
    store_large(&node, "large");
    node.post("/store", &json!({"key": "lock", "value": "worker-1", "ttl": 600})).expect(200, "a lock");
    let gets: Vec<_> = (0..16).map(|_| json!({"op": "get", "key": "large"})).collect();
    let body = json!({ "then": gets }).to_string();
    let length = body.len();
    let txn = format!("POST /txn?timeout=60s HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    let _slow: Vec<_> = (0..24).map(|_| slow(&node, txn.as_bytes())).collect();
    let other = Request::new("POST", "/txn?timeout=200ms").body(body);
    // Each renders 16 MiB first, during which others may be past their deadline.
    eventually(LONG_GRACE, "the share of their address is taken", || refused(&node.request(other.clone())));
    for _ in 0..50 {
        let renewed = node.post("/touch/lock", &json!({"ttl": 600})).expect(200, "a renewal");
        assert_eq!(renewed.data()["value"], "worker-1");
    }
}

/// A line of what the system tells of the node's memory, in MiB.
fn memory(node: &Node, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

fn a_node_with_little_memory_refuses_requests_over_its_budget() {
    const CLIENTS: usize = 128;
    // All of them have sent all but the last byte before any is answered, and the first ones wait for the last.
    let node = with_rate_grace(Setup::named("node1").set("HUSKV_LIMITS_MEMORY_MB", 192), LONG_GRACE);
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let path = format!("/store/k{number}?timeout=60s");
            let head = format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MIB}\r\n\r\n");
            let mut stream = TcpStream::connect(&node.http).unwrap();
            drop(stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![b'x'; MIB - 1])));
            stream
        })
        .collect();
    let answers = clients.iter_mut().map(|stream| {
        drop(stream.write_all(b"x"));
        let mut start = [0; 12];
        // One that was refused while it still sent may find its connection reset.
        stream.read_exact(&mut start).map_or(503, |()| String::from_utf8_lossy(&start[9..]).parse().unwrap())
    });
    let answers: Vec<u16> = answers.collect();
    let of = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    assert!(of(200) > 0 && of(503) > 0 && of(200) + of(503) == CLIENTS, "{answers:?}");
    // Clients that wait their turn are all served.
    for number in 0..32 {
        store_large(&node, &format!("k{number}"));
    }
    let most = memory(&node, "VmHWM:");
    assert!(most < 384, "{most} MiB");
}

fn memory_is_returned_after_a_load_without_further_requests() {
    let node = Setup::named("node1").set("HUSKV_LIMITS_MEMORY_MB", 384).start();
    let all_at_once = |number: usize| {
        let put = Request::new("PUT", format!("/store/k{number}")).body(vec![b'x'; MIB]);
        // Some are refused, and some of those lose their connection while they still send.
        node.try_request(put).map_or(503, |answer| answer.status)
    };
    let all_at_once = &all_at_once;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..256).map(|number| scope.spawn(move || all_at_once(number))).collect();
        let answers: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        assert!(answers.contains(&200), "{answers:?}");
    });
    // No request follows. The latest changes and entries, and the tree's cache, stay.
    eventually(secs(60), "what was freed goes back", || match memory(&node, "VmRSS:") {
        held if held < 256 => Ok(()),
        held => Err(format!("{held} MiB")),
    });
}

fn a_leader_with_little_memory_refuses_forwarded_writes_over_its_budget() {
    const CLIENTS: usize = 96;
    const MEMORY_MB: usize = 384;
    let mut cluster = Cluster::with(3, |setup| setup.set("HUSKV_LIMITS_MEMORY_MB", MEMORY_MB));
    let (leader, followers) = (cluster.agreed(), cluster.followers());
    // What is sent to it stays in the leader's queue.
    cluster.nodes[followers[1]].sigstop();
    let nodes = [&cluster.nodes[leader], &cluster.nodes[followers[0]]];
    let client = |number: usize| -> Vec<(u16, String)> {
        let put = |round: usize| {
            let put = Request::new("PUT", format!("/store/k{number}")).body(vec![b'x'; MIB]);
            // One that was refused while it still sent may find its connection reset.
            let refused = |error| (503, error);
            let told =
                |answer: crate::harness::Answer| (answer.status, String::from_utf8_lossy(&answer.body).into_owned());
            nodes[(number + round) % 2].try_request(put).map_or_else(refused, told)
        };
        (0..4).map(put).collect()
    };
    let client = &client;
    let answers: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(number))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let of = |status: u16| answers.iter().filter(|(answer, _)| *answer == status).count();
    let most: Vec<usize> = nodes.iter().map(|node| memory(node, "VmHWM:")).collect();
    cluster.nodes[followers[1]].sigcont();
    assert!(of(200) > 0 && of(503) > 4 * of(504), "{answers:?}");
    assert!(answers.iter().all(|(status, body)| *status != 503 || !body.contains("unknown")), "{answers:?}");
    assert!(most.iter().all(|most| *most < MEMORY_MB), "{most:?} MiB");
    cluster.caught_up(secs(30));
}
