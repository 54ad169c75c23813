//! The registers that the checker looks at, and what an answer says of them.

use std::collections::BTreeMap;

use bytes::Bytes;
use huskv::model::{Command, CommandResult, Item, List, OpResult, Operation, Page, Value};

use crate::linear::Seen;

/// ClientRequest many keys there are, each a register.
pub const KEYS: u64 = 4;

/// The register that two keys are.
pub const PAIR: u64 = KEYS;

/// The first of the pair.
pub const FIRST: &[u8] = b"p/1";

/// The other one.
pub const SECOND: &[u8] = b"p/2";

/// The register that stands for all keys which expire; they are put, touched and never read.
pub const TTL_KEYS: u64 = KEYS + 1;

/// What an answer says of a register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// This happened, and where it is known the register has this version since, or had it.
    Happened { key: u64, seen: Seen, version: Option<u64> },
    /// The register had this version.
    Had { key: u64, version: u64 },
}

/// The latest version with its value that any client has seen, by register.
pub type LatestSeen = BTreeMap<u64, (u64, u64)>;

pub fn key(at: u64) -> Bytes {
    Bytes::from(format!("k{at}"))
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
            let [OpResult::Got(first), OpResult::Got(second)] = &results[..] else { return None };
            let mut observations = happened(cas(false)?, None);
            observations.push(pair(first.as_ref(), second.as_ref())?);
            observations
        }
        _ => return None,
    })
}

/// What an item says of its register.
pub fn item(key: u64, item: Option<&Item>) -> Option<Observation> {
    let value = item.map(|item| number(&item.value));
    if value == Some(None) {
        return None;
    }
    Some(Observation::Happened { key, seen: Seen::Get(value.flatten()), version: item.map(|item| item.version) })
}

/// What the two of the pair say; None where they are torn.
fn pair(first: Option<&Item>, second: Option<&Item>) -> Option<Observation> {
    if first != second { None } else { item(PAIR, first) }
}

/// What a page, which is one state, says of the registers in its range; None where it is none.
pub fn page(list: &List, page: &Page, index: u64) -> Option<Vec<Observation>> {
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
    let mut observations = vec![pair(held.get(FIRST).copied(), held.get(SECOND).copied())?];
    if list.start.is_empty() {
        for at in 0..KEYS {
            observations.push(item(at, held.get(&key(at)[..]).copied())?);
        }
    }
    Some(observations)
}
