//! Watches on any node, over failovers, restarts, snapshots and slow readers.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    Cluster, ELECTION, Event, Node, Request, Setup, Watch, ask, check, eventually, number, secs, throughout,
};

crate::harness::cases![
    every_node_sends_an_event_for_every_change_in_the_form_of_get,
    a_watch_resumes_on_another_node_in_the_middle_of_a_transaction,
    no_event_is_skipped_or_delivered_twice_while_nodes_are_killed,
    after_a_snapshot_the_history_begins_at_its_index_and_a_list_fills_the_gap,
    a_slow_watcher_gets_lagged_and_delays_no_other_watcher,
    a_thousand_watchers_do_not_stop_writes.alone(),
    progress_events_stop_without_a_leader_and_return_with_one,
    a_stop_and_a_removal_close_streams_at_once,
    a_rolling_restart_skips_no_event_for_a_browser,
    a_cursor_of_a_former_cluster_is_refused_at_once,
];

const SOON: Duration = secs(20);

#[track_caller]
fn watch(node: &Node, query: &str, last: Option<&str>) -> Watch {
    let stream = ask(&node.http, query, last).unwrap_or_else(|error| panic!("{query} on {}: {error}", node.name()));
    assert_eq!(stream.head.status, 200, "{query} after {last:?} on {}", node.name());
    stream.listen().unwrap()
}

#[track_caller]
fn refused(node: &Node, query: &str, last: &str) -> crate::harness::Answer {
    node.request(Request::new("GET", format!("/watch?{query}")).header("Last-Event-ID", last))
}

#[track_caller]
fn changes(watch: &Watch, count: usize) -> Vec<Event> {
    (0..count).map(|_| watch.change(SOON).expect("the stream goes on")).collect()
}

fn txn(node: &Node, operations: Value) -> u64 {
    let answer = node.post("/txn", &json!({"then": operations})).expect(200, "a transaction");
    answer.data()["index"].as_u64().unwrap()
}

fn put(key: &str, value: impl Into<Value>) -> Value {
    json!({"op": "put", "key": key, "value": value.into()})
}

fn every_node_sends_an_event_for_every_change_in_the_form_of_get() {
    let cluster = Cluster::of(3);
    let node = &cluster.nodes[0];
    node.put("w/old", 1);
    cluster.caught_up(ELECTION);
    let watches: Vec<Watch> = cluster.nodes.iter().map(|node| watch(node, "prefix=w/", None)).collect();
    let one = watch(&cluster.nodes[1], "key=w/2", None);
    for watch in &watches {
        let first = watch.any(SOON).expect("where it begins");
        assert_eq!((first.kind.as_str(), first.id.clone()), ("progress", first.data["index"].to_string()));
    }
    let first = node.put("w/1", "text\nof two lines");
    let image = Request::new("PUT", "/store/w/2").header("Content-Type", "image/png").body(&b"\x00\xff"[..]);
    let second = node.request(image).expect(200, "bytes").data()["version"].as_u64().unwrap();
    let shown = [node.get("/store/w/1").data(), node.get("/store/w/2").data()];
    let deleted = node.delete("/store/w/old").expect(200, "DELETE").header("x-raft-index").unwrap().to_owned();
    node.delete("/store/w/none").expect(200, "nothing happens");
    let both = txn(node, json!([put("x/1", 1), put("w/3", json!({"n": 1})), {"op": "delete", "key": "w/1"}]));
    let swept = node.delete("/store?prefix=w/").expect(200, "two go").header("x-raft-index").unwrap().to_owned();
    let gone =
        |key: &str, version: &str| json!({"key": key, "value": null, "version": version.parse::<u64>().unwrap()});
    let both = both.to_string();
    let expected = [
        (first.to_string(), "put", shown[0].clone()),
        (second.to_string(), "put", shown[1].clone()),
        (deleted.clone(), "delete", gone("w/old", &deleted)),
        (format!("{both}.2"), "put", Value::Null),
        (format!("{both}.3"), "delete", gone("w/1", &both)),
        (format!("{swept}.1"), "delete", gone("w/2", &swept)),
        (format!("{swept}.2"), "delete", gone("w/3", &swept)),
    ];
    for (watch, node) in watches.iter().zip(&cluster.nodes) {
        for (event, (id, kind, data)) in changes(watch, expected.len()).iter().zip(&expected) {
            assert_eq!((&event.id, event.kind.as_str()), (id, *kind), "on {}", node.name());
            assert!(data.is_null() || event.data == *data, "{event:?} on {}, expected {data}", node.name());
        }
        let progress = watch.any(secs(6)).expect("it goes on");
        let index: u64 = progress.id.parse().unwrap();
        assert!(progress.kind == "progress" && index >= swept.parse().unwrap(), "{progress:?}");
    }
    let ids: Vec<String> = changes(&one, 2).into_iter().map(|event| event.id).collect();
    assert_eq!(ids, [second.to_string(), format!("{swept}.1")], "of one key");
}

