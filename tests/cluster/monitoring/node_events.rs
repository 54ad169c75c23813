//! `GET /events` and `huskv events`: the reasons of leader changes, on real processes.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::failing_disk::{DiskFault, shim};
use crate::failures::link_loss::linked;
use crate::harness::{Cluster, Need, Node, Request, Setup, binary, check, eventually, secs};
use crate::tcp_proxy::State;

crate::harness::cases![
    a_killed_leader_is_missed_and_says_restart_when_it_is_back,
    a_stopped_leader_learns_that_it_stood_still.alone(),
    a_leader_with_a_slow_disk_says_so.alone().needs(Need::Cc),
    a_leader_that_is_cut_off_says_so_and_so_does_a_follower,
    a_transfer_is_one_on_every_node,
    members_and_refused_joins_are_events_and_events_are_paged,
    a_stream_goes_on_after_an_id_and_ends_with_the_node,
    events_are_printed_line_by_line,
];

/// All events of a node.
fn events(node: &Node) -> Vec<Value> {
    let answer = node.get("/events?limit=1000").expect(200, "events").json();
    assert_eq!(answer["node"], node.name(), "{answer}");
    answer["events"].as_array().cloned().unwrap_or_default()
}

/// Waits for an event of this kind that `fits`, prints it, and returns it.
#[track_caller]
fn event(node: &Node, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let found = eventually(secs(30), format!("{} has a fitting {kind}", node.name()), || {
        let all = events(node);
        let found = all.iter().rev().find(|event| event["kind"] == kind && fits(event)).cloned();
        found.ok_or_else(|| format!("{all:#?}"))
    });
    eprintln!("{}: {found}", node.name());
    found
}

/// The change from one leader to another.
#[track_caller]
fn change(node: &Node, from: &str, to: Option<&str>) -> Value {
    event(node, "leader_changed", |event| event["from"] == from && event["to"] == json!(to))
}

/// A member of an event that is a number.
#[track_caller]
fn number(event: &Value, name: &str) -> u64 {
    event[name].as_u64().unwrap_or_else(|| panic!("{name} is no number in {event}"))
}

/// A member of an event that is at least so much.
#[track_caller]
fn at_least(event: &Value, name: &str, least: u64) {
    assert!(number(event, name) >= least, "{name}: {event}");
}

/// The log of the node has the reason of the event in a line about the role.
#[track_caller]
fn the_log_agrees(node: &Node, event: &Value) {
    let why = format!("why: {}", event["reason"].as_str().unwrap_or_default());
    let term = format!("term: {}", event["term"]);
    eventually(secs(10), format!("a line with {term} and {why}"), || {
        let log = node.log();
        let found = log.lines().any(|line| line.contains("role, ") && line.contains(&term) && line.contains(&why));
        check(found, &log)
    });
}

fn a_killed_leader_is_missed_and_says_restart_when_it_is_back() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let old = cluster.nodes[leader].name().to_owned();
    cluster.nodes[leader].kill9();
    let new = cluster.agreed();
    let name = cluster.nodes[new].name().to_owned();
    for place in cluster.followers().into_iter().chain([new]) {
        let changed = change(&cluster.nodes[place], &old, Some(&name));
        assert_eq!((&changed["reason"], &changed["last_contact"]), (&json!("missed_heartbeats"), &json!(old)));
        at_least(&changed, "last_contact_ms", 800);
        the_log_agrees(&cluster.nodes[place], &changed);
        assert_eq!(number(&changed, "term"), cluster.nodes[new].number("term"));
        event(&cluster.nodes[place], "peer_lost", |event| event["peer"] == old.as_str());
    }
    let stood = event(&cluster.nodes[new], "election_started", |event| event["leader"] == old.as_str());
    assert_eq!(stood["reason"], "missed_heartbeats");
    at_least(&stood, "last_contact_ms", 800);
    event(&cluster.nodes[new], "election_won", |_| true);
    cluster.nodes[leader].start();
    let back = event(&cluster.nodes[leader], "leader_changed", |event| event["to"] == name.as_str());
    assert_eq!((&back["reason"], &back["from"]), (&json!("restart"), &Value::Null));
    event(&cluster.nodes[new], "peer_found", |event| event["peer"] == old.as_str() && event["lost_ms"].is_u64());
}

