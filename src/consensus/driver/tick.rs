//! One tick of the driver: raft's clock, and what each component does about the time that has passed.
//!
//! Why: deadlines, reports and warnings of all components run on one clock, and some of their steps have an order.
//!
//! Invariants: the check of the data directory comes first, the verdict on a claim before what relies on membership, a
//! rollback after all that looks at the present incarnation. What a tick proposes or steps, the next turn carries out.
//!
//! See also: the turn (`ready`), the timer (`thread`).

use super::Driver;
use super::split_borrows::{context, view};
use crate::consensus::core::Phase;
use crate::model::Millis;
use crate::storage::Error;

impl Driver {
    /// Lets one tick of raft's clock pass, and ends what has waited too long. A leader makes up for ticks that it has
    /// missed, up to the next heartbeat: its followers count by clocks of their own.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn tick(&mut self, now: Millis) -> Result<(), Error> {
        self.core.at(now);
        // First of all: a node whose directory was removed neither campaigns nor sends a heartbeat any more.
        self.core.data_dir.engine().check()?;
        self.history.tick(&self.core, &self.live);
        let missed = self.core.now.saturating_sub(std::mem::replace(&mut self.ticked, self.core.now))
            / self.core.options.tick_ms;
        let most = if self.core.leads() { self.core.options.heartbeat_ticks as u64 } else { 1 };
        // A leader that was stopped for 3 ticks of a heartbeat every 2 makes up for 2, so the heartbeat leaves at once.
        // A follower makes up for none: it would count ticks in which it could not have heard its leader, and campaign.
        for _ in 0..missed.clamp(1, most.max(1)) {
            if self.core.phase == Phase::Member && !self.verification.holds_raft() {
                self.core.raw.tick();
            }
        }
        // Before all that follows: it may say that this node was removed.
        let verdict = self.verification.tick_verification(&mut self.core)?;
        self.follow(verdict)?;
        self.note_named_leader();
        self.note_peers();
        self.commit_discovery.discover_commit(&mut self.core, &self.live);
        self.digests.tell_digests(&mut self.core);
        self.voter_disk_space.broadcast_space(&mut self.core);
        self.stalled_followers.warn_stalled_followers(&self.core, &self.live);
        let is_late = self.reads.tick_round(&self.core, &self.live);
        if self.lag.update_lag(&self.core, is_late) {
            self.reads.refuse_reads_that_lag(view!(self));
        }
        self.apply_lag.tick(&self.core);
        self.proposals.expire_requests(context!(self));
        self.route_changes();
        self.reads.expire_reads(view!(self));
        self.membership.expire_membership(context!(self));
        let busy = self.busy();
        self.joiner.tick_joiner(&mut self.core, &self.live, busy);
        // Behind all that looks at the present incarnation, because it may replace that.
        if let Some(reason) = self.joiner.goes_back(&self.core, &self.live) {
            self.go_back(reason)?;
        }
        if let Some(moved) = self.identities.announce_addresses(&mut self.core)? {
            self.request(moved);
        }
        Ok(())
    }
}
