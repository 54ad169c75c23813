//! Removals of members, and the state of a removed node.

use serde_json::json;

use crate::harness::{Cluster, Setup, check, eventually, member, names, secs};

crate::harness::cases![
    the_last_voter_cannot_be_removed,
    a_removal_that_would_lose_quorum_is_refused,
    removing_the_leader_works_in_clusters_of_2_and_3,
    a_removed_node_reports_its_removal_and_serves_no_data,
    a_node_removed_while_it_was_down_learns_of_its_removal_and_can_rejoin,
    a_removal_that_too_few_voters_can_confirm_is_reported_and_not_obeyed,
    a_removed_node_that_was_killed_confirms_the_removals_before_its_own,
    removing_an_unknown_name_is_200_and_changes_nothing,
    a_wiped_directory_under_an_old_name_is_a_new_node,
];

fn the_last_voter_cannot_be_removed() {
    let node = Setup::named("node1").start();
    node.remove("node1").problem(409, "the last voter").code("last_voter", "the last voter");
    node.put("still", "here");
    let cluster = Cluster::of(2);
    cluster.nodes[0].remove("node2").expect(200, "one of two");
    let answer = cluster.nodes[0].remove("node1").problem(409, "the last of two");
    assert_eq!(answer.word("code"), "last_voter");
    cluster.nodes[0].put("still", "here");
}

fn a_removal_that_would_lose_quorum_is_refused() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let followers = cluster.followers();
    let (live, dead) = (followers[0], followers[1]);
    cluster.nodes[dead].kill9();
    let leader_node = &cluster.nodes[leader];
    eventually(secs(10), "the leader misses the dead one", || {
        let stats = leader_node.try_stats()?;
        let silent = member(&stats, cluster.nodes[dead].name()).and_then(|row| row["last_contact_ms"].as_u64());
        check(silent.is_none_or(|ms| ms > 2_500), stats)
    });
    let answer = leader_node.remove(cluster.nodes[live].name()).problem(409, "a live one, with another dead");
    assert_eq!(answer.word("code"), "quorum_loss");
    leader_node.put("still", "a quorum");
    assert_eq!(names(&leader_node.stats(), "voter").len(), 3);
    leader_node.remove(cluster.nodes[dead].name()).expect(200, "the dead one");
    cluster.nodes[live].put("two", "of two");
}

fn removing_the_leader_works_in_clusters_of_2_and_3() {
    for size in [2, 3] {
        let mut cluster = Cluster::of(size);
        cluster.nodes[0].put("size", size);
        let leader = cluster.agreed();
        let name = cluster.nodes[leader].name().to_owned();
        let asked = cluster.followers()[0];
        let answer = cluster.nodes[asked].remove(&name).expect(200, &format!("the leader of {size}"));
        assert_eq!(answer.word("message"), format!("node {name} removed successfully"));
        eventually(secs(10), "the old leader knows", || {
            let stats = cluster.nodes[leader].try_stats()?;
            check(stats["removed"] == true, stats)
        });
        let gone = cluster.nodes.remove(leader);
        cluster.agreed();
        for node in &cluster.nodes {
            assert_eq!(node.value("size"), size);
            assert_eq!(names(&node.stats(), "voter").len(), size - 1, "of {size}");
        }
        cluster.nodes[0].put("after", size);
        cluster.nodes[0].join(&gone).expect(200, "joining the old leader again");
        assert_eq!(gone.value("after"), size);
    }
}

fn a_removed_node_reports_its_removal_and_serves_no_data() {
    let cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "bar");
    let reign = cluster.reign();
    let place = cluster.followers()[0];
    let asked = cluster.agreed();
    let gone = &cluster.nodes[place];
    cluster.nodes[asked].remove(gone.name()).expect(200, "remove");
    eventually(secs(5), "it knows", || {
        let stats = gone.try_stats()?;
        check(stats["removed"] == true, stats)
    });
    for path in ["/store/foo", "/store/foo?consistency=stale"] {
        gone.get(path).problem(410, path);
    }
    let write = gone.post("/store", &json!({"key": "foo", "value": 1})).problem(410, "a write");
    write.outcome("not_applied", "a write");
    gone.delete("/store/foo").problem(410, "DELETE");
    gone.get("/health").expect(200, "health");
    // It does not campaign: leader and term stay for longer than any election timeout.
    crate::harness::throughout(secs(4), "leader and term", || {
        let stats = cluster.nodes[asked].try_stats()?;
        check(crate::harness::number(&stats, "term") == reign.1 && stats["state"] == "Leader", stats)
    });
    cluster.nodes[asked].join(gone).expect(200, "joining it again, the first time");
    assert_eq!(gone.value("foo"), "bar");
    assert_ne!(gone.stats()["removed"], true);
    assert_eq!(cluster.reign(), reign, "leader and term");
}

