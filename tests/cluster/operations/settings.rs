//! Settings: precedence and refusals.

use std::fs;

use serde_json::json;

use crate::harness::{Node, Setup, binary, free_port, secs};

crate::harness::cases![
    a_bad_setting_exits_2_with_one_line_that_names_it_and_creates_nothing,
    an_unknown_key_of_the_file_is_refused_naming_key_and_file,
    an_unknown_flag_exits_2,
    flags_win_over_environment_over_file_over_defaults,
    the_shipped_file_starts_a_node,
    peers_see_the_advertised_host,
    service_link_variables_of_a_platform_are_ignored_and_named,
];

/// Starts it, and panics unless it is refused as a bad setting whose line names all of `names`.
#[track_caller]
fn refused(setup: Setup, names: &[&str]) {
    let mut node = setup.spawn();
    let status = node.await_exit(secs(10));
    let log = node.log();
    assert_eq!(status.code(), Some(2), "for {names:?}: {log}");
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 1, "one line on stderr for {names:?}: {log}");
    for name in names {
        assert!(log.contains(name), "the line does not name {name}: {log}");
    }
    assert!(!node.directory().exists(), "{names:?} was refused, and yet the directory was made");
}

fn a_bad_setting_exits_2_with_one_line_that_names_it_and_creates_nothing() {
    let fresh = || Setup::named("node1");
    refused(fresh().set("SERVER_PORT", "abc"), &["SERVER_PORT", "abc"]);
    refused(fresh().set("SERVER_PORT", "70000"), &["SERVER_PORT", "70000"]);
    refused(fresh().set("RAFT_PORT", "-1"), &["RAFT_PORT", "-1"]);
    refused(fresh().set("RAFT_NODE_ID", ""), &["RAFT_NODE_ID"]);
    refused(fresh().set("HUSKV_RAFT_TICK_MS", "fast"), &["HUSKV_RAFT_TICK_MS", "fast"]);
    refused(fresh().set("HUSKV_RAFT_TICK_MS", "0"), &["HUSKV_RAFT_TICK_MS"]);
    refused(fresh().set("HUSKV_HOST", "http://127.0.0.1"), &["HUSKV_HOST"]);
    refused(fresh().set("HUSKV_ADVERTISE_HOST", "http://localhost"), &["HUSKV_ADVERTISE_HOST"]);
    refused(fresh().set("HUSKV_HOST", "0.0.0.0"), &["HUSKV_ADVERTISE_HOST"]);
    refused(fresh().set("HUSKV_HOST", "::"), &["HUSKV_ADVERTISE_HOST"]);
    refused(fresh().set("HUSKV_JOIN", "http://127.0.0.1:2221"), &["HUSKV_JOIN"]);
    refused(fresh().set("HUSKV_LIMITS_REQUESTS_PER_SECOND", "1.5"), &["HUSKV_LIMITS_REQUESTS_PER_SECOND", "1.5"]);
    refused(fresh().set("HUSKV_HTTP_TRUSTED_PROXIES", "10.0.0.1,proxy"), &["HUSKV_HTTP_TRUSTED_PROXIES", "proxy"]);
    refused(fresh().set("HUSKV_HTTP_TRUSTED_PROXIES", "0.0.0.0/0"), &["HUSKV_HTTP_TRUSTED_PROXIES", "every client"]);
    refused(fresh().set("HUSKV_LOG", "loud"), &["HUSKV_LOG", "loud"]);
    refused(fresh().set("HUSKV_LOG_FORMAT", "xml"), &["HUSKV_LOG_FORMAT", "xml"]);
    let port = free_port().to_string();
    refused(fresh().set("SERVER_PORT", &port).set("RAFT_PORT", &port), &["SERVER_PORT", "RAFT_PORT"]);
    refused(fresh().argument("--raft-tick-ms=quick"), &["--raft-tick-ms", "quick"]);
    refused(fresh().set("HUSKV_CONFIG", "/nowhere/huskv.toml"), &["/nowhere/huskv.toml"]);
}

fn an_unknown_key_of_the_file_is_refused_naming_key_and_file() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("odd.toml");
    let path = file.display().to_string();
    let setup = || Setup::named("node1").set("HUSKV_CONFIG", &path);
    fs::write(&file, "[raft]\ntick_milliseconds = 50\n").unwrap();
    refused(setup(), &["tick_milliseconds", "odd.toml"]);
    fs::write(&file, "[raft]\ntick_ms = \"fast\"\n").unwrap();
    refused(setup(), &["tick_ms", "odd.toml"]);
}

fn an_unknown_flag_exits_2() {
    let mut node = Setup::named("node1").argument("--no-such-flag").spawn();
    let status = node.await_exit(secs(10));
    assert_eq!(status.code(), Some(2));
    assert!(node.log().contains("--no-such-flag"), "{}", node.log());
    assert!(!node.directory().exists(), "nothing may be created");
}

