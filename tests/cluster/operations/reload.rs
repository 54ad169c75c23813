//! Reload: what a running node takes over from its file, by a signal and by the route, and what it refuses.
//!
//! See also: certificates (`secure_port/reload.rs`), tokens (`api/tokens.rs`).

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::tokens::TokenFile;
use crate::harness::{Node, Request, Setup, binary, check, eventually, secs};

crate::harness::cases![
    the_route_applies_what_can_change_and_lists_what_needs_a_restart,
    a_signal_reloads_and_the_stats_say_when,
    a_wrong_file_changes_nothing_and_is_named,
    a_wrong_token_file_keeps_the_settings_too_and_the_route_is_an_admins,
    flags_and_variables_keep_their_precedence,
    the_subcommand_prints_a_line_for_each_node,
];

/// A settings file of a node.
struct Settings {
    folder: TempDir,
}

impl Settings {
    fn of(text: &str) -> Self {
        let settings = Self { folder: tempfile::Builder::new().prefix("huskv-settings-").tempdir().unwrap() };
        settings.write(text);
        settings
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("huskv.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn setup(&self) -> Setup {
        Setup::named("node1").set("HUSKV_CONFIG", self.path().display())
    }
}

fn reload(node: &Node) -> Value {
    node.post("/admin/reload", &json!({})).expect(200, "a reload").data()
}

fn change(key: &str, old: &str, new: &str) -> Value {
    json!({ "key": key, "old": old, "new": new })
}

/// Waits until the log has these words, and returns it: lines are written by a thread.
#[track_caller]
fn logged(node: &Node, words: &str) -> String {
    eventually(secs(5), format!("a line with {words:?}"), || {
        let log = node.log();
        check(log.contains(words), &log).map(|()| log)
    })
}

/// The status of a read for this host.
fn for_host(node: &Node, host: &str) -> u16 {
    node.request(Request::new("GET", "/store/k").header("Host", host)).status
}

fn the_route_applies_what_can_change_and_lists_what_needs_a_restart() {
    let settings = Settings::of("[log]\nlevel = \"warning\"\n");
    let node = settings.setup().start();
    node.put("k", 1);
    assert_eq!(reload(&node), json!({ "applied": [], "needs_restart": [] }));
    assert!(!node.log().contains("settings reloaded"), "an info line: {}", node.log());
    assert_eq!(for_host(&node, "kv.example.org"), 421);
    let watch = || node.request(Request::new("HEAD", "/watch?key=k").within(secs(5))).status;
    assert_eq!(watch(), 200);

    settings.write(
        "[log]\nlevel = \"debug\"\n[http]\nallowed_hosts = [\"kv.example.org\"]\n\
         allowed_origins = [\"https://ui.example.org\"]\n\
         [limits]\nwatchers = 0\nrequest_timeout_ms = 700\nwatch_events = 3\nvalue_bytes = 1000\n[raft]\ntick_ms = 40\n",
    );
    let report = reload(&node);
    let expected = json!({
        "applied": [
            change("limits.watchers", "2048", "0"),
            change("limits.watch_events", "65536", "3"),
            change("limits.request_timeout_ms", "5000", "700"),
            change("http.allowed_origins", "", "https://ui.example.org"),
            change("http.allowed_hosts", "", "kv.example.org"),
            change("log.level", "warning", "debug"),
        ],
        "needs_restart": [change("raft.tick_ms", "50", "40"), change("limits.value_bytes", "1048576", "1000")],
    });
    assert_eq!(report, expected);
    assert_eq!(for_host(&node, "kv.example.org"), 200);
    let from_page = Request::new("GET", "/store/k").header("Origin", "https://ui.example.org");
    assert_eq!(node.request(from_page).header("access-control-allow-origin"), Some("https://ui.example.org"));
    assert_eq!(watch(), 503);
    let late = node.get("/store/k?min_index=999999");
    assert_eq!(late.status, 504, "{late}");
    node.post("/store", &json!({ "key": "long", "value": "x".repeat(2000) }))
        .expect(200, "the value limit is the old one");
    logged(&node, "settings reloaded");

    // What waits for the restart is listed until then, and what was applied is not.
    let waits = reload(&node);
    assert_eq!((&waits["applied"], &waits["needs_restart"]), (&json!([]), &expected["needs_restart"]));
    settings.write("");
    assert_eq!(reload(&node)["applied"].as_array().map(Vec::len), Some(6), "back to the defaults");
    assert_eq!(for_host(&node, "kv.example.org"), 421);
    assert_eq!(watch(), 200);
}

fn a_signal_reloads_and_the_stats_say_when() {
    let settings = Settings::of("");
    let node = settings.setup().start();
    assert!(node.stats().get("reloaded_at").is_none(), "{}", node.stats());
    settings.write("[limits]\nwatchers = 7\n");
    node.sighup();
    let stats = eventually(secs(10), "the stats show the reload", || {
        let stats = node.try_stats()?;
        check(stats["reloaded_ok"] == true, &stats).map(|()| stats)
    });
    let at = stats["reloaded_at"].as_str().unwrap_or_default();
    assert!(humantime::parse_rfc3339(at).is_ok_and(|at| at.elapsed().is_ok_and(|age| age < secs(60))), "{stats}");
    let log = logged(&node, "settings reloaded");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("settings reloaded")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(["SIGHUP", "limits.watchers 2048 -> 7", "none"].iter().all(|text| lines[0].contains(text)), "{log}");
    assert_eq!(reload(&node)["applied"], json!([]), "the signal has applied it");
}

fn a_wrong_file_changes_nothing_and_is_named() {
    let settings = Settings::of("");
    let node = settings.setup().start();
    let path = settings.path().display().to_string();
    let hosts = "[http]\nallowed_hosts = [\"kv.example.org\"]\n";
    for (wrong, words) in [
        ("[limits]\nwatchers = \"many\"\n", ["limits.watchers", "a number"]),
        ("[limits]\nwatchers = -1\n", ["limits.watchers", "from 0"]),
        ("[raft]\nelection_ticks = 3\n", ["raft.election_ticks", "heartbeat"]),
        ("[limits]\nwatchers = 3\n[lim", ["config", "line 5"]),
        ("[colours]\n", ["colours", "unknown section"]),
    ] {
        settings.write(&format!("{hosts}{wrong}"));
        let answer = node.post("/admin/reload", &json!({})).problem(422, wrong).code("reload_failed", wrong);
        let detail = answer.word("detail");
        assert!(words.iter().all(|word| detail.contains(word)) && detail.contains(&path), "{wrong}: {detail}");
        assert_eq!(for_host(&node, "kv.example.org"), 421, "{wrong}");
        let stats = node.stats();
        assert_eq!((&stats["reloaded_ok"], &stats["reload_problem"]), (&json!(false), &json!(detail)));
        logged(&node, "the reload failed and has changed nothing");
    }
    fs::remove_file(settings.path()).unwrap();
    node.post("/admin/reload", &json!({})).problem(422, "no file").code("reload_failed", "no file");
    // The open of a pipe would wait for its writer, and hold up every later look at the files.
    assert!(Command::new("mkfifo").arg(settings.path()).status().unwrap().success());
    let answer = node.post("/admin/reload", &json!({})).problem(422, "a pipe").code("reload_failed", "a pipe");
    assert!(answer.word("detail").contains("no regular file"), "{answer}");
    fs::remove_file(settings.path()).unwrap();
    settings.write(hosts);
    assert_eq!(reload(&node)["applied"], json!([change("http.allowed_hosts", "", "kv.example.org")]));
    assert_eq!((for_host(&node, "kv.example.org"), &node.stats()["reloaded_ok"]), (404, &json!(true)));
}

fn a_wrong_token_file_keeps_the_settings_too_and_the_route_is_an_admins() {
    let (settings, tokens) = (Settings::of(""), TokenFile::of(&[&["root", "--admin"], &["billing", "--read", ""]]));
    let node = tokens.setup(settings.setup()).start();
    let billing = &tokens.secrets[1];
    let old = node.stats()["auth_tokens_sha256"].clone();
    let as_client = |method: &str, path: &str| node.request(Request::new(method, path).bearer(billing));
    as_client("POST", "/admin/reload").problem(403, "no admin").code("forbidden", "no admin");
    assert_eq!(node.request(Request::new("POST", "/admin/reload").anonymous()).status, 401);
    assert!(node.stats().get("reloaded_at").is_none(), "a denied reload is none");

    settings.write("[limits]\nwatchers = 0\n");
    tokens.write("[[token]]\nname = \"x\"\n");
    let detail = node.post("/admin/reload", &json!({})).problem(422, "tokens").word("detail");
    assert!(detail.starts_with("auth.tokens: ") && detail.contains("token \"x\""), "{detail}");
    assert_eq!(as_client("HEAD", "/watch?key=k").status, 200, "the limit is the old one");
    let of_client = as_client("GET", "/raft/stats").data();
    assert_eq!((&of_client["reloaded_ok"], of_client.get("reload_problem")), (&json!(false), None));
    assert_eq!(node.stats()["reload_problem"], json!(detail));

    tokens.write(&tokens.tables.concat().replace("\"billing\"", "\"bills\""));
    let applied = reload(&node)["applied"].clone();
    assert_eq!(applied[0], change("limits.watchers", "2048", "0"));
    let new = node.stats()["auth_tokens_sha256"].clone();
    // The look at the files, every 2 s after a failure, can come before it.
    let by_reload = applied.get(1).is_none_or(|of| of == &json!({ "key": "auth.tokens", "old": old, "new": new }));
    assert!(by_reload, "{applied}");
    assert!(old != new, "{old}");
    assert_eq!(as_client("HEAD", "/watch?key=k").status, 503);
}

fn flags_and_variables_keep_their_precedence() {
    let settings = Settings::of("[limits]\nwatchers = 1\nwatch_events = 1\n[log]\nlevel = \"info\"\n");
    let node = settings.setup().set("HUSKV_LIMITS_WATCHERS", 5).argument("--limits-watch-events=6").start();
    settings.write("[limits]\nwatchers = 2\nwatch_events = 2\n[log]\nlevel = \"error\"\n");
    assert_eq!(reload(&node), json!({ "applied": [change("log.level", "info", "error")], "needs_restart": [] }));
}

fn the_subcommand_prints_a_line_for_each_node() {
    let settings = Settings::of("");
    let (one, two) = (settings.setup().start(), Setup::named("node2").start());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        let endpoints = format!("{},{}", one.http, two.http);
        let output = command.env_clear().args(["reload", "--endpoints", &endpoints]).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    settings.write("[log]\nlevel = \"debug\"\n[raft]\ntick_ms = 40\n");
    let (code, out, _) = run(&[]);
    let expected = format!(
        "{}: applied log.level info -> debug; needs a restart: raft.tick_ms 50 -> 40\n{}: nothing has changed\n",
        one.http, two.http
    );
    assert_eq!((code, out), (Some(0), expected));
    let (code, out, _) = run(&["--json"]);
    let first: Value = serde_json::from_str(out.lines().next().unwrap()).unwrap();
    assert_eq!((code, &first["endpoint"]), (Some(0), &json!(one.http)));
    assert_eq!(first["report"]["needs_restart"], json!([change("raft.tick_ms", "50", "40")]));
    settings.write("[log]\nlevel = \"loud\"\n");
    let (code, out, errors) = run(&[]);
    assert_eq!((code, out), (Some(1), format!("{}: nothing has changed\n", two.http)));
    assert!(errors.contains(&one.http) && errors.contains("log.level") && errors.lines().count() == 1, "{errors}");
}
