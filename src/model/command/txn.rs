//! Several keys in one command: transactions, and removing all keys with a prefix.
//!
//! Why: with conditions on some keys and changes of others in one step, clients can build counters, queues, locks and
//! indexes that hold whatever fails in between.
//!
//! Laws: everything is decided in apply, against one state, and has the index of its entry as version. The work of one
//! command is bounded here, by what is stored on all nodes alike, so they all refuse the same one.
//!
//! Not here: how many conditions and operations a request may have (`http::api::txn`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{ApplyPoint, Change, CommandResult, View};
use crate::model::codec;
use crate::model::list::{after, after_prefix};
use crate::model::{Condition, Item, KeyMeta, Ttl, Value};

/// The most bytes of stored values that a transaction reads, replaces or removes.
pub const TXN_BYTES: usize = 16 << 20;
/// The most keys that one removal by prefix removes.
pub const SWEEP_KEYS: usize = 1000;
/// The most bytes of stored values that one removal by prefix removes, unless the first key has more.
pub const SWEEP_BYTES: usize = 4 << 20;

/// If all checks hold one list of operations, otherwise the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// What has to be true for `then`.
    #[serde(deserialize_with = "codec::list")]
    pub checks: Vec<Check>,
    /// Done, in order, where all checks hold.
    #[serde(deserialize_with = "codec::list")]
    pub then: Vec<Operation>,
    /// Done, in order, where one does not.
    #[serde(deserialize_with = "codec::list")]
    pub otherwise: Vec<Operation>,
}

/// Something that is true or not of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The key.
    pub key: Bytes,
    /// What has to be true of it.
    pub test: Test,
}

/// What has to be true of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Test {
    /// This, of its version.
    Is(Condition),
    /// It holds exactly these bytes.
    Holds(Bytes),
}

/// One step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Sets the key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Value,
        /// How long it is kept; for ever without one.
        ttl: Option<Ttl>,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads the key, as the operations before it left it.
    Get {
        /// The key.
        key: Bytes,
    },
}

impl Operation {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::Get { key } => key,
        }
    }

    fn size(&self) -> usize {
        let value = if let Self::Put { value, .. } = self { value.content_type.len() + value.bytes.len() } else { 0 };
        self.key().len() + value
    }
}

/// What came of an [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// The key has its new value.
    Put,
    /// The key is gone.
    Deleted {
        /// Whether it was there.
        existed: bool,
    },
    /// What the key holds.
    Got(Option<Item>),
}

impl Txn {
    /// About how many bytes it takes up.
    #[must_use]
    pub fn size(&self) -> usize {
        let check =
            |check: &Check| check.key.len() + if let Test::Holds(bytes) = &check.test { bytes.len() } else { 0 };
        let operations = self.then.iter().chain(&self.otherwise);
        self.checks.iter().map(check).sum::<usize>() + operations.map(Operation::size).sum::<usize>()
    }

    /// Decides it at `at`, as [`crate::model::decide`] does.
    pub(crate) fn decide<V: View>(self, at: ApplyPoint, view: &V) -> Result<(CommandResult, Vec<Change>), V::Error> {
        let mut succeeded = true;
        for check in &self.checks {
            succeeded = succeeded && check.holds(view)?;
        }
        let mut branch = Branch { at, view, written: BTreeMap::new(), bytes: 0 };
        let (mut results, mut changes) = (Vec::new(), Vec::new());
        for operation in if succeeded { self.then } else { self.otherwise } {
            let (done, change) = branch.run(operation)?;
            if branch.bytes > TXN_BYTES {
                return Ok((CommandResult::TooLarge, Vec::new()));
            }
            results.push(done);
            changes.extend(change);
        }
        Ok((CommandResult::Txn { succeeded, results }, changes))
    }
}

impl Check {
    fn holds<V: View>(&self, view: &V) -> Result<bool, V::Error> {
        let stamp = view.stamp(&self.key)?;
        Ok(match &self.test {
            Test::Is(condition) => condition.holds(stamp.map_or(0, |stamp| stamp.version)),
            // The value is only read where its length is right.
            Test::Holds(bytes) => {
                stamp.is_some_and(|stamp| stamp.bytes == bytes.len())
                    && view.item(&self.key)?.is_some_and(|item| item.value.bytes == *bytes)
            }
        })
    }
}

