//! kill -9 and SIGSTOP under load: no acknowledged write is lost and no stale read is served.

use std::time::Instant;

use crate::harness::{Cluster, Load, Node, Request, check, eventually, secs};

crate::harness::cases![
    kill_9_of_the_leader_under_load_loses_nothing_and_a_new_one_leads_within_3_s.alone(),
    kill_9_of_all_at_once_loses_nothing.alone(),
    kill_9_of_a_single_node_loses_nothing,
    a_paused_leader_never_serves_a_stale_read.alone(),
    kill_9_of_followers_in_turn_never_stops_writes.alone(),
];

fn kill_9_of_the_leader_under_load_loses_nothing_and_a_new_one_leads_within_3_s() {
    let mut cluster = Cluster::of(3);
    for round in 0..3 {
        let load = Load::start(&cluster.addresses(), 6, &format!("round{round}"));
        eventually(secs(30), "the load runs", || check(load.acked() > 60, load.acked()));
        let leader = cluster.agreed();
        cluster.nodes[leader].kill9();
        let begun = Instant::now();
        let next = cluster.some_leader(secs(10));
        let took = begun.elapsed();
        assert!(took < secs(3), "round {round}: a new leader after {took:?}");
        let goal = load.acked() + 60;
        eventually(secs(30), "writes go on", || check(load.acked() > goal, load.acked()));
        let record = load.finish();
        record.verify(&cluster.nodes[next]);
        cluster.nodes[leader].start();
        cluster.caught_up(secs(30));
        record.verify(&cluster.nodes[leader]);
        eprintln!("round {round}: a new leader after {took:?}, {} writes acknowledged", record.acks.len());
    }
}

fn kill_9_of_all_at_once_loses_nothing() {
    let mut cluster = Cluster::of(3);
    for round in 0..3 {
        let load = Load::start(&cluster.addresses(), 6, &format!("round{round}"));
        eventually(secs(30), "the load runs", || check(load.acked() > 100, load.acked()));
        cluster.nodes.iter_mut().for_each(Node::kill9);
        let record = load.finish();
        cluster.nodes.iter_mut().for_each(Node::spawn);
        cluster.nodes.iter_mut().for_each(Node::await_up);
        cluster.agreed();
        record.verify(&cluster.nodes[round % 3]);
    }
}

fn kill_9_of_a_single_node_loses_nothing() {
    let mut cluster = Cluster::of(1);
    for round in 0..4 {
        let load = Load::start(&cluster.addresses(), 4, &format!("round{round}"));
        eventually(secs(30), "the load runs", || check(load.acked() > 50, load.acked()));
        cluster.nodes[0].kill9();
        let record = load.finish();
        cluster.nodes[0].start();
        record.verify(&cluster.nodes[0]);
    }
}

fn a_paused_leader_never_serves_a_stale_read() {
    let mut cluster = Cluster::of(3);
    for round in 0..3_u64 {
        let old = cluster.agreed();
        cluster.nodes[old].put("watched", round * 2);
        assert_eq!(cluster.nodes[old].value("watched"), round * 2);
        cluster.nodes[old].sigstop();
        let new = cluster.some_leader(secs(15));
        cluster.nodes[new].put("watched", round * 2 + 1);
        // These lie in the sleeper's sockets and are the first thing that it sees when it wakes, still a leader as far
        // as it knows.
        let read = || Request::new("GET", "/store/watched?timeout=5s").open(&cluster.nodes[old].http);
        let waiting: Vec<_> = (0..30).map(|_| read().expect("the system takes the connection")).collect();
        cluster.nodes[old].sigcont();
        for pending in waiting {
            let answer = pending.answer(secs(15)).expect("an answer");
            match answer.status {
                200 => assert_eq!(answer.data()["value"], round * 2 + 1, "round {round}: a stale read: {answer}"),
                503 => {}
                _ => panic!("round {round}: {answer}"),
            }
        }
        cluster.agreed();
        assert_eq!(cluster.nodes[old].value("watched"), round * 2 + 1);
    }
}

fn kill_9_of_followers_in_turn_never_stops_writes() {
    let mut cluster = Cluster::of(3);
    let reign = cluster.reign();
    let leader = cluster.agreed();
    let address = [cluster.nodes[leader].http.clone()];
    let load = Load::start(&address, 4, "steady");
    for _ in 0..2 {
        for place in cluster.followers() {
            cluster.nodes[place].kill9();
            let goal = load.acked() + 40;
            eventually(secs(20), "writes go on", || check(load.acked() > goal, load.acked()));
            cluster.nodes[place].start();
            cluster.caught_up(secs(30));
        }
    }
    let record = load.finish();
    record.verify_no_failure("a write through the leader failed while a majority was there");
    assert_eq!(cluster.reign(), reign, "leader and term");
    for node in &cluster.nodes {
        record.verify(node);
    }
}
