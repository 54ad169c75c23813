//! The tutorial, step by step.
//!
//! Invariants: every request succeeds the first time; nothing is retried.

use serde_json::{Value, json};

use crate::harness::{Cluster, Node, Request, Setup, eventually, names, number, secs};

crate::harness::cases![the_tutorial_works_step_by_step, the_variant_with_another_name_keeps_the_joined_name];

/// A tutorial's curl: two content types at once.
#[track_caller]
fn curl(node: &Node, path: &str, body: &Value) -> crate::harness::Answer {
    let request = Request::new("POST", path)
        .header("Content-Type", "application/json")
        .header("Content-Type", "text/plain")
        .body(body.to_string());
    node.request(request)
}

/// "localhost:PORT", as the tutorial writes addresses.
fn local(node: &Node) -> String {
    format!("localhost:{}", node.raft.rsplit(':').next().unwrap_or(""))
}

#[track_caller]
fn join(through: &Node, name: &str, node: &Node) -> Value {
    let address = local(node);
    let answer = curl(through, "/raft/join", &json!({"node_id": name, "raft_address": address})).expect(200, "join");
    assert_eq!(answer.word("message"), format!("node {name} at {address} joined successfully"));
    let stats = answer.data();
    assert!(stats["state"].is_string() && stats["num_peers"].is_string(), "data = stats: {answer}");
    assert!(names(&stats, "voter").contains(&name.to_owned()), "the node asked has applied it: {answer}");
    stats
}

#[track_caller]
fn set(node: &Node, key: &str, value: &str) {
    let answer = curl(node, "/store", &json!({"key": key, "value": value})).expect(200, "POST");
    assert_eq!(answer.word("message"), "success persisting data");
    assert_eq!(answer.data()["key"], key);
    assert_eq!(answer.data()["value"], value);
}

/// Leader and term, as `node` sees them.
fn reign(node: &Node) -> (String, u64) {
    let stats = node.stats();
    (stats["leader"]["node_id"].as_str().unwrap_or("").to_owned(), number(&stats, "term"))
}

fn the_tutorial_works_step_by_step() {
    let mut nodes: Vec<Node> = ["node1", "node2", "node3"].map(|name| Setup::named(name).start()).into();
    for node in &nodes {
        let answer = node.get("/raft/stats").expect(200, "stats");
        assert_eq!(answer.word("message"), "Here is the raft status");
        assert_eq!(answer.data()["state"], "Leader", "a fresh node leads itself");
        assert_eq!(answer.data()["num_peers"], "0");
    }
    step_1_joining(&nodes);
    step_2_reading_at_once(&nodes);
    let before = reign(&nodes[0]);
    step_3_removing_and_joining_again(&nodes);
    assert_eq!(reign(&nodes[0]), before, "term and leader after step 3");
    step_4_killing_and_starting(&mut nodes);
    assert_eq!(reign(&nodes[0]), before, "term and leader after step 4");
    step_5_a_fourth(&mut nodes);
    step_6_through_a_follower(&nodes);
    assert_eq!(reign(&nodes[0]), before, "term and leader after step 6");
}

fn step_1_joining(nodes: &[Node]) {
    join(&nodes[0], "node2", &nodes[1]);
    join(&nodes[0], "node3", &nodes[2]);
    eventually(secs(5), "one leader, two followers, two peers each", || {
        let mut states = Vec::new();
        for node in nodes {
            let stats = node.try_stats()?;
            states.push((stats["state"].clone(), stats["num_peers"].clone()));
        }
        let wanted = [json!("Leader"), json!("Follower"), json!("Follower")].map(|state| (state, json!("2")));
        if states == wanted { Ok(()) } else { Err(format!("{states:?}")) }
    });
}

