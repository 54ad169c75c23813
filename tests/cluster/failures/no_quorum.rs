//! No quorum: responses without a majority, and the outcome of pending writes.

use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Answer, Cluster, Node, Request, check, eventually, millis, secs};

crate::harness::cases![
    without_a_quorum_stale_reads_succeed_and_other_requests_say_why_not,
    a_write_proposed_by_an_isolated_leader_is_unknown_and_never_applied_twice,
    a_follower_without_a_leader_keeps_a_write_until_its_deadline_and_forwards_it_after_an_election,
    too_many_pending_requests_are_refused_at_once,
    sigterm_answers_pending_requests.alone(),
];

fn write(node: &Node, timeout: &str) -> Answer {
    let body = json!({"key": "lost", "value": 1}).to_string();
    node.request(Request::new("POST", format!("/store?timeout={timeout}")).body(body))
}

/// Panics unless the answer says for certain that nothing was done and when to come back.
#[track_caller]
fn not_applied_for_lack_of_a_leader(answer: Answer, what: &str) {
    let answer = answer.problem(503, what).code("no_leader", what).outcome("not_applied", what);
    let after = answer.header("retry-after").and_then(|value| value.parse::<u64>().ok());
    assert!(after.is_some_and(|seconds| seconds > 0), "{what}: Retry-After of {answer}");
}

/// Waits until the node knows no leader.
#[track_caller]
fn leaderless(node: &Node) {
    eventually(secs(15), format!("{} knows no leader", node.name()), || {
        let stats = node.try_stats()?;
        check(stats["leader"] == Value::Null && stats["state"] != "Leader", stats)
    });
}

fn without_a_quorum_stale_reads_succeed_and_other_requests_say_why_not() {
    let mut cluster = Cluster::of(3);
    cluster.nodes[0].put("kept", "value");
    cluster.caught_up(secs(10));
    cluster.nodes[1].kill9();
    cluster.nodes[2].kill9();
    let left = &cluster.nodes[0];
    leaderless(left);
    assert_eq!(left.get("/store/kept?consistency=stale").expect(200, "a stale read").data()["value"], "value");
    left.get("/store/none?consistency=stale").problem(404, "a stale read of nothing");
    left.get("/health").expect(200, "the process lives and its disk is sound");
    left.get("/raft/stats").expect(200, "stats");
    for timeout in ["300ms", "1s"] {
        let begun = Instant::now();
        let read = left.get(&format!("/store/kept?timeout={timeout}"));
        read.problem(503, "a linearizable read").code("no_quorum", "a linearizable read");
        not_applied_for_lack_of_a_leader(write(left, timeout), "a write");
        assert!(begun.elapsed() < secs(4), "two requests with {timeout} took {:?}", begun.elapsed());
    }
    let gone = left.request(Request::new("DELETE", "/store/kept?timeout=300ms"));
    not_applied_for_lack_of_a_leader(gone, "DELETE");
    let begun = Instant::now();
    not_applied_for_lack_of_a_leader(left.post("/store", &json!({"key": "k", "value": 1})), "the default deadline");
    assert!((millis(4500)..secs(8)).contains(&begun.elapsed()), "the default is 5 s, not {:?}", begun.elapsed());
    for (path, body) in [("/raft/remove", json!({"node_id": "node3"})), ("/raft/transfer", json!({}))] {
        let answer = left.request(Request::new("POST", format!("{path}?timeout=300ms")).body(body.to_string()));
        answer.problem(503, path);
    }
    cluster.nodes[1].start();
    cluster.agreed();
    assert_eq!(cluster.nodes[1].value("kept"), "value");
    cluster.nodes[1].get("/store/lost").problem(404, "what was said not to be applied");
}

