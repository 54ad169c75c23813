//! Clients: each sends one operation after the other to any node of the cluster, and records the answer.
//!
//! Invariants: clients draw from a generator of their own, and each operation from one that its number seeds, so that
//! what one client does shifts no other draw.
//!
//! See also: `generator` for what they ask, `history` for what they remember.

use huskv::consensus::{Bounds, Consistency, Fetched, Hop, Input, Listed, ReadGrant};
use huskv::model::{Answer, Code, CommandResult, IdempotencyKey, Outcome, Refusal, Request, Write, Written};

use crate::checks::acknowledgement;
use crate::linear::{Operation, Seen};
use crate::rng::Rng;
use crate::workload::client_reads::Query;
use crate::workload::generator::{self, ClientRequest, Invocation};
use crate::workload::history::{KeyedWrite, OpenOperation};
use crate::workload::registers::{self, KEYS, Observation};
use crate::world::outbox::Reply;
use crate::world::{Event, World};

/// The time that a request may take: at least the first, and up to the second more. Often longer than its leader lives.
const DEADLINE: (u64, u64) = (1500, 8000);

/// Of 100 writes, how many have an idempotency key.
const KEYED_PERCENT: u64 = 25;

/// The longest time until such a write is sent again.
const RETRY_WITHIN: u64 = 4000;

/// The time that a client waits for an answer before its next operation.
const ANSWER_WAIT: u64 = 750;

/// The number of the client that puts the keys of `checks::expiry`.
const EXPIRY_CLIENT: usize = 4;

fn members(world: &World) -> Vec<usize> {
    let is_member =
        |at: &usize| world.nodes[*at].driver.is_some() && world.nodes[*at].table.cluster_id == world.cluster;
    (0..world.size).filter(is_member).collect()
}

/// Draws the deadline of a request, by the clock of the node.
fn deadline(world: &mut World, at: usize) -> u64 {
    world.now + world.nodes[at].clock_offset + DEADLINE.0 + world.clients.rng.below(DEADLINE.1)
}

/// Sends a write to a node, and records the latest deadline by which it may be proposed.
fn send(world: &mut World, id: u64, at: usize, write: Write) {
    let outbox = world.outbox(at);
    let deadline = deadline(world, at);
    let by = world.observed.deadlines.entry(id).or_default();
    *by = (*by).max(deadline - world.nodes[at].clock_offset);
    let reply = outbox.reply(move |result| Reply::Client { operation: id, result });
    let request = Request::Write(write);
    world.input(at, Input::Request { request, deadline, hop: Hop::Client, to: 0, reply });
}

/// Sends a write with an idempotency key again, to any node, whether or not it was answered.
pub fn retry(world: &mut World, id: u64) {
    let Some(keyed) = world.clients.keyed.get_mut(&id) else { return };
    keyed.left -= 1;
    let (write, left) = (keyed.write.clone(), keyed.left);
    if left > 0 {
        let pause = 5 + world.clients.rng.below(RETRY_WITHIN);
        world.after(pause, Event::Retry(id));
    }
    let members = members(world);
    if members.is_empty() {
        return;
    }
    let at = *world.clients.rng.pick(&members);
    if let Some(keyed) = world.clients.keyed.get_mut(&id) {
        keyed.under_way += 1;
    }
    world.trace(|| format!("op{id} again on n{at}"));
    send(world, id, at, write);
}

/// Merges one more answer into what is known of a write with an idempotency key; `None` where that is nothing new.
///
/// The write counts as one operation, however often it was sent. The first result is its result, and every later one must
/// be the same, marked as replayed. It counts as refused once the last answer is in and all were refusals; it is
/// `not_applied` only where each of them said so.
fn merge_answers(world: &mut World, id: u64, result: Result<Answer, Refusal>) -> Option<Result<Answer, Refusal>> {
    let Some(keyed) = world.clients.keyed.get_mut(&id) else { return Some(result) };
    keyed.under_way -= 1;
    match (result, &keyed.first) {
        (Ok(Answer::Written(written)), Some(first)) => {
            // A repeated write comes to the same result at the same index, and all but one answer are marked as replayed.
            let same = Written { replayed: first.replayed, ..written.clone() } == *first;
            if !same || !(first.replayed || written.replayed) {
                let failure = format!("op{id} comes to {first:?}, and again to {written:?}");
                world.fail(failure);
            }
            None
        }
        (Ok(Answer::Written(written)), None) => {
            keyed.first = Some(written.clone());
            Some(Ok(Answer::Written(written)))
        }
        (Ok(other), _) => Some(Ok(other)),
        (Err(refusal), first) => {
            keyed.maybe_applied |= refusal.outcome == Outcome::Unknown;
            // Only after the last answer is it known that no request has succeeded.
            let last = first.is_none() && keyed.left + keyed.under_way == 0;
            let outcome = if keyed.maybe_applied { Outcome::Unknown } else { refusal.outcome };
            last.then_some(Err(Refusal { outcome, ..refusal }))
        }
    }
}

