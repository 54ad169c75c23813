//! The cluster clock: the leader's timestamps, and the removal of expired keys.
//!
//! Why: keys expire by a time that all nodes share, and no clock of a machine may be trusted with that: a wrong one
//! would remove keys early.
//!
//! Invariants: a leader's time is the applied clock at the moment it began to lead, and its own monotonic time since;
//! where more is applied, it goes on from there. So the cluster's time never runs faster than real time, and stands
//! still while there is no leader. While any key has an expiry an entry is stamped every [`STAMP_EVERY`] at least, so
//! that is how much a new leader may be behind. A leader that cannot commit removes nothing: a key goes when the entry
//! is applied.
//!
//! See also: what is removed in the end, which is decided where the entry is applied ([`crate::model::decide`]).

use super::disk_space::VoterDiskSpace;
use crate::consensus::core::Core;
use crate::model::Command;
use crate::model::Millis;
use crate::storage::Error;

/// The interval after which another timestamp is proposed while any key has an expiry.
const STAMP_EVERY: Millis = 5_000;

/// The clock of a leader.
#[derive(Default)]
pub(crate) struct ClusterClock {
    /// Its term; 0 for none.
    term: u64,
    /// A moment by the cluster clock, and the same one by this node's clock.
    base: (u64, Millis),
    /// When an entry was last stamped, by this node's clock.
    stamped: Millis,
    /// The (term, index) of the last removal of expired keys.
    removal: Option<(u64, u64)>,
}

impl ClusterClock {
    /// Returns the cluster's time in milliseconds, as far as this node knows it: a node that does not lead knows what
    /// it has applied.
    pub fn cluster_time(&self, core: &Core) -> u64 {
        let applied = core.state_machine.clock();
        if !core.leads() || self.term != core.raw.raft.term {
            return applied;
        }
        let (clock, since) = self.base;
        applied.max(clock.saturating_add(core.now.saturating_sub(since)))
    }

    /// Starts the clock when this node begins to lead, and advances it to the applied clock if that is ahead.
    fn keep_time(&mut self, core: &Core) {
        // The last leader stamped 40 000 and died; this one leads from its own 7 000 on. At its own 9 500 the cluster's time
        // is 40 000 + 2 500, whatever time has passed without a leader.
        let (applied, term) = (core.state_machine.clock(), core.raw.raft.term);
        if self.term != term {
            *self = Self { term, base: (applied, core.now), stamped: core.now, removal: None };
        } else if self.cluster_time(core) == applied {
            self.base = (applied, core.now);
        }
    }

    /// Returns the timestamp of a proposal; only a leader asks.
    pub fn stamp(&mut self, core: &Core) -> u64 {
        self.keep_time(core);
        self.stamped = core.now;
        self.cluster_time(core)
    }

    /// Proposes what is due on a leader: the removal of expired keys, one batch at a time, or a timestamp.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn expire_keys(&mut self, core: &mut Core, space: &VoterDiskSpace) -> Result<(), Error> {
        if !core.leads() {
            return Ok(());
        }
        self.keep_time(core);
        let Some(first) = core.state_machine.first_expiry() else { return Ok(()) };
        // A leader that hands over or stops proposes nothing of its own: the next one stamps and removes.
        let leaving = core.stop_by.is_some() || core.raw.raft.lead_transferee.is_some();
        // Before the first entry of its term is applied a leader does not know all that it leads.
        // Where a voter's disk is below its floor, keys stay longer; stamps wait, too, since no checkpoint compacts them.
        let waits = space.voter_below_floor(core).is_some();
        if leaving || waits || !core.raw.raft.commit_to_current_term() || self.removal_under_way(core) {
            return Ok(());
        }
        let now = self.cluster_time(core);
        if first <= now {
            let keys = core.state_machine.due(now)?;
            self.removal = {
                let stamp = self.stamp(core);
                core.propose_command(stamp, Command::Expire { keys })
            };
        } else if core.now >= self.stamped + STAMP_EVERY {
            {
                let stamp = self.stamp(core);
                core.propose_command(stamp, Command::Tick)
            };
        }
        Ok(())
    }

    fn removal_under_way(&self, core: &Core) -> bool {
        let applied = core.state_machine.applied().0;
        self.removal.is_some_and(|(term, index)| term == core.raw.raft.term && index > applied)
    }
}
