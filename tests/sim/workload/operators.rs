//! Operators: one joins every node that is no member, the other removes members and transfers the leadership.
//!
//! Invariants: a disk is wiped only while every node is a member and no membership change is under way, since a second
//! loss beside it would be the loss of a majority, which no store survives.

use std::collections::{BTreeMap, BTreeSet};

use huskv::consensus::{Hop, Input};
use huskv::model::{Answer, Code, Outcome, Refusal, Request, Role};

use crate::checks;
use crate::checks::observed::RefusedChange;
use crate::faults::nemesis;
use crate::world::outbox::Reply;
use crate::world::{Event, World};

/// The time within which a request may still take effect.
const EFFECT_WITHIN: u64 = 12_000;

/// What the operators are doing.
#[derive(Default)]
pub struct Operators {
    busy_until: u64,
    /// Whether all nodes were members when the first operator looked last.
    pub complete: bool,
    /// The node whose disk was wiped, until it is a member again.
    pub wiped: Option<usize>,
    next: u64,
    /// Nodes that have refused a join because they hold data; they are joined with `force`.
    data_holders: BTreeSet<usize>,
    /// Requests that may still take effect.
    open: BTreeMap<u64, Open>,
}

/// A request that may still take effect.
struct Open {
    request: Request,
    /// The moment until which it may take effect.
    until: u64,
    /// Whether the opposite was requested meanwhile, so that the table may say either.
    contested: bool,
    asked: u64,
    /// Whether no other request about the same name was under way meanwhile.
    alone: bool,
}

/// The name of the member that a request is about.
fn subject(request: &Request) -> Option<&String> {
    match request {
        Request::Join { node_id, .. } | Request::Remove { node_id } => Some(node_id),
        _ => None,
    }
}

/// Whether one request undoes the other.
fn opposite(one: &Request, other: &Request) -> bool {
    match (one, other) {
        (Request::Join { node_id: joins, .. }, Request::Remove { node_id: leaves })
        | (Request::Remove { node_id: leaves }, Request::Join { node_id: joins, .. }) => joins == leaves,
        _ => false,
    }
}

/// Looks at the cluster, and joins one node that is no member.
pub fn act(world: &mut World) {
    let pause = 300 + world.rng.below(300);
    world.after(pause, Event::Operator);
    let now = world.now;
    world.operators.open.retain(|_, open| open.until > now);
    let Some(leader) = leading(world) else { return };
    let table = &world.nodes[leader].table.peers;
    // A node is missing if the leader does not list it, lists it elsewhere, or it is removed or in another cluster.
    let missing = (0..world.size).find(|at| {
        let node = &world.nodes[*at];
        let listed = table.iter().find(|(id, _, _)| *id == node.table.raft_id);
        // Without `follow_moves` a member's own word is not enough to record a new address: a join does it.
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
        // The second operator acts while this join is under way.
        if world.faults && world.rng.chance(40) {
            let (soon, other) = (world.rng.below(700), world.rng.below(world.size as u64));
            world.after(soon, Event::Interfere(usize::try_from(other).expect("small")));
        }
    }
}

/// Sends a membership request to any member.
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
    // A later request about the same name may lead to the entry that the refused one must not have led to.
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

/// Removes a member or transfers the leadership to it, whatever else is under way.
pub fn interfere(world: &mut World, at: usize) {
    if world.operators.wiped.is_none() {
        let node_id = format!("n{at}");
        let remove = world.rng.chance(50);
        ask(world, if remove { Request::Remove { node_id } } else { Request::Transfer { node_id: Some(node_id) } });
    }
}

/// Whether a disk may be lost: no fault and no membership change is under way.
pub fn settled(world: &mut World) -> bool {
    let quiet = world.cut_links.is_empty() && world.nodes.iter().all(|node| node.paused_until <= world.now);
    quiet && world.operators.open.is_empty() && world.operators.wiped.is_none() && all_agree(world)
}

/// Whether every node is up, on its own disk, and lists every node as a voter at its present address.
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

/// Checks the answer to a membership request against the member table of the node that gave it.
pub fn answered(world: &mut World, at: usize, asked: u64, result: Result<Answer, Refusal>) {
    world.trace(|| format!("the operator is answered {result:?}"));
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
        // Only `not_applied` rules an effect out. After any other refusal the entry may still be in a log.
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
    // A removed node may not have seen the entry that removed it.
    let Some(status) = checks::status(world, at).filter(|status| !status.removed) else { return };
    let role = |name: &str| status.members.iter().find(|member| member.node_id == name).map(|member| member.role);
    // A success must show in the member table of the node that gave it, unless the opposite was requested too.
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

/// Wipes a removed member that cannot learn of its removal, as its log says to do.
///
/// It reaches too few of the voters that it knew. Once faults have ended, nothing else would help.
fn give_up_directory(world: &mut World, at: usize) {
    let member = leading(world).is_none_or(|leader| world.nodes[leader].table.lists(world.nodes[at].table.raft_id));
    if !world.faults && !member && world.nodes[at].table.cluster_id == world.cluster {
        nemesis::wipe(world, at);
    }
}

/// Starts a moved voter at its recorded address again, as its log says to do.
///
/// Without it the others are no majority, so no leader can record its new address.
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

/// The running node that leads the cluster in the greatest term.
pub fn leading(world: &World) -> Option<usize> {
    let best = world.observed.leaders.last_key_value()?.1;
    world.nodes[..world.size].iter().position(|node| node.driver.is_some() && node.table.raft_id == *best)
}
