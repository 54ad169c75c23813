//! The decoded proposals of entries that are not applied yet.
//!
//! Why: an entry is decoded when it arrives, to be checked, and the leader has a proposal before its bytes. Without these it
//! would be decoded again when it is applied.
//!
//! Invariants: only entries of the log are kept, which shares their bytes. A proposal is handed out for the entry of its index and
//! term alone, whose data equals the bytes that it was decoded from. So what is applied is what the log holds, also where an entry was
//! overridden there. Bounded in number and bytes; what is not here is decoded again.
//!
//! See also: `entry_decode` (followers), `consensus::proposals` (the leader), `core::persist` (where they are applied).

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};

use crate::model::Proposal;

/// The maximum number of proposals: four full ones of the leader.
const MAX_PROPOSALS: usize = 4096;

/// The maximum bytes of proposals and the data that they were decoded from.
const MAX_BYTES: usize = 4 << 20;

/// A proposal and the entry that it was decoded from.
pub(crate) struct Decoded {
    /// The index of the entry.
    pub(crate) index: u64,
    /// Its term.
    pub(crate) term: u64,
    /// Its data.
    pub(crate) data: Bytes,
    /// What they were decoded to.
    pub(crate) proposal: Proposal,
}

impl Decoded {
    fn bytes(&self) -> usize {
        self.data.len() + self.proposal.write.size() + size_of::<Self>()
    }

    fn is_of(&self, entry: &Entry) -> bool {
        let is_same = |other: &Bytes| self.data.as_ptr() == other.as_ptr() && self.data.len() == other.len();
        // Most often the log shares the bytes; after a read from the disk it does not.
        (self.index, self.term) == (entry.index, entry.term)
            && entry.get_entry_type() == EntryType::EntryNormal
            && (is_same(&entry.data) || self.data == entry.data)
    }
}

/// Decoded proposals by ascending index.
#[derive(Default)]
pub(crate) struct DecodedEntries {
    decoded: VecDeque<Decoded>,
    bytes: usize,
    /// The index of the entry that was asked for last: those up to it are not asked for again.
    taken: u64,
}

impl DecodedEntries {
    /// Keeps the proposal of an entry that is in the log, in the place of those of its index and higher ones; the oldest are
    /// dropped over the limits.
    pub(crate) fn keep(&mut self, decoded: Decoded) {
        if decoded.index <= self.taken {
            return;
        }
        while self.decoded.back().is_some_and(|last| last.index >= decoded.index) {
            let last = self.decoded.pop_back();
            self.bytes -= last.map_or(0, |last| last.bytes());
        }
        self.bytes += decoded.bytes();
        self.decoded.push_back(decoded);
        while self.decoded.len() > MAX_PROPOSALS || self.bytes > MAX_BYTES {
            self.pop_front();
        }
    }

    /// Takes the proposal of `entry`, if it is here, and drops those before it.
    pub(crate) fn take(&mut self, entry: &Entry) -> Option<Proposal> {
        self.taken = entry.index;
        while self.decoded.front().is_some_and(|first| first.index < entry.index) {
            self.pop_front();
        }
        if self.decoded.front()?.index != entry.index {
            return None;
        }
        self.pop_front().filter(|decoded| decoded.is_of(entry)).map(|decoded| decoded.proposal)
    }

    fn pop_front(&mut self) -> Option<Decoded> {
        let first = self.decoded.pop_front()?;
        self.bytes -= first.bytes();
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Command, codec};

    fn entry(index: u64, term: u64, key: &str) -> (Entry, Proposal) {
        let proposal = Proposal::from(Command::put(key.to_owned(), "v"));
        let data = Proposal::encode(proposal.stamp, &proposal.write);
        (Entry { index, term, data: data.into(), ..Entry::default() }, proposal)
    }

    fn keep(decoded: &mut DecodedEntries, (entry, proposal): &(Entry, Proposal)) {
        let (index, term, data, proposal) = (entry.index, entry.term, entry.data.clone(), proposal.clone());
        decoded.keep(Decoded { index, term, data, proposal });
    }

    #[test]
    fn a_proposal_is_of_its_index_term_and_bytes_alone() {
        let kept = entry(7, 3, "k");
        let copied = Entry { data: kept.0.data.to_vec().into(), ..kept.0.clone() };
        let mut change = kept.0.clone();
        change.set_entry_type(EntryType::EntryConfChange);
        for (asked, is_here) in [
            (kept.0.clone(), true),
            (copied, true),
            (entry(8, 3, "k").0, false),
            (entry(6, 3, "k").0, false),
            (entry(7, 2, "k").0, false),
            (entry(7, 4, "k").0, false),
            (entry(7, 3, "l").0, false),
            (change, false),
            (Entry { index: 7, term: 3, ..Entry::default() }, false),
        ] {
            let mut decoded = DecodedEntries::default();
            keep(&mut decoded, &kept);
            assert_eq!(decoded.take(&asked), is_here.then(|| kept.1.clone()), "{asked:?}");
        }
    }

    #[test]
    fn a_later_append_overrides_its_index_and_all_behind_it() {
        let mut decoded = DecodedEntries::default();
        for index in 5..=9 {
            keep(&mut decoded, &entry(index, 1, "old"));
        }
        let new = entry(7, 2, "new");
        keep(&mut decoded, &new);
        assert!(decoded.take(&entry(5, 1, "old").0).is_some() && decoded.take(&entry(6, 1, "old").0).is_some());
        assert_eq!(decoded.take(&new.0), Some(new.1));
        assert_eq!(decoded.take(&entry(8, 1, "old").0), None);
        assert_eq!((decoded.decoded.len(), decoded.bytes), (0, 0));
        // What comes again is applied already.
        keep(&mut decoded, &entry(8, 1, "old"));
        assert!(decoded.decoded.is_empty());
    }

    #[test]
    fn the_oldest_are_dropped_over_either_limit() {
        let mut decoded = DecodedEntries::default();
        for index in 1..=MAX_PROPOSALS as u64 + 3 {
            keep(&mut decoded, &entry(index, 1, "k"));
        }
        assert_eq!((decoded.decoded.len(), decoded.decoded[0].index), (MAX_PROPOSALS, 4));
        let large = Proposal::from(Command::put("k", vec![7; MAX_BYTES / 5]));
        let data = Bytes::from(codec::encode(&(large.stamp, &large.write)));
        for index in 5000..5009 {
            decoded.keep(Decoded { index, term: 1, data: data.clone(), proposal: large.clone() });
        }
        assert_eq!((decoded.decoded.len(), decoded.decoded[0].index), (2, 5007));
        let huge = Proposal::from(Command::put("k", vec![7; MAX_BYTES]));
        decoded.keep(Decoded { index: 5009, term: 1, data, proposal: huge });
        assert_eq!((decoded.decoded.len(), decoded.bytes), (0, 0));
    }
}
