//! The state record: applied index, cluster clock, configuration, totals.
//!
//! Why: it changes with every batch, in the same atomic write as the effects. So after a crash the state machine knows exactly
//! what it has applied, and the number of keys without a scan.
//!
//! Invariants: a function of the applied entries, so equal on all nodes at the same index.
//!
//! See also: `identity` (what is specific to one node).

use protobuf::Message;
use raft::eraftpb::ConfState;

use super::chunks::StateTotals;
use crate::storage::layout::{FieldReader, MAX_COUNT, STATE_VERSION, push_prefixed};

/// The state record.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct State {
    /// The index of the entry applied last.
    pub(crate) index: u64,
    /// Its term.
    pub(crate) term: u64,
    /// The index of the last membership change.
    pub(crate) configuration_index: u64,
    /// The totals of all values.
    pub(crate) totals: StateTotals,
    /// Whether a client command was ever applied.
    pub(crate) was_written: bool,
    /// The cluster clock in milliseconds: the greatest timestamp applied.
    pub(crate) clock: u64,
    /// The configuration at `index`.
    pub(crate) conf_state: ConfState,
}

/// Why bytes are not a state record.
pub(crate) enum Unreadable {
    /// A newer format.
    Newer(u8),
    /// Malformed.
    Malformed,
}

impl State {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![STATE_VERSION];
        for number in [self.index, self.term, self.configuration_index, self.totals.keys, self.totals.digest] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.push(u8::from(self.was_written));
        bytes.extend_from_slice(&self.clock.to_le_bytes());
        let conf_state = self.conf_state.write_to_bytes().expect("a ConfState has no required fields to miss");
        push_prefixed(&mut bytes, &conf_state);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let mut bytes = FieldReader(bytes);
        // The version comes first in every format, so a newer record is named as newer and not as damaged.
        match bytes.u8() {
            Some(STATE_VERSION) => {}
            Some(version) if version > STATE_VERSION => return Err(Unreadable::Newer(version)),
            _ => return Err(Unreadable::Malformed),
        }
        let mut read = || {
            let (index, term) = bytes.pair()?;
            let configuration_index = bytes.u64()?;
            let (keys, digest) = bytes.pair()?;
            let was_written = bytes.u8()? != 0;
            let clock = bytes.u64()?;
            let conf_state = ConfState::parse_from_bytes(bytes.prefixed()?).ok()?;
            let totals = StateTotals { keys, digest };
            Some(Self { index, term, configuration_index, totals, was_written, clock, conf_state })
        };
        let possible = |state: &Self| state.index <= MAX_COUNT && state.term <= MAX_COUNT;
        read().filter(|state| bytes.is_empty() && possible(state)).ok_or(Unreadable::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let state = State {
            index: 1,
            term: 2,
            configuration_index: 3,
            totals: StateTotals { keys: 4, digest: 5 },
            was_written: true,
            clock: 6,
            conf_state: ConfState { voters: vec![6], ..ConfState::default() },
        };
        let mut golden = vec![1];
        for number in 1..=5 {
            golden.extend_from_slice(&[number, 0, 0, 0, 0, 0, 0, 0]);
        }
        golden.extend_from_slice(b"\x01\x06\0\0\0\0\0\0\0\x02\0\0\0\x08\x06");
        assert_eq!(state.encode(), golden);
        assert!(matches!(State::decode(&golden), Ok(read) if read == state));
        golden[0] = 9;
        assert!(matches!(State::decode(&golden), Err(Unreadable::Newer(9))));
        assert!(matches!(State::decode(&golden[..3]), Err(Unreadable::Newer(9))));
        golden[0] = 1;
        golden.push(0);
        assert!(matches!(State::decode(&golden), Err(Unreadable::Malformed)));
    }
}
