//! `huskv demo` as a process: start, restart with its data, TLS and tokens, and no process left behind.
//!
//! See also: `tests/cluster` for the nodes.

use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huskv::client::{Access, NodeClient, Response, Token};
use huskv::trust::connector::TlsConnector;
use huskv::trust::pem_files::CaBundle;
use serde_json::json;

/// The time limit of a step on a busy machine, in a debug build.
const LONG: Duration = Duration::from_secs(60);

/// The ports of a range: those of up to four nodes, and one for the page.
const PORTS: u16 = 5;

/// Finds two ranges of five ports that are free at this moment. They are below the ephemeral range of the system: no
/// connection of another test takes one of them while a demo is stopped.
fn free_ranges() -> [u16; 2] {
    let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    let mut found = Vec::new();
    while found.len() < 2 {
        // A fresh RandomState is seeded anew, which is all the randomness that is needed here.
        let random = RandomState::new().hash_one(found.len());
        let first = 20_000 + u16::try_from(random % 12_000).expect("below 12 000");
        let apart = found.iter().all(|other: &u16| first.abs_diff(*other) > 5);
        if apart && (first..first + PORTS).all(free) {
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
        Self::start_among(&[], folder, ports, arguments)
    }

    /// Starts one with these variables in its environment.
    fn start_among(variables: &[(&str, &str)], folder: &Path, ports: [u16; 2], arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_huskv"))
            .current_dir(folder)
            .envs(variables.iter().copied())
            .args(["demo", "--http-from", &ports[0].to_string(), "--raft-from", &ports[1].to_string()])
            .args(["--page-port", &(ports[0] + PORTS - 1).to_string()])
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

    fn page(&self) -> String {
        format!("127.0.0.1:{}", self.ports[0] + PORTS - 1)
    }

    /// Asks its page for an action on a node, as the page's own buttons do; returns the status and the response.
    fn act(&self, action: &str, node: &str) -> (u16, String) {
        exchange(&self.page(), "POST", &format!("/demo/{action}/{node}"), &[("Huskv-Demo", "1")])
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
    ask_with(Access::default(), request)
}

fn ask_with<F: Future<Output = T>, T>(access: Access, request: impl FnOnce(NodeClient) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(request(NodeClient::with_access(LONG, access)))
}

/// Access over TLS to the nodes of the secure demo in `folder`, without a token.
fn over_tls(folder: &Path) -> Access {
    let bundle = CaBundle::read(&folder.join("data/certs/ca.pem")).expect("a CA");
    Access::over_tls(TlsConnector::new(&bundle, "the CA of the demo", None).expect("it verifies"))
}

fn secret(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("data/certs/admin.secret")).expect("there is a secret");
    text.trim().to_owned()
}

/// The same with the admin's token.
fn as_admin(folder: &Path) -> Access {
    over_tls(folder).with_token(Token::new(&secret(folder)).expect("a token"))
}

fn get_as(access: Access, address: &str, path: &str) -> Response {
    ask_with(access, async |client: NodeClient| client.get(address, path).await).expect("an answer")
}

/// The commands that were printed between these two lines.
fn commands<'a>(said: &'a str, from: &str, to: &str) -> Vec<&'a str> {
    let lines = said.lines().skip_while(|line| !line.starts_with(from)).skip(1);
    lines.take_while(|line| !line.starts_with(to)).map(str::trim).collect()
}

/// Runs commands as a reader pastes them, in the directory of the demo.
fn paste(folder: &Path, commands: &[&str]) -> Output {
    let mut shell = Command::new("sh");
    shell.current_dir(folder).args(["-ec", &commands.join("\n")]).output().expect("sh is there")
}

fn get(address: &str, path: &str) -> Response {
    ask(async |client: NodeClient| client.get(address, path).await).expect("an answer")
}

/// Sends a request with these headers, and returns the status and the response.
fn exchange(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LONG)).expect("a timeout");
    let host = headers.iter().all(|(name, _)| *name != "Host").then(|| format!("Host: {address}\r\n"));
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\n{}{headers}Connection: close\r\n\r\n", host.unwrap_or_default());
    stream.write_all(head.as_bytes()).expect("sent");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("an answer in UTF-8");
    let status = response.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, response)
}

/// Waits until the condition holds.
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The leader as the node at this address knows it; None where it knows none or does not answer.
fn leader_at(address: &str) -> Option<String> {
    let stats = ask(async |client: NodeClient| client.get(address, "/raft/stats").await).ok()?;
    stats.body["data"]["leader"]["node_id"].as_str().map(str::to_owned)
}

