//! The pure rule of the state machine: from a [`Command`] and the state before it to a [`CommandResult`] and changes.
//!
//! Why: replicas stay equal only if the same command at the same index has the same effect on every node. So the decision is
//! a function of the command, the token name in its entry, its index, the cluster clock and the state before it, and of nothing else.
//!
//! Invariants: every key that a command puts gets the index of its log entry as version, and every key that it puts or touches the
//! token name of the entry, or none. Conditions are evaluated here,
//! when the entry is applied, never earlier.
//!
//! See also: [`decide_write`](crate::model::decide_write) (idempotency keys), `storage::kv::apply` (the caller).

mod multi_key;
pub(crate) mod state_view_and_changes;
#[cfg(test)]
pub mod test_store;

use bytes::Bytes;

use super::command::{Command, CommandResult};
use super::value::{Condition, Item, KeyMeta, TokenName, Ttl};
use state_view_and_changes::{ApplyPoint, Change, View};

/// Evaluates `command` of the client with the token `by` at `at` against `view`: the result for the client, and the changes
/// of the state in order.
///
/// # Errors
/// Only what `view` fails with.
pub fn decide<V: View>(
    command: Command,
    by: Option<TokenName>,
    at: ApplyPoint,
    view: &V,
) -> Result<(CommandResult, Vec<Change>), V::Error> {
    Ok(match command {
        Command::Put { key, value, condition, ttl } => {
            // Reads the metadata alone: a put never needs the old value, which may be megabytes.
            let meta = view.meta(&key)?;
            let version = meta.map_or(0, |meta| meta.version);
            if condition.holds(version) {
                // Example: `a` is put at 3 and at 5: version 5, create_version 3. It is deleted at 6 and put at 7: both are
                // 7, so a client tells a new key of the same name from the old one. A put without a ttl removes an earlier
                // expiry.
                let create_version = meta.map_or(at.index, |meta| meta.create_version);
                let expires = ttl.map(|ttl| ttl.from(at.clock));
                let item = Item { value, version: at.index, create_version, expires, by };
                (CommandResult::Put { create_version }, vec![Change::Put { key, item }])
            } else {
                (CommandResult::ConditionFailed { version }, Vec::new())
            }
        }
        Command::Delete { key, condition } => {
            let version = view.meta(&key)?.map_or(0, |meta| meta.version);
            // Version 0 means a missing key: a condition that holds for it (absent, always) makes the delete a success
            // without effect, so a repeated delete is a success too.
            match (condition.holds(version), version) {
                (false, _) => (CommandResult::ConditionFailed { version }, Vec::new()),
                (true, 0) => (CommandResult::Deleted { existed: false }, Vec::new()),
                (true, _) => {
                    (CommandResult::Deleted { existed: true }, vec![Change::Delete { key, expired: false, by }])
                }
            }
        }
        Command::Move { raft_id, raft_address, http_address } => {
            (CommandResult::Moved, vec![Change::Move { raft_id, raft_address, http_address }])
        }
        Command::DeletePrefix { prefix } => multi_key::delete_prefix(&prefix, by, view)?,
        Command::Txn(txn) => multi_key::decide_txn(txn, by, at, view)?,
        Command::Touch { key, ttl, condition } => touch(key, ttl, condition, by, at, view)?,
        // Internal commands have no client, so they have no result either.
        Command::Expire { keys } => (CommandResult::NoOp, expire(keys, at, view)?),
        Command::Tick => (CommandResult::NoOp, Vec::new()),
    })
}

