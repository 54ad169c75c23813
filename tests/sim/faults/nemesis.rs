//! What goes wrong, drawn from the seed.

use huskv::consensus::Input;
use huskv::model::{PeerTable, State};

use crate::checks;
use crate::checks::turn::Progress;
use crate::faults::impostor;
use crate::workload::operators;
use crate::world::disk::{Fault, SimEngine};
use crate::world::{Event, World};

/// How long a node that is told to stop may take, as the real one does.
const STOP_LIMIT: u64 = 3000;

/// One fault, or the end of one.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let wait = 200 + world.rng.below(2200);
    world.after(wait, Event::Nemesis);
    if world.rng.chance(30) {
        impostor::act(world);
    }
    let count = world.size;
    let at = usize::try_from(world.rng.below(count as u64)).expect("small");
    match world.rng.below(16) {
        0 if world.nodes[at].driver.is_some() => crash_for(world, at, 8000),
        1..=4 => {
            let effects = world.rng.below(40);
            world.trace(|| format!("n{at} will crash after {effects} effects"));
            world.nodes[at].engine.set_fault(Fault::CrashAfter(effects));
        }
        5 => (0..count).for_each(|at| crash_for(world, at, 2000)),
        6 | 7 => {
            let span = 200 + world.rng.below(4000);
            pause(world, at, span);
        }
        8 | 9 => cut_off(world, at),
        10 | 11 => heal_links(world),
        12 => {
            let effects = world.rng.below(40);
            let full = world.rng.below(4000);
            world.trace(|| format!("the disk of n{at} fails after {effects} writes, for {full} ms"));
            world.nodes[at].engine.set_fault(Fault::FailAfter(effects));
            world.nodes[at].disk_fails_until = world.now + full;
        }
        13 if world.follow_moves || operators::settled(world) => {
            // Where the members find it is found out when it is back.
            world.nodes[at].port += 1;
            world.trace(|| format!("n{at} moves"));
            crash_for(world, at, 3000);
        }
        14 => operators::interfere(world, at),
        15 if operators::settled(world) => wipe(world, at),
        _ => stop(world, at),
    }
}

/// A node is told to stop, as a signal does it: it hands over, answers whoever waits, and makes everything durable.
pub fn stop(world: &mut World, at: usize) {
    if world.nodes[at].driver.is_some() {
        world.trace(|| format!("n{at} is told to stop"));
        let deadline = world.now + world.nodes[at].clock_offset + STOP_LIMIT;
        world.input(at, Input::Stop { deadline });
    }
}

/// A node does nothing for a while.
pub fn pause(world: &mut World, at: usize, span: u64) {
    let until = world.now + span;
    world.trace(|| format!("n{at} is paused until {until}"));
    world.nodes[at].paused_until = until;
}

/// A leader has proposed a change of the membership: now another operator asks for something.
pub fn on_membership_proposal(world: &mut World) {
    if world.faults && world.rng.chance(20) {
        let (at, soon) = (world.rng.below(world.size as u64), 1 + world.rng.below(30));
        world.after(soon, Event::Interfere(usize::try_from(at).expect("small")));
    }
}

/// Somebody asks for a change of the membership: a node falls behind now and will find it in the middle of what it has to
/// apply.
pub fn on_membership_request(world: &mut World) {
    if !world.faults || !world.slow || world.rng.chance(40) {
        return;
    }
    let at = usize::try_from(world.rng.below(world.size as u64)).expect("small");
    if world.nodes[at].driver.is_some() {
        let (span, soon) = (300 + world.rng.below(2000), 100 + world.rng.below(400));
        pause(world, at, span);
        world.nodes[at].turn_ms = 100 + world.rng.below(300);
        world.after(span + soon, Event::FallBehind(at));
    }
}

/// A follower that has much to apply hears nobody until its leader has compacted its log beyond the follower's: then a copy of
/// the state meets what is committed and not applied.
pub fn fall_behind(world: &mut World, at: usize) {
    let Some(status) = checks::status(world, at).filter(|status| status.state == State::Follower) else { return };
    if !world.faults || status.applied_index + 3 > status.commit_index {
        return;
    }
    let (applied, commit) = (status.applied_index, status.commit_index);
    world.trace(|| format!("n{at} has applied {applied} of {commit} and hears nobody"));
    for other in (0..world.size).filter(|other| *other != at) {
        world.cut_links.insert((other, at));
    }
    let until = 800 + world.rng.below(1500);
    world.after(until, Event::HealLinks);
}

/// A node goes down for a while.
pub fn crash_for(world: &mut World, at: usize, at_most: u64) {
    if world.nodes[at].driver.is_some() {
        world.crash(at);
        let down = 100 + world.rng.below(at_most);
        world.after(down, Event::Restart(at));
    }
}

/// All links are whole.
pub fn heal_links(world: &mut World) {
    world.trace(|| "all links are whole".into());
    world.cut_links.clear();
}

/// A node hears nobody, is not heard, or both, to some of the others.
fn cut_off(world: &mut World, at: usize) {
    let (out, back) = (world.rng.chance(70), world.rng.chance(70));
    for other in 0..world.size {
        if other != at && world.rng.chance(85) {
            if out || !back {
                world.cut_links.insert((at, other));
            }
            if back {
                world.cut_links.insert((other, at));
            }
        }
    }
    // Often so short that the log still reaches whoever was away.
    if world.rng.chance(60) {
        let short = 800 + world.rng.below(3000);
        world.after(short, Event::HealLinks);
    }
    world.trace(|| format!("n{at} is cut off, outwards {}, inwards {back}", out || !back));
}

/// A node loses its disk, and may come back elsewhere.
pub fn wipe(world: &mut World, at: usize) {
    world.trace(|| format!("n{at} loses its disk"));
    lose_disk(world, at);
    let moves = world.rng.chance(30);
    let node = &mut world.nodes[at];
    node.engine = SimEngine::default();
    node.table = PeerTable::default();
    node.port += u64::from(moves);
    let down = 100 + world.rng.below(2000);
    world.after(down, Event::Restart(at));
}

/// What a node's disk held is gone, and with it what it had promised.
pub fn lose_disk(world: &mut World, at: usize) {
    world.operators.wiped = Some(at);
    world.operators.complete = false;
    let node = &mut world.nodes[at];
    (node.driver, node.peers, node.stale_disk) = (None, None, None);
    (node.finished_spooler, node.progress, node.durable) = (None, Progress::default(), (0, 0));
    (node.previous, node.member_as, node.own_write) = (None, None, None);
}
