//! `huskv demo` as a process: start, restart with its data, and no process left behind.
//!
//! See also: `tests/cluster` for the nodes.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use huskv::client::{NodeClient, Response};
use serde_json::json;

/// The time limit of a step on a busy machine, in a debug build.
const LONG: Duration = Duration::from_secs(60);

/// Finds two ranges of three ports that are free at this moment.
fn free_ranges() -> [u16; 2] {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut found = Vec::new();
    while found.len() < 2 {
        let picked = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let first = picked.local_addr().expect("bound").port();
        drop(picked);
        let apart = found.iter().all(|other: &u16| first.abs_diff(*other) > 3);
        if first < 65_000 && apart && (first..first + 3).all(free) {
            found.push(first);
        }
    }
    [found[0], found[1]]
}

/// A running demo; dropped, it is killed.
struct Demo {
    child: Child,
    output: BufReader<ChildStdout>,
    ports: [u16; 2],
}

impl Demo {
    fn start(folder: &Path, ports: [u16; 2], arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_huskv"))
            .current_dir(folder)
            .args(["demo", "--http-from", &ports[0].to_string(), "--raft-from", &ports[1].to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("huskv can be started");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output, ports }
    }

    /// Reads the output of the demo up to the line with `word`, and returns it.
    fn until(&mut self, word: &str) -> String {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).expect("UTF-8") == 0 {
                let mut complaint = String::new();
                self.child.stderr.take().expect("piped").read_to_string(&mut complaint).expect("UTF-8");
                panic!("{word:?} was not said in {said:?}; {complaint}");
            }
            said.push_str(&line);
            if line.contains(word) {
                return said;
            }
        }
    }

    fn http(&self, node: u16) -> String {
        format!("127.0.0.1:{}", self.ports[0] + node)
    }

    fn interrupt(&mut self) {
        let done = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        assert!(done.expect("kill is there").success());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn ask<F: Future<Output = T>, T>(request: impl FnOnce(NodeClient) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(request(NodeClient::new(LONG)))
}

fn get(address: &str, path: &str) -> Response {
    ask(async |client: NodeClient| client.get(address, path).await).expect("an answer")
}

fn nothing_listens(ports: [u16; 2], limit: Duration) {
    let begun = Instant::now();
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    while !ports.iter().flat_map(|first| *first..*first + 3).all(|port| free(&port)) {
        assert!(begun.elapsed() < limit, "something is left running");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_demo_joins_its_nodes_finds_its_data_again_and_leaves_no_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ports = free_ranges();
    let mut demo = Demo::start(folder.path(), ports, &[]);
    let said = demo.until("Ctrl-C");
    assert_eq!(said.matches("  curl ").count(), 4, "{said}");
    for node in 0..3 {
        assert!(said.contains(&format!("http://{}", demo.http(node))), "{said}");
        assert_eq!(get(&demo.http(node), "/raft/stats").body["data"]["num_peers"], "2", "{said}");
    }
    demo.until("follows");
    let body = json!({ "key": "foo", "value": "bar" });
    let address = demo.http(2);
    assert_eq!(
        ask(async |client: NodeClient| client.post(&address, "/store", &body).await).expect("stored").status,
        200
    );
    demo.interrupt();
    assert!(demo.child.wait().expect("ends").success());
    nothing_listens(ports, Duration::ZERO);

    let mut again = Demo::start(folder.path(), ports, &[]);
    let said = again.until("Ctrl-C");
    assert!(!said.contains("joined"), "a member was joined again: {said}");
    assert_eq!(get(&again.http(1), "/store/foo").body["data"]["value"], "bar");
    // A killed demo cannot stop its nodes; they stop when their stdin closes.
    drop(again);
    nothing_listens(ports, LONG);

    let mut fresh = Demo::start(folder.path(), ports, &["--fresh"]);
    fresh.until("Ctrl-C");
    assert_eq!(get(&fresh.http(1), "/store/foo").status, 404);
}

#[test]
fn a_demo_joins_more_nodes_and_names_the_missing_ones() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ports = free_ranges();
    let mut one = Demo::start(folder.path(), ports, &["--nodes", "2"]);
    one.until("Ctrl-C");
    one.interrupt();
    assert!(one.child.wait().expect("ends").success());
    let mut three = Demo::start(folder.path(), ports, &["--nodes", "3"]);
    let said = three.until("Ctrl-C");
    assert_eq!(said.matches(" joined").count(), 1, "only the third is new: {said}");
    assert_eq!(get(&three.http(2), "/raft/stats").body["data"]["num_peers"], "2", "{said}");
    three.interrupt();
    assert!(three.child.wait().expect("ends").success());
    let mut two = Demo::start(folder.path(), ports, &["--nodes", "2"]);
    let said = two.until("Ctrl-C");
    assert!(said.contains("has 3 members") && said.contains("--nodes 3"), "the third member is not mentioned: {said}");
    two.interrupt();
    let mut rest = String::new();
    two.output.read_to_string(&mut rest).expect("UTF-8");
    assert!(rest.contains("2 nodes stopped"), "{rest}");
    assert!(two.child.wait().expect("ends").success());
    nothing_listens(ports, Duration::ZERO);
}

#[test]
fn a_port_in_use_is_named_before_any_node_is_started() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [http, raft] = free_ranges();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, raft + 1)).expect("free a moment ago");
    let mut demo = Demo::start(folder.path(), [http, raft], &[]);
    assert_eq!(demo.child.wait().expect("ends").code(), Some(1));
    let mut complaint = String::new();
    demo.child.stderr.take().expect("piped").read_to_string(&mut complaint).expect("UTF-8");
    assert!(complaint.contains(&format!("port {} (for raft of node2) is in use", raft + 1)), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0);
    drop(taken);
    nothing_listens([http, raft], Duration::from_secs(1));
}
