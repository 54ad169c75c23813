//! Joins: refusals, concurrent joins, and joins that are interrupted.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Answer, Cluster, ELECTION, Node, Request, Setup, check, eventually, free_port, member, millis, names, secs,
};

crate::harness::cases![
    an_unreachable_or_wrong_address_is_refused_in_time_and_writes_go_on,
    a_leader_that_the_joiner_cannot_reach_is_refused_naming_its_address,
    a_node_with_data_is_refused_and_keeps_it_unless_forced,
    a_member_of_another_cluster_is_refused_even_if_forced,
    joining_a_member_again_changes_nothing,
    the_address_of_a_member_under_another_name_is_refused_naming_it,
    the_name_of_a_live_member_is_in_use,
    an_invalid_address_is_a_bad_body,
    the_leader_joined_under_another_name_or_address_is_recognized,
    a_leader_behind_a_relay_is_joined_through_the_port_that_it_advertises,
    two_fresh_nodes_joined_to_each_other_at_once_do_not_both_give_up_their_cluster,
    joins_run_one_at_a_time_and_both_succeed,
    a_join_past_its_deadline_is_unfinished_and_the_same_post_resumes_it,
    a_joiner_killed_at_any_moment_leaves_a_cluster_that_works,
    a_leader_killed_at_any_moment_of_a_join_leaves_a_cluster_that_works,
    a_learner_that_never_comes_back_blocks_no_other_join,
];

#[track_caller]
fn refused(answer: Answer, what: &str) -> Answer {
    let status = answer.status;
    assert!((400..600).contains(&status) && status != 500, "{what}: {answer}");
    answer.problem(status, what)
}

fn an_unreachable_or_wrong_address_is_refused_in_time_and_writes_go_on() {
    let cluster = Cluster::of(2);
    let reign = cluster.reign();
    let leader = &cluster.nodes[cluster.agreed()];
    let follower = &cluster.nodes[cluster.followers()[0]];
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    // It takes connections and never says a word.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mute_address = mute.local_addr().unwrap().to_string();
    let wrong = [
        ("nothing there", closed),
        ("something mute", mute_address),
        ("its own http port", leader.http.clone()),
        ("another node's http port", follower.http.clone()),
        ("itself", leader.raft.clone()),
        ("a name that is none", "no-such-host.invalid:1112".to_owned()),
    ];
    for (what, address) in &wrong {
        for asked in [leader, follower] {
            let begun = Instant::now();
            let answer = asked.post("/raft/join", &json!({"node_id": "stranger", "raft_address": address}));
            assert!(begun.elapsed() < secs(10), "{what}: {:?}", begun.elapsed());
            let answer = refused(answer, what);
            assert_ne!(answer.word("code"), "bad_request", "{what}: {answer}");
            follower.put("still", "taking writes");
            assert_eq!(names(&leader.stats(), "voter"), ["node1", "node2"], "{what}");
            assert_eq!(names(&leader.stats(), "learner"), [""; 0], "{what} left a learner");
        }
    }
    assert_eq!(cluster.reign(), reign, "leader and term");
}

fn a_leader_that_the_joiner_cannot_reach_is_refused_naming_its_address() {
    let leader = Setup::named("node1").set("HUSKV_ADVERTISE_HOST", "husk-nowhere.invalid").start();
    let joiner = Setup::named("node2").start();
    let begun = Instant::now();
    let answer = refused(leader.join(&joiner), "a leader that cannot be dialled");
    assert!(begun.elapsed() < secs(10), "{:?}", begun.elapsed());
    assert!(answer.word("detail").contains("husk-nowhere.invalid"), "the address is not named: {answer}");
    assert!(answer.word("detail").contains("HUSKV_ADVERTISE_HOST"), "the setting is not named: {answer}");
    for node in [&leader, &joiner] {
        node.put("still", "alone and well");
        assert_eq!(node.stats()["num_peers"], "0", "{}", node.name());
    }
}