fn a_watch_resumes_on_another_node_in_the_middle_of_a_transaction() {
    let mut cluster = Cluster::of(3);
    let index = txn(&cluster.nodes[0], json!([put("a", 1), put("b", 2), put("a/2", 3)]));
    let last = cluster.nodes[0].put("a", 4);
    cluster.caught_up(ELECTION);
    for node in &cluster.nodes {
        let what = node.name();
        let ids = |query: &str, id: Option<&str>, count| -> Vec<String> {
            changes(&watch(node, query, id), count).into_iter().map(|event| event.id).collect()
        };
        let name = |place: u64| format!("{index}.{place}");
        let all = [name(1), name(2), name(3), last.to_string()];
        assert_eq!(ids(&format!("prefix=&from={index}"), None, 4), all, "{what}");
        assert_eq!(ids("prefix=", Some(&name(1)), 3), all[1..], "{what}");
        assert_eq!(ids("prefix=a", Some(&name(1)), 2), all[2..], "the change between is counted: {what}");
        assert_eq!(ids(&format!("prefix=&from={index}"), Some(&name(3)), 1), all[3..], "the header wins: {what}");
        assert_eq!(ids("prefix=", Some(&index.to_string()), 1), all[3..], "{what}");
    }
    // A client that comes from a node that is ahead waits here and hears everything after what it has had.
    let (place, leader) = (cluster.followers()[0], cluster.agreed());
    cluster.nodes[place].sigstop();
    let newest = (0..3).fold(0, |_, round| cluster.nodes[leader].put("now", round));
    cluster.nodes[place].sigcont();
    let ahead = watch(&cluster.nodes[place], "prefix=", Some(&newest.to_string()));
    let later = cluster.nodes[leader].put("later", 1);
    assert_eq!(ahead.change(SOON).expect("it comes").id, later.to_string());
}

/// Follows `prefix` over lost connections until the key `prefix/end` was told: every change, and how often it resumed.
fn follow(addresses: Vec<String>, prefix: String, begin: String) -> (Vec<(String, Value)>, usize) {
    let (mut seen, mut last, mut resumed) = (Vec::new(), begin, 0);
    let deadline = Instant::now() + secs(120);
    for address in addresses.iter().cycle() {
        assert!(Instant::now() < deadline, "{prefix} never came to its end: {:?}", seen.last());
        let opened = ask(address, &format!("prefix={prefix}/"), Some(&last));
        let Ok(stream) = opened else { continue };
        if stream.head.status != 200 {
            continue;
        }
        resumed += 1;
        let watch = stream.listen().unwrap();
        // Silence means, as for any client, to use another node.
        loop {
            let Ok(event) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch.any(secs(6)))) else {
                break;
            };
            let Some(event) = event else { break };
            last.clone_from(&event.id);
            if event.kind == "put" {
                let end = event.data["key"] == format!("{prefix}/end");
                seen.push((event.id, event.data["value"].clone()));
                if end {
                    return (seen, resumed);
                }
            }
        }
    }
    unreachable!("the addresses go round");
}

