//! Startup errors of the binary: exit code, one line on stderr, and no file created.
//!
//! See also: `tests/cluster` for running nodes, `config.rs` for the settings.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// Runs huskv in `folder` with these environment variables only.
fn huskv(folder: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_huskv"))
        .current_dir(folder)
        .env_clear()
        .envs(variables.iter().copied())
        .args(arguments)
        .output()
        .expect("huskv can be started")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Asserts that huskv refuses with `code`, in one line that holds every one of `words`, and leaves nothing behind.
fn refuses(code: i32, variables: &[(&str, &str)], arguments: &[&str], words: &[&str]) {
    let folder = folder();
    let output = huskv(folder.path(), variables, arguments);
    let complaint = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{variables:?} {arguments:?}: {complaint}");
    for word in words {
        assert!(complaint.contains(word), "{word:?} is missing in {complaint}");
    }
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0, "{variables:?} created something");
    if code == 2 {
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
    }
}

#[test]
fn wrong_settings_are_one_line_and_exit_code_2() {
    refuses(2, &[("RAFT_PORT", "eleven")], &[], &["raft.port", "eleven", "variable RAFT_PORT"]);
    refuses(2, &[("SERVER_PORT", "65536")], &["serve"], &["server.port", "65536", "variable SERVER_PORT"]);
    refuses(2, &[("SERVER_PORT", "7"), ("RAFT_PORT", "7")], &[], &["server.port", "RAFT_PORT", "SERVER_PORT"]);
    refuses(2, &[("HUSKV_HOST", "http://localhost")], &[], &["host", "scheme", "variable HUSKV_HOST"]);
    refuses(2, &[("HUSKV_HOST", "0.0.0.0")], &[], &["HUSKV_ADVERTISE_HOST", "HUSKV_HOST"]);
    refuses(2, &[("HUSKV_JOIN", "a:1,http://b:2")], &[], &["join", "http://b:2", "variable HUSKV_JOIN"]);
    refuses(2, &[("HUSKV_TICK_MS", "5")], &[], &["HUSKV_TICK_MS", "unknown"]);
    refuses(2, &[("HUSKV_CONFIG", "missing.toml")], &[], &["missing.toml", "variable HUSKV_CONFIG"]);
    refuses(2, &[], &["--raft-tick-ms", "-5"], &["raft.tick_ms", "-5", "flag --raft-tick-ms"]);
    refuses(2, &[], &["--raft-tick-ms", ""], &["raft.tick_ms", "empty"]);
    refuses(2, &[], &["--colour", "red"], &["--colour"]);
    refuses(2, &[], &["serf"], &["serf"]);
    refuses(2, &[], &["demo", "--nodes", "0"], &["--nodes"]);
}

#[test]
fn an_error_in_the_file_names_the_file() {
    let files = folder();
    let file = files.path().join("kv.toml");
    let path = file.to_str().expect("UTF-8");
    for (content, words) in
        [("[raft]\ntik_ms = 1\n", ["raft.tik_ms", "unknown"]), ("host = 'a\n", ["line 1", "config"])]
    {
        fs::write(&file, content).expect("writable");
        refuses(2, &[("HUSKV_CONFIG", path)], &[], &[&words[..], &[path]].concat());
        refuses(2, &[], &["--config", path], &[&words[..], &[path]].concat());
    }
}

#[test]
fn help_and_version_are_printed_on_stdout() {
    let folder = folder();
    let help = huskv(folder.path(), &[], &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in ["demo", "--raft-tick-ms", "RAFT_VOL_DIR", "HUSKV_JOIN", "data/{node_id}"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let version = huskv(folder.path(), &[], &["--version"]);
    assert_eq!(text(&version.stdout), format!("huskv {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_port_in_use_is_named_and_nothing_is_created() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    refuses(1, &[("SERVER_PORT", "0"), ("RAFT_PORT", &port)], &[], &[&port, "RAFT_PORT", "in use"]);
    refuses(1, &[("SERVER_PORT", &port), ("RAFT_PORT", "0")], &[], &[&port, "SERVER_PORT", "in use"]);
    refuses(1, &[("HUSKV_HOST", "no-such-host.invalid")], &[], &["no-such-host.invalid", "HUSKV_HOST"]);
}

#[test]
fn a_misspelt_short_variable_causes_a_warning() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let variables = [("SERVER_PORT", "0"), ("RAFT_PORT", &port), ("RAFT_NODEID", "node2"), ("RAFT_X", "1")];
    let output = huskv(folder().path(), &variables, &[]);
    let warnings: Vec<&str> = text(&output.stderr).lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("RAFT_NODEID") && warnings[0].contains("mean RAFT_NODE_ID"), "{warnings:?}");
}

#[test]
fn the_log_can_be_json() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let variables = [("SERVER_PORT", "0"), ("RAFT_PORT", &port), ("HUSKV_LOG_FORMAT", "json")];
    let output = huskv(folder().path(), &variables, &[]);
    let lines: Vec<serde_json::Value> =
        text(&output.stderr).lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let last = lines.last().expect("a line");
    assert!(last["msg"].as_str().is_some_and(|message| message.contains(&port)), "{last}");
}
