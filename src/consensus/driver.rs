//! The driver: raft, journal, machine and whoever waits, as one synchronous object.
//!
//! Why: consensus is right or wrong by the order of a few steps. Here that order is plain code on one thread: inputs are
//! handled one by one, then [`Driver::turn`] makes everything they caused durable, sends it, applies it and answers.
//!
//! Laws: the driver reads no clock, opens no socket and knows no tokio; its ways out are the storage, the
//! [`Outbox`], the [`Chores`] and the replies that inputs carry. Nothing is stepped or proposed between `ready()` and
//! its advance. `applied <= commit <= last` before and after each turn.
//!
//! Not here: the order within a turn (`ready`), requests (`requests`), reads (`reads`), membership (`membership`,
//! `adoption`, `incarnation`), what an entry holds (`entry`), raft's settings (`raw`), copies and compaction (`snapshots`),
//! the cluster's time (`time`), what of a message is believed (`belief`, `verification`), the thread (`task`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{RawNode, StateRole};
use slog::{Logger, info, warn};

use super::adoption::Adoption;
use super::belief::Belief;
use super::budget::Budget;
use super::chores::Chores;
use super::commit_discovery::CommitDiscovery;
use super::digests::Digests;
use super::feed::Feed;
use super::hearing::Hearing;
use super::identity::Identities;
use super::input::{Input, InstallError, Millis, Reply};
use super::lagging::Stands;
use super::log::Log;
use super::membership::Membership;
use super::raw::raw_node;
use super::readiness::Lag;
use super::reads::{Reader, Reads, Wanted};
use super::requests::Requests;
use super::snapshots::Snapshots;
use super::space::Spaces;
use super::time::Time;
use super::unread::Unread;
use super::verification::Verification;
use super::{Options, Outbox};
use crate::model::{List, Page};
use crate::storage::{Error, Incarnation, Machine, Received, Volume};

/// What the node is busy being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Pristine, and waiting to be taken by a cluster or told to begin one.
    Forming,
    /// Taken by a cluster from which nothing has arrived yet.
    Joining,
    /// A member of its cluster, be it the only one.
    Member,
    /// Removed from its cluster.
    Removed,
}

/// One node's consensus.
pub struct Driver {
    pub(super) raw: RawNode<Log>,
    pub(super) machine: Machine,
    pub(super) volume: Volume,
    pub(super) outbox: Box<dyn Outbox>,
    pub(super) chores: Box<dyn Chores>,
    pub(super) options: Options,
    pub(super) log: Logger,
    pub(super) raft_log: Logger,
    pub(super) now: Millis,
    /// When raft's clock ticked last.
    ticked: Millis,
    pub(super) budget: Budget,
    pub(super) phase: Phase,
    /// Set by [`Input::Stop`]: when to stop at the latest.
    pub(super) stop_by: Option<Millis>,
    pub(super) requests: Requests,
    pub(super) reads: Reads,
    pub(super) membership: Membership,
    pub(super) adoption: Adoption,
    pub(super) identities: Identities,
    pub(super) snapshots: Snapshots,
    /// Entries that are committed and not applied yet.
    pub(super) committed: VecDeque<Entry>,
    pub(super) time: Time,
    /// Since when this node leads.
    pub(super) led_since: Option<Millis>,
    /// When a leader was last heard, or this node last led.
    pub(super) leader_seen: Option<Millis>,
    /// When each peer was last heard.
    pub(super) contact: BTreeMap<u64, Millis>,
    pub(super) hearing: Hearing,
    /// A copy that has arrived, between the step of its message and the turn that takes it.
    pub(super) installing: Option<(Received, Reply<Result<(), InstallError>>)>,
    /// What the last turn saw, to tell changes from.
    pub(super) seen: Seen,
    /// A membership entry that is not committed yet has at most this index.
    pub(super) pending_change: u64,
    pub(super) feed: Arc<Feed>,
    /// When the refusal of a message was logged last.
    pub(super) append_refused: Option<Millis>,
    pub(super) belief: Belief,
    pub(super) commit_discovery: CommitDiscovery,
    pub(super) verification: Verification,
    pub(super) digests: Digests,
    pub(super) spaces: Spaces,
    /// What is not in use any more, to be dropped off the loop.
    pub(super) unused: Vec<Box<dyn Send>>,
    pub(super) stands: Stands,
    pub(super) lag: Lag,
    pub(super) unread: Unread,
    next_token: u64,
}

/// Role, leader and term as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub role: StateRole,
    pub leader: u64,
    pub term: u64,
}