fn no_event_is_skipped_or_delivered_twice_while_nodes_are_killed() {
    let mut cluster = Cluster::of(3);
    let begin = cluster.nodes[0].put("begin", 1).to_string();
    let addresses = cluster.addresses();
    let followers: Vec<_> = (0..3)
        .map(|client| {
            let mut turned = addresses.clone();
            turned.rotate_left(client);
            let begin = begin.clone();
            thread::spawn(move || follow(turned, "seq".to_owned(), begin))
        })
        .collect();
    let mut versions = BTreeMap::new();
    let mut number = 0;
    let mut write = |node: &Node, key: &str| {
        number += 1;
        versions.insert(node.put(key, number), number);
    };
    for round in 0..3 {
        let leader = cluster.agreed();
        (0..30).for_each(|key| write(&cluster.nodes[leader], &format!("seq/{key}")));
        let victim = if round == 1 { cluster.followers()[0] } else { leader };
        cluster.nodes[victim].kill9();
        let leader = cluster.some_leader(ELECTION);
        (0..30).for_each(|key| write(&cluster.nodes[leader], &format!("seq/{key}")));
        // It picks its port again, so that the clients find it where it was.
        cluster.nodes[victim].start();
        cluster.caught_up(SOON);
    }
    write(&cluster.nodes[0], "seq/end");
    let expected: Vec<(String, Value)> = versions.iter().map(|(v, number)| (v.to_string(), json!(number))).collect();
    let mut connections = 0;
    for follower in followers {
        let (seen, count) = follower.join().expect("it comes to the end");
        assert_eq!(seen, expected);
        connections += count;
    }
    assert!(connections > 3, "no node with a watcher was killed");
}

fn after_a_snapshot_the_history_begins_at_its_index_and_a_list_fills_the_gap() {
    let mut cluster = Cluster::of(2);
    let leader = cluster.agreed();
    let begin = cluster.nodes[leader].put("k", 0);
    (0..100).for_each(|round| _ = cluster.nodes[leader].put("k", round));
    let joiner = Setup::named("node3").start();
    let before = watch(&joiner, "prefix=", None);
    cluster.nodes[leader].join(&joiner).expect(200, "a copy");
    while before.any(SOON).is_some() {}
    cluster.nodes.push(joiner);
    let gone = refused(&cluster.nodes[2], "prefix=", &begin.to_string()).problem(410, "a copy came");
    let gone = gone.code("compacted", "a copy came");
    let oldest = gone.json()["oldest_index"].as_u64().unwrap();
    assert!(oldest > begin + 100, "{gone}");
    // What the answer says to do: another node, or a list.
    let other = watch(&cluster.nodes[leader], "prefix=", Some(&begin.to_string()));
    assert_eq!(changes(&other, 100).len(), 100);
    let list = cluster.nodes[2].get("/store?prefix=k").expect(200, "a list").data();
    let next = list["index"].as_u64().unwrap() + 1;
    let version = cluster.nodes[leader].put("k", "after");
    let event = watch(&cluster.nodes[2], &format!("prefix=k&from={next}"), None).change(SOON).unwrap();
    assert_eq!((event.id, &event.data["value"]), (version.to_string(), &json!("after")));
}

