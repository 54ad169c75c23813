//! What a client can ask the state machine to do, what comes of it, and the pure rule between the two.
//!
//! Why: the replicas stay equal only if the same command at the same index has the same effect everywhere, so the
//! decision is a function of the command, the index and the state before it, and of nothing else.
//!
//! Laws: one log entry holds one command, so the raft index of the entry is the version of everything it changed. A
//! condition is judged here, where its command is applied, never before.
//!
//! Not here: how the state is stored (`storage::kv::state_machine`), and membership, which raft's own entries carry
//! ([`crate::model::MemberChange`]).

pub(crate) mod dedup;
pub(crate) mod proposal;
pub(crate) mod txn;
pub mod validate;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Condition, Item, KeyMeta, Ttl, Value};
use txn::{OpResult, Txn};

/// One change that a client asks for; the content of one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets `key` to `value`, whether or not it existed.
    Put {
        /// The key, 1 to [`validate::KEY_BYTES`] bytes of UTF-8.
        key: Bytes,
        /// The value.
        value: Value,
        /// What has to be true of the key.
        condition: Condition,
        /// How long it is kept; for ever without one.
        ttl: Option<Ttl>,
    },
    /// Removes `key`; a key that is not there stays away.
    Delete {
        /// The key, 1 to [`validate::KEY_BYTES`] bytes of UTF-8.
        key: Bytes,
        /// What has to be true of the key.
        condition: Condition,
    },
    /// Replaces the addresses of the member with this raft id; of an id that is no member nothing changes.
    Move {
        /// Which member.
        raft_id: u64,
        /// Where its peers dial it, `host:port`.
        raft_address: String,
        /// Where its clients find it, `host:port`.
        http_address: String,
    },
    /// Removes keys with this prefix, from the smallest on, as many as one command may.
    Sweep {
        /// The prefix.
        prefix: Bytes,
    },
    /// Changes several keys at once, or reads them.
    Txn(Txn),
    /// Keeps `key` for so long from now on and changes nothing else of it.
    Touch {
        /// The key, 1 to [`validate::KEY_BYTES`] bytes of UTF-8.
        key: Bytes,
        /// How long it is kept.
        ttl: Ttl,
        /// What has to be true of the key.
        condition: Condition,
    },
    /// Removes those of these keys whose time is over.
    Expire {
        /// The keys, each with the version that it had when this was proposed.
        keys: Vec<(Bytes, u64)>,
    },
    /// Changes nothing but the cluster's clock, by the stamp of its entry.
    Tick,
}

impl Command {
    /// Sets `key` to these bytes whatever is there.
    pub fn put(key: impl Into<Bytes>, bytes: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: Value::binary(bytes), condition: Condition::Always, ttl: None }
    }

    /// Removes `key` whatever is there.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into(), condition: Condition::Always }
    }

    /// About how many bytes it takes up.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.content_type.len() + value.bytes.len(),
            Self::Delete { key, .. } | Self::Touch { key, .. } => key.len(),
            Self::Move { raft_address, http_address, .. } => raft_address.len() + http_address.len(),
            Self::Sweep { prefix } => prefix.len(),
            Self::Txn(txn) => txn.size(),
            Self::Expire { keys } => keys.iter().map(|(key, _)| key.len() + 8).sum(),
            Self::Tick => 0,
        }
    }

    /// Whether it may remove so many keys that others are better applied in another batch.
    #[must_use]
    pub fn removes_many(&self) -> bool {
        matches!(self, Self::Sweep { .. })
    }

    /// Whether it may make the state larger: it puts something, be it in one branch of a transaction.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        match self {
            Self::Put { .. } => true,
            Self::Txn(txn) => {
                let puts = |operation: &txn::Operation| matches!(operation, txn::Operation::Put { .. });
                txn.then.iter().any(puts) || txn.otherwise.iter().any(puts)
            }
            Self::Delete { .. }
            | Self::Move { .. }
            | Self::Sweep { .. }
            | Self::Touch { .. }
            | Self::Expire { .. }
            | Self::Tick => false,
        }
    }

    /// Whether a client asks for it; the others are the cluster's own upkeep.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        !matches!(self, Self::Move { .. } | Self::Expire { .. } | Self::Tick)
    }
}

