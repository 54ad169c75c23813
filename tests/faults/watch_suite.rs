//! Watch suite: watches while minorities are killed; no event may be lost or delivered twice.
//!
//! A cluster of three or five nodes, writers on all nodes, watchers of each method, and for the given time `kill -9` of a
//! minority, which is started again. At the end `event_log` compares every acknowledged change with the events of each
//! watcher.
//!
//! Invariants: a majority with its history is alive at any time. Nodes have a short history and get snapshots often, so
//! some watchers get `compacted` and have to list.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::event_log::{self, Observed};
use crate::harness::{Cluster, check, eventually, free_port, millis, secs};
use crate::rng::Rng;
use crate::watchers::{WatchMethod, Watcher};
use crate::world::{HEALING, RunLog};
use crate::writers::Writers;

crate::harness::cases![no_event_is_lost_or_delivered_twice_while_minorities_are_killed];

/// How long the run takes that every change runs.
const SHORT: Duration = secs(12);

/// The timeout for the last event to reach every watcher: pauses of slow watchers, idle timeouts, a busy machine.
const LAST: Duration = secs(180);

/// How many writers there are.
const WRITERS: usize = 3;

/// Who watches.
const WATCHERS: [WatchMethod; 6] = [
    WatchMethod::Steady,
    WatchMethod::Steady,
    WatchMethod::Restless,
    WatchMethod::Restless,
    WatchMethod::Sleepy,
    WatchMethod::Program,
];

/// How many violations are printed in full.
const MAX_PRINTED: usize = 20;

/// One run; what it comes to, in a line.
pub fn run(seed: u64, span: Duration, run_log: &RunLog) -> String {
    let mut rng = Rng::new(seed);
    let count = if rng.chance(70) { 3 } else { 5 };
    let mut cluster = Cluster::with(count, |setup| {
        // Below the range of the system, so that a port is free when its node comes back.
        setup
            .set("SERVER_PORT", free_port())
            .set("RAFT_PORT", free_port())
            .set("HUSKV_SNAPSHOT_EVERY_ENTRIES", 400)
            .set("HUSKV_SNAPSHOT_KEEP_ENTRIES", 100)
            .set("HUSKV_LIMITS_WATCH_EVENTS", 2_000)
    });
    run_log.log(format!("seed {seed}: {count} nodes"));
    let (addresses, begin) = (cluster.addresses(), cluster.nodes[0].put("begin", 1));
    let end = Instant::now() + span;
    let followers = WATCHERS.map(|manner| {
        let watcher = Watcher::new(manner, &addresses, begin, rng.fork(), end + LAST);
        (manner, std::thread::spawn(move || watcher.run()))
    });
    let writers = Writers::start(&addresses, WRITERS, &mut rng);
    let kills = kill(&mut cluster, &writers, &mut rng, end, run_log);
    cluster.caught_up(HEALING);
    eventually(HEALING, "all agree on a leader", || cluster.leader_now());
    let attempts = writers.finish();
    run_log.log("the last key is written");
    let watched: Vec<(WatchMethod, Watcher)> = followers
        .into_iter()
        .map(|(manner, thread)| (manner, thread.join().unwrap_or_else(|_| panic!("a watcher, {manner:?}, has failed"))))
        .collect();
    let sum = |of: fn(&Watcher) -> u64| watched.iter().map(|(_, watcher)| of(watcher)).sum::<u64>();
    let counts = format!(
        "{} connections, {} times 410, {} lagged, {} silences, {} lists",
        sum(|watcher| watcher.connections),
        sum(|watcher| watcher.compacted),
        sum(|watcher| watcher.lagged),
        sum(|watcher| watcher.silences),
        sum(|watcher| watcher.lists)
    );
    assert!(sum(|watcher| watcher.connections) > WATCHERS.len() as u64, "no node with a watcher was killed");
    let observed: Vec<(String, Vec<Observed>)> = watched
        .into_iter()
        .enumerate()
        .map(|(number, (manner, watcher))| (format!("watcher {number}, {manner:?}"), watcher.observed))
        .collect();
    let report = event_log::check(begin, &attempts, &observed);
    let line = format!(
        "watching, seed {seed}: {kills} kills of a minority of {count}; {} changes acknowledged, {} events delivered to {} watchers, \
         {} lost, {} doubled; {counts} that stood for {} events",
        report.acknowledged,
        report.observed,
        observed.len(),
        report.lost,
        report.doubled,
        report.listed
    );
    run_log.log(&line);
    let some = report.wrong.iter().take(MAX_PRINTED).cloned().collect::<Vec<_>>().join("\n");
    assert!(report.wrong.is_empty(), "{line}\n{} things are wrong:\n{some}", report.wrong.len());
    line
}

/// kill -9 of a minority at a time, until it is time; how often.
fn kill(cluster: &mut Cluster, writers: &Writers, rng: &mut Rng, end: Instant, run_log: &RunLog) -> u64 {
    let count = cluster.nodes.len();
    let (mut kills, mut minute) = (0, Instant::now());
    while Instant::now() < end {
        let before = writers.shared.count().0;
        sleep(millis(200 + rng.below(2_000)));
        let leader = cluster.leader_now().ok().filter(|_| rng.chance(40));
        let first = leader.unwrap_or_else(|| usize::try_from(rng.below(count as u64)).expect("small"));
        let many = 1 + usize::try_from(rng.below(count as u64 / 2)).expect("small");
        let victims: Vec<usize> = (0..many).map(|step| (first + step) % count).collect();
        run_log.log(format!("kill -9 of {victims:?}, leader {leader:?}"));
        victims.iter().for_each(|&victim| cluster.nodes[victim].kill9());
        kills += victims.len() as u64;
        sleep(millis(rng.below(4_000)));
        victims.iter().for_each(|&victim| cluster.nodes[victim].spawn());
        victims.iter().for_each(|&victim| cluster.nodes[victim].await_up());
        eventually(HEALING, "writes go on", || {
            let (now, _) = writers.shared.count();
            check(now > before, format!("{now} changes"))
        });
        if minute.elapsed() > secs(60) {
            minute = Instant::now();
            println!("{kills} kills, {} changes acknowledged", writers.shared.count().0);
        }
    }
    kills
}

fn no_event_is_lost_or_delivered_twice_while_minorities_are_killed() {
    let run_log = RunLog::new();
    println!("{}", run(1, SHORT, &run_log));
}