fn a_stopped_leader_learns_that_it_stood_still() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    cluster.nodes[leader].sigstop();
    let new = cluster.some_leader(secs(15));
    cluster.nodes[leader].sigcont();
    let (old, name) = (cluster.nodes[leader].name(), cluster.nodes[new].name());
    let changed = change(&cluster.nodes[leader], old, Some(name));
    assert_eq!(changed["reason"], "missed_heartbeats", "{changed}");
    at_least(&changed, "stalled_ms", 800);
    assert!(changed["detail"].as_str().is_some_and(|detail| detail.contains("stood still")), "{changed}");
    the_log_agrees(&cluster.nodes[leader], &changed);
    assert_eq!(change(&cluster.nodes[new], old, Some(name))["reason"], "missed_heartbeats");
}

fn a_leader_with_a_slow_disk_says_so() {
    let home = tempfile::tempdir().unwrap();
    let trigger = |name: &str| home.path().join(name);
    let library = shim().expect("the library").display().to_string();
    let mut cluster = Cluster::with(3, |setup| {
        let path = trigger(&setup.name);
        setup.set("LD_PRELOAD", &library).set("FAULTS_TRIGGER", path.display())
    });
    let leader = cluster.agreed();
    let old = cluster.nodes[leader].name().to_owned();
    let path = trigger(&old);
    DiskFault::Slow.begin(&path);
    // Each write makes it sync, which takes 1.5 s, and the others wait for 1 to 2 s.
    let body = json!({"key": "k", "value": 1}).to_string();
    let mut waiting = Vec::new();
    let mut looks = 0_usize;
    let new = eventually(secs(60), "another node leads", || {
        if looks.is_multiple_of(20) {
            waiting
                .push(Request::new("POST", "/store?timeout=20s").body(body.clone()).open(&cluster.nodes[leader].http));
        }
        looks += 1;
        let leads = |node: &Node| node.name() != old && node.try_stats().is_ok_and(|stats| stats["state"] == "Leader");
        cluster.nodes.iter().position(leads).ok_or("none does".to_owned())
    });
    DiskFault::end(&path);
    let name = cluster.nodes[new].name().to_owned();
    let changed = event(&cluster.nodes[leader], "leader_changed", |event| event["from"] == old.as_str());
    assert_eq!(changed["reason"], "slow_sync", "{changed}");
    at_least(&changed, "longest_sync_ms", 800);
    the_log_agrees(&cluster.nodes[leader], &changed);
    event(&cluster.nodes[leader], "slow_sync", |event| number(event, "ms") >= 800);
    assert_eq!(change(&cluster.nodes[new], &old, Some(&name))["reason"], "missed_heartbeats");
    cluster.nodes.iter_mut().for_each(Node::kill9);
}

fn a_leader_that_is_cut_off_says_so_and_so_does_a_follower() {
    let (cluster, proxies, [leader, second, third]) = linked(|setup| setup);
    let cut = |place: usize, state: State| {
        for other in [leader, second, third].into_iter().filter(|other| *other != place) {
            proxies.set(place, other, state);
            proxies.set(other, place, state);
        }
    };
    cut(leader, State::Cut);
    let old = cluster.nodes[leader].name();
    let lost = change(&cluster.nodes[leader], old, None);
    assert_eq!(lost["reason"], "partition", "{lost}");
    at_least(&lost, "last_contact_ms", 800);
    assert!([second, third].iter().any(|place| lost["last_contact"] == cluster.nodes[*place].name()), "{lost}");
    the_log_agrees(&cluster.nodes[leader], &lost);
    cut(leader, State::Open);
    let new = cluster.agreed();
    let name = cluster.nodes[new].name();
    if new != leader {
        assert_eq!(change(&cluster.nodes[leader], old, Some(name))["reason"], "partition");
    }
    // A follower that is cut off loses its leader and nothing else: the same leader in the same term is no change.
    let lonely = cluster.followers()[0];
    cut(lonely, State::Cut);
    let stood = event(&cluster.nodes[lonely], "election_started", |event| event["leader"] == name);
    at_least(&stood, "last_contact_ms", 800);
    cut(lonely, State::Open);
    event(&cluster.nodes[lonely], "election_lost", |event| event["leader"] == name);
    let all = events(&cluster.nodes[lonely]);
    let changes = all.iter().filter(|event| event["kind"] == "leader_changed" && event["to"].is_string());
    let leaders: Vec<_> = changes.map(|event| (number(event, "term"), event["to"].to_string())).collect();
    assert!(leaders.is_sorted_by(|a, b| a.0 < b.0), "{all:#?}");
}

