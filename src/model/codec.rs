//! Versioned encoding: the only place that turns values of the model into bytes and back.
//!
//! Why: these bytes lie on disks and cross between versions of huskv, so each encoding begins with a version and is bounded
//! before memory is allocated. It is the only file that names the serializer.
//!
//! Invariants: another version is an error, never a guess. Every byte must be consumed. A length field allocates nothing before
//! its bytes are there, but for a small multiple of the input. A list whose elements are much larger in memory than encoded is
//! bounded in number ([`MAX_ELEMENTS`]).
//!
//! A field that was added later is optional, and stands behind the same byte as an older optional field (`Optionals`): without
//! it the bytes are those of before, so what older versions wrote is read, and equal values have equal bytes. An older version
//! refuses the byte.
//!
//! See also: `storage::journal::record` and `transport::wire` (checksums and framing).

use std::fmt;
use std::marker::PhantomData;

use bincode::config::{self, Configuration, Fixint, Limit, LittleEndian};
use bincode::error::DecodeError;
use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The encoding version, the first byte of every encoding.
pub const VERSION: u8 = 1;

/// The maximum encoded size of one value, 64 MiB; far above any limit that a client can reach.
pub const MAX_BYTES: usize = 64 << 20;

/// A decode error.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// No bytes, not even the version.
    #[error("empty encoding")]
    Empty,
    /// Another encoding version.
    #[error("encoding version {0}, this huskv reads version {VERSION}")]
    Version(u8),
    /// Malformed bytes.
    #[error("malformed encoding: {0}")]
    Malformed(String),
}

fn configuration<const LIMIT: usize>() -> Configuration<LittleEndian, Fixint, Limit<LIMIT>> {
    config::legacy().with_limit::<LIMIT>()
}

/// Decodes within a limit. The serializer allocates what a length field claims below the limit, so the limit has to be
/// near the size of the input.
fn within<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<(T, usize), DecodeError> {
    bincode::serde::decode_from_slice(bytes, configuration::<LIMIT>())
}

/// Encodes `value` with its version byte.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    encode_about(value, 0)
}

/// As [`encode`], with a capacity hint.
pub fn encode_about<T: Serialize>(value: &T, size: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size);
    encode_into(value, &mut bytes);
    bytes
}

/// As [`encode`], behind what is in `bytes`.
pub fn encode_into<T: Serialize>(value: &T, bytes: &mut Vec<u8>) {
    bytes.push(VERSION);
    bincode::serde::encode_into_std_write(value, bytes, configuration::<MAX_BYTES>())
        .expect("writing to memory cannot fail, and no value of the model is of unknown length or over the bound");
}

/// Decodes an encoding.
///
/// # Errors
/// [`CodecError`] for another version, malformed bytes, and trailing bytes.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    let (&version, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if version != VERSION {
        return Err(CodecError::Version(version));
    }
    // A value never needs a larger limit than its encoding has bytes, so the smallest class that fits is used. Example: 13
    // bytes that claim a key of 4 GiB are decoded within 4 KiB, and fail before anything is allocated for the key.
    let decoded = match rest.len() {
        0..=0x1000 => within::<T, 0x1000>(rest),
        0x1001..=0x1_0000 => within::<T, 0x1_0000>(rest),
        0x1_0001..=0x10_0000 => within::<T, 0x10_0000>(rest),
        _ => within::<T, MAX_BYTES>(rest),
    };
    let (value, used) = decoded.map_err(|error| CodecError::Malformed(error.to_string()))?;
    // Trailing bytes mean that the value was written by another format.
    if used != rest.len() {
        return Err(CodecError::Malformed(format!("{} bytes left over", rest.len() - used)));
    }
    Ok(value)
}

/// The maximum elements of a list whose elements are much larger in memory than encoded.
pub const MAX_ELEMENTS: usize = 4096;

/// Decodes a list of at most [`MAX_ELEMENTS`], for `deserialize_with`: an operation of a transaction takes 12 bytes
/// encoded and ten times as much in memory.
///
/// # Errors
/// If there are more; none of them is decoded then.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Elements<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
        type Value = Vec<T>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(out, "at most {MAX_ELEMENTS} elements")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let too_many = |count| Err(A::Error::invalid_length(count, &self));
            // The length field is a claim: refuse a large one at once, and never allocate by it.
            if let Some(count) = seq.size_hint().filter(|count| *count > MAX_ELEMENTS) {
                return too_many(count);
            }
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == MAX_ELEMENTS {
                    return too_many(MAX_ELEMENTS + 1);
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }

    from.deserialize_seq(Elements(PhantomData))
}

/// Two optional fields behind one byte: bit 0 says whether the first one follows, bit 1 whether the second.
///
/// Without the second field this is the encoding of an `Option` of the first one, which is what versions wrote that did not
/// have the second.
#[derive(Debug)]
pub(super) struct Optionals<A, B>(pub(super) A, pub(super) B);

impl<A: Serialize, B: Serialize> Serialize for Optionals<&Option<A>, &Option<B>> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (first, second) = (self.0.is_some(), self.1.is_some());
        let mut fields = to.serialize_tuple(1 + usize::from(first) + usize::from(second))?;
        fields.serialize_element(&(u8::from(first) | u8::from(second) << 1))?;
        if let Some(first) = self.0 {
            fields.serialize_element(first)?;
        }
        if let Some(second) = self.1 {
            fields.serialize_element(second)?;
        }
        fields.end()
    }
}

