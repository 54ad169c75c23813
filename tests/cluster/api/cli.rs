//! Subcommands against a live cluster: output and exit codes.
//!
//! Invariants: nothing but the flags and variables of the test reaches the subcommand.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::harness::{Cluster, Setup, binary, check, eventually, secs};

crate::harness::cases![
    get_prints_values_byte_for_byte_and_exit_codes_tell_the_outcome,
    an_empty_value_is_stored_only_where_it_is_meant,
    conditions_decide_and_exit_with_4,
    list_reads_all_pages_and_delete_removes_a_prefix,
    transactions_are_read_from_stdin_and_files,
    a_dead_first_endpoint_is_skipped,
    subcommands_survive_a_failover,
    a_write_without_a_quorum_was_not_applied_or_is_unknown,
    join_remove_and_transfer_change_members_and_leader,
    wrong_flags_are_one_line_and_exit_code_2,
    completions_name_the_subcommands,
    a_watch_skips_no_event_when_its_node_dies_and_prints_how_to_resume,
];

struct Output {
    code: Option<i32>,
    out: Vec<u8>,
    err: String,
}

impl Output {
    #[track_caller]
    fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.text(), self.err);
        assert_eq!(self.err.lines().count(), usize::from(code != 0), "one line where it fails: {}", self.err);
        self
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_slice(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }
}

/// A shell that knows a cluster.
struct Shell {
    endpoints: String,
}

impl Shell {
    fn of(cluster: &Cluster) -> Self {
        Self { endpoints: cluster.addresses().join(",") }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.feed(arguments, b"")
    }

    fn feed(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut child = Command::new(binary())
            .env_clear()
            .env("HUSKV_ENDPOINTS", &self.endpoints)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("huskv can be started");
        // A subcommand that reads no stdin may be gone already.
        let _ = child.stdin.take().expect("stdin").write_all(stdin);
        let output = child.wait_with_output().expect("it ends");
        let err = String::from_utf8(output.stderr).expect("UTF-8");
        Output { code: output.status.code(), out: output.stdout, err }
    }
}

