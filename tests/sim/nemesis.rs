//! What goes wrong, drawn from the seed.

use huskv::consensus::Input;
use huskv::model::{MemberStatus, PeerTable, State};
use raft::eraftpb::{Message, MessageType};

use crate::admin;
use crate::checks::{self, Seen};
use crate::engine::{Fate, SimEngine};
use crate::strangers;
use crate::world::{Event, World};

/// How long a node that is told to stop may take, as the real one does.
const STOP_LIMIT: u64 = 3000;

/// One fault, or the end of one.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 200 + world.rng.below(2200);
    world.after(pause, Event::Nemesis);
    if world.rng.chance(30) {
        strangers::act(world);
    }
    let count = world.size;
    let at = usize::try_from(world.rng.below(count as u64)).expect("small");
    match world.rng.below(16) {
        0 if world.nodes[at].driver.is_some() => down(world, at, 8000),
        1..=4 => {
            let effects = world.rng.below(40);
            world.say(|| format!("n{at} will crash after {effects} effects"));
            world.nodes[at].engine.set_fate(Fate::Crash(effects));
        }
        5 => (0..count).for_each(|at| down(world, at, 2000)),
        6 | 7 => {
            let span = 200 + world.rng.below(4000);
            sleep(world, at, span);
        }
        8 | 9 => cut_off(world, at),
        10 | 11 => mend(world),
        12 => {
            let effects = world.rng.below(40);
            let full = world.rng.below(4000);
            world.say(|| format!("the disk of n{at} fails after {effects} writes, for {full} ms"));
            world.nodes[at].engine.set_fate(Fate::Fail(effects));
            world.nodes[at].full_until = world.now + full;
        }
        13 if world.follow_moves || admin::settled(world) => {
            // Where the members find it is found out when it is back.
            world.nodes[at].place += 1;
            world.say(|| format!("n{at} moves"));
            down(world, at, 3000);
        }
        14 => admin::meddle(world, at),
        15 if admin::settled(world) => wipe(world, at),
        _ => stop(world, at),
    }
}

/// A node is told to stop, as a signal does it: it hands over, answers whoever waits, and makes everything durable.
pub fn stop(world: &mut World, at: usize) {
    if world.nodes[at].driver.is_some() {
        world.say(|| format!("n{at} is told to stop"));
        let deadline = world.now + world.nodes[at].ahead + STOP_LIMIT;
        world.input(at, Input::Stop { deadline });
    }
}

/// A node does nothing for a while.
pub fn sleep(world: &mut World, at: usize, span: u64) {
    let until = world.now + span;
    world.say(|| format!("n{at} is paused until {until}"));
    world.nodes[at].paused_until = until;
    if world.slow {
        let soon = world.rng.below(400);
        world.after(span + soon, Event::AskCopy(at));
    }
}

/// A follower asks for a copy of the state, as raft allows it to. It arrives while much of what the follower knows to be
/// committed is not applied yet.
pub fn ask_copy(world: &mut World, at: usize) {
    let Some(status) = checks::status(world, at).filter(|status| status.state == State::Follower) else { return };
    let Some(leader) = status.leader.and_then(|leader| {
        let id = |member: &MemberStatus| (member.node_id == leader.node_id).then_some(member.raft_id);
        status.members.iter().find_map(id)
    }) else {
        return;
    };
    world.say(|| format!("n{at} asks for a copy"));
    let message = Message {
        msg_type: MessageType::MsgAppendResponse,
        from: status.raft_id,
        to: leader,
        term: status.term,
        index: status.last_log_index,
        log_term: status.last_log_term,
        reject: true,
        reject_hint: status.last_log_index,
        request_snapshot: status.commit_index,
        ..Message::default()
    };
    let cluster = world.cluster;
    let Some(to) = world.incarnation(leader, cluster).filter(|to| world.met(at, *to)) else { return };
    let life = world.nodes[to].table.lives.current;
    world.after(2, Event::ToIncarnation { to: leader, cluster, message: Box::new(message), life });
}

/// A node goes down for a while.
pub fn down(world: &mut World, at: usize, at_most: u64) {
    if world.nodes[at].driver.is_some() {
        world.crash(at);
        let down = 100 + world.rng.below(at_most);
        world.after(down, Event::Restart(at));
    }
}

/// All links are whole.
pub fn mend(world: &mut World) {
    world.say(|| "all links are whole".into());
    world.cut.clear();
}

/// A node hears nobody, is not heard, or both, to some of the others.
fn cut_off(world: &mut World, at: usize) {
    let (out, back) = (world.rng.chance(70), world.rng.chance(70));
    for other in 0..world.size {
        if other != at && world.rng.chance(85) {
            if out || !back {
                world.cut.insert((at, other));
            }
            if back {
                world.cut.insert((other, at));
            }
        }
    }
    // Often so short that the log still reaches whoever was away.
    if world.rng.chance(60) {
        let short = 800 + world.rng.below(3000);
        world.after(short, Event::Mend);
    }
    world.say(|| format!("n{at} is cut off, outwards {}, inwards {back}", out || !back));
}

/// A node loses its disk, and may come back elsewhere.
pub fn wipe(world: &mut World, at: usize) {
    world.say(|| format!("n{at} loses its disk"));
    lose(world, at);
    let moves = world.rng.chance(30);
    let node = &mut world.nodes[at];
    node.engine = SimEngine::default();
    node.table = PeerTable::default();
    node.place += u64::from(moves);
    let down = 100 + world.rng.below(2000);
    world.after(down, Event::Restart(at));
}

/// What a node's disk held is gone, and with it what it had promised.
pub fn lose(world: &mut World, at: usize) {
    world.admin.wiped = Some(at);
    world.admin.complete = false;
    let node = &mut world.nodes[at];
    (node.driver, node.peers, node.barred) = (None, None, None);
    (node.scanned, node.seen, node.durable) = (None, Seen::default(), (0, 0));
    (node.kept, node.member, node.own) = (None, None, None);
}