fn a_node_with_data_is_refused_and_keeps_it_unless_forced() {
    let leader = Setup::named("node1").start();
    let owner = Setup::named("node2").start();
    owner.put("mine", "my own");
    let answer = leader.join(&owner).problem(409, "a node with data");
    assert_eq!(answer.word("code"), "has_data");
    assert_eq!(owner.value("mine"), "my own");
    assert_eq!(owner.stats()["state"], "Leader", "it still leads itself");
    assert_eq!(leader.stats()["num_peers"], "0");
    leader.put("still", "taking writes");
    let body = json!({"node_id": "node2", "raft_address": owner.raft, "force": true});
    let forced = leader.post("/raft/join", &body).expect(200, "a forced join");
    let dropped = [forced.json()["dropped"].clone(), forced.data()["dropped"].clone()];
    assert!(dropped.iter().any(|what| !what.is_null()), "what was given up is not said: {forced}");
    owner.get("/store/mine").problem(404, "what was given up");
    assert_eq!(owner.value("still"), "taking writes");
}

fn a_member_of_another_cluster_is_refused_even_if_forced() {
    let ours = Cluster::of(2);
    let theirs = Cluster::with(2, |setup| setup);
    theirs.nodes[0].put("theirs", 1);
    let (our_reign, their_reign) = (ours.reign(), theirs.reign());
    for other in &theirs.nodes {
        for force in [false, true] {
            let body = json!({"node_id": "captive", "raft_address": other.raft, "force": force});
            ours.nodes[0].post("/raft/join", &body).problem(409, "a member of another cluster");
        }
    }
    assert_eq!(ours.reign(), our_reign);
    assert_eq!(theirs.reign(), their_reign);
    assert_eq!(names(&ours.nodes[0].stats(), "voter").len(), 2);
    theirs.nodes[1].put("theirs", 2);
    assert_eq!(theirs.nodes[0].value("theirs"), 2);
}

fn joining_a_member_again_changes_nothing() {
    let cluster = Cluster::of(3);
    let reign = cluster.reign();
    let before = cluster.nodes[0].stats();
    for asked in &cluster.nodes {
        for other in &cluster.nodes {
            asked.join(other).expect(200, "joining a member again");
        }
    }
    let after = cluster.nodes[0].stats();
    for same in ["latest_configuration", "latest_configuration_index", "cluster_id"] {
        assert_eq!(after[same], before[same], "{same}");
    }
    for node in &cluster.nodes {
        let id = |stats: &Value| member(stats, node.name()).map(|row| row["raft_id"].clone());
        assert_eq!(id(&after), id(&before), "the raft id of {}", node.name());
    }
    assert_eq!(cluster.reign(), reign);
}

fn the_address_of_a_member_under_another_name_is_refused_naming_it() {
    let cluster = Cluster::of(2);
    let body = json!({"node_id": "node9", "raft_address": cluster.nodes[1].raft});
    let answer = cluster.nodes[0].post("/raft/join", &body).problem(409, "a member under another name");
    assert!(answer.word("detail").contains("node2"), "the member is not named: {answer}");
    assert_eq!(names(&cluster.nodes[0].stats(), "voter"), ["node1", "node2"]);
}

fn an_invalid_address_is_a_bad_body() {
    let node = Setup::named("node1").start();
    for address in
        ["0.0.0.0:1112", "[::]:1112", "255.255.255.255:1112", "[ff02::1]:1112", "h:0", "a..b:1", "a b:1", ":1"]
    {
        let answer = node.post("/raft/join", &json!({"node_id": "node2", "raft_address": address}));
        let answer = answer.problem(400, address).code("bad_body", address);
        answer.outcome("not_applied", address);
    }
}