/// What applying a [`Command`] came to. A refusal by the state machine is one of these too: it is an answer, not an
/// error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandResult {
    /// The key has its new value; its version is the index of the entry.
    Put {
        /// The index of the entry that made the key, this one where there was none.
        create_version: u64,
    },
    /// The key is gone; `existed` tells whether it was there before.
    Deleted {
        /// Whether there was something to remove.
        existed: bool,
    },
    /// The condition was not true, and nothing was changed.
    Failed {
        /// The version that the key has instead, 0 where there is no such key.
        version: u64,
    },
    /// Keys with the prefix are gone.
    Swept {
        /// How many were removed.
        deleted: u64,
        /// Whether there are others, which the next such command removes.
        more: bool,
    },
    /// The transaction was done.
    Txn {
        /// Whether all checks held.
        succeeded: bool,
        /// What came of the operations that were run, in their order.
        #[serde(deserialize_with = "super::codec::list")]
        results: Vec<OpResult>,
    },
    /// The transaction would have read, replaced or removed more than [`super::TXN_BYTES`]; nothing was changed.
    TooLarge,
    /// The key is kept for longer, or for shorter; this is what it holds.
    Touched(Item),
    /// There is no such key to touch.
    NoKey,
    /// The member table was changed, or already said the same.
    Moved,
    /// Nothing was asked (a leader's first entry of its term).
    Nothing,
    /// The client's name for the request is that of another one; nothing was changed.
    KeyReused,
    /// It was done before, and its result was too large to be kept.
    Truncated {
        /// The version that the result was about.
        version: u64,
    },
    /// The write is none that may be proposed ([`validate::write`]); nothing was changed.
    Invalid,
    /// It has a name, and there is no room for its result; nothing was changed.
    ResultsFull,
}

impl CommandResult {
    /// The version that an outcome at `index` is about.
    #[must_use]
    pub fn version(&self, index: u64) -> u64 {
        match self {
            Self::Touched(item) => item.version,
            Self::Failed { version } | Self::Truncated { version } => *version,
            _ => index,
        }
    }
}

/// What the rule may look at: the state just before the command, earlier commands of the same batch included.
pub trait View {
    /// What reading the state can fail with.
    type Error;
    /// What is known of `key`, or None where there is no such key.
    ///
    /// # Errors
    /// Whatever the store fails with; nothing has been changed then.
    fn stamp(&self, key: &Bytes) -> Result<Option<KeyMeta>, Self::Error>;

    /// What there is under `key`.
    ///
    /// # Errors
    /// As above.
    fn item(&self, key: &Bytes) -> Result<Option<Item>, Self::Error>;

    /// The smallest key from `from` on, and smaller than `to` where given.
    ///
    /// # Errors
    /// As above.
    fn next(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, KeyMeta)>, Self::Error>;
}

/// Where in the log, and when by the cluster's clock, something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplyPoint {
    /// The raft index of the entry.
    pub index: u64,
    /// The cluster's time in milliseconds, the entry's own stamp taken in.
    pub clock: u64,
}

/// One absolute effect on the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key holds this from now on.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value and indexes.
        item: Item,
    },
    /// The key is gone.
    Delete {
        /// The key.
        key: Bytes,
        /// Whether its time was over, rather than a client removing it.
        expired: bool,
    },
    /// The key is kept until another time and is otherwise what it was.
    Touch {
        /// The key.
        key: Bytes,
        /// All of it.
        item: Item,
    },
    /// The member's addresses are these.
    Move {
        /// Which member.
        raft_id: u64,
        /// Its peer address.
        raft_address: String,
        /// Its client address.
        http_address: String,
    },
}

