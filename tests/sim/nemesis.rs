//! What goes wrong, drawn from the seed.

use huskv::model::Request;

use crate::engine::SimEngine;
use crate::world::{Event, World};

/// One fault, or the end of one.
pub fn act(world: &mut World) {
    if !world.faults {
        return;
    }
    let pause = 200 + world.rng.below(2500);
    world.after(pause, Event::Nemesis);
    let count = world.nodes.len();
    let at = usize::try_from(world.rng.below(count as u64)).expect("small");
    match world.rng.below(13) {
        0 | 1 if world.nodes[at].driver.is_some() => {
            world.crash(at);
            let down = 100 + world.rng.below(8000);
            world.after(down, Event::Restart(at));
        }
        2..=4 => {
            let effects = world.rng.below(12);
            world.say(|| format!("n{at} will crash after {effects} effects"));
            world.nodes[at].engine.light_fuse(effects);
        }
        5 => crash_all(world),
        6 => {
            let until = world.now + 200 + world.rng.below(4000);
            world.say(|| format!("n{at} is paused until {until}"));
            world.nodes[at].paused_until = until;
        }
        7 | 8 => {
            for other in 0..count {
                let both = world.rng.chance(70);
                if other != at {
                    world.cut.insert((at, other));
                    if both {
                        world.cut.insert((other, at));
                    }
                }
            }
            world.say(|| format!("n{at} is cut off"));
        }
        9 | 10 => {
            world.say(|| "all links are whole".into());
            world.cut.clear();
        }
        11 if world.admin.complete => {
            let name = format!("n{at}");
            world.admin.wish = Some(if world.rng.chance(50) {
                Request::Remove { node_id: name }
            } else {
                Request::Transfer { node_id: Some(name) }
            });
        }
        12 if world.admin.complete && world.nodes.iter().all(|node| node.driver.is_some()) => wipe(world, at),
        _ => {}
    }
}

fn crash_all(world: &mut World) {
    for at in 0..world.nodes.len() {
        if world.nodes[at].driver.is_some() {
            world.crash(at);
            let down = 100 + world.rng.below(2000);
            world.after(down, Event::Restart(at));
        }
    }
}

/// A node loses its disk. Only while every node is a member: losing a second one would lose a majority for good.
fn wipe(world: &mut World, at: usize) {
    world.say(|| format!("n{at} loses its disk"));
    world.admin.complete = false;
    world.nodes[at].driver = None;
    world.nodes[at].engine = SimEngine::default();
    let down = 100 + world.rng.below(2000);
    world.after(down, Event::Restart(at));
}
