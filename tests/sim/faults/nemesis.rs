//! The nemesis: one fault after the other, drawn from the seed.
//!
//! | of 16 | fault |
//! |---|---|
//! | 1 | a node is down for up to 8 s |
//! | 4 | a node crashes between two of its next 40 effects |
//! | 1 | all nodes are down for up to 2 s |
//! | 2 | a node is paused |
//! | 2 | a node is cut off, one way or both |
//! | 2 | all links are whole again |
//! | 1 | a disk fails within its next 40 writes |
//! | 1 | a node moves to another address |
//! | 1 | the second operator acts |
//! | 1 | a node loses its disk |

use huskv::consensus::Input;
use huskv::model::{PeerTable, State};

use crate::checks;
use crate::checks::turn::Progress;
use crate::faults::impostor;
use crate::workload::operators;
use crate::world::disk::{Fault, SimEngine};
use crate::world::{Event, World};

/// The time within which a node that is told to stop ends, as a real one does.
const STOP_LIMIT: u64 = 3000;

/// Injects one fault, or ends one.
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
            // Not at once: the crash comes between two effects of a later turn, which is where recovery is hard.
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
        // Without `follow_moves` an operator must record the address, so the cluster must be whole enough for that.
        13 if world.follow_moves || operators::settled(world) => {
            // How its peers find it at the new address is for the node itself to bring about.
            world.nodes[at].port += 1;
            world.trace(|| format!("n{at} moves"));
            crash_for(world, at, 3000);
        }
        14 => operators::interfere(world, at),
        // A lost disk is a lost vote, and a second one beside it would be a lost majority.
        15 if operators::settled(world) => wipe(world, at),
        _ => stop(world, at),
    }
}

/// Tells a node to stop, as a signal does: it transfers the leadership, answers waiting clients, and syncs everything.
pub fn stop(world: &mut World, at: usize) {
    if world.nodes[at].driver.is_some() {
        world.trace(|| format!("n{at} is told to stop"));
        let deadline = world.now + world.nodes[at].clock_offset + STOP_LIMIT;
        world.input(at, Input::Stop { deadline });
    }
}

/// Pauses a node.
pub fn pause(world: &mut World, at: usize, span: u64) {
    let until = world.now + span;
    world.trace(|| format!("n{at} is paused until {until}"));
    world.nodes[at].paused_until = until;
}

/// Lets the second operator act soon after a leader has proposed a membership change.
pub fn on_membership_proposal(world: &mut World) {
    if world.faults && world.rng.chance(20) {
        let (at, soon) = (world.rng.below(world.size as u64), 1 + world.rng.below(30));
        world.after(soon, Event::Interfere(usize::try_from(at).expect("small")));
    }
}

/// Slows a node down when a membership change is requested, so that the change is amid much that it has yet to apply.
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

/// Cuts a follower that has much to apply off until its leader has compacted the log beyond the follower's.
///
/// Then a snapshot arrives at a node that knows entries to be committed which it has not applied.
pub fn fall_behind(world: &mut World, at: usize) {
    let Some(status) = checks::status(world, at).filter(|status| status.state == State::Follower) else { return };
    if !world.faults || status.applied_index + 3 > status.commit_index {
        return;
    }
    let (applied, commit) = (status.applied_index, status.commit_index);
    world.trace(|| format!("n{at} has applied {applied} of {commit} and is cut off"));
    for other in (0..world.size).filter(|other| *other != at) {
        world.cut_links.insert((other, at));
    }
    let until = 800 + world.rng.below(1500);
    world.after(until, Event::HealLinks);
}

/// Crashes a node, and starts it again after up to `at_most` ms.
pub fn crash_for(world: &mut World, at: usize, at_most: u64) {
    if world.nodes[at].driver.is_some() {
        world.crash(at);
        let down = 100 + world.rng.below(at_most);
        world.after(down, Event::Restart(at));
    }
}

/// Makes all links whole.
pub fn heal_links(world: &mut World) {
    world.trace(|| "all links are whole".into());
    world.cut_links.clear();
}

/// Cuts links of a node to most of the others: outwards, inwards, or both.
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
    // Often so short that the leader's log still reaches back to where the node was.
    if world.rng.chance(60) {
        let short = 800 + world.rng.below(3000);
        world.after(short, Event::HealLinks);
    }
    world.trace(|| format!("n{at} is cut off, outwards {}, inwards {back}", out || !back));
}

/// Takes a node's disk away; it comes back with an empty one, in 30 of 100 cases at another address.
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

/// Forgets what a lost disk held, and with it all that bound the node.
pub fn lose_disk(world: &mut World, at: usize) {
    world.operators.wiped = Some(at);
    world.operators.complete = false;
    let node = &mut world.nodes[at];
    (node.driver, node.peers, node.stale_disk) = (None, None, None);
    (node.finished_spooler, node.progress, node.durable) = (None, Progress::default(), (0, 0));
    (node.previous, node.member_as, node.own_write) = (None, None, None);
}
