//! The log index: which records are live, and where each entry is; all in memory.
//!
//! Why: first index, last index and terms are read many times a turn and must not touch the disk.
//!
//! Invariants: a record overrides all earlier entries from its first index on. The live entries of a record are a prefix of its
//! entries, and those of earlier records come before those of later ones. Terms are monotone along the log.
//!
//! Example: three records, one override.
//!
//! ```text
//!   record 1 (seq 1): entries 2 3 4      live_to 4
//!   record 2 (seq 2): entries 5 6        live_to 6
//!   record 3 (seq 3): entries 4' 5'      live_to 5    overrides 4, 5, 6
//!
//!   after record 3:   record 1 live_to 3, record 2 live_to 0 (dead), record 3 live_to 5
//!   the log is        2 3 4' 5'
//! ```
//!
//! See also: `journal` (the database), `record` (bytes).

use std::collections::VecDeque;

use raft::eraftpb::Entry;

use super::entry_cache::EntryCache;
use super::record::{LogId, RecordMeta};

/// The encoded bytes of an entry besides data and context.
const ENTRY_BYTES: usize = 17;

/// The location of an entry on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EntryLocation {
    /// The number of its record.
    pub(crate) seq: u64,
    /// Its offset in the payload of the record.
    pub(crate) offset: u32,
    /// Total bytes of all entries up to this one, since the log was opened.
    end: u64,
}

/// A record on disk and the extent of its live entries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LiveRecord {
    /// Its number.
    pub(crate) seq: u64,
    /// The number of its chunks.
    pub(crate) chunks: u32,
    /// The index before its first entry.
    before: u64,
    /// The last entry that no later record overrides; 0 for none.
    live_to: u64,
}

/// The index of the log.
#[derive(Default)]
pub(crate) struct Index {
    base: LogId,
    /// Oldest first.
    records: VecDeque<LiveRecord>,
    /// One an entry, from `base.0 + 1` on.
    locations: VecDeque<EntryLocation>,
    /// First index and term of each run of entries of one term.
    terms: VecDeque<LogId>,
    cache: EntryCache,
    /// Bytes of all entries since the log was opened, and of those up to `base`.
    bytes: u64,
    base_bytes: u64,
    /// The number of the last reset record.
    reset: u64,
}

impl Index {
    /// Returns the (index, term) before the first entry.
    pub(crate) fn base(&self) -> LogId {
        self.base
    }

    /// Sets the base of an empty log to what the first record follows.
    pub(crate) fn begin(&mut self, base: LogId) {
        self.base = base;
    }

