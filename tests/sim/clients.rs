//! Clients: each does one thing after the other, on any node of the cluster, and remembers what it saw.

use std::collections::BTreeMap;

use bytes::Bytes;
use huskv::consensus::{Bounds, Consistency, Fetched, Input};
use huskv::model::{Answer, Command, Fate, Outcome, Refusal, Request};

use crate::checks;
use crate::linear::{Operation, Seen};
use crate::port::Said;
use crate::rng::Rng;
use crate::world::{Event, World};

const KEYS: u64 = 4;
/// How long a request may take, at least and beyond that at most. Long enough to outlive its leader, often.
const DEADLINE: (u64, u64) = (1500, 8000);

/// How long a client waits for an answer before it does something else.
const PATIENCE: u64 = 750;

/// An operation under way.
struct Open {
    client: usize,
    at: usize,
    key: u64,
    called: u64,
    seen: Seen,
}

/// All clients and their history.
pub struct Clients {
    rng: Rng,
    next: u64,
    open: BTreeMap<u64, Open>,
    /// What is known, by key.
    pub history: BTreeMap<u64, Vec<Operation>>,
    /// Every version that was acknowledged, with the operation.
    versions: BTreeMap<u64, u64>,
    pub acknowledged: u64,
    /// Writes acknowledged by each node since its count was taken to 0.
    pub by_node: BTreeMap<usize, u64>,
}

impl Clients {
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            next: 0,
            open: BTreeMap::new(),
            history: BTreeMap::new(),
            versions: BTreeMap::new(),
            acknowledged: 0,
            by_node: BTreeMap::new(),
        }
    }

    /// The whole history: what is still open is of unknown fate. Of a put the nodes know more: it took effect by the time
    /// that the first of them applied it, or, if none has, no client can have read it. Without that the search for an
    /// order would have no end.
    pub fn histories(&self, applied: impl Fn(u64) -> Option<u64>) -> BTreeMap<u64, Vec<Operation>> {
        let mut all = self.history.clone();
        for open in self.open.values() {
            if !matches!(open.seen, Seen::Get(_)) {
                let (client, called, seen) = (open.client, open.called, open.seen.clone());
                all.entry(open.key).or_default().push(Operation { client, called, returned: None, seen });
            }
        }
        for history in all.values_mut() {
            history.retain_mut(|operation| match operation.seen {
                Seen::Put(id) if operation.returned.is_none() => {
                    operation.returned = applied(id);
                    operation.returned.is_some()
                }
                _ => true,
            });
        }
        all
    }
}

pub fn key(at: u64) -> Bytes {
    Bytes::from(format!("k{at}"))
}

pub fn keys() -> impl Iterator<Item = Bytes> {
    (0..KEYS).map(key)
}

/// The next thing that a client does.
pub fn act(world: &mut World, client: usize) {
    let members: Vec<usize> = (0..world.nodes.len())
        .filter(|at| world.nodes[*at].driver.is_some() && world.nodes[*at].table.cluster_id == world.cluster)
        .collect();
    let pause = 5 + world.clients.rng.below(60);
    if members.is_empty() {
        return world.after(pause, Event::Client(client));
    }
    let at = *world.clients.rng.pick(&members);
    let (id, choice, which) = (world.clients.next, world.clients.rng.below(10), world.clients.rng.below(KEYS));
    world.clients.next += 1;
    let key = key(which);
    let seen = match choice {
        0..5 => Seen::Put(id),
        5 => Seen::Delete(None),
        _ => Seen::Get(None),
    };
    let called = world.now;
    world.clients.open.insert(id, Open { client, at, key: which, called, seen: seen.clone() });
    let port = world.port(at);
    let deadline = world.now + world.nodes[at].ahead + DEADLINE.0 + world.clients.rng.below(DEADLINE.1);
    let write = |command| Input::Request {
        request: Request::Write(command),
        deadline,
        forwarded: false,
        reply: port.reply(move |result| Said::Client { operation: id, result }),
    };
    let input = match seen {
        Seen::Put(value) => write(Command::put(key, value.to_string())),
        Seen::Delete(_) => write(Command::delete(key)),
        Seen::Get(_) | Seen::Cas { .. } => Input::Read {
            key: key.to_vec(),
            consistency: Consistency::Linearizable,
            bounds: Bounds::default(),
            deadline,
            reply: port.reply(move |result| Said::Read { operation: id, result }),
        },
    };
    world.say(|| format!("c{client} op{id} {seen:?} k{which} on n{at}"));
    world.input(at, input);
    let patience = PATIENCE + pause;
    world.after(if world.clients.open.contains_key(&id) { patience } else { pause }, Event::Client(client));
}

/// A write was answered.
pub fn answered(world: &mut World, id: u64, now: u64, result: Result<Answer, Refusal>) {
    let Some(mut open) = world.clients.open.remove(&id) else { return };
    world.say(|| format!("op{id} {result:?}"));
    world.digest = world.digest.rotate_left(5) ^ now ^ (id << 20) ^ u64::from(result.is_ok());
    let returned = match result {
        Ok(Answer::Written { index, outcome, .. }) => {
            world.clients.acknowledged += 1;
            *world.clients.by_node.entry(open.at).or_default() += 1;
            if let Some(other) = world.clients.versions.insert(index, id) {
                world.fail(format!("op{other} and op{id} were both given version {index}"));
            }
            if matches!(open.seen, Seen::Put(_)) {
                checks::told(world, id, Some(index));
            }
            if let (Seen::Delete(existed), Outcome::Deleted { existed: was }) = (&mut open.seen, outcome) {
                *existed = Some(was);
            }
            Some(now)
        }
        Ok(answer) => return world.fail(format!("op{id} was answered by {answer:?}")),
        Err(refusal) if refusal.fate == Fate::NotApplied => return checks::told(world, id, None),
        Err(_) => None,
    };
    let operation = Operation { client: open.client, called: open.called, returned, seen: open.seen };
    world.clients.history.entry(open.key).or_default().push(operation);
}

/// A read was answered.
pub fn read(world: &mut World, id: u64, now: u64, result: Result<Fetched, Refusal>) {
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.say(|| format!("op{id} {result:?}"));
    let Ok(fetched) = result else { return };
    let value = fetched.value.map(|item| String::from_utf8_lossy(&item.value.bytes).parse().unwrap_or(u64::MAX));
    world.digest = world.digest.rotate_left(5) ^ now ^ (id << 20) ^ value.unwrap_or(7);
    let seen = Seen::Get(value);
    let operation = Operation { client: open.client, called: open.called, returned: Some(now), seen };
    world.clients.history.entry(open.key).or_default().push(operation);
}
