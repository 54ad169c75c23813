//! From one incarnation of this node to another, and back.
//!
//! Why: a node that a cluster has adopted is empty until that cluster sends its state. A leader that dies or gives up in
//! between must not cost the node what it had.
//!
//! Laws: the replacement of `identities` is the flip, in both directions. The previous incarnation is kept until a copy of
//! the cluster's state is installed. Where nothing comes from the cluster for too long, counted anew after a restart, or
//! where it ends the join, the node goes back. Under the abandoned raft id nothing was ever acknowledged that counts: a
//! learner is promoted only with the cluster's state; and that id is never used again.
//!
//! Not here: who may adopt this node (`joiner`), and the folders (`storage::data_dir`).

use raft::StateRole;
use slog::{info, warn};

use crate::consensus::core::Phase;
use crate::consensus::core::client_request as refusals;
use crate::consensus::driver::{Driver, Seen};
use crate::consensus::liveness::Liveness;
use crate::consensus::liveness::readiness::Lag;
use crate::consensus::proposals::cluster_clock::ClusterClock;
use crate::consensus::proposals::disk_space::VoterDiskSpace;
use crate::consensus::snapshots::Snapshots;
use crate::consensus::verification::Verification;
use crate::consensus::verification::digests::Digests;
use crate::consensus::verification::term_bound::TermBound;
use crate::model::Millis;
use crate::model::{Code, PreviousStatus, Refusal};
use crate::storage::{Error, Incarnation};

impl Driver {
    /// What the incarnation in use is busy being, as far as its directory says.
    pub(crate) fn phase_of_incarnation(&self) -> Phase {
        let identity = self.core.data_dir.identity();
        if identity.removed {
            Phase::Removed
        } else if self.core.state_machine.applied().0 == 0 {
            Phase::Joining
        } else if self.core.options.forming && !identity.formed && self.is_pristine() {
            Phase::Forming
        } else {
            Phase::Member
        }
    }

    /// Replaces raft and the machine by those of another incarnation; everything that belonged to the old one must have
    /// been answered.
    pub(crate) fn swap(&mut self, incarnation: Incarnation) -> Result<(), Error> {
        self.core.swap(incarnation)?;
        self.committed.clear();
        self.seen = Seen { role: StateRole::Follower, leader: 0, term: self.core.raw.raft.term };
        self.reads.renew((self.core.raft_id(), self.core.options.nonce));
        self.lag = Lag::default();
        self.snapshots = Snapshots::default();
        self.clock = ClusterClock::default();
        self.term_bound = TermBound::default();
        self.verification = Verification::default();
        self.digests = Digests::default();
        self.voter_disk_space = VoterDiskSpace::default();
        self.live = Liveness::default();
        self.pending_change = 0;
        self.core.phase = self.phase_of_incarnation();
        self.joiner.waits_since = self.core.now;
        self.joiner.join_ended = false;
        self.core.feed.begin(self.core.state_machine.applied().0, self.core.options.history);
        self.core.publish();
        self.core.discard_garbage()
    }

    /// A node that joins and hears nothing more goes back to what it was.
    pub(crate) fn go_back_when_due(&mut self) -> Result<(), Error> {
        if self.core.phase != Phase::Joining || self.core.stop_by.is_some() {
            return Ok(());
        }
        if self.joiner.join_ended {
            self.go_back("the cluster has ended the join")
        } else if self.core.now >= self.goes_back_at() {
            self.go_back("nothing has come from the cluster in time")
        } else {
            Ok(())
        }
    }

    /// Whether anything has come from the cluster that this node joins, lately enough to wait for more.
    pub(crate) fn hears_its_cluster(&self) -> bool {
        self.live.contact.values().any(|heard| self.core.now < heard + self.core.options.join_wait_ms)
    }

    fn goes_back_at(&self) -> Millis {
        self.live.contact.values().copied().max().unwrap_or(0).max(self.joiner.waits_since)
            + self.core.options.join_wait_ms
    }

    fn go_back(&mut self, reason: &'static str) -> Result<(), Error> {
        let (cluster_id, abandoned) = (self.core.data_dir.identity().cluster_id, self.core.raft_id());
        let incarnation = match self.core.data_dir.go_back() {
            Ok(Some(incarnation)) => incarnation,
            Ok(None) => return Ok(()),
            // A sync or a scan of the previous incarnation still runs: the next tick tries again.
            Err(Error::Busy { .. }) => return Ok(()),
            Err(failure) => return Err(failure),
        };
        self.refuse_everything(refusals::joining);
        self.swap(incarnation)?;
        warn!(self.core.log, "the join was not finished: this node goes back to what it was"; "reason" => reason,
            "joined" => cluster_id, "abandoned_raft_id" => abandoned,
            "cluster_id" => self.core.data_dir.identity().cluster_id, "raft_id" => self.core.raft_id(), "keys" => self.core.state_machine.keys());
        self.core.campaign_if_alone();
        Ok(())
    }

    /// The first copy of the cluster's state is installed: there is nothing to go back to any more. Durable on return.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.core.phase == Phase::Joining {
            self.core.phase = Phase::Member;
        }
        if let Some(previous) = &self.core.data_dir.identity().previous {
            info!(self.core.log, "the join has brought the cluster's state; what this node was is removed";
                "cluster_id" => previous.cluster_id, "raft_id" => previous.raft_id);
        }
        self.core.data_dir.settle()
    }

    /// What a joining node keeps, and for how long.
    pub(crate) fn previous_status(&self) -> Option<PreviousStatus> {
        let previous = self.core.data_dir.identity().previous.as_ref().filter(|_| self.core.phase == Phase::Joining)?;
        let goes_back_in_ms = self.goes_back_at().saturating_sub(self.core.now);
        Some(PreviousStatus { cluster_id: previous.cluster_id, raft_id: previous.raft_id, goes_back_in_ms })
    }

    /// The refusal of a node that is in no cluster yet.
    pub(crate) fn not_joined_yet(&self) -> Refusal {
        let Some(PreviousStatus { goes_back_in_ms, .. }) = self.previous_status() else { return refusals::joining() };
        let detail = format!(
            "this node is being taken by a cluster; ask another one, or wait. What it held is kept until the cluster's \
             state has arrived, and it goes back to that in {} s if nothing comes from the cluster",
            goes_back_in_ms.div_ceil(1000)
        );
        Refusal::not_applied(Code::Joining, detail)
    }
}