fn step_2_reading_at_once(nodes: &[Node]) {
    // Once is luck: reads on followers right after the write are never stale.
    for round in 0..30 {
        let value = if round == 0 { "bar".to_owned() } else { format!("bar{round}") };
        set(&nodes[0], "foo", &value);
        for node in &nodes[1..] {
            let read = node.get("/store/foo").expect(200, "GET foo at once");
            assert_eq!(read.word("message"), "success fetching data");
            assert_eq!(read.data()["value"], value, "on {}", node.name());
        }
    }
    let gone = nodes[0].delete("/store/foo").expect(200, "DELETE");
    assert_eq!(gone.word("message"), "success removing data");
    for node in nodes {
        node.get("/store/foo").problem(404, "GET after DELETE").code("key_not_found", "GET after DELETE");
    }
}

fn step_3_removing_and_joining_again(nodes: &[Node]) {
    let removed = curl(&nodes[0], "/raft/remove", &json!({"node_id": "node3"})).expect(200, "remove");
    assert_eq!(removed.word("message"), "node node3 removed successfully");
    assert_eq!(removed.data()["num_peers"], "1", "{removed}");
    set(&nodes[0], "removednode", "my value");
    assert_eq!(nodes[1].value("removednode"), "my value");
    join(&nodes[0], "node3", &nodes[2]);
    assert_eq!(nodes[2].value("removednode"), "my value");
}

fn step_4_killing_and_starting(nodes: &mut [Node]) {
    nodes[2].kill9();
    set(&nodes[0], "problemnode", "hello world");
    assert_eq!(nodes[1].value("problemnode"), "hello world");
    nodes[2].start();
    assert_eq!(nodes[2].value("problemnode"), "hello world");
}

fn step_5_a_fourth(nodes: &mut Vec<Node>) {
    let fourth = Setup::named("node4").start();
    join(&nodes[0], "node4", &fourth);
    assert_eq!(fourth.value("problemnode"), "hello world", "immediately after the 200");
    nodes.push(fourth);
}

fn step_6_through_a_follower(nodes: &[Node]) {
    set(&nodes[2], "followers", "take writes");
    for node in nodes {
        assert_eq!(node.value("followers"), "take writes");
    }
    let fifth = Setup::named("node5").start();
    let stats = join(&nodes[2], "node5", &fifth);
    assert_eq!(stats["num_peers"], "4", "{stats}");
    assert_eq!(fifth.value("followers"), "take writes");
}

fn the_variant_with_another_name_keeps_the_joined_name() {
    let names_given = ["node1", "node_2", "node_3"];
    let mut nodes: Vec<Node> = ["node1", "node2", "node3"].map(|name| Setup::named(name).start()).into();
    for place in [1, 2] {
        let body = json!({"node_id": names_given[place], "raft_address": local(&nodes[place])});
        let answer = curl(&nodes[0], "/raft/join", &body).expect(200, "join under another name");
        let warning = [answer.json()["warning"].clone(), answer.data()["warning"].clone()];
        assert!(warning.iter().any(|text| text.as_str().is_some_and(|text| !text.is_empty())), "no warning: {answer}");
    }
    set(&nodes[0], "foo", "bar");
    let under_joined_names = |nodes: &[Node]| {
        for node in nodes {
            eventually(secs(10), format!("{} sees the joined names", node.name()), || {
                let stats = node.try_stats()?;
                let seen = names(&stats, "voter");
                if seen == names_given { Ok(()) } else { Err(format!("{seen:?}")) }
            });
        }
        for (node, name) in nodes.iter().zip(names_given) {
            assert_eq!(node.stats()["node_id"], name, "its own name");
        }
    };
    under_joined_names(&nodes);
    nodes[1].kill9();
    nodes[1].start();
    assert_eq!(nodes[1].value("foo"), "bar", "it starts with the same variables");
    under_joined_names(&nodes);
    nodes[0].kill9();
    let cluster = Cluster { nodes };
    let leader = cluster.some_leader(secs(10));
    let stats = cluster.nodes[leader].stats();
    assert_eq!(stats["leader"]["node_id"], names_given[leader], "failover under the joined name");
    set(&cluster.nodes[1], "after", "failover");
    assert_eq!(cluster.nodes[2].value("after"), "failover");
}
