//! Responses of `/raft/stats`, `/health`, transfer and snapshot.

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Setup, check, eventually, member, names, number, secs};

crate::harness::cases![
    stats_have_the_18_compatible_keys_as_strings_and_our_own,
    health_is_flat_and_counts_keys,
    leadership_is_transferred_to_the_named_voter_only,
];

/// The keys of hashicorp/raft's `Stats()`.
const KEYS: [&str; 18] = [
    "state",
    "term",
    "last_log_index",
    "last_log_term",
    "commit_index",
    "applied_index",
    "fsm_pending",
    "last_snapshot_index",
    "last_snapshot_term",
    "protocol_version",
    "protocol_version_min",
    "protocol_version_max",
    "snapshot_version_min",
    "snapshot_version_max",
    "latest_configuration",
    "latest_configuration_index",
    "num_peers",
    "last_contact",
];

/// The largest integer that every reader of JSON keeps exact.
const EXACT: u64 = 1 << 53;

fn stats_have_the_18_compatible_keys_as_strings_and_our_own() {
    let cluster = Cluster::of(2);
    let (leader, _) = cluster.reign();
    eventually(secs(10), "both nodes know everything about both", || {
        cluster.nodes.iter().try_for_each(|node| {
            let stats = node.try_stats()?;
            check(stats["num_peers"] == "1" && names(&stats, "voter").len() == 2, stats)
        })
    });
    let syncs =
        || cluster.nodes.iter().map(|node| node.stats()["disk_syncs"].as_u64().expect("a number")).collect::<Vec<_>>();
    let before = syncs();
    cluster.nodes[0].put("counted", 1);
    if cfg!(target_os = "linux") {
        assert!(before.iter().zip(syncs()).all(|(before, now)| now > *before), "a write of two is on both disks");
    }
    for node in &cluster.nodes {
        let answer = node.get("/raft/stats").expect(200, "stats");
        assert_eq!(answer.word("message"), "Here is the raft status");
        let stats = answer.data();
        for key in KEYS {
            assert!(stats[key].is_string(), "{key} is no string in {stats}");
        }
        let numbers =
            KEYS.iter().filter(|key| key.contains("index") || key.contains("term") || key.contains("version"));
        for key in numbers {
            number(&stats, key);
        }
        let rows: Vec<String> = cluster
            .nodes
            .iter()
            .map(|row| format!("{{Suffrage:Voter ID:{} Address:{}}}", row.name(), row.raft))
            .collect();
        let configuration = stats["latest_configuration"].as_str().unwrap_or("");
        assert!(configuration.starts_with('[') && configuration.ends_with(']'), "{configuration}");
        for row in rows {
            assert!(configuration.contains(&row), "no {row} in {configuration}");
        }
        assert_eq!(stats["node_id"], node.name());
        assert!(!stats["cluster_id"].is_null(), "{stats}");
        let place = cluster.place(&leader).unwrap();
        assert_eq!(stats["leader"], json!({"node_id": leader, "http_address": cluster.nodes[place].http}));
        member_rows_have_the_documented_fields(&stats, node.name() == leader);
    }
}

fn member_rows_have_the_documented_fields(stats: &Value, on_leader: bool) {
    for name in ["node1", "node2"] {
        let row = member(stats, name).unwrap_or_else(|| panic!("no {name} in {stats}"));
        let id = row["raft_id"].as_u64().unwrap_or(0);
        assert!(id > 0 && id < EXACT, "raft_id of {row}");
        assert!(row["raft_address"].is_string() && row["http_address"].is_string(), "{row}");
        assert_eq!(row["role"], "voter", "{row}");
        if on_leader {
            assert!(row["match_index"].is_u64(), "the leader knows the match index: {row}");
            assert!(row["last_contact_ms"].is_u64(), "the leader knows the last contact: {row}");
        }
    }
}

fn health_is_flat_and_counts_keys() {
    let mut node = Setup::named("node1").start();
    let keys = |answer: &Answer| answer.json()["keys"].clone();
    let health = node.get("/health").expect(200, "health");
    assert_eq!(keys(&health), "0", "as a string");
    let body = health.json();
    assert_eq!(body["status"], "healthy");
    assert_eq!(body["node_id"], "node1");
    assert_eq!(body["state"], "Leader");
    assert_eq!(body["leader"], json!({"node_id": "node1", "http_address": node.http}));
    assert!(body["applied_index"].is_u64(), "a number: {body}");
    assert!(body["data"].is_null() && body["message"].is_null(), "no envelope: {body}");
    for key in ["a", "b", "b", "c"] {
        node.put(key, 1);
    }
    node.delete("/store/c").expect(200, "deleting c");
    node.delete("/store/never").expect(200, "deleting nothing");
    assert_eq!(keys(&node.get("/health")), "2", "overwriting adds none, deleting takes one");
    node.kill9();
    node.start();
    assert_eq!(keys(&node.get("/health")), "2", "the count survives kill -9");
}

fn leadership_is_transferred_to_the_named_voter_only() {
    let cluster = Cluster::of(3);
    let (first, _) = cluster.reign();
    let other = cluster.followers()[0];
    let target = cluster.nodes[other].name();
    // Asked on a node that neither leads nor will.
    let third = cluster.followers()[1];
    let moved = cluster.nodes[third].post("/raft/transfer", &json!({"node_id": target})).expect(200, "a transfer");
    assert!(moved.data()["state"].is_string(), "data = stats: {moved}");
    let (second, term) = cluster.reign();
    assert_eq!(second, target, "to the node that was named");
    cluster.nodes[third].post("/raft/transfer", &json!({})).expect(200, "a transfer to any voter");
    let (now, later) = cluster.reign();
    assert_ne!(now, second, "it moved");
    assert!(later > term);
    let unknown = cluster.nodes[third].post("/raft/transfer", &json!({"node_id": "unknown"}));
    assert!((400..500).contains(&unknown.status), "to an unknown name: {unknown}");
    assert_eq!(cluster.reign(), (now, later), "a refused transfer changes nothing");
    let empty = cluster.nodes[third].request(crate::harness::Request::new("POST", "/raft/transfer"));
    empty.expect(200, "the body is optional");
    assert!(!first.is_empty());
}
