//! Start and stop of a node, ports, directories, signals.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Cluster, Load, Request, Setup, check, eventually, secs};

crate::harness::cases![
    a_bare_node_leads_itself_and_serves,
    port_0_is_picked_once_and_kept,
    the_second_process_on_a_directory_fails_clearly,
    a_directory_of_another_name_is_refused_naming_both,
    sigterm_and_sigint_exit_0_and_lose_nothing,
    sighup_stops_nothing,
    a_leader_that_gets_sigterm_transfers_leadership_and_answers_pending_requests.alone(),
    the_log_can_be_json_and_has_role_changes,
    subcommand_serve_is_the_default,
    a_node_that_still_loads_its_directory_answers_starting,
];

fn a_bare_node_leads_itself_and_serves() {
    let mut node = Setup::bare();
    node.start();
    assert!(node.home().join("data/node1/addresses.json").exists(), "the default directory is data/NAME");
    let stats = node.stats();
    assert_eq!(stats["state"], "Leader", "{stats}");
    assert_eq!(stats["num_peers"], "0", "{stats}");
    assert_eq!(stats["node_id"], "node1", "the default name");
    node.put("foo", "bar");
    assert_eq!(node.value("foo"), "bar");
}

fn port_0_is_picked_once_and_kept() {
    let mut node = Setup::named("node1").start();
    let text = fs::read_to_string(node.directory().join("addresses.json")).unwrap();
    let addresses: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(addresses, json!({"http": node.http, "raft": node.raft}), "real addresses, and nothing else");
    assert!(!node.http.ends_with(":0") && !node.raft.ends_with(":0"), "{addresses}");
    assert_ne!(node.http, node.raft);
    let before = (node.http.clone(), node.raft.clone());
    node.kill9();
    node.start();
    assert_eq!((node.http.clone(), node.raft.clone()), before, "after kill -9");
    assert!(node.sigterm().success());
    node.start();
    assert_eq!((node.http.clone(), node.raft.clone()), before, "after SIGTERM");
}

fn the_second_process_on_a_directory_fails_clearly() {
    let first = Setup::named("node1").start();
    first.put("foo", "bar");
    let mut second = Setup::named("node1").directory(first.directory()).spawn();
    let status = second.await_exit(secs(10));
    assert!(!status.success(), "two processes on one directory");
    let log = second.log();
    assert!(log.contains(&first.directory().display().to_string()), "the directory is not named: {log}");
    assert!(!log.contains("panicked"), "{log}");
    assert_eq!(first.value("foo"), "bar", "the first one is not disturbed");
    first.put("foo", "baz");
}

fn a_directory_of_another_name_is_refused_naming_both() {
    let mut node = Setup::named("alpha").start();
    node.put("foo", "bar");
    assert!(node.sigterm().success());
    let mut other = Setup::named("omega").directory(node.directory()).spawn();
    let status = other.await_exit(secs(10));
    assert!(!status.success(), "a directory of another name was accepted");
    let log = other.log();
    assert!(log.contains("alpha") && log.contains("omega"), "both names: {log}");
    node.start();
    assert_eq!(node.value("foo"), "bar", "the refusal changed nothing");
}

fn sigterm_and_sigint_exit_0_and_lose_nothing() {
    let mut node = Setup::named("node1").start();
    for (round, signal) in ["term", "int"].into_iter().enumerate() {
        node.put("round", round);
        let begun = Instant::now();
        let status = if signal == "term" { node.sigterm() } else { node.sigint() };
        assert_eq!(status.code(), Some(0), "SIG{signal}");
        assert!(begun.elapsed() < secs(5), "SIG{signal} took {:?}", begun.elapsed());
        node.start();
        assert_eq!(node.value("round"), round, "after SIG{signal}");
    }
}

fn sighup_stops_nothing() {
    let mut node = Setup::named("node1").start();
    for round in 0..3 {
        node.sighup();
        node.put("round", round);
    }
    // Signals are taken in their order, so it has had all three by then.
    assert_eq!(node.sigterm().code(), Some(0));
    assert!(node.log().contains("reason: SIGTERM"), "{}", node.log());
}

fn a_leader_that_gets_sigterm_transfers_leadership_and_answers_pending_requests() {
    let mut cluster = Cluster::of(3);
    let (old, term) = cluster.reign();
    let place = cluster.place(&old).unwrap();
    let load = Load::start(&cluster.addresses(), 4, "stop");
    eventually(secs(20), "the load runs", || check(load.acked() > 50, load.acked()));
    let begun = Instant::now();
    let status = cluster.nodes[place].sigterm();
    assert_eq!(status.code(), Some(0), "the exit status");
    assert!(begun.elapsed() < secs(5), "it took {:?}", begun.elapsed());
    let next = cluster.some_leader(secs(3));
    assert_eq!(cluster.nodes[next].number("term"), term + 1, "handed over with one election, not left to time out");
    let goal = load.acked() + 50;
    eventually(secs(20), "writes go on", || check(load.acked() > goal, load.acked()));
    let record = load.finish();
    record.verify(&cluster.nodes[next]);
    cluster.nodes[place].start();
    cluster.caught_up(secs(20));
    record.verify(&cluster.nodes[place]);
}

fn the_log_can_be_json_and_has_role_changes() {
    let mut node = Setup::named("loud").set("HUSKV_LOG_FORMAT", "json").start();
    node.put("foo", "bar");
    assert!(node.sigterm().success());
    let log = node.log();
    assert!(!log.is_empty(), "nothing was logged at info");
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    assert!(lines.iter().all(Value::is_object), "one object a line: {log}");
    let leads = |line: &Value| {
        let text = line.to_string();
        text.contains("Leader") && text.contains("term") && text.contains(&node.raft)
    };
    assert!(lines.iter().any(leads), "no line says that it leads, in which term and where: {log}");
    let mut quiet = Setup::named("quiet").set("HUSKV_LOG", "error").start();
    quiet.put("foo", "bar");
    assert!(quiet.sigterm().success());
    assert_eq!(quiet.log(), "", "nothing below error was asked for");
}

fn subcommand_serve_is_the_default() {
    let node = Setup::named("node1").argument("serve").start();
    let health = node.request(Request::new("GET", "/health")).expect(200, "health").json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["node_id"], "node1");
}

fn a_node_that_still_loads_its_directory_answers_starting() {
    let mut node = Setup::named("node1").start();
    for number in 0..32 {
        let body = vec![b'x'; 1 << 20];
        node.request(Request::new("PUT", format!("/store/k{number}")).body(body)).expect(200, "a write");
    }
    node.kill9();
    node.spawn();
    // Its port is the one it had, and nothing but a refused connection comes before the first answer.
    let first = eventually(secs(20), "it answers", || {
        node.try_request(Request::new("GET", "/store/k1").within(secs(10))).map_err(|error| error.to_string())
    });
    let first = first.problem(503, "before it serves").code("starting", "before it serves");
    assert_eq!(first.header("retry-after"), Some("1"));
    node.await_up();
    node.get("/store/k1").expect(200, "once it serves");
    assert!(node.log().contains("the directory is read, ms: "), "{}", node.log());
}
