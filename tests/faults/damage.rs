//! Faults of data directories: wiped, damaged, swapped, copied, or used by two processes.
//!
//! Invariants: before a disk loses synced data, every other node has every acknowledged write, and no other fault comes
//! until the victim has healed. A directory of another node is refused and not modified.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Node, Request, check, copy, eventually, number, secs, walk};
use crate::nemesis::pause;
use crate::world::{HEALING, World};

/// One node loses some or all of its disk.
pub fn lone(world: &mut World) {
    let leader = world.heal();
    let victim =
        (leader + 1 + usize::try_from(world.rng.below(world.count() as u64 - 1)).expect("small")) % world.count();
    let name = world.names(&[victim]);
    world.cluster.nodes[victim].kill9();
    // What was acknowledged so far may rest on the victim's disk and one other: the rest catches up first.
    if let Err(why) = others_have_everything(world, victim) {
        world.run_log.log(format!("{name} was killed and keeps its disk: {why}"));
        return world.start(victim);
    }
    if world.rng.chance(35) {
        world.run_log.log(format!("{name} loses its directory"));
        world.cluster.nodes[victim].wipe();
        world.start(victim);
    } else {
        let what = spoil(world, victim);
        world.run_log.log(format!("{name}: {what}"));
        world.cluster.nodes[victim].spawn();
        if !comes_back(world, victim) {
            let log = world.gave_up(victim);
            assert!(log.contains("/raft/join"), "{name}: no word on how to rejoin: {log}");
            world.cluster.nodes[victim].wipe();
            world.start(victim);
        }
    }
    world.heal();
}

