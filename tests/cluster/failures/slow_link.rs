//! One slow link of three: a large value crosses it, however long that takes.

use std::time::Instant;

use super::link_loss::linked;
use crate::harness::{Cluster, Request, Setup, check, eventually, number, secs};
use crate::tcp_proxy::State;

crate::harness::cases![a_large_value_crosses_a_slow_link];

const VALUE: usize = 5 << 20;

/// How long a peer may say nothing.
const SILENCE: u64 = 10;

/// How often the nodes at `places` have lost their connection to another one.
fn lost(cluster: &Cluster, places: [usize; 2], other: usize) -> usize {
    let line = format!("peer lost, peer: {},", cluster.nodes[other].name());
    let count = |place: usize| cluster.nodes[place].log().lines().filter(|logged| logged.contains(&line)).count();
    places.into_iter().map(count).sum()
}

fn a_large_value_crosses_a_slow_link() {
    let large =
        |setup: Setup| setup.set("HUSKV_LIMITS_VALUE_BYTES", VALUE).set("HUSKV_LIMITS_BODY_BYTES", VALUE + (1 << 20));
    let (cluster, links, [leader, slow, third]) = linked(large);
    cluster.nodes[slow].put("small", "over the open link");
    cluster.caught_up(secs(20));
    let before = lost(&cluster, [leader, third], slow);
    // At most 64 KiB each time: 436 KB/s, whichever node leads.
    for from in [leader, third] {
        links.set(from, slow, State::Slow(150));
    }
    let begun = Instant::now();
    let put = Request::new("PUT", "/store/large?timeout=60s").body(vec![b'x'; VALUE]);
    cluster.nodes[third].request(put.within(secs(70))).expect(200, "a large value");
    let goal = cluster.nodes[third].number("commit_index");
    eventually(secs(120), "the node behind the slow link has applied it", || {
        let stats = cluster.nodes[slow].try_stats()?;
        check(number(&stats, "applied_index") >= goal, stats)
    });
    assert!(begun.elapsed() > secs(SILENCE), "it took {:?}", begun.elapsed());
    assert_eq!(lost(&cluster, [leader, third], slow), before, "{}", cluster.nodes[leader].log());
    let read = cluster.nodes[slow].get("/store/large?consistency=stale&raw").expect(200, "the value");
    assert_eq!(read.body.len(), VALUE);
}
