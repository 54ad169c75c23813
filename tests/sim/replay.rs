//! What each client's write came to, by the order in which the nodes applied them.
//!
//! Why: a client that hears nothing knows nothing, and many conditions of unknown outcome tangle a history beyond what can
//! be searched. The entries are known, so a store that is as plain as can be says what came of each; and what a client
//! was told must agree with it.
//!
//! Not here: whether the order itself is one that clients could see (`linear`).

use std::collections::BTreeMap;

use bytes::Bytes;
use huskv::model::{Command, Condition, Operation, Test};

use crate::wishes;

/// Keys with their values and versions.
#[derive(Default)]
struct Store(BTreeMap<Bytes, (Bytes, u64)>);

impl Store {
    fn is(&self, key: &Bytes, condition: Condition) -> bool {
        let version = self.0.get(key).map(|(_, version)| *version);
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
            Command::Put { key, value, condition } if self.is(key, *condition) => {
                self.0.insert(key.clone(), (value.bytes.clone(), index));
                true
            }
            Command::Delete { key, condition } if self.is(key, *condition) => self.0.remove(key).is_some(),
            Command::Sweep { prefix } => {
                let before = self.0.len();
                self.0.retain(|key, _| !key.starts_with(prefix));
                self.0.len() < before
            }
            Command::Txn(txn) => {
                let holds = txn.checks.iter().all(|check| match &check.test {
                    Test::Is(condition) => self.is(&check.key, *condition),
                    Test::Holds(bytes) => self.0.get(&check.key).is_some_and(|(held, _)| held == bytes),
                });
                for operation in if holds { &txn.then } else { &txn.otherwise } {
                    match operation {
                        Operation::Put { key, value } => {
                            self.0.insert(key.clone(), (value.bytes.clone(), index));
                        }
                        Operation::Delete { key } => drop(self.0.remove(key)),
                        Operation::Get { .. } => {}
                    }
                }
                holds
            }
            Command::Put { .. } | Command::Delete { .. } | Command::Move { .. } => false,
        }
    }
}

/// Whether each write with a number did what it was to do, as far as the entries are known without a gap.
pub fn outcomes<'a>(entries: impl Iterator<Item = (u64, Option<&'a Command>)>) -> BTreeMap<u64, bool> {
    // The first entry of a cluster is its founder's membership, which is on its disk from the start.
    let (mut store, mut found, mut last) = (Store::default(), BTreeMap::new(), 1);
    for (index, command) in entries {
        if index > last + 1 {
            break;
        }
        last = index;
        if let Some(command) = command {
            let done = store.apply(index, command);
            found.extend(wishes::operation(command).map(|id| (id, done)));
        }
    }
    found
}
