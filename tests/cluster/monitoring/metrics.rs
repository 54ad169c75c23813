//! `/metrics` of real nodes: what promtool says, what is there and when, and that it needs no loop and no quorum.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::harness::{Cluster, Need, Node, Request, START, Setup, check, eventually, free_port, millis, secs, tool};

crate::harness::cases![
    promtool_has_nothing_to_say_on_any_kind_of_node.needs(Need::Promtool),
    figures_follow_what_clients_do,
    the_lag_of_a_member_that_never_answered_its_leader_is_no_number,
    figures_are_served_without_a_quorum.alone(),
    the_port_for_figures_answers_beside_the_other_one,
];

fn scrape(node: &Node) -> String {
    node.get("/metrics").expect(200, "a scrape").text()
}

/// The names that a scrape describes.
fn described(body: &str) -> BTreeSet<String> {
    let types = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.filter_map(|rest| Some(rest.split_once(' ')?.0.to_owned())).collect()
}

/// The value of a series; None where there is none.
fn value(body: &str, series: &str) -> Option<f64> {
    body.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?.parse().ok()
}

/// Asserts that promtool finds nothing to say.
fn lint(body: &str, of: &str) {
    let promtool = tool("promtool").expect("the test needs it");
    let mut child = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    child.stdin.take().expect("piped").write_all(body.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{of}: {}", String::from_utf8_lossy(&said));
}

/// The first scrape that a node answers after this start.
fn first_scrape(port: u16) -> String {
    let answer = eventually(START, "the first answer of a node that starts", || {
        let request = Request::new("GET", "/metrics");
        request.send(&format!("127.0.0.1:{port}")).map_err(|error| error.to_string())
    });
    answer.expect(200, "the first scrape").text()
}

fn the_lag_of_a_member_that_never_answered_its_leader_is_no_number() {
    let mut cluster = Cluster::of(3);
    let old = cluster.agreed();
    let [dead, next] = cluster.followers()[..] else { panic!("two followers") };
    let series = |of: &str, index: usize| format!("huskv_raft_peer_{of}{{peer=\"{}\"}}", cluster.nodes[index].name());
    let (lag, matched) = (series("lag_entries", dead), series("match_index", dead));
    let (lag_of_old, to) = (series("lag_entries", old), json!({ "node_id": cluster.nodes[next].name() }));
    cluster.nodes[dead].kill9();
    for number in 0..20 {
        cluster.nodes[old].put("key", number);
    }
    eventually(secs(20), "the old leader knows how far it is behind", || {
        let body = scrape(&cluster.nodes[old]);
        check(value(&body, &lag).is_some_and(|entries| entries >= 20.0), body)
    });
    cluster.nodes[old].post("/raft/transfer", &to).expect(200, "a transfer");
    eventually(secs(20), "the new leader knows the lag of the one that answers alone", || {
        let body = scrape(&cluster.nodes[next]);
        check(value(&body, &lag_of_old) == Some(0.0), &body)?;
        check([&lag, &matched].iter().all(|series| value(&body, series).is_some_and(f64::is_nan)), &body)
    });
}

fn promtool_has_nothing_to_say_on_any_kind_of_node() {
    let cluster = Cluster::of(3);
    let port = free_port();
    let mut fresh = Setup::named("node8").set("SERVER_PORT", port).spawn();
    let first = first_scrape(port);
    fresh.await_up();
    fresh.put("key", 1);
    fresh.kill9();
    fresh.spawn();
    let again = first_scrape(port);
    let (leader, followers) = (cluster.agreed(), cluster.followers());
    let forming = Setup::named("node9").set("HUSKV_JOIN", "127.0.0.1:1,127.0.0.1:2").start();
    let gone = &cluster.nodes[followers[0]];
    let mut bodies = vec![
        ("the leader", scrape(&cluster.nodes[leader])),
        ("a follower", scrape(gone)),
        ("a node that waits for a cluster", scrape(&forming)),
        ("a node right after its first start", first),
        ("a node right after another start", again),
    ];
    cluster.nodes[leader].remove(gone.name()).expect(200, "a removal");
    bodies.push(("a removed node", scrape(gone)));
    let all = described(&bodies[0].1);
    assert!(all.len() > 60, "{all:?}");
    for (of, body) in &bodies {
        lint(body, of);
        assert_eq!(described(body), all, "{of}");
    }
}

fn figures_follow_what_clients_do() {
    let cluster = Cluster::of(3);
    let (leader, follower) = (cluster.agreed(), cluster.followers()[0]);
    let (leader, follower) = (&cluster.nodes[leader], &cluster.nodes[follower]);
    for number in 0..5 {
        leader.put(&format!("secret-key-{number}"), "secret-value");
    }
    let put = Request::new("PUT", "/store/secret-ttl?ttl=1").body("1");
    leader.request(put).expect(200, "a put with a ttl");
    let failed = json!({"if": [{"key": "secret-key-0", "exists": false}], "then": []});
    leader.post("/txn", &failed).expect(200, "a transaction");
    eventually(secs(20), "the figures have followed", || {
        let body = scrape(leader);
        let of = |series: &str| value(&body, series).ok_or_else(|| format!("no {series} in {body}"));
        check(of("huskv_server_is_leader")? > 0.5, "not the leader")?;
        check(of("huskv_raft_failure_tolerance")? > 0.5, "it tolerates no failure")?;
        check(of("huskv_ttl_expired_total")? > 0.5 && of("huskv_ttl_keys")? < 0.5, "the key has not expired")?;
        check(of("huskv_db_keys")? > 4.5, "keys")?;
        check(of("huskv_disk_wal_fsync_duration_seconds_count")? > 5.5, "syncs")?;
        check(of("huskv_disk_wal_write_bytes_total")? > 100.0, "bytes of the journal")?;
        check(of("huskv_server_apply_duration_seconds_count")? > 5.5, "applies")?;
        check(of("huskv_server_proposal_duration_seconds_count")? > 5.5, "proposals")?;
        check(of(r#"huskv_txn_total{succeeded="false"}"#)? > 0.5, "transactions")?;
        check(of("huskv_loop_busy_seconds_total")? > 0.0, "the loop")?;
        check(of("huskv_network_active_peers")? > 1.5, "peers")?;
        for peer in cluster.nodes.iter().map(Node::name).filter(|name| *name != leader.name()) {
            check(of(&format!("huskv_raft_peer_lag_entries{{peer=\"{peer}\"}}"))? < 0.5, "a follower lags")?;
            let trips = format!("huskv_network_peer_round_trip_time_seconds_count{{peer=\"{peer}\"}}");
            check(of(&trips)? > 0.5, "round trips")?;
            for bytes in ["sent", "received"] {
                let series = format!("huskv_network_peer_{bytes}_bytes_total{{peer=\"{peer}\"}}");
                check(of(&series)? > 100.0, &series)?;
            }
        }
        Ok(())
    });
    let body = scrape(follower);
    assert!(value(&body, "huskv_raft_failure_tolerance").is_some_and(f64::is_nan), "{body}");
    for body in [scrape(leader), body] {
        assert!(!body.contains("secret"), "{body}");
    }
}

fn figures_are_served_without_a_quorum() {
    let mut cluster = Cluster::of(3);
    let left = cluster.agreed();
    for place in cluster.followers() {
        cluster.nodes[place].kill9();
    }
    let left = &cluster.nodes[left];
    eventually(secs(20), "the lead is gone", || {
        let body = scrape(left);
        check(value(&body, "huskv_server_has_leader") == Some(0.0), body)
    });
    assert_eq!(left.get("/livez").status, 200);
    assert_eq!(left.get("/readyz").status, 503);
    // The best of some: another process may have the processor.
    let quickest = (0..5).map(|_| {
        let began = Instant::now();
        scrape(left);
        began.elapsed()
    });
    assert!(quickest.min().is_some_and(|took| took < millis(100)));
}

fn the_port_for_figures_answers_beside_the_other_one() {
    let port = free_port();
    let mut node = Setup::named("node1").set("HUSKV_HTTP_METRICS_PORT", port).start();
    node.put("key", 1);
    let ask = |path: &str| {
        let request = Request::new("GET", path);
        request.send(&format!("127.0.0.1:{port}")).expect("an answer")
    };
    for path in ["/metrics", "/livez", "/readyz"] {
        ask(path).expect(200, path);
    }
    ask("/store/key").problem(404, "a key").code("not_found", "a key");
    assert!(node.sigterm().success());
    let same = Setup::named("node2").set("SERVER_PORT", port).set("HUSKV_HTTP_METRICS_PORT", port);
    let mut refused = same.spawn();
    assert!(!refused.await_exit(secs(10)).success());
    assert!(refused.log().contains("http.metrics_port"), "{}", refused.log());
}
