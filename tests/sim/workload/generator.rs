//! The generator of client operations: each as a request to a node, and as an operation on a register.
//!
//! Invariants: every value is the number of its operation, so a condition on a version is one on the value that was written
//! there.
//!
//! See also: `clients` for when and to which node an operation is sent, `registers` for the keys.

use bytes::Bytes;
use huskv::model::{Check, Command, Condition, List, Operation, Test, Ttl, Txn, Value, after_prefix};

use crate::linear::Seen;
use crate::rng::Rng;
use crate::workload::registers::{FIRST, LatestSeen, PAIR, SECOND, TTL_KEYS, key};

/// An operation before it is sent.
pub struct Invocation {
    pub key: u64,
    pub seen: Seen,
    pub request: ClientRequest,
}

/// The request that it is sent as.
pub enum ClientRequest {
    Write(Command),
    Read(Bytes),
    Page { list: List, stale: bool },
}

/// Draws an operation: a change in 5 of 10 choices, a deletion in 1, else a read.
///
/// A register for which `is_calm` is false is put or read only: many conditions of unknown outcome at once on one register
/// would make its history too costly to check.
pub fn draw(
    id: u64,
    choice: u64,
    which: u64,
    rng: &mut Rng,
    known: &LatestSeen,
    is_calm: impl Fn(u64) -> bool,
) -> Invocation {
    match choice {
        0..5 if rng.below(6) == 0 => write_with_ttl(id, rng),
        0..5 => change(id, which, rng, known, is_calm),
        5 => removal(which, rng, known, is_calm),
        _ => read(which, rng),
    }
}

fn change(id: u64, which: u64, rng: &mut Rng, known: &LatestSeen, is_calm: impl Fn(u64) -> bool) -> Invocation {
    let put =
        |condition| ClientRequest::Write(Command::Put { key: key(which), value: value(id), condition, ttl: None });
    let cas = |expected| Seen::Cas { expected, new: Some(id), done: None };
    let (key, seen, request) = match rng.below(8) {
        3 if is_calm(which) => (which, cas(None), put(Condition::Absent)),
        4 | 5
            if is_calm(which)
                && let Some(&(version, value)) = known.get(&which) =>
        {
            (which, cas(Some(value)), put(Condition::Version(version)))
        }
        7 if is_calm(PAIR) => match known.get(&PAIR) {
            None => (PAIR, cas(None), ClientRequest::Write(write_pair(id, Some(Test::Is(Condition::Absent))))),
            Some(&(version, held)) => {
                let test = if rng.chance(50) { Test::Is(Condition::Version(version)) } else { Test::Holds(text(held)) };
                (PAIR, cas(Some(held)), ClientRequest::Write(write_pair(id, Some(test))))
            }
        },
        6 | 7 => (PAIR, Seen::Put(id), ClientRequest::Write(write_pair(id, None))),
        _ => (which, Seen::Put(id), put(Condition::Always)),
    };
    Invocation { key, seen, request }
}

/// Draws a put or a touch with a `ttl`. A touch never shortens the `ttl` of a put.
fn write_with_ttl(id: u64, rng: &mut Rng) -> Invocation {
    let (key, condition) = (Bytes::from(format!("t{}", rng.below(2))), Condition::Always);
    let seconds = |from: u64, rng: &mut Rng| ttl(from + rng.below(6));
    let (seen, command) = if rng.chance(30) {
        (Seen::Get(None), Command::Touch { key, ttl: seconds(7, rng), condition })
    } else {
        (Seen::Put(id), Command::Put { key, value: value(id), condition, ttl: Some(seconds(1, rng)) })
    };
    Invocation { key: TTL_KEYS, seen, request: ClientRequest::Write(command) }
}

/// A put of this key with a `ttl`.
pub fn put_with_ttl(id: u64, name: &'static str, seconds: u64) -> Invocation {
    let (key, ttl) = (Bytes::from_static(name.as_bytes()), Some(ttl(seconds)));
    let command = Command::Put { key, value: value(id), condition: Condition::Always, ttl };
    Invocation { key: TTL_KEYS, seen: Seen::Put(id), request: ClientRequest::Write(command) }
}

/// A touch of this key.
pub fn touch(name: &'static str, seconds: u64) -> Invocation {
    let key = Bytes::from_static(name.as_bytes());
    let command = Command::Touch { key, ttl: ttl(seconds), condition: Condition::Always };
    Invocation { key: TTL_KEYS, seen: Seen::Get(None), request: ClientRequest::Write(command) }
}

fn ttl(seconds: u64) -> Ttl {
    Ttl(u32::try_from(seconds).expect("small"))
}

/// The `ttl` of a put, in milliseconds.
pub fn ttl_ms(command: &Command) -> Option<u64> {
    match command {
        Command::Put { ttl: Some(ttl), .. } => Some(ttl.from(0)),
        _ => None,
    }
}

fn removal(which: u64, rng: &mut Rng, known: &LatestSeen, is_calm: impl Fn(u64) -> bool) -> Invocation {
    let (key, seen, command) = match (rng.below(4), known.get(&which)) {
        (0 | 1, Some(&(version, value))) if is_calm(which) => {
            let seen = Seen::Cas { expected: Some(value), new: None, done: None };
            (which, seen, Command::Delete { key: key(which), condition: Condition::Version(version) })
        }
        (2, _) if is_calm(PAIR) => {
            (PAIR, Seen::Delete(None), Command::DeletePrefix { prefix: Bytes::from_static(b"p/") })
        }
        _ => (which, Seen::Delete(None), Command::delete(key(which))),
    };
    Invocation { key, seen, request: ClientRequest::Write(command) }
}

fn read(which: u64, rng: &mut Rng) -> Invocation {
    let page = |prefix: &[u8], reverse, stale| {
        let (start, end) = (prefix.to_vec(), after_prefix(prefix));
        ClientRequest::Page { list: List { start, end, reverse, limit: 10, keys_only: false }, stale }
    };
    let reverse = rng.chance(50);
    let request = match rng.below(8) {
        5 => page(b"p", reverse, false),
        6 => page(b"", reverse, false),
        7 => page(b"", reverse, true),
        _ => ClientRequest::Read(key(which)),
    };
    Invocation { key: which, seen: Seen::Get(None), request }
}

fn text(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

fn value(id: u64) -> Value {
    Value::binary(text(id))
}

/// A transaction that sets both keys of the pair where `test` holds, and reads both where not.
fn write_pair(id: u64, test: Option<Test>) -> Command {
    let keys = [FIRST, SECOND].map(Bytes::from_static);
    let checks = test.map(|test| Check { key: keys[id as usize % 2].clone(), test });
    let put = |key: &Bytes| Operation::Put { key: key.clone(), value: value(id), ttl: None };
    let get = |key: &Bytes| Operation::Get { key: key.clone() };
    Command::Txn(Txn {
        checks: checks.into_iter().collect(),
        then: keys.iter().map(put).collect(),
        otherwise: keys.iter().map(get).collect(),
    })
}