/// Decides `command` at `at` against `view`: the answer for whoever waits, and the effects on the state, in order.
///
/// # Errors
/// Only what `view` fails with.
pub fn decide<V: View>(command: Command, at: ApplyPoint, view: &V) -> Result<(CommandResult, Vec<Change>), V::Error> {
    Ok(match command {
        Command::Put { key, value, condition, ttl } => {
            let stamp = view.stamp(&key)?;
            let version = stamp.map_or(0, |stamp| stamp.version);
            if condition.holds(version) {
                let create_version = stamp.map_or(at.index, |stamp| stamp.create_version);
                let expires = ttl.map(|ttl| ttl.from(at.clock));
                let item = Item { value, version: at.index, create_version, expires };
                (CommandResult::Put { create_version }, vec![Change::Put { key, item }])
            } else {
                (CommandResult::Failed { version }, Vec::new())
            }
        }
        Command::Delete { key, condition } => {
            let version = view.stamp(&key)?.map_or(0, |stamp| stamp.version);
            match (condition.holds(version), version) {
                (false, _) => (CommandResult::Failed { version }, Vec::new()),
                (true, 0) => (CommandResult::Deleted { existed: false }, Vec::new()),
                (true, _) => (CommandResult::Deleted { existed: true }, vec![Change::Delete { key, expired: false }]),
            }
        }
        Command::Move { raft_id, raft_address, http_address } => {
            (CommandResult::Moved, vec![Change::Move { raft_id, raft_address, http_address }])
        }
        Command::Sweep { prefix } => txn::sweep(&prefix, view)?,
        Command::Txn(txn) => txn.decide(at, view)?,
        Command::Touch { key, ttl, condition } => touch(key, ttl, condition, at, view)?,
        Command::Expire { keys } => (CommandResult::Nothing, expire(keys, at, view)?),
        Command::Tick => (CommandResult::Nothing, Vec::new()),
    })
}

/// A key that is not there is said to be missing whatever the condition: a condition is about what would succeed without
/// it (RFC 9110, 13.2.1).
fn touch<V: View>(
    key: Bytes,
    ttl: Ttl,
    condition: Condition,
    at: ApplyPoint,
    view: &V,
) -> Result<(CommandResult, Vec<Change>), V::Error> {
    let Some(version) = view.stamp(&key)?.map(|stamp| stamp.version) else {
        return Ok((CommandResult::NoKey, Vec::new()));
    };
    if !condition.holds(version) {
        return Ok((CommandResult::Failed { version }, Vec::new()));
    }
    let Some(item) = view.item(&key)? else { return Ok((CommandResult::NoKey, Vec::new())) };
    let item = Item { expires: Some(ttl.from(at.clock)), ..item };
    Ok((CommandResult::Touched(item.clone()), vec![Change::Touch { key, item }]))
}