    /// Returns the index of the last entry.
    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.locations.len() as u64
    }

    /// Returns the term at `index`, known from the base to the last entry.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last() {
            return None;
        }
        // Runs (2, 1) (5, 3): index 4 is in the run that begins at 2, so its term is 1.
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// Sets the maximum bytes of cached entries.
    pub(crate) fn limit_cache(&mut self, max_bytes: usize) {
        self.cache.limit(max_bytes);
    }

    /// Returns the entry at `index`, if it is cached.
    pub(crate) fn cached(&self, index: u64) -> Option<&Entry> {
        self.cache.get(index)
    }

    /// Returns the location of the entry at `index`.
    pub(crate) fn location(&self, index: u64) -> Option<EntryLocation> {
        self.locations.get(usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()?).copied()
    }

    /// Returns the bytes of the entries after `index`.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.bytes - self.bytes_to(index)
    }

    /// Returns the bytes of all entries up to `index`, since the log was opened.
    fn bytes_to(&self, index: u64) -> u64 {
        match usize::try_from(index.saturating_sub(self.base.0)) {
            Ok(0) => self.base_bytes,
            Ok(count) => self.locations.get(count - 1).map_or(self.bytes, |location| location.end),
            Err(_) => self.bytes,
        }
    }

    /// Adds a record that is on disk and follows the log.
    pub(crate) fn insert(&mut self, seq: u64, chunks: u32, meta: &RecordMeta, offsets: &[u32], entries: Vec<Entry>) {
        // 0: a record without entries of its own (a hard state only) has no live entry.
        let mut live_to = 0;
        debug_assert!(self.records.back().is_none_or(|last| last.seq + 1 == seq), "records are numbered without gaps");
        if meta.reset {
            // A snapshot was installed: the log is empty and begins behind it, whatever was there before.
            self.reset = seq;
            self.truncate_from(0);
            self.base = meta.prev;
        } else if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            // Raft overwrites a conflicting suffix, so the log ends where this record begins, and then takes its entries.
            self.truncate_from(first.index);
            live_to = last.index;
        }
        self.records.push_back(LiveRecord { seq, chunks, before: meta.prev.0, live_to });
        for (entry, &offset) in entries.into_iter().zip(offsets) {
            debug_assert_eq!(entry.index, self.last() + 1, "the log is contiguous");
            debug_assert!(
                self.terms.back().is_none_or(|(_, term)| *term <= entry.term),
                "terms never fall along the log"
            );
            // `terms` holds one pair per run: entries 2 3 4 of terms 1 1 3 are [(2, 1), (4, 3)].
            if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push_back((entry.index, entry.term));
            }
            self.bytes += (entry.data.len() + entry.context.len() + ENTRY_BYTES) as u64;
            self.locations.push_back(EntryLocation { seq, offset, end: self.bytes });
            self.cache.push(entry);
        }
    }

    /// Removes the entries from `index` on; 0 removes all.
    fn truncate_from(&mut self, index: u64) {
        self.bytes = self.bytes_to(index.saturating_sub(1));
        self.locations.truncate(usize::try_from(index.saturating_sub(self.base.0 + 1)).unwrap_or(usize::MAX));
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
        self.cache.truncate(index);
        // Newest record first. Override from index 4 of records with entries [2 3 4] and [5 6]: the second has no live entry
        // left (0), the first keeps 2 and 3. The first record below the index ends the walk, since all older ones are below, too.
        for record in self.records.iter_mut().rev() {
            if record.live_to >= index {
                record.live_to = if record.before + 1 < index { index - 1 } else { 0 };
            } else if record.live_to > 0 {
                break;
            }
        }
    }

    /// Returns the oldest records that a compaction to `index` removes: those whose live entries are all at or below it,
    /// never the last record, until they have `max_chunks` between them. More are included while the log could not begin
    /// with the next one: a record without live entries, unless a later reset voids it.
    pub(crate) fn removable(&self, index: u64, max_chunks: usize) -> impl Iterator<Item = &LiveRecord> {
        let (mut count, mut chunks) = (0, 0);
        // The log may begin only with a record that has a live entry, because recovery takes its `prev` as the base. A record of
        // hard state alone says where the log ended when it was written, and that may have been overridden since.
        while self.is_removable(count, index) {
            let can_begin = self.records[count].live_to > 0 || self.records[count].seq < self.reset;
            if chunks >= max_chunks && can_begin {
                break;
            }
            chunks += self.records[count].chunks as usize;
            count += 1;
        }
        self.records.iter().take(count)
    }

    fn is_removable(&self, at: usize, index: u64) -> bool {
        at + 1 < self.records.len() && self.records[at].live_to <= index
    }

    /// Removes the `count` oldest records; returns whether a compaction to `index` could remove more.
    pub(crate) fn remove(&mut self, count: usize, index: u64) -> bool {
        debug_assert!(count < self.records.len(), "the last record is never removed");
        self.records.drain(..count);
        // A record older than the last reset says nothing of the base. Records 2 and 3 (entries 5 6), then 4 (reset at
        // 90): when 2 is removed, 3 is in front and follows entry 4, but the base stays at 90.
        if let Some(front) = self.records.front().filter(|front| front.seq >= self.reset) {
            self.begin_after(front.before);
        }
        self.is_removable(0, index)
    }

    /// Moves the base of the log to `index`, which is within it.
    fn begin_after(&mut self, index: u64) {
        let Some(term) = self.term(index) else { return };
        // `end` of a location counts from when the log was opened, so the removed bytes stay in all totals and are
        // subtracted here.
        self.base_bytes = self.bytes_to(index);
        self.locations.drain(..usize::try_from(index - self.base.0).unwrap_or(usize::MAX).min(self.locations.len()));
        self.base = (index, term);
        // Keeps the run that holds `index + 1`: with runs (2, 1) (5, 3) and index 4 the first one is dropped.
        while self.terms.get(1).is_some_and(|(first, _)| *first <= index + 1) {
            self.terms.pop_front();
        }
        if self.locations.is_empty() {
            self.terms.clear();
        }
        self.cache.begin_after(index);
    }
}
