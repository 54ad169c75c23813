//! The operator: forms the cluster, and keeps every node in it, one request at a time.

use huskv::consensus::Input;
use huskv::model::{Answer, Refusal, Request, Role};

use crate::checks;
use crate::world::{Event, Said, World};

/// What the operator is doing.
#[derive(Default)]
pub struct Admin {
    busy_until: u64,
    /// Whether all nodes were members at the last look.
    pub complete: bool,
    /// A removal or transfer that chance asked for.
    pub wish: Option<Request>,
}

/// Looks at the cluster, and asks for what is missing.
pub fn act(world: &mut World) {
    let pause = 300 + world.rng.below(300);
    world.after(pause, Event::Admin);
    if world.now < world.admin.busy_until {
        return;
    }
    let Some((leader, table)) = leading(world) else { return };
    let missing = (0..world.nodes.len()).find(|at| {
        let node = &world.nodes[*at];
        let member = *at == leader || table.contains(&node.table.raft_id);
        node.driver.is_some() && !(member && node.table.cluster_id == world.cluster && !node.table.removed)
    });
    world.admin.complete = missing.is_none() && all_agree(world);
    let request = match missing {
        Some(at) => Request::Join { node_id: format!("n{at}"), raft_address: format!("n{at}:1"), force: false },
        None => match world.admin.wish.take() {
            Some(wish) => wish,
            None => return,
        },
    };
    let members: Vec<usize> = (0..world.nodes.len())
        .filter(|at| world.nodes[*at].driver.is_some() && world.nodes[*at].table.cluster_id == world.cluster)
        .collect();
    let at = *world.rng.pick(&members);
    world.say(|| format!("operator asks n{at}: {request:?}"));
    world.admin.busy_until = world.now + 12_000;
    let reply = world.port(at).reply(|result| Said::Admin { result });
    let deadline = world.now + 10_000;
    world.input(at, Input::Request { request, deadline, forwarded: false, reply });
}

/// Whether every node is up and sees every node as a voter.
fn all_agree(world: &mut World) -> bool {
    let count = world.nodes.len();
    (0..count).all(|at| {
        checks::status(world, at).is_some_and(|status| {
            status.members.len() == count && status.members.iter().all(|member| member.role == Role::Voter)
        })
    })
}

/// The operator's request was answered.
pub fn answered(world: &mut World, result: Result<Answer, Refusal>) {
    world.say(|| format!("operator hears {result:?}"));
    world.admin.busy_until = world.now + 200;
}

/// Who leads the cluster at the highest term, and the raft ids of its peers.
pub fn leading(world: &World) -> Option<(usize, Vec<u64>)> {
    let best = world.leaders.last_key_value()?.1;
    let at = world.nodes.iter().position(|node| node.driver.is_some() && node.table.raft_id == *best)?;
    Some((at, world.nodes[at].table.peers.iter().map(|(id, _, _)| *id).collect()))
}
