//! Waiters by the (term, index) of their entry.
//!
//! Why: a proposal has no name but its place in the log. An index alone does not identify it: after a change of leaders
//! another entry may stand there. (term, index) does.
//!
//! Invariants: losing leadership fails no request. The same (term, index) applied is the result; an entry of a higher
//! term applied at or below the index proves that the proposal is lost (terms never fall along a log, Raft thesis 3.5);
//! anything else ends with the deadline, as unknown.
//!
//! See also: what is done with the answer (`consensus::proposals`).

use std::collections::BTreeMap;

use crate::model::Millis;
use crate::plant::{self, Plant};

/// Waiters by the index and term of their entry.
pub(crate) struct Waiters<W>(BTreeMap<(u64, u64), (Millis, W)>);

impl<W> Default for Waiters<W> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<W> Waiters<W> {
    /// Returns the number of waiters.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns all waiters.
    pub fn iter(&self) -> impl Iterator<Item = &W> {
        self.0.values().map(|(_, waiter)| waiter)
    }

    /// Adds the only waiter of the entry at (term, index), until `deadline`.
    pub fn insert(&mut self, term: u64, index: u64, deadline: Millis, waiter: W) {
        let earlier = self.0.insert((index, term), (deadline, waiter));
        debug_assert!(earlier.is_none(), "one waiter for an entry");
    }

    /// Takes the waiter of exactly this entry, which was applied.
    pub fn applied(&mut self, term: u64, index: u64) -> Option<W> {
        if plant::is(Plant::WokenByIndex) {
            let at = self.0.keys().copied().find(|(other, _)| *other == index)?;
            return self.0.remove(&at).map(|(_, waiter)| waiter);
        }
        self.0.remove(&(index, term)).map(|(_, waiter)| waiter)
    }

    /// Takes the waiters whose entry an entry of `term` applied at `index` proves lost.
    pub fn lost(&mut self, term: u64, index: u64) -> Vec<W> {
        if plant::is(Plant::WokenByIndex) {
            return Vec::new();
        }
        // Proposed in term 2 at 10 and 12; an entry of term 3 is applied at 11. Terms never fall along a log, so nothing of
        // term 2 can come at 12 or above: that one is lost. The one at 10 was applied before, or replaced before.
        self.take(|i, t, _| i >= index && t < term)
    }

    /// Takes the waiters whose outcome a snapshot up to `index` hides.
    pub fn hidden(&mut self, index: u64) -> Vec<W> {
        self.take(|i, _, _| i <= index)
    }

    /// Takes the waiters whose deadline has passed.
    pub fn expired(&mut self, now: Millis) -> Vec<W> {
        self.take(|_, _, deadline| deadline <= now)
    }

    /// Takes all waiters.
    pub fn drain(&mut self) -> Vec<W> {
        self.take(|_, _, _| true)
    }

    fn take(&mut self, mut chosen: impl FnMut(u64, u64, Millis) -> bool) -> Vec<W> {
        let taken = self.0.extract_if(.., |(index, term), (deadline, _)| chosen(*index, *term, *deadline));
        taken.map(|(_, (_, waiter))| waiter).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_term_and_index_is_the_result() {
        let mut waiters = Waiters::default();
        waiters.insert(2, 10, 100, "a");
        assert_eq!(waiters.applied(3, 10), None);
        assert_eq!(waiters.applied(2, 11), None);
        assert_eq!(waiters.applied(2, 10), Some("a"));
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn a_higher_term_at_or_below_proves_the_loss_and_a_lower_index_proves_nothing() {
        let mut waiters = Waiters::default();
        waiters.insert(2, 10, 100, "at");
        waiters.insert(2, 12, 100, "above");
        waiters.insert(2, 8, 100, "below");
        waiters.insert(3, 12, 100, "newer");
        let mut lost = waiters.lost(3, 10);
        lost.sort_unstable();
        assert_eq!(lost, ["above", "at"]);
        assert_eq!(waiters.applied(3, 12), Some("newer"));
        assert_eq!(waiters.len(), 1);
    }

    #[test]
    fn deadlines_and_snapshots_take_exactly_theirs() {
        let mut waiters = Waiters::default();
        waiters.insert(1, 5, 50, "early");
        waiters.insert(1, 6, 70, "late");
        assert_eq!(waiters.expired(50), ["early"]);
        assert!(waiters.hidden(5).is_empty());
        assert_eq!(waiters.hidden(6), ["late"]);
    }
}
