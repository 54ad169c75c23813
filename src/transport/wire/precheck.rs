//! Pre-decode check of raft messages.
//!
//! Why: an entry of two bytes on the wire takes over a hundred in memory, so one frame of empty entries could take gigabytes. A
//! walk over the bytes, which allocates nothing, bounds the message first.
//!
//! Invariants: only fields that huskv sends pass; unknown fields, which the decoder would keep, and groups do not. Every length is
//! within the input.
//!
//! See also: `admission` (semantic checks).

/// The maximum entries of one message. A leader packs at most 512 KiB of entries into one, unless it is a single one,
/// and an entry has at least four bytes.
pub const MAX_ENTRIES: usize = 128 << 10;
/// The maximum bytes of a context; raft's own have at most 24.
const CONTEXT_BYTES: usize = 1 << 10;

/// A reader of protobuf fields.
struct ProtoReader<'a>(&'a [u8]);

/// The value of a field.
enum Field<'a> {
    Number,
    Bytes(&'a [u8]),
}

impl<'a> ProtoReader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        // Ten groups of 7 bits, the last one shifted by 63; an eleventh byte is malformed.
        for shift in (0..70).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads the next field; None if it is malformed. Not to be called at the end of the bytes.
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => {
                self.varint()?;
                Field::Number
            }
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Field::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

/// Checks that `bytes` are a raft message of a bounded size in memory. `snapshot` says which kind: the end of a snapshot,
/// which has no entries, or any other message, which has no snapshot.
///
/// # Errors
/// The reason.
pub fn check(bytes: &[u8], snapshot: bool) -> Result<(), &'static str> {
    const MALFORMED: &str = "no raft message";
    // An empty entry is `3a 00` on the wire. A frame of 32 MiB of them would be 16 million entries, over 1.6 GB when
    // decoded.
    let (mut reader, mut entries) = (ProtoReader(bytes), 0);
    while !reader.0.is_empty() {
        // Field numbers of eraftpb.Message: 7 are entries, 9 the snapshot, 12 the context; all others are numbers.
        match reader.field().ok_or(MALFORMED)? {
            (1..=6 | 8 | 10 | 11 | 13..=16, Field::Number) => {}
            (7, Field::Bytes(entry)) if !snapshot => {
                entries += 1;
                if entries > MAX_ENTRIES {
                    return Err("more entries than a leader sends at once");
                }
                check_entry(entry).ok_or(MALFORMED)?;
            }
            (9, Field::Bytes(_)) if snapshot => {}
            (12, Field::Bytes(context)) if context.len() <= CONTEXT_BYTES => {}
            _ => return Err("a raft message with an unknown field"),
        }
    }
    Ok(())
}

fn check_entry(entry: &[u8]) -> Option<()> {
    let mut reader = ProtoReader(entry);
    while !reader.0.is_empty() {
        match reader.field()? {
            (1..=3 | 5, Field::Number) | (4 | 6, Field::Bytes(_)) => {}
            _ => return None,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;
    use raft::eraftpb::{Entry, Message, MessageType, Snapshot};

    #[test]
    fn a_leaders_message_passes() {
        let entry = Entry { index: 4, term: u64::MAX, data: vec![7; 300].into(), ..Entry::default() };
        let change =
            Entry { entry_type: raft::eraftpb::EntryType::EntryConfChangeV2, context: vec![1].into(), ..entry };
        let mut message = Message { msg_type: MessageType::MsgAppend, from: 1, to: 2, term: 3, ..Message::default() };
        (message.log_term, message.index, message.commit, message.commit_term) = (1, 2, 3, 4);
        (message.reject, message.reject_hint, message.request_snapshot, message.priority) = (true, 5, 6, -1);
        (message.context, message.entries) = (vec![1; 24].into(), vec![Entry::default(), change].into());
        assert_eq!(check(&message.write_to_bytes().unwrap(), false), Ok(()));
        let mut end = Message { msg_type: MessageType::MsgSnapshot, ..Message::default() };
        end.set_snapshot(Snapshot::default());
        assert_eq!(check(&end.write_to_bytes().unwrap(), true), Ok(()));
        assert!(
            check(&end.write_to_bytes().unwrap(), false).is_err()
                && check(&message.write_to_bytes().unwrap(), true).is_err()
        );
        assert_eq!(check(&[], false), Ok(()));
    }

    #[test]
    fn entries_are_counted_without_memory() {
        let taken = allocation_counter::measure(|| {
            assert_eq!(check(EMPTY, false), Ok(()));
        });
        assert_eq!(taken.bytes_total, 0);
        let most = EMPTY.repeat(MAX_ENTRIES / 2);
        assert_eq!(check(&most, false), Ok(()));
        assert!(check(&[&most, EMPTY].concat(), false).is_err());
    }

    /// Two entries without anything in them.
    const EMPTY: &[u8] = &[0x3a, 0, 0x3a, 0];

    #[test]
    fn unknown_fields_groups_and_lengths_that_lie_do_not_pass() {
        for bad in [
            &[0x98, 0x06, 1][..],
            &[0x0b],
            &[0x0d, 0, 0, 0, 0],
            &[0x3a, 2, 0x40, 1],
            &[0x3a, 5, 1],
            &[0x08],
            &[0xff; 11],
            &[0x0a, 0],
            &[0x38, 1],
            &[0x3a, 1, 0x0b],
            &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        ] {
            assert!(check(bad, false).is_err(), "{bad:?}");
        }
        assert!(check(&[&[0x62, 0x81, 0x08][..], &[0; 1025]].concat(), false).is_err(), "a long context");
    }
}