fn the_leader_joined_under_another_name_or_address_is_recognized() {
    let cluster = Cluster::of(2);
    let leader = &cluster.nodes[cluster.agreed()];
    let port = leader.raft.rsplit_once(':').unwrap().1;
    let addresses = || {
        let rows = leader.stats()["members"].clone();
        rows.as_array().unwrap().iter().map(|row| row["raft_address"].to_string()).collect::<Vec<_>>()
    };
    let before = addresses();
    for (name, address) in [("node9", leader.raft.clone()), (leader.name(), format!("localhost:{port}"))] {
        let body = json!({"node_id": name, "raft_address": address});
        let answer = cluster.nodes[1].post("/raft/join", &body).problem(409, "the leader itself");
        answer.code("join_self", "the leader itself").outcome("not_applied", "the leader itself");
    }
    let again = cluster.nodes[1].join(leader).expect(200, "under its own name and address nothing changes");
    assert_eq!(names(&again.data(), "voter"), ["node1", "node2"]);
    assert_eq!(addresses(), before);
}

/// Passes connections on to a port of this machine; the port to be dialled.
fn relay(to: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            for (mut from, mut onto) in [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far, near)] {
                thread::spawn(move || {
                    _ = io::copy(&mut from, &mut onto);
                    _ = onto.shutdown(Shutdown::Both);
                });
            }
        }
    });
    port
}

fn a_leader_behind_a_relay_is_joined_through_the_port_that_it_advertises() {
    let real = free_port();
    let setup = || Setup::named("node1").set("RAFT_PORT", real);
    let wrong = setup().set("HUSKV_ADVERTISE_PORT", free_port()).start();
    let joiner = Setup::named("node2").start();
    let answer = wrong.join(&joiner).problem(409, "a wrong port").code("leader_unreachable", "a wrong port");
    assert!(answer.word("detail").contains("HUSKV_ADVERTISE_PORT"), "the setting is not named: {answer}");
    drop(wrong);
    let shown = relay(real);
    let leader = setup().set("HUSKV_ADVERTISE_PORT", shown).start();
    leader.join(&joiner).expect(200, "a join over the relay");
    leader.put("foo", "bar");
    assert_eq!(joiner.value("foo"), "bar");
    let row = member(&joiner.stats(), "node1").cloned().unwrap();
    assert_eq!(row["raft_address"], format!("127.0.0.1:{shown}"));
}

fn the_name_of_a_live_member_is_in_use() {
    let cluster = Cluster::of(3);
    let reign = cluster.reign();
    let stranger = Setup::named("node3").start();
    let answer = cluster.nodes[0].join(&stranger).problem(409, "the name of a live member");
    assert_eq!(answer.word("code"), "name_in_use");
    assert_eq!(answer.json()["leader"]["node_id"], reign.0, "who leads is known, so it is said: {answer}");
    assert_eq!(cluster.reign(), reign);
    stranger.put("mine", "it is left alone");
    cluster.nodes[2].put("still", "a member");
    assert_eq!(names(&cluster.nodes[2].stats(), "voter").len(), 3);
}

fn two_fresh_nodes_joined_to_each_other_at_once_do_not_both_give_up_their_cluster() {
    for round in 0..4 {
        let nodes = [Setup::named("left").start(), Setup::named("right").start()];
        thread::scope(|scope| {
            scope.spawn(|| nodes[0].join(&nodes[1]));
            scope.spawn(|| nodes[1].join(&nodes[0]));
        });
        eventually(secs(30), format!("round {round}: both serve, as one cluster or as two"), || {
            let stats = [nodes[0].try_stats()?, nodes[1].try_stats()?];
            let one = stats[0]["cluster_id"] == stats[1]["cluster_id"];
            let size = if one { 2 } else { 1 };
            for (node, stats) in nodes.iter().zip(&stats) {
                check(names(stats, "voter").len() == size, format!("{}: {stats}", node.name()))?;
                let body = json!({"key": "alive", "value": round}).to_string();
                let put = node.try_request(Request::new("POST", "/store?timeout=2s").body(body))?;
                check(put.status == 200, format!("{}: {put}", node.name()))?;
            }
            Ok(())
        });
    }
}

