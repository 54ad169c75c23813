//! Hostile connections to the peer port: garbage, floods, idle sockets, other versions.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Cluster, Node, Setup, check, eventually, secs, throughout};

crate::harness::cases![
    garbage_http_and_scans_cause_one_log_line_each_and_no_harm,
    idle_and_flooding_connections_do_not_keep_peers_out,
    held_sockets_do_not_keep_members_out_when_they_restart,
    a_join_does_not_reveal_the_banner_of_another_host,
    a_lost_peer_and_its_return_are_logged,
    another_wire_version_is_refused_naming_both,
];

/// What a huskv of another wire version says first: the part of the protocol that stays for ever.
fn preamble(version: u16) -> Vec<u8> {
    [&b"\x89HUSKV\r\n"[..], &version.to_le_bytes()].concat()
}

/// What a stranger sends; nothing for a port scan.
fn strangers() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("ones", vec![0xff; 4096]),
        ("noise", (0..10_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("a TLS greeting", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("a scan", Vec::new()),
    ]
}

/// Sends `bytes` and waits until the node closes the connection, which it must.
fn send(node: &Node, bytes: &[u8]) {
    let mut stream = TcpStream::connect(&node.raft).expect("the peer port takes connections");
    stream.set_read_timeout(Some(secs(20))).expect("a timeout");
    // The node may close before it has read everything.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut sink = Vec::new();
    if let Err(error) = stream.read_to_end(&mut sink) {
        let kind = error.kind();
        let late = [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&kind);
        assert!(!late, "the node keeps a stranger's connection");
    }
}

fn garbage_http_and_scans_cause_one_log_line_each_and_no_harm() {
    let lone = Setup::named("node1").start();
    lone.put("foo", "bar");
    for (what, bytes) in strangers() {
        let before = lone.log().lines().count();
        send(&lone, &bytes);
        eventually(secs(10), format!("{what} makes a log line"), || {
            let log = lone.log();
            check(log.lines().count() > before, &log)
        });
        throughout(Duration::from_millis(300), format!("{what} makes one log line"), || {
            let log = lone.log();
            check(log.lines().count() == before + 1, &log)
        });
    }
    assert_eq!(lone.value("foo"), "bar");
    let cluster = Cluster::of(3);
    let reign = cluster.reign();
    for (_, bytes) in strangers() {
        cluster.nodes.iter().for_each(|node| send(node, &bytes));
        cluster.nodes[1].put("still", "well");
    }
    assert_eq!(cluster.reign(), reign, "leader and term");
    for node in &cluster.nodes {
        assert!(!node.log().contains("panicked"), "{}", node.log());
    }
}

fn idle_and_flooding_connections_do_not_keep_peers_out() {
    let mut cluster = Cluster::of(3);
    let mut held = Vec::new();
    for node in &cluster.nodes {
        for _ in 0..100 {
            held.push(TcpStream::connect(&node.raft).expect("a connection"));
        }
    }
    // A length that promises more than any frame may have.
    for stream in &mut held {
        let _ = stream.write_all(&[0xff; 64]);
    }
    let place = cluster.followers()[0];
    cluster.nodes[place].kill9();
    let leader = cluster.agreed();
    cluster.nodes[leader].put("meanwhile", 1);
    cluster.nodes[place].start();
    assert_eq!(cluster.nodes[place].value("meanwhile"), 1, "its peers found it again");
    let fourth = Setup::named("node4").start();
    cluster.nodes[leader].join(&fourth).expect(200, "a join meanwhile");
    drop(held);
}

fn held_sockets_do_not_keep_members_out_when_they_restart() {
    let mut cluster = Cluster::of(3);
    let mut held = Vec::new();
    for round in 0..2 {
        for place in 0..3 {
            for node in &cluster.nodes {
                held.extend((0..254).filter_map(|_| TcpStream::connect(&node.raft).ok()));
            }
            cluster.nodes[place].kill9();
            cluster.nodes[place].start();
            let leader = cluster.agreed();
            cluster.nodes[leader].put("round", round);
            assert_eq!(cluster.nodes[place].value("round"), round, "it is with the others again");
        }
    }
    drop(held);
}

fn a_join_does_not_reveal_the_banner_of_another_host() {
    let lone = Setup::named("node1").start();
    let host = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = host.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in host.incoming() {
            let _ = stream.expect("a connection").write_all(b"SSH-2.0-OpenSSH_9.9 internal\r\n");
        }
    });
    let body = json!({"node_id": "node2", "raft_address": address});
    let answer = lone.post("/raft/join", &body).problem(502, "a join of something else");
    let detail = answer.code("unreachable", "its code").word("detail");
    assert!(detail.contains("something answered") && detail.contains(&address), "{detail}");
    assert!(!detail.contains("SSH") && !detail.contains('S'), "what it said is not told: {detail}");
    for address in ["0.0.0.0:1112", "[::]:1112", "a\nb:1"] {
        let body = json!({"node_id": "node2", "raft_address": address});
        lone.post("/raft/join", &body).problem(400, address).code("bad_body", address);
    }
}

fn a_lost_peer_and_its_return_are_logged() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    let name = cluster.nodes[place].name().to_owned();
    let mentions = |cluster: &Cluster| cluster.nodes[leader].log().lines().filter(|line| line.contains(&name)).count();
    let before = mentions(&cluster);
    cluster.nodes[place].kill9();
    eventually(secs(15), format!("the leader logs that {name} is lost"), || {
        check(mentions(&cluster) > before, mentions(&cluster))
    });
    let lost = mentions(&cluster);
    cluster.nodes[place].start();
    eventually(secs(15), format!("the leader logs that {name} is back"), || {
        check(mentions(&cluster) > lost, mentions(&cluster))
    });
}

fn another_wire_version_is_refused_naming_both() {
    const OTHER: u16 = 4711;
    let cluster = Cluster::of(3);
    let reign = cluster.reign();
    let leader = &cluster.nodes[cluster.agreed()];
    let newer = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = newer.local_addr().expect("bound").to_string();
    thread::spawn(move || {
        for stream in newer.incoming() {
            let mut stream = stream.expect("a connection");
            stream.write_all(&preamble(OTHER)).expect("a preamble fits");
            // Open until the other end has enough.
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    for asked in &cluster.nodes {
        let body = json!({"node_id": "newer", "raft_address": address});
        let answer = asked.post("/raft/join", &body).problem(409, "a join of another wire version");
        let answer = answer.code("version_mismatch", "its code").outcome("not_applied", "nothing was changed");
        let detail = answer.word("detail");
        assert!(detail.contains("version 4711") && detail.contains("speaks 2"), "both versions: {detail}");
        assert!(detail.contains(&address), "who it is: {detail}");
    }
    // And the other way round: the newer one dials. The refused joins have lines of their own.
    let before = leader.log().lines().filter(|line| line.contains("4711")).count();
    send(leader, &[&preamble(OTHER)[..], &[0; 500]].concat());
    let lines = || leader.log().lines().filter(|line| line.contains("4711")).count() - before;
    eventually(secs(10), "the refusal is logged", || check(lines() > 0, leader.log()));
    throughout(Duration::from_millis(300), "in one line", || check(lines() == 1, leader.log()));
    let log = leader.log();
    let line = log.lines().rfind(|line| line.contains("4711")).unwrap_or_default();
    assert!(line.contains("wire version") && line.contains(" 2"), "both versions: {line}");
    cluster.nodes[1].put("still", "well");
    assert_eq!(cluster.reign(), reign, "leader and term");
}
