//! A write request: a command with its idempotency key and the name of its client's token, and the result of applying it.
//!
//! See also: [`decide_write`](crate::model::decide_write) (deduplication), `http::request::idempotency` (the header).

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Command, CommandResult};
use crate::model::codec::Optionals;
use crate::model::value::TokenName;

/// The identity of a request: retries with the same one are applied once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key the client chose, 1 to [`IDEMPOTENCY_KEY_BYTES`](super::validate::IDEMPOTENCY_KEY_BYTES) visible ASCII characters.
    pub key: Bytes,
    /// A hash of the request: the same key with another fingerprint is a client error.
    pub fingerprint: u128,
}

/// A command with the idempotency key of its request and the name of its client's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Deduplicates retries; without it each proposal is applied.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The token that the node of the client has authenticated; None where that node has no tokens.
    pub by: Option<TokenName>,
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
            + self.by.as_deref().map_or(0, str::len)
            + self.command.size()
    }
}

impl Serialize for Write {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (Optionals(&self.idempotency_key, &self.by), &self.command).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Write {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (Optionals(idempotency_key, by), command) = Deserialize::deserialize(from)?;
        Ok(Self { idempotency_key, by, command })
    }
}

impl From<Command> for Write {
    fn from(command: Command) -> Self {
        Self { idempotency_key: None, by: None, command }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::codec::{decode, encode};
    use crate::model::peer::Request;

    #[test]
    fn golden_bytes_of_a_forwarded_write_without_and_with_a_token_name() {
        // Version 1; variant 0 (write); the byte of the optional fields; the name with its length; then the command:
        // variant 1 (delete), key of length 1, condition variant 0.
        let delete = b"\x01\0\0\0\x01\0\0\0\0\0\0\0k\0\0\0\0";
        for (by, options) in [(None, &b"\0"[..]), (Some("ab"), b"\x02\x02\0\0\0\0\0\0\0ab")] {
            let by = by.map(|name| name.parse().unwrap());
            let write = Write { idempotency_key: None, by, command: Command::delete("k") };
            let request = Request::Write(write);
            let golden = [b"\x01\0\0\0\0", options, delete].concat();
            assert_eq!(encode(&request), golden);
            assert_eq!(decode(&golden), Ok(request));
        }
    }

    #[test]
    fn the_size_of_a_write_counts_its_token_name() {
        let write = Write::from(Command::delete("k"));
        let named = Write { by: Some("ab".parse().unwrap()), ..write.clone() };
        assert_eq!(named.size(), write.size() + 2);
    }
}