fn joins_run_one_at_a_time_and_both_succeed() {
    let cluster = Cluster::of(2);
    let reign = cluster.reign();
    let joiners = [Setup::named("node3").start(), Setup::named("node4").start(), Setup::named("node5").start()];
    thread::scope(|scope| {
        let (cluster, joiners) = (&cluster, &joiners);
        let joins: Vec<_> =
            (0..3).map(|place| scope.spawn(move || cluster.nodes[place % 2].join(&joiners[place]))).collect();
        for join in joins {
            join.join().expect("a join").expect(200, "one of three joins at once");
        }
    });
    for node in cluster.nodes.iter().chain(&joiners) {
        eventually(secs(10), format!("{} sees all five", node.name()), || {
            let stats = node.try_stats()?;
            check(names(&stats, "voter").len() == 5, stats)
        });
    }
    assert_eq!(cluster.reign(), reign);
}

/// About 24 MB, so that bringing up a joiner takes long enough to be interrupted.
fn fill(node: &Node) {
    let value = "x".repeat(200_000);
    thread::scope(|scope| {
        for client in 0..4 {
            let value = &value;
            scope.spawn(move || {
                (0..30).for_each(|number| _ = node.put(&format!("big-{client}-{number}"), value.as_str()))
            });
        }
    });
}

/// Posts a join in the background.
fn join_later(through: &Node, joiner: &Node, timeout: &str) -> thread::JoinHandle<std::io::Result<Answer>> {
    let body = json!({"node_id": joiner.name(), "raft_address": joiner.raft}).to_string();
    let request = Request::new("POST", format!("/raft/join?timeout={timeout}")).body(body);
    let address = through.http.clone();
    thread::spawn(move || request.send(&address))
}

/// Begins to join `joiner` and stops it with `halt` as soon as the table shows it as a learner.
fn interrupted(cluster: &Cluster, joiner: &mut Node, timeout: &str, halt: fn(&mut Node)) -> Option<Answer> {
    let leader = &cluster.nodes[cluster.agreed()];
    let join = join_later(leader, joiner, timeout);
    eventually(secs(20), "the joiner is a learner", || {
        let stats = leader.try_stats()?;
        check(member(&stats, joiner.name()).is_some(), stats)
    });
    halt(joiner);
    let answer = join.join().expect("the join").expect("an answer");
    let stats = leader.stats();
    // Where the machine was too slow to catch it as a learner there is nothing to be seen here.
    (member(&stats, joiner.name())?["role"] == "learner").then_some(answer)
}

fn a_join_past_its_deadline_is_unfinished_and_the_same_post_resumes_it() {
    let cluster = Cluster::of(2);
    fill(&cluster.nodes[0]);
    for attempt in 0..5 {
        let mut joiner = Setup::named(&format!("late{attempt}")).start();
        let Some(answer) = interrupted(&cluster, &mut joiner, "2s", Node::sigstop) else { continue };
        let answer = answer.problem(504, "a join whose joiner sleeps").outcome("unknown", "an unfinished join");
        assert_eq!(answer.word("code"), "join_unfinished");
        joiner.sigcont();
        cluster.nodes[0].join(&joiner).expect(200, "the same POST");
        assert_eq!(joiner.value("big-0-0"), "x".repeat(200_000));
        assert!(names(&cluster.nodes[0].stats(), "voter").contains(&joiner.name().to_owned()));
        return;
    }
    panic!("no joiner could be stopped while it was a learner: the data is too small for this machine");
}