/// Begins the next operation of a client.
pub fn act(world: &mut World, client: usize) {
    if world.clients.stopped {
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
    // Seeded by the number of the operation, so that what it draws shifts no other draw.
    let mut rng = Rng::new(id << 32 ^ called);
    let is_calm = |key| {
        // Two conditions at once on one register are enough to test them against each other.
        let asked = |open: &&OpenOperation| open.key == key && matches!(open.seen, Seen::Cas { .. } | Seen::Delete(_));
        world.clients.open.values().filter(asked).count() < 2
    };
    let invocation = generator::draw(id, choice, which, &mut rng, &world.clients.latest_seen, is_calm);
    invoke(world, client, at, invocation, &mut rng);
    let wait = ANSWER_WAIT + pause;
    world.after(if world.clients.open.contains_key(&id) { wait } else { pause }, Event::Client(client));
}

/// Puts a key with a `ttl` through a node.
pub fn put_with_ttl(world: &mut World, at: usize, name: &'static str, seconds: u64) {
    let (invocation, mut rng) = (generator::put_with_ttl(world.clients.next, name, seconds), world.clients.rng.fork());
    invoke(world, EXPIRY_CLIENT, at, invocation, &mut rng);
}

/// Gives a key a new `ttl` through a node.
pub fn touch(world: &mut World, at: usize, name: &'static str, seconds: u64) {
    let mut rng = world.clients.rng.fork();
    invoke(world, EXPIRY_CLIENT, at, generator::touch(name, seconds), &mut rng);
}

/// Begins an operation, which gets the next number.
fn invoke(world: &mut World, client: usize, at: usize, Invocation { key, seen, request }: Invocation, rng: &mut Rng) {
    let (id, called) = (world.clients.next, world.now);
    world.clients.next += 1;
    let list = if let ClientRequest::Page { list, stale } = &request { Some((list.clone(), *stale)) } else { None };
    let may_be_old = match &request {
        ClientRequest::Page { stale, .. } => *stale,
        ClientRequest::Read(_) => rng.chance(30),
        ClientRequest::Write(_) => false,
    };
    let bound = (may_be_old && rng.chance(80)).then(|| 50 + rng.below(1000));
    world.clients.open.insert(id, OpenOperation { client, at, key, called, seen: seen.clone(), list, bound });
    if let ClientRequest::Write(command) = &request
        && let Some(ms) = generator::ttl_ms(command)
    {
        world.clients.kept_until.insert(id, called + ms);
    }
    world.trace(|| format!("c{client} op{id} {seen:?} k{key} on n{at}"));
    send_request(world, id, at, request, bound, rng);
}

/// Sends an operation to a node. Some writes get an idempotency key, and are sent more than once.
fn send_request(world: &mut World, id: u64, at: usize, request: ClientRequest, bound: Option<u64>, rng: &mut Rng) {
    let outbox = world.outbox(at);
    let bounds = Bounds { max_stale_ms: bound, ..Bounds::default() };
    let input = match request {
        ClientRequest::Write(command) if rng.chance(KEYED_PERCENT) => {
            let once = IdempotencyKey { key: format!("op{id}").into(), fingerprint: id.into() };
            let write = Write { idempotency_key: Some(once), by: registers::token(id), command };
            let left = 1 + rng.below(2);
            let keyed = KeyedWrite { write: write.clone(), left, under_way: 1, maybe_applied: false, first: None };
            world.clients.keyed.insert(id, keyed);
            world.after(5 + rng.below(RETRY_WITHIN), Event::Retry(id));
            return send(world, id, at, write);
        }
        ClientRequest::Write(command) => {
            let write = Write { idempotency_key: None, by: registers::token(id), command };
            return send(world, id, at, write);
        }
        ClientRequest::Read(key) => {
            let (is_stale, query) = (bound.is_some(), Query::Key(key.to_vec()));
            read_input(
                is_stale,
                bounds,
                deadline(world, at),
                outbox.reply(move |result| Reply::Read { operation: id, query, result }),
            )
        }
        ClientRequest::Page { list, stale } => {
            let query = Query::Page(list);
            read_input(
                stale,
                bounds,
                deadline(world, at),
                outbox.reply(move |result| Reply::Read { operation: id, query, result }),
            )
        }
    };
    world.input(at, input);
}

fn read_input(
    is_stale: bool,
    bounds: Bounds,
    deadline: u64,
    reply: huskv::consensus::Reply<Result<ReadGrant, Refusal>>,
) -> Input {
    let consistency = if is_stale { Consistency::Stale } else { Consistency::Linearizable };
    Input::Read { consistency, bounds, deadline, reply }
}

/// Records the answer to a write.
pub fn answered(world: &mut World, id: u64, now: u64, result: Result<Answer, Refusal>) {
    world.trace(|| format!("op{id} {result:?}"));
    if let Err(refusal) = &result
        && refusal.code == Code::DiskNearlyFull
        && refusal.outcome != Outcome::NotApplied
    {
        world.fail(format!("op{id} is refused for want of space, and may have been applied: {refusal:?}"));
    }
    let Some(result) = merge_answers(world, id, result) else { return };
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.digest = world.digest.rotate_left(5) ^ now ^ (id << 20) ^ u64::from(result.is_ok());
    match result {
        Ok(Answer::Written(Written { index, outcome, .. })) => {
            world.clients.acknowledged += 1;
            // Which node has answered a write that was sent more than once is not known.
            if !world.clients.keyed.contains_key(&id) {
                *world.clients.by_node.entry(open.at).or_default() += 1;
            }
            // One entry is one version: two writes with the same version would be one lost.
            if let Some(other) = world.clients.versions.insert(index, id) {
                world.fail(format!("op{other} and op{id} were both given version {index}"));
            }
            if let CommandResult::Touched(item) = &outcome
                && item.by != registers::token(id)
            {
                world.fail(format!("op{id} touches a key, which then has the token {:?}", item.by));
            }
            if matches!(open.seen, Seen::Put(_) | Seen::Cas { new: Some(_), .. }) {
                acknowledgement::write_answered(world, id, Some(index));
            }
            match registers::outcome(open.key, &open.seen, index, &outcome) {
                Some(observations) => record(world, &open, now, observations),
                None => world.fail(format!("op{id}, {:?}, comes to {outcome:?}", open.seen)),
            }
        }
        Ok(answer) => world.fail(format!("op{id} was answered by {answer:?}")),
        Err(refusal) if refusal.outcome == Outcome::NotApplied => acknowledgement::write_answered(world, id, None),
        Err(_) => {
            let operation = Operation { client: open.client, called: open.called, returned: None, seen: open.seen };
            world.clients.history.entry(open.key).or_default().push(operation);
        }
    }
}

/// Records the answer to a read.
pub fn read(world: &mut World, id: u64, now: u64, result: Result<Fetched, Refusal>) {
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.trace(|| format!("op{id} {result:?}"));
    let Ok(fetched) = result else { return };
    world.digest =
        world.digest.rotate_left(5) ^ now ^ (id << 20) ^ fetched.value.as_ref().map_or(7, |item| item.version);
    check_staleness(world, id, &open, fetched.index);
    if fetched.value.as_ref().is_some_and(|item| item.version > fetched.index) {
        world.fail(format!("op{id} reads at index {} what is newer: {:?}", fetched.index, fetched.value));
    }
    match registers::item(open.key, fetched.value.as_deref()) {
        Some(_) if open.bound.is_some() => {}
        Some(observations) => record(world, &open, now, vec![observations]),
        None => world.fail(format!("op{id} reads {:?}, which no client has written", fetched.value)),
    }
}

/// Records the answer to a list.
pub fn listed(world: &mut World, id: u64, now: u64, result: Result<Listed, Refusal>) {
    let Some(open) = world.clients.open.remove(&id) else { return };
    world.trace(|| format!("op{id} {result:?}"));
    let (Ok(listed), Some((list, stale))) = (result, &open.list) else { return };
    world.digest = world.digest.rotate_left(5) ^ now ^ (id << 20) ^ listed.page.items.len() as u64;
    check_staleness(world, id, &open, listed.index);
    match registers::page(list, &listed.page, listed.index) {
        // A stale page is one state too, but not the present one, so the checker does not see it.
        Some(_) if *stale => {}
        Some(observations) => record(world, &open, now, observations),
        None => world.fail(format!("op{id} reads a torn page: {listed:?}")),
    }
}

/// Checks that a stale read is no older than its bound.
///
/// Say `max_stale` is 500 ms, the read begins at 9000 and is answered at 9300. Its state must be the latest one of some
/// moment since 8800 (500 ms before the answer), so it has at least the index that any node had applied by then.
fn check_staleness(world: &mut World, id: u64, open: &OpenOperation, index: u64) {
    let Some(bound) = open.bound else { return };
    // The state must be the latest of some moment from here on.
    let moment = open.called.min(world.now.saturating_sub(bound));
    let known = world.observed.applied_by(moment);
    if index < known {
        world.fail(format!(
            "op{id} reads the state of {index}, not older than {bound} ms, and {known} was there at {moment}"
        ));
    }
}

/// Records what an answer says of registers.
fn record(world: &mut World, open: &OpenOperation, now: u64, observations: Vec<Observation>) {
    let operation = |seen| Operation { client: open.client, called: open.called, returned: Some(now), seen };
    for observations in observations {
        match observations {
            Observation::Happened { key, seen, version } => {
                let value = match seen {
                    Seen::Put(value) | Seen::Get(Some(value)) | Seen::Cas { new: Some(value), .. } => Some(value),
                    _ => None,
                };
                if let (Some(value), Some(version)) = (value, version) {
                    world.clients.latest_seen.insert(key, (version, value));
                    acknowledgement::write_answered(world, value, Some(version));
                }
                world.clients.history.entry(key).or_default().push(operation(seen));
            }
            Observation::Had { key, version } => world.clients.had.push((key, version, operation(Seen::Get(None)))),
        }
    }
}