/// Evaluates a touch. A missing key is `NotFound` whatever the condition: a condition applies only to a request that would
/// succeed without it (RFC 9110, section 13.2.1).
fn touch<V: View>(
    key: Bytes,
    ttl: Ttl,
    condition: Condition,
    by: Option<TokenName>,
    at: ApplyPoint,
    view: &V,
) -> Result<(CommandResult, Vec<Change>), V::Error> {
    let Some(version) = view.meta(&key)?.map(|meta| meta.version) else {
        return Ok((CommandResult::NotFound, Vec::new()));
    };
    if !condition.holds(version) {
        return Ok((CommandResult::ConditionFailed { version }, Vec::new()));
    }
    // Only now is the value read. The item keeps its version, unlike after a put: the version is the fencing token of a lock.
    let Some(item) = view.item(&key)? else { return Ok((CommandResult::NotFound, Vec::new())) };
    // It gets the name, since a touch is a write.
    let item = Item { expires: Some(ttl.from(at.clock)), by, ..item };
    Ok((CommandResult::Touched(Box::new(item.clone())), vec![Change::Touch { key, item }]))
}

/// Evaluates the removal of expired keys. The leader chose them from an older state, so a key whose version or expiry has
/// changed since then stays.
///
/// Example: the leader proposes to expire `a` at version 5. Before that entry is applied, a put moves `a` to version 6.
/// Version 6 is not version 5, so nothing is removed.
fn expire<V: View>(keys: Vec<(Bytes, u64)>, at: ApplyPoint, view: &V) -> Result<Vec<Change>, V::Error> {
    let mut changes = Vec::new();
    for (key, version) in keys {
        // Both must hold. A put after the proposal has another version; a touch keeps the version and moves the expiry.
        let due = |meta: KeyMeta| meta.version == version && meta.expires.is_some_and(|expires| expires <= at.clock);
        if view.meta(&key)?.is_some_and(due) {
            changes.push(Change::Delete { key, expired: true, by: None });
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_store::Map;
    use crate::model::{Condition, Operation, Txn, Value};

    const AT: ApplyPoint = ApplyPoint { index: 7, clock: 10_000 };

    fn map() -> Map {
        let value = Value::binary("12345");
        Map::from_iter([("a", Item { value, version: 5, create_version: 3, expires: None, by: None })])
    }

    fn value() -> Value {
        Value { content_type: "text/plain".into(), bytes: "1".into() }
    }

    fn put(key: &'static str, condition: Condition) -> (CommandResult, Vec<Change>) {
        let command = Command::Put { key: key.into(), value: value(), condition, ttl: None };
        let Ok(decided) = decide(command, None, AT, &map());
        decided
    }

    #[test]
    fn a_put_sets_the_version_to_its_index_and_keeps_the_create_version() {
        for (key, create_version) in [("a", 3), ("b", 7)] {
            let item = Item { value: value(), version: 7, create_version, expires: None, by: None };
            let changes = vec![Change::Put { key: key.into(), item }];
            assert_eq!(put(key, Condition::Always), (CommandResult::Put { create_version }, changes));
        }
    }

    #[test]
    fn a_delete_reports_whether_the_key_existed() {
        let condition = Condition::Always;
        let Ok(gone) = decide(Command::Delete { key: "a".into(), condition }, None, AT, &map());
        let change = Change::Delete { key: "a".into(), expired: false, by: None };
        assert_eq!(gone, (CommandResult::Deleted { existed: true }, vec![change]));
        let Ok(missing) = decide(Command::Delete { key: "b".into(), condition }, None, AT, &map());
        assert_eq!(missing, (CommandResult::Deleted { existed: false }, vec![]));
    }

    #[test]
    fn a_failed_condition_changes_nothing_and_reports_the_version() {
        for (key, condition, version) in [
            ("a", Condition::Absent, 5),
            ("a", Condition::Version(4), 5),
            ("b", Condition::Exists, 0),
            ("b", Condition::Version(5), 0),
        ] {
            let failed = (CommandResult::ConditionFailed { version }, vec![]);
            assert_eq!(put(key, condition), failed, "{condition:?}");
            let Ok(delete) = decide(Command::Delete { key: key.into(), condition }, None, AT, &map());
            assert_eq!(delete, failed, "{condition:?}");
        }
        assert_eq!(put("a", Condition::Version(5)).0, CommandResult::Put { create_version: 3 });
        assert_eq!(put("b", Condition::Absent).0, CommandResult::Put { create_version: 7 });
    }

    fn timed(expires: u64) -> Map {
        let value = Value::binary("12345");
        Map::from_iter([("a", Item { value, version: 5, create_version: 3, expires: Some(expires), by: None })])
    }

    #[test]
    fn a_touch_changes_only_the_expiry_by_the_cluster_clock() {
        let touch = |key: &'static str, condition| {
            let command = Command::Touch { key: key.into(), ttl: Ttl(30), condition };
            let Ok(decided) = decide(command, None, AT, &timed(20_000));
            decided
        };
        // 10 000 ms at apply plus 30 s; the earlier expiry of 20 000 does not matter.
        let (value, expires) = (Value::binary("12345"), Some(40_000));
        let item = Item { value, version: 5, create_version: 3, expires, by: None };
        let change = Change::Touch { key: "a".into(), item: item.clone() };
        assert_eq!(touch("a", Condition::Version(5)), (CommandResult::Touched(Box::new(item)), vec![change]));
        assert_eq!(touch("a", Condition::Version(4)), (CommandResult::ConditionFailed { version: 5 }, vec![]));
        // A client that renews a lock has lost it in both cases, so a missing key is reported before the condition.
        assert_eq!(touch("b", Condition::Version(5)), (CommandResult::NotFound, vec![]));
    }

    #[test]
    fn the_token_of_the_last_write_is_in_the_item_and_in_the_change_of_a_delete() {
        let mut map = timed(20_000);
        let name = |name: &str| Some(name.parse::<TokenName>().unwrap());
        let mut by = |command: Command, by: Option<TokenName>| {
            let Ok((_, changes)) = decide(command, by, AT, &map);
            let [change] = &changes[..] else { panic!("{changes:?}") };
            map.change(change.clone());
            match change {
                Change::Put { item, .. } | Change::Touch { item, .. } => item.by.clone(),
                Change::Delete { by, .. } => by.clone(),
                Change::Move { .. } => panic!("a move"),
            }
        };
        let touch = || Command::Touch { key: "a".into(), ttl: Ttl(1), condition: Condition::Always };
        assert_eq!(by(Command::put("a", "1"), name("one")), name("one"));
        assert_eq!(by(touch(), name("two")), name("two"), "a touch is a write, though no new version");
        assert_eq!(by(touch(), None), None, "of a node without tokens");
        let txn = |then| Command::Txn(Txn { checks: vec![], then: vec![then], otherwise: vec![] });
        let put = Operation::Put { key: "a".into(), value: value(), ttl: Some(Ttl(1)) };
        assert_eq!(by(txn(put.clone()), name("three")), name("three"));
        assert_eq!(by(txn(Operation::Delete { key: "a".into() }), name("four")), name("four"));
        for removal in [Command::delete("a"), Command::DeletePrefix { prefix: "a".into() }] {
            by(txn(put.clone()), name("three"));
            assert_eq!(by(removal, name("five")), name("five"));
        }
        by(txn(put), name("three"));
        let later = ApplyPoint { clock: 11_000, ..AT };
        let Ok((_, changes)) = decide(Command::Expire { keys: vec![("a".into(), 7)] }, None, later, &map);
        assert_eq!(changes, [Change::Delete { key: "a".into(), expired: true, by: None }]);
    }

    #[test]
    fn a_key_expires_only_when_due_and_only_at_the_proposed_version() {
        let gone = vec![Change::Delete { key: "a".into(), expired: true, by: None }];
        // The cluster clock is 10 000: due exactly now, due before, not due yet, and due at a version that was not
        // proposed. `b` is missing.
        for (expires, version, expected) in
            [(10_000, 5, gone.clone()), (9_999, 5, gone), (10_001, 5, vec![]), (10_000, 4, vec![])]
        {
            let keys = vec![("a".into(), version), ("b".into(), 5)];
            let Ok((_, changes)) = decide(Command::Expire { keys }, None, AT, &timed(expires));
            assert_eq!(changes, expected, "{expires} {version}");
        }
        let Ok((_, changes)) = decide(Command::Expire { keys: vec![("a".into(), 5)] }, None, AT, &map());
        assert_eq!(changes, vec![], "a key without a ttl does not expire");
    }
}
