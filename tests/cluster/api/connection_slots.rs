//! Connection limit: idle connections are closed for new ones, and probes are served at the limit.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::process::Command;

use crate::harness::{Node, Request, Setup, binary, check, eventually, secs};

crate::harness::cases![
    idle_connections_are_closed_for_new_ones_and_probes_are_served_at_the_limit,
    connections_that_ask_nothing_or_only_begin_to_keep_no_probe_out,
    a_limit_of_files_that_no_node_can_live_with_is_said_at_the_start,
];

/// A node that may open so many files.
fn with_files(files: usize) -> Setup {
    Setup::named("node1").wrapped(&["sh", "-c", &format!(r#"ulimit -n {files}; exec "$0" "$@""#)])
}

/// A node that may open so few files that 160 connections are left, 20 of which are kept.
fn node() -> Node {
    with_files(600).start()
}

fn connect(node: &Node, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(&node.http).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn status_of(stream: TcpStream) -> Option<u16> {
    crate::harness::read_head(&mut BufReader::new(stream)).ok().map(|head| head.status)
}

fn idle_connections_are_closed_for_new_ones_and_probes_are_served_at_the_limit() {
    let node = node();
    let idle: Vec<_> = (0..300)
        .map(|_| {
            let stream = connect(&node, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
            assert_eq!(status_of(stream.try_clone().unwrap()), Some(200));
            stream
        })
        .collect();
    assert_eq!(node.get("/health").status, 200);
    eventually(secs(10), "one that is idle for a moment gives way", || {
        let answer = node.try_request(Request::new("PUT", "/store/key").body("1"))?;
        check(answer.status == 200, &answer)
    });
    let status = Command::new(binary()).args(["status", "--endpoints", &node.http]).output().unwrap();
    assert!(status.status.success(), "{status:?}");

    // A read that waits for an index which does not come keeps its connection busy.
    let waits = "GET /store/key?consistency=stale&min_index=1000000000&timeout=60s HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut busy: Vec<_> = (0..220).map(|_| connect(&node, waits)).collect();
    let refused = eventually(secs(20), "no place is left", || {
        // Some were refused while those before them were idle for too short a time to give way.
        busy.extend((0..5).map(|_| connect(&node, waits)));
        let answer = node.try_request(Request::new("GET", "/store/key").within(secs(5)))?;
        if answer.status == 503 { Ok(answer) } else { Err(answer.to_string()) }
    });
    assert_eq!(refused.header("connection"), Some("close"));
    refused.problem(503, "no place").code("overloaded", "no place");
    for path in ["/health", "/health/"].into_iter().cycle().take(40) {
        assert_eq!(node.get(path).status, 200, "a probe");
    }
    drop((idle, busy));
}

fn connections_that_ask_nothing_or_only_begin_to_keep_no_probe_out() {
    for files in [128, 256] {
        for begun in ["", "GET /store/key HTTP/1.1\r\nHost: loc"] {
            let node = with_files(files).start();
            let all: Vec<_> = (0..300).map(|_| TcpStream::connect(&node.http).unwrap()).collect();
            for mut stream in &all {
                // A connection that was refused already may take no more.
                drop(stream.write_all(begun.as_bytes()));
            }
            for path in ["/livez", "/readyz", "/health"].into_iter().cycle().take(30) {
                // While the crowd still arrives, a probe may have to ask again.
                eventually(secs(2), format!("{files} files, {begun:?}: {path}"), || {
                    let answer = node.try_request(Request::new("GET", path).within(secs(5)))?;
                    check(answer.status == 200, &answer)
                });
            }
            let status = Command::new(binary()).args(["status", "--endpoints", &node.http]).output().unwrap();
            assert!(status.status.success(), "{files} files, {begun:?}: {status:?}");
            let put = Request::new("PUT", "/store/key").body("1");
            eventually(secs(10), "one that only begins to ask gives way", || {
                let answer = node.try_request(put.clone())?;
                check(answer.status == 200, &answer)
            });
            drop(all);
        }
    }
}

fn a_limit_of_files_that_no_node_can_live_with_is_said_at_the_start() {
    for files in [40, 64, 127] {
        let mut node = with_files(files).spawn();
        let status = node.await_exit(secs(10));
        let log = node.log();
        assert_eq!(status.code(), Some(1), "{log}");
        for named in [&format!(" {files} files"), "128", "ulimit", "LimitNOFILE", "nofile"] {
            assert!(log.contains(named), "{named}: {log}");
        }
        assert!(!node.directory().exists(), "nothing may be created");
    }
}