/// A list of operations while it is run.
struct Branch<'a, V> {
    at: ApplyPoint,
    view: &'a V,
    /// What the operations so far have made of the keys.
    written: BTreeMap<Bytes, Option<Item>>,
    /// How much they have read, replaced and removed.
    bytes: usize,
}

impl<V: View> Branch<'_, V> {
    fn run(&mut self, operation: Operation) -> Result<(OpResult, Option<Change>), V::Error> {
        let stamp = match self.written.get(operation.key()) {
            Some(now) => now.as_ref().map(Item::stamp),
            None => self.view.stamp(operation.key())?,
        };
        self.bytes += stamp.map_or(0, |stamp| stamp.bytes);
        if self.bytes > TXN_BYTES {
            return Ok((OpResult::Put, None));
        }
        Ok(match operation {
            Operation::Put { key, value, ttl } => {
                let create_version = stamp.map_or(self.at.index, |stamp: KeyMeta| stamp.create_version);
                let expires = ttl.map(|ttl| ttl.from(self.at.clock));
                let item = Item { value, version: self.at.index, create_version, expires };
                self.written.insert(key.clone(), Some(item.clone()));
                (OpResult::Put, Some(Change::Put { key, item }))
            }
            Operation::Delete { key } => {
                self.written.insert(key.clone(), None);
                (OpResult::Deleted { existed: stamp.is_some() }, stamp.map(|_| Change::Delete { key, expired: false }))
            }
            Operation::Get { key } => match self.written.get(&key) {
                Some(now) => (OpResult::Got(now.clone()), None),
                None => (OpResult::Got(self.view.item(&key)?), None),
            },
        })
    }
}

