//! Values, items, time to live and conditions.
//!
//! Invariants: the bytes of a value are opaque here. Version 0 means "no such key"; raft indexes begin at 1.
//!
//! See also: `http::response::item_json` (JSON form), `storage::kv::item_codec` (disk format).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A value: bytes with a content type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Value {
    /// The content type.
    pub content_type: String,
    /// The bytes as sent by the client.
    pub bytes: Bytes,
}

impl Value {
    /// Returns an `application/octet-stream` value.
    pub fn binary(bytes: impl Into<Bytes>) -> Self {
        Self { content_type: "application/octet-stream".to_owned(), bytes: bytes.into() }
    }
}

/// The metadata of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyMeta {
    /// The raft index of the last change.
    pub version: u64,
    /// The raft index at which the key was created.
    pub create_version: u64,
    /// The length of the value.
    pub bytes: usize,
    /// The expiry by the cluster clock in milliseconds; None for never.
    pub expires: Option<u64>,
}

/// A stored item.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// The raft index of the last change.
    pub version: u64,
    /// The raft index at which the key was created.
    pub create_version: u64,
    /// The expiry by the cluster clock in milliseconds; None for never.
    pub expires: Option<u64>,
}

impl Item {
    /// Returns its metadata.
    #[must_use]
    pub fn meta(&self) -> KeyMeta {
        let (version, create_version, expires) = (self.version, self.create_version, self.expires);
        KeyMeta { version, create_version, bytes: self.value.bytes.len(), expires }
    }
}

/// The time to live of a key since its last put or touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl(
    /// Seconds, from 1 to [`Ttl::MAX_SECONDS`].
    pub u32,
);

impl Ttl {
    /// The maximum, ten years of 365 days.
    pub const MAX_SECONDS: u32 = 315_360_000;

    /// Returns the expiry of a key set or touched at `clock`.
    #[must_use]
    pub fn from(self, clock: u64) -> u64 {
        // A clock near the end of u64 comes only from a faulty entry; the key then never expires, and apply does not panic.
        clock.saturating_add(u64::from(self.0) * 1000)
    }
}

/// A condition on the version of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always true.
    #[default]
    Always,
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
    /// The key has exactly this version.
    Version(u64),
}

impl Condition {
    /// Whether it holds for this version, 0 for a missing key.
    #[must_use]
    pub fn holds(self, version: u64) -> bool {
        // A version is never 0 for an existing key, so `Version(0)` would hold for a missing one; HTTP sends `Absent` instead.
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
