//! The cluster's time: how a leader comes to its stamps, and what it proposes because time has passed.
//!
//! Why: keys expire by a time that all nodes share, and no clock of a machine may be trusted with that: a wrong one would
//! remove keys early.
//!
//! Laws: a leader's time is the applied clock at the moment it began to lead, and its own monotonic time since; where
//! more is applied, it goes on from there. So the cluster's time never runs faster than real time, and stands still while
//! nobody leads. While any key has an expiry an entry is stamped every [`STAMP_EVERY`] at least, so that is how much a new
//! leader may be behind. A leader that cannot commit removes nothing: a key goes when the entry is applied.
//!
//! Not here: what is removed in the end, which is decided where the entry is applied ([`crate::model::decide`]).

use crate::consensus::driver::Driver;
use crate::model::Command;
use crate::model::Millis;
use crate::storage::Error;

/// How long after the last stamp another one is proposed while any key has an expiry.
const STAMP_EVERY: Millis = 5_000;

/// How a leader counts.
#[derive(Default)]
pub(crate) struct ClusterClock {
    /// The term that this is about; 0 for none.
    term: u64,
    /// A moment by the cluster's clock, and the same one by this node's.
    base: (u64, Millis),
    /// When an entry was stamped last, by this node's clock.
    stamped: Millis,
    /// The (term, index) of the last removal of keys whose time was over.
    removal: Option<(u64, u64)>,
}

impl Driver {
    /// The cluster's time in milliseconds, as far as this node can know it: a node that does not lead knows what it has
    /// applied.
    pub(crate) fn cluster_time(&self) -> u64 {
        let applied = self.core.state_machine.clock();
        if !self.core.leads() || self.time.term != self.core.raw.raft.term {
            return applied;
        }
        let (clock, since) = self.time.base;
        applied.max(clock.saturating_add(self.core.now.saturating_sub(since)))
    }

    /// Begins to count where this node has begun to lead, or goes on from what is applied where that is more.
    fn keep_time(&mut self) {
        let (applied, term) = (self.core.state_machine.clock(), self.core.raw.raft.term);
        if self.time.term != term {
            self.time = ClusterClock { term, base: (applied, self.core.now), stamped: self.core.now, removal: None };
        } else if self.cluster_time() == applied {
            self.time.base = (applied, self.core.now);
        }
    }

    /// The stamp for what is proposed now; only a leader asks.
    pub(crate) fn stamp(&mut self) -> u64 {
        self.keep_time();
        self.time.stamped = self.core.now;
        self.cluster_time()
    }

    /// Proposes what is due on a leader: the removal of keys whose time is over, one batch at a time, or a stamp.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub(crate) fn expire_keys(&mut self) -> Result<(), Error> {
        if !self.core.leads() {
            return Ok(());
        }
        self.keep_time();
        let Some(first) = self.core.state_machine.first_expiry() else { return Ok(()) };
        let leaving = self.core.stop_by.is_some() || self.core.raw.raft.lead_transferee.is_some();
        // Before the first entry of its term is applied a leader does not know all that it leads.
        if leaving || !self.core.raw.raft.commit_to_current_term() || self.removal_under_way() {
            return Ok(());
        }
        let now = self.cluster_time();
        if first <= now {
            let keys = self.core.state_machine.due(now)?;
            self.time.removal = {
                let stamp = self.stamp();
                self.core.propose_command(stamp, Command::Expire { keys })
            };
        } else if self.core.now >= self.time.stamped + STAMP_EVERY {
            {
                let stamp = self.stamp();
                self.core.propose_command(stamp, Command::Tick)
            };
        }
        Ok(())
    }

    fn removal_under_way(&self) -> bool {
        let applied = self.core.state_machine.applied().0;
        self.time.removal.is_some_and(|(term, index)| term == self.core.raw.raft.term && index > applied)
    }
}
