//! Values, items, time to live and conditions.
//!
//! Invariants: the bytes of a value are opaque here. Version 0 means "no such key"; raft indexes begin at 1.
//!
//! See also: `http::response::item_json` (JSON form), `storage::kv::item_codec` (disk format).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Bytes and what they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Value {
    /// What the bytes are, as in a Content-Type header.
    pub content_type: String,
    /// The bytes, as the client sent them.
    pub bytes: Bytes,
}

impl Value {
    /// Bytes of which nothing is known.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { content_type: "application/octet-stream".to_owned(), bytes: bytes.into() }
    }
}

/// What is known of a key without reading its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMeta {
    /// The raft index of the last change.
    pub version: u64,
    /// The raft index of the change that made the key.
    pub create_version: u64,
    /// The length of the value.
    pub bytes: usize,
    /// The cluster's time, in milliseconds, from which on it may be removed, where it is not kept for ever.
    pub expires: Option<u64>,
}

/// What the store has under a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// The raft index of the last change.
    pub version: u64,
    /// The raft index of the change that made the key.
    pub create_version: u64,
    /// The cluster's time, in milliseconds, from which on it may be removed, where it is not kept for ever.
    pub expires: Option<u64>,
}

impl Item {
    /// What is known of it without its value.
    #[must_use]
    pub fn meta(&self) -> KeyMeta {
        let (version, create_version, expires) = (self.version, self.create_version, self.expires);
        KeyMeta { version, create_version, bytes: self.value.bytes.len(), expires }
    }
}

/// How long a key is kept after its last put or touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl(
    /// Seconds, from 1 to [`Ttl::MAX_SECONDS`].
    pub u32,
);

impl Ttl {
    /// The longest, ten years of 365 days.
    pub const MAX_SECONDS: u32 = 315_360_000;

    /// When a key that is set or touched at `clock` may be removed.
    #[must_use]
    pub fn from(self, clock: u64) -> u64 {
        clock.saturating_add(u64::from(self.0) * 1000)
    }
}

/// What has to be true of a key for a change to happen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// There is such a key.
    Exists,
    /// There is no such key.
    Absent,
    /// The key has exactly this version.
    Version(u64),
}

impl Condition {
    /// Whether it is true of a key with this version, 0 where there is no such key.
    #[must_use]
    pub fn holds(self, version: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Exists => version != 0,
            Self::Absent => version == 0,
            Self::Version(wanted) => version == wanted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_look_at_the_version_alone() {
        let conditions = [Condition::Always, Condition::Exists, Condition::Absent, Condition::Version(7)];
        for (version, expected) in
            [(0, [true, false, true, false]), (7, [true, true, false, true]), (8, [true, true, false, false])]
        {
            assert_eq!(conditions.map(|condition| condition.holds(version)), expected, "{version}");
        }
    }
}
