//! Readiness and liveness probes in each state of a node.

use serde_json::json;

use super::status::status;
use crate::failing_disk::{DiskFault, shim};
use crate::failures::link_loss::linked;
use crate::failures::snapshots::{fill, small};
use crate::harness::{Answer, Cluster, Need, Node, Request, Setup, check, eventually, secs};
use crate::tcp_proxy::State;

crate::harness::cases![
    a_serving_node_is_ready_and_live,
    a_node_that_waits_for_a_cluster_is_not_ready_but_live,
    a_node_without_a_quorum_is_not_ready_but_live,
    a_removed_node_is_not_ready_but_live,
    a_node_that_receives_a_snapshot_reports_it_and_refuses_reads_at_once.alone(),
    a_node_whose_leader_is_heard_late_is_not_ready_and_refuses_reads_at_once.alone(),
    a_node_that_starts_far_behind_is_not_ready_before_it_has_caught_up.alone(),
    a_node_whose_disk_hangs_is_live_and_answers_pending_requests_before_it_stops.needs(Need::Cc),
];

/// Waits until a check of `/readyz` fails with this code, and checks that `/livez` says that the node lives.
#[track_caller]
pub fn is_not_ready(node: &Node, code: &str) -> Answer {
    let answer = eventually(secs(20), format!("{} is not ready: {code}", node.name()), || {
        let answer = node.try_request(Request::new("GET", "/readyz"))?;
        let fails = answer.text().contains(&format!(" failed: {code}: "));
        check(answer.status == 503 && fails, &answer).map(|()| answer)
    });
    assert!(answer.header("retry-after").is_some(), "{answer}");
    assert_eq!(node.get("/livez").expect(200, "it lives").text(), "ok\n");
    answer
}

/// Waits until `/readyz` says that the node takes requests.
#[track_caller]
pub fn is_ready(node: &Node) {
    eventually(secs(30), format!("{} is ready", node.name()), || {
        let answer = node.try_request(Request::new("GET", "/readyz"))?;
        check(answer.status == 200 && answer.text() == "ok\n", answer)
    });
}

fn a_serving_node_is_ready_and_live() {
    let node = Setup::named("node1").start();
    is_ready(&node);
    for path in ["/readyz", "/livez", "/readyz/", "/livez?timeout=1s"] {
        let answer = node.get(path).expect(200, path);
        assert_eq!(
            (answer.text().as_ref(), answer.header("content-type")),
            ("ok\n", Some("text/plain; charset=utf-8"))
        );
        let head = node.request(Request::new("HEAD", path)).expect(200, path);
        assert_eq!(head.body, b"");
        let options = node.request(Request::new("OPTIONS", path)).expect(204, path);
        assert_eq!(options.header("allow"), Some("GET, HEAD, OPTIONS"));
        node.request(Request::new("POST", path).body("{}")).problem(405, path);
        // A probe may ask under any name, and learns whether, and no more.
        let foreign = node.request(Request::new("GET", path).header("Host", "kv.example.org")).expect(200, path);
        assert_eq!((foreign.body.as_slice(), foreign.header("x-huskv-node")), (b"".as_slice(), None));
    }
    assert!(node.stats().get("not_ready").is_none());
}

fn a_node_that_waits_for_a_cluster_is_not_ready_but_live() {
    let node = Setup::named("node1").set("HUSKV_JOIN", "127.0.0.1:1,127.0.0.1:2").start();
    is_not_ready(&node, "joining");
    assert_eq!(node.stats()["not_ready"]["code"], "joining");
    let foreign =
        node.request(Request::new("GET", "/readyz").header("Host", "kv.example.org")).expect(503, "a stranger");
    assert_eq!(foreign.body, b"");
}

fn a_node_without_a_quorum_is_not_ready_but_live() {
    let mut cluster = Cluster::of(3);
    for node in &cluster.nodes {
        is_ready(node);
    }
    let followers = cluster.followers();
    followers.iter().for_each(|&place| cluster.nodes[place].sigstop());
    let leader = cluster.nodes.iter().position(Node::runs).expect("the one that is left");
    is_not_ready(&cluster.nodes[leader], "no_leader");
    assert_eq!(cluster.nodes[leader].get("/health").expect(200, "health").json()["not_ready"]["code"], "no_leader");
    followers.iter().for_each(|&place| cluster.nodes[place].sigcont());
    for node in &cluster.nodes {
        is_ready(node);
    }
}

