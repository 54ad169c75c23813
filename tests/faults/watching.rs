//! Watching while a minority is killed: nothing may be lost, and nothing told twice.
//!
//! Why: a watch is worth what it keeps over the death of the node that tells it.
//!
//! How: a cluster of three or five, writers on all nodes, watchers of each manner, and for as long as it is told `kill -9`
//! of a minority at a time, which is started again. At the end every acknowledged change is held against every event that
//! each watcher was told.
//!
//! Laws: a majority lives at any time, as does what it remembers. Nodes remember little and are copied to often, so some
//! watchers are told `compacted`, and have to list.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, check, eventually, free_port, millis, secs};
use crate::ledger::{self, Told};
use crate::rng::Rng;
use crate::watchers::{Manner, Watcher};
use crate::world::{HEALING, Story};
use crate::writers::Writers;

crate::harness::cases![nothing_is_lost_or_told_twice_while_a_minority_is_killed];

/// How long the run takes that every change runs.
const SHORT: Duration = secs(12);

/// How long the last event may take to come to everybody: a sleeper's sleep, silences, and a busy machine.
const LAST: Duration = secs(180);

/// How many writers there are.
const WRITERS: usize = 3;

/// Who watches.
const WATCHERS: [Manner; 6] =
    [Manner::Steady, Manner::Steady, Manner::Restless, Manner::Restless, Manner::Sleepy, Manner::Program];

/// How many of the wrong things are told in words.
const TOLD: usize = 20;

/// One run; what it comes to, in a line.
pub fn run(seed: u64, span: Duration, story: &Story) -> String {
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
    story.say(format!("seed {seed}: {count} nodes"));
    let (addresses, begin) = (cluster.addresses(), cluster.nodes[0].put("begin", 1));
    let end = Instant::now() + span;
    let followers = WATCHERS.map(|manner| {
        let watcher = Watcher::new(manner, &addresses, begin, rng.fork(), end + LAST);
        (manner, std::thread::spawn(move || watcher.run()))
    });
    let writers = Writers::start(&addresses, WRITERS, &mut rng);
    let kills = kill(&mut cluster, &writers, &mut rng, end, story);
    cluster.caught_up(HEALING);
    eventually(HEALING, "all agree on a leader", || cluster.leader_now());
    let asked = writers.finish();
    story.say("the last key is written");
    let watched: Vec<(Manner, Watcher)> = followers
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
    assert!(sum(|watcher| watcher.connections) > WATCHERS.len() as u64, "no node died that anybody watched");
    let told: Vec<(String, Vec<Told>)> = watched
        .into_iter()
        .enumerate()
        .map(|(number, (manner, watcher))| (format!("watcher {number}, {manner:?}"), watcher.told))
        .collect();
    let verdict = ledger::judge(begin, &asked, &told);
    let line = format!(
        "watching, seed {seed}: {kills} kills of a minority of {count}; {} changes acknowledged, {} events told to {} watchers, \
         {} lost, {} doubled; {counts} that stood for {} events",
        verdict.acknowledged,
        verdict.told,
        told.len(),
        verdict.lost,
        verdict.doubled,
        verdict.listed
    );
    story.say(&line);
    let some = verdict.wrong.iter().take(TOLD).cloned().collect::<Vec<_>>().join("\n");
    assert!(verdict.wrong.is_empty(), "{line}\n{} things are wrong:\n{some}", verdict.wrong.len());
    line
}

/// kill -9 of a minority at a time, until it is time; how often.
fn kill(cluster: &mut Cluster, writers: &Writers, rng: &mut Rng, end: Instant, story: &Story) -> u64 {
    let count = cluster.nodes.len();
    let (mut kills, mut minute) = (0, Instant::now());
    while Instant::now() < end {
        let before = writers.shared.count().0;
        sleep(millis(200 + rng.below(2_000)));
        let leader = cluster.leader_now().ok().filter(|_| rng.chance(40));
        let first = leader.unwrap_or_else(|| usize::try_from(rng.below(count as u64)).expect("small"));
        let many = 1 + usize::try_from(rng.below(count as u64 / 2)).expect("small");
        let victims: Vec<usize> = (0..many).map(|step| (first + step) % count).collect();
        story.say(format!("kill -9 of {victims:?}, leader {leader:?}"));
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

fn nothing_is_lost_or_told_twice_while_a_minority_is_killed() {
    let story = Story::new();
    println!("{}", run(1, SHORT, &story));
}
