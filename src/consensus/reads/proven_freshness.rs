//! Freshness: the moment as of which this node's state is known to be the cluster's latest.
//!
//! Why: when a message of the leader is handled says nothing of when it was sent. A process that was stopped finds what
//! the leader sent before in its sockets, and would take seconds for nothing.
//!
//! Invariants: only what this node sent counts, from the moment that it did: a round of ReadIndex (Raft thesis 6.4)
//! that began at a moment and was confirmed proves that whatever was committed by that moment lies at or below the
//! index it was confirmed at. Once that is applied, the state is as fresh as the moment. So a leader that was deposed,
//! or stopped, proves nothing either.
//!
//! See also: the rounds (`reads`).

use std::collections::VecDeque;

use crate::model::Millis;

/// How many confirmed rounds may wait for their index to be applied; a later one counts for less then, never for more.
const WAITING: usize = 64;

/// What is proven.
#[derive(Debug, Default)]
pub(crate) struct Freshness {
    as_of: Option<Millis>,
    /// Moments with the index that has to be applied for each; both rise.
    waiting: VecDeque<(Millis, u64)>,
}

impl Freshness {
    /// A round that began at `began` was confirmed at `index`.
    pub fn confirmed(&mut self, began: Millis, index: u64) {
        if self.waiting.len() < WAITING {
            self.waiting.push_back((began, index));
        }
    }

    /// Everything up to `index` is applied.
    pub fn applied(&mut self, index: u64) {
        // A round that began at 10 was confirmed at index 5, one that began at 20 at index 8. With 7 applied, the state
        // is as fresh as 10: entry 8 may have been committed before 20.
        while let Some((began, _)) = self.waiting.pop_front_if(|(_, wanted)| *wanted <= index) {
            self.as_of = self.as_of.max(Some(began));
        }
    }

    /// Returns the moment; None if no round was confirmed since the start.
    pub fn as_of(&self) -> Option<Millis> {
        self.as_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_counts_from_its_beginning_and_once_its_index_is_applied() {
        let mut freshness = Freshness::default();
        freshness.confirmed(10, 5);
        freshness.confirmed(20, 8);
        freshness.applied(4);
        assert_eq!(freshness.as_of(), None);
        freshness.applied(7);
        assert_eq!(freshness.as_of(), Some(10));
        freshness.applied(9);
        assert_eq!(freshness.as_of(), Some(20));
    }
}