fn nothing_listens(ports: [u16; 2], limit: Duration) {
    let begun = Instant::now();
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    while !ports.iter().flat_map(|first| *first..*first + PORTS).all(|port| free(&port)) {
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

#[test]
fn the_page_of_a_demo_causes_faults_and_heals_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ports = free_ranges();
    let mut demo = Demo::start(folder.path(), ports, &[]);
    let said = demo.until("Ctrl-C");
    assert!(said.contains(&format!("http://{}/ui/", demo.page())), "{said}");
    let (page, number) =
        (demo.page(), |name: &str| name.trim_start_matches("node").parse::<u16>().expect("a number") - 1);
    let agreed = || {
        let leader = leader_at(&demo.http(0))?;
        (1..3).all(|node| leader_at(&demo.http(node)).as_ref() == Some(&leader)).then_some(leader)
    };
    let healed = |name: &str| {
        assert_eq!(demo.act("heal", name).0, 200);
        until("all nodes agree on a leader", || agreed().is_some());
    };
    let (status, html) = exchange(&page, "GET", "/ui/", &[]);
    assert!(
        status == 200 && html.to_lowercase().contains("\r\nhuskv-demo: 1\r\n") && html.contains("app.js"),
        "{html}"
    );
    assert_eq!(exchange(&page, "GET", "/ui/demo.js", &[]).0, 200);
    // The page is answered by a node that runs.
    let first = agreed().expect("a leader");
    assert_eq!(demo.act("kill", &first).0, 200);
    let (status, refusal) = demo.act("kill", &first);
    assert!(status == 409 && refusal.contains("heal it first"), "{refusal}");
    assert!(exchange(&page, "GET", "/demo/nodes", &[]).1.contains("killed"));
    until("the others have a leader", || leader_at(&page).is_some_and(|leader| leader != first));
    healed(&first);

    // A paused one does not answer, and goes on where it stood.
    let second = agreed().expect("a leader");
    assert_eq!(demo.act("pause", &second).0, 200);
    assert_eq!(demo.act("cut", &second).0, 409);
    until("the others have a leader", || leader_at(&page).is_some_and(|leader| leader != second));
    healed(&second);

    // One that is cut off still answers clients, and knows of no leader.
    let third = agreed().expect("a leader");
    assert_eq!(demo.act("cut", &third).0, 200);
    let away = demo.http(number(&third));
    until("it has lost its lead", || get(&away, "/raft/stats").body["data"]["leader"].is_null());
    let left = demo.http((number(&third) + 1) % 3);
    until("the others have a leader", || leader_at(&left).is_some_and(|leader| leader != third));
    healed(&third);
    assert_eq!(demo.act("heal", &third).0, 409);

    // Nothing but its own page may do so, and there is nothing else to do.
    for (headers, path, expected) in [
        (&[][..], "/demo/kill/node1", 403),
        (&[("Huskv-Demo", "1"), ("Origin", "http://evil.example")], "/demo/kill/node1", 403),
        (&[("Huskv-Demo", "1"), ("Host", "evil.example")], "/demo/kill/node1", 403),
        (&[("Huskv-Demo", "1")], "/demo/kill/node9", 404),
        (&[("Huskv-Demo", "1")], "/demo/wipe/node1", 404),
        (&[("Huskv-Demo", "1")], "/demo/nodes", 405),
    ] {
        assert_eq!(exchange(&page, "POST", path, headers).0, expected, "{path} {headers:?}");
    }
    assert_eq!(exchange(&page, "GET", "/store/x", &[("Origin", "http://evil.example")]).0, 403);

    // A paused node ends with a killed demo too.
    assert_eq!(demo.act("pause", "node2").0, 200);
    drop(demo);
    nothing_listens(ports, LONG);
}

#[test]
fn a_secure_demo_is_used_by_what_it_prints_and_refuses_strangers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let ports = free_ranges();
    let mut demo = Demo::start(folder, ports, &["--secure"]);
    let said = demo.until("Ctrl-C");
    assert_eq!(said.matches("made ").count(), 3, "{said}");
    assert!(!said.contains(&secret(folder)), "{said}");

    let shown = paste(folder, &commands(&said, "The same with huskv", "Strangers"));
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && text.contains("bar") && text.contains("node3"), "{shown:?}");
    let address = demo.http(2);
    let stats = get_as(as_admin(folder), &address, "/raft/stats").body;
    assert_eq!((&stats["data"]["tls_http"], &stats["data"]["tls_peer"]), (&json!("on"), &json!("on")), "{stats}");
    assert_eq!(get_as(as_admin(folder), &address, "/store/foo").body["data"]["value"], "bar");
    let refused = get_as(over_tls(folder), &address, "/store/foo");
    assert_eq!((refused.status, &refused.body["code"]), (401, &json!("unauthorized")));
    let refused = get(&address, "/store/foo");
    assert_eq!((refused.status, &refused.body["code"]), (400, &json!("https_required")));
    assert_eq!(demo.act("pause", "node1").0, 401);
    let header = format!("Bearer {}", secret(folder));
    let page = |path, headers: &[(&str, &str)]| exchange(&demo.page(), "GET", path, headers);
    assert_eq!(page("/store/foo", &[]).0, 401);
    assert_eq!(page("/store/foo", &[("Authorization", &header)]).0, 200);
    // The same with curl, where there is one.
    let leader = said.lines().find_map(|line| line.split_once(" leads;")).expect("a leader").0;
    if Command::new("curl").arg("--version").output().is_ok() {
        let shown = paste(folder, &commands(&said, &format!("{leader} leads"), "The same"));
        let text = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.status.success() && text.contains(r#""value":"bar""#), "{shown:?}");
        let refused =
            commands(&said, "Strangers", "Ctrl-C").iter().map(|line| paste(folder, &[line])).collect::<Vec<_>>();
        let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!refused[0].status.success() && text(&refused[0]).is_empty(), "{refused:?}");
        assert!(text(&refused[1]).contains("unauthorized") && text(&refused[2]).contains("https_required"));
    }
    demo.interrupt();
    assert!(demo.child.wait().expect("ends").success());
    nothing_listens(ports, Duration::ZERO);

    let mut again = Demo::start(folder, ports, &["--secure"]);
    let said = again.until("Ctrl-C");
    assert!(!said.contains("made ") && !said.contains("joined"), "{said}");
    assert_eq!(get_as(as_admin(folder), &again.http(1), "/store/foo").body["data"]["value"], "bar");
    drop(again);
    nothing_listens(ports, LONG);

    let before = secret(folder);
    let mut fresh = Demo::start(folder, ports, &["--secure", "--fresh"]);
    fresh.until("Ctrl-C");
    assert_ne!(secret(folder), before);
    assert_eq!(get_as(as_admin(folder), &fresh.http(1), "/store/foo").status, 404);
}

