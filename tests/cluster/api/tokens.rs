//! Tokens on real nodes: rights over forwarding, reloads, and watches whose right is taken away.
//!
//! See also: every route with every kind of token (`src/http/tests/tokens.rs`), the commands of the page (`docs/security.md`).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, Cluster, ELECTION, Node, Request, Setup, ask_as, binary, check, eventually, secs};

crate::harness::cases![
    tokens_decide_on_every_node_and_no_secret_is_logged,
    a_watch_ends_when_its_token_is_removed.alone(),
    a_wrong_token_file_ends_the_start_and_spares_a_running_node,
    nodes_form_where_tokens_are_and_need_none_of_their_own,
    items_and_events_show_the_token_of_the_last_write_on_every_node,
];

/// A token file, with the secrets of its tokens.
pub struct TokenFile {
    folder: TempDir,
    /// The tables of the tokens.
    pub tables: Vec<String>,
    /// The secrets, in the order of the tokens.
    pub secrets: Vec<String>,
}

impl TokenFile {
    /// One token for each command line of `huskv token new`.
    pub fn of(lines: &[&[&str]]) -> Self {
        let folder = tempfile::Builder::new().prefix("huskv-tokens-").tempdir().expect("a folder");
        let mut file = Self { folder, tables: Vec::new(), secrets: Vec::new() };
        for line in lines {
            let output = Command::new(binary()).args(["token", "new"]).args(*line).output().expect("huskv runs");
            let text = String::from_utf8(output.stdout).expect("UTF-8");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let (secret, table) = text.split_once('\n').expect("a secret in a line of its own");
            file.secrets.push(secret.to_owned());
            file.tables.push(table.to_owned());
        }
        file.write(&file.tables.concat());
        file
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    /// Replaces the file in one step.
    pub fn write(&self, text: &str) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("writing the tokens");
        std::fs::rename(&new, self.path()).expect("replacing the tokens");
    }

    /// A node with these tokens, which is asked with the first one.
    pub fn setup(&self, setup: Setup) -> Setup {
        setup.set("HUSKV_AUTH_TOKENS", self.path().display()).secret(&self.secrets[0])
    }
}

const ADMIN: &[&str] = &["root", "--admin"];
const BILLING: &[&str] = &["billing", "--read", "billing/", "--write", "billing/"];

fn put(node: &Node, secret: &str, key: &str) -> Answer {
    node.request(Request::new("PUT", format!("/store/{key}")).body("1").bearer(secret))
}

fn tokens_decide_on_every_node_and_no_secret_is_logged() {
    let file = TokenFile::of(&[ADMIN, BILLING, &["audit", "--read", ""]]);
    let [admin, billing, audit] = [&file.secrets[0], &file.secrets[1], &file.secrets[2]];
    let cluster = Cluster::with(3, |setup| file.setup(setup).set("HUSKV_LOG", "trace"));
    let hash = cluster.nodes[0].stats()["auth_tokens_sha256"].clone();
    assert!(hash.is_string(), "{hash}");
    // A container's health check has no token.
    let status =
        Command::new(binary()).args(["status", "--endpoints", &cluster.nodes[0].http]).output().expect("huskv runs");
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success() && text.contains("is ready; with a token"), "{status:?}");
    for (place, node) in cluster.nodes.iter().enumerate() {
        let key = format!("billing/{place}");
        // Followers forward the write; the token was checked before.
        put(node, billing, &key).expect(200, "a write with the right");
        put(node, billing, "other").problem(403, "a write elsewhere").code("forbidden", "elsewhere");
        put(node, audit, &key).problem(403, "a write of a reader").code("forbidden", "a reader");
        let bare = node.request(Request::new("PUT", "/store/billing/x").body("1").anonymous());
        bare.problem(401, "a write without a token")
            .code("unauthorized", "no token")
            .outcome("not_applied", "no token");
        let get = |secret: &str, path: &str| node.request(Request::new("GET", path).bearer(secret));
        get(audit, &format!("/store/{key}")).expect(200, "a read of a reader");
        let listed = get(billing, "/store?prefix=billing/&keys").expect(200, "a list");
        assert_eq!(
            listed.data()["items"].as_array().map(Vec::len),
            Some(if place == 0 { 1 } else { place + 2 }),
            "{listed}"
        );
        get(billing, "/store").problem(403, "a list of every key");
        get(audit, "/store").expect(200, "a list of every key by a reader of all");
        let txn = |secret: &str, key: &str| {
            let body =
                json!({"if": [{"key": "billing/0", "exists": true}], "then": [{"op": "put", "key": key, "value": 2}]});
            node.request(Request::new("POST", "/txn").body(body.to_string()).bearer(secret))
        };
        txn(billing, "billing/t").expect(200, "a transaction");
        txn(billing, "t").problem(403, "a transaction on another key");
        let transfer = Request::new("POST", "/raft/transfer").bearer(billing);
        node.request(transfer).problem(403, "a transfer without an admin").code("forbidden", "a transfer");
        let watch = ask_as(Some(billing), &node.http, "prefix=billing/", None).expect("a stream");
        assert_eq!(watch.head.status, 200, "{}", watch.head);
        let watch = watch.listen().expect("a stream");
        put(node, admin, "elsewhere").expect(200, "a write of the admin");
        put(node, billing, &key).expect(200, "a write that is watched");
        assert_eq!(watch.change(ELECTION).expect("an event").data["key"], key);
        assert_eq!(ask_as(Some(billing), &node.http, "prefix=", None).expect("an answer").head.status, 403);
        assert_eq!(node.stats()["auth_tokens_sha256"], hash, "one file on all nodes");
    }
    let script =
        |key: &str| Request::new("PUT", "/store/billing/i").body(key.to_owned()).header("Idempotency-Key", "k");
    for (secret, replayed) in [(billing, false), (billing, true), (admin, false)] {
        let answer = cluster.nodes[1].request(script("1").bearer(secret)).expect(200, "a write with a key");
        assert_eq!(answer.header("idempotency-replayed").is_some(), replayed, "{answer}");
    }
    for node in &cluster.nodes {
        let log = node.log();
        assert!(log.contains("tokens are required"), "{log}");
        assert!(!file.secrets.iter().any(|secret| log.contains(&secret[4..20])), "a secret is in the log");
    }
}

