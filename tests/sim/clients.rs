//! Clients: each does one thing after the other, on any node of the cluster, and remembers what it saw.

use std::collections::BTreeMap;

use huskv::consensus::{Bounds, Consistency, Fetched, Hop, Input, Listed};
use huskv::model::{Answer, Code, IdempotencyKey, List, Outcome, Refusal, Request, Write, Written};

use crate::checks;
use crate::linear::{Operation, Seen};
use crate::port::Said;
use crate::rng::Rng;
use crate::wishes::{self, How, KEYS, Known, Learned, Wish};
use crate::world::{Event, World};

/// How long a request may take, at least and beyond that at most. Long enough to outlive its leader, often.
const DEADLINE: (u64, u64) = (1500, 8000);

/// Of 100 writes, how many have a name.
const NAMED: u64 = 25;

/// How long it is until such a write is sent again, at most.
const AGAIN: u64 = 4000;

/// How long a client waits for an answer before it does something else.
const PATIENCE: u64 = 750;

/// The number of the client that asks for the keys which are looked at in silence.
const KEEPER: usize = 4;

/// An operation under way.
struct Open {
    client: usize,
    at: usize,
    key: u64,
    called: u64,
    seen: Seen,
    /// The range of a page, and whether it may be an old state.
    list: Option<(List, bool)>,
    /// How old a state at most, where it may be one.
    bound: Option<u64>,
}

/// A write that has a name: it is sent again, to any node, whether or not it was answered.
struct Named {
    write: Write,
    /// How often it is still to be sent.
    left: u64,
    /// How many of those that were sent are not answered.
    under_way: u64,
    /// Whether one of them may have been done.
    doubt: bool,
    /// The first result.
    first: Option<Written>,
}

/// All clients and their history.
pub struct Clients {
    rng: Rng,
    next: u64,
    open: BTreeMap<u64, Open>,
    /// Writes that have a name, by operation.
    named: BTreeMap<u64, Named>,
    /// What is known, by key.
    pub history: BTreeMap<u64, Vec<Operation>>,
    /// The versions that registers are known to have had at some time, to be resolved when all entries are known.
    had: Vec<(u64, u64, Operation)>,
    known: Known,
    /// Every version that was acknowledged, with the operation.
    versions: BTreeMap<u64, u64>,
    /// Until when what each put wrote must be there, unless another write ends it.
    pub keeps: BTreeMap<u64, u64>,
    pub acknowledged: u64,
    /// Whether they ask for nothing more.
    pub silent: bool,
    /// Writes acknowledged by each node since its count was taken to 0.
    pub by_node: BTreeMap<usize, u64>,
}

impl Clients {
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            next: 0,
            open: BTreeMap::new(),
            named: BTreeMap::new(),
            history: BTreeMap::new(),
            had: Vec::new(),
            known: Known::new(),
            versions: BTreeMap::new(),
            keeps: BTreeMap::new(),
            acknowledged: 0,
            silent: false,
            by_node: BTreeMap::new(),
        }
    }

    /// The whole history: what is still open is of unknown outcome. Of a put the nodes know more: it was decided by the time
    /// that the first of them applied it, or, if none has, no client can have read it. Without that the search for an
    /// order would have no end. `written` tells what was written at an index, `done` what came of conditions; where a client
    /// was told something else, that is the error.
    pub fn histories(
        &self,
        applied: impl Fn(u64) -> Option<u64>,
        written: impl Fn(u64) -> Option<u64>,
        done: &BTreeMap<u64, bool>,
    ) -> Result<BTreeMap<u64, Vec<Operation>>, String> {
        let mut all = self.history.clone();
        for open in self.open.values() {
            if !matches!(open.seen, Seen::Get(_)) {
                let (client, called, seen) = (open.client, open.called, open.seen.clone());
                all.entry(open.key).or_default().push(Operation { client, called, returned: None, seen });
            }
        }
        for (key, version, operation) in &self.had {
            let value = written(*version);
            if *version == 0 || value.is_some() {
                all.entry(*key).or_default().push(Operation { seen: Seen::Get(value), ..operation.clone() });
            }
        }
        for history in all.values_mut() {
            history.retain_mut(|operation| match operation.seen {
                Seen::Put(id) | Seen::Cas { new: Some(id), .. } if operation.returned.is_none() => {
                    operation.returned = applied(id);
                    operation.returned.is_some()
                }
                _ => true,
            });
        }
        for operation in all.values_mut().flatten() {
            if let Seen::Cas { new: Some(id), done: told, .. } = &mut operation.seen
                && let Some(done) = done.get(id)
                && *told.get_or_insert(*done) != *done
            {
                return Err(format!("op{id} was told otherwise, but its condition came to {done}"));
            }
        }
        Ok(all)
    }
}

