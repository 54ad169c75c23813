//! A write request: a command with its idempotency key, and the result of applying it.
//!
//! See also: [`decide_write`](crate::model::decide_write) (deduplication), `http::request::idempotency` (the header).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Command, CommandResult};

/// The identity of a request: retries with the same one are applied once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key the client chose, 1 to [`IDEMPOTENCY_KEY_BYTES`](super::validate::IDEMPOTENCY_KEY_BYTES) visible ASCII characters.
    pub key: Bytes,
    /// A hash of the request: the same key with another fingerprint is a client error.
    pub fingerprint: u128,
}

/// A command with the idempotency key of its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Deduplicates retries; without it each proposal is applied.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The command.
    pub command: Command,
}

impl Write {
    /// Estimates its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.idempotency_key
            .as_ref()
            .map_or(0, |idempotency_key| idempotency_key.key.len() + size_of::<IdempotencyKey>())
            + self.command.size()
    }
}

impl From<Command> for Write {
    fn from(command: Command) -> Self {
        Self { idempotency_key: None, command }
    }
}

/// The result of an applied write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The index of its entry, the version of the keys it changed.
    pub index: u64,
    /// The term of its entry.
    pub term: u64,
    /// The cluster clock at this entry, in milliseconds.
    pub clock: u64,
    /// Its result.
    pub outcome: CommandResult,
    /// Whether it was applied before, and this is its stored result.
    pub replayed: bool,
}
