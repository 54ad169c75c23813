//! Operators: one forms the cluster and keeps every node in it, another meddles.
//!
//! Laws: a disk is wiped only while every node is a member and nothing is being changed: a second loss beside it would
//! be the loss of a majority, which no store survives.

use std::collections::{BTreeMap, BTreeSet};

use huskv::consensus::{Hop, Input};
use huskv::model::{Answer, Code, Outcome, Refusal, Request, Role};

use crate::checks;
use crate::checks::observed::RefusedChange;
use crate::faults::nemesis;
use crate::world::outbox::Reply;
use crate::world::{Event, World};

/// How long after its question a request may still take effect.
const EFFECT_WITHIN: u64 = 12_000;

/// What the operators are doing.
#[derive(Default)]
pub struct Operators {
    busy_until: u64,
    /// Whether all nodes were members at the last look.
    pub complete: bool,
    /// The node whose disk was wiped, until it is a member again.
    pub wiped: Option<usize>,
    next: u64,
    /// Nodes that have refused a join for the data they hold.
    data_holders: BTreeSet<usize>,
    /// Requests that may still take effect.
    open: BTreeMap<u64, Open>,
}

/// A request that may still take effect.
struct Open {
    request: Request,
    /// For how long.
    until: u64,
    /// Whether the opposite was asked for at any moment of its life, so that the table may say either.
    contested: bool,
    asked: u64,
    /// Whether no other request about the same name was there in its life.
    alone: bool,
}

/// The member that a request is about.
fn subject(request: &Request) -> Option<&String> {
    match request {
        Request::Join { node_id, .. } | Request::Remove { node_id } => Some(node_id),
        _ => None,
    }
}

/// Whether one request undoes what the other does.
fn opposite(one: &Request, other: &Request) -> bool {
    match (one, other) {
        (Request::Join { node_id: joins, .. }, Request::Remove { node_id: leaves })
        | (Request::Remove { node_id: leaves }, Request::Join { node_id: joins, .. }) => joins == leaves,
        _ => false,
    }
}

/// Looks at the cluster, and asks for what is missing.
pub fn act(world: &mut World) {
    let pause = 300 + world.rng.below(300);
    world.after(pause, Event::Operator);
    let now = world.now;
    world.operators.open.retain(|_, open| open.until > now);
    let Some(leader) = leading(world) else { return };
    let table = &world.nodes[leader].table.peers;
    let missing = (0..world.size).find(|at| {
        let node = &world.nodes[*at];
        let listed = table.iter().find(|(id, _, _)| *id == node.table.raft_id);
        // Where its word is not enough, an operator's is.
        let elsewhere = |address: &String| {
            !world.follow_moves && (node.table.moved || !world.faults) && *address != node.table.raft_address
        };
        let member = *at == leader || listed.is_some_and(|(_, _, address)| !elsewhere(address));
        node.driver.is_some() && !(member && node.table.cluster_id == world.cluster && !node.table.removed)
    });
    world.operators.complete = missing.is_none() && all_agree(world);
    if world.operators.complete {
        world.operators.wiped = None;
    }
    if let Some(at) = missing.filter(|_| world.now >= world.operators.busy_until) {
        world.operators.busy_until = world.now + 12_000;
        let raft_address = world.nodes[at].table.raft_address.clone();
        let force = world.operators.data_holders.contains(&at);
        ask(world, Request::Join { node_id: format!("n{at}"), raft_address, force });
        // While one change is under way, another is asked for.
        if world.faults && world.rng.chance(40) {
            let (soon, other) = (world.rng.below(700), world.rng.below(world.size as u64));
            world.after(soon, Event::Interfere(usize::try_from(other).expect("small")));
        }
    }
}

