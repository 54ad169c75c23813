//! The values of a transaction: checks, operations and their results.
//!
//! See also: [`decide`](crate::model::decide) (how they are evaluated), `http::api::txn` (the JSON form).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::model::codec;
use crate::model::value::{Condition, Item, Ttl, Value};

/// The maximum bytes of stored values that a transaction reads, replaces or removes.
pub const TXN_BYTES: usize = 16 << 20;
/// The maximum keys of one delete by prefix.
pub const DELETE_PREFIX_KEYS: usize = 1000;
/// The maximum bytes of stored values of one delete by prefix; a larger first value is removed all the same.
pub const DELETE_PREFIX_BYTES: usize = 4 << 20;

/// A transaction: checks, and one list of operations for each outcome of the checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Txn {
    /// The conditions of `then`.
    #[serde(deserialize_with = "codec::list")]
    pub checks: Vec<Check>,
    /// Run in order if all checks hold.
    #[serde(deserialize_with = "codec::list")]
    pub then: Vec<Operation>,
    /// Run in order if a check fails.
    #[serde(deserialize_with = "codec::list")]
    pub otherwise: Vec<Operation>,
}

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The key.
    pub key: Bytes,
    /// The condition.
    pub test: Test,
}

/// The condition of a [`Check`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Test {
    /// The version meets this condition.
    Is(Condition),
    /// The value equals these bytes.
    Holds(Bytes),
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Sets the key.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Value,
        /// Its time to live; without one it does not expire.
        ttl: Option<Ttl>,
    },
    /// Removes the key.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads the key, with the writes of the operations before it.
    Get {
        /// The key.
        key: Bytes,
    },
}

impl Operation {
    /// Returns the key.
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

/// The result of an [`Operation`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpResult {
    /// The key was set.
    Put,
    /// The key was removed.
    Deleted {
        /// Whether it existed.
        existed: bool,
    },
    /// The item of the key.
    Got(Option<Item>),
}

impl Txn {
    /// Estimates its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        // Keys, values and content types; the fields around them are bounded by the number of operations.
        let check =
            |check: &Check| check.key.len() + if let Test::Holds(bytes) = &check.test { bytes.len() } else { 0 };
        let operations = self.then.iter().chain(&self.otherwise);
        self.checks.iter().map(check).sum::<usize>() + operations.map(Operation::size).sum::<usize>()
    }
}