/// Decides the removal of all keys with `prefix`, up to the bounds.
pub(crate) fn sweep<V: View>(prefix: &[u8], view: &V) -> Result<(CommandResult, Vec<Change>), V::Error> {
    let end = after_prefix(prefix);
    let (mut from, mut bytes, mut changes) = (prefix.to_vec(), 0, Vec::new());
    while let Some((key, stamp)) = view.next(&from, end.as_deref())? {
        bytes += stamp.bytes;
        if changes.len() == SWEEP_KEYS || (!changes.is_empty() && bytes > SWEEP_BYTES) {
            return Ok((CommandResult::Swept { deleted: changes.len() as u64, more: true }, changes));
        }
        from = after(&key);
        changes.push(Change::Delete { key, expired: false });
    }
    Ok((CommandResult::Swept { deleted: changes.len() as u64, more: false }, changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Command;
    use crate::model::test_store::Map;

    fn item(bytes: impl Into<Bytes>, version: u64) -> Item {
        Item { value: Value::binary(bytes), version, create_version: version, expires: None }
    }

    fn put(key: &'static str, bytes: impl Into<Bytes>) -> Operation {
        Operation::Put { key: key.into(), value: Value::binary(bytes), ttl: None }
    }

    fn get(key: &'static str) -> Operation {
        Operation::Get { key: key.into() }
    }

    fn delete(key: &'static str) -> Operation {
        Operation::Delete { key: key.into() }
    }

    fn check(key: &'static str, test: Test) -> Check {
        Check { key: key.into(), test }
    }

    fn run(
        map: &mut Map,
        checks: Vec<Check>,
        then: Vec<Operation>,
        otherwise: Vec<Operation>,
    ) -> (bool, Vec<OpResult>) {
        match map.apply(Command::Txn(Txn { checks, then, otherwise }), 9) {
            CommandResult::Txn { succeeded, results } => (succeeded, results),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn operations_run_in_order_and_see_each_other() {
        let mut map = Map::from_iter([("a", item("1", 3)), ("b", item("2", 4))]);
        let then = vec![get("a"), put("a", "x"), get("a"), delete("b"), get("b"), delete("c"), put("d", "y")];
        let (succeeded, results) = run(&mut map, vec![], then, vec![]);
        let now = Item { value: Value::binary("x"), version: 9, create_version: 3, expires: None };
        let expected = vec![
            OpResult::Got(Some(item("1", 3))),
            OpResult::Put,
            OpResult::Got(Some(now.clone())),
            OpResult::Deleted { existed: true },
            OpResult::Got(None),
            OpResult::Deleted { existed: false },
            OpResult::Put,
        ];
        assert_eq!((succeeded, results), (true, expected));
        assert_eq!(map, Map::from_iter([("a", now), ("d", item("y", 9))]));
    }

    #[test]
    fn one_check_that_does_not_hold_runs_the_other_branch() {
        let before = Map::from_iter([("a", item("1", 3))]);
        for (test, holds) in [
            (Test::Is(Condition::Version(3)), true),
            (Test::Is(Condition::Version(4)), false),
            (Test::Is(Condition::Absent), false),
            (Test::Holds("1".into()), true),
            (Test::Holds("2".into()), false),
            (Test::Holds("11".into()), false),
        ] {
            let mut map = before.clone();
            let checks = vec![check("b", Test::Is(Condition::Absent)), check("a", test.clone())];
            let (succeeded, _) = run(&mut map, checks, vec![put("b", "then")], vec![put("b", "else")]);
            let value = if holds { "then" } else { "else" };
            assert_eq!((succeeded, &map.0["b".as_bytes()].value.bytes[..]), (holds, value.as_bytes()), "{test:?}");
        }
        let mut map = before.clone();
        assert_eq!(run(&mut map, vec![check("x", Test::Holds("".into()))], vec![], vec![]), (false, vec![]));
        assert_eq!(map, before);
    }

    #[test]
    fn what_would_move_too_much_changes_nothing() {
        let half = vec![0; TXN_BYTES / 2];
        let before = Map::from_iter([("a", item(half.clone(), 3)), ("b", item(half, 4)), ("c", item("1", 5))]);
        for last in [delete("c"), put("c", ""), get("c")] {
            let mut map = before.clone();
            let txn = Txn { checks: vec![], then: vec![put("a", "x"), get("b"), last], otherwise: vec![] };
            assert_eq!(map.apply(Command::Txn(txn), 9), CommandResult::TooLarge);
            assert_eq!(map, before);
        }
        let mut map = before;
        let (_, results) = run(&mut map, vec![], vec![put("a", "x"), delete("b"), delete("none")], vec![]);
        assert_eq!(results.len(), 3);
    }

    #[test]
    fn a_sweep_stops_at_its_bounds_and_says_so() {
        let mut map = Map::default();
        for number in 0..SWEEP_KEYS + 2 {
            map.0.insert(format!("p/{number:05}").into(), item("", 3));
        }
        map.0.insert("p".into(), item("", 3));
        map.0.insert("q".into(), item("", 3));
        let sweep = Command::Sweep { prefix: "p/".into() };
        let full = SWEEP_KEYS as u64;
        assert_eq!(map.apply(sweep.clone(), 9), CommandResult::Swept { deleted: full, more: true });
        assert_eq!(map.apply(sweep.clone(), 10), CommandResult::Swept { deleted: 2, more: false });
        assert_eq!(map.apply(sweep.clone(), 11), CommandResult::Swept { deleted: 0, more: false });
        assert_eq!(map.0.len(), 2);
        let half = SWEEP_BYTES / 2;
        for (key, bytes) in [("p/1", SWEEP_BYTES + 1), ("p/2", half), ("p/3", half), ("p/4", 1)] {
            map.0.insert(key.into(), item(vec![0; bytes], 3));
        }
        assert_eq!(map.apply(sweep.clone(), 12), CommandResult::Swept { deleted: 1, more: true });
        assert_eq!(map.apply(sweep.clone(), 13), CommandResult::Swept { deleted: 2, more: true });
        assert_eq!(map.apply(sweep, 14), CommandResult::Swept { deleted: 1, more: false });
    }
}