/// Asks some member for a change of membership.
fn ask(world: &mut World, request: Request) {
    let members: Vec<usize> = (0..world.size)
        .filter(|at| world.nodes[*at].driver.is_some() && world.nodes[*at].table.cluster_id == world.cluster)
        .collect();
    if members.is_empty() {
        return;
    }
    let at = *world.rng.pick(&members);
    world.operators.next += 1;
    let asked = world.operators.next;
    world.trace(|| format!("operator asks n{at}: {request:?}"));
    if subject(&request).is_some() {
        nemesis::on_membership_request(world);
    }
    let mut contested = false;
    for open in world.operators.open.values_mut().filter(|open| opposite(&open.request, &request)) {
        (open.contested, contested) = (true, true);
    }
    let (now, mut alone) = (world.now, true);
    for open in world.operators.open.values_mut().filter(|open| subject(&open.request) == subject(&request)) {
        (open.alone, alone) = (false, false);
    }
    for refused in world.observed.refused_changes.iter_mut().filter(|refused| Some(&refused.name) == subject(&request))
    {
        refused.next = refused.next.min(now);
    }
    let open = Open { request: request.clone(), until: now + EFFECT_WITHIN, contested, asked: now, alone };
    world.operators.open.insert(asked, open);
    let reply = world.outbox(at).reply(move |result| Reply::Operator { asked, result });
    let deadline = world.now + world.nodes[at].clock_offset + 10_000;
    world.input(at, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
}

/// Removes a member or moves leadership, whatever else goes on.
pub fn interfere(world: &mut World, at: usize) {
    if world.operators.wiped.is_none() {
        let node_id = format!("n{at}");
        let remove = world.rng.chance(50);
        ask(world, if remove { Request::Remove { node_id } } else { Request::Transfer { node_id: Some(node_id) } });
    }
}

/// Whether a disk may be lost now.
pub fn settled(world: &mut World) -> bool {
    let quiet = world.cut_links.is_empty() && world.nodes.iter().all(|node| node.paused_until <= world.now);
    quiet && world.operators.open.is_empty() && world.operators.wiped.is_none() && all_agree(world)
}

/// Whether every node is up, on its own disk, and sees every node as a voter, at its present address.
fn all_agree(world: &mut World) -> bool {
    let count = world.size;
    (0..count).all(|at| {
        checks::status(world, at).is_some_and(|status| {
            let current = |id: u64, address: &str| {
                world.nodes[..count].iter().any(|node| node.table.raft_id == id && node.table.raft_address == address)
            };
            world.nodes[at].stale_disk.is_none()
                && status.members.len() == count
                && status.members.iter().all(|m| m.role == Role::Voter && current(m.raft_id, &m.raft_address))
        })
    })
}

/// The operator's request was answered: what it says must be so on the node that was asked.
pub fn answered(world: &mut World, at: usize, asked: u64, result: Result<Answer, Refusal>) {
    world.trace(|| format!("operator hears {result:?}"));
    let Some(open) = world.operators.open.get(&asked) else { return };
    let (request, contested) = (open.request.clone(), open.contested);
    if matches!(request, Request::Join { .. }) {
        world.operators.busy_until = world.now + 200;
    }
    if let (Request::Join { node_id, .. }, Err(Refusal { code: Code::HasData, .. })) = (&request, &result)
        && let Some(at) = node_id.strip_prefix('n').and_then(|at| at.parse().ok())
    {
        world.operators.data_holders.insert(at);
    }
    if let (Request::Join { node_id, .. }, Err(Refusal { code: Code::OtherCluster, .. })) = (&request, &result)
        && let Some(at) = node_id.strip_prefix('n').and_then(|at| at.parse().ok())
    {
        give_up_directory(world, at);
    }
    if let Err(Refusal { code: Code::NoLeader | Code::NoQuorum, .. }) = &result {
        (0..world.size).for_each(|at| move_back(world, at));
    }
    if let Err(refusal) = result {
        // Unless it says otherwise, a refusal may come after an effect, and a change that was given up may still be in the log.
        if refusal.outcome == Outcome::NotApplied
            && let Some(open) = world.operators.open.remove(&asked)
            && open.alone
            && let Some(name) = subject(&open.request).cloned()
        {
            world.observed.refused_changes.push(RefusedChange {
                request: open.request,
                name,
                asked: open.asked,
                next: u64::MAX,
            });
        }
        return;
    }
    world.operators.open.remove(&asked);
    // A node that hears of its own removal need not have seen the entry.
    let Some(status) = checks::status(world, at).filter(|status| !status.removed) else { return };
    let role = |name: &str| status.members.iter().find(|member| member.node_id == name).map(|member| member.role);
    let wrong = !contested
        && match &request {
            Request::Join { node_id, .. } => role(node_id) != Some(Role::Voter),
            Request::Remove { node_id } => role(node_id).is_some(),
            _ => false,
        };
    if wrong {
        world.fail(format!("n{at} answers {request:?} with success, and its table does not say so"));
    }
}

/// A removed member that reaches too few of the voters that it knew cannot learn of its removal. Once there are no faults
/// that would let it, the operator does what its log says: its directory is moved away.
fn give_up_directory(world: &mut World, at: usize) {
    let member = leading(world).is_none_or(|leader| world.nodes[leader].table.lists(world.nodes[at].table.raft_id));
    if !world.faults && !member && world.nodes[at].table.cluster_id == world.cluster {
        nemesis::wipe(world, at);
    }
}

/// A voter that has moved, and without which there is no leader who could take note of that, starts where it was again: what
/// its log says.
fn move_back(world: &mut World, at: usize) {
    let (raft_id, moved) = (world.nodes[at].table.raft_id, world.nodes[at].table.moved);
    let recorded = world.nodes[..world.size].iter().flat_map(|node| &node.table.peers);
    let address = recorded.filter(|(id, ..)| *id == raft_id).map(|(_, _, address)| address.clone()).next();
    let port = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
    if !world.faults
        && moved
        && !world.follow_moves
        && let Some(port) = port
        && world.nodes[at].driver.is_some()
    {
        world.trace(|| format!("n{at} moves back"));
        world.nodes[at].port = port;
        world.restart(at);
    }
}

/// Who leads the cluster at the highest term.
pub fn leading(world: &World) -> Option<usize> {
    let best = world.observed.leaders.last_key_value()?.1;
    world.nodes[..world.size].iter().position(|node| node.driver.is_some() && node.table.raft_id == *best)
}
