//! Warnings about followers whose match index stands still while the log grows.
//!
//! Why: such a follower looks healthy from far away, and counts for the quorum only when it is too late to help.
//!
//! Invariants: only the leader knows, so only the leader says it: which follower, and as far as it can be seen, why.
//! Nothing is done about it here.
//!
//! See also: what the leader sends it (raft), and snapshots (`snapshots`).

use std::collections::BTreeMap;

use raft::ProgressState;
use slog::warn;

use super::Liveness;
use crate::consensus::core::Core;
use crate::model::Millis;
use crate::telemetry::logging::LogLimit;

/// After how long without a step, while the log moves, a follower is worth a warning.
const STANDS_STILL: Millis = 30_000;

/// How long it is not said again.
const SAY_EVERY: Millis = 60_000;

/// Where a follower was seen last.
#[derive(Debug, Clone, Copy)]
struct FollowerProgress {
    matched: u64,
    since: Millis,
    warned: LogLimit,
}

/// Where all of them were, in the reign of one term.
#[derive(Default)]
pub(crate) struct StalledFollowers {
    term: u64,
    followers: BTreeMap<u64, FollowerProgress>,
}

impl StalledFollowers {
    /// Notes where a follower is; for how long it has stood still, where that is to be said now. `behind` is whether
    /// the log has anything that the follower lacks.
    fn note(&mut self, raft_id: u64, matched: u64, behind: bool, now: Millis) -> Option<Millis> {
        let stand = self.followers.entry(raft_id).or_insert(FollowerProgress {
            matched,
            since: now,
            warned: LogLimit::default(),
        });
        if stand.matched != matched || !behind {
            *stand = FollowerProgress { matched, since: now, warned: LogLimit::default() };
            return None;
        }
        let due = now >= stand.since + STANDS_STILL && stand.warned.every(SAY_EVERY, now).is_some();
        due.then(|| now - stand.since)
    }
}

impl StalledFollowers {
    /// Says which followers stand still.
    pub fn warn_stalled_followers(&mut self, core: &Core, live: &Liveness) {
        if !core.leads() || self.term != core.raw.raft.term {
            *self = Self { term: core.raw.raft.term, followers: BTreeMap::new() };
        }
        if !core.leads() {
            return;
        }
        let (me, last) = (core.raft_id(), core.raw.raft.raft_log.committed);
        for (raft_id, progress) in core.raw.raft.prs().iter().filter(|(raft_id, _)| **raft_id != me) {
            let Some(ms) = self.note(*raft_id, progress.matched, progress.matched < last, core.now) else {
                continue;
            };
            let heard = live.contact_ms(core, *raft_id);
            let because = match (heard, progress.state) {
                (None, _) => "it was never heard: it is down, or not to be reached",
                (Some(ms), _) if ms > core.election_timeout() => "it is not heard: it is down, or not to be reached",
                (_, ProgressState::Snapshot) => "it waits for a snapshot, or receives one",
                (_, ProgressState::Probe) if progress.next_idx < core.raw.store().journal.first_index() => {
                    "it needs a snapshot, which waits for an earlier stream to end"
                }
                (_, ProgressState::Probe) => "it is heard, but takes no entries: look at its log",
                (_, ProgressState::Replicate) => "it is heard, but acknowledges nothing: its disk may hang",
            };
            warn!(core.log, "a follower stands still while the log moves on"; "node" => core.name_of(*raft_id),
                "because" => because, "for_ms" => ms, "match_index" => progress.matched, "next_index" => progress.next_idx,
                "commit_index" => last, "state" => ?progress.state, "last_heard_ms" => heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_still_is_said_after_half_a_minute_and_then_once_a_minute() {
        let mut stalled_followers = StalledFollowers::default();
        let said: Vec<_> =
            (0..=130).filter(|second| stalled_followers.note(2, 7, true, second * 1000).is_some()).collect();
        assert_eq!(said, [30, 90]);
        assert_eq!(stalled_followers.note(2, 8, true, 131_000), None);
        assert_eq!(stalled_followers.note(2, 8, false, 150_000), None);
        assert_eq!(stalled_followers.note(2, 8, true, 179_000), None);
        assert_eq!(stalled_followers.note(2, 8, true, 180_000), Some(30_000));
    }
}
