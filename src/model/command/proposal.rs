//! The data of a log entry: a write and the leader's timestamp.
//!
//! Why: applying an entry reads no clock, so whatever depends on time uses the timestamp in the entry.
//!
//! Invariants: a leader sets the timestamp when it proposes the entry, and it is never changed. The cluster clock is the
//! greatest timestamp applied, so it never goes back.
//!
//! See also: `consensus::proposals::cluster_clock` (how the leader chooses timestamps).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Command;
use super::write_request::{IdempotencyKey, Write};
use crate::model::{Value, codec};

/// The encoded bytes of a proposal besides its command, roughly.
const FRAME_BYTES: usize = 64;

/// Values below are copied out of the buffer of their request, which may be several times as large.
const SHARED_BYTES: usize = 64 << 10;

/// The data of a normal entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The timestamp of the proposal, in milliseconds of the cluster clock.
    pub stamp: u64,
    /// The write.
    pub write: Write,
}

impl Proposal {
    /// Encodes a proposal of `write`.
    #[must_use]
    pub fn encode(stamp: u64, write: &Write) -> Vec<u8> {
        codec::encode_about(&(stamp, write), write.size() + FRAME_BYTES)
    }

    /// Returns what decoding [`Proposal::encode`] would, for a write that puts, removes or renews one key; None for others.
    /// A large value is shared with `write`.
    #[must_use]
    pub fn of_one_key(stamp: u64, write: &Write) -> Option<Self> {
        // The item and its event may be kept for long, and with them the whole buffer that they are a part of.
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        let command = match &write.command {
            Command::Put { key, value: Value { content_type, bytes }, condition, ttl } => {
                let bytes = if bytes.len() < SHARED_BYTES { own(bytes) } else { bytes.clone() };
                let value = Value { content_type: content_type.clone(), bytes };
                Command::Put { key: own(key), value, condition: *condition, ttl: *ttl }
            }
            Command::Delete { key, condition } => Command::Delete { key: own(key), condition: *condition },
            Command::Touch { key, ttl, condition } => {
                Command::Touch { key: own(key), ttl: *ttl, condition: *condition }
            }
            _ => return None,
        };
        let idempotency_key = write
            .idempotency_key
            .as_ref()
            .map(|IdempotencyKey { key, fingerprint }| IdempotencyKey { key: own(key), fingerprint: *fingerprint });
        Some(Self { stamp, write: Write { idempotency_key, by: write.by.clone(), command } })
    }
}

impl From<Command> for Proposal {
    /// Returns a proposal at time 0.
    fn from(command: Command) -> Self {
        Self { stamp: 0, write: command.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Condition, TokenName, Ttl};

    #[test]
    fn the_proposal_of_a_write_is_what_its_bytes_are_decoded_to() {
        let (condition, ttl) = (Condition::Version(4), Ttl(9));
        let value = Value { content_type: "t".into(), bytes: vec![7; SHARED_BYTES].into() };
        let idempotency_key = Some(IdempotencyKey { key: "n".into(), fingerprint: 3 });
        for command in [
            Command::put("k", "v"),
            Command::put("k", ""),
            Command::Put { key: "k".into(), value, condition, ttl: Some(ttl) },
            Command::delete("k"),
            Command::Touch { key: "k".into(), ttl, condition },
        ] {
            for write in [
                Write::from(command.clone()),
                Write { idempotency_key: idempotency_key.clone(), by: Some("ab".parse().unwrap()), command },
            ] {
                let proposal = Proposal::of_one_key(5, &write);
                assert_eq!(codec::decode(&Proposal::encode(5, &write)).ok(), proposal);
                assert!(proposal.is_some());
            }
        }
        assert_eq!(Proposal::of_one_key(5, &Command::Tick.into()), None);
    }

    #[test]
    fn golden_bytes_without_a_token_name() {
        // As they were before entries had token names. Version 1; stamp as u64; no idempotency key; then the command: variant 1 (delete), key of length 1, condition
        // variant 0.
        let delete = b"\x01\0\0\0\x01\0\0\0\0\0\0\0k\0\0\0\0";
        let bytes = Proposal::encode(0x0102, &Command::delete("k").into());
        assert_eq!(bytes, [b"\x01\x02\x01\0\0\0\0\0\0\0", &delete[..]].concat());
        assert_eq!(codec::decode(&bytes), Ok(Proposal { stamp: 0x0102, write: Command::delete("k").into() }));
        let idempotency_key = Some(IdempotencyKey { key: "n".into(), fingerprint: 3 });
        let write = Write { idempotency_key, by: None, command: Command::delete("k") };
        let bytes = Proposal::encode(0x0102, &write);
        // With an idempotency key: 1, key of length 1, fingerprint as u128.
        let named = b"\x01\x02\x01\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0n\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(bytes, [&named[..], delete].concat());
        assert_eq!(codec::decode(&bytes), Ok(Proposal { stamp: 0x0102, write }));
    }

    #[test]
    fn golden_bytes_with_a_token_name() {
        // Since entries have token names, the byte of the idempotency key is 2 with a name and 3 with both, and the name
        // with its length follows the key.
        let delete = b"\x01\0\0\0\x01\0\0\0\0\0\0\0k\0\0\0\0";
        let by: Option<TokenName> = Some("ab".parse().unwrap());
        let key = IdempotencyKey { key: "n".into(), fingerprint: 3 };
        let both = b"\x03\x01\0\0\0\0\0\0\0n\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0ab";
        for (idempotency_key, options) in [(None, &b"\x02\x02\0\0\0\0\0\0\0ab"[..]), (Some(key), both)] {
            let write = Write { idempotency_key, by: by.clone(), command: Command::delete("k") };
            let bytes = Proposal::encode(0x0102, &write);
            assert_eq!(bytes, [b"\x01\x02\x01\0\0\0\0\0\0", options, delete].concat());
            assert_eq!(codec::decode(&bytes), Ok(Proposal { stamp: 0x0102, write }));
        }
        // A name that no token has.
        let bad = [&b"\x01\x02\x01\0\0\0\0\0\0\x02\x02\0\0\0\0\0\0\0a "[..], delete].concat();
        assert!(codec::decode::<Proposal>(&bad).is_err());
    }
}