fn a_watch_ends_when_its_token_is_removed() {
    let file = TokenFile::of(&[ADMIN, BILLING]);
    let billing = &file.secrets[1];
    let node = file.setup(Setup::named("node1")).start();
    let watch =
        ask_as(Some(billing), &node.http, "prefix=billing/", None).expect("a stream").listen().expect("a stream");
    put(&node, billing, "billing/a").expect(200, "a write");
    assert_eq!(watch.change(secs(5)).expect("an event").data["key"], "billing/a");
    file.write(&file.tables[0]);
    let denied = watch.change(secs(12)).expect("an event before the end");
    assert_eq!((denied.kind.as_str(), &denied.data["code"]), ("denied", &json!("unauthorized")), "{denied:?}");
    assert_eq!(watch.any(secs(5)), None, "the stream ends");
    assert_eq!(ask_as(Some(billing), &node.http, "prefix=billing/", None).expect("an answer").head.status, 401);

    // SIGHUP does not wait for the next look. A right that is withdrawn is a 403.
    file.write(&file.tables.concat());
    let allowed = |status| {
        node.sighup();
        eventually(secs(5), format!("a write is {status}"), || {
            let answer = put(&node, billing, "billing/b");
            check(answer.status == status, answer)
        });
    };
    allowed(200);
    let watch = ask_as(Some(billing), &node.http, "key=billing/b", None).expect("a stream").listen().expect("a stream");
    file.write(&file.tables.concat().replace("\"billing/\"", "\"bills/\""));
    allowed(403);
    // Writes that came before the reload are seen.
    let denied = loop {
        let event = watch.change(secs(5)).expect("an event before the end");
        if event.kind != "put" {
            break event;
        }
    };
    assert_eq!((denied.kind.as_str(), &denied.data["code"]), ("denied", &json!("forbidden")), "{denied:?}");
}

fn a_wrong_token_file_ends_the_start_and_spares_a_running_node() {
    let file = TokenFile::of(&[ADMIN, BILLING]);
    let mut node = file.setup(Setup::named("node1")).start();
    let hash = node.stats()["auth_tokens_sha256"].clone();
    file.write(&file.tables.concat().replace("allow", "alow"));
    node.sighup();
    eventually(secs(5), "the stats show the failed reload", || {
        let stats = node.try_stats()?;
        check(stats["auth_tokens_reloaded_ok"] == false && stats["auth_tokens_sha256"] == hash, stats)
    });
    put(&node, &file.secrets[1], "billing/a").expect(200, "a write with the old tokens");
    let reason = format!("{}: token \"billing\": unknown key \"alow\"", file.path().display());
    assert!(node.log().contains("the token file is wrong"), "{}", node.log());
    assert!(node.log().replace("\\\"", "\"").contains(&reason), "{}", node.log());
    node.sigterm();
    node.spawn();
    assert_eq!(node.await_exit(secs(10)).code(), Some(1));
    let log = node.log();
    let last = log.trim_end().lines().last().unwrap_or_default().replace("\\\"", "\"");
    assert!(last.contains("huskv cannot start: auth.tokens: ") && last.contains(&reason), "{log}");
    assert!(!Path::new(&node.directory().join("addresses.json")).exists(), "nothing was created by that start");
}