fn a_slow_watcher_gets_lagged_and_delays_no_other_watcher() {
    // It takes nothing for as long as this takes.
    let setup = Setup::named("node1").set("HUSKV_LIMITS_WATCH_MB", 1).set("HUSKV_HTTP_RATE_GRACE_MS", 600_000);
    let node = setup.start();
    let slow = ask(&node.http, "prefix=big", None).unwrap();
    let fast = watch(&node, "prefix=", None);
    let value = "x".repeat(1 << 20);
    // More than the sockets of both sides hold.
    for round in 0..24 {
        let version = node.put(&format!("big/{round}"), value.as_str());
        assert_eq!(fast.change(SOON).expect("it reads").id, version.to_string());
    }
    let slow = slow.listen().unwrap();
    let mut told = Vec::new();
    let last = loop {
        let event = slow.any(SOON).expect("the end is told");
        if event.kind == "lagged" {
            break event;
        }
        told.extend((event.kind == "put").then(|| event.data["key"].clone()));
    };
    let expected: Vec<Value> = (0..told.len()).map(|round| json!(format!("big/{round}"))).collect();
    assert!(told == expected && told.len() < 24, "what it had before came in order: {told:?}");
    assert!(last.id.is_empty() && last.data["oldest_index"].as_u64() > Some(0), "{last:?}");
    assert_eq!(slow.any(SOON), None, "and it is closed");
}

/// The resident memory of a node's process in KiB.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn a_thousand_watchers_do_not_stop_writes() {
    const WATCHERS: usize = 1000;
    const WRITES: u64 = 200;
    let cluster = Cluster::of(3);
    let leader = &cluster.nodes[cluster.agreed()];
    (0..100).for_each(|round| _ = leader.put("warm", round));
    let before = memory(leader);
    let watches: Vec<Watch> = (0..WATCHERS).map(|_| watch(leader, "prefix=w/", None)).collect();
    for watch in &watches {
        assert_eq!(watch.any(SOON).expect("it begins").kind, "progress");
    }
    let held = memory(leader).saturating_sub(before);
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let versions: Vec<String> = (0..WRITES)
        .map(|round| {
            let asked = Instant::now();
            let version = leader.put(&format!("w/{round}"), round);
            slowest = slowest.max(asked.elapsed());
            version.to_string()
        })
        .collect();
    let wrote = began.elapsed();
    for watch in &watches {
        let ids: Vec<String> = versions.iter().map(|_| watch.change(secs(60)).expect("it goes on").id).collect();
        assert_eq!(ids, versions);
    }
    println!(
        "{WATCHERS} watchers: {} KiB each; {WRITES} writes in {wrote:?}, the slowest in {slowest:?}, all told in {:?}",
        held / WATCHERS as u64,
        began.elapsed()
    );
    assert!(slowest < secs(5), "a write took {slowest:?}");
    assert!(held / (WATCHERS as u64) < 128, "a watcher takes {} KiB", held / WATCHERS as u64);
    drop(watches);
    eventually(SOON, "their places are free again", || {
        let many: Vec<_> = (0..2).map(|_| ask(&leader.http, "prefix=", None)).collect();
        check(many.iter().all(|stream| stream.as_ref().is_ok_and(|s| s.head.status == 200)), "not yet")
    });
}

fn progress_events_stop_without_a_leader_and_return_with_one() {
    let mut cluster = Cluster::of(3);
    let place = cluster.followers()[0];
    let stream = watch(&cluster.nodes[place], "prefix=", None);
    for _ in 0..2 {
        assert_eq!(stream.any(secs(6)).expect("it begins").kind, "progress");
    }
    let others: Vec<usize> = (0..3).filter(|other| *other != place).collect();
    others.iter().for_each(|&other| cluster.nodes[other].kill9());
    let alone = &cluster.nodes[place];
    eventually(ELECTION, "it knows no leader", || {
        let stats = alone.try_stats()?;
        check(stats["leader"].is_null(), stats)
    });
    while stream.waiting().is_some() {}
    throughout(secs(6), "it promises nothing alone", || match stream.waiting() {
        None => Ok(()),
        Some(event) => Err(format!("{event:?}")),
    });
    others.iter().for_each(|&other| cluster.nodes[other].start());
    assert_eq!(stream.any(SOON).expect("the same stream goes on").kind, "progress");
}

