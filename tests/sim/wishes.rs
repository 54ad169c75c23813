//! What clients want of the store: as commands and reads of a node, and as changes of the registers that are checked.
//!
//! Why: the checker looks at one register at a time. Two keys that are only ever written together are one of them, the
//! pair, so what a transaction, a page or a removal by prefix tears apart is seen there.
//!
//! Laws: every value is the number of its operation, so a condition on a version is one on the value that was written
//! there. What a wish draws, it draws from a source of its own.
//!
//! Not here: when and on which node clients ask (`clients`).

use std::collections::BTreeMap;

use bytes::Bytes;
use huskv::model::{
    Check, Command, CommandResult, Condition, Item, List, OpResult, Operation, Page, Test, Ttl, Txn, Value,
    after_prefix,
};

use crate::linear::Seen;
use crate::rng::Rng;

/// How many keys there are, each a register.
pub const KEYS: u64 = 4;

/// The register that two keys are.
const PAIR: u64 = KEYS;

/// The first of the pair.
const FIRST: &[u8] = b"p/1";

/// The other one.
const SECOND: &[u8] = b"p/2";

/// The register that stands for all keys which expire; they are put, touched and never read.
const TIMED: u64 = KEYS + 1;

/// One wish.
pub struct Wish {
    pub key: u64,
    pub seen: Seen,
    pub how: How,
}

/// How it is asked for.
pub enum How {
    Write(Command),
    Key(Bytes),
    Page { list: List, stale: bool },
}

/// What an answer says of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// This happened, and where it is known the register has this version since, or had it.
    Happened { key: u64, seen: Seen, version: Option<u64> },
    /// The register had this version.
    Had { key: u64, version: u64 },
}

/// The latest version with its value that any client has seen, by register.
pub type Known = BTreeMap<u64, (u64, u64)>;

fn key(at: u64) -> Bytes {
    Bytes::from(format!("k{at}"))
}

/// What a client wishes for: a change in 5 of 10 choices, a removal in 1, else a read.
/// Where `calm` is not true of a register, it is put or read only: many conditions under way at once on one register, all
/// of unknown outcome, would tangle its history beyond what can be searched.
pub fn draw(id: u64, choice: u64, which: u64, rng: &mut Rng, known: &Known, calm: impl Fn(u64) -> bool) -> Wish {
    match choice {
        0..5 if rng.below(6) == 0 => timed(id, rng),
        0..5 => change(id, which, rng, known, calm),
        5 => removal(which, rng, known, calm),
        _ => look(which, rng),
    }
}

fn change(id: u64, which: u64, rng: &mut Rng, known: &Known, calm: impl Fn(u64) -> bool) -> Wish {
    let put = |condition| How::Write(Command::Put { key: key(which), value: value(id), condition, ttl: None });
    let cas = |expected| Seen::Cas { expected, new: Some(id), done: None };
    let (key, seen, how) = match rng.below(8) {
        3 if calm(which) => (which, cas(None), put(Condition::Absent)),
        4 | 5
            if calm(which)
                && let Some(&(version, value)) = known.get(&which) =>
        {
            (which, cas(Some(value)), put(Condition::Version(version)))
        }
        7 if calm(PAIR) => match known.get(&PAIR) {
            None => (PAIR, cas(None), How::Write(both(id, Some(Test::Is(Condition::Absent))))),
            Some(&(version, held)) => {
                let test = if rng.chance(50) { Test::Is(Condition::Version(version)) } else { Test::Holds(text(held)) };
                (PAIR, cas(Some(held)), How::Write(both(id, Some(test))))
            }
        },
        6 | 7 => (PAIR, Seen::Put(id), How::Write(both(id, None))),
        _ => (which, Seen::Put(id), put(Condition::Always)),
    };
    Wish { key, seen, how }
}

/// A touch never shortens what a put has asked for.
fn timed(id: u64, rng: &mut Rng) -> Wish {
    let (key, condition) = (Bytes::from(format!("t{}", rng.below(2))), Condition::Always);
    let seconds = |from: u64, rng: &mut Rng| ttl(from + rng.below(6));
    let (seen, command) = if rng.chance(30) {
        (Seen::Get(None), Command::Touch { key, ttl: seconds(7, rng), condition })
    } else {
        (Seen::Put(id), Command::Put { key, value: value(id), condition, ttl: Some(seconds(1, rng)) })
    };
    Wish { key: TIMED, seen, how: How::Write(command) }
}

/// That a key of this name is kept for so long.
pub fn keep(id: u64, name: &'static str, seconds: u64) -> Wish {
    let (key, ttl) = (Bytes::from_static(name.as_bytes()), Some(ttl(seconds)));
    let command = Command::Put { key, value: value(id), condition: Condition::Always, ttl };
    Wish { key: TIMED, seen: Seen::Put(id), how: How::Write(command) }
}

/// That it is kept for so long from now on.
pub fn touch(name: &'static str, seconds: u64) -> Wish {
    let key = Bytes::from_static(name.as_bytes());
    let command = Command::Touch { key, ttl: ttl(seconds), condition: Condition::Always };
    Wish { key: TIMED, seen: Seen::Get(None), how: How::Write(command) }
}

fn ttl(seconds: u64) -> Ttl {
    Ttl(u32::try_from(seconds).expect("small"))
}

/// For how many milliseconds what a command writes is to be kept, if it says so.
pub fn kept(command: &Command) -> Option<u64> {
    match command {
        Command::Put { ttl: Some(ttl), .. } => Some(ttl.from(0)),
        _ => None,
    }
}

