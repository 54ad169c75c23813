//! Address changes of members.

use serde_json::json;

use crate::harness::{Cluster, Seen, check, eventually, free_port, member, secs};

crate::harness::cases![
    a_member_restarted_on_other_ports_updates_its_address_if_address_changes_are_followed,
    a_member_restarted_on_other_ports_waits_for_a_join_request_and_logs_it,
    joining_a_member_at_another_address_updates_the_table,
    a_majority_with_new_addresses_recovers_if_address_changes_are_followed,
    if_all_addresses_changed_at_once_the_log_names_the_dialled_addresses,
];

/// Whether every running node's table has `node` where it is now.
fn known_where_it_is(cluster: &Cluster, place: usize) -> Seen<()> {
    let moved = &cluster.nodes[place];
    for node in cluster.nodes.iter().filter(|node| node.runs()) {
        let stats = node.try_stats()?;
        let row = member(&stats, moved.name()).ok_or("no row")?;
        let right = row["raft_address"] == moved.raft && row["http_address"] == moved.http;
        check(right, format!("{} on {}", row, node.name()))?;
    }
    Ok(())
}

fn move_to_other_ports(cluster: &mut Cluster, place: usize) {
    cluster.nodes[place].set("SERVER_PORT", free_port());
    cluster.nodes[place].set("RAFT_PORT", free_port());
}

fn following() -> Cluster {
    Cluster::with(3, |setup| setup.set("HUSKV_FOLLOW_MOVES", true))
}

fn a_member_restarted_on_other_ports_waits_for_a_join_request_and_logs_it() {
    let mut cluster = Cluster::of(3);
    let reign = cluster.reign();
    let (leader, place) = (cluster.agreed(), cluster.followers()[0]);
    let before = cluster.nodes[place].raft.clone();
    assert!(cluster.nodes[place].sigterm().success());
    move_to_other_ports(&mut cluster, place);
    cluster.nodes[place].start();
    cluster.nodes[leader].put("moved", "and well");
    let (name, raft) = (cluster.nodes[place].name().to_owned(), cluster.nodes[place].raft.clone());
    let post = json!({"node_id": name, "raft_address": raft});
    for times in 1..=2 {
        eventually(secs(20), "it says again and again what to POST", || {
            let log = cluster.nodes[place].log();
            let (node, address) = (format!("\"node_id\": \"{name}\""), format!("\"raft_address\": \"{raft}\""));
            let says = |line: &&str| line.contains("/raft/join") && line.contains(&node) && line.contains(&address);
            check(log.lines().filter(says).count() >= times, &log)
        });
    }
    let row = member(&cluster.nodes[leader].stats(), &name).map(|row| row["raft_address"].clone());
    assert_eq!(row, Some(before.into()), "no peer follows an unconfirmed address");
    let elsewhere = json!({"node_id": name, "raft_address": raft.replace("127.0.0.1", "localhost")});
    let answer =
        cluster.nodes[leader].post("/raft/join", &elsewhere).problem(409, "an address that it does not advertise");
    assert!(answer.word("detail").contains(&raft), "{answer}");
    cluster.nodes[leader].post("/raft/join", &post).expect(200, "the word for it");
    eventually(secs(20), "the table follows", || known_where_it_is(&cluster, place));
    assert_eq!(cluster.nodes[place].value("moved"), "and well");
    assert_eq!(cluster.reign(), reign, "leader and term");
    // It is where its cluster has it, so the next start is an ordinary one.
    assert!(cluster.nodes[place].sigterm().success());
    cluster.nodes[place].start();
    assert_eq!(cluster.nodes[place].value("moved"), "and well");
}

fn a_member_restarted_on_other_ports_updates_its_address_if_address_changes_are_followed() {
    let mut cluster = following();
    let reign = cluster.reign();
    let place = cluster.followers()[0];
    let before = cluster.nodes[place].raft.clone();
    assert!(cluster.nodes[place].sigterm().success());
    move_to_other_ports(&mut cluster, place);
    cluster.nodes[place].start();
    assert_ne!(cluster.nodes[place].raft, before);
    eventually(secs(20), "the table follows", || known_where_it_is(&cluster, place));
    cluster.nodes[place].put("moved", "and well");
    assert_eq!(cluster.reign(), reign, "leader and term");
    // Only what the table says is left after this.
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.nodes.iter_mut().for_each(|node| node.await_up());
    cluster.agreed();
    assert_eq!(cluster.nodes[place].value("moved"), "and well");
}

fn joining_a_member_at_another_address_updates_the_table() {
    let cluster = Cluster::of(3);
    let reign = cluster.reign();
    let leader = cluster.agreed();
    let place = cluster.followers()[0];
    let node = &cluster.nodes[place];
    let id = member(&cluster.nodes[leader].stats(), node.name()).map(|row| row["raft_id"].clone());
    let elsewhere = node.raft.replace("127.0.0.1", "localhost");
    let body = json!({"node_id": node.name(), "raft_address": elsewhere});
    cluster.nodes[leader].post("/raft/join", &body).expect(200, "the same node at another address");
    let stats = cluster.nodes[leader].stats();
    let row = member(&stats, node.name()).expect("it is still a member");
    assert_eq!(row["raft_address"], elsewhere);
    assert_eq!(Some(row["raft_id"].clone()), id, "the same node");
    assert_eq!(cluster.reign(), reign, "leader and term");
    node.put("still", "a member");
}

fn a_majority_with_new_addresses_recovers_if_address_changes_are_followed() {
    let mut cluster = following();
    cluster.nodes[0].put("foo", "bar");
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    for place in [1, 2] {
        move_to_other_ports(&mut cluster, place);
    }
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.nodes.iter_mut().for_each(|node| node.await_up());
    eventually(secs(40), "a leader that all agree on", || cluster.leader_now());
    for place in [1, 2] {
        eventually(secs(20), "the table follows", || known_where_it_is(&cluster, place));
        assert_eq!(cluster.nodes[place].value("foo"), "bar");
    }
    cluster.nodes[2].put("healed", true);
}

fn if_all_addresses_changed_at_once_the_log_names_the_dialled_addresses() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("foo", "bar");
    let old: Vec<_> = cluster.nodes.iter().map(|node| (node.http.clone(), node.raft.clone())).collect();
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    for place in 0..3 {
        move_to_other_ports(&mut cluster, place);
    }
    cluster.nodes.iter_mut().for_each(|node| node.start());
    for (place, node) in cluster.nodes.iter().enumerate() {
        let others = old.iter().enumerate().filter(|(other, _)| *other != place);
        for (_, (_, raft)) in others {
            eventually(secs(30), format!("{} says again and again that it dials {raft}", node.name()), || {
                let log = node.log();
                check(log.lines().filter(|line| line.contains(raft)).count() >= 2, log)
            });
        }
    }
    // Back where they were, they are a cluster again, and nothing is lost.
    cluster.nodes.iter_mut().for_each(|node| node.kill9());
    for (node, (http, raft)) in cluster.nodes.iter_mut().zip(&old) {
        node.set("SERVER_PORT", http.rsplit(':').next().unwrap_or(""));
        node.set("RAFT_PORT", raft.rsplit(':').next().unwrap_or(""));
    }
    cluster.nodes.iter_mut().for_each(|node| node.spawn());
    cluster.nodes.iter_mut().for_each(|node| node.await_up());
    cluster.agreed();
    assert_eq!(cluster.nodes[2].value("foo"), "bar");
}