/// The longest key that the node takes, of those tried.
fn longest_key(node: &Node, lengths: &[usize]) -> usize {
    let taken = |&&length: &&usize| {
        let body = json!({"key": "k".repeat(length), "value": 1});
        node.post("/store", &body).status == 200
    };
    lengths.iter().filter(taken).copied().max().unwrap_or(0)
}

fn flags_win_over_environment_over_file_over_defaults() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("huskv.toml");
    fs::write(&file, "[limits]\nkey_bytes = 10\n").unwrap();
    let lengths = [10, 11, 20, 21, 30, 31, 1024, 1025];
    let mut node = Setup::named("node1").start();
    assert_eq!(longest_key(&node, &lengths), 1024, "the default");
    let steps: [(&str, usize); 3] = [("file", 10), ("environment", 20), ("flag", 30)];
    for (source, limit) in steps {
        assert!(node.sigterm().success());
        match source {
            "file" => node.set("HUSKV_CONFIG", file.display()),
            "environment" => node.set("HUSKV_LIMITS_KEY_BYTES", "20"),
            _ => node.argument("--limits-key-bytes=30"),
        }
        node.start();
        assert_eq!(longest_key(&node, &lengths), limit, "with the {source}");
    }
}

fn the_shipped_file_starts_a_node() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/huskv.toml");
    let node = Setup::named("node1").set("HUSKV_CONFIG", file).start();
    node.put("foo", "bar");
    assert_eq!(node.value("foo"), "bar");
}

fn peers_see_the_advertised_host() {
    let node = Setup::named("node1")
        .set("HUSKV_HOST", "0.0.0.0")
        .set("HUSKV_ADVERTISE_HOST", "localhost")
        .set("HUSKV_NETWORK_INSECURE", "true")
        .start();
    let stats = node.stats();
    let raft = stats["members"][0]["raft_address"].as_str().unwrap_or("");
    assert!(raft.starts_with("localhost:"), "advertised: {stats}");
    let http = stats["leader"]["http_address"].as_str().unwrap_or("");
    assert!(http.starts_with("localhost:"), "advertised: {stats}");
    let named = Setup::named("node2").set("HUSKV_ADVERTISE_HOST", "kv_node_2").start();
    let raft = named.stats()["members"][0]["raft_address"].as_str().unwrap_or("").to_owned();
    assert!(raft.starts_with("kv_node_2:"), "underscores are accepted: {raft}");
    named.put("foo", "bar");
}

fn service_link_variables_of_a_platform_are_ignored_and_named() {
    // Services called `huskv` and `huskv-raft`, as Kubernetes tells of them.
    let made = [
        ("HUSKV_PORT", "tcp://10.0.0.7:2221"),
        ("HUSKV_PORT_2221_TCP", "tcp://10.0.0.7:2221"),
        ("HUSKV_PORT_2221_TCP_ADDR", "10.0.0.7"),
        ("HUSKV_SERVICE_HOST", "10.0.0.7"),
        ("HUSKV_SERVICE_PORT_HTTP", "2221"),
        ("HUSKV_RAFT_PORT", "tcp://10.0.0.8:1111"),
        ("HUSKV_RAFT_SERVICE_HOST", "10.0.0.8"),
        // Set to nothing, which is how a pod gets rid of it.
        ("HUSKV_SERVER_SERVICE_HOST", ""),
    ];
    let node = made.iter().fold(Setup::named("node1"), |setup, (name, value)| setup.set(name, value)).start();
    let log = node.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("set by the platform for a service")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    for (name, _) in made {
        assert!(lines[0].contains(name), "{name} is not in {}", lines[0]);
    }
    assert!(lines[0].contains("enableServiceLinks: false"), "RAFT_PORT was hit: {}", lines[0]);

    let told = |arguments: &[&str], variable: (&str, &str)| {
        let mut command = std::process::Command::new(binary());
        let told = command.args(arguments).env_clear().envs(made).env(variable.0, variable.1).output().unwrap();
        (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    let (code, said) = told(&["status"], ("SERVER_PORT", node.http.rsplit(':').next().unwrap()));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("HUSKV_RAFT_PORT") && said.contains("enableServiceLinks: false"), "{said}");
    // Without a port of its own, a client asks at the one that the node without one has, and says so.
    let hidden = ("SERVER_PORT", "tcp://10.0.0.9:80");
    for arguments in [&["status"][..], &["members", "--timeout", "100ms"], &["get", "k", "--timeout", "100ms"]] {
        let (_, said) = told(arguments, hidden);
        assert!(said.contains("server.port is 2221") && said.contains("enableServiceLinks: false"), "{said}");
    }
    // Where it is told whom to ask, no port of its own matters.
    assert_eq!(
        told(&["get", "k", "--endpoints", &node.http], hidden),
        (Some(3), "huskv: there is no key \"k\"\n".into())
    );
    refused(Setup::named("node1").set("HUSKV_NONSENSE", "1"), &["HUSKV_NONSENSE"]);
}