fn nodes_form_where_tokens_are_and_need_none_of_their_own() {
    let file = TokenFile::of(&[ADMIN]);
    let ports = [(); 3].map(|()| crate::harness::free_port());
    let list = ports.map(|port| format!("127.0.0.1:{port}"));
    let nodes: Vec<Node> = [1, 2, 3]
        .map(|n| {
            let setup = file.setup(Setup::named(&format!("node{n}")));
            setup.set("SERVER_PORT", ports[n - 1]).set("HUSKV_JOIN", list.join(",")).start()
        })
        .into();
    // The stats that forming reads need no token, so one of them begins; the others ask it at its peer port.
    for node in &nodes {
        eventually(ELECTION + ELECTION, "all are members", || {
            let stats = node.try_stats()?;
            check(stats["voters"] == 3 && stats.get("forming").is_none(), stats)
        });
    }
}

fn items_and_events_show_the_token_of_the_last_write_on_every_node() {
    let file = TokenFile::of(&[ADMIN, BILLING, &["other", "--read", "", "--write", "billing/"]]);
    let [billing, other] = [&file.secrets[1], &file.secrets[2]];
    let mut cluster = Cluster::with(3, |setup| file.setup(setup));
    let (leader, followers) = (cluster.agreed(), cluster.followers());
    let (leader, follower) = (&cluster.nodes[leader], &cluster.nodes[followers[0]]);
    let watched = &cluster.nodes[followers[1]];
    let watch = ask_as(Some(billing), &watched.http, "prefix=billing/", None).expect("a stream").listen();
    let watch = watch.expect("a stream");
    let get = |node: &Node, path: &str| {
        let answer = node.request(Request::new("GET", path).bearer(other)).expect(200, path);
        answer.data().get("items").map_or_else(|| answer.data()["by"].clone(), |items| items[0]["by"].clone())
    };
    let shown = |name: &str| {
        for node in &cluster.nodes {
            for path in ["/store/billing/a", "/store?prefix=billing/a"] {
                assert_eq!(get(node, path), name, "{} {path}", node.name());
            }
        }
    };
    let post = |node: &Node, secret: &str, path: &str, body: Value| {
        node.request(Request::new("POST", path).bearer(secret).body(body.to_string())).expect(200, path)
    };
    // By way of a follower, which forwards it; what a client says of itself is no name.
    let forged = Request::new("PUT", "/store/billing/a").body("1").bearer(billing).header("X-Huskv-By", "root");
    follower.request(forged).expect(200, "a write");
    shown("billing");
    put(leader, other, "billing/a").expect(200, "a write of another token");
    shown("other");
    let touched = post(follower, billing, "/touch/billing/a", json!({"ttl": 1000}));
    assert_eq!(touched.data()["by"], "billing", "{touched}");
    shown("billing");
    let then = json!([{"op": "get", "key": "billing/a"}, {"op": "put", "key": "billing/b", "value": 1}]);
    let txn = post(follower, other, "/txn", json!({ "then": then }));
    assert_eq!(txn.data()["results"][0]["by"], "billing", "{txn}");
    let delete = Request::new("DELETE", "/store/billing/a").bearer(billing);
    follower.request(delete).expect(200, "a removal");
    for (kind, key, name) in [
        ("put", "billing/a", "billing"),
        ("put", "billing/a", "other"),
        ("put", "billing/b", "other"),
        ("delete", "billing/a", "billing"),
    ] {
        let event = watch.change(ELECTION).expect("an event");
        assert_eq!((event.kind.as_str(), &event.data["key"], &event.data["by"]), (kind, &json!(key), &json!(name)));
    }

    // After a restart, and on a node that has it from a snapshot.
    let restarted = followers[0];
    assert_eq!(cluster.nodes[restarted].sigterm().code(), Some(0));
    cluster.nodes[restarted].start();
    cluster.agreed();
    let leader = &cluster.nodes[cluster.agreed()];
    leader.post("/raft/snapshot", &json!({})).expect(200, "a checkpoint");
    let joiner = file.setup(Setup::named("node4")).start();
    leader.join(&joiner).expect(200, "a join");
    for node in [&cluster.nodes[restarted], &joiner] {
        assert_eq!(get(node, "/store/billing/b"), "other", "{}", node.name());
        assert_eq!(get(node, "/store/billing/b?consistency=stale"), "other", "{}", node.name());
    }
}
