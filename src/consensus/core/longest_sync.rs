//! The longest sync of the journal in the last seconds.
//!
//! Why: a leader that learns that it leads no more says whether its disk was the cause.

use std::collections::VecDeque;

use crate::model::Millis;

/// A sync.
#[derive(Debug, Clone, Copy)]
struct Sync {
    ended: Millis,
    ms: Millis,
}

/// The longest of the syncs of the last seconds.
#[derive(Debug, Default)]
pub(crate) struct LongestSync(VecDeque<Sync>);

impl LongestSync {
    /// Notes a sync; `keep` is how long it counts.
    pub fn note(&mut self, ended: Millis, ms: Millis, keep: Millis) {
        // Descending in length: a sync that is shorter than a later one is never the longest again.
        while self.0.back().is_some_and(|before| before.ms <= ms) {
            self.0.pop_back();
        }
        while self.0.front().is_some_and(|first| first.ended + keep < ended) {
            self.0.pop_front();
        }
        self.0.push_back(Sync { ended, ms });
    }

    /// Returns the longest one that ended at `since` or later.
    pub fn since(&self, since: Millis) -> Option<Millis> {
        self.0.iter().find(|sync| sync.ended >= since).map(|sync| sync.ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_sync_of_the_last_seconds_is_known() {
        let mut syncs = LongestSync::default();
        assert_eq!(syncs.since(0), None);
        for (ended, ms) in [(1000, 5), (2000, 900), (3000, 20), (3500, 40), (4000, 30)] {
            syncs.note(ended, ms, 3000);
        }
        for (since, expected) in [(0, Some(900)), (2000, Some(900)), (2001, Some(40)), (3501, Some(30)), (4001, None)] {
            assert_eq!(syncs.since(since), expected, "{since}");
        }
        syncs.note(6000, 1, 3000);
        assert_eq!(syncs.since(0), Some(40), "the long one is over");
    }
}