impl Driver {
    /// A driver for an opened volume; nothing is sent or written before the first turn.
    ///
    /// # Errors
    /// [`Error`] where raft refuses what lies on the disk.
    pub fn new(
        volume: Volume,
        incarnation: Incarnation,
        outbox: Box<dyn Outbox>,
        chores: Box<dyn Chores>,
        options: Options,
        log: Logger,
        raft_log: Logger,
    ) -> Result<Self, Error> {
        let raft_id = volume.identity().raft_id;
        let (raw, machine) = raw_node(raft_id, incarnation, &options, &log, &raft_log)?;
        let nonce = (raft_id, options.nonce);
        let mut driver = Self {
            seen: Seen { role: StateRole::Follower, leader: 0, term: raw.raft.term },
            raw,
            machine,
            volume,
            outbox,
            chores,
            options,
            log,
            raft_log,
            now: 0,
            ticked: 0,
            budget: Budget::default(),
            phase: Phase::Member,
            stop_by: None,
            requests: Requests::default(),
            reads: Reads::new(nonce),
            membership: Membership::default(),
            adoption: Adoption::default(),
            identities: Identities::default(),
            snapshots: Snapshots::default(),
            committed: VecDeque::new(),
            time: Time::default(),
            led_since: None,
            leader_seen: None,
            contact: BTreeMap::new(),
            hearing: Hearing::default(),
            installing: None,
            pending_change: 0,
            feed: Arc::default(),
            append_refused: None,
            belief: Belief::default(),
            commit_discovery: CommitDiscovery::default(),
            verification: Verification::default(),
            digests: Digests::default(),
            spaces: Spaces::default(),
            unused: Vec::new(),
            stands: Stands::default(),
            lag: Lag::default(),
            unread: Unread::default(),
            next_token: 0,
        };
        driver.feed.begin(driver.machine.applied().0, driver.options.history);
        driver.phase = driver.phase_of_incarnation();
        Ok(driver)
    }

