//! Changes of the incarnation and of its state: join, rollback, removal, install of a snapshot.
//!
//! Why: each replaces the state of several components at once, which no component may do to another.
//!
//! Invariants: the replacement of the `identity` file is the commit point, in both directions. The previous incarnation
//! is kept until a snapshot of the cluster's state is installed. If nothing comes from the cluster for too long, or the
//! cluster ends the join, the node rolls back. An abandoned raft id is never used again. Before a swap every request is
//! answered.
//!
//! See also: `offer_acceptance` (when a node joins, and when it rolls back), `storage::data_dir` (the folders).

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};
use slog::{info, warn};

use super::Driver;
use super::noted_members::Presence;
use super::role_transition::Seen;
use super::split_borrows::context;
use crate::consensus::claim_verification::Verification;
use crate::consensus::claim_verification::plausibility::TermBound;
use crate::consensus::claim_verification::state_divergence::Digests;
use crate::consensus::core::Phase;
use crate::consensus::core::pending_request as refusals;
use crate::consensus::input::{InstallError, Reply};
use crate::consensus::liveness::Liveness;
use crate::consensus::liveness::apply_lag::ApplyLag;
use crate::consensus::liveness::leader_history::LeaderHistory;
use crate::consensus::liveness::readiness::Lag;
use crate::consensus::membership::offer_acceptance::{Accepted, Busy, phase_of_incarnation};
use crate::consensus::proposals::cluster_clock::ClusterClock;
use crate::consensus::proposals::disk_space::VoterDiskSpace;
use crate::consensus::snapshots::Snapshots;
use crate::model::{Millis, NodeKind};
use crate::plant::{self, Plant};
use crate::storage::{Error, Incarnation, ReceivedSnapshot};

/// The maximum memory of memtables that a stop flushes: some tens of milliseconds.
const FLUSH_AT_STOP: usize = 8 << 20;

impl Driver {
    /// Returns what the joiner checks of the other components.
    pub(crate) fn busy(&self) -> Busy {
        Busy { writes: self.proposals.any_write(), join: self.membership.join_in_progress() }
    }

    /// Switches to a new, empty incarnation; durable on return. The previous one is kept until the cluster's state is
    /// installed.
    pub(crate) fn join_cluster(&mut self, accepted: Accepted) -> Result<(), Error> {
        // The order, and what a crash after each step leaves:
        //    1 refuse every request                the node is what it was
        //    2 new folder, rename of `identity`    the node joins at its next start; the old incarnation is kept
        //    3 swap raft and state machine         as 2
        //    4 answer the leader                   as 2: if the answer is lost, the leader asks again, or the node goes back
        let (Accepted { offer, reply }, busy) = (accepted, self.busy());
        let keys = self.core.state_machine.keys();
        let standalone = self.joiner.kind(&self.core, busy) == NodeKind::Standalone;
        let dropped = standalone.then(|| format!("the {keys} keys that {} held alone", self.core.my_name()));
        if let Some(dropped) = &dropped {
            warn!(self.core.log, "a forced join discards data once the cluster's state has arrived"; "data" => dropped);
        }
        self.refuse_everything(refusals::joining);
        self.core.state_machine.abort_snapshot();
        let (raft_address, http_address) =
            (self.core.options.raft_address.clone(), self.core.options.http_address.clone());
        let incarnation =
            self.core.data_dir.switch_incarnation(offer.cluster_id, &raft_address, &http_address, standalone)?;
        self.swap(incarnation)?;
        info!(self.core.log, "taken by a cluster";
            "cluster_id" => offer.cluster_id, "as" => &offer.node_id, "leader" => &offer.leader_name, "raft_id" => self.core.raft_id());
        reply(Ok(self.joiner.join_accepted(&self.core, dropped)));
        Ok(())
    }

