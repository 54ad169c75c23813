//! Evaluation of multi-key commands: transactions and deletes by prefix.
//!
//! Why: a transaction with conditions on some keys and writes to others is enough for counters, queues, locks and secondary
//! indexes.
//!
//! Invariants: everything is decided against one state when the entry is applied. The work of one command is bounded by the
//! bytes stored, which are equal on all nodes, so all nodes refuse the same command.
//!
//! See also: `http::api::txn` (parsing), [`validate`](crate::model::validate) (number of checks and operations).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::state_view_and_changes::{ApplyPoint, Change, View};
use crate::model::command::CommandResult;
use crate::model::command::txn::{
    Check, DELETE_PREFIX_BYTES, DELETE_PREFIX_KEYS, OpResult, Operation, TXN_BYTES, Test, Txn,
};
use crate::model::list::{after, after_prefix};
use crate::model::value::{Item, KeyMeta, TokenName};

/// Evaluates a transaction at `at`.
///
/// Example: `if a is at version 3 then [put a, get a] else [get b]`. All checks are evaluated against the state before the
/// transaction. Operations of the chosen branch run in order and see the writes of those before them, so `get a` returns
/// the value just put.
pub(crate) fn decide_txn<V: View>(
    txn: Txn,
    by: Option<TokenName>,
    at: ApplyPoint,
    view: &V,
) -> Result<(CommandResult, Vec<Change>), V::Error> {
    let mut succeeded = true;
    // Stops at the first check that fails. The order is part of the command, so every node reads the same keys.
    for check in &txn.checks {
        succeeded = succeeded && holds(check, view)?;
    }
    let mut branch = Branch { by, at, view, written: BTreeMap::new(), bytes: 0 };
    let (mut results, mut changes) = (Vec::new(), Vec::new());
    for operation in if succeeded { txn.then } else { txn.otherwise } {
        let (done, change) = branch.run(operation)?;
        // Nothing of an oversized transaction is applied: `changes` is dropped here.
        if branch.bytes > TXN_BYTES {
            return Ok((CommandResult::TooLarge, Vec::new()));
        }
        results.push(done);
        changes.extend(change);
    }
    Ok((CommandResult::Txn { succeeded, results }, changes))
}

fn holds<V: View>(check: &Check, view: &V) -> Result<bool, V::Error> {
    let meta = view.meta(&check.key)?;
    Ok(match &check.test {
        Test::Is(condition) => condition.holds(meta.map_or(0, |meta| meta.version)),
        // Compares the length first, so a value of another length is never read.
        Test::Holds(bytes) => {
            meta.is_some_and(|meta| meta.bytes == bytes.len())
                && view.item(&check.key)?.is_some_and(|item| item.value.bytes == *bytes)
        }
    })
}

/// The running branch of a transaction.
struct Branch<'a, V> {
    by: Option<TokenName>,
    at: ApplyPoint,
    view: &'a V,
    /// The writes of the operations so far; None is a deletion.
    written: BTreeMap<Bytes, Option<Item>>,
    /// Bytes of values read, replaced and removed so far.
    bytes: usize,
}

impl<V: View> Branch<'_, V> {
    fn run(&mut self, operation: Operation) -> Result<(OpResult, Option<Change>), V::Error> {
        // A key written by an earlier operation of this branch shadows the state. Example: after `delete a` the map holds
        // `a -> None`, so `get a` is null, and a put would create it with a new create_version; a key that is not in the
        // map is read from the state.
        let meta = match self.written.get(operation.key()) {
            Some(now) => now.as_ref().map(Item::meta),
            None => self.view.meta(operation.key())?,
        };
        // Charged by the metadata, before a value is read. The caller refuses the transaction then, so this result is never
        // used.
        self.bytes += meta.map_or(0, |meta| meta.bytes);
        if self.bytes > TXN_BYTES {
            return Ok((OpResult::Put, None));
        }
        Ok(match operation {
            Operation::Put { key, value, ttl } => {
                let create_version = meta.map_or(self.at.index, |meta: KeyMeta| meta.create_version);
                let expires = ttl.map(|ttl| ttl.from(self.at.clock));
                let item = Item { value, version: self.at.index, create_version, expires, by: self.by.clone() };
                self.written.insert(key.clone(), Some(item.clone()));
                (OpResult::Put, Some(Change::Put { key, item }))
            }
            Operation::Delete { key } => {
                self.written.insert(key.clone(), None);
                // A missing key has no change: watchers would get a delete of a key that they never saw.
                let change = meta.map(|_| Change::Delete { key, expired: false, by: self.by.clone() });
                (OpResult::Deleted { existed: meta.is_some() }, change)
            }
            Operation::Get { key } => match self.written.get(&key) {
                Some(now) => (OpResult::Got(now.clone()), None),
                None => (OpResult::Got(self.view.item(&key)?), None),
            },
        })
    }
}

