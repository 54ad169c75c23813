//! Bootstrap with `HUSKV_JOIN`: nodes with one list form one cluster.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::{Cluster, Node, Request, Setup, check, eventually, free_port, names, secs};

crate::harness::cases![
    three_nodes_with_one_join_list_wait_for_each_other_and_form_one_cluster,
    a_wiped_first_node_joins_again_and_starts_no_second_cluster,
    a_pristine_node_with_a_join_list_joins_a_running_cluster,
    a_node_with_another_join_list_is_named_in_the_log,
    a_member_ignores_its_join_list,
    nodes_with_the_same_name_do_not_form_a_cluster_and_report_it,
    nodes_that_advertise_the_same_address_form_a_cluster_only_after_a_correction,
];

/// `count` nodes that know each other's HTTP addresses before they run, with one list for all.
fn listed(count: usize) -> (Vec<Node>, String) {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let list = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
    let nodes = ports
        .iter()
        .enumerate()
        .map(|(place, port)| {
            let setup = Setup::named(&format!("node{}", place + 1)).set("SERVER_PORT", port);
            setup.set("HUSKV_JOIN", &list).prepare()
        })
        .collect();
    (nodes, list)
}

/// Waits until all of them are voters of one cluster.
#[track_caller]
fn one_cluster(nodes: &[Node]) {
    eventually(secs(40), "one cluster of all", || {
        let mut clusters = BTreeSet::new();
        for node in nodes {
            let stats = node.try_stats()?;
            check(names(&stats, "voter").len() == nodes.len(), format!("on {}: {stats}", node.name()))?;
            clusters.insert(stats["cluster_id"].to_string());
        }
        check(clusters.len() == 1, format!("clusters {clusters:?}"))
    });
}

fn three_nodes_with_one_join_list_wait_for_each_other_and_form_one_cluster() {
    let (mut nodes, _) = listed(3);
    nodes[0].start();
    nodes[1].start();
    for node in &nodes[..2] {
        let write = node.post("/store", &json!({"key": "early", "value": 1})).problem(503, "a write before");
        write.code("joining", "a write before").outcome("not_applied", "a write before");
        node.get("/store/early").problem(503, "a read before").code("joining", "a read before");
        node.get("/store/early?consistency=stale").problem(503, "a stale read before").code("joining", "stale before");
        let join = node.post("/raft/join", &json!({"node_id": "x", "raft_address": "127.0.0.1:1"}));
        join.problem(503, "a join before").code("joining", "a join before");
        node.get("/health").expect(200, "health before");
        node.get("/raft/stats").expect(200, "stats before");
    }
    nodes[2].start();
    one_cluster(&nodes);
    let cluster = Cluster { nodes };
    cluster.agreed();
    cluster.nodes[1].put("foo", "bar");
    for node in &cluster.nodes {
        assert_eq!(node.value("foo"), "bar");
    }
}

fn a_wiped_first_node_joins_again_and_starts_no_second_cluster() {
    let (mut nodes, _) = listed(3);
    nodes.iter_mut().for_each(Node::spawn);
    nodes.iter_mut().for_each(Node::await_up);
    one_cluster(&nodes);
    nodes[2].put("foo", "bar");
    let id = nodes[2].stats()["cluster_id"].clone();
    // The first in byte order is the one that would begin.
    let first = (0..3).min_by_key(|&place| nodes[place].http.clone()).unwrap();
    nodes[first].kill9();
    nodes[first].wipe();
    nodes[first].start();
    one_cluster(&nodes);
    let stats = nodes[first].stats();
    assert_eq!(stats["cluster_id"], id, "the old cluster, not a second one");
    assert_eq!(nodes[first].value("foo"), "bar");
}

fn a_pristine_node_with_a_join_list_joins_a_running_cluster() {
    let cluster = Cluster::of(2);
    let reign = cluster.reign();
    cluster.nodes[0].put("foo", "bar");
    let mut third = Setup::named("node3").set("HUSKV_JOIN", cluster.addresses().join(",")).start();
    eventually(secs(30), "the third is taken", || {
        let stats = third.try_stats()?;
        check(names(&stats, "voter").len() == 3, stats)
    });
    assert_eq!(third.value("foo"), "bar");
    assert_eq!(cluster.reign(), reign, "it does not disturb the leader");
    third.kill9();
    third.start();
    assert_eq!(third.value("foo"), "bar", "the same list at a later start changes nothing");
}