/// Whoever proposed it looked at a state that may be past: a key that was changed or touched since stays.
fn expire<V: View>(keys: Vec<(Bytes, u64)>, at: ApplyPoint, view: &V) -> Result<Vec<Change>, V::Error> {
    let mut changes = Vec::new();
    for (key, version) in keys {
        let due = |stamp: KeyMeta| stamp.version == version && stamp.expires.is_some_and(|expires| expires <= at.clock);
        if view.stamp(&key)?.is_some_and(due) {
            changes.push(Change::Delete { key, expired: true });
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::test_store::Map;

    const AT: ApplyPoint = ApplyPoint { index: 7, clock: 10_000 };

    fn map() -> Map {
        let value = Value::binary("12345");
        Map::from_iter([("a", Item { value, version: 5, create_version: 3, expires: None })])
    }

    fn value() -> Value {
        Value { content_type: "text/plain".into(), bytes: "1".into() }
    }

    fn put(key: &'static str, condition: Condition) -> (CommandResult, Vec<Change>) {
        let Ok(decided) = decide(Command::Put { key: key.into(), value: value(), condition, ttl: None }, AT, &map());
        decided
    }

    #[test]
    fn a_put_takes_the_index_as_its_version_and_keeps_when_the_key_was_made() {
        for (key, create_version) in [("a", 3), ("b", 7)] {
            let item = Item { value: value(), version: 7, create_version, expires: None };
            let changes = vec![Change::Put { key: key.into(), item }];
            assert_eq!(put(key, Condition::Always), (CommandResult::Put { create_version }, changes));
        }
    }

    #[test]
    fn a_delete_says_whether_the_key_was_there_and_changes_nothing_if_not() {
        let condition = Condition::Always;
        let Ok(gone) = decide(Command::Delete { key: "a".into(), condition }, AT, &map());
        let change = Change::Delete { key: "a".into(), expired: false };
        assert_eq!(gone, (CommandResult::Deleted { existed: true }, vec![change]));
        let Ok(missing) = decide(Command::Delete { key: "b".into(), condition }, AT, &map());
        assert_eq!(missing, (CommandResult::Deleted { existed: false }, vec![]));
    }

    #[test]
    fn a_failed_condition_changes_nothing_and_says_the_version() {
        for (key, condition, version) in [
            ("a", Condition::Absent, 5),
            ("a", Condition::Version(4), 5),
            ("b", Condition::Exists, 0),
            ("b", Condition::Version(5), 0),
        ] {
            let failed = (CommandResult::Failed { version }, vec![]);
            assert_eq!(put(key, condition), failed, "{condition:?}");
            let Ok(delete) = decide(Command::Delete { key: key.into(), condition }, AT, &map());
            assert_eq!(delete, failed, "{condition:?}");
        }
        assert_eq!(put("a", Condition::Version(5)).0, CommandResult::Put { create_version: 3 });
        assert_eq!(put("b", Condition::Absent).0, CommandResult::Put { create_version: 7 });
    }

    fn timed(expires: u64) -> Map {
        let value = Value::binary("12345");
        Map::from_iter([("a", Item { value, version: 5, create_version: 3, expires: Some(expires) })])
    }

    #[test]
    fn a_touch_moves_the_end_by_the_clusters_clock_and_nothing_else() {
        let touch = |key: &'static str, condition| {
            let command = Command::Touch { key: key.into(), ttl: Ttl(30), condition };
            let Ok(decided) = decide(command, AT, &timed(20_000));
            decided
        };
        let item = Item { value: Value::binary("12345"), version: 5, create_version: 3, expires: Some(40_000) };
        let change = Change::Touch { key: "a".into(), item: item.clone() };
        assert_eq!(touch("a", Condition::Version(5)), (CommandResult::Touched(item), vec![change]));
        assert_eq!(touch("a", Condition::Version(4)), (CommandResult::Failed { version: 5 }, vec![]));
        // Whoever renews a lock has lost it either way.
        assert_eq!(touch("b", Condition::Version(5)), (CommandResult::NoKey, vec![]));
    }

    #[test]
    fn a_key_goes_only_at_its_time_and_only_as_the_version_that_was_meant() {
        let gone = vec![Change::Delete { key: "a".into(), expired: true }];
        for (expires, version, expected) in
            [(10_000, 5, gone.clone()), (9_999, 5, gone), (10_001, 5, vec![]), (10_000, 4, vec![])]
        {
            let keys = vec![("a".into(), version), ("b".into(), 5)];
            let Ok((_, changes)) = decide(Command::Expire { keys }, AT, &timed(expires));
            assert_eq!(changes, expected, "{expires} {version}");
        }
        let Ok((_, changes)) = decide(Command::Expire { keys: vec![("a".into(), 5)] }, AT, &map());
        assert_eq!(changes, vec![], "it is not to expire at all");
    }
}
