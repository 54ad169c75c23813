//! What each client's write came to, by the order in which the nodes applied them.
//!
//! Why: a client that hears nothing knows nothing, and many conditions of unknown outcome tangle a history beyond what can
//! be searched. The entries are known, so a store that is as plain as can be says what came of each; and what a client
//! was told must agree with it.
//!
//! Not here: whether the order itself is one that clients could see (`linear`).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use huskv::model::{Command, Condition, Operation, Proposal, Test, Write};

use crate::workload::registers;

/// Keys with their values, versions and when they may go; and the cluster's clock.
#[derive(Default)]
struct Store(BTreeMap<Bytes, (Bytes, u64, Option<u64>)>, u64);

/// What a plain store makes of the entries.
#[derive(Default)]
pub struct Replayed {
    /// Whether each write with a number did what it was to do, as far as the entries are known without a gap.
    pub done: BTreeMap<u64, bool>,
    /// The versions whose time was over, each with the index of its removal.
    pub expired: Vec<(u64, u64)>,
}

impl Store {
    fn is(&self, key: &Bytes, condition: Condition) -> bool {
        let version = self.0.get(key).map(|(_, version, _)| *version);
        match condition {
            Condition::Always => true,
            Condition::Exists => version.is_some(),
            Condition::Absent => version.is_none(),
            Condition::Version(wanted) => version == Some(wanted),
        }
    }

    /// Whether the command did what it was to do, rather than nothing, or something else.
    fn apply(&mut self, index: u64, command: &Command) -> bool {
        match command {
            Command::Put { key, value, condition, ttl } if self.is(key, *condition) => {
                let expires = ttl.map(|ttl| ttl.from(self.1));
                self.0.insert(key.clone(), (value.bytes.clone(), index, expires));
                true
            }
            Command::Touch { key, ttl, .. } => {
                let expires = ttl.from(self.1);
                self.0.get_mut(key).map(|(_, _, at)| *at = Some(expires)).is_some()
            }
            Command::Delete { key, condition } if self.is(key, *condition) => self.0.remove(key).is_some(),
            Command::DeletePrefix { prefix } => {
                let before = self.0.len();
                self.0.retain(|key, _| !key.starts_with(prefix));
                self.0.len() < before
            }
            Command::Txn(txn) => {
                let holds = txn.checks.iter().all(|check| match &check.test {
                    Test::Is(condition) => self.is(&check.key, *condition),
                    Test::Holds(bytes) => self.0.get(&check.key).is_some_and(|(held, ..)| held == bytes),
                });
                for operation in if holds { &txn.then } else { &txn.otherwise } {
                    match operation {
                        Operation::Put { key, value, ttl } => {
                            let expires = ttl.map(|ttl| ttl.from(self.1));
                            self.0.insert(key.clone(), (value.bytes.clone(), index, expires));
                        }
                        Operation::Delete { key } => drop(self.0.remove(key)),
                        Operation::Get { .. } => {}
                    }
                }
                holds
            }
            Command::Put { .. }
            | Command::Delete { .. }
            | Command::Move { .. }
            | Command::Expire { .. }
            | Command::Tick => false,
        }
    }
}

/// Replays the entries that are known, up to the first gap.
pub fn replay<'a>(entries: impl Iterator<Item = (u64, Option<&'a Proposal>)>) -> Replayed {
    // The first entry of a cluster is its founder's membership, which is on its disk from the start.
    let (mut store, mut found, mut last) = (Store::default(), Replayed::default(), 1);
    let mut names = BTreeSet::new();
    for (index, proposal) in entries {
        if index > last + 1 {
            break;
        }
        last = index;
        let Some(Proposal { stamp, write: Write { idempotency_key: once, command } }) = proposal else { continue };
        store.1 = store.1.max(*stamp);
        if once.as_ref().is_some_and(|once| !names.insert(&once.key)) {
            continue;
        }
        let done = store.apply(index, command);
        found.done.extend(registers::operation(command).map(|id| (id, done)));
        if let Command::Expire { keys } = command {
            for (key, version) in keys {
                let over = |(_, is, expires): &(Bytes, u64, Option<u64>)| {
                    is == version && expires.is_some_and(|at| at <= store.1)
                };
                if store.0.get(key).is_some_and(over) {
                    store.0.remove(key);
                    found.expired.push((*version, index));
                }
            }
        }
    }
    found
}
