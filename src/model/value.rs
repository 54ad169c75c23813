//! Values, items, token names, time to live and conditions.
//!
//! Invariants: the bytes of a value are opaque here. Version 0 means "no such key"; raft indexes begin at 1.
//!
//! See also: `http::response::item_json` (JSON form), `storage::kv::item_codec` (disk format).

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _};
use serde::ser::{Serialize, Serializer};

use super::codec::Optionals;

/// A value: bytes with a content type.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Item {
    /// The value.
    pub value: Value,
    /// The raft index of the last change.
    pub version: u64,
    /// The raft index at which the key was created.
    pub create_version: u64,
    /// The expiry by the cluster clock in milliseconds; None for never.
    pub expires: Option<u64>,
    /// The token of the last write, a touch included; None where its node had no tokens.
    pub by: Option<TokenName>,
}

impl Item {
    /// Returns the bytes of its value, content type and token name.
    #[must_use]
    pub fn size(&self) -> usize {
        self.value.content_type.len() + self.value.bytes.len() + self.by.as_deref().map_or(0, str::len)
    }

    /// Returns its metadata.
    #[must_use]
    pub fn meta(&self) -> KeyMeta {
        let (version, create_version, expires) = (self.version, self.create_version, self.expires);
        KeyMeta { version, create_version, bytes: self.value.bytes.len(), expires }
    }
}

impl Serialize for Item {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (&self.value, self.version, self.create_version, Optionals(&self.expires, &self.by)).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let (value, version, create_version, Optionals(expires, by)) = Deserialize::deserialize(from)?;
        Ok(Self { value, version, create_version, expires, by })
    }
}

/// The name of a token: 1 to [`TokenName::MAX_BYTES`] of `A-Z a-z 0-9 . _ -`. A clone shares the text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenName(Arc<str>);

impl TokenName {
    /// The maximum length, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// Whether this text is a token name.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        (1..=Self::MAX_BYTES).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    }
}

impl FromStr for TokenName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if Self::is_valid(text) {
            return Ok(Self(text.into()));
        }
        Err(format!("name must be 1 to {} of A-Z a-z 0-9 . _ -", Self::MAX_BYTES))
    }
}

impl Deref for TokenName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for TokenName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

/// Only a valid name is decoded, so an entry or a request with another one is malformed.
impl<'de> Deserialize<'de> for TokenName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// The time to live of a key since its last put or touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    use crate::model::codec::{decode, encode};

    fn item(expires: Option<u64>, by: Option<&str>) -> Item {
        let value = Value { content_type: "t".into(), bytes: "v".into() };
        Item { value, version: 9, create_version: 2, expires, by: by.map(|name| name.parse().unwrap()) }
    }

    #[test]
    fn golden_bytes_of_an_item_without_and_with_a_token_name() {
        // Version 1; content type and value, each with its length; version; create version.
        let start = b"\x01\x01\0\0\0\0\0\0\0t\x01\0\0\0\0\0\0\0v\x09\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0";
        for (item, rest) in [
            // As they were before items had names: an optional expiry.
            (item(None, None), &b"\0"[..]),
            (item(Some(7), None), b"\x01\x07\0\0\0\0\0\0\0"),
            // With a name: the flag 2, and the name with its length behind the expiry.
            (item(None, Some("ab")), b"\x02\x02\0\0\0\0\0\0\0ab"),
            (item(Some(7), Some("ab")), b"\x03\x07\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0ab"),
        ] {
            let golden = [&start[..], rest].concat();
            assert_eq!(encode(&item), golden, "{item:?}");
            assert_eq!(decode(&golden), Ok(item));
        }
    }

    #[test]
    fn only_a_valid_token_name_is_decoded() {
        for (name, valid) in
            [("a", true), ("A.b_c-9", true), (&"a".repeat(64), true), (&"a".repeat(65), false), ("", false)]
                .into_iter()
                .chain(["a b", "a\n", "é", "a\"", "a/b"].map(|name| (name, false)))
        {
            assert_eq!(name.parse::<TokenName>().is_ok(), valid, "{name:?}");
            assert_eq!(decode::<TokenName>(&encode(&name)).is_ok(), valid, "{name:?}");
        }
    }

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
