//! Settings: the documented file, the precedence of the sources, and error messages.
//!
//! See also: `launch.rs` for exit codes.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use huskv::config::{self, Config, ConfigError, Given, Source, keys::KEYS, keys::Kind};

const DOCUMENTED: &str = include_str!("../config/huskv.toml");
const COMPOSE: &str = include_str!("../docker-compose.yml");
const ENV_EXAMPLE: &str = include_str!("../.env.example");

fn given(variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Given {
    Given {
        flags: flags.iter().map(|(path, value)| (*path, (*value).to_owned())).collect(),
        config: None,
        again: false,
        variables: variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect(),
    }
}

fn load(variables: &[(&str, &str)], flags: &[(&'static str, &str)]) -> Result<Config, ConfigError> {
    config::load(&given(variables, flags))
}

#[test]
fn the_documented_file_holds_every_key_at_its_default() {
    let defaults = load(&[], &[]).expect("the defaults are good");
    assert_eq!(config::parse_file("huskv.toml", DOCUMENTED), Ok(defaults));
    let table: toml::Table = toml::from_str(DOCUMENTED).expect("the file is TOML");
    let mut found = BTreeSet::new();
    for (name, value) in &table {
        match value.as_table() {
            Some(section) => found.extend(section.keys().map(|key| format!("{name}.{key}"))),
            None => drop(found.insert(name.clone())),
        }
    }
    let known: BTreeSet<String> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(found, known);
}

#[test]
fn the_documented_file_explains_every_key_and_names_its_short_variable() {
    let mut comment = String::new();
    for line in DOCUMENTED.lines() {
        if line.starts_with('#') {
            comment.push_str(line);
        } else if let Some((name, _)) = line.split_once(" = ") {
            assert!(comment.len() > 40, "{name} is not explained");
            comment.push_str(" <- ");
            comment.push_str(name);
        } else if line.is_empty() {
            comment.clear();
        }
    }
    for short in KEYS.iter().filter_map(|key| key.short) {
        assert!(DOCUMENTED.contains(short), "{short} is not named");
    }
}

#[test]
fn the_defaults_are_those_of_the_tutorial() {
    let config = load(&[("PATH", "/bin"), ("RAFT_SOMETHING_ELSE", "x")], &[]).expect("no setting of ours");
    assert_eq!((config.server.port, config.raft.port), (2221, 1111));
    assert_eq!((config.host.as_str(), config.advertise_host.as_str()), ("127.0.0.1", "127.0.0.1"));
    assert_eq!(config.raft.vol_dir.to_str(), Some("data/node1"));
    assert_eq!(config.advertised(1111), "127.0.0.1:1111");
}

#[test]
fn later_sources_take_precedence() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("huskv.toml");
    std::fs::write(&file, "join = [\"a:1\"]\n[raft]\ntick_ms = 10\nport = 7\nnode_id = \"file\"\n").expect("writable");
    let path = file.to_str().expect("UTF-8");
    let variables = [("HUSKV_CONFIG", path), ("HUSKV_RAFT_TICK_MS", "20"), ("RAFT_PORT", "8")];
    let config = load(&variables, &[("raft.port", "9")]).expect("all good");
    assert_eq!((config.raft.node_id.as_str(), config.raft.tick_ms, config.raft.port), ("file", 20, 9));
    assert_eq!(config.raft.vol_dir.to_str(), Some("data/file"));
    assert_eq!(config.join.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1"]);
    let config = load(&[variables[0], ("HUSKV_JOIN", "")], &[]).expect("an empty list is a list");
    assert!(config.join.is_empty());
}

#[test]
fn every_key_has_a_variable_and_a_flag_that_reach_it() {
    let defaults = load(&[], &[]).expect("the defaults are good");
    for key in KEYS {
        let other = match key.path {
            "host" | "advertise_host" | "raft.host" => "10.1.1.1",
            "join" => "b:2,a:1",
            "http.allowed_origins" => "https://a.b",
            "http.allowed_hosts" => "a.b",
            "http.trusted_proxies" => "10.0.0.0/8",
            "log.level" => "debug",
            "log.format" => "json",
            "cluster.follow_moves" | "network.insecure" => "true",
            "ui.enabled" => "false",
            "raft.node_id" | "raft.vol_dir" => "other",
            "tls.http_client_auth" => "required",
            "tls.http" | "tls.peer" => "accept",
            "raft.heartbeat_ticks" => "3",
            "snapshot.every_bytes" => "5000",
            "limits.body_bytes" => "3000000",
            "limits.key_bytes" | "limits.value_bytes" => "77",
            _ => "40",
        };
        // Keys that are wrong without another one.
        let beside: &[(&'static str, &str)] = match key.path {
            "tls.http_cert" => &[("tls.http_key", "key")],
            "tls.http_key" => &[("tls.http_cert", "certificate")],
            "tls.http_client_ca" => &[("tls.dir", "tls"), ("tls.http_client_auth", "optional")],
            "tls.http_client_auth" | "tls.http" | "tls.peer" => &[("tls.dir", "tls")],
            "tls.peer_cert" => &[("tls.peer_key", "key"), ("tls.peer_ca", "ca")],
            "tls.peer_key" => &[("tls.peer_cert", "certificate"), ("tls.peer_ca", "ca")],
            "tls.peer_ca" => &[("tls.peer_cert", "certificate"), ("tls.peer_key", "key"), ("tls.dir", "tls")],
            _ => &[],
        };
        let before = load(&[], beside).unwrap_or(defaults.clone());
        let names = [Some(key.variable()), key.short.map(str::to_owned)];
        for name in names.into_iter().flatten() {
            let config = load(&[(&name, other)], beside).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_ne!(config, before, "{name} changed nothing");
        }
        let flags = [beside, &[(key.path, other)]].concat();
        assert_ne!(load(&[], &flags).expect(key.path), before, "--{} changed nothing", key.flag());
    }
}

#[test]
fn errors_name_the_setting_and_its_source() {
    let variable = |name: &str| Source::Variable(name.into());
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Source, &'a str);
    let table: &[Case<'_>] = &[
        (&[("SERVER_PORT", "x")], "server.port", variable("SERVER_PORT"), "whole number from 0 to 65535"),
        (&[("SERVER_PORT", "65536")], "server.port", variable("SERVER_PORT"), "65536"),
        (&[("SERVER_PORT", "")], "server.port", variable("SERVER_PORT"), "empty"),
        (&[("SERVER_PORT", "1111")], "server.port", variable("SERVER_PORT"), "RAFT_PORT"),
        (&[("RAFT_PORT", "2221")], "raft.port", variable("RAFT_PORT"), "SERVER_PORT"),
        (&[("RAFT_PORT", "7"), ("HUSKV_RAFT_PORT", "7")], "raft.port", variable("HUSKV_RAFT_PORT"), "RAFT_PORT"),
        (&[("RAFT_NODE_ID", "a b")], "raft.node_id", variable("RAFT_NODE_ID"), "a b"),
        (&[("RAFT_NODE_ID", "..")], "raft.node_id", variable("RAFT_NODE_ID"), ".."),
        (&[("RAFT_VOL_DIR", "")], "raft.vol_dir", variable("RAFT_VOL_DIR"), "empty"),
        (&[("HUSKV_HOST", "")], "host", variable("HUSKV_HOST"), "unset HUSKV_HOST for the default, 127.0.0.1,"),
        (&[("HUSKV_PORT", "2221")], "HUSKV_PORT", variable("HUSKV_PORT"), "did you mean SERVER_PORT?"),
        (&[("HUSKV_HOST", "http://a")], "host", variable("HUSKV_HOST"), "scheme"),
        (&[("HUSKV_HOST", "0.0.0.0")], "host", variable("HUSKV_HOST"), "HUSKV_ADVERTISE_HOST is required"),
        (&[("HUSKV_HOST", "[::]")], "host", variable("HUSKV_HOST"), "HUSKV_ADVERTISE_HOST is required"),
        (&[("HUSKV_ADVERTISE_HOST", "a:1")], "advertise_host", variable("HUSKV_ADVERTISE_HOST"), "port"),
        (&[("HUSKV_JOIN", "a:1,http://b:1")], "join", variable("HUSKV_JOIN"), "scheme"),
        (&[("HUSKV_JOIN", "a")], "join", variable("HUSKV_JOIN"), "port"),
        (&[("HUSKV_ADVERTISE_HOST", "224.0.0.1")], "advertise_host", variable("HUSKV_ADVERTISE_HOST"), "multicast"),
        (
            &[("HUSKV_ADVERTISE_HOST", "255.255.255.255")],
            "advertise_host",
            variable("HUSKV_ADVERTISE_HOST"),
            "broadcast",
        ),
        (&[("HUSKV_ADVERTISE_PORT", "70000")], "raft.advertise_port", variable("HUSKV_ADVERTISE_PORT"), "65535"),
        (
            &[("HUSKV_ADVERTISE_PORT", "7"), ("HUSKV_SERVER_ADVERTISE_PORT", "7")],
            "raft.advertise_port",
            variable("HUSKV_ADVERTISE_PORT"),
            "server.advertise_port",
        ),
        (&[("HUSKV_JOIN", "a:1,")], "join", variable("HUSKV_JOIN"), "empty"),
        (&[("HUSKV_JION", "a:1")], "HUSKV_JION", variable("HUSKV_JION"), "unknown"),
        (&[("HUSKV_LOG", "loud")], "log.level", variable("HUSKV_LOG"), "loud"),
        (&[("HUSKV_LOG_FORMAT", "xml")], "log.format", variable("HUSKV_LOG_FORMAT"), "json"),
        (&[("HUSKV_RAFT_TICK_MS", "0")], "raft.tick_ms", variable("HUSKV_RAFT_TICK_MS"), "from 1"),
        (&[("HUSKV_RAFT_TICK_MS", "-1")], "raft.tick_ms", variable("HUSKV_RAFT_TICK_MS"), "-1"),
        (&[("HUSKV_CONFIG", "/no/such/file")], "config", variable("HUSKV_CONFIG"), "/no/such/file"),
        (
            &[("HUSKV_RAFT_ELECTION_TICKS", "3")],
            "raft.election_ticks",
            variable("HUSKV_RAFT_ELECTION_TICKS"),
            "heartbeat",
        ),
        (
            &[("HUSKV_LIMITS_BODY_BYTES", "1048576")],
            "limits.body_bytes",
            variable("HUSKV_LIMITS_BODY_BYTES"),
            "longest key and value",
        ),
    ];
    for (variables, setting, origin, words) in table {
        let error = load(variables, &[]).expect_err(setting);
        assert_eq!((error.setting.as_str(), &error.origin), (*setting, origin), "{variables:?}");
        assert!(error.problem.contains(words), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let error = load(&[], &[("raft.port", "x")]).expect_err("not a port");
    assert_eq!(error.origin, Source::Flag("raft-port".into()));
}

#[test]
fn settings_of_tls_that_contradict_each_other_are_refused_naming_the_keys() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let pair = [("HUSKV_TLS_HTTP_CERT", "a"), ("HUSKV_TLS_HTTP_KEY", "b")];
    let table: &[Case<'_>] = &[
        (&[("HUSKV_TLS_HTTP", "yes")], "tls.http", "off, accept, on"),
        (&[("HUSKV_TLS_HTTP", "on")], "tls.http", "tls.dir, or tls.http_cert and tls.http_key"),
        (&pair[..1], "tls.http_cert", "tls.http_key is required"),
        (&[pair[1], ("HUSKV_TLS_DIR", "c")], "tls.http_key", "tls.http_cert is required"),
        (&[("HUSKV_TLS_HTTP_CLIENT_AUTH", "maybe")], "tls.http_client_auth", "optional"),
        (&[("HUSKV_TLS_HTTP_CLIENT_AUTH", "required")], "tls.http_client_auth", "no key pair"),
        (&[pair[0], pair[1], ("HUSKV_TLS_HTTP_CLIENT_AUTH", "required")], "tls.http_client_auth", "tls.http_client_ca"),
        (
            &[("HUSKV_TLS_DIR", "/tls"), ("HUSKV_TLS_HTTP", "off"), ("HUSKV_TLS_HTTP_CLIENT_AUTH", "optional")],
            "tls.http",
            "set tls.http to on, or tls.http_client_auth to none",
        ),
        (
            &[("HUSKV_TLS_DIR", "a"), ("HUSKV_TLS_HTTP_CLIENT_CA", "b")],
            "tls.http_client_ca",
            "set tls.http_client_auth to optional or required",
        ),
    ];
    for (variables, setting, words) in table {
        let error = load(variables, &[]).expect_err(setting);
        assert_eq!(error.setting.as_str(), *setting, "{variables:?}");
        assert!(matches!(&error.origin, Source::Variable(name) if name.starts_with("HUSKV_TLS_HTTP")), "{error}");
        assert!(error.problem.contains(words), "{error}");
    }
}

#[test]
fn errors_in_a_file_name_the_file() {
    let table = [
        ("colour = 1", "colour", "unknown"),
        ("[raft]\ntik_ms = 1", "raft.tik_ms", "unknown"),
        ("[colours]", "colours", "unknown section"),
        ("[raft]\ntick_ms = \"50\"", "raft.tick_ms", "a number"),
        ("[raft]\ntick_ms = 0.5", "raft.tick_ms", "a number"),
        ("[raft]\nport = 70000", "raft.port", "65535"),
        ("host = 5", "host", "a text"),
        ("join = \"a:1\"", "join", "a list"),
        ("join = [1]", "join", "a list"),
        ("raft = 3", "raft", "unknown"),
        ("host = \"a\"\nhost = \"b\"", "config", "line 2"),
        ("[raft\n", "config", "line 1"),
    ];
    for (text, setting, words) in table {
        let error = config::parse_file("x.toml", text).expect_err(text);
        assert_eq!((error.setting.as_str(), &error.origin), (setting, &Source::File("x.toml".into())), "{text}");
        assert!(error.problem.contains(words), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
}

#[test]
fn peers_dial_the_advertised_host_or_the_one_that_the_peer_port_binds() {
    for (variables, peers, clients) in [
        (&[][..], "127.0.0.1:9", "127.0.0.1:9"),
        (&[("HUSKV_RAFT_HOST", "10.0.0.7")], "10.0.0.7:9", "127.0.0.1:9"),
        (&[("HUSKV_RAFT_HOST", "10.0.0.7"), ("HUSKV_ADVERTISE_HOST", "127.0.0.1")], "127.0.0.1:9", "127.0.0.1:9"),
        (&[("HUSKV_RAFT_HOST", "0.0.0.0"), ("HUSKV_ADVERTISE_HOST", "kv1")], "kv1:9", "kv1:9"),
    ] {
        let config = load(variables, &[]).expect("good settings");
        assert_eq!((config.advertised_raft(9), config.advertised_http(9)), (peers.to_owned(), clients.to_owned()));
    }
    assert!(load(&[("HUSKV_RAFT_HOST", "0.0.0.0")], &[]).is_err());
}

#[test]
fn the_advertised_port_defaults_to_the_bound_one() {
    let own = load(&[], &[]).expect("the defaults are good");
    assert_eq!((own.advertised_raft(5).as_str(), own.advertised_http(6).as_str()), ("127.0.0.1:5", "127.0.0.1:6"));
    let relayed = [("HUSKV_ADVERTISE_PORT", "7001"), ("HUSKV_SERVER_ADVERTISE_PORT", "7002")];
    let relayed = load(&relayed, &[]).expect("both are ports");
    assert_eq!(relayed.advertised_raft(5), "127.0.0.1:7001");
    assert_eq!(relayed.advertised_http(6), "127.0.0.1:7002");
}

#[test]
fn an_ipv6_host_is_advertised_in_brackets() {
    let config = load(&[("HUSKV_HOST", "::1")], &[]).expect("an address");
    assert_eq!((config.host.as_str(), config.advertised(5).as_str()), ("::1", "[::1]:5"));
    let config = load(&[("HUSKV_HOST", "::"), ("HUSKV_ADVERTISE_HOST", "kv_1")], &[]).expect("a name");
    assert_eq!((config.host.as_str(), config.advertised(5).as_str()), ("::", "kv_1:5"));
}

/// The table of settings as `docs/configuration.md` shows it.
fn table_of_settings() -> String {
    let mut table = "| key | variable | default | values | meaning |\n|---|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let values = match &key.kind {
            Kind::Number { min, max, .. } => format!("{min} to {max}"),
            Kind::NumberOrAuto { min, max, .. } => format!("`auto`, {min} to {max}"),
            Kind::Port(_) => "0 to 65535".to_owned(),
            Kind::Switch(_) => "`true`, `false`".to_owned(),
            Kind::Text { .. } => "text".to_owned(),
            Kind::List { .. } => "list".to_owned(),
        };
        let default = if key.default.is_empty() { "none".to_owned() } else { format!("`{}`", key.default) };
        let (path, variable, help) = (key.path, key.known_as(), key.help);
        table.push_str(&format!("| `{path}` | `{variable}` | {default} | {values} | {help} |\n"));
    }
    table
}

#[test]
fn the_page_of_settings_holds_the_table() {
    const BEGIN: &str = "<!-- The table of settings: HUSKV_REWRITE=1 cargo test --test config writes it. -->\n\n";
    const END: &str = "\n<!-- The end of the table of settings. -->\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let page = fs::read_to_string(&path).expect("UTF-8");
    let (before, rest) = page.split_once(BEGIN).expect("the beginning of the table is marked");
    let (shown, after) = rest.split_once(END).expect("the end of the table is marked");
    let table = table_of_settings();
    if std::env::var_os("HUSKV_REWRITE").is_some() {
        fs::write(&path, [before, BEGIN, &table, END, after].concat()).expect("writable");
    } else {
        assert_eq!(shown, table, "HUSKV_REWRITE=1 cargo test --test config writes it");
    }
}

#[test]
fn the_env_example_has_every_variable_of_compose_at_its_default() {
    let mut read = BTreeSet::new();
    for line in COMPOSE.lines() {
        // `${NAME:-default}`, and the same without the colon.
        for (at, _) in line.match_indices("${") {
            let inside = line[at + 2..].split('}').next().expect("split has a first part");
            let (name, default) = inside.split_once('-').expect("a default");
            read.insert((name.trim_end_matches(':').to_owned(), default.to_owned()));
        }
        // A setting without a value is passed on, so its default is the node's own.
        if let Some(name) = line.trim().strip_suffix(':').filter(|name| name.starts_with("HUSKV_")) {
            let key = KEYS.iter().find(|key| key.variable() == name || key.short == Some(name)).expect(name);
            read.insert((name.to_owned(), key.default.to_owned()));
        }
    }
    let lines = ENV_EXAMPLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let example: BTreeSet<_> = lines
        .map(|line| line.split_once('=').expect(line))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(example, read);
}

#[test]
fn every_key_that_a_reload_applies_is_in_the_page() {
    let page = include_str!("../docs/operations.md");
    for key in config::RELOADED {
        assert!(page.contains(&format!("`{key}`")), "{key} is not in docs/operations.md");
    }
}