/// Evaluates a delete by prefix: removes the first keys, up to the limits, and reports whether more follow.
pub(crate) fn delete_prefix<V: View>(
    prefix: &[u8],
    by: Option<TokenName>,
    view: &V,
) -> Result<(CommandResult, Vec<Change>), V::Error> {
    // Example: 1 002 keys `p/...`. The first command removes 1 000 and reports `more`; the second removes 2. The client
    // repeats, and each command is bounded, so none delays the others for long.
    let end = after_prefix(prefix);
    let (mut from, mut bytes, mut changes) = (prefix.to_vec(), 0, Vec::new());
    while let Some((key, meta)) = view.next(&from, end.as_deref())? {
        bytes += meta.bytes;
        // The first key always fits, however large, or a value over the limit would make the prefix undeletable.
        if changes.len() == DELETE_PREFIX_KEYS || (!changes.is_empty() && bytes > DELETE_PREFIX_BYTES) {
            return Ok((CommandResult::PrefixDeleted { deleted: changes.len() as u64, more: true }, changes));
        }
        from = after(&key);
        changes.push(Change::Delete { key, expired: false, by: by.clone() });
    }
    Ok((CommandResult::PrefixDeleted { deleted: changes.len() as u64, more: false }, changes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Command;
    use crate::model::test_store::Map;
    use crate::model::value::{Condition, Value};

    fn item(bytes: impl Into<Bytes>, version: u64) -> Item {
        Item { value: Value::binary(bytes), version, create_version: version, expires: None, by: None }
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
        let now = Item { value: Value::binary("x"), version: 9, create_version: 3, expires: None, by: None };
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
    fn one_failed_check_runs_the_else_branch() {
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
    fn an_oversized_transaction_changes_nothing() {
        let half = vec![0; TXN_BYTES / 2];
        let before = Map::from_iter([("a", item(half.clone(), 3)), ("b", item(half, 4)), ("c", item("1", 5))]);
        // `a` and `b` reach the limit exactly, so any operation on the one byte of `c` exceeds it.
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
    fn a_delete_by_prefix_stops_at_its_limits_and_reports_more() {
        let mut map = Map::default();
        for number in 0..DELETE_PREFIX_KEYS + 2 {
            map.0.insert(format!("p/{number:05}").into(), item("", 3));
        }
        map.0.insert("p".into(), item("", 3));
        map.0.insert("q".into(), item("", 3));
        let delete = Command::DeletePrefix { prefix: "p/".into() };
        let full = DELETE_PREFIX_KEYS as u64;
        assert_eq!(map.apply(delete.clone(), 9), CommandResult::PrefixDeleted { deleted: full, more: true });
        assert_eq!(map.apply(delete.clone(), 10), CommandResult::PrefixDeleted { deleted: 2, more: false });
        assert_eq!(map.apply(delete.clone(), 11), CommandResult::PrefixDeleted { deleted: 0, more: false });
        assert_eq!(map.0.len(), 2);
        // One value over the limit goes alone, then two halves together, then the last byte.
        let half = DELETE_PREFIX_BYTES / 2;
        for (key, bytes) in [("p/1", DELETE_PREFIX_BYTES + 1), ("p/2", half), ("p/3", half), ("p/4", 1)] {
            map.0.insert(key.into(), item(vec![0; bytes], 3));
        }
        assert_eq!(map.apply(delete.clone(), 12), CommandResult::PrefixDeleted { deleted: 1, more: true });
        assert_eq!(map.apply(delete.clone(), 13), CommandResult::PrefixDeleted { deleted: 2, more: true });
        assert_eq!(map.apply(delete, 14), CommandResult::PrefixDeleted { deleted: 1, more: false });
    }
}
