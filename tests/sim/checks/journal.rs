//! A second reader of the journal: what the records on a simulated disk say, read chunk by chunk as they are written.
//!
//! Why: what a node has promised is what its disk holds, not its memory. The bytes are read here by their documented
//! format, so that the checks do not depend on the code that they test.
//!
//! Invariants: term, vote and commit never move back along the records of one journal, crashes included. A record without
//! a hard state says nothing about it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use huskv::model::{MemberChange, Proposal, codec};

use crate::workload::registers;

/// The bytes before a record: format, length and checksums.
const HEADER: usize = 13;

/// Term, vote, commit, and the last index of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JournalState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
    pub last: u64,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub term: u64,
    /// The hash of its kind and data.
    pub hash: u64,
    /// The command that it carries with its stamp, if any.
    pub proposal: Option<Arc<Proposal>>,
    /// The change of the member table that it carries, if any.
    pub change: Option<MemberChange>,
}

impl Entry {
    /// Whether it is a write with an idempotency key, which its client may send again.
    pub fn has_key(&self) -> bool {
        self.proposal.as_deref().is_some_and(|proposal| proposal.write.idempotency_key.is_some())
    }

    /// The number of the client's operation, if its values say so.
    pub fn operation(&self) -> Option<u64> {
        self.proposal.as_deref().and_then(|proposal| registers::operation(&proposal.write.command))
    }
}

/// What the records say so far.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    /// The record whose chunks are being written, and its length.
    record: (Vec<u8>, usize),
    pub written: JournalState,
    pub synced: JournalState,
    pub entries: BTreeMap<u64, Entry>,
    /// The first invariant that a record has broken.
    pub broken: Option<String>,
}

fn number(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn length(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

impl Journal {
    /// The journal after a crash, read from the chunks that are left.
    ///
    /// What was synced binds the node all the same: a record may be gone because compaction has removed it, but a term or
    /// commit index that was synced once must not come back smaller.
    pub fn reread<'a>(&self, kept: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>) -> Self {
        let mut found = Self::default();
        for (key, piece) in kept {
            found.put_chunk(key, piece);
        }
        found.broken.clone_from(&self.broken);
        if found.written.term < self.synced.term {
            found.written = self.synced;
        }
        found.written.commit = found.written.commit.max(self.synced.commit);
        found.synced = found.written;
        found
    }

    /// Everything written is durable.
    pub fn sync(&mut self) {
        self.synced = self.written;
    }

    /// Reads one chunk as it is put; a record is read once its last chunk is there.
    pub fn put_chunk(&mut self, key: &[u8], piece: &[u8]) {
        if key.len() != 12 {
            return;
        }
        if key[8..] == [0; 4] {
            self.record = (Vec::new(), HEADER + length(piece, 1));
        }
        self.record.0.extend_from_slice(piece);
        if self.record.0.len() == self.record.1 {
            let record = std::mem::take(&mut self.record.0);
            self.record(&record[HEADER..]);
        }
    }

    /// Reads a record.
    ///
    /// ```text
    /// byte 0: reset   1: term   9: vote   17: commit   65: index before its entries   81: their count   85: entries
    /// an entry: kind (1), term (8), length (4) and data, length (4) and context
    /// ```
    fn record(&mut self, record: &[u8]) {
        let (reset, before) = (record[0] == 1, number(record, 65));
        let (term, vote, commit) = (number(record, 1), number(record, 9), number(record, 17));
        let count = length(record, 81) as u64;
        let was = self.written;
        let says = term != 0;
        if says {
            if term < was.term || (term == was.term && was.vote != 0 && vote != was.vote) || commit < was.commit {
                let is = (term, vote, commit);
                self.broken.get_or_insert_with(|| format!("term, vote and commit become {is:?} after {was:?}"));
            }
            self.written = JournalState { term, vote, commit, last: was.last };
        }
        // Entries from the first index of the record on are overridden: say 1 to 6 are there and the record holds 5, then
        // 1 to 4 stay, 5 is the new one, and 6 is gone. A reset begins the log anew, after an installed snapshot.
        if reset {
            self.entries.clear();
        } else if count > 0 {
            self.entries.split_off(&(before + 1));
        }
        self.written.last = before + count;
        let mut at = 85;
        for index in before + 1..=before + count {
            let term = number(record, at + 1);
            let data = &record[at + 13..at + 13 + length(record, at + 9)];
            let kind = record[at];
            at += 13 + data.len();
            let context = &record[at + 4..at + 4 + length(record, at)];
            at += 4 + context.len();
            let mut hasher = DefaultHasher::new();
            (kind, data).hash(&mut hasher);
            let proposal = if kind == 0 { codec::decode(data).ok().map(Arc::new) } else { None };
            let change = if kind == 0 { None } else { codec::decode(context).ok() };
            self.entries.insert(index, Entry { term, hash: hasher.finish(), proposal, change });
        }
    }
}
