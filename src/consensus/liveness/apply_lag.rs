//! How far the applied state is behind the commit index that this node knows, in entries and in time.
//!
//! Why: a node that applies more slowly than it commits answers with an ever older state, or lets reads wait; a probe is to
//! see that before clients do.
//!
//! Invariants: the time is that of the loop, so it is looked at once a tick. It counts from the moment at which an index was
//! known to be committed until that index is applied, and then from the next look on.
//!
//! See also: a follower that is behind its leader ([`super::readiness`]).

use crate::consensus::core::Core;
use crate::model::{Code, Millis, Refusal};

/// The most committed entries that a node that is ready has not applied.
const MAX_ENTRIES: u64 = 10_000;

/// For how long a node that is ready may not have applied a committed entry.
const MAX_MS: Millis = 5_000;

/// The oldest committed index that is known not to be applied.
#[derive(Debug, Default)]
pub(crate) struct ApplyLag {
    /// The index, and since when it is known to be committed.
    goal: Option<(u64, Millis)>,
}

impl ApplyLag {
    /// Looks once a tick.
    pub fn tick(&mut self, core: &Core) {
        self.note(core.applied(), core.raw.raft.raft_log.committed, core.now);
    }

    /// Returns why this node is too far behind the commit index, if it is.
    pub fn refusal(&self, core: &Core) -> Option<Refusal> {
        self.too_far(core.applied(), core.raw.raft.raft_log.committed, core.now)
    }

    fn note(&mut self, applied: u64, committed: u64, now: Millis) {
        self.goal = match self.goal {
            Some((goal, since)) if goal > applied => Some((goal, since)),
            _ => (committed > applied).then_some((committed, now)),
        };
    }

    fn too_far(&self, applied: u64, committed: u64, now: Millis) -> Option<Refusal> {
        let entries = committed.saturating_sub(applied);
        let since = self.goal.filter(|(goal, _)| *goal > applied).map_or(now, |(_, since)| since);
        let ms = now.saturating_sub(since);
        (entries > MAX_ENTRIES || ms > MAX_MS).then(|| {
            let detail = format!(
                "this node has applied up to index {applied} of {committed} that are committed, and is {ms} ms behind; \
                 {MAX_ENTRIES} entries and {MAX_MS} ms are the most"
            );
            Refusal::not_applied(Code::Lagging, detail)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_too_far_behind_by_entries_at_once_and_by_time_after_five_seconds() {
        let mut lag = ApplyLag::default();
        // Applied, committed, now; whether it is too far behind.
        for (applied, committed, now, too_far) in [
            (10, 10, 0, false),
            (10, 10_010, 50, false),
            (10, 10_011, 100, true),
            // The first goal is applied: the time begins anew with what is committed by now.
            (10_010, 10_020, 4_000, false),
            (10_019, 10_020, 9_000, false),
            (10_019, 30_000, 9_001, true),
            (10_019, 10_020, 9_001, true),
            (10_020, 10_020, 9_050, false),
        ] {
            lag.note(applied, committed, now);
            assert_eq!(lag.too_far(applied, committed, now).is_some(), too_far, "{applied} of {committed} at {now}");
        }
    }

    #[test]
    fn a_node_that_follows_the_commit_at_a_short_distance_is_never_too_far_behind() {
        let mut lag = ApplyLag::default();
        for now in 0..20_000 {
            let committed = now * 10 + 5_000;
            lag.note(committed - 5_000, committed, now);
            assert_eq!(lag.too_far(committed - 5_000, committed, now), None, "at {now}");
        }
    }
}