/// Waits until every other node has applied what the leader has committed now.
fn others_have_everything(world: &World, victim: usize) -> Result<(), String> {
    let begun = std::time::Instant::now();
    let mut goal = None;
    loop {
        let seen = (|| {
            let leader = world.leader().ok_or("there is no leader")?;
            let goal = match goal {
                Some(goal) => goal,
                None => *goal.insert(number(&world.cluster.nodes[leader].try_stats()?, "commit_index")),
            };
            for node in world.cluster.nodes.iter().enumerate().filter(|(at, _)| *at != victim).map(|(_, node)| node) {
                let applied = number(&node.try_stats()?, "applied_index");
                check(applied >= goal, format!("{} has applied {applied} of {goal}", node.name()))?;
            }
            Ok(())
        })();
        if seen.is_ok() || begun.elapsed() > secs(20) {
            return seen;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Cuts a file short or flips some of its bits; what was done.
fn spoil(world: &mut World, victim: usize) -> String {
    let directory = world.cluster.nodes[victim].directory().to_owned();
    let damageable = |path: &PathBuf| {
        let text = path.strip_prefix(&directory).map(|below| below.to_string_lossy().into_owned()).unwrap_or_default();
        let known = text.contains("journal") || text.contains("machine") || text == "identity";
        known && fs::metadata(path).is_ok_and(|meta| meta.len() > 0)
    };
    let files: Vec<PathBuf> = walk(&directory).into_iter().filter(damageable).collect();
    let path = world.rng.pick(&files).clone();
    let mut bytes = fs::read(&path).expect("reading a file of a stopped node");
    // Space that is only reserved is zero, and of no use.
    let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1) as u64;
    let what = if world.rng.chance(50) {
        let lost = 1 + world.rng.below(used.clamp(1, 4_000));
        bytes.truncate(usize::try_from(used.saturating_sub(lost)).expect("a size"));
        format!("the last {lost} of {used} bytes are torn off")
    } else {
        let mut places = Vec::new();
        for _ in 0..1 + world.rng.below(3) {
            let place = world.rng.below(used);
            bytes[usize::try_from(place).expect("a place")] ^= 1 << world.rng.below(8);
            places.push(place.to_string());
        }
        format!("a bit is flipped at {} of {used}", places.join(", "))
    };
    fs::write(&path, bytes).expect("writing a file of a stopped node");
    let below = path.strip_prefix(&directory).expect("below the directory");
    format!("{what} in {}", below.display())
}

/// Whether a node on a damaged directory has caught up with the others; false where it ended.
fn comes_back(world: &mut World, victim: usize) -> bool {
    let leader = world.leader();
    let goal =
        leader.and_then(|at| world.cluster.nodes[at].try_stats().ok()).map(|stats| number(&stats, "commit_index"));
    let node = &mut world.cluster.nodes[victim];
    let name = node.name().to_owned();
    eventually(HEALING, format!("{name} on a damaged directory ends or catches up"), || {
        if node.exited().is_some() {
            return Ok(false);
        }
        let stats = node.try_stats()?;
        let applied = number(&stats, "applied_index");
        check(Some(applied) >= goal && stats["leader"].is_object(), format!("it has applied {applied} of {goal:?}"))?;
        Ok(true)
    })
}

/// An operator starts a node on a directory that is not its own; it must exit with a message and change nothing.
pub fn mistake(world: &mut World) {
    let (one, other) = (world.any(), world.any());
    if one == other || (world.small.is_some() && (one == 0 || other == 0)) {
        return;
    }
    match world.rng.below(3) {
        0 => twice(world, one),
        1 => swapped(world, one, other),
        _ => copied(world, one, other),
    }
}

/// A second process on the directory of a running node.
fn twice(world: &mut World, one: usize) {
    let name = world.names(&[one]);
    world.run_log.log(format!("a second process on the directory of {name}"));
    let node = &world.cluster.nodes[one];
    let setup = node.setup().set("SERVER_PORT", 0).set("RAFT_PORT", 0).unset("HUSKV_JOIN").directory(node.directory());
    let mut second = setup.spawn();
    let status = second.await_exit(secs(20));
    assert!(status.code().is_some_and(|code| code != 0), "{name}, second process: {status}: {}", second.log());
    let health = node.request(Request::new("GET", "/health").within(secs(10)));
    assert_eq!(health.status, 200, "{name}, first process");
}

/// Two nodes are started on each other's directories.
fn swapped(world: &mut World, one: usize, other: usize) {
    world.run_log.log(format!("{} are started on each other's directory", world.names(&[one, other])));
    for place in [one, other] {
        world.cluster.nodes[place].kill9();
    }
    let (first, second) = directories(world, one, other);
    exchange(&first, &second);
    for place in [one, other] {
        world.cluster.nodes[place].spawn();
        world.gave_up(place);
    }
    exchange(&first, &second);
    pause(world, 0, 500);
    [one, other].into_iter().for_each(|place| world.cluster.nodes[place].spawn());
    [one, other].into_iter().for_each(|place| world.cluster.nodes[place].await_up());
}

/// A node is started on a copy of another's directory.
fn copied(world: &mut World, one: usize, other: usize) {
    world.run_log.log(format!("{} is started on a copy of {}", world.names(&[one]), world.names(&[other])));
    for place in [one, other] {
        world.cluster.nodes[place].kill9();
    }
    let (mine, theirs) = directories(world, one, other);
    let away = mine.with_extension("away");
    fs::rename(&mine, &away).expect("moving a directory");
    copy(&theirs, &mine);
    world.cluster.nodes[other].spawn();
    world.cluster.nodes[one].spawn();
    world.gave_up(one);
    fs::remove_dir_all(&mine).expect("removing the copy");
    fs::rename(&away, &mine).expect("moving a directory back");
    world.cluster.nodes[one].spawn();
    [one, other].into_iter().for_each(|place| world.cluster.nodes[place].await_up());
}

fn directories(world: &World, one: usize, other: usize) -> (PathBuf, PathBuf) {
    let of = |place: usize| -> PathBuf { Node::directory(&world.cluster.nodes[place]).to_owned() };
    (of(one), of(other))
}

/// Two directories change places; they may lie on different disks, so contents are not moved across.
fn exchange(one: &Path, other: &Path) {
    let aside = one.with_extension("aside");
    fs::rename(one, &aside).expect("moving a directory");
    fs::rename(other, one).expect("moving a directory");
    fs::rename(aside, other).expect("moving a directory");
}
