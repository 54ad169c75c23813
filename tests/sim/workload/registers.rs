//! The registers that the checker looks at, and what an answer says of them.
//!
//! Why: the checker looks at one register at a time. Two keys that are only ever written together are one register, the
//! pair, so whatever a transaction, a list or a deletion by prefix tears apart is seen there.

use std::collections::BTreeMap;

use bytes::Bytes;
use huskv::model::{Command, CommandResult, Item, List, OpResult, Operation, Page, TokenName, Value};

use crate::linear::Seen;

/// The number of single keys, each a register of its own.
pub const KEYS: u64 = 4;

/// The register that the keys `p/1` and `p/2` are together.
pub const PAIR: u64 = KEYS;

/// The first key of the pair.
pub const FIRST: &[u8] = b"p/1";

/// The second key of the pair.
pub const SECOND: &[u8] = b"p/2";

/// The register that stands for all keys with a `ttl`, which are put and touched and never read.
pub const TTL_KEYS: u64 = KEYS + 1;

/// What an answer says of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// This operation took place. Where a version is known, the register got it, or had it.
    Happened { key: u64, seen: Seen, version: Option<u64> },
    /// The register had this version at some moment of the operation.
    Had { key: u64, version: u64 },
}

/// The latest version that any client has seen, with its value, by register.
pub type LatestSeen = BTreeMap<u64, (u64, u64)>;

pub fn key(at: u64) -> Bytes {
    Bytes::from(format!("k{at}"))
}

/// The token with which an operation is sent; a third of them has none.
pub fn token(operation: u64) -> Option<TokenName> {
    let which = operation % 3;
    (which > 0).then(|| format!("token-{which}").parse().expect("a token name"))
}

/// The number of the operation of a command, if its values say so.
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

/// What the result of a write at `index` says; `None` where it is no possible result of the operation.
pub fn outcome(key: u64, seen: &Seen, index: u64, outcome: &CommandResult) -> Option<Vec<Observation>> {
    let happened = |seen, version| vec![Observation::Happened { key, seen, version }];
    let cas = |done| match *seen {
        Seen::Cas { expected, new, .. } => Some(Seen::Cas { expected, new, done: Some(done) }),
        _ => None,
    };
    Some(match (seen, outcome) {
        (Seen::Get(None), CommandResult::Touched(_) | CommandResult::NotFound) if key == TTL_KEYS => Vec::new(),
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
            let mut observations = happened(cas(false)?, None);
            observations.push(Observation::Had { key, version: *version });
            observations
        }
        (Seen::Cas { .. }, CommandResult::Txn { succeeded: false, results }) => {
            // The transaction that fails reads both keys, so it tells what the register held instead.
            let [OpResult::Got(first), OpResult::Got(second)] = &results[..] else { return None };
            let mut observations = happened(cas(false)?, None);
            observations.push(pair(first.as_ref(), second.as_ref())?);
            observations
        }
        _ => return None,
    })
}

/// What an item says of its register; `None` where no client has written such a value, or none with this token.
pub fn item(key: u64, item: Option<&Item>) -> Option<Observation> {
    let value = item.map(|item| number(&item.value).filter(|id| item.by == token(*id)));
    if value == Some(None) {
        return None;
    }
    Some(Observation::Happened { key, seen: Seen::Get(value.flatten()), version: item.map(|item| item.version) })
}

/// What the keys of the pair say; `None` where they differ.
fn pair(first: Option<&Item>, second: Option<&Item>) -> Option<Observation> {
    if first != second { None } else { item(PAIR, first) }
}

/// What a page says of the registers in its range; `None` where it is not one state.
pub fn page(list: &List, page: &Page, index: u64) -> Option<Vec<Observation>> {
    let held: BTreeMap<&[u8], &Item> =
        page.items.iter().filter_map(|(key, item)| Some((&key[..], item.as_deref()?))).collect();
    let mut order: Vec<_> = page.items.iter().map(|(key, _)| key).collect();
    if list.reverse {
        order.reverse();
    }
    // A page is one state: whole, in order, and without an item newer than the index that it names.
    let sound = held.len() == page.items.len() && !page.more && order.is_sorted();
    if !sound || held.values().any(|item| item.version > index) {
        return None;
    }
    let mut observations = vec![pair(held.get(FIRST).copied(), held.get(SECOND).copied())?];
    if list.start.is_empty() {
        for at in 0..KEYS {
            observations.push(item(at, held.get(&key(at)[..]).copied())?);
        }
    }
    Some(observations)
}