fn a_stop_and_a_removal_close_streams_at_once() {
    let mut cluster = Cluster::of(3);
    let places = cluster.followers();
    let removed = watch(&cluster.nodes[places[0]], "prefix=", None);
    let name = cluster.nodes[places[0]].name().to_owned();
    let leader = cluster.agreed();
    cluster.nodes[leader].remove(&name).expect(200, "remove");
    while removed.any(secs(10)).is_some() {}
    refused(&cluster.nodes[places[0]], "prefix=", "1").problem(410, "removed").code("removed", "removed");
    let stopped = watch(&cluster.nodes[places[1]], "prefix=", None);
    let stuck = ask(&cluster.nodes[places[1]].http, "prefix=", None).unwrap();
    let value = "x".repeat(1 << 20);
    (0..16).for_each(|round| _ = cluster.nodes[leader].put(&format!("big/{round}"), value.as_str()));
    let goal = cluster.nodes[leader].number("commit_index");
    eventually(SOON, "it has what the stuck client does not take", || {
        let stats = cluster.nodes[places[1]].try_stats()?;
        check(number(&stats, "applied_index") >= goal, stats)
    });
    let began = Instant::now();
    assert!(cluster.nodes[places[1]].sigterm().success());
    assert!(began.elapsed() < secs(3), "the stop took {:?}", began.elapsed());
    while stopped.any(secs(5)).is_some() {}
    drop(stuck);
}

fn a_rolling_restart_skips_no_event_for_a_browser() {
    let mut cluster = Cluster::of(3);
    let place = cluster.followers()[0];
    let leader = cluster.agreed();
    let stream = watch(&cluster.nodes[place], "key=k", None);
    // Long after the last progress of its own accord others are written.
    assert_eq!(stream.any(SOON).expect("it begins").kind, "progress");
    let first = cluster.nodes[leader].put("k", 1);
    assert_eq!(stream.change(SOON).expect("it is told").id, first.to_string());
    (0..50).for_each(|round| _ = cluster.nodes[leader].put("other", round));
    cluster.caught_up(ELECTION);
    assert!(cluster.nodes[place].sigterm().success());
    let mut last = None;
    while let Some(event) = stream.any(SOON) {
        assert_eq!(event.kind, "progress");
        last = Some(event.id);
    }
    let last = last.expect("the last word is how far it went");
    let missed = cluster.nodes[cluster.some_leader(ELECTION)].put("k", 2);
    cluster.nodes[place].start();
    // As `EventSource` does: on the same node, after the last id that it has had.
    let again = watch(&cluster.nodes[place], "key=k", Some(&last));
    assert_eq!(again.change(SOON).expect("what was missed").id, missed.to_string());
}

fn a_cursor_of_a_former_cluster_is_refused_at_once() {
    let cluster = Cluster::of(3);
    let newest = cluster.nodes[0].put("k", 1);
    for node in &cluster.nodes {
        let began = Instant::now();
        let gone = refused(node, "prefix=", "5000").problem(410, "another life").code("compacted", "another life");
        assert!(began.elapsed() < secs(4), "it took {:?}", began.elapsed());
        assert!(gone.json()["newest_index"].as_u64().is_some_and(|index| (newest..5000).contains(&index)), "{gone}");
        let id = node.stats()["cluster_id"].to_string();
        assert_eq!(gone.header("x-huskv-cluster"), Some(id.as_str()), "on a failure");
        assert_eq!(node.get("/health").header("x-huskv-cluster"), Some(id.as_str()), "on any answer");
        let request = Request::new("GET", "/watch?prefix=&from=5000").header("Accept", "text/event-stream");
        let told = node.request(request).expect(200, "what an EventSource reads").text();
        assert!(told.contains("event:refused\n") && told.contains("\"newest_index\":"), "{told}");
    }
}