#[test]
fn a_demo_goes_on_with_tls_and_without_whatever_its_environment_has() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let ports = free_ranges();
    let stray = [
        ("HUSKV_TLS_DIR", "/nowhere"),
        ("HUSKV_TLS_PEER_CERT", "/nowhere/a"),
        ("HUSKV_TLS_HTTP", "accept"),
        ("HUSKV_AUTH_TOKENS", "/nowhere/tokens.toml"),
        ("HUSKV_RAFT_HOST", "192.0.2.1"),
        ("HUSKV_CA", "/nowhere/ca.pem"),
        ("HUSKV_TOKEN", "hkv_other"),
        ("HUSKV_TOKEN_FILE", "/nowhere/secret"),
    ];
    let body = json!({ "key": "foo", "value": "bar" });
    for (round, arguments) in [&[][..], &["--secure"], &[], &["--secure", "--nodes", "4"]].into_iter().enumerate() {
        let mut demo = Demo::start_among(&stray, folder, ports, arguments);
        let said = demo.until("Ctrl-C");
        let access = || if arguments.is_empty() { Access::default() } else { as_admin(folder) };
        let joined = [2, 0, 0, 1][round];
        assert_eq!(said.matches(" joined").count(), joined, "round {round}: {said}");
        let address = demo.http(1);
        if round == 0 {
            let stored = ask_with(access(), async |client: NodeClient| client.post(&address, "/store", &body).await);
            assert_eq!(stored.expect("stored").status, 200);
        }
        for node in 0..3 {
            let found = get_as(access(), &demo.http(node), "/store/foo");
            assert_eq!(found.body["data"]["value"], "bar", "round {round}, {found:?}");
        }
        demo.interrupt();
        assert!(demo.child.wait().expect("ends").success());
        nothing_listens(ports, Duration::ZERO);
    }
}

#[test]
fn the_ca_of_a_real_cluster_is_named_before_anything_is_removed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = Command::new(env!("CARGO_BIN_EXE_huskv"))
        .current_dir(folder.path())
        .args(["certs", "ca", "data/certs", "--cluster", "prod"])
        .output();
    assert!(made.expect("huskv can be started").status.success());
    std::fs::create_dir(folder.path().join("data/node1")).expect("new");
    std::fs::write(folder.path().join("data/node1/identity"), "").expect("new");
    let key = || std::fs::read(folder.path().join("data/certs/ca-key.pem")).expect("a key");
    let before = key();
    let mut demo = Demo::start(folder.path(), free_ranges(), &["--secure", "--fresh"]);
    assert_eq!(demo.child.wait().expect("ends").code(), Some(1));
    let mut complaint = String::new();
    demo.child.stderr.take().expect("piped").read_to_string(&mut complaint).expect("UTF-8");
    assert!(complaint.contains("the CA of the cluster prod") && complaint.lines().count() == 1, "{complaint}");
    assert!(folder.path().join("data/node1/identity").exists() && key() == before);
}
