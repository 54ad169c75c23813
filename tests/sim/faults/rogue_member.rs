//! The rogue member: it forwards requests that no client may make, and replicates entries that cannot be decoded.
//!
//! Invariants: nothing of that is applied, and no node ends because of it, neither at once nor at its next start.
//!
//! See also: `impostor`; `SECURITY.md` for what a rogue member can do all the same (acknowledge, lead, vote).

use huskv::consensus::{Hop, Input};
use huskv::model::{
    Answer, Command, Condition, IdempotencyKey, Member, MemberChange, Operation, Outcome, Refusal, Request, Role, Ttl,
    Txn, Value, Write, codec,
};
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::rng::Rng;
use crate::world::outbox::Reply;
use crate::world::{Event, World};

/// Of 100 appends, how many are preceded by a corrupt form of them.
const CORRUPT_PERCENT: u64 = 3;

/// Sends a member a request that must be refused.
pub fn act(world: &mut World) {
    let pause = 200 + world.rogue_rng.below(1500);
    world.after(pause, Event::RogueMember);
    if !world.faults || world.clients.stopped {
        return;
    }
    let at = usize::try_from(world.rogue_rng.below(world.size as u64)).expect("small");
    if world.nodes[at].driver.is_none() {
        return;
    }
    if world.rogue_rng.chance(20) {
        return propose(world, at);
    }
    let request = illegal(&mut world.rogue_rng);
    let reply = world.outbox(at).reply(move |result| Reply::RogueMember { result });
    let (deadline, to) = (world.now + world.nodes[at].clock_offset + 5000, world.nodes[at].table.raft_id);
    world.input(at, Input::Request { request, deadline, hop: Hop::Leader, to, reply });
}

/// Checks that such a request was refused as `not_applied`.
pub fn answered(world: &mut World, at: usize, result: Result<Answer, Refusal>) {
    match result {
        Err(refusal) if refusal.outcome == Outcome::NotApplied => {}
        other => world.fail(format!("n{at} comes to {other:?} for a request that no client may make")),
    }
}

fn binary(bytes: &'static str) -> Value {
    Value::binary(bytes)
}

/// Draws a request that no client may make.
fn illegal(rng: &mut Rng) -> Request {
    let json = Value { content_type: "application/json".into(), ..binary("1,\"x\":2") };
    let put = |value| Command::Put { key: "k".into(), value, condition: Condition::Always, ttl: None };
    let get = || Operation::Get { key: "k0".into() };
    let once = Some(IdempotencyKey { key: "a name\n".into(), fingerprint: 1 });
    let (raft_id, raft_address, http_address) = (rng.next(), "n9:1".to_owned(), "n9:80".to_owned());
    let commands = [
        Command::put(vec![b'k'; 2000], "v"),
        Command::put("", "v"),
        Command::put(&b"k\xff"[..], "v"),
        put(json),
        put(Value { content_type: "a\r\nb".into(), ..binary("v") }),
        Command::DeletePrefix { prefix: "".into() },
        Command::Touch { key: "k0".into(), ttl: Ttl(0), condition: Condition::Always },
        Command::Txn(Txn { checks: Vec::new(), then: (0..200).map(|_| get()).collect(), otherwise: Vec::new() }),
        Command::Expire { keys: (0..200).map(|at: u64| (format!("k{at}").into(), at)).collect() },
        Command::Tick,
        Command::Move { raft_id, raft_address, http_address },
    ];
    match rng.below(16) {
        0 => Request::Write(Write { idempotency_key: once, by: None, command: Command::put("k0", "v") }),
        1 => Request::Join { node_id: "n\u{1b}[2J".into(), raft_address: "n0:1".into(), force: true },
        2 => Request::Join { node_id: "n0".into(), raft_address: "0.0.0.0:1".into(), force: true },
        3 => Request::Remove { node_id: String::new() },
        _ => Request::Write(rng.pick(&commands).clone().into()),
    }
}

/// Makes an entry one that no node could apply.
fn corrupt(rng: &mut Rng, entry: &mut Entry) {
    let member = Member {
        name: "n9".into(),
        raft_id: 9,
        raft_address: "n9:1".into(),
        http_address: "n9:80".into(),
        role: Role::Learner,
    };
    match rng.below(5) {
        0 => entry.data = vec![7; 20].into(),
        1 if entry.data.len() > 1 => entry.data = entry.data.slice(..entry.data.len() - 1),
        2 => entry.set_entry_type(EntryType::EntryConfChangeV2),
        3 => {
            entry.set_entry_type(EntryType::EntryConfChange);
            (entry.data, entry.context) = (Vec::new().into(), vec![9].into());
        }
        // A conf change without data: to raft it adds the voter 0.
        _ => {
            entry.set_entry_type(EntryType::EntryConfChange);
            let context = codec::encode(&MemberChange::Set(member));
            (entry.data, entry.context) = (Vec::new().into(), context.into());
        }
    }
}

/// Draws whether a corrupt form of an append is sent before it, and makes it.
pub fn corrupt_append(world: &mut World, message: &Message) -> Option<Message> {
    let append = message.get_msg_type() == MessageType::MsgAppend && !message.entries.is_empty();
    if !world.faults || !append || !world.rogue_rng.chance(CORRUPT_PERCENT) {
        return None;
    }
    let mut message = message.clone();
    let last = message.entries.len() - 1;
    corrupt(&mut world.rogue_rng, &mut message.mut_entries()[last]);
    Some(message)
}

/// Asks a node to propose what cannot be decoded, by a raft message that is never sent between sound nodes.
fn propose(world: &mut World, at: usize) {
    let to = world.nodes[at].table.raft_id;
    let Some(from) = world.nodes[at].table.peers.first().map(|(id, _, _)| *id) else { return };
    let mut entry = Entry::default();
    corrupt(&mut world.rogue_rng, &mut entry);
    let msg_type = MessageType::MsgPropose;
    let message = Message { msg_type, from, to, entries: vec![entry].into(), ..Message::default() };
    world.input(at, Input::Step(Box::new(message)));
}
