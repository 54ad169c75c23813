//! `huskv bench` against a real node: the report of a short run.
//!
//! Invariants: the figures must agree with each other; none is compared with a speed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The time limit of a start on a busy machine, in a debug build.
const LONG: Duration = Duration::from_secs(60);

/// A running node; dropped, it is killed.
struct Node {
    child: Child,
    http: String,
    raft: String,
    home: TempDir,
}

impl Node {
    fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let child = huskv(home.path(), &[])
            .envs([("SERVER_PORT", "0"), ("RAFT_PORT", "0")])
            .stderr(Stdio::null())
            .spawn()
            .expect("huskv can be started");
        let mut node = Self { child, http: String::new(), raft: String::new(), home };
        let begun = Instant::now();
        while node.http.is_empty() {
            assert!(begun.elapsed() < LONG, "the node does not start");
            std::thread::sleep(Duration::from_millis(20));
            let written = fs::read_to_string(node.home.path().join("data/node1/addresses.json")).unwrap_or_default();
            let addresses: Value = serde_json::from_str(&written).unwrap_or_default();
            let word = |name: &str| addresses[name].as_str().unwrap_or_default().to_owned();
            (node.http, node.raft) = (word("http"), word("raft"));
        }
        while !node.is_ready() {
            assert!(begun.elapsed() < LONG, "the node is not ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn is_ready(&self) -> bool {
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        let mut answer = String::new();
        TcpStream::connect(&self.http).is_ok_and(|mut stream| {
            stream.write_all(request.as_bytes()).and_then(|()| stream.read_to_string(&mut answer)).is_ok()
                && answer.starts_with("HTTP/1.1 200")
        })
    }

    /// Runs `huskv bench` against the node, and returns the report.
    fn bench(&self, duration: &str, arguments: &[&str]) -> Value {
        let always = ["bench", "--to", &self.http, "--clients", "4", "--warmup", "200ms", "--json", "--no-progress"];
        let arguments = [&always[..], &["--duration", duration], arguments].concat();
        let output = huskv(self.home.path(), &arguments).output().expect("huskv can be started");
        assert_eq!(text(&output.stderr), "", "{arguments:?}");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn huskv(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_huskv"));
    command.current_dir(folder).env_clear().args(arguments).stdin(Stdio::null());
    command
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn number(result: &Value, path: &str) -> f64 {
    result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {result}"))
}

#[test]
fn the_counters_of_a_closed_loop_agree_with_the_node() {
    let node = Node::start();
    let pid = node.child.id().to_string();
    let result = node.bench("2s", &["--pids", &pid, "--disk", "."]);
    assert_eq!((number(&result, "/failed"), number(&result, "/missing")), (0.0, 0.0), "{result}");
    let rate = number(&result, "/ops_per_second");
    assert!((rate - number(&result, "/done") / 2.0).abs() < 1.0, "{result}");
    // Each client was waiting for an answer nearly all of the two seconds, and for its last one maybe longer.
    let waited = number(&result, "/put/count") * number(&result, "/put/mean_ms") / 4.0;
    let last = number(&result, "/put/max_ms");
    assert!(waited < 2_000.0 + last && waited > 0.6 * (2_000.0 - last), "{waited} ms a client: {result}");
    let quantiles =
        ["p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"].map(|name| number(&result["put"], &format!("/{name}")));
    assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{result}");
    assert!(number(&result, "/longest_gap_ms") <= 2_000.0);
    assert!(number(&result, "/disk/syncs_per_second") > 0.0);
    if Path::new("/proc/self/stat").exists() {
        assert!(
            number(&result, "/server_cpu_us_per_op") > 0.0 && number(&result, "/generator_cores") > 0.0,
            "{result}"
        );
        let by_thread = result["cpu_us_per_op_by_thread"].as_object().expect("CPU time by thread");
        let sum: f64 = by_thread.values().filter_map(Value::as_f64).sum();
        let all = number(&result, "/server_cpu_us_per_op");
        // /proc counts each thread in ticks of 10 ms, so the sum of all threads differs a little from the process.
        assert!(sum >= all - 1.0 && sum < 1.5 * all + 50.0, "{result}");
        assert!(by_thread.contains_key("consensus") && by_thread.contains_key("sled-io"), "{result}");
    }
    assert!(result.get("get").is_none(), "nothing was read: {result}");
}

#[test]
fn reads_find_the_preloaded_keys_and_an_open_loop_keeps_its_rate() {
    let node = Node::start();
    let gets = node.bench("500ms", &["--op", "get", "--keys", "50", "--ask", "leader", "--value-bytes", "2000"]);
    assert!(number(&gets, "/done") > 0.0 && number(&gets, "/missing") == 0.0, "{gets}");
    let cold = node.bench("500ms", &["--op", "get", "--no-load", "--prefix", "other-", "--stale"]);
    assert_eq!(cold["missing"], cold["done"], "nothing was loaded: {cold}");
    let pages = node.bench("500ms", &["--op", "list", "--keys", "50", "--limit", "20", "--reverse", "--stale"]);
    assert!(number(&pages, "/list/count") > 0.0 && number(&pages, "/failed") == 0.0, "{pages}");
    let mixed = node.bench("1s", &["--op", "mixed", "--rate", "200", "--keys", "50", "--distribution", "zipf"]);
    let due = number(&mixed, "/put/count") + number(&mixed, "/get/count");
    // Every operation that was due is there, whether it was in time or not.
    assert!((199.0..=201.0).contains(&due), "{mixed}");
}

#[test]
fn a_stall_counts_for_every_operation_that_it_delays() {
    let node = Node::start();
    let pid = node.child.id().to_string();
    let signal =
        |name: &str| assert!(Command::new("kill").args([name, &pid]).status().expect("kill is there").success());
    let result = std::thread::scope(|scope| {
        let run = scope.spawn(|| node.bench("2s", &["--rate", "200"]));
        std::thread::sleep(Duration::from_millis(1_200));
        signal("-STOP");
        std::thread::sleep(Duration::from_millis(600));
        signal("-CONT");
        run.join().expect("the run ends")
    });
    // A closed loop would have seen four slow operations of some hundreds; here a quarter of what was due had to wait.
    assert!(number(&result, "/put/p90_ms") > 150.0, "the stall is hidden: {result}");
    assert!(number(&result, "/longest_gap_ms") > 400.0, "{result}");
    assert!((399.0..=401.0).contains(&number(&result, "/put/count")), "{result}");
}

#[test]
fn usage_errors_are_one_line() {
    let node = Node::start();
    let run = |arguments: &[&str]| {
        let output = huskv(node.home.path(), &[&["bench", "--no-progress"], arguments].concat()).output();
        output.expect("huskv can be started")
    };
    for (arguments, code, word) in [
        (&["--to", "http://localhost:1"][..], 2, "scheme"),
        (&["--duration", "0s"], 2, "zero"),
        (&["--to", &node.http, "--pids", "4000000000"], 1, "4000000000"),
        (&["--to", &node.http, "--disk", "missing"], 1, "cannot measure the disk"),
        (&["--to", "localhost:1"], 1, "cannot reach localhost:1"),
    ] {
        let output = run(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {complaint}");
        assert!(complaint.contains(word) && complaint.lines().count() == 1, "{arguments:?}: {complaint}");
    }
    let output = run(&["--to", &node.raft, "--duration", "200ms", "--warmup", "0s"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("failed") && text(&output.stderr).contains("no operation succeeded"));
}