fn removal(which: u64, rng: &mut Rng, known: &Known, calm: impl Fn(u64) -> bool) -> Wish {
    let (key, seen, command) = match (rng.below(4), known.get(&which)) {
        (0 | 1, Some(&(version, value))) if calm(which) => {
            let seen = Seen::Cas { expected: Some(value), new: None, done: None };
            (which, seen, Command::Delete { key: key(which), condition: Condition::Version(version) })
        }
        (2, _) if calm(PAIR) => (PAIR, Seen::Delete(None), Command::DeletePrefix { prefix: Bytes::from_static(b"p/") }),
        _ => (which, Seen::Delete(None), Command::delete(key(which))),
    };
    Wish { key, seen, how: How::Write(command) }
}

fn look(which: u64, rng: &mut Rng) -> Wish {
    let page = |prefix: &[u8], reverse, stale| {
        let (start, end) = (prefix.to_vec(), after_prefix(prefix));
        How::Page { list: List { start, end, reverse, limit: 10, keys_only: false }, stale }
    };
    let reverse = rng.chance(50);
    let how = match rng.below(8) {
        5 => page(b"p", reverse, false),
        6 => page(b"", reverse, false),
        7 => page(b"", reverse, true),
        _ => How::Key(key(which)),
    };
    Wish { key: which, seen: Seen::Get(None), how }
}

fn text(value: u64) -> Bytes {
    Bytes::from(value.to_string())
}

fn value(id: u64) -> Value {
    Value::binary(text(id))
}

/// Sets the pair where `test` holds of it, and reads it where not.
fn both(id: u64, test: Option<Test>) -> Command {
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

/// The number of the operation that a command belongs to, where its values say so.
pub fn operation(command: &Command) -> Option<u64> {
    let value = match command {
        Command::Put { value, .. } => value,
        Command::Txn(txn) => txn.then.iter().find_map(|operation| match operation {
            Operation::Put { value, .. } => Some(value),
            _ => None,
        })?,
        _ => return None,
    };
    number(value)
}

fn number(value: &Value) -> Option<u64> {
    std::str::from_utf8(&value.bytes).ok()?.parse().ok()
}

/// What the outcome of a write at `index` says; None where no such answer can be.
pub fn outcome(key: u64, seen: &Seen, index: u64, outcome: &CommandResult) -> Option<Vec<Learned>> {
    let happened = |seen, version| vec![Learned::Happened { key, seen, version }];
    let cas = |done| match *seen {
        Seen::Cas { expected, new, .. } => Some(Seen::Cas { expected, new, done: Some(done) }),
        _ => None,
    };
    Some(match (seen, outcome) {
        (Seen::Get(None), CommandResult::Touched(_) | CommandResult::NotFound) if key == TIMED => Vec::new(),
        (Seen::Put(_), CommandResult::Put { .. } | CommandResult::Txn { succeeded: true, .. }) => {
            happened(seen.clone(), Some(index))
        }
        (Seen::Delete(_), CommandResult::Deleted { existed }) => happened(Seen::Delete(Some(*existed)), None),
        (Seen::Delete(_), CommandResult::PrefixDeleted { deleted: 0, more: false }) => {
            happened(Seen::Delete(Some(false)), None)
        }
        (Seen::Delete(_), CommandResult::PrefixDeleted { deleted: 2, more: false }) => {
            happened(Seen::Delete(Some(true)), None)
        }
        (Seen::Cas { new: Some(_), .. }, CommandResult::Put { .. } | CommandResult::Txn { succeeded: true, .. }) => {
            happened(cas(true)?, Some(index))
        }
        (Seen::Cas { new: None, .. }, CommandResult::Deleted { existed: true }) => happened(cas(true)?, None),
        (Seen::Cas { .. }, CommandResult::ConditionFailed { version }) => {
            let mut learned = happened(cas(false)?, None);
            learned.push(Learned::Had { key, version: *version });
            learned
        }
        (Seen::Cas { .. }, CommandResult::Txn { succeeded: false, results }) => {
            let [OpResult::Got(first), OpResult::Got(second)] = &results[..] else { return None };
            let mut learned = happened(cas(false)?, None);
            learned.push(pair(first.as_ref(), second.as_ref())?);
            learned
        }
        _ => return None,
    })
}

/// What an item says of its register.
pub fn item(key: u64, item: Option<&Item>) -> Option<Learned> {
    let value = item.map(|item| number(&item.value));
    if value == Some(None) {
        return None;
    }
    Some(Learned::Happened { key, seen: Seen::Get(value.flatten()), version: item.map(|item| item.version) })
}

/// What the two of the pair say; None where they are torn.
fn pair(first: Option<&Item>, second: Option<&Item>) -> Option<Learned> {
    if first != second { None } else { item(PAIR, first) }
}

/// What a page, which is one state, says of the registers in its range; None where it is none.
pub fn page(list: &List, page: &Page, index: u64) -> Option<Vec<Learned>> {
    let held: BTreeMap<&[u8], &Item> =
        page.items.iter().filter_map(|(key, item)| Some((&key[..], item.as_ref()?))).collect();
    let mut order: Vec<_> = page.items.iter().map(|(key, _)| key).collect();
    if list.reverse {
        order.reverse();
    }
    let sound = held.len() == page.items.len() && !page.more && order.is_sorted();
    if !sound || held.values().any(|item| item.version > index) {
        return None;
    }
    let mut learned = vec![pair(held.get(FIRST).copied(), held.get(SECOND).copied())?];
    if list.start.is_empty() {
        for at in 0..KEYS {
            learned.push(item(at, held.get(&key(at)[..]).copied())?);
        }
    }
    Some(learned)
}
