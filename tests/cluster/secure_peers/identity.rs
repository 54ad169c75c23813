//! Nodes that join, restart and are removed over mutual TLS, and certificates that a node does not start with.

use super::{member, secure_cluster, with_certificates, write};
use crate::harness::{Node, Setup, check, eventually, secs};
use crate::test_ca::{Leaf, TestCa};

crate::harness::cases![
    nodes_join_fail_and_are_removed_over_mutual_tls,
    a_node_does_not_start_with_a_certificate_that_its_peers_would_refuse,
    a_join_that_certificates_forbid_says_why,
];

fn nodes_join_fail_and_are_removed_over_mutual_tls() {
    let (home, ca) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"));
    let mut cluster = secure_cluster(home.path(), &ca);
    let stats = cluster.nodes[1].stats();
    assert_eq!((&stats["tls_peer"], &stats["tls_http"]), (&"on".into(), &"off".into()));
    assert!(stats["tls_peer_not_after"].as_str().unwrap().starts_with("20"), "{stats}");
    let (follower, leader) = (cluster.followers()[0], cluster.agreed());
    cluster.nodes[follower].put("forwarded", 1);
    cluster.nodes[leader].kill9();
    cluster.some_leader(secs(20));
    cluster.nodes[follower].put("after", 2);
    cluster.nodes[leader].start();
    cluster.caught_up(secs(20));
    assert_eq!(cluster.nodes[leader].value("after"), 2);
    // A wiped node comes back by a snapshot; a removed one is told.
    let leader = cluster.agreed();
    let (one, other) = (cluster.followers()[0], cluster.followers()[1]);
    cluster.nodes[one].kill9();
    cluster.nodes[one].wipe();
    cluster.nodes[one].start();
    cluster.nodes[leader].join(&cluster.nodes[one]).expect(200, "a wiped node under its old name");
    let name = cluster.nodes[other].name().to_owned();
    cluster.nodes[leader].remove(&name).expect(200, "a removal");
    eventually(secs(10), "the removed node knows it", || {
        let stats = cluster.nodes[other].try_stats()?;
        check(stats["removed"] == true, stats)
    });
    cluster.nodes[leader].put("last", 3);
}

/// Starts a node that must not start; the last line of its log.
fn refused(setup: Setup) -> String {
    let mut node = setup.spawn();
    let status = node.await_exit(secs(20));
    let log = node.log();
    assert_eq!(status.code(), Some(1), "{log}");
    log.lines().last().unwrap_or("").to_owned()
}

fn a_node_does_not_start_with_a_certificate_that_its_peers_would_refuse() {
    let (home, ca, other) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"), TestCa::new("other"));
    let start = |name: &str, leaf: &Leaf| {
        let folder = write(home.path(), name, leaf);
        refused(with_certificates(Setup::named(name), &folder))
    };
    for (name, leaf, words) in [
        ("kv3", ca.node("kv1"), "the name kv3.test.huskv of this node (RAFT_NODE_ID) is not among DNS:localhost"),
        ("kv1", ca.client("kv1"), "the certificate is of no node: the name node.CLUSTER.huskv is not among"),
        (
            "kv1",
            Leaf { ca: other.certificate(), ..ca.node("kv1") },
            "its issuer CN=huskv-ca is not among the authorities",
        ),
        ("kv1", ca.leaf("kv1", |leaf| leaf.of_node("kv1", "test").days((-9, -1))), "the certificate expired on"),
        (
            "kv1",
            ca.leaf("kv1", |leaf| leaf.of_node("kv1", "test").for_servers_only()),
            "is not for clients (extended key usage)",
        ),
        ("KV1", ca.node("kv1"), "RAFT_NODE_ID stands in certificates: use 1 to 63 of a to z"),
    ] {
        let last = start(name, &leaf);
        assert!(last.contains(words) && last.contains("node.pem"), "{words}: {last}");
    }
}

/// Posts a join of `joiner` that is refused as untrusted; its detail.
#[track_caller]
fn untrusted(leader: &Node, joiner: &Node) -> String {
    let answer = leader.join(joiner).problem(409, "a join without trust").code("tls_refused", "a join without trust");
    assert_eq!(leader.stats()["voters"], 1, "nothing has changed");
    answer.word("detail")
}

fn a_join_that_certificates_forbid_says_why() {
    let (home, ca, other) = (tempfile::tempdir().unwrap(), TestCa::new("huskv-ca"), TestCa::new("other"));
    let leader = member(Setup::named("kv1"), home.path(), &ca).start();
    let plain = Setup::named("kv2").start();
    let foreign = member(Setup::named("kv3"), home.path(), &other).start();
    let folder = write(home.path(), "kv4", &ca.leaf("kv4", |leaf| leaf.of_node("kv4", "prod")));
    let of_another_cluster = with_certificates(Setup::named("kv4"), &folder).start();
    for (joiner, words) in [
        (&plain, "a node whose tls.peer is off answers so"),
        (&foreign, "unknown issuer CN=other"),
        (&of_another_cluster, "the name node.test.huskv is not among"),
    ] {
        let detail = untrusted(&leader, joiner);
        assert!(detail.contains(words) && detail.contains(&joiner.raft), "{detail}");
    }
    // The same from the other side: what has no TLS is told that it needs it.
    let detail = untrusted(&plain, &leader);
    assert!(detail.contains("takes TLS only"), "{detail}");
    // The right certificate under another name.
    let joiner = member(Setup::named("kv5"), home.path(), &ca).start();
    let body = serde_json::json!({"node_id": "kv6", "raft_address": joiner.raft});
    let answer = leader.post("/raft/join", &body).problem(409, "another name").code("tls_refused", "another name");
    assert!(answer.word("detail").contains("the name kv6.test.huskv is not among"), "{answer}");
    leader.join(&joiner).expect(200, "its own name");
}
