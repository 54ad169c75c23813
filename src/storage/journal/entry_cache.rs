//! The entry cache: the last entries of the log in memory.
//!
//! Why: nearly every read of the log is for entries just appended: to replicate and to apply them.
//!
//! Invariants: contiguous up to the last entry of the log, at most the limit unless the last entry alone is larger.

use std::collections::VecDeque;

use raft::eraftpb::Entry;

/// The limit in bytes that a cache begins with, 32 MiB.
pub(crate) const ENTRY_CACHE_BYTES: usize = 32 << 20;

/// The memory of an entry besides its bytes.
const OVERHEAD: usize = std::mem::size_of::<Entry>();

/// The cached entries.
pub(crate) struct EntryCache {
    entries: VecDeque<Entry>,
    bytes: usize,
    max_bytes: usize,
}

impl Default for EntryCache {
    fn default() -> Self {
        Self { entries: VecDeque::new(), bytes: 0, max_bytes: ENTRY_CACHE_BYTES }
    }
}

fn cost(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + OVERHEAD
}

impl EntryCache {
    /// Returns the entry at `index`, if it is cached.
    pub(crate) fn get(&self, index: u64) -> Option<&Entry> {
        let first = self.entries.front()?.index;
        self.entries.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    /// Appends an entry, and evicts the oldest ones over the limit.
    pub(crate) fn push(&mut self, entry: Entry) {
        debug_assert!(self.entries.back().is_none_or(|last| last.index + 1 == entry.index), "the cache is contiguous");
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
        self.evict();
    }

    /// Sets the limit, and evicts the oldest entries over it.
    pub(crate) fn limit(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.evict();
    }

    fn evict(&mut self) {
        // The newest entry stays even if it alone is over the limit: replication and apply read it next.
        while self.bytes > self.max_bytes && self.entries.len() > 1 {
            self.pop_front();
        }
    }

    /// Removes the entries from `index` on.
    pub(crate) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|entry| entry.index >= index) {
            self.bytes -= self.entries.pop_back().map_or(0, |entry| cost(&entry));
        }
    }

    /// Removes the entries up to `index`.
    pub(crate) fn begin_after(&mut self, index: u64) {
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        self.bytes -= self.entries.pop_front().map_or(0, |entry| cost(&entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry { index, data: vec![0; bytes].into(), ..Entry::default() }
    }

    #[test]
    fn it_is_bounded_by_bytes_and_keeps_the_last() {
        let mut cache = EntryCache::default();
        for index in 1..=10 {
            cache.push(entry(index, ENTRY_CACHE_BYTES / 4));
        }
        assert!(cache.get(7).is_none() && cache.get(8).is_some() && cache.get(10).is_some() && cache.get(11).is_none());
        cache.truncate(10);
        assert!(cache.get(9).is_some() && cache.get(10).is_none());
        cache.limit(ENTRY_CACHE_BYTES / 4 + 1024);
        assert!(cache.get(8).is_none() && cache.get(9).is_some());
        cache.push(entry(10, ENTRY_CACHE_BYTES * 2));
        assert!(cache.get(9).is_none() && cache.get(10).is_some());
        cache.begin_after(10);
        assert_eq!((cache.bytes, cache.entries.len()), (0, 0));
    }
}
