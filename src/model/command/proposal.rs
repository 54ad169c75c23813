//! What the entry of a write holds: the command with its client's name for it, and the leader's stamp of the cluster's time.
//!
//! Why: apply reads no clock, so whatever depends on time is decided by a time that stands in the entry itself.
//!
//! Laws: the leader stamps an entry when it proposes it; nobody stamps it again. The cluster's clock is the greatest stamp
//! that was applied, so it never goes back.
//!
//! Not here: how a leader comes to its stamps (`consensus::proposals::cluster_clock`), and membership entries, which carry none.

use serde::{Deserialize, Serialize};

use crate::model::{Command, Write, codec};

/// What an encoded proposal has beside the bytes that its command counts, roughly.
const FRAME_BYTES: usize = 64;

/// The data of a normal entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// The cluster's time when it was proposed, in milliseconds.
    pub stamp: u64,
    /// What is to be done.
    pub write: Write,
}

impl Proposal {
    /// The bytes of a proposal of `write`.
    #[must_use]
    pub fn encode(stamp: u64, write: &Write) -> Vec<u8> {
        codec::encode_about(&(stamp, write), write.size() + FRAME_BYTES)
    }
}

impl From<Command> for Proposal {
    /// A proposal of the beginning of time.
    fn from(command: Command) -> Self {
        Self { stamp: 0, write: command.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IdempotencyKey;

    #[test]
    fn golden_bytes() {
        let delete = b"\x01\0\0\0\x01\0\0\0\0\0\0\0k\0\0\0\0";
        let bytes = Proposal::encode(0x0102, &Command::delete("k").into());
        assert_eq!(bytes, [b"\x01\x02\x01\0\0\0\0\0\0\0", &delete[..]].concat());
        assert_eq!(codec::decode(&bytes), Ok(Proposal { stamp: 0x0102, write: Command::delete("k").into() }));
        let once = Some(IdempotencyKey { key: "n".into(), fingerprint: 3 });
        let bytes = Proposal::encode(0x0102, &Write { once, command: Command::delete("k") });
        let named = b"\x01\x02\x01\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0n\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(bytes, [&named[..], delete].concat());
    }
}
