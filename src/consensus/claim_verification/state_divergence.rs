//! State digests: comparison of this node's state with the leader's at equal indexes.
//!
//! Why: nodes that apply the same entries have the same state, and raft would not notice if they have not: a bug, a bad
//! memory cell, a majority restored from older disks. Every state machine keeps a digest of its state. The leader sends
//! its own every second, and a node that differs finds out before its clients do.
//!
//! Invariants: digests are compared at an equal applied index only: a follower ends a batch at the index of the
//! leader's digest. A digest counts if it comes from the leader of the present term. A difference is a claim, which the
//! other voters decide (`claim_verification`); they remember theirs at the latest indexes.
//!
//! See also: the digest itself (`storage::StateMachine`).

use std::collections::VecDeque;

use raft::eraftpb::Entry;

use crate::consensus::core::{Core, Phase};
use crate::model::Millis;
use crate::model::StateDigest;

/// The interval of digests.
const TELL_EVERY: Millis = 1000;

/// The number of remembered digests, about a minute of them.
const REMEMBERED: usize = 64;

/// The digests of this node and of its leader.
#[derive(Default)]
pub(crate) struct Digests {
    /// This node's own, by applied index.
    own: VecDeque<(u64, u64)>,
    /// The leader's digest at an index that is not applied here yet: the first one sent, because a node that is far
    /// behind gets the next one before it is there.
    awaited: Option<StateDigest>,
    tell_after: Millis,
}

/// The result of a comparison with the leader's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Comparison {
    Agrees,
    /// This node has another digest at this index.
    Differs {
        index: u64,
        digest: u64,
    },
}

impl Digests {
    fn remember(&mut self, index: u64, digest: u64) {
        if self.own.back().is_none_or(|(last, _)| *last < index) {
            if self.own.len() == REMEMBERED {
                self.own.pop_front();
            }
            self.own.push_back((index, digest));
        }
    }

    fn wait_for(&mut self, told: StateDigest) {
        if self.awaited.is_none_or(|awaited| awaited.term != told.term || told.index < awaited.index) {
            self.awaited = Some(told);
        }
    }

    /// Returns how many of `count` entries from `first` on may be applied before a comparison.
    pub fn before_comparison(&self, first: &Entry, count: usize) -> usize {
        // The leader has told its digest at 12. Entries 10 to 14 are committed: 10, 11 and 12 are applied, the digests
        // compared, and then 13 and 14.
        let end = self.awaited.and_then(|awaited| (awaited.index + 1).checked_sub(first.index));
        end.and_then(|end| usize::try_from(end).ok()).filter(|end| *end > 0).map_or(count, |end| end.min(count))
    }
}

impl Digests {
    /// Returns this node's digest at an index, if it is remembered.
    pub fn digest_at(&self, core: &Core, index: u64) -> Option<u64> {
        let remembered = self.own.iter().find(|(at, _)| *at == index).map(|(_, digest)| *digest);
        remembered.or_else(|| (core.state_machine.applied().0 == index).then(|| core.state_machine.digest()))
    }

    /// Sends the digest to every member, if this node leads.
    pub fn tell_digests(&mut self, core: &mut Core) {
        if !core.leads() || core.phase != Phase::Member || core.now < self.tell_after {
            return;
        }
        self.tell_after = core.now + TELL_EVERY;
        let (index, digest) = (core.state_machine.applied().0, core.state_machine.digest());
        self.remember(index, digest);
        let told = StateDigest { term: core.raw.raft.term, index, digest };
        let me = core.raft_id();
        for member in core.state_machine.members().iter().filter(|member| member.raft_id != me) {
            core.outbox.tell_digest(member.raft_id, told);
        }
    }

    /// Whether a digest comes from the leader of the present term, which this node follows.
    pub fn counts(&self, core: &Core, from: u64, told: StateDigest) -> bool {
        let raft = &core.raw.raft;
        core.phase == Phase::Member && !core.leads() && (from, told.term) == (raft.leader_id, raft.term)
    }

    /// Compares the leader's digest with this node's, now or once its index is applied.
    pub fn compare_received(&mut self, core: &Core, received: StateDigest) -> Option<Comparison> {
        if received.index > core.applied() {
            self.wait_for(received);
            return None;
        }
        self.compare(core, received)
    }

    /// Compares a digest that has waited for the applied index.
    pub fn compare_awaited(&mut self, core: &Core) -> Option<Comparison> {
        let applied = core.applied();
        let told = self.awaited.take_if(|awaited| awaited.index <= applied)?;
        self.compare(core, told)
    }

    fn compare(&mut self, core: &Core, told: StateDigest) -> Option<Comparison> {
        let digest = self.digest_at(core, told.index)?;
        self.remember(told.index, digest);
        let agrees = digest == told.digest;
        Some(if agrees { Comparison::Agrees } else { Comparison::Differs { index: told.index, digest } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_where_a_digest_is_compared() {
        let mut digests = Digests::default();
        let first = Entry { index: 10, ..Entry::default() };
        assert_eq!(digests.before_comparison(&first, 5), 5);
        for (index, most) in [(9, 5), (10, 1), (12, 3), (14, 5), (90, 5)] {
            digests.awaited = Some(StateDigest { term: 1, index, digest: 0 });
            assert_eq!(digests.before_comparison(&first, 5), most, "{index}");
        }
    }

    #[test]
    fn the_first_digest_that_a_leader_told_is_awaited_though_later_ones_come() {
        let mut digests = Digests::default();
        for (term, index, awaited) in [(3, 10, 10), (3, 20, 10), (3, 8, 8), (4, 30, 30), (4, 40, 30)] {
            digests.wait_for(StateDigest { term, index, digest: 0 });
            assert_eq!(digests.awaited.map(|it| it.index), Some(awaited), "{index} of term {term}");
        }
    }

    #[test]
    fn the_latest_digests_are_remembered() {
        let mut digests = Digests::default();
        (1..=100).for_each(|index| digests.remember(index, index));
        digests.remember(50, 1);
        assert_eq!((digests.own.len(), digests.own.front()), (REMEMBERED, Some(&(37, 37))));
    }
}
