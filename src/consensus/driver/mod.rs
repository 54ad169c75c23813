//! The driver: one node's consensus as one synchronous object, which holds the components.
//!
//! Why: consensus is right or wrong by the order of a few steps. Here that order is plain code on one thread: inputs
//! are handled one by one, then [`Driver::turn`] makes everything they caused durable, sends it, applies it and
//! answers.
//!
//! Invariants: the driver reads no clock, opens no socket and knows no tokio; its ways out are the storage, the
//! [`Outbox`], the [`Background`] and the replies that inputs carry. Nothing is stepped or proposed between `ready()`
//! and its advance. `applied <= commit <= last` before and after each turn.
//!
//! See also: the order within a turn (`ready`), requests between components (`request_dispatch`), messages of peers
//! (`peer_messages`), join, removal and install (`own_incarnation_switch`), the clock (`tick`), the thread (`thread`).

mod local_queries;
mod noted_members;
mod own_incarnation_switch;
mod peer_messages;
mod ready;
mod request_dispatch;
mod role_transition;
mod split_borrows;
mod tick;

use std::collections::VecDeque;
use std::sync::Arc;

use raft::StateRole;
use raft::eraftpb::Entry;
use slog::Logger;

use super::claim_verification::Verification;
use super::claim_verification::plausibility::TermBound;
use super::claim_verification::removal_commit_probe::CommitDiscovery;
use super::claim_verification::state_divergence::Digests;
use super::core::background_jobs::Background;
use super::core::pending_request::ClientRequest;
use super::core::{Core, Parts, Phase};
use super::input::{Input, InstallError, Reply};
use super::liveness::Liveness;
use super::liveness::apply_lag::ApplyLag;
use super::liveness::identity_conflicts::Identities;
use super::liveness::leader_history::LeaderHistory;
use super::liveness::readiness::Lag;
use super::liveness::stalled_followers::StalledFollowers;
use super::membership::Membership;
use super::membership::offer_acceptance::{Joiner, phase_of_incarnation};
use super::options::Options;
use super::outbox::Outbox;
use super::proposals::Proposals;
use super::proposals::cluster_clock::ClusterClock;
use super::proposals::disk_space::VoterDiskSpace;
use super::reads::{Reader, Reads};
use super::snapshots::Snapshots;
use crate::changefeed::ChangeFeed;
use crate::model::Millis;
use crate::storage::{DataDir, Error, Incarnation, ReceivedSnapshot};
use crate::telemetry::logging::LogLimit;
use crate::telemetry::node_events::{Kind, NodeEvents};
use noted_members::Presence;
use role_transition::Seen;
use split_borrows::{context, view};

/// One node's consensus.
pub struct Driver {
    pub(crate) core: Core,
    pub(crate) live: Liveness,
    /// When raft's clock ticked last.
    ticked: Millis,
    pub(crate) proposals: Proposals,
    pub(crate) reads: Reads,
    pub(crate) membership: Membership,
    pub(crate) joiner: Joiner,
    pub(crate) identities: Identities,
    pub(crate) snapshots: Snapshots,
    /// Entries that are committed and not applied yet.
    pub(crate) committed: VecDeque<Entry>,
    pub(crate) clock: ClusterClock,
    /// A snapshot that has arrived, between the step of its message and the turn that takes it.
    pub(crate) installing: Option<(ReceivedSnapshot, Reply<Result<(), InstallError>>)>,
    /// Role, leader and term at the last turn.
    pub(crate) seen: Seen,
    /// What explains changes of the leader.
    pub(crate) history: LeaderHistory,
    /// Which members are there.
    pub(crate) presence: Presence,
    /// The index up to which the start applies what an earlier process has applied already.
    pub(crate) replayed: u64,
    /// A membership entry that is not committed yet has at most this index.
    pub(crate) pending_change: u64,
    /// The rate limit of lines about refused messages.
    pub(crate) append_refused: LogLimit,
    pub(crate) term_bound: TermBound,
    pub(crate) commit_discovery: CommitDiscovery,
    pub(crate) verification: Verification,
    pub(crate) digests: Digests,
    pub(crate) voter_disk_space: VoterDiskSpace,
    pub(crate) stalled_followers: StalledFollowers,
    pub(crate) lag: Lag,
    pub(crate) apply_lag: ApplyLag,
    /// How often another leader was found.
    pub(crate) leader_changes: u64,
    /// How many keys have expired.
    pub(crate) ttl_expired: u64,
    /// How often the leader's digest was another one.
    pub(crate) state_hash_mismatches: u64,
}