fn get_prints_values_byte_for_byte_and_exit_codes_tell_the_outcome() {
    let cluster = Cluster::of(3);
    let shell = Shell::of(&cluster);
    let version: u64 = shell.run(&["put", "foo", "bar"]).exits(0).text().trim().parse().expect("a version");
    assert_eq!(shell.run(&["get", "foo"]).exits(0).out, b"bar", "the value, and no line's end");
    let item = shell.run(&["get", "foo", "--json"]).exits(0).json();
    assert_eq!(
        item,
        json!({"key": "foo", "value": "bar", "version": version, "create_version": version,
            "content_type": "text/plain; charset=utf-8"})
    );
    // Any bytes, any key, from stdin; `-` and no value mean the same.
    let binary: Vec<u8> = (0..=255).chain(*b"\r\n\n").collect();
    for arguments in [&["put", "a b/../ü%/", "-"][..], &["put", "a b/../ü%/"]] {
        shell.feed(arguments, &binary).exits(0);
        assert_eq!(shell.run(&["get", "a b/../ü%/"]).exits(0).out, binary);
        shell.run(&["delete", "a b/../ü%/"]).exits(0);
    }
    shell.run(&["put", "number", "-5"]).exits(0);
    assert_eq!(shell.run(&["get", "number", "--stale", "--min-index", "1"]).exits(0).out, b"-5");
    let typed = ["put", "json", r#"{"n": 1.10}"#, "--content-type", "application/json", "--json"];
    assert_eq!(shell.run(&typed).exits(0).json()["key"], "json");
    assert!(shell.run(&["get", "json", "--json"]).text().contains(r#""value":{"n": 1.10}"#), "digits are kept");

    let missing = shell.run(&["get", "missing"]).exits(3);
    assert!(missing.out.is_empty() && missing.err.contains("missing"), "{}", missing.err);
    shell.run(&["get", "missing", "--json"]).exits(3);
    assert_eq!(shell.run(&["delete", "foo"]).exits(0).text(), "1\n");
    assert_eq!(shell.run(&["delete", "foo", "--json"]).exits(0).json(), json!({"deleted": 0}));
}

fn an_empty_value_is_stored_only_where_it_is_meant() {
    let cluster = Cluster::of(1);
    let shell = Shell::of(&cluster);
    shell.run(&["put", "conf", "precious"]).exits(0);
    for arguments in
        [&["put", "conf", ""][..], &["put", "conf"], &["put", "conf", "-"], &["put", "conf", "", "--content-type", ""]]
    {
        let refused = shell.run(arguments).exits(2);
        for way in ["--empty", "--content-type"] {
            assert!(refused.err.contains(way), "{arguments:?}: {}", refused.err);
        }
        assert_eq!(shell.run(&["get", "conf"]).exits(0).text(), "precious", "{arguments:?}");
    }
    for arguments in [&["put", "conf", "", "--empty"][..], &["put", "conf", "--content-type", "text/csv"]] {
        shell.run(&["put", "conf", "precious"]).exits(0);
        shell.run(arguments).exits(0);
        assert_eq!(shell.run(&["get", "conf"]).exits(0).text(), "", "{arguments:?}");
    }
    shell.run(&["put", "conf", "not empty", "--empty"]).exits(0);
    assert_eq!(shell.run(&["get", "conf"]).exits(0).text(), "not empty");
}

fn conditions_decide_and_exit_with_4() {
    let cluster = Cluster::of(3);
    let shell = Shell::of(&cluster);
    let version = shell.run(&["put", "lock", "me", "--create-only"]).exits(0).text();
    let taken = shell.run(&["put", "lock", "you", "--create-only"]).exits(4);
    assert!(taken.err.contains("precondition_failed") && taken.err.contains(version.trim()), "{}", taken.err);
    shell.run(&["put", "lock", "you", "--if-version", "0"]).exits(4);
    let next = shell.run(&["put", "lock", "still me", "--if-version", version.trim()]).exits(0).text();
    shell.run(&["put", "lock", "you", "--if-version", version.trim()]).exits(4);
    shell.run(&["delete", "lock", "--if-version", version.trim()]).exits(4);
    assert_eq!(shell.run(&["get", "lock"]).text(), "still me");
    shell.run(&["delete", "lock", "--if-version", next.trim()]).exits(0);
    shell.run(&["delete", "lock", "--if-exists"]).exits(4);
    shell.run(&["put", "lock", "x", "--if-exists"]).exits(4);
}

fn list_reads_all_pages_and_delete_removes_a_prefix() {
    let cluster = Cluster::of(1);
    let shell = Shell::of(&cluster);
    // More than one page has, and more than one removal takes.
    let put = |from: usize, to: usize| -> Vec<Value> {
        (from..to).map(|at| json!({"op": "put", "key": format!("many/{at:04}"), "value": at})).collect()
    };
    for from in (0..1280).step_by(128) {
        cluster.nodes[0].post("/txn", &json!({"then": put(from, from + 128)})).expect(200, "writing many keys");
    }
    shell.run(&["put", "zoo", "a\tb\nc"]).exits(0);
    let keys = shell.run(&["list", "--prefix", "many/", "--keys"]).exits(0).text();
    assert_eq!(
        keys.lines().map(str::to_owned).collect::<Vec<_>>(),
        (0..1280).map(|at| format!("many/{at:04}")).collect::<Vec<_>>()
    );
    assert_eq!(
        shell.run(&["list", "--start", "many/1278"]).text(),
        "many/1278\t1278\nmany/1279\t1279\nzoo\ta\\tb\\nc\n"
    );
    assert_eq!(shell.run(&["list", "--keys", "--limit", "1", "--reverse", "--end", "zoo"]).text(), "many/1279\n");
    assert_eq!(shell.run(&["list", "--keys", "--limit", "1005"]).text().lines().count(), 1005);
    let lines = shell.run(&["list", "--json", "--limit", "3"]).text();
    let values: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["value"].clone()).collect();
    assert_eq!(values, [0, 1, 2]);
    assert_eq!(shell.run(&["delete", "--prefix", "many/"]).exits(0).text(), "1280\n");
    assert_eq!(shell.run(&["list"]).exits(0).text(), "zoo\ta\\tb\\nc\n");
    shell.run(&["delete", "--prefix", ""]).exits(1);
}

fn transactions_are_read_from_stdin_and_files() {
    let cluster = Cluster::of(3);
    let shell = Shell::of(&cluster);
    let body = json!({
        "if": [{"key": "a", "exists": false}],
        "then": [{"op": "put", "key": "a", "value": 1}],
        "else": [{"op": "get", "key": "a"}],
    })
    .to_string();
    let done = shell.feed(&["txn"], body.as_bytes()).exits(0).json();
    assert_eq!(done["succeeded"], true, "{done}");
    let file = cluster.nodes[0].home().join("txn.json");
    std::fs::write(&file, &body).expect("writing the file");
    let other = shell.run(&["txn", &file.display().to_string()]).exits(4).json();
    assert_eq!((&other["succeeded"], &other["results"][0]["value"]), (&json!(false), &json!(1)), "{other}");
    let bad = shell.feed(&["txn", "-"], b"{\"then\": 1}").exits(1);
    assert!(bad.err.contains("`then`") && bad.err.contains("bad_body"), "{}", bad.err);
    shell.run(&["txn", "/no/such/file"]).exits(1);
}

fn a_dead_first_endpoint_is_skipped() {
    let mut cluster = Cluster::of(3);
    let shell = Shell::of(&cluster);
    let dead = if cluster.agreed() == 0 { 1 } else { 0 };
    cluster.nodes.swap(0, dead);
    let shell = Shell { endpoints: format!("{},{}", cluster.nodes[0].http, shell.endpoints) };
    cluster.nodes[0].kill9();
    shell.run(&["put", "foo", "bar"]).exits(0);
    assert_eq!(shell.run(&["get", "foo"]).exits(0).out, b"bar");
    assert_eq!(shell.run(&["list", "--keys"]).exits(0).text(), "foo\n");
    assert_eq!(shell.run(&["members"]).exits(0).text().lines().count(), 3);
    // The flag is stronger than the variable.
    let gone = cluster.nodes[0].http.clone();
    let refused = shell.run(&["put", "foo", "x", "--endpoints", &gone, "--timeout", "300ms"]).exits(1);
    assert!(refused.err.contains(&gone) && refused.err.contains("no_answer"), "never sent: {}", refused.err);
}

fn subcommands_survive_a_failover() {
    let mut cluster = Cluster::of(3);
    let shell = Shell::of(&cluster);
    shell.run(&["put", "before", "1"]).exits(0);
    let leader = cluster.agreed();
    cluster.nodes[leader].kill9();
    // At once, with an election still to come.
    shell.run(&["put", "after", "2", "--timeout", "30s"]).exits(0);
    assert_eq!(shell.run(&["list", "--timeout", "30s"]).exits(0).text(), "after\t2\nbefore\t1\n");
}

fn a_write_without_a_quorum_was_not_applied_or_is_unknown() {
    let mut cluster = Cluster::of(3);
    let shell = Shell::of(&cluster);
    shell.run(&["put", "foo", "bar"]).exits(0);
    let followers = cluster.followers();
    for follower in &followers {
        cluster.nodes[*follower].kill9();
    }
    // The leader takes the write, does not hear of its followers, and cannot say what becomes of it.
    let unknown = shell.run(&["put", "foo", "baz", "--timeout", "500ms"]).exits(5);
    assert!(unknown.err.contains("not known"), "{}", unknown.err);
    // Once it has stepped down it takes nothing any more.
    eventually(secs(30), "a write is refused as not applied", || {
        let refused = shell.run(&["put", "foo", "never", "--timeout", "500ms"]);
        check(refused.code == Some(1) && refused.err.contains("no_leader"), refused.err)
    });
    let read = shell.run(&["get", "foo", "--timeout", "500ms"]);
    assert_eq!(read.code, Some(1), "{}", read.err);
    assert_eq!(shell.run(&["get", "foo", "--stale"]).exits(0).out, b"bar");
}

fn join_remove_and_transfer_change_members_and_leader() {
    let cluster = Cluster::of(2);
    let shell = Shell::of(&cluster);
    let third = Setup::named("node3").start();
    let said = shell.run(&["join", "node3", &third.raft]).exits(0).text();
    assert!(said.contains("node3") && said.contains("joined successfully"), "{said}");
    let rows = shell.run(&["members"]).exits(0).text();
    let row = rows.lines().find(|line| line.starts_with("node3  voter  ")).unwrap_or_else(|| panic!("{rows}"));
    assert!(row.contains(&third.raft) && row.contains(&third.http), "{row}");
    let said = shell.run(&["transfer", "node3", "--json"]).exits(0).json();
    assert_eq!(said["message"], "leadership moved to node node3");
    eventually(secs(10), "all know who leads", || {
        let table = shell.run(&["members", "--json"]).json();
        check(
            table["leader"]["node_id"] == "node3" && table["members"].as_array().map(Vec::len) == Some(3),
            table.to_string(),
        )
    });
    assert!(shell.run(&["members"]).text().contains("node3  voter, leads  "));
    shell.run(&["transfer", "unknown"]).exits(1);
    shell.run(&["remove", "node3"]).exits(0);
    let outside = Shell { endpoints: third.http.clone() };
    eventually(secs(10), "the removed node knows", || {
        let said = outside.run(&["members"]);
        check(said.code == Some(1) && said.err.contains("belongs to no cluster"), said.err)
    });
    let seen = shell.run(&["status", "--json"]).json();
    assert_eq!((&seen["ready"], seen["nodes"].as_array().map(Vec::len)), (&json!(true), Some(2)), "{seen}");
    for node in seen["nodes"].as_array().into_iter().flatten() {
        assert_eq!((&node["ready"], &node["stats"]["num_peers"]), (&json!(true), &json!("1")), "{node}");
        assert!(node["error"].is_null() && node["checks"].as_array().is_some_and(|checks| checks.len() == 6), "{node}");
    }
}

fn wrong_flags_are_one_line_and_exit_code_2() {
    let shell = Shell { endpoints: "127.0.0.1:1".into() };
    for (arguments, word) in [
        (&["get"][..], "KEY"),
        (&["put", "k", "v", "--create-only", "--if-version", "3"], "--if-version"),
        (&["put", "k", "v", "--ttl", "0"], "--ttl"),
        (&["put", "k", "v", "--timeout", "5"], "--timeout"),
        (&["get", "k", "--max-stale", "1s"], "--stale"),
        (&["delete", "k", "--prefix", "p"], "--prefix"),
        (&["list", "--limit", "0"], "--limit"),
        (&["watch"], "--prefix"),
        (&["get", "k", "--endpoints", "https://a:1"], "HUSKV_CA"),
        (&["get", "k", "--endpoints", "https://a:1,b:2"], "all or none"),
        (&["get", "k", "--endpoints", "a:1 a:2"], "commas"),
        (&["get", "k", "--endpoints", "a:1;a:2"], "commas"),
        (&["get", "k", "--endpoints", "a:1,"], "a part of the list is empty"),
        (&["put", "", "x"], "the key is empty"),
        (&["get", ""], "the key is empty"),
        (&["delete", ""], "the key is empty"),
        (&["watch", ""], "the key is empty"),
        (&["completions", "tcsh"], "tcsh"),
    ] {
        let said = shell.run(arguments).exits(2);
        assert!(said.err.contains(word), "{arguments:?}: {}", said.err);
    }
    let wrong = Shell { endpoints: "localhost".into() };
    assert!(wrong.run(&["get", "k"]).exits(2).err.contains("HUSKV_ENDPOINTS"));
    assert!(wrong.run(&["status"]).exits(2).err.contains("HUSKV_ENDPOINTS"));
}

fn completions_name_the_subcommands() {
    let shell = Shell { endpoints: "127.0.0.1:1".into() };
    for name in ["bash", "zsh", "fish"] {
        let text = shell.run(&["completions", name]).exits(0).text();
        for word in ["transfer", "watch", "idempotency-key"] {
            assert!(text.contains(word), "{name} lacks {word}");
        }
    }
}

/// A `huskv watch` under way, killed with the test.
struct WatchProcess {
    child: Child,
    lines: mpsc::Receiver<String>,
    words: mpsc::Receiver<String>,
}

fn lines_of(out: impl std::io::Read + Send + 'static) -> mpsc::Receiver<String> {
    let (tell, lines) = mpsc::channel();
    let out = BufReader::new(out);
    std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
    lines
}

impl WatchProcess {
    fn start(shell: &Shell, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .env_clear()
            .env("HUSKV_ENDPOINTS", &shell.endpoints)
            .arg("watch")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("huskv can be started");
        let lines = lines_of(child.stdout.take().expect("stdout"));
        let words = lines_of(child.stderr.take().expect("stderr"));
        Self { child, lines, words }
    }

    /// The next line on stderr.
    #[track_caller]
    fn word(&self) -> String {
        self.words.recv_timeout(secs(40)).expect("a word in time")
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(secs(40)).expect("a line in time")
    }
}

impl Drop for WatchProcess {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the process is gone then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn a_watch_skips_no_event_when_its_node_dies_and_prints_how_to_resume() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    // The node that is watched, and that dies, leads.
    cluster.nodes.swap(0, leader);
    let shell = Shell::of(&cluster);
    let first = shell.run(&["put", "a/0", "0"]).exits(0).text();
    let watching = WatchProcess::start(&shell, &["--prefix", "a/", "--from", first.trim()]);
    assert_eq!(watching.line(), format!("{}\tput\ta/0\t0", first.trim()));
    shell.run(&["put", "b/1", "not watched"]).exits(0);
    shell.run(&["put", "a/1", "1"]).exits(0);
    assert!(watching.line().ends_with("\tput\ta/1\t1"));
    cluster.nodes[0].kill9();
    for at in 2..6 {
        shell.run(&["put", &format!("a/{at}"), "x", "--timeout", "30s"]).exits(0);
    }
    shell.run(&["delete", "a/0", "--timeout", "30s"]).exits(0);
    for at in 2..6 {
        let line = watching.line();
        assert!(line.ends_with(&format!("\tput\ta/{at}\tx")), "{line}");
    }
    let deleted = watching.line();
    assert!(deleted.ends_with("\tdelete\ta/0"), "{deleted}");
    // From an id, in JSON; then progress comes too.
    let id = deleted.split('\t').next().expect("an id");
    let version = shell.run(&["put", "a/9", "9"]).exits(0).text();
    let after = WatchProcess::start(&shell, &["--prefix", "", "--after", id, "--json"]);
    let event = |line: String| serde_json::from_str::<Value>(&line).expect("JSON");
    let put = event(after.line());
    assert_eq!(
        (&put["id"], &put["event"], &put["data"]["key"]),
        (&json!(version.trim()), &json!("put"), &json!("a/9"))
    );
    assert_eq!(event(after.line())["event"], "progress");

    // An id of a cluster that was made anew since.
    let anew = WatchProcess::start(&shell, &["--prefix", "a/", "--after", "500000"]);
    assert!(anew.word().contains("made anew"), "it is said");
    let version = shell.run(&["put", "a/10", "10"]).exits(0).text();
    assert_eq!(anew.line(), format!("{}\tput\ta/10\t10", version.trim()));

    let gone = shell.run(&["watch", "a/0", "--from", "1"]).exits(1);
    assert!(gone.err.contains("compacted") && gone.err.contains("huskv status"), "{}", gone.err);
}