fn a_transfer_is_one_on_every_node() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let target = cluster.followers()[0];
    let (old, name) = (cluster.nodes[leader].name().to_owned(), cluster.nodes[target].name().to_owned());
    cluster.nodes[leader].post("/raft/transfer", &json!({ "node_id": name })).expect(200, "a transfer");
    for node in &cluster.nodes {
        let changed = change(node, &old, Some(&name));
        assert_eq!(changed["reason"], "transfer", "{changed}");
        the_log_agrees(node, &changed);
    }
    let stood = event(&cluster.nodes[target], "election_started", |event| event["leader"] == old.as_str());
    assert_eq!(stood["reason"], "transfer");
    // A leader that is asked to stop hands over first.
    cluster.nodes[target].sigterm();
    let new = cluster.agreed();
    let next = cluster.nodes[new].name().to_owned();
    assert_eq!(change(&cluster.nodes[new], &name, Some(&next))["reason"], "transfer");
}

fn members_and_refused_joins_are_events_and_events_are_paged() {
    let cluster = Cluster::of(2);
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    event(first, "member_joined", |event| event["member"] == "node2" && event["role"] == "learner");
    event(first, "member_promoted", |event| event["member"] == "node2");
    event(second, "snapshot_installed", |event| event["from"] == "node1");
    event(second, "member_joined", |event| event["member"] == "node1");
    event(first, "snapshot_sent", |event| event["to"] == "node2");
    let leader = &cluster.nodes[cluster.agreed()];
    let body = json!({ "node_id": "node3", "raft_address": "127.0.0.1:1" });
    leader
        .request(Request::new("POST", "/raft/join?timeout=5s").body(body.to_string()))
        .problem(502, "nothing is there");
    let refused = event(leader, "join_refused", |event| event["member"] == "node3");
    assert_eq!(refused["code"], "unreachable");
    let all = events(leader);
    assert_eq!(all[0]["kind"], "started");
    assert!(all.windows(2).all(|pair| number(&pair[0], "id") < number(&pair[1], "id")));
    let page = leader.get("/events?since=2&limit=2").expect(200, "a page").json();
    assert_eq!(page["events"], json!(all[2..4]));
    assert_eq!((&page["first"], page["boot"].as_str().map(str::len)), (&json!(1), Some(16)));
    assert_eq!(leader.request(Request::new("HEAD", "/events")).expect(200, "HEAD").body, b"");
    for query in ["since=x", "since=-1", "limit=0", "limit=1001", "limit=x", "until=3"] {
        leader.get(&format!("/events?{query}")).problem(400, query).code("bad_query", query);
    }
    // A removed node still answers, and knows that it was removed.
    leader.remove("node2").expect(200, "a removal");
    event(leader, "member_removed", |event| event["member"] == "node2");
    event(second, "member_removed", |event| event["member"] == "node2");
}

fn a_stream_goes_on_after_an_id_and_ends_with_the_node() {
    let mut node = Setup::named("node1").start();
    let boot = node.get("/events").expect(200, "events").json()["boot"].as_str().expect("a name").to_owned();
    let request = Request::new("GET", "/events").header("Accept", "text/event-stream");
    let stream = request.header("Last-Event-ID", &format!("{boot}.1")).open(&node.http).expect("a connection");
    node.put("k", 1);
    node.post("/raft/snapshot", &json!({})).expect(200, "a checkpoint");
    event(&node, "checkpoint", |_| true);
    node.sigterm();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream.into_stream(), &mut text).expect("the stream ends in order");
    assert!(text.contains("\r\ncontent-type: text/event-stream; charset=utf-8\r\n"), "{text}");
    assert!(!text.contains(&format!("id:{boot}.1\n")) && text.contains(&format!("id:{boot}.2\nevent:")), "{text}");
    assert!(text.contains("\nevent:checkpoint\ndata:{") && text.contains("\nevent:draining\ndata:{"), "{text}");
}

fn events_are_printed_line_by_line() {
    let cluster = Cluster::of(3);
    let endpoints = cluster.addresses().join(",");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.env_clear().arg("events").args(arguments).args(["--endpoints", &endpoints]).stdin(Stdio::null());
        let output = command.output().expect("huskv");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let text = run(&[]);
    assert!(text.lines().map(|line| &line[..24]).is_sorted(), "{text}");
    for part in [" node1 started huskv ", " node2 leader_changed ", " node3 leader_changed "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let lines = run(&["--json", "--limit", "1"]);
    let nodes: Vec<Value> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")["node"].clone()).collect();
    assert_eq!(nodes.len(), 3, "{lines}");
}