fn a_node_with_another_join_list_is_named_in_the_log() {
    let ports = [free_port(), free_port(), free_port()];
    let address = |place: usize| format!("127.0.0.1:{}", ports[place]);
    let setup = |place: usize, list: &str| {
        Setup::named(&format!("node{}", place + 1)).set("SERVER_PORT", ports[place]).set("HUSKV_JOIN", list).start()
    };
    let short = format!("{},{}", address(0), address(1));
    let long = format!("{},{},{}", address(0), address(1), address(2));
    let first = setup(0, &short);
    let second = setup(1, &long);
    // The third finds itself in no list: it has one without its own address.
    let third = setup(2, &short);
    for (node, other) in [(&first, address(1)), (&second, address(0))] {
        eventually(secs(30), format!("{} names {other} again and again", node.name()), || {
            let log = node.log();
            check(log.lines().filter(|line| line.contains(&other)).count() >= 2, log)
        });
    }
    for node in [&first, &second, &third] {
        let answer = node.request(Request::new("GET", "/store/x"));
        answer.problem(503, "no node forms a cluster").code("joining", "no node forms a cluster");
    }
}

/// Waits until each of them names both the mistake and the setting in its log, and serves nothing.
#[track_caller]
fn each_refuses_to_begin(nodes: &[Node], parts: &[&str]) {
    for node in nodes {
        eventually(secs(30), format!("{} names {parts:?}", node.http), || {
            let log = node.log();
            check(log.lines().any(|line| parts.iter().all(|part| line.contains(part))), log)
        });
    }
    for node in nodes {
        node.get("/store/x").problem(503, "no node forms a cluster").code("joining", "no node forms a cluster");
    }
}

fn nodes_with_the_same_name_do_not_form_a_cluster_and_report_it() {
    let (mut nodes, _) = listed(3);
    for node in &mut nodes {
        node.set("RAFT_NODE_ID", "node1");
        node.start();
    }
    each_refuses_to_begin(&nodes, &["are both called node1", "RAFT_NODE_ID", "RAFT_VOL_DIR"]);
    for (place, node) in nodes.iter_mut().enumerate().skip(1) {
        node.kill9();
        node.wipe();
        node.set("RAFT_NODE_ID", format!("node{}", place + 1));
        node.start();
    }
    one_cluster(&nodes);
}

fn nodes_that_advertise_the_same_address_form_a_cluster_only_after_a_correction() {
    let (mut nodes, _) = listed(3);
    let ports: Vec<u16> = nodes.iter().map(|_| free_port()).collect();
    for (node, port) in nodes.iter_mut().zip(&ports) {
        node.set("RAFT_PORT", port);
        node.set("HUSKV_ADVERTISE_PORT", ports[0]);
        node.start();
    }
    let shared = format!("raft address 127.0.0.1:{}", ports[0]);
    each_refuses_to_begin(&nodes, &[&shared, "HUSKV_ADVERTISE_HOST", "HUSKV_ADVERTISE_PORT"]);
    for (node, port) in nodes.iter_mut().zip(&ports).skip(1) {
        assert!(node.sigterm().success());
        node.set("HUSKV_ADVERTISE_PORT", port);
        node.start();
    }
    one_cluster(&nodes);
}

fn a_member_ignores_its_join_list() {
    let mut node = Setup::named("node1").start();
    node.put("foo", "bar");
    let id = node.stats()["cluster_id"].clone();
    assert!(node.sigterm().success());
    node.set("HUSKV_JOIN", format!("127.0.0.1:{},127.0.0.1:{}", free_port(), free_port()));
    node.start();
    assert_eq!(node.value("foo"), "bar");
    assert_eq!(node.stats()["cluster_id"], id);
}
