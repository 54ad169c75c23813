//! Which records of the log live, and where each entry lies; all in memory.
//!
//! Why: first, last and term are asked many times a turn and must not touch the disk.
//!
//! Laws: a record whose entries begin at an index overrides all earlier ones from there on. The live entries of a record
//! are the first of its entries, never some in the middle, and those of earlier records come before those of later ones.
//!
//! Not here: bytes and the database (`journal`, `record`).

use std::collections::VecDeque;

use raft::eraftpb::Entry;

use super::entry_cache::Tail;
use super::record::{Head, Point};

/// What an entry takes besides its data and its context.
const ENTRY_BYTES: usize = 17;

/// Where an entry lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Its record.
    pub(crate) seq: u64,
    /// Where in the record's payload it begins.
    pub(crate) offset: u32,
    /// Bytes of all entries up to its end, since the log was opened.
    end: u64,
}

/// One record on the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stored {
    /// Its number.
    pub(crate) seq: u64,
    /// How many pieces it has.
    pub(crate) pieces: u32,
    /// The index before its first entry.
    before: u64,
    /// Its last entry that no later record overrides; 0 where it has none.
    live_to: u64,
}

/// The index of the log.
#[derive(Default)]
pub(crate) struct Index {
    base: Point,
    /// Oldest first.
    records: VecDeque<Stored>,
    /// One an entry, from `base.0 + 1` on.
    places: VecDeque<Place>,
    /// First index and term of each run of entries of one term.
    terms: VecDeque<Point>,
    tail: Tail,
    /// Bytes of all entries since the log was opened, and of those up to `base`.
    bytes: u64,
    base_bytes: u64,
    /// The number of the last record that voided all before it.
    reset: u64,
}

impl Index {
    /// What the log begins behind.
    pub(crate) fn base(&self) -> Point {
        self.base
    }

    /// Lets an empty log begin behind what the first record on the disk follows.
    pub(crate) fn begin(&mut self, base: Point) {
        self.base = base;
    }

    /// The index of the last entry.
    pub(crate) fn last(&self) -> u64 {
        self.base.0 + self.places.len() as u64
    }

    /// The term at `index`, from the base to the last entry.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last() {
            return None;
        }
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        self.terms.get(run.checked_sub(1)?).map(|(_, term)| *term)
    }

    /// The entry at `index`, if it is still in memory.
    pub(crate) fn held(&self, index: u64) -> Option<&Entry> {
        self.tail.get(index)
    }

    /// Where the entry at `index` lies.
    pub(crate) fn place(&self, index: u64) -> Option<Place> {
        self.places.get(usize::try_from(index.checked_sub(self.base.0 + 1)?).ok()?).copied()
    }

    /// Bytes of the entries after `index`.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.bytes - self.bytes_to(index)
    }

    /// Bytes of all entries up to `index`, since the log was opened.
    fn bytes_to(&self, index: u64) -> u64 {
        match usize::try_from(index.saturating_sub(self.base.0)) {
            Ok(0) => self.base_bytes,
            Ok(count) => self.places.get(count - 1).map_or(self.bytes, |place| place.end),
            Err(_) => self.bytes,
        }
    }

    /// Takes in a record that is on the disk, and known to follow.
    pub(crate) fn admit(&mut self, seq: u64, pieces: u32, head: &Head, offsets: &[u32], entries: Vec<Entry>) {
        let mut live_to = 0;
        if head.reset {
            self.reset = seq;
            self.override_from(0);
            self.base = head.prev;
        } else if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.override_from(first.index);
            live_to = last.index;
        }
        self.records.push_back(Stored { seq, pieces, before: head.prev.0, live_to });
        for (entry, &offset) in entries.into_iter().zip(offsets) {
            if self.terms.back().is_none_or(|(_, term)| *term != entry.term) {
                self.terms.push_back((entry.index, entry.term));
            }
            self.bytes += (entry.data.len() + entry.context.len() + ENTRY_BYTES) as u64;
            self.places.push_back(Place { seq, offset, end: self.bytes });
            self.tail.push(entry);
        }
    }

    /// Forgets the entries from `index` on; 0 is all of them.
    fn override_from(&mut self, index: u64) {
        self.bytes = self.bytes_to(index.saturating_sub(1));
        self.places.truncate(usize::try_from(index.saturating_sub(self.base.0 + 1)).unwrap_or(usize::MAX));
        while self.terms.back().is_some_and(|(first, _)| *first >= index) {
            self.terms.pop_back();
        }
        self.tail.truncate(index);
        for record in self.records.iter_mut().rev() {
            if record.live_to >= index {
                record.live_to = if record.before + 1 < index { index - 1 } else { 0 };
            } else if record.live_to > 0 {
                break;
            }
        }
    }

    /// The oldest records that a compaction to `index` removes: whose live entries are all at or below it, never the
    /// last record, `max_records` of them. A few more are taken where the log would otherwise begin with a record whose
    /// place only those before it explain: one without live entries, unless a later record voids it anyway.
    pub(crate) fn removable(&self, index: u64, max_records: usize) -> impl Iterator<Item = &Stored> {
        let mut count = 0;
        while self.is_removable(count, index) {
            let can_begin = self.records[count].live_to > 0 || self.records[count].seq < self.reset;
            if count >= max_records && can_begin {
                break;
            }
            count += 1;
        }
        self.records.iter().take(count)
    }

    fn is_removable(&self, at: usize, index: u64) -> bool {
        at + 1 < self.records.len() && self.records[at].live_to <= index
    }

    /// Forgets the `count` oldest records; true where a compaction to `index` could remove more.
    pub(crate) fn remove(&mut self, count: usize, index: u64) -> bool {
        self.records.drain(..count);
        if let Some(front) = self.records.front().filter(|front| front.seq >= self.reset) {
            self.begin_after(front.before);
        }
        self.is_removable(0, index)
    }

    /// Lets the log begin after `index`, which is within it.
    fn begin_after(&mut self, index: u64) {
        let Some(term) = self.term(index) else { return };
        self.base_bytes = self.bytes_to(index);
        self.places.drain(..usize::try_from(index - self.base.0).unwrap_or(usize::MAX).min(self.places.len()));
        self.base = (index, term);
        while self.terms.get(1).is_some_and(|(first, _)| *first <= index + 1) {
            self.terms.pop_front();
        }
        if self.places.is_empty() {
            self.terms.clear();
        }
        self.tail.begin_after(index);
    }
}