    /// Ends this node's part in its cluster; durable on return.
    pub(crate) fn become_removed(&mut self) -> Result<(), Error> {
        // Durable before a request is answered: after a crash this node must not come back as a member.
        self.core.data_dir.update(|identity| identity.removed = true)?;
        self.note_own_removal();
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
        // Everything that was derived from the old log begins anew. The counters of tokens and read contexts go on, so
        // that no number is used twice.
        self.seen = Seen { role: StateRole::Follower, leader: 0, term: self.core.raw.raft.term };
        self.reads.renew((self.core.raft_id(), self.core.options.nonce));
        self.lag = Lag::default();
        self.apply_lag = ApplyLag::default();
        self.snapshots.reclaim.abandon(&mut self.core);
        // The copy of a journal is of an incarnation that is not in use any more.
        self.core.discard(std::mem::take(&mut self.snapshots.journal_reclaim));
        self.snapshots = Snapshots::default();
        self.clock = ClusterClock::default();
        self.term_bound = TermBound::default();
        self.verification = Verification::default();
        self.digests = Digests::default();
        self.voter_disk_space = VoterDiskSpace::default();
        self.live = Liveness::default();
        self.history = LeaderHistory::default();
        self.presence = Presence::default();
        self.replayed = self.core.raw.raft.raft_log.committed;
        self.pending_change = 0;
        self.core.phase = phase_of_incarnation(&self.core);
        self.joiner.swapped(self.core.now);
        self.core.feed.begin(self.core.state_machine.applied().0, self.core.options.history);
        self.core.publish();
        // Last: only now nothing of the old incarnation is in use.
        self.core.discard_garbage()
    }

    /// Commits a join: the first snapshot of the cluster is installed, and the node can no more roll back. Durable on
    /// return.
    pub(crate) fn settle(&mut self) -> Result<(), Error> {
        if self.core.phase == Phase::Joining {
            self.core.phase = Phase::Member;
        }
        if let Some(previous) = &self.core.data_dir.identity().previous {
            info!(self.core.log, "the join has brought the cluster's state; what this node was is removed";
                "cluster_id" => previous.cluster_id, "raft_id" => previous.raft_id);
        }
        // Until here the node could go back: from this update on the previous incarnation is garbage.
        self.core.data_dir.commit_join()
    }

    /// Installs a received snapshot, if raft takes it in the turn that follows.
    pub(crate) fn install(
        &mut self,
        message: Message,
        received: ReceivedSnapshot,
        reply: Reply<Result<(), InstallError>>,
    ) -> Result<(), Error> {
        // What was stepped before is carried out first, so the checks below look at the present state.
        let fits = message.get_msg_type() == MessageType::MsgSnapshot && message.to == self.core.raft_id();
        if fits {
            self.turn(self.core.now)?;
        }
        // The turn may have removed this node.
        let takes = matches!(self.core.phase, Phase::Member | Phase::Joining) && self.core.stop_by.is_none();
        let refusal = if !fits || !takes || self.installing.is_some() {
            Some("this node takes no snapshot now")
        } else if !self.believes(&message)? {
            Some("this node does not believe the message that came with the snapshot")
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
        // Set before the step: the turn below takes it where raft wants the snapshot installed.
        self.installing = Some((received, reply));
        let stepped = self.core.raw.step(message);
        let offered = self.core.raw.snap().is_some_and(|snapshot| snapshot.get_metadata() == &metadata);
        if !offered && let Some((received, reply)) = self.installing.take() {
            self.core.discard(received);
            // Raft did not want it. If this node has the state already (the log was faster), the sender is told that
            // all is well, and goes on with entries.
            let behind = self.core.state_machine.applied().0 < metadata.index
                && self.core.raw.raft.raft_log.committed < metadata.index;
            let detail = format!("raft did not take the snapshot at {}: {stepped:?}", metadata.index);
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
        // What was proposed or sent on may still be decided before the deadline; the loop ends when nothing of it is
        // left.
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
        // The journal first: the state machine may be behind the log after a crash, but not ahead of it.
        self.core.raw.mut_store().journal.sync()?;
        // Only what is flushed quickly: the next start applies the rest from the journal.
        if self.core.state_machine.unflushed_bytes() <= FLUSH_AT_STOP {
            self.core.state_machine.flush()
        } else {
            Ok(())
        }
    }

    /// Whether the loop may end: it is stopping, and nothing is left to wait for.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.core.stop_by.is_some_and(|until| {
            let leads_others =
                self.core.leads() && self.live.successor(&self.core).is_some() && self.core.phase == Phase::Member;
            self.core.now >= until || !(leads_others || self.proposals.any_undecided())
        })
    }
}