impl Driver {
    /// Creates a driver for an opened data directory; nothing is sent or written before the first turn.
    ///
    /// # Errors
    /// [`Error`] where raft refuses what lies on the disk.
    pub fn new(
        data_dir: DataDir,
        incarnation: Incarnation,
        outbox: Box<dyn Outbox>,
        background: Box<dyn Background>,
        options: Options,
        log: Logger,
        raft_log: Logger,
    ) -> Result<Self, Error> {
        let nonce = (data_dir.identity().raft_id, options.nonce);
        let core = Core::new(Parts { data_dir, incarnation, outbox, background, options, log, raft_log })?;
        let mut driver = Self {
            seen: Seen { role: StateRole::Follower, leader: 0, term: core.raw.raft.term },
            history: LeaderHistory::default(),
            presence: Presence::default(),
            replayed: core.raw.raft.raft_log.committed,
            core,
            live: Liveness::default(),
            ticked: 0,
            proposals: Proposals::default(),
            reads: Reads::new(nonce),
            membership: Membership::default(),
            joiner: Joiner::default(),
            identities: Identities::default(),
            snapshots: Snapshots::default(),
            committed: VecDeque::new(),
            clock: ClusterClock::default(),
            installing: None,
            pending_change: 0,
            append_refused: LogLimit::default(),
            term_bound: TermBound::default(),
            commit_discovery: CommitDiscovery::default(),
            verification: Verification::default(),
            digests: Digests::default(),
            voter_disk_space: VoterDiskSpace::default(),
            stalled_followers: StalledFollowers::default(),
            lag: Lag::default(),
            apply_lag: ApplyLag::default(),
            leader_changes: 0,
            ttl_expired: 0,
            state_hash_mismatches: 0,
        };
        driver.core.phase = phase_of_incarnation(&driver.core);
        Ok(driver)
    }

    /// Publishes what is applied from now on to `feed`, and what happens to `events`.
    pub(crate) fn set_outlets(&mut self, feed: Arc<ChangeFeed>, events: Arc<NodeEvents>) {
        self.core.events = events;
        feed.begin(self.core.state_machine.applied().0, self.core.options.history);
        self.core.feed = feed;
    }

    /// Runs before the first input: publishes the peers, removes garbage, finishes what a crash has left, and lets a
    /// lone voter campaign at once, so that a restart costs no election timeout.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn start(&mut self, now: Millis) -> Result<(), Error> {
        self.core.at(now);
        self.core.note(Kind::Started { version: env!("CARGO_PKG_VERSION") });
        self.joiner.waits_since = now;
        if self.core.phase == Phase::Member {
            self.lag.starts();
        }
        self.core.publish();
        self.core.discard_garbage()?;
        self.turn(now)?;
        self.core.campaign_if_alone();
        self.turn(now)
    }

    /// Handles one input at the time `now` of the call, since the input may have waited for a disk or for a stopped
    /// process. Its consequences follow in the next [`Driver::turn`].
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn handle(&mut self, now: Millis, input: Input) -> Result<(), Error> {
        self.core.at(now);
        match input {
            Input::Request { request, deadline, hop, to, reply } => {
                let waiting =
                    ClientRequest { request, since: self.core.now, deadline, hop, maybe_applied: false, reply };
                self.take_request(waiting, to);
            }
            Input::Read { consistency, bounds, deadline, reply } => {
                self.read(Reader { consistency, bounds, deadline, reply });
            }
            Input::ReadFailed(failure) => return Err(failure),
            Input::Snapshot { deadline, reply } => match self.unavailable() {
                Some(refusal) => reply(Err(refusal)),
                None => self.snapshots.snapshot_now(&self.core, deadline, reply),
            },
            Input::Status { reply } => reply(self.status()),
            Input::WhoAmI { reply } => reply(self.who_am_i()),
            Input::Stop { deadline } => self.stop(deadline),
            Input::Begin => self.begin()?,
            Input::Step(message) => self.step_checked(*message)?,
            Input::Counted { input, .. } => self.handle(now, *input)?,
            Input::PeerUp(raft_id) => self.identities.identity_agreed(raft_id),
            Input::PeerDown(raft_id) => self.core.peer_down(raft_id),
            Input::Heard { from, follows } => self.live.heard(&self.core, from, follows),
            Input::Forwarded { token, result } => self.proposals.forward_ended(context!(self), token, result),
            Input::Identified { token, result } => self.identified(token, result)?,
            Input::JoinOfferAnswered { token, result } => {
                self.membership.join_offer_answered(context!(self), token, result)
            }
            Input::JoinOffer { offer, reply } => {
                let busy = self.busy();
                self.joiner.receive_offer(&mut self.core, &self.live, busy, offer, reply);
            }
            Input::Removed { cluster_id, raft_id } => self.removal_claimed(cluster_id, raft_id)?,
            Input::Probe { probe, reply } => {
                let digest = probe.digest.and_then(|(index, _)| self.digests.digest_at(&self.core, index));
                self.verification.answer_probe(&mut self.core, probe, digest, reply);
            }
            Input::Probed { token, result } => self.probed(token, result)?,
            Input::Digest { from, told } => self.told_digest(from, told),
            Input::Space { from, space } => self.voter_disk_space.record_space(&self.core, from, space),
            Input::JoinEnded { cluster_id, raft_id } => self.joiner.note_join_ended(&self.core, cluster_id, raft_id),
            Input::IdentityConflict { raft_id, of_this_node, detail } => {
                self.identities.identity_conflict(&self.core, raft_id, of_this_node, detail);
            }
            Input::Receive { from, reply } => {
                if Snapshots::receive(&mut self.core, from, reply) && self.lag.snapshot_arrives(&self.core) {
                    self.reads.refuse_reads_that_lag(view!(self));
                }
            }
            Input::Install { message, received, reply } => self.install(*message, received, reply)?,
            Input::StreamEnded { to, result } => self.snapshots.stream_ended(&mut self.core, to, result),
            Input::Flushed { mark, result } => self.snapshots.flushed(&mut self.core, mark, result)?,
            Input::Sliced { rewrite, result } => self.snapshots.reclaim.sliced(&mut self.core, rewrite, result)?,
            Input::Scanned { token, result } => self.snapshots.scanned(&mut self.core, token, result),
        }
        Ok(())
    }
}
