//! From one incarnation of this node to another, and back.
//!
//! Why: a node that a cluster has adopted is empty until that cluster sends its state. A leader that dies or gives up in
//! between must not cost the node what it had.
//!
//! Laws: the replacement of `identity` is the flip, in both directions. The previous incarnation is kept until a copy of
//! the cluster's state is installed. Where nothing comes from the cluster for too long, counted anew after a restart, or
//! where it ends the join, the node goes back. Under the abandoned raft id nothing was ever acknowledged that counts: a
//! learner is promoted only with the cluster's state; and that id is never used again.
//!
//! Not here: who may adopt this node (`adoption`), and the folders (`storage::volume`).

use raft::StateRole;
use slog::{info, warn};

use super::belief::Belief;
use super::digests::Digests;
use super::driver::{Driver, Phase, Seen};
use super::hearing::Hearing;
use super::input::Millis;
use super::raw::raw_node;
use super::readiness::Lag;
use super::requests;
use super::snapshots::Snapshots;
use super::space::Spaces;
use super::time::Time;
use super::verification::Verification;
use crate::model::{Code, PreviousStatus, Refusal};
use crate::storage::{Error, Incarnation};

impl Driver {
    /// What the incarnation in use is busy being, as far as its directory says.
    pub(super) fn phase_of_incarnation(&self) -> Phase {
        let identity = self.volume.identity();
        if identity.removed {
            Phase::Removed
        } else if self.machine.applied().0 == 0 {
            Phase::Joining
        } else if self.options.forming && !identity.formed && self.is_pristine() {
            Phase::Forming
        } else {
            Phase::Member
        }
    }

    /// Replaces raft and the machine by those of another incarnation; everything that belonged to the old one must have
    /// been answered.
    pub(super) fn swap(&mut self, incarnation: Incarnation) -> Result<(), Error> {
        let raft_id = self.volume.identity().raft_id;
        let (raw, machine) = raw_node(raft_id, incarnation, &self.options, &self.log, &self.raft_log)?;
        self.unused
            .push(Box::new((std::mem::replace(&mut self.raw, raw), std::mem::replace(&mut self.machine, machine))));
        self.committed.clear();
        self.raw.mut_store().now = self.now;
        self.seen = Seen { role: StateRole::Follower, leader: 0, term: self.raw.raft.term };
        self.reads.renew((raft_id, self.options.nonce));
        self.lag = Lag::default();
        self.snapshots = Snapshots::default();
        self.time = Time::default();
        self.belief = Belief::default();
        self.verification = Verification::default();
        self.digests = Digests::default();
        self.spaces = Spaces::default();
        self.contact.clear();
        self.hearing = Hearing::default();
        self.pending_change = 0;
        (self.leader_seen, self.led_since) = (None, None);
        self.phase = self.phase_of_incarnation();
        self.adoption.waits_since = self.now;
        self.adoption.join_ended = false;
        self.feed.begin(self.machine.applied().0, self.options.history);
        self.publish();
        self.discard_garbage()
    }

    /// Has folders removed that nothing names any more, once what was open of them is closed.
    pub(super) fn discard_garbage(&mut self) -> Result<(), Error> {
        let generation = self.raw.store().journal.generation();
        let garbage = self.volume.garbage(generation)?;
        let unused = std::mem::take(&mut self.unused);
        if !garbage.is_empty() || !unused.is_empty() {
            self.chores.discard(unused, self.volume.engine(), garbage);
        }
        Ok(())
    }

    /// Has something dropped elsewhere: closing a database, or removing what was received, takes longer than a turn may.
    pub(super) fn discard(&mut self, unused: impl Send + 'static) {
        self.chores.discard(vec![Box::new(unused)], self.volume.engine(), Vec::new());
    }

    /// A node that joins and hears nothing more goes back to what it was.
    pub(super) fn go_back_when_due(&mut self) -> Result<(), Error> {
        if self.phase != Phase::Joining || self.stop_by.is_some() {
            return Ok(());
        }
        if self.adoption.join_ended {
            self.go_back("the cluster has ended the join")
        } else if self.now >= self.goes_back_at() {
            self.go_back("nothing has come from the cluster in time")
        } else {
            Ok(())
        }
    }

    /// Whether anything has come from the cluster that this node joins, lately enough to wait for more.
    pub(super) fn hears_its_cluster(&self) -> bool {
        self.contact.values().any(|heard| self.now < heard + self.options.join_wait_ms)
    }

    fn goes_back_at(&self) -> Millis {
        self.contact.values().copied().max().unwrap_or(0).max(self.adoption.waits_since) + self.options.join_wait_ms
    }

    fn go_back(&mut self, reason: &'static str) -> Result<(), Error> {
        let (cluster_id, abandoned) = (self.volume.identity().cluster_id, self.raft_id());
        let incarnation = match self.volume.go_back() {
            Ok(Some(incarnation)) => incarnation,
            Ok(None) => return Ok(()),
            // A sync or a scan of the previous incarnation still runs: the next tick tries again.
            Err(Error::Busy { .. }) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        self.refuse_everything(requests::joining);
        self.swap(incarnation)?;
        warn!(self.log, "the join was not finished: this node goes back to what it was"; "reason" => reason,
            "joined" => cluster_id, "abandoned_raft_id" => abandoned,
            "cluster_id" => self.volume.identity().cluster_id, "raft_id" => self.raft_id(), "keys" => self.machine.keys());
        self.campaign_if_alone();
        Ok(())
    }

    /// The first copy of the cluster's state is installed: there is nothing to go back to any more. Durable on return.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if self.phase == Phase::Joining {
            self.phase = Phase::Member;
        }
        if let Some(previous) = &self.volume.identity().previous {
            info!(self.log, "the join has brought the cluster's state; what this node was is removed";
                "cluster_id" => previous.cluster_id, "raft_id" => previous.raft_id);
        }
        self.volume.settle()
    }

    /// What a joining node keeps, and for how long.
    pub(super) fn previous_status(&self) -> Option<PreviousStatus> {
        let previous = self.volume.identity().previous.as_ref().filter(|_| self.phase == Phase::Joining)?;
        let goes_back_in_ms = self.goes_back_at().saturating_sub(self.now);
        Some(PreviousStatus { cluster_id: previous.cluster_id, raft_id: previous.raft_id, goes_back_in_ms })
    }

    /// The refusal of a node that is in no cluster yet.
    pub(super) fn not_joined_yet(&self) -> Refusal {
        let Some(PreviousStatus { goes_back_in_ms, .. }) = self.previous_status() else { return requests::joining() };
        let detail = format!(
            "this node is being taken by a cluster; ask another one, or wait. What it held is kept until the cluster's \
             state has arrived, and it goes back to that in {} s if nothing comes from the cluster",
            goes_back_in_ms.div_ceil(1000)
        );
        Refusal::not_applied(Code::Joining, detail)
    }
}