fn a_write_proposed_by_an_isolated_leader_is_unknown_and_never_applied_twice() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let followers = cluster.followers();
    cluster.nodes[leader].put("warm", 1);
    for &place in &followers {
        cluster.nodes[place].sigstop();
    }
    // The node still considers itself the leader, so it proposes the write, which no quorum confirms.
    let begun = Instant::now();
    let answer = write(&cluster.nodes[leader], "400ms");
    answer.problem(504, "a write without a quorum").outcome("unknown", "a write without a quorum");
    assert!(begun.elapsed() < secs(3), "the deadline was 400 ms, the answer took {:?}", begun.elapsed());
    let read = cluster.nodes[leader].get("/store/warm?timeout=400ms");
    read.problem(503, "a read without a quorum").code("no_quorum", "a read without a quorum");
    leaderless(&cluster.nodes[leader]);
    not_applied_for_lack_of_a_leader(write(&cluster.nodes[leader], "300ms"), "after it stepped down");
    for &place in &followers {
        cluster.nodes[place].sigcont();
    }
    let leader = cluster.agreed();
    let marker = cluster.nodes[leader].put("after", 1);
    let found = cluster.nodes[leader].get("/store/lost");
    if found.status == 200 {
        let version = found.data()["version"].as_u64().unwrap_or(0);
        assert!(version < marker, "the unknown write was proposed again: {found}");
    } else {
        found.problem(404, "the unknown write");
    }
}

fn a_follower_without_a_leader_keeps_a_write_until_its_deadline_and_forwards_it_after_an_election() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    let followers = cluster.followers();
    cluster.nodes[leader].kill9();
    // Sent while there is no leader; the two that are left elect one of them well before the deadline. Only the first can have
    // gone out on a connection that broke under it, the one case in which the outcome cannot be known.
    let answers: Vec<Answer> = followers.iter().map(|&place| write(&cluster.nodes[place], "20s")).collect();
    let [first, second] = answers.try_into().expect("two followers");
    if first.status != 200 {
        first.problem(504, "a write whose forward broke").outcome("unknown", "a write whose forward broke");
    }
    second.expect(200, "a write sent without a leader is done when one is there");
    let next = cluster.agreed();
    assert_eq!(cluster.nodes[next].value("lost"), 1);
}

fn too_many_pending_requests_are_refused_at_once() {
    let mut cluster = Cluster::with(2, |setup| setup.set("HUSKV_LIMITS_PENDING_REQUESTS", "4"));
    let leader = cluster.agreed();
    let follower = 1 - leader;
    cluster.nodes[follower].sigstop();
    let address = cluster.nodes[leader].http.clone();
    let begun = Instant::now();
    let clients: Vec<_> = (0..24)
        .map(|number| {
            let address = address.clone();
            thread::spawn(move || {
                let body = json!({"key": format!("k{number}"), "value": 1}).to_string();
                let answer = Request::new("POST", "/store?timeout=3s").body(body).send(&address);
                (answer.expect("an answer"), begun.elapsed())
            })
        })
        .collect();
    let answers: Vec<_> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
    let refused: Vec<_> = answers.iter().filter(|(answer, _)| answer.word("code") == "overloaded").collect();
    assert!(refused.len() >= 12, "only {} of 24 were refused: {answers:?}", refused.len());
    for (answer, after) in refused {
        let answer = answer.clone().problem(503, "overloaded").outcome("not_applied", "overloaded");
        assert!(answer.header("retry-after").is_some(), "Retry-After of {answer}");
        assert!(*after < millis(2500), "at once, not after {after:?}");
    }
    cluster.nodes[follower].sigcont();
    cluster.agreed();
    cluster.nodes[leader].put("again", "it takes writes");
}

fn sigterm_answers_pending_requests() {
    let mut cluster = Cluster::of(3);
    let leader = cluster.agreed();
    for place in cluster.followers() {
        cluster.nodes[place].sigstop();
    }
    let before = cluster.nodes[leader].number("last_log_index");
    let body = json!({"key": "pending", "value": 1}).to_string();
    let pending = Request::new("POST", "/store?timeout=30s").body(body).open(&cluster.nodes[leader].http);
    let pending = pending.expect("sending a write");
    eventually(secs(2), "the write is in the leader's log", || {
        check(cluster.nodes[leader].number("last_log_index") > before, before)
    });
    let begun = Instant::now();
    let status = cluster.nodes[leader].sigterm();
    assert_eq!(status.code(), Some(0), "the exit status");
    assert!(begun.elapsed() < secs(5), "it took {:?}", begun.elapsed());
    let answer = pending.answer(secs(5)).expect("what was pending is answered before the exit");
    assert!([503, 504].contains(&answer.status), "{answer}");
    let outcome = answer.word("outcome");
    assert!(["unknown", "not_applied"].contains(&outcome.as_str()), "{answer}");
}