    /// The events of what this node applies from its start on.
    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// A page of what this node has applied, whoever waits for what.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<Page, Error> {
        self.machine.list(list)
    }

    /// Tells `feed` of what is applied from now on.
    pub(super) fn tell(&mut self, feed: Arc<Feed>) {
        feed.begin(self.machine.applied().0, self.options.history);
        self.feed = feed;
    }

    /// What comes before the first input: peers become known, garbage goes, what was left of the last life is finished,
    /// and a lone voter campaigns at once, so that a restart costs no election timeout.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn start(&mut self, now: Millis) -> Result<(), Error> {
        self.at(now);
        self.adoption.waits_since = now;
        self.publish();
        self.discard_garbage()?;
        self.turn(now)?;
        self.campaign_if_alone();
        self.turn(now)
    }

    /// Lets a lone voter lead without waiting for a timeout that nobody else could end.
    pub(super) fn campaign_if_alone(&mut self) {
        if self.phase == Phase::Member
            && self.raw.raft.state == StateRole::Follower
            && self.conf_voters() == [self.raft_id()]
            && let Err(error) = self.raw.campaign()
        {
            warn!(self.log, "cannot campaign"; "error" => %error);
        }
    }

    /// The time is `now`, or later where more has passed already.
    pub(super) fn at(&mut self, now: Millis) {
        self.now = self.now.max(now);
        self.raw.mut_store().now = self.now;
    }

    /// Takes in how much time has passed since the turn began.
    pub(super) fn pass(&mut self) {
        self.at(self.budget.time(self.chores.now()));
    }

    /// Lets one tick of raft's clock pass, and ends what has waited too long. A leader makes up for ticks that it has
    /// missed, up to the next heartbeat: its followers count by clocks of their own.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn tick(&mut self, now: Millis) -> Result<(), Error> {
        self.at(now);
        self.volume.engine().check()?;
        let missed = self.now.saturating_sub(std::mem::replace(&mut self.ticked, self.now)) / self.options.tick_ms;
        let most = if self.leads() { self.options.heartbeat_ticks as u64 } else { 1 };
        for _ in 0..missed.clamp(1, most.max(1)) {
            if self.phase == Phase::Member && !self.verification.holds_raft() {
                self.raw.tick();
            }
        }
        self.tend_verification()?;
        self.discover_commit();
        self.tell_digests();
        self.tell_space();
        self.tend_stands();
        self.tend_lag();
        self.expire_requests();
        self.expire_reads();
        self.expire_membership();
        self.tend_adoption()?;
        self.announce_addresses()
    }

    /// Whether another turn has something to do even if nothing comes in.
    #[must_use]
    pub fn has_work(&self) -> bool {
        (self.phase != Phase::Removed && self.raw.has_ready())
            || !self.committed.is_empty()
            || self.any_proposable()
            || self.any_read_ready()
    }

    /// A sum over everything that was applied: equal on all nodes at the same applied index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.machine.digest()
    }

    /// Takes one input in at the time `now`, which is that of the call: inputs may have waited for a disk or for a process
    /// that was stopped. The consequences are drawn by the next [`Driver::turn`].
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn handle(&mut self, now: Millis, input: Input) -> Result<(), Error> {
        self.at(now);
        match input {
            Input::Request { request, deadline, hop, to, reply } => {
                let waiting = super::requests::Waiting { request, deadline, hop, doubt: false, reply };
                self.take_request(waiting, to);
            }
            Input::Read { key, consistency, bounds, deadline, reply } => {
                self.read(Reader { wanted: Wanted::Key { key, reply }, consistency, bounds, deadline })?;
            }
            Input::List { list, consistency, bounds, deadline, reply } => {
                self.read(Reader { wanted: Wanted::Page { list, reply }, consistency, bounds, deadline })?;
            }
            Input::Snapshot { deadline, reply } => self.snapshot_now(deadline, reply),
            Input::Status { reply } => reply(self.status()),
            Input::WhoAmI { reply } => reply(self.who_am_i()),
            Input::Stop { deadline } => self.stop(deadline),
            Input::Begin => self.begin()?,
            Input::Step(message) => self.step_checked(*message)?,
            Input::Counted { input, .. } => self.handle(now, *input)?,
            Input::PeerUp(raft_id) => self.identity_agreed(raft_id),
            Input::PeerDown(raft_id) => self.peer_down(raft_id),
            Input::Heard { from, follows } => self.heard(from, follows),
            Input::Forwarded { token, result } => self.forward_ended(token, result),
            Input::Identified { token, result } => self.identified(token, result)?,
            Input::AdoptAnswered { token, result } => self.adopt_answered(token, result),
            Input::Adopt { adopt, reply } => self.adopt(adopt, reply),
            Input::Removed { cluster_id, raft_id } => self.told_removed(cluster_id, raft_id)?,
            Input::Probe { probe, reply } => self.answer_probe(probe, reply)?,
            Input::Probed { token, result } => self.probed(token, result)?,
            Input::Digest { from, told } => self.told_digest(from, told)?,
            Input::Space { from, space } => self.told_space(from, space),
            Input::JoinEnded { cluster_id, raft_id } => self.told_join_ended(cluster_id, raft_id),
            Input::IdentityConflict { raft_id, of_this_node, detail } => {
                self.identity_conflict(raft_id, of_this_node, detail);
            }
            Input::Receive { from, reply } => self.receive(from, reply),
            Input::Install { message, received, reply } => self.install(*message, received, reply)?,
            Input::StreamEnded { to, result } => self.stream_ended(to, result),
            Input::Synced { mark, result } => self.machine_synced(mark, result)?,
            Input::Scanned { token, result } => self.scanned(token, result)?,
        }
        Ok(())
    }

    /// Whether the loop may end: it was told to stop, and nothing is left to wait for.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop_by.is_some_and(|until| {
            let leads_others = self.leads() && self.successor().is_some() && self.phase == Phase::Member;
            self.now >= until || !(leads_others || self.requests.any_undecided())
        })
    }

    /// Answers whoever still waits and makes everything durable.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.refuse_everything(super::requests::stopping);
        self.machine.abort_cut();
        self.raw.mut_store().journal.sync()?;
        self.machine.db()?.sync()
    }

    fn stop(&mut self, deadline: Millis) {
        self.stop_by = Some(deadline);
        self.refuse_undispatched(super::requests::stopping);
        if self.leads()
            && let Some(successor) = self.successor()
        {
            info!(self.log, "handing leadership over before stopping"; "to" => self.name_of(successor));
            self.raw.transfer_leader(successor);
        }
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.phase == Phase::Forming {
            self.volume.update(|identity| identity.formed = true)?;
            self.phase = Phase::Member;
            info!(self.log, "beginning a cluster"; "cluster_id" => self.volume.identity().cluster_id);
            self.campaign_if_alone();
        }
        Ok(())
    }

    pub(super) fn step(&mut self, message: Message) -> Result<(), Error> {
        if !matches!(self.phase, Phase::Member | Phase::Joining) {
            return Ok(());
        }
        if message.to != self.raft_id() {
            // It was meant for an incarnation that this node has given up meanwhile.
            return Ok(());
        }
        let from = message.from;
        if self.machine.members().is_tombstone(from) {
            self.outbox.tell_removed(from);
            return Ok(());
        }
        if !self.believes(&message)? {
            return Ok(());
        }
        self.contact.insert(from, self.now);
        let for_leaders = matches!(message.get_msg_type(), MessageType::MsgReadIndex | MessageType::MsgTransferLeader);
        if for_leaders && !self.leads() {
            // Raft would pass it on under the sender's id, which no peer believes; the sender asks again by itself.
            return Ok(());
        }
        if let Err(error) = self.raw.step(message) {
            slog::debug!(self.log, "raft did not take a message"; "from" => from, "error" => %error);
        }
        if self.raw.raft.leader_id == from {
            self.leader_seen = Some(self.now);
        }
        Ok(())
    }

    /// Follows a change of role, term or leader up.
    pub(super) fn role_changed(&mut self) {
        self.led_since = if self.leads() { self.led_since.or(Some(self.now)) } else { None };
        self.lag.leader_changes();
        self.repeat_read_index();
        self.unpark();
    }

    pub(super) fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }
}