fn a_removed_node_is_not_ready_but_live() {
    let cluster = Cluster::of(2);
    let (leader, gone) = (cluster.agreed(), cluster.followers()[0]);
    cluster.nodes[leader].remove(cluster.nodes[gone].name()).expect(200, "a removal");
    is_not_ready(&cluster.nodes[gone], "removed");
    is_ready(&cluster.nodes[leader]);
}

fn a_node_that_receives_a_snapshot_reports_it_and_refuses_reads_at_once() {
    let (mut cluster, links, [before, place, leader]) = linked(small);
    // Who made the others join keeps its log for them for some seconds; another leader has no reason to.
    let to = json!({"node_id": cluster.nodes[leader].name()});
    cluster.nodes[before].post("/raft/transfer", &to).expect(200, "a transfer");
    assert_eq!(cluster.agreed(), leader);
    let led = cluster.nodes[leader].name().to_owned();
    cluster.nodes[leader].put("old", "old");
    cluster.caught_up(secs(20));
    cluster.nodes[place].kill9();
    fill(&cluster.nodes[leader], 200, 15_000);
    // At most 64 KiB each time: the copy takes long enough for all that follows.
    links.set(leader, place, State::Narrow(200));
    cluster.nodes[place].start();
    let behind = &cluster.nodes[place];
    let said = is_not_ready(behind, "lagging").text();
    assert!(said.contains("receiving a snapshot"), "{said}");

    // With a minute to wait, an answer within seconds is one at once.
    for path in ["/store/old", "/store/key-7", "/store?keys", "/store/old?min_index=3"] {
        let separator = if path.contains('?') { '&' } else { '?' };
        let read = Request::new("GET", format!("{path}{separator}timeout=60s")).within(secs(20));
        let refused = behind.request(read).problem(503, path).code("lagging", path);
        assert_eq!(refused.json()["leader"]["node_id"], led, "{refused}");
    }
    let bounded = "/store/old?consistency=stale&max_stale=1s&timeout=60s";
    let bounded = behind.request(Request::new("GET", bounded).within(secs(20)));
    bounded.problem(503, "a bounded read").code("too_stale", "a bounded read");
    assert_eq!(behind.get("/store/old?consistency=stale").expect(200, "a stale read").data()["value"], "old");
    behind.put("written", "through it");

    for state in [behind.stats(), behind.get("/health").expect(200, "health").json()] {
        assert_eq!(state["not_ready"]["code"], "lagging", "{state}");
    }
    let (code, told) = status(&[], &["--endpoints", &behind.http]);
    assert_eq!(code, Some(1), "{told}");
    let line = format!("{} lags behind {led}, term ", behind.name());
    assert!(told.contains(&line) && told.contains("not ready: ") && told.contains("receiving a snapshot"), "{told}");

    links.open();
    is_ready(behind);
    assert_eq!(behind.value("written"), "through it");
    assert!(behind.log().contains("lags behind its leader"), "{}", behind.log());
    assert_eq!(status(&[], &["--endpoints", &behind.http]).0, Some(0));
}

/// Writes so many values of 500 kB, the last of them under the key `last`.
fn fill_large(node: &Node, count: usize) {
    for number in (0..count).rev() {
        let path = if number == 0 { "/store/last".to_owned() } else { format!("/store/key-{number}") };
        let put = Request::new("PUT", path).header("Content-Type", "text/plain").body(vec![b'x'; 500_000]);
        node.request(put.within(secs(20))).expect(200, "a write");
    }
}

fn a_node_whose_leader_is_heard_late_is_not_ready_and_refuses_reads_at_once() {
    let (cluster, links, [leader, place, _]) = linked(|setup| setup.set("HUSKV_RAFT_ELECTION_TICKS", 80));
    let (led, behind) = (cluster.nodes[leader].name(), &cluster.nodes[place]);
    cluster.nodes[leader].put("old", "old");
    cluster.caught_up(secs(20));
    is_ready(behind);
    // 160 kB/s, a value in 3 s of an election timeout of 4: the leader is heard, and its answers come behind half a minute
    // of values.
    links.set(leader, place, State::Narrow(400));
    fill_large(&cluster.nodes[leader], 12);
    for (path, most) in [("/store/old?timeout=60s", 20), ("/store?keys&timeout=60s", 5)] {
        let refused = behind.request(Request::new("GET", path).within(secs(most))).problem(503, path);
        assert_eq!(refused.code("lagging", path).json()["leader"]["node_id"], led);
    }
    is_not_ready(behind, "lagging");
    assert_eq!(behind.get("/store/old?consistency=stale").expect(200, "a stale read").data()["value"], "old");
    assert_eq!(behind.stats()["not_ready"]["code"], "lagging");
    let (code, told) = status(&[], &["--endpoints", &behind.http]);
    assert!(code == Some(1) && told.contains("lags behind"), "{told}");

    links.open();
    is_ready(behind);
    assert_eq!(behind.get("/store/last?raw").expect(200, "the last write").body.len(), 500_000);
    assert_eq!(status(&[], &["--endpoints", &behind.http]).0, Some(0));
}