impl<'de, A: Deserialize<'de>, B: Deserialize<'de>> Deserialize<'de> for Optionals<Option<A>, Option<B>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields<A, B>(PhantomData<(A, B)>);

        impl<'de, A: Deserialize<'de>, B: Deserialize<'de>> Visitor<'de> for Fields<A, B> {
            type Value = Optionals<Option<A>, Option<B>>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a byte from 0 to 3, and the fields that it announces")
            }

            fn visit_seq<Q: SeqAccess<'de>>(self, mut seq: Q) -> Result<Self::Value, Q::Error> {
                let missing = || Q::Error::custom("an announced field is missing");
                let announced: u8 = seq.next_element()?.ok_or_else(missing)?;
                if announced > 3 {
                    return Err(Q::Error::custom("a later version's field is announced"));
                }
                let first = if announced & 1 == 0 { None } else { Some(seq.next_element()?.ok_or_else(missing)?) };
                let second = if announced & 2 == 0 { None } else { Some(seq.next_element()?.ok_or_else(missing)?) };
                Ok(Optionals(first, second))
            }
        }

        from.deserialize_tuple(3, Fields(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Command, Condition, Member, MemberChange, Operation, Role, Ttl, Txn, Value};
    use bytes::Bytes;

    #[test]
    fn golden_bytes_of_a_put() {
        // Version 1; variant 0 (put); key, content type and value, each with its length as u64; condition variant 3
        // (version) with 5; Some(7). All numbers are little-endian and of fixed width.
        let put = Command::Put {
            key: "k".into(),
            value: Value { content_type: "t".into(), bytes: "v".into() },
            condition: Condition::Version(5),
            ttl: Some(Ttl(7)),
        };
        let golden =
            b"\x01\0\0\0\0\x01\0\0\0\0\0\0\0k\x01\0\0\0\0\0\0\0t\x01\0\0\0\0\0\0\0v\x03\0\0\0\x05\0\0\0\0\0\0\0\x01\x07\0\0\0";
        assert_eq!(encode(&put), golden);
        assert_eq!(decode(golden), Ok(put));
    }

    #[test]
    fn golden_bytes_of_a_member_change() {
        // Version 1; variant 0 (set); name; raft id as u64; peer address; client address; role variant 1 (learner).
        let change = MemberChange::Set(Member {
            name: "a".into(),
            raft_id: 0x0102,
            raft_address: "r".into(),
            http_address: "h".into(),
            role: Role::Learner,
        });
        let golden =
            b"\x01\0\0\0\0\x01\0\0\0\0\0\0\0a\x02\x01\0\0\0\0\0\0\x01\0\0\0\0\0\0\0r\x01\0\0\0\0\0\0\0h\x01\0\0\0";
        assert_eq!(encode(&change), golden);
        assert_eq!(decode(golden), Ok(change));
    }

    #[test]
    fn other_versions_trailing_bytes_and_false_lengths_are_refused() {
        let mut bytes = encode(&Command::delete("k"));
        bytes.push(0);
        assert!(matches!(decode::<Command>(&bytes), Err(CodecError::Malformed(_))));
        bytes[0] = 2;
        assert_eq!(decode::<Command>(&bytes), Err(CodecError::Version(2)));
        assert_eq!(decode::<Command>(&[]), Err(CodecError::Empty));
        // A delete with a key of one byte, whose length field claims 16 EiB, 4 GiB, and almost the limit of an encoding.
        for length in [u64::MAX, u64::from(u32::MAX), MAX_BYTES as u64 - 100] {
            let huge = [&[VERSION, 1, 0, 0, 0][..], &length.to_le_bytes(), b"k"].concat();
            let taken = allocation_counter::measure(|| {
                assert!(matches!(decode::<Command>(&huge), Err(CodecError::Malformed(_))));
            });
            assert!(taken.bytes_max < 0x2000, "{} bytes for a length of {length}", taken.bytes_max);
        }
    }

    #[test]
    fn two_optional_fields_are_an_option_while_the_second_is_missing() {
        for (first, golden) in [(None, &b"\x01\0"[..]), (Some(7_u16), b"\x01\x01\x07\0")] {
            assert_eq!((encode(&first), encode(&Optionals(&first, &None::<u8>))), (golden.into(), golden.into()));
        }
        type Both = Optionals<Option<u16>, Option<u8>>;
        for (first, second, golden) in
            [(None, Some(9), &b"\x01\x02\x09"[..]), (Some(7), Some(9), b"\x01\x03\x07\0\x09")]
        {
            assert_eq!(encode(&Optionals(&first, &second)), golden);
            assert!(matches!(decode::<Both>(golden), Ok(Optionals(a, b)) if (a, b) == (first, second)));
            // What a version without the second field makes of it.
            assert!(decode::<Option<u16>>(golden).is_err());
        }
        for bad in [&b"\x01\x04"[..], b"\x01\xff\x07\0\x09", b"\x01\x02", b"\x01\x03\x07\0", b"\x01\x01\x07\0\x09"] {
            assert!(decode::<Both>(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_list_of_small_elements_is_counted_before_it_is_decoded() {
        let gets = |count| {
            let then = vec![Operation::Get { key: Bytes::new() }; count];
            encode(&Command::Txn(Txn { checks: Vec::new(), then, otherwise: Vec::new() }))
        };
        assert!(decode::<Command>(&gets(MAX_ELEMENTS)).is_ok());
        let many = gets(200_000);
        let taken = allocation_counter::measure(|| {
            assert!(matches!(decode::<Command>(&many), Err(CodecError::Malformed(_))));
        });
        assert!(taken.bytes_max < 0x2000, "{} bytes", taken.bytes_max);
    }

    #[test]
    fn values_around_every_limit_class_round_trip() {
        // Version, variant and length fields push the encoding over each class at different sizes of the value.
        for bound in [0x1000_usize, 0x1_0000, 0x10_0000] {
            for size in bound - 40..bound + 8 {
                let put = Command::put("k", vec![7; size]);
                assert_eq!(decode(&encode(&put)), Ok(put), "{size}");
            }
        }
    }
}
