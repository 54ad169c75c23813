//! Whether this node's state is the leader's, index by index.
//!
//! Why: nodes that apply the same entries have the same state, and nothing in raft would notice where they have not: a
//! bug, a bad memory cell, a majority that was brought back from older disks. Every machine keeps a digest of its state;
//! the leader tells its own every second, and whoever differs finds out before its clients do.
//!
//! Laws: digests are compared at an equal applied index only: a follower ends a batch where the leader has told one.
//! A digest counts where it comes from the leader of the present term. That it differs is a claim, which the other voters
//! decide (`verification`), and they remember theirs at the latest indexes that were told.
//!
//! Not here: the digest itself (`storage::StateMachine`).

use std::collections::VecDeque;

use raft::eraftpb::Entry;

use super::Claim;
use crate::consensus::core::Phase;
use crate::consensus::driver::Driver;
use crate::model::Millis;
use crate::model::StateDigest;
use crate::storage::Error;

/// How often a leader tells its digest.
const TELL_EVERY: Millis = 1000;

/// How many digests are remembered, about a minute of them.
const REMEMBERED: usize = 64;

/// The digests that this node has told or was told.
#[derive(Default)]
pub(crate) struct Digests {
    /// This node's own, by applied index.
    own: VecDeque<(u64, u64)>,
    /// What the leader has at an index that is not applied here yet.
    awaited: Option<StateDigest>,
    tell_after: Millis,
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

    /// How many of `count` entries, the first of which is `first`, may be applied before a digest is compared.
    pub fn before_comparison(&self, first: &Entry, count: usize) -> usize {
        let end = self.awaited.and_then(|awaited| (awaited.index + 1).checked_sub(first.index));
        end.and_then(|end| usize::try_from(end).ok()).filter(|end| *end > 0).map_or(count, |end| end.min(count))
    }
}

impl Driver {
    /// The digest of this node's state at an index, where it is remembered.
    pub(crate) fn digest_at(&self, index: u64) -> Option<u64> {
        let remembered = self.digests.own.iter().find(|(at, _)| *at == index).map(|(_, digest)| *digest);
        remembered.or_else(|| (self.core.state_machine.applied().0 == index).then(|| self.core.state_machine.digest()))
    }

    /// Tells every member, where this node leads.
    pub(crate) fn tell_digests(&mut self) {
        if !self.core.leads() || self.core.phase != Phase::Member || self.core.now < self.digests.tell_after {
            return;
        }
        self.digests.tell_after = self.core.now + TELL_EVERY;
        let (index, digest) = (self.core.state_machine.applied().0, self.core.state_machine.digest());
        self.digests.remember(index, digest);
        let told = StateDigest { term: self.core.raw.raft.term, index, digest };
        let me = self.core.raft_id();
        for member in self.core.state_machine.members().iter().filter(|member| member.raft_id != me) {
            self.core.outbox.tell_digest(member.raft_id, told);
        }
    }

    /// The leader has told its digest.
    pub(crate) fn told_digest(&mut self, from: u64, told: StateDigest) -> Result<(), Error> {
        let raft = &self.core.raw.raft;
        if self.core.phase != Phase::Member || self.core.leads() || (from, told.term) != (raft.leader_id, raft.term) {
            return Ok(());
        }
        self.lag.told(told.index);
        if told.index > self.core.state_machine.applied().0 {
            self.digests.awaited = Some(told);
            return Ok(());
        }
        self.compare(told)
    }

    /// Entries were applied: a digest may have waited for them.
    pub(crate) fn compare_awaited(&mut self) -> Result<(), Error> {
        let applied = self.core.state_machine.applied().0;
        match self.digests.awaited.take_if(|awaited| awaited.index <= applied) {
            Some(told) => self.compare(told),
            None => Ok(()),
        }
    }

    fn compare(&mut self, told: StateDigest) -> Result<(), Error> {
        let Some(digest) = self.digest_at(told.index) else { return Ok(()) };
        self.digests.remember(told.index, digest);
        if digest == told.digest {
            self.state_agrees();
            return Ok(());
        }
        self.verify(Claim::Diverged { index: told.index, digest })
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
    fn the_latest_digests_are_remembered() {
        let mut digests = Digests::default();
        (1..=100).for_each(|index| digests.remember(index, index));
        digests.remember(50, 1);
        assert_eq!((digests.own.len(), digests.own.front()), (REMEMBERED, Some(&(37, 37))));
    }
}