fn a_node_that_starts_far_behind_is_not_ready_before_it_has_caught_up() {
    let (mut cluster, links, [leader, place, _]) = linked(|setup| setup);
    cluster.nodes[place].kill9();
    fill_large(&cluster.nodes[leader], 20);
    let written = cluster.nodes[leader].number("commit_index");
    links.set(leader, place, State::Narrow(50));
    cluster.nodes[place].start();
    let behind = &cluster.nodes[place];
    let mut reasons = Vec::new();
    eventually(secs(60), "it is ready", || {
        let answer = behind.try_request(Request::new("GET", "/readyz"))?;
        if answer.status == 200 {
            let applied = behind.number("applied_index");
            assert!(applied >= written, "ready with {applied} of {written}");
            return Ok(());
        }
        reasons.push(answer.text());
        Err(answer.to_string())
    });
    assert!(reasons.iter().any(|reason| reason.contains("\n[-]applied failed: starting: ")), "{reasons:?}");
}

fn a_node_whose_disk_hangs_is_live_and_answers_pending_requests_before_it_stops() {
    let trigger = tempfile::Builder::new().prefix("huskv-trigger-").tempdir().expect("a folder");
    let trigger = trigger.path().join("trigger");
    let library = shim().expect("cc is there");
    let setup = Setup::named("node1").set("LD_PRELOAD", library.display()).set("FAULTS_TRIGGER", trigger.display());
    let mut node = setup.start();
    is_ready(&node);
    node.put("before", 1);
    let watch = Request::new("GET", "/watch?prefix=").open(&node.http).expect("a connection");

    DiskFault::Frozen.begin(&trigger);
    let put = |key: &str| {
        let body = json!({"key": key, "value": 1}).to_string();
        Request::new("POST", "/store?timeout=60s").body(body).open(&node.http).expect("a connection")
    };
    let under_way = put("under-way");
    let before = Request::new("GET", "/store/before?timeout=60s").open(&node.http).expect("a connection");
    is_not_ready(&node, "stalled");
    let queued = put("queued");
    // What this node has applied is read without its loop.
    node.get("/store/before?consistency=stale&timeout=60s").expect(200, "a stale read");
    for path in [
        "/store/before?timeout=60s",
        "/store?keys&timeout=60s",
        "/store/before?consistency=stale&max_stale=1s&timeout=60s",
    ] {
        let read = node.request(Request::new("GET", path).within(secs(5))).problem(503, path);
        read.code("stalled", path);
    }
    let half = b"POST /store?timeout=60s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{";
    let mut upload = std::net::TcpStream::connect(&node.http).expect("a connection");
    std::io::Write::write_all(&mut upload, half).expect("half a request");
    // Connections are taken in their order, so the node has all of these.
    node.get("/livez").expect(200, "it lives");

    assert_eq!(node.sigterm().code(), Some(0), "{}", node.log());
    for (name, pending) in [("under way", under_way), ("queued", queued)] {
        let answer = pending.answer(secs(5)).expect("an answer").problem(503, name);
        answer.code("stopping", name).outcome("unknown", name);
    }
    let refused = before.answer(secs(5)).expect("an answer").problem(503, "a read");
    refused.code("stalled", "a read from before the stall was known");
    let mut answered = String::new();
    std::io::Read::read_to_string(&mut upload, &mut answered).expect("an answer");
    assert!(answered.starts_with("HTTP/1.1 503 ") && answered.contains(r#""outcome":"not_applied""#), "{answered}");
    let mut events = String::new();
    std::io::Read::read_to_string(&mut watch.into_stream(), &mut events).expect("the stream ends in order");
    assert!(events.trim_end().ends_with("0") && events.contains("event:progress"), "{events}");

    // What was acknowledged is there; what was not may be, and was said to be unknown.
    DiskFault::end(&trigger);
    node.start();
    assert_eq!(node.value("before"), 1);
}