fn members(world: &World) -> Vec<usize> {
    let is_member =
        |at: &usize| world.nodes[*at].driver.is_some() && world.nodes[*at].table.cluster_id == world.cluster;
    (0..world.size).filter(is_member).collect()
}

/// By when a node is to answer, by its own clock.
fn deadline(world: &mut World, at: usize) -> u64 {
    world.now + world.nodes[at].ahead + DEADLINE.0 + world.clients.rng.below(DEADLINE.1)
}

/// Sends a write to a node.
fn send(world: &mut World, id: u64, at: usize, write: Write) {
    let port = world.port(at);
    let deadline = deadline(world, at);
    let by = world.book.deadlines.entry(id).or_default();
    *by = (*by).max(deadline - world.nodes[at].ahead);
    let reply = port.reply(move |result| Said::Client { operation: id, result });
    let request = Request::Write(write);
    world.input(at, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
}

/// A client sends a write that has a name again.
pub fn again(world: &mut World, id: u64) {
    let Some(named) = world.clients.named.get_mut(&id) else { return };
    named.left -= 1;
    let (write, left) = (named.write.clone(), named.left);
    if left > 0 {
        let pause = 5 + world.clients.rng.below(AGAIN);
        world.after(pause, Event::Again(id));
    }
    let members = members(world);
    if members.is_empty() {
        return;
    }
    let at = *world.clients.rng.pick(&members);
    if let Some(named) = world.clients.named.get_mut(&id) {
        named.under_way += 1;
    }
    world.say(|| format!("op{id} again on n{at}"));
    send(world, id, at, write);
}

/// What is known of a write that has a name, after one more answer; None where that is nothing new.
fn heard(world: &mut World, id: u64, result: Result<Answer, Refusal>) -> Option<Result<Answer, Refusal>> {
    let Some(named) = world.clients.named.get_mut(&id) else { return Some(result) };
    named.under_way -= 1;
    match (result, &named.first) {
        (Ok(Answer::Written(written)), Some(first)) => {
            let same = Written { replayed: first.replayed, ..written.clone() } == *first;
            if !same || !(first.replayed || written.replayed) {
                let failure = format!("op{id} comes to {first:?}, and again to {written:?}");
                world.fail(failure);
            }
            None
        }
        (Ok(Answer::Written(written)), None) => {
            named.first = Some(written.clone());
            Some(Ok(Answer::Written(written)))
        }
        (Ok(other), _) => Some(Ok(other)),
        (Err(refusal), first) => {
            named.doubt |= refusal.outcome == Outcome::Unknown;
            let last = first.is_none() && named.left + named.under_way == 0;
            let outcome = if named.doubt { Outcome::Unknown } else { refusal.outcome };
            last.then_some(Err(Refusal { outcome, ..refusal }))
        }
    }
}

/// The next thing that a client does.
pub fn act(world: &mut World, client: usize) {
    if world.clients.silent {
        return;
    }
    let members = members(world);
    let pause = 5 + world.clients.rng.below(60);
    if members.is_empty() {
        return world.after(pause, Event::Client(client));
    }
    let at = *world.clients.rng.pick(&members);
    let (id, choice, which) = (world.clients.next, world.clients.rng.below(10), world.clients.rng.below(KEYS));
    let called = world.now;
    // Of its own, so that the draws of others are the same whatever clients wish for.
    let mut taste = Rng::new(id << 32 ^ called);
    let calm = |key| {
        let asked = |open: &&Open| open.key == key && matches!(open.seen, Seen::Cas { .. } | Seen::Delete(_));
        world.clients.open.values().filter(asked).count() < 2
    };
    let wish = wishes::draw(id, choice, which, &mut taste, &world.clients.known, calm);
    begin(world, client, at, wish, &mut taste);
    let patience = PATIENCE + pause;
    world.after(if world.clients.open.contains_key(&id) { patience } else { pause }, Event::Client(client));
}

/// Puts a key on a node that is to be kept for so long.
pub fn keep(world: &mut World, at: usize, name: &'static str, seconds: u64) {
    let (wish, mut taste) = (wishes::keep(world.clients.next, name, seconds), world.clients.rng.fork());
    begin(world, KEEPER, at, wish, &mut taste);
}

/// Lets a key be kept for so long from now on.
pub fn touch(world: &mut World, at: usize, name: &'static str, seconds: u64) {
    let mut taste = world.clients.rng.fork();
    begin(world, KEEPER, at, wishes::touch(name, seconds), &mut taste);
}

/// Asks a node for a wish, which gets the next number.
fn begin(world: &mut World, client: usize, at: usize, Wish { key, seen, how }: Wish, taste: &mut Rng) {
    let (id, called) = (world.clients.next, world.now);
    world.clients.next += 1;
    let list = if let How::Page { list, stale } = &how { Some((list.clone(), *stale)) } else { None };
    let may_be_old = match &how {
        How::Page { stale, .. } => *stale,
        How::Key(_) => taste.chance(30),
        How::Write(_) => false,
    };
    let bound = (may_be_old && taste.chance(80)).then(|| 50 + taste.below(1000));
    world.clients.open.insert(id, Open { client, at, key, called, seen: seen.clone(), list, bound });
    if let How::Write(command) = &how
        && let Some(ms) = wishes::kept(command)
    {
        world.clients.keeps.insert(id, called + ms);
    }
    world.say(|| format!("c{client} op{id} {seen:?} k{key} on n{at}"));
    ask(world, id, at, how, bound, taste);
}

/// Asks a node for what the client wishes. Some writes have a name and are sent more than once.
fn ask(world: &mut World, id: u64, at: usize, how: How, bound: Option<u64>, taste: &mut Rng) {
    let port = world.port(at);
    let bounds = Bounds { max_stale_ms: bound, ..Bounds::default() };
    let input = match how {
        How::Write(command) if taste.chance(NAMED) => {
            let once = IdempotencyKey { key: format!("op{id}").into(), fingerprint: id.into() };
            let write = Write { idempotency_key: Some(once), command };
            let left = 1 + taste.below(2);
            let named = Named { write: write.clone(), left, under_way: 1, doubt: false, first: None };
            world.clients.named.insert(id, named);
            world.after(5 + taste.below(AGAIN), Event::Again(id));
            return send(world, id, at, write);
        }
        How::Write(command) => return send(world, id, at, command.into()),
        How::Key(key) => Input::Read {
            key: key.to_vec(),
            consistency: if bound.is_some() { Consistency::Stale } else { Consistency::Linearizable },
            bounds,
            deadline: deadline(world, at),
            reply: port.reply(move |result| Said::Read { operation: id, result }),
        },
        How::Page { list, stale } => Input::List {
            list,
            consistency: if stale { Consistency::Stale } else { Consistency::Linearizable },
            bounds,
            deadline: deadline(world, at),
            reply: port.reply(move |result| Said::Listed { operation: id, result }),
        },
    };
    world.input(at, input);
}

/// A write was answered.
pub fn answered(world: &mut World, id: u64, now: u64, result: Result<Answer, Refusal>) {
    world.say(|| format!("op{id} {result:?}"));
    if let Err(refusal) = &result
        && refusal.code == Code::DiskNearlyFull
        && refusal.outcome != Outcome::NotApplied
    {
        world.fail(format!("op{id} is refused for want of space, and may have been applied: {refusal:?}"));
    }
    let Some(result) = heard(world, id, result) else { return };
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.digest = world.digest.rotate_left(5) ^ now ^ (id << 20) ^ u64::from(result.is_ok());
    match result {
        Ok(Answer::Written(Written { index, outcome, .. })) => {
            world.clients.acknowledged += 1;
            // Of one that was sent more than once it is not known who answered.
            if !world.clients.named.contains_key(&id) {
                *world.clients.by_node.entry(open.at).or_default() += 1;
            }
            if let Some(other) = world.clients.versions.insert(index, id) {
                world.fail(format!("op{other} and op{id} were both given version {index}"));
            }
            if matches!(open.seen, Seen::Put(_) | Seen::Cas { new: Some(_), .. }) {
                checks::told(world, id, Some(index));
            }
            match wishes::outcome(open.key, &open.seen, index, &outcome) {
                Some(learned) => learn(world, &open, now, learned),
                None => world.fail(format!("op{id}, {:?}, comes to {outcome:?}", open.seen)),
            }
        }
        Ok(answer) => world.fail(format!("op{id} was answered by {answer:?}")),
        Err(refusal) if refusal.outcome == Outcome::NotApplied => checks::told(world, id, None),
        Err(_) => {
            let operation = Operation { client: open.client, called: open.called, returned: None, seen: open.seen };
            world.clients.history.entry(open.key).or_default().push(operation);
        }
    }
}

/// A read was answered.
pub fn read(world: &mut World, id: u64, now: u64, result: Result<Fetched, Refusal>) {
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.say(|| format!("op{id} {result:?}"));
    let Ok(fetched) = result else { return };
    world.digest =
        world.digest.rotate_left(5) ^ now ^ (id << 20) ^ fetched.value.as_ref().map_or(7, |item| item.version);
    fresh(world, id, &open, fetched.index);
    match wishes::item(open.key, fetched.value.as_ref()) {
        Some(_) if open.bound.is_some() => {}
        Some(learned) => learn(world, &open, now, vec![learned]),
        None => world.fail(format!("op{id} reads {:?}, which nobody wrote", fetched.value)),
    }
}

/// A page was answered.
pub fn listed(world: &mut World, id: u64, now: u64, result: Result<Listed, Refusal>) {
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.say(|| format!("op{id} {result:?}"));
    let (Ok(listed), Some((list, stale))) = (result, &open.list) else { return };
    world.digest = world.digest.rotate_left(5) ^ now ^ (id << 20) ^ listed.page.items.len() as u64;
    fresh(world, id, &open, listed.index);
    match wishes::page(list, &listed.page, listed.index) {
        // An old state is whole too, but it is no state of now.
        Some(_) if *stale => {}
        Some(learned) => learn(world, &open, now, learned),
        None => world.fail(format!("op{id} reads a torn page: {listed:?}")),
    }
}

/// What a stale read with a bound shows was the latest state at some moment within the bound, or since it was asked for.
fn fresh(world: &mut World, id: u64, open: &Open, index: u64) {
    let Some(bound) = open.bound else { return };
    let moment = open.called.min(world.now.saturating_sub(bound));
    let known = world.book.applied_by(moment);
    if index < known {
        world.fail(format!(
            "op{id} reads the state of {index}, not older than {bound} ms, and {known} was there at {moment}"
        ));
    }
}

/// Remembers what an answer said.
fn learn(world: &mut World, open: &Open, now: u64, learned: Vec<Learned>) {
    let operation = |seen| Operation { client: open.client, called: open.called, returned: Some(now), seen };
    for learned in learned {
        match learned {
            Learned::Happened { key, seen, version } => {
                let value = match seen {
                    Seen::Put(value) | Seen::Get(Some(value)) | Seen::Cas { new: Some(value), .. } => Some(value),
                    _ => None,
                };
                if let (Some(value), Some(version)) = (value, version) {
                    world.clients.known.insert(key, (version, value));
                    checks::told(world, value, Some(version));
                }
                world.clients.history.entry(key).or_default().push(operation(seen));
            }
            Learned::Had { key, version } => world.clients.had.push((key, version, operation(Seen::Get(None)))),
        }
    }
}
