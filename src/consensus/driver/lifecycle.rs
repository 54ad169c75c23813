//! Changes of what this node is: adopted by a cluster, back to what it was, removed, installed from a snapshot.
//!
//! Why: each replaces the state of several components at once, which no component may do to another.
//!
//! Invariants: the replacement of `identities` is the flip, in both directions. The previous incarnation is kept until
//! a snapshot of the cluster's state is installed; where nothing comes from the cluster for too long, or the cluster
//! ends the join, the node goes back. An abandoned raft id is never used again. Before a swap every request is
//! answered.
//!
//! See also: `joiner` (when a node may be adopted and when it goes back), `storage::data_dir` (the folders).

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use slog::{info, warn};

use super::lend::context;
use super::{Driver, Seen};
use crate::consensus::core::Phase;
use crate::consensus::core::client_request as refusals;
use crate::consensus::input::{InstallError, Reply};
use crate::consensus::liveness::Liveness;
use crate::consensus::liveness::readiness::Lag;
use crate::consensus::membership::joiner::{Accepted, Busy, phase_of_incarnation};
use crate::consensus::proposals::cluster_clock::ClusterClock;
use crate::consensus::proposals::disk_space::VoterDiskSpace;
use crate::consensus::snapshots::Snapshots;
use crate::consensus::verification::Verification;
use crate::consensus::verification::digests::Digests;
use crate::consensus::verification::term_bound::TermBound;
use crate::model::{Millis, NodeKind};
use crate::plant::{self, Plant};
use crate::storage::{Error, Incarnation, ReceivedSnapshot};

impl Driver {
    /// What a joiner has to know of the other components.
    pub(crate) fn busy(&self) -> Busy {
        Busy { writes: self.proposals.any_write(), join: self.membership.join_in_progress() }
    }

    /// The flip to a new, empty incarnation; durable on return. What this node was is kept until the cluster's state
    /// has arrived.
    pub(crate) fn become_adopted(&mut self, accepted: Accepted) -> Result<(), Error> {
        let (Accepted { adopt, reply }, busy) = (accepted, self.busy());
        let keys = self.core.state_machine.keys();
        let standalone = self.joiner.standing(&self.core, busy) == NodeKind::Standalone;
        let dropped = standalone.then(|| format!("the {keys} keys that {} held alone", self.core.my_name()));
        if let Some(dropped) = &dropped {
            warn!(self.core.log, "a forced join gives up data once the cluster's state has arrived"; "data" => dropped);
        }
        self.refuse_everything(refusals::joining);
        self.core.state_machine.abort_snapshot();
        let (raft_address, http_address) =
            (self.core.options.raft_address.clone(), self.core.options.http_address.clone());
        let incarnation =
            self.core.data_dir.switch_incarnation(adopt.cluster_id, &raft_address, &http_address, standalone)?;
        self.swap(incarnation)?;
        info!(self.core.log, "taken by a cluster";
            "cluster_id" => adopt.cluster_id, "as" => &adopt.node_id, "leader" => &adopt.leader_name, "raft_id" => self.core.raft_id());
        reply(Ok(self.joiner.adopted(&self.core, dropped)));
        Ok(())
    }

    /// Ends this node's part in its cluster; durable on return.
    pub(crate) fn become_removed(&mut self) -> Result<(), Error> {
        self.core.data_dir.update(|identity| identity.removed = true)?;
        self.core.phase = Phase::Removed;
        self.verification = Verification::default();
        self.core.state_machine.abort_snapshot();
        self.proposals.answer_own_removal(context!(self));
        self.refuse_everything(refusals::removed);
        warn!(
            self.core.log,
            "this node was removed from its cluster; POST /raft/join for it on a member brings it back"
        );
        self.core.publish();
        Ok(())
    }