fn a_joiner_killed_at_any_moment_leaves_a_cluster_that_works() {
    let cluster = Cluster::of(2);
    fill(&cluster.nodes[0]);
    let reign = cluster.reign();
    for delay in [0, 5, 15, 40, 100, 250, 600] {
        let mut joiner = Setup::named(&format!("joiner{delay}")).start();
        let join = join_later(&cluster.nodes[0], &joiner, "3s");
        // The moment is what this test varies; nothing depends on what has happened by then.
        thread::sleep(millis(delay));
        joiner.kill9();
        cluster.nodes[1].put("during", delay);
        _ = join.join().expect("the join");
        cluster.nodes[1].put("after", delay);
        joiner.start();
        cluster.nodes[1].join(&joiner).expect(200, &format!("repeated after a kill at {delay} ms"));
        assert_eq!(joiner.value("after"), delay);
        cluster.nodes[0].remove(joiner.name()).expect(200, "making room for the next");
        assert_eq!(cluster.reign(), reign, "after a kill at {delay} ms");
    }
}

fn a_leader_killed_at_any_moment_of_a_join_leaves_a_cluster_that_works() {
    let mut cluster = Cluster::of(3);
    fill(&cluster.nodes[0]);
    for delay in [0_u64, 10, 50, 200, 600] {
        cluster.caught_up(secs(60));
        let joiner = Setup::named(&format!("joiner{delay}")).start();
        let leader = cluster.agreed();
        let join = join_later(&cluster.nodes[leader], &joiner, "5s");
        // The moment is what this test varies; nothing depends on what has happened by then.
        thread::sleep(millis(delay));
        cluster.nodes[leader].kill9();
        _ = join.join().expect("the join");
        // The joiner may have become a voter, and then it may be the one that leads.
        let dead = cluster.nodes[leader].name().to_owned();
        let next = eventually(ELECTION, "a running node knows a new leader", || {
            let knows = |node: &Node| {
                let leader = node.try_stats().map(|stats| stats["leader"]["node_id"].clone());
                node.runs() && leader.is_ok_and(|leader| leader.is_string() && leader != dead.as_str())
            };
            cluster.nodes.iter().position(knows).ok_or("none does".to_owned())
        });
        cluster.nodes[next].put("after", delay);
        cluster.nodes[next].join(&joiner).expect(200, &format!("repeated after a kill at {delay} ms"));
        assert_eq!(joiner.value("after"), delay);
        cluster.nodes[next].remove(joiner.name()).expect(200, "making room for the next");
        cluster.nodes[leader].start();
    }
}

fn a_learner_that_never_comes_back_blocks_no_other_join() {
    let mut cluster =
        Cluster::with(3, |setup| setup.set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 50).set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 10));
    fill(&cluster.nodes[0]);
    let mut lost = None;
    for attempt in 0..5 {
        let mut joiner = Setup::named(&format!("lost{attempt}")).start();
        if interrupted(&cluster, &mut joiner, "2s", Node::kill9).is_some() {
            lost = Some(joiner.name().to_owned());
            break;
        }
        cluster.nodes[0].remove(joiner.name()).expect(200, "removing the one that was too quick");
    }
    let lost = lost.expect("no joiner could be killed while it was a learner: the data is too small for this machine");
    let leader = cluster.agreed();
    // It counts for no quorum: two of three voters commit.
    let dead = cluster.followers()[0];
    cluster.nodes[dead].kill9();
    cluster.nodes[leader].put("two", "of three voters");
    cluster.nodes[dead].start();
    cluster.caught_up(secs(30));
    // It pins no log: the log is cut on, far beyond what the learner has.
    let begun = cluster.nodes[leader].number("last_snapshot_index");
    (0..150).for_each(|number| _ = cluster.nodes[leader].put("moving", number));
    eventually(Duration::from_secs(20), "the snapshot moves on", || {
        let now = cluster.nodes[leader].number("last_snapshot_index");
        check(now > begun + 50, now)
    });
    // It blocks no other join.
    let other = Setup::named("other").start();
    cluster.nodes[leader].join(&other).expect(200, "another join");
    assert_eq!(other.value("moving"), 149);
    // It can be removed.
    let removed = cluster.nodes[leader].remove(&lost).expect(200, "removing the learner");
    assert!(member(&removed.data(), &lost).is_none(), "{removed}");
}
