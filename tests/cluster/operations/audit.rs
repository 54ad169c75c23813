//! The audit file: what has a line, what no line has, and what becomes of lines while the file is moved or its disk is full.
//!
//! See also: requests without an answer (`src/http/tests/audit.rs`), a queue without room (`src/telemetry/logging/line_file.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::tokens::TokenFile;
use crate::failures::disk_full::Disk;
use crate::harness::{Need, Node, Request, Setup, check, eventually, secs};

crate::harness::cases![
    every_change_and_denial_has_a_line_without_values_and_secrets,
    membership_changes_and_reloads_have_lines,
    a_moved_file_loses_no_line_under_load,
    a_reload_switches_the_file_on_to_another_path_and_off,
    a_file_that_cannot_be_opened_ends_the_start,
    a_flood_of_denials_is_counted_and_does_not_fill_the_disk,
    lines_wait_for_a_full_disk.needs(Need::Tmpfs),
];

/// A folder for audit files.
fn folder() -> TempDir {
    tempfile::Builder::new().prefix("huskv-audit-").tempdir().unwrap()
}

fn lines_of(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits until the file has so many lines of this event, and returns these.
#[track_caller]
fn events(path: &Path, event: &str, count: usize) -> Vec<Value> {
    eventually(secs(10), format!("{count} lines of {event}"), || {
        let mut found = lines_of(path);
        found.retain(|line| line["event"] == event);
        check(found.len() == count, json!(found)).map(|()| found)
    })
}

fn shape(line: &Value, members: &[&str]) -> Value {
    members.iter().map(|name| line[*name].clone()).collect()
}

fn every_change_and_denial_has_a_line_without_values_and_secrets() {
    let (folder, tokens) = (folder(), TokenFile::of(&[&["root", "--admin"], &["billing", "--write", "b/"]]));
    let path = folder.path().join("audit.log");
    let node = tokens.setup(Setup::named("node1")).set("HUSKV_AUDIT_FILE", path.display()).start();
    let billing = &tokens.secrets[1];
    let ask = |method: &str, target: &str, body: &str| {
        node.request(Request::new(method, target).bearer(billing).body(body)).status
    };
    let value = "a-secret-value";
    let put = Request::new("PUT", "/store/b/k").bearer(billing).header("Idempotency-Key", "once").body(value);
    let index = node.request(put).expect(200, "a put").header("x-raft-index").unwrap().parse::<u64>().unwrap();
    let long = format!("b/{}", "x".repeat(900));
    for (method, target, body, status) in [
        ("POST", "/store", format!(r#"{{"key":"b/k","value":"{value}"}}"#), 200),
        ("PUT", &format!("/store/{long}"), value.to_owned(), 200),
        ("POST", "/touch/b/k", r#"{"ttl":60}"#.to_owned(), 200),
        ("POST", "/txn", format!(r#"{{"then":[{{"op":"put","key":"b/t","value":"{value}"}}]}}"#), 200),
        ("PUT", "/kv/b/kv", format!(r#"{{"value":"{value}"}}"#), 201),
        ("POST", "/keys/b/keys", format!(r#"{{"value":"{value}"}}"#), 200),
        ("PUT", "/store/b/k?ttl=x", value.to_owned(), 400),
        ("DELETE", "/store/b/k", String::new(), 200),
        ("DELETE", "/store?prefix=b/", String::new(), 200),
    ] {
        assert_eq!(ask(method, target, &body), status, "{method} {target}");
    }
    let none = node.request(Request::new("PUT", "/store/b/k").anonymous().body(value));
    assert_eq!(none.status, 401);
    let wrong = billing.replace(&billing[4..8], "AAAA");
    assert_eq!(node.request(Request::new("GET", "/store/b/k").bearer(&wrong)).status, 401);
    assert_eq!(ask("PUT", "/store/a/%0Ak", value), 403);
    assert_eq!(ask("POST", "/txn", &format!(r#"{{"then":[{{"op":"put","key":"a/t","value":"{value}"}}]}}"#)), 403);
    assert_eq!(ask("POST", "/raft/remove", r#"{"node_id":"node1"}"#), 403);

    let writes = events(&path, "write", 10);
    let first = json!(["node1", "billing", "127.0.0.1", "PUT", "/store/:key", "b/k", index, 200, "once"]);
    let members = ["node", "token", "address", "method", "route", "key", "index", "status", "idempotency_key"];
    assert_eq!(shape(&writes[0], &members), first);
    let at = writes[0]["at"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(at).is_ok() && at.len() == 24 && writes[0]["ms"].is_u64(), "{}", writes[0]);
    let shapes: Vec<Value> =
        writes[1..].iter().map(|line| shape(line, &["route", "key", "prefix", "keys", "status"])).collect();
    let shortened = format!("{}...", &long[..256]);
    let expected = [
        json!(["/store", "b/k", null, null, 200]),
        json!(["/store/:key", shortened, null, null, 200]),
        json!(["/touch/:key", "b/k", null, null, 200]),
        json!(["/txn", null, null, ["b/t"], 200]),
        json!(["/kv/:key", "b/kv", null, null, 201]),
        json!(["/keys/:key", "b/keys", null, null, 200]),
        json!(["/store/:key", "b/k", null, null, 400]),
        json!(["/store/:key", "b/k", null, null, 200]),
        json!(["/store", null, "b/", null, 200]),
    ];
    assert_eq!(shapes, expected);
    assert!(writes[9]["index"].as_u64() > Some(index) && writes[7].get("index").is_none(), "{writes:?}");
    let denials: Vec<Value> = events(&path, "denial", 5)
        .iter()
        .map(|line| shape(line, &["token", "method", "route", "key", "keys", "status"]))
        .collect();
    let expected = [
        json!([null, "PUT", "/store/:key", "b/k", null, 401]),
        json!([null, "GET", "/store/:key", "b/k", null, 401]),
        json!(["billing", "PUT", "/store/:key", "a/\nk", null, 403]),
        json!(["billing", "POST", "/txn", null, ["a/t"], 403]),
        json!(["billing", "POST", "/raft/remove", null, null, 403]),
    ];
    assert_eq!(denials, expected);

    has_neither(&path, value, tokens.secrets.iter().chain([&wrong]));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

/// Asserts that the file has neither the value nor a part of a secret.
fn has_neither<'a>(path: &Path, value: &str, secrets: impl Iterator<Item = &'a String>) {
    let text = fs::read_to_string(path).unwrap();
    assert!(!text.contains(value), "a value");
    for secret in secrets {
        assert!(!text.contains(&secret[8..40]), "a secret");
    }
}

fn membership_changes_and_reloads_have_lines() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let node = Setup::named("node1").set("HUSKV_AUDIT_FILE", path.display()).start();
    let other = Setup::named("node2").start();
    node.join(&other).expect(200, "a join");
    node.post("/raft/transfer", &json!({})).expect(200, "a transfer");
    node.remove("node9").expect(200, "nothing to remove");
    node.post("/admin/reload", &json!({})).expect(200, "a reload");
    node.sighup();
    let changes = events(&path, "membership", 3);
    let shapes: Vec<Value> = changes.iter().map(|line| shape(line, &["route", "member", "status", "token"])).collect();
    let expected = [
        json!(["/raft/join", "node2", 200, null]),
        json!(["/raft/transfer", "node2", 200, null]),
        json!(["/raft/remove", "node9", 200, null]),
    ];
    assert_eq!(shapes, expected);
    assert!(changes[0]["index"].is_u64(), "{changes:?}");
    let reloads: Vec<Value> =
        events(&path, "reload", 2).iter().map(|line| shape(line, &["method", "route", "address", "status"])).collect();
    let by_client = json!(["POST", "/admin/reload", "127.0.0.1", 200]);
    assert_eq!(reloads, [by_client, json!(["SIGHUP", null, null, 200])]);
}

fn a_moved_file_loses_no_line_under_load() {
    let folder = folder();
    let path = folder.path().join("audit.log");
    let moved = |number: usize| folder.path().join(format!("audit.log.{number}"));
    let mut node = Setup::named("node1").set("HUSKV_AUDIT_FILE", path.display()).start();
    let puts = 300;
    for number in 0..puts {
        if number % 100 == 50 {
            // The file of the last signal.
            eventually(secs(10), "there is a file to move", || check(path.exists(), "there is none"));
            fs::rename(&path, moved(number)).unwrap();
            node.sighup();
        }
        node.put(&format!("k{number}"), number);
    }
    // A signal has its line in the new file.
    events(&path, "reload", 1);
    node.put("last", 1);
    assert!(node.sigterm().success());
    let files: Vec<PathBuf> = [50, 150, 250].into_iter().map(moved).chain([path.clone()]).collect();
    let keys = |path: &PathBuf| -> Vec<String> {
        let writes = lines_of(path).into_iter().filter(|line| line["event"] == "write");
        writes.map(|line| line["key"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let all: Vec<String> = files.iter().flat_map(keys).collect();
    let expected: Vec<String> = (0..puts).map(|number| format!("k{number}")).chain(["last".to_owned()]).collect();
    assert_eq!(all, expected, "each line once, in order");
    assert!(keys(&path).contains(&"last".to_owned()), "the new file is in use, and was written before the end");
}

fn a_reload_switches_the_file_on_to_another_path_and_off() {
    let folder = folder();
    let path = |name: &str| folder.path().join(name);
    let settings = path("huskv.toml");
    let write = |file: &str| fs::write(&settings, format!("[audit]\nfile = {file:?}\n")).unwrap();
    let named = |name: &str| path(name).display().to_string();
    write("");
    let node = Setup::named("node1").set("HUSKV_CONFIG", settings.display()).start();
    let put = |key: &str| node.put(key, 1);
    let reload = || node.post("/admin/reload", &json!({}));
    put("unrecorded");
    write(&named("one"));
    let report = reload().expect(200, "on").data();
    assert_eq!(report["applied"], json!([{ "key": "audit.file", "old": "", "new": named("one") }]));
    put("first");
    write(&named("no/such"));
    let problem = reload().problem(422, "a folder that is missing").code("reload_failed", "a folder");
    assert!(
        problem.word("detail").starts_with(&format!("audit.file: cannot open {:?}", named("no/such"))),
        "{problem}"
    );
    put("second");
    write(&named("two"));
    reload().expect(200, "another path");
    put("third");
    write("");
    reload().expect(200, "off");
    put("fourth");
    let keys = |name: &str, count| -> Vec<Value> {
        events(&path(name), "write", count).iter().map(|line| line["key"].clone()).collect()
    };
    assert_eq!(keys("one", 2), [json!("first"), json!("second")]);
    assert_eq!(keys("two", 1), [json!("third")]);
    // A file that is switched off says so in its last line.
    let last = |name: &str| shape(lines_of(&path(name)).last().unwrap(), &["event", "next"]);
    assert_eq!(last("one"), json!(["closed", named("two")]));
    assert_eq!(last("two"), json!(["closed", null]));
}

fn a_flood_of_denials_is_counted_and_does_not_fill_the_disk() {
    let (folder, tokens) = (folder(), TokenFile::of(&[&["root", "--admin"]]));
    let path = folder.path().join("audit.log");
    let node = tokens.setup(Setup::named("node1")).set("HUSKV_AUDIT_FILE", path.display()).start();
    let began = std::time::Instant::now();
    for _ in 0..400 {
        assert_eq!(node.request(Request::new("GET", "/store/k").anonymous()).status, 401);
    }
    let most = 50 * usize::try_from(began.elapsed().as_secs() + 2).unwrap();
    node.put("k", 1);
    eventually(secs(10), "every denial is written or counted, and the write behind them is there", || {
        let lines = lines_of(&path);
        let of = |event: &str| lines.iter().filter(|line| line["event"] == event).cloned().collect::<Vec<Value>>();
        let missing: u64 = of("missing").iter().filter_map(|line| line["lines"].as_u64()).sum();
        let written = of("denial").len();
        assert!(written <= most, "{written} of at most {most}");
        check(written as u64 + missing == 400 && of("write").len() == 1, json!([written, missing]))
    });
    // A file of something else is never appended to.
    let before = fs::read(tokens.path()).unwrap();
    let mut other = Setup::named("node2").set("HUSKV_AUDIT_FILE", tokens.path().display()).spawn();
    assert_eq!(other.await_exit(secs(20)).code(), Some(1));
    assert!(other.log().contains("something else than JSON lines"), "{}", other.log());
    assert_eq!(fs::read(tokens.path()).unwrap(), before);
}

fn a_file_that_cannot_be_opened_ends_the_start() {
    let folder = folder();
    let refused = |path: &Path, reason: &str| {
        let mut node: Node = Setup::named("node1").set("HUSKV_AUDIT_FILE", path.display()).spawn();
        assert_eq!(node.await_exit(secs(20)).code(), Some(1));
        let log = node.log();
        let last = log.trim_end().lines().last().unwrap_or_default();
        let names = ["huskv cannot start: audit.file: cannot open", &path.display().to_string(), reason];
        assert!(names.iter().all(|name| last.contains(name)), "{log}");
        assert!(!node.directory().exists(), "nothing was created");
    };
    refused(&folder.path().join("none/audit.log"), "No such file");
    refused(folder.path(), "no regular file");
}

fn lines_wait_for_a_full_disk() {
    let disk = Disk::of(1);
    let path = disk.data_dir();
    let node = Setup::named("node1").set("HUSKV_AUDIT_FILE", path.display()).start();
    node.put("before", 1);
    events(&path, "write", 1);
    disk.fill();
    // More than the rest of the last page of the file, so that the disk breaks off in a line.
    let key = |number: usize| format!("{number}-{}", "k".repeat(200));
    for number in 0..100 {
        node.put(&key(number), 1);
    }
    eventually(secs(10), "the log says so, once", || {
        let lines = node.log().lines().filter(|line| line.contains("the audit file cannot be written")).count();
        check(lines == 1, node.log())
    });
    let writes = || lines_of_whole(&path).len();
    assert!(writes() < 101, "the disk is full");
    disk.give_back();
    let found = eventually(secs(10), "all lines are written", || {
        check(writes() == 101, writes().to_string()).map(|()| lines_of(&path))
    });
    assert!(found.iter().all(|line| line["event"] == "write"), "none is missing");
    assert_eq!(found[100]["key"], key(99));
    eventually(secs(10), "the log says that it works again", || {
        check(node.log().contains("the audit file is written again"), node.log())
    });
}

/// The lines that are written to their end.
fn lines_of_whole(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::to_owned).collect()
}
