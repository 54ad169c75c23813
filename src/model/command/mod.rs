//! The commands of the state machine and their results.
//!
//! Invariants: one log entry holds one command, so the raft index of the entry is the version of everything it changed.
//!
//! See also: [`decide`](crate::model::decide) (the rule from command to result), [`crate::model::MemberChange`] (membership,
//! which raft's own entries carry).

pub(crate) mod dedup_rules;
pub(crate) mod proposal;
pub(crate) mod txn;
pub mod validate;
pub(crate) mod write_request;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::value::{Condition, Item, Ttl, Value};
use txn::{OpResult, Txn};

/// A command of a client or of the leader; the content of one log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Sets `key` to `value`, whether or not it existed.
    Put {
        /// The key, 1 to [`validate::KEY_BYTES`] bytes of UTF-8.
        key: Bytes,
        /// The value.
        value: Value,
        /// The condition on the key.
        condition: Condition,
        /// Its time to live; without one it does not expire.
        ttl: Option<Ttl>,
    },
    /// Removes `key`, if it exists.
    Delete {
        /// The key, 1 to [`validate::KEY_BYTES`] bytes of UTF-8.
        key: Bytes,
        /// The condition on the key.
        condition: Condition,
    },
    /// Replaces the addresses of the member with this raft id; does nothing if there is no such member.
    Move {
        /// The raft id of the member.
        raft_id: u64,
        /// Its peer address, `host:port`.
        raft_address: String,
        /// Its client address, `host:port`.
        http_address: String,
    },
    /// Removes the first keys with this prefix, at most [`DELETE_PREFIX_KEYS`](super::DELETE_PREFIX_KEYS) of them.
    DeletePrefix {
        /// The prefix.
        prefix: Bytes,
    },
    /// Runs a transaction over several keys.
    Txn(Txn),
    /// Changes the time to live of `key` and the token name of its last write, and nothing else.
    Touch {
        /// The key, 1 to [`validate::KEY_BYTES`] bytes of UTF-8.
        key: Bytes,
        /// Its time to live from now.
        ttl: Ttl,
        /// The condition on the key.
        condition: Condition,
    },
    /// Removes the keys of this list that have expired.
    Expire {
        /// The keys, each with its version at the time of the proposal.
        keys: Vec<(Bytes, u64)>,
    },
    /// Advances the cluster clock to the timestamp of its entry.
    Tick,
}

impl Command {
    /// Returns an unconditional put.
    pub fn put(key: impl Into<Bytes>, bytes: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: Value::binary(bytes), condition: Condition::Always, ttl: None }
    }

    /// Returns an unconditional delete.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into(), condition: Condition::Always }
    }

    /// Estimates its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.len() + value.content_type.len() + value.bytes.len(),
            Self::Delete { key, .. } | Self::Touch { key, .. } => key.len(),
            Self::Move { raft_address, http_address, .. } => raft_address.len() + http_address.len(),
            Self::DeletePrefix { prefix } => prefix.len(),
            Self::Txn(txn) => txn.size(),
            Self::Expire { keys } => keys.iter().map(|(key, _)| key.len() + 8).sum(),
            Self::Tick => 0,
        }
    }

    /// Whether it may remove so many keys that it ends an apply batch.
    #[must_use]
    pub fn removes_many(&self) -> bool {
        matches!(self, Self::DeletePrefix { .. })
    }

    /// Whether it may make the state larger: it is a put, or a transaction with a put in one of its branches.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        match self {
            // Also a put of a smaller value: the old one keeps its space until the engine reclaims it.
            Self::Put { .. } => true,
            // The branch is not known before the entry is applied, so either counts.
            Self::Txn(txn) => {
                let puts = |operation: &txn::Operation| matches!(operation, txn::Operation::Put { .. });
                txn.then.iter().any(puts) || txn.otherwise.iter().any(puts)
            }
            Self::Delete { .. }
            | Self::Move { .. }
            | Self::DeletePrefix { .. }
            | Self::Touch { .. }
            | Self::Expire { .. }
            | Self::Tick => false,
        }
    }

    /// Whether it may put, remove or renew a key; each takes disk space until the engine uses the old space again.
    #[must_use]
    pub fn may_change_keys(&self) -> bool {
        match self {
            Self::Put { .. }
            | Self::Delete { .. }
            | Self::DeletePrefix { .. }
            | Self::Touch { .. }
            | Self::Expire { .. } => true,
            Self::Txn(txn) => {
                let changes = |operation: &txn::Operation| !matches!(operation, txn::Operation::Get { .. });
                txn.then.iter().any(changes) || txn.otherwise.iter().any(changes)
            }
            Self::Move { .. } | Self::Tick => false,
        }
    }

    /// Whether it comes from a client; the other commands are proposed by the leader itself.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        !matches!(self, Self::Move { .. } | Self::Expire { .. } | Self::Tick)
    }
}

/// The result of applying a [`Command`]. A refusal by the state machine is a result, too, not an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandResult {
    /// The key was set; its version is the index of the entry.
    Put {
        /// The index of the entry that created the key.
        create_version: u64,
    },
    /// The key does not exist any more.
    Deleted {
        /// Whether it existed before.
        existed: bool,
    },
    /// The condition failed; nothing was changed.
    ConditionFailed {
        /// The version of the key, 0 if it does not exist.
        version: u64,
    },
    /// Keys with the prefix were removed.
    PrefixDeleted {
        /// How many were removed.
        deleted: u64,
        /// Whether more keys with the prefix exist.
        more: bool,
    },
    /// The transaction was applied.
    Txn {
        /// Whether all checks held.
        succeeded: bool,
        /// The results of the operations, in order.
        #[serde(deserialize_with = "super::codec::list")]
        results: Vec<OpResult>,
    },
    /// The transaction exceeds [`super::TXN_BYTES`]; nothing was changed.
    TooLarge,
    /// The expiry of the key was changed.
    Touched(Box<Item>),
    /// The key to touch does not exist.
    NotFound,
    /// The member table has the new addresses.
    Moved,
    /// No effect: the first entry of a leader's term, or an internal command.
    NoOp,
    /// The idempotency key belongs to another request; nothing was changed.
    IdempotencyKeyReused,
    /// The request was applied before, and its result was too large to store.
    Truncated {
        /// The version in that result.
        version: u64,
    },
    /// The write fails [`validate::write`]; nothing was changed.
    Invalid,
    /// The write has an idempotency key, and the dedup table is full; nothing was changed.
    ResultsFull,
}

impl CommandResult {
    /// Returns the version that this result at `index` refers to.
    #[must_use]
    pub fn version(&self, index: u64) -> u64 {
        match self {
            // A touch keeps the version of the key. A failed condition and a truncated result carry the version that they
            // are about.
            Self::Touched(item) => item.version,
            Self::ConditionFailed { version } | Self::Truncated { version } => *version,
            _ => index,
        }
    }
}