    pub(crate) fn go_back(&mut self, reason: &'static str) -> Result<(), Error> {
        let (cluster_id, abandoned) = (self.core.data_dir.identity().cluster_id, self.core.raft_id());
        let incarnation = match self.core.data_dir.roll_back() {
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

    /// Replaces raft and the state machine by those of another incarnation; everything that belonged to the old one
    /// must have been answered.
    fn swap(&mut self, incarnation: Incarnation) -> Result<(), Error> {
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
        self.core.phase = phase_of_incarnation(&self.core);
        self.joiner.swapped(self.core.now);
        self.core.feed.begin(self.core.state_machine.applied().0, self.core.options.history);
        self.core.publish();
        self.core.discard_garbage()
    }

    /// The first snapshot of the cluster's state is installed: there is nothing to go back to any more. Durable on
    /// return.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.core.phase == Phase::Joining {
            self.core.phase = Phase::Member;
        }
        if let Some(previous) = &self.core.data_dir.identity().previous {
            info!(self.core.log, "the join has brought the cluster's state; what this node was is removed";
                "cluster_id" => previous.cluster_id, "raft_id" => previous.raft_id);
        }
        self.core.data_dir.commit_join()
    }

    /// A snapshot has arrived: raft decides in the turn that follows whether it is taken.
    pub(crate) fn install(
        &mut self,
        message: Message,
        received: ReceivedSnapshot,
        reply: Reply<Result<(), InstallError>>,
    ) -> Result<(), Error> {
        let fits = message.get_msg_type() == MessageType::MsgSnapshot && message.to == self.core.raft_id();
        if fits {
            self.turn(self.core.now)?;
        }
        // The turn may have removed this node.
        let takes = matches!(self.core.phase, Phase::Member | Phase::Joining) && self.core.stop_by.is_none();
        let refusal = if !fits || !takes || self.installing.is_some() {
            Some("this node takes no copy now")
        } else if !self.believes(&message)? {
            Some("this node does not believe the message that came with the copy")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.core.discard(received);
            reply(Err(InstallError(refusal.into())));
            return Ok(());
        }
        self.live.contacted(&self.core, message.from);
        let metadata = message.get_snapshot().get_metadata().clone();
        self.installing = Some((received, reply));
        let stepped = self.core.raw.step(message);
        let offered = self.core.raw.snap().is_some_and(|snapshot| snapshot.get_metadata() == &metadata);
        if !offered && let Some((received, reply)) = self.installing.take() {
            self.core.discard(received);
            let behind = self.core.state_machine.applied().0 < metadata.index
                && self.core.raw.raft.raft_log.committed < metadata.index;
            let detail = format!("raft did not take the copy at {}: {stepped:?}", metadata.index);
            reply(if behind { Err(InstallError(detail)) } else { Ok(()) });
        }
        if plant::is(Plant::StaleEntriesAfterInstall) {
            return self.turn(self.core.now);
        }
        if offered {
            // The snapshot covers what is committed and not applied yet. Raft has the snapshot's configuration already,
            // and a change from before must not be made to that one.
            self.committed.clear();
        }
        self.turn(self.core.now)
    }

    pub(crate) fn stop(&mut self, deadline: Millis) {
        self.core.stop_by = Some(deadline);
        self.refuse_undispatched(refusals::stopping);
        if self.core.leads()
            && let Some(successor) = self.live.successor(&self.core)
        {
            info!(self.core.log, "handing leadership over before stopping"; "to" => self.core.name_of(successor));
            self.core.raw.transfer_leader(successor);
        }
    }

    pub(crate) fn begin(&mut self) -> Result<(), Error> {
        if self.core.phase == Phase::Forming {
            self.core.data_dir.update(|identity| identity.formed = true)?;
            self.core.phase = Phase::Member;
            info!(self.core.log, "beginning a cluster"; "cluster_id" => self.core.data_dir.identity().cluster_id);
            self.core.campaign_if_alone();
        }
        Ok(())
    }

    /// Refuses every request that still waits and makes everything durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.refuse_everything(refusals::stopping);
        self.core.state_machine.abort_snapshot();
        self.core.raw.mut_store().journal.sync()?;
        self.core.state_machine.db()?.sync()
    }

    /// Whether the loop may end: it was told to stop, and nothing is left to wait for.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.core.stop_by.is_some_and(|until| {
            let leads_others =
                self.core.leads() && self.live.successor(&self.core).is_some() && self.core.phase == Phase::Member;
            self.core.now >= until || !(leads_others || self.proposals.any_undecided())
        })
    }
}