fn a_node_removed_while_it_was_down_learns_of_its_removal_and_can_rejoin() {
    let mut cluster = Cluster::of(3);
    let reign = cluster.reign();
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    let name = cluster.nodes[place].name().to_owned();
    cluster.nodes[place].kill9();
    cluster.nodes[leader].remove(&name).expect(200, "a node that is down");
    cluster.nodes[leader].put("foo", "bar");
    cluster.nodes[place].start();
    eventually(secs(15), "it learns that it was removed", || {
        let stats = cluster.nodes[place].try_stats()?;
        check(stats["removed"] == true, stats)
    });
    cluster.nodes[place].get("/store/foo").problem(410, "a removed node");
    cluster.nodes[place].kill9();
    cluster.nodes[place].start();
    cluster.nodes[place].get("/store/foo").problem(410, "a removed node that was started again");
    cluster.nodes[leader].join(&cluster.nodes[place]).expect(200, "joining it again");
    assert_eq!(cluster.nodes[place].value("foo"), "bar");
    assert_eq!(cluster.reign(), reign, "leader and term");
}

fn a_removal_that_too_few_voters_can_confirm_is_reported_and_not_obeyed() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let followers = cluster.followers();
    let (gone, other) = (followers[0], followers[1]);
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name().to_owned()).collect();
    cluster.nodes[gone].kill9();
    cluster.nodes[leader].remove(&names[gone]).expect(200, "a node that is down");
    cluster.nodes[leader].remove(&names[other]).expect(200, "another one");
    cluster.nodes[other].kill9();
    cluster.nodes[gone].start();
    // One of the two voters that it knows says so, the other one cannot be asked.
    eventually(secs(30), "it says what it was told, and what to do", || {
        let stats = cluster.nodes[gone].try_stats()?;
        let says = stats["verifying"].as_str().unwrap_or_default();
        check(says.contains("too few") && says.contains("/raft/join") && stats["removed"] != true, &stats)
    });
    cluster.nodes[other].start();
    eventually(secs(60), "both have said so", || {
        let stats = cluster.nodes[gone].try_stats()?;
        check(stats["removed"] == true && stats["verifying"].is_null(), stats)
    });
}

fn a_removed_node_that_was_killed_confirms_the_removals_before_its_own() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let followers = cluster.followers();
    let (gone, other) = (followers[0], followers[1]);
    let names: Vec<String> = cluster.nodes.iter().map(|node| node.name().to_owned()).collect();
    cluster.nodes[gone].kill9();
    cluster.nodes[leader].remove(&names[gone]).expect(200, "a node that is down");
    cluster.nodes[leader].remove(&names[other]).expect(200, "another one");
    let knows = |cluster: &Cluster, place: usize, what: &str| {
        eventually(secs(30), what, || {
            let stats = cluster.nodes[place].try_stats()?;
            check(stats["removed"] == true && stats["verifying"].is_null(), stats)
        });
    };
    knows(&cluster, other, "the other one knows of its own removal");
    // Its state machine loses what it has not synced, which its log still has.
    cluster.nodes[other].kill9();
    cluster.nodes[other].start();
    cluster.nodes[gone].start();
    knows(&cluster, gone, "both voters that it knows have confirmed its removal");
}

fn removing_an_unknown_name_is_200_and_changes_nothing() {
    let cluster = Cluster::of(2);
    let before = cluster.nodes[0].stats();
    let answer = cluster.nodes[1].remove("unknown").expect(200, "an unknown name");
    assert!(answer.word("message").contains("unknown"), "{answer}");
    assert_ne!(answer.word("message"), "node unknown removed successfully", "it must say that nothing changed");
    let after = cluster.nodes[0].stats();
    assert_eq!(after["latest_configuration"], before["latest_configuration"]);
    assert_eq!(after["latest_configuration_index"], before["latest_configuration_index"]);
}

fn a_wiped_directory_under_an_old_name_is_a_new_node() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "bar");
    let reign = cluster.reign();
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    let name = cluster.nodes[place].name().to_owned();
    let id = |cluster: &Cluster| member(&cluster.nodes[leader].stats(), &name).map(|row| row["raft_id"].clone());
    let old = id(&cluster);
    cluster.nodes[place].kill9();
    cluster.nodes[place].wipe();
    cluster.nodes[place].start();
    let stats = cluster.nodes[place].stats();
    assert_eq!(stats["num_peers"], "0", "it is a fresh node of a cluster of its own: {stats}");
    cluster.nodes[place].get("/store/foo").problem(404, "it has nothing");
    cluster.nodes[leader].join(&cluster.nodes[place]).expect(200, "one POST");
    assert_ne!(id(&cluster), old, "a raft id is never used again");
    assert_eq!(names(&cluster.nodes[leader].stats(), "voter").len(), 3, "the dead predecessor is gone");
    assert_eq!(cluster.nodes[place].value("foo"), "bar");
    assert_eq!(cluster.reign(), reign, "leader and term");
}
