//! The checks behind `/readyz`, the drain, and how quickly probes answer.

use std::time::{Duration, Instant};

use serde_json::json;

use super::probes::{is_not_ready, is_ready};
use crate::harness::{Cluster, Node, Request, Setup, check, eventually, free_port, millis, secs};

crate::harness::cases![
    a_lone_node_is_not_ready_before_its_log_is_applied,
    without_a_quorum_probes_answer_at_once_and_name_what_is_missing.alone(),
    checks_are_excluded_and_asked_for_alone,
    a_node_that_drains_serves_new_connections_and_is_not_ready,
    a_second_signal_ends_the_drain,
    every_open_route_takes_head_on_both_ports,
];

/// The status of a path, and the body.
fn ask(node: &Node, path: &str) -> (u16, String) {
    let answer = node.get(path);
    (answer.status, answer.text())
}

fn a_lone_node_is_not_ready_before_its_log_is_applied() {
    let mut node = Setup::named("node1").start();
    let value = "x".repeat(100);
    for batch in 0..200 {
        let puts: Vec<_> = (0..100)
            .map(|number| json!({"op": "put", "key": format!("key-{batch}-{number}"), "value": value}))
            .collect();
        node.post("/txn", &json!({"then": puts})).expect(200, "a transaction");
    }
    let written = node.number("commit_index");
    node.kill9();
    node.start();
    eventually(secs(60), "it is ready", || {
        let answer = node.try_request(Request::new("GET", "/readyz"))?;
        check(answer.status == 200, answer)?;
        let applied = node.number("applied_index");
        assert!(applied > written, "ready with {applied} applied, and {written} were committed before");
        Ok(())
    });
}

/// The median of how long five requests take.
fn median(node: &Node, path: &str) -> Duration {
    let mut took = [Duration::ZERO; 5].map(|_| {
        let began = Instant::now();
        node.get(path);
        began.elapsed()
    });
    took.sort();
    took[2]
}

fn without_a_quorum_probes_answer_at_once_and_name_what_is_missing() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    for place in cluster.followers() {
        cluster.nodes[place].kill9();
    }
    let left = &cluster.nodes[leader];
    let said = is_not_ready(left, "no_leader").text();
    for line in ["[+]joined ok\n", "\n[-]leader failed: no_leader: ", "\n[-]read_index failed: no_leader: "] {
        assert!(said.contains(line), "{said}");
    }
    for path in ["/livez", "/readyz", "/metrics", "/version"] {
        let took = median(left, path);
        assert!(took < millis(100), "{path} takes {took:?}");
    }
    assert_eq!(ask(left, "/livez"), (200, "ok\n".to_owned()));
}

fn checks_are_excluded_and_asked_for_alone() {
    let node = Setup::named("node1").set("HUSKV_JOIN", "127.0.0.1:1,127.0.0.1:2").start();
    is_not_ready(&node, "joining");
    let ok = || (200, "ok\n".to_owned());
    assert_eq!(ask(&node, "/readyz?exclude=joined&exclude=leader&exclude=read_index"), ok());
    assert_eq!(ask(&node, "/readyz/applied"), ok());
    let (status, said) = ask(&node, "/readyz/joined");
    assert!(status == 503 && said.starts_with("[-]joined failed: joining: "), "{said}");
    node.get("/readyz/nothing").problem(404, "no check").code("not_found", "no check");
    let unknown = node.get("/readyz?exclude=disk&exclude=nothing").problem(400, "no check");
    assert!(unknown.code("bad_query", "no check").word("detail").contains("`draining`, not `nothing`"));
    let foreign = Request::new("GET", "/readyz/joined").header("Host", "kv.example.org");
    assert_eq!(node.request(foreign).expect(503, "a stranger").body, b"");

    let serving = Setup::named("node2").start();
    is_ready(&serving);
    let lines =
        "[+]joined ok\n[+]leader ok\n[+]read_index ok\n[+]applied ok\n[+]disk excluded: ok\n[+]draining ok\nok\n";
    assert_eq!(ask(&serving, "/readyz?verbose&exclude=disk"), (200, lines.to_owned()));
}

fn a_node_that_drains_serves_new_connections_and_is_not_ready() {
    let drain = secs(3);
    let mut node = Setup::named("node1").set("HUSKV_HTTP_DRAIN_MS", drain.as_millis()).start();
    is_ready(&node);
    let began = Instant::now();
    node.terminate();
    eventually(secs(10), "/readyz fails", || {
        let (status, said) = ask(&node, "/readyz");
        check(status == 503 && said.contains("\n[-]draining failed: stopping: "), said)
    });
    // A machine that is too slow for this proves nothing.
    let mut served = 0;
    while began.elapsed() < drain / 2 {
        node.put(&format!("key-{served}"), 1);
        assert_eq!((node.get("/livez").status, node.get("/readyz").status), (200, 503));
        served += 1;
    }
    assert!(served > 0 || began.elapsed() > drain / 2, "nothing was served");
    assert_eq!(node.await_exit(drain + secs(15)).code(), Some(0), "{}", node.log());
    assert!(began.elapsed() >= drain, "{:?}", began.elapsed());
    node.start();
    (0..served).for_each(|number| assert_eq!(node.value(&format!("key-{number}")), 1));
}

fn a_second_signal_ends_the_drain() {
    let mut node = Setup::named("node1").set("HUSKV_HTTP_DRAIN_MS", 600_000).start();
    is_ready(&node);
    node.terminate();
    eventually(secs(10), "it drains", || check(node.get("/readyz/draining").status == 503, "it does not"));
    assert_eq!(node.sigterm().code(), Some(0), "{}", node.log());
    assert!(node.log().contains("http.drain_ms"), "{}", node.log());
}

fn every_open_route_takes_head_on_both_ports() {
    let port = free_port();
    let node = Setup::named("node1").set("HUSKV_HTTP_METRICS_PORT", port).start();
    is_ready(&node);
    let both = ["/livez", "/readyz", "/readyz/leader", "/readyz?verbose", "/version", "/metrics"];
    for (address, paths) in
        [(node.http.clone(), &[&both[..], &["/health"]].concat()), (format!("127.0.0.1:{port}"), &both.to_vec())]
    {
        for path in paths {
            let get = Request::new("GET", *path).send(&address).expect("an answer").expect(200, path);
            let head = Request::new("HEAD", *path).send(&address).expect("an answer").expect(200, path);
            assert_eq!((head.header("content-type"), head.body.len()), (get.header("content-type"), 0), "{path}");
        }
    }
    let version = node.get("/version").json();
    assert_eq!(version["huskv"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["wire"]["newest"], 2);
    assert!(version["formats"]["journal"].is_u64() && version["commit"].is_string(), "{version}");
}
