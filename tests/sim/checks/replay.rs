//! A model of the store: what each client's write comes to, in the order in which the nodes have applied them.
//!
//! Why: many conditions of unknown outcome make a history too costly to check. The entries are known, so a plain map says
//! what came of each condition, and the clients' answers must agree with it.
//!
//! See also: `linear`, which checks whether clients can have seen this order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use huskv::model::{Command, Condition, Operation, Proposal, Test, TokenName, Write};

use crate::workload::registers;

/// The keys, and the cluster clock.
#[derive(Default)]
struct Store(BTreeMap<Bytes, Held>, u64);

/// A key of the model.
struct Held {
    value: Bytes,
    version: u64,
    expires: Option<u64>,
    by: Option<TokenName>,
}

/// The results of a replay.
#[derive(Default)]
pub struct Replayed {
    /// Whether the condition of each numbered write held, up to the first gap in the entries.
    pub done: BTreeMap<u64, bool>,
    /// The versions that have expired, each with the index of the entry that removed it.
    pub expired: Vec<(u64, u64)>,
    /// The last entry before the first gap.
    pub last: u64,
    /// The token of the last write of each key that exists at that entry.
    pub tokens: BTreeMap<Vec<u8>, Option<TokenName>>,
}

impl Store {
    fn is(&self, key: &Bytes, condition: Condition) -> bool {
        let version = self.0.get(key).map(|held| held.version);
        match condition {
            Condition::Always => true,
            Condition::Exists => version.is_some(),
            Condition::Absent => version.is_none(),
            Condition::Version(wanted) => version == Some(wanted),
        }
    }

    /// Applies a command of a client with this token; whether its condition held.
    fn apply(&mut self, index: u64, command: &Command, by: Option<&TokenName>) -> bool {
        let by = || by.cloned();
        match command {
            Command::Put { key, value, condition, ttl } if self.is(key, *condition) => {
                let expires = ttl.map(|ttl| ttl.from(self.1));
                let held = Held { value: value.bytes.clone(), version: index, expires, by: by() };
                self.0.insert(key.clone(), held);
                true
            }
            Command::Touch { key, ttl, .. } => {
                let expires = ttl.from(self.1);
                self.0.get_mut(key).map(|held| (held.expires, held.by) = (Some(expires), by())).is_some()
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
                    Test::Holds(bytes) => self.0.get(&check.key).is_some_and(|held| held.value == bytes),
                });
                for operation in if holds { &txn.then } else { &txn.otherwise } {
                    match operation {
                        Operation::Put { key, value, ttl } => {
                            let expires = ttl.map(|ttl| ttl.from(self.1));
                            let held = Held { value: value.bytes.clone(), version: index, expires, by: by() };
                            self.0.insert(key.clone(), held);
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

/// Replays the entries, up to the first gap.
pub fn replay<'a>(entries: impl Iterator<Item = (u64, Option<&'a Proposal>)>) -> Replayed {
    // Entry 1 is the membership of the founder, which is on its disk from the start and is never applied.
    let (mut store, mut found, mut last) = (Store::default(), Replayed::default(), 1);
    let mut names = BTreeSet::new();
    for (index, proposal) in entries {
        // Behind a gap a condition could come to anything, so the replay ends there.
        if index > last + 1 {
            break;
        }
        last = index;
        let Some(Proposal { stamp, write: Write { idempotency_key: once, by, command } }) = proposal else { continue };
        // The cluster clock never moves back, whatever stamp the next leader begins with.
        store.1 = store.1.max(*stamp);
        // A repeated write has no effect, whatever it comes to.
        if once.as_ref().is_some_and(|once| !names.insert(&once.key)) {
            continue;
        }
        let done = store.apply(index, command, by.as_ref());
        found.done.extend(registers::operation(command).map(|id| (id, done)));
        if let Command::Expire { keys } = command {
            for (key, version) in keys {
                // Only that version is removed, and only if its time is over: a later put or touch protects the key.
                let over = |held: &Held| held.version == *version && held.expires.is_some_and(|at| at <= store.1);
                if store.0.get(key).is_some_and(over) {
                    store.0.remove(key);
                    found.expired.push((*version, index));
                }
            }
        }
    }
    found.last = last;
    found.tokens = store.0.into_iter().map(|(key, held)| (key.to_vec(), held.by)).collect();
    found
}
