//! Status, names, change feed, pages and digest: one consistent view of the node between two turns.
//!
//! See also: `http::api::status_json` (how it is written out).

use std::collections::BTreeSet;
use std::sync::Arc;

use raft::eraftpb::ConfState;

use super::Driver;
use super::split_borrows::view;
use crate::changefeed::{ChangeFeed, FeedStatus};
use crate::consensus::core::Phase;
use crate::consensus::core::role_name::state;
use crate::consensus::handle::{Names, Readiness};
use crate::model::{Code, DiskSpace, List, MemberStatus, Page, Refusal, Role, State, Status, Voters, mib};
use crate::storage::{self, Error};
use crate::telemetry::metrics::{NodeState, PeerState};
use crate::telemetry::node_events::NodeEvents;

impl Driver {
    /// Returns the change feed, with the events of what this node applies from its start on.
    #[must_use]
    pub fn feed(&self) -> &Arc<ChangeFeed> {
        &self.core.feed
    }

    /// Returns the events of this node.
    #[must_use]
    pub fn events(&self) -> &Arc<NodeEvents> {
        &self.core.events
    }

    /// Reads a page of the applied state, without ReadIndex.
    ///
    /// # Errors
    /// [`Error`] for damage.
    pub fn list(&self, list: &List) -> Result<Page, Error> {
        self.core.state_machine.list(list)
    }

    /// Returns the applied index that the tree has durably.
    #[must_use]
    pub fn flushed(&self) -> u64 {
        self.core.state_machine.flushed()
    }

    /// Returns the digest of the applied state: equal on all nodes at the same applied index.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.core.state_machine.digest()
    }

    /// Returns why this node takes no requests now; None if it does.
    pub(crate) fn not_ready(&self) -> Option<Refusal> {
        let why = self
            .unavailable()
            .or_else(|| self.live.leaderless(&self.core))
            .or_else(|| self.lag.lagging(&self.core))
            .or_else(|| self.lag.starting(&self.core))?;
        let leader = why.leader.clone().or_else(|| self.core.leader());
        Some(Refusal { leader, ..why })
    }

    /// Returns what the checks of readiness find.
    pub(crate) fn readiness(&self) -> Readiness {
        let joined = self.outside_of_cluster().or_else(|| self.verification.refusal());
        let leader = self.outside_of_cluster().or_else(|| self.live.leaderless(&self.core));
        let read_index = joined.clone().or_else(|| leader.clone()).or_else(|| self.lag.lagging(&self.core));
        let behind = self.lag.unapplied(&self.core).or_else(|| self.lag.starting(&self.core));
        let applied = behind.or_else(|| self.apply_lag.refusal(&self.core));
        let space = self.core.own_space().filter(|space| space.is_nearly_full());
        let disk = space.map(|space| {
            let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
            let detail = format!("the disk has {free} free, and {reserve} are to be kept (storage.reserve_mb)");
            Refusal::not_applied(Code::DiskNearlyFull, detail)
        });
        Readiness { joined, leader, read_index, applied, disk }
    }

    pub(crate) fn status(&self) -> Status {
        let raft = &self.core.raw.raft;
        let journal = &self.core.raw.store().journal;
        let (applied_index, applied_term) = self.core.state_machine.applied();
        let (last_snapshot_index, last_snapshot_term) = journal.checkpoint();
        let last_log_index = raft.raft_log.last_index();
        let in_cluster = self.core.phase == Phase::Member;
        let since = |id: u64| self.live.contact.get(&id).map(|heard| self.core.now.saturating_sub(*heard));
        Status {
            node_id: self.core.my_name(),
            raft_id: self.core.raft_id(),
            cluster_id: self.core.data_dir.identity().cluster_id,
            state: if in_cluster { state(raft.state) } else { State::Follower },
            leader: if in_cluster { self.core.leader() } else { None },
            term: raft.term,
            last_log_index,
            last_log_term: raft.raft_log.term(last_log_index).unwrap_or(0),
            commit_index: raft.raft_log.committed,
            applied_index,
            applied_term,
            fsm_pending: raft.raft_log.committed.saturating_sub(applied_index),
            last_snapshot_index,
            last_snapshot_term,
            configuration_index: self.core.state_machine.configuration_index(),
            last_contact_ms: if self.core.leads() { Some(0) } else { since(raft.leader_id) },
            keys: self.core.state_machine.keys(),
            disk_syncs: storage::syncs(),
            members: self.core.state_machine.members().iter().map(|member| self.member_status(member)).collect(),
            removed: self.core.phase == Phase::Removed,
            joining: self.core.phase == Phase::Joining,
            previous: self.joiner.previous_status(&self.core, &self.live),
            forming: self.core.phase == Phase::Forming,
            verifying: self.verification.words(),
            identity_conflicts: self.identities.identity_conflicts(&self.core),
            not_ready: self.not_ready(),
        }
    }

    /// Returns the names of this node, the leader and the members; `before` is what was published last.
    #[must_use]
    pub fn names(&self, before: &Names) -> Names {
        let follows = if self.core.phase == Phase::Member { self.core.raw.raft.leader_id } else { 0 };
        let (cluster_id, table) =
            (self.core.data_dir.identity().cluster_id, self.core.state_machine.configuration_index());
        // The table changes seldom, and this is asked after every turn.
        let is_same = (before.cluster_id, before.table) == (cluster_id, table);
        let hosts = if is_same { Arc::clone(&before.hosts) } else { Arc::new(self.member_hosts()) };
        let leader = self.core.leader().map(|leader| leader.node_id);
        let believable_term = Some(self.term_bound.believable_term(&self.core));
        let readiness = self.readiness();
        let in_no_cluster = matches!(self.core.phase, Phase::Joining | Phase::Forming);
        Names {
            node: self.core.my_name(),
            leader,
            follows,
            believable_term,
            in_no_cluster,
            cluster_id,
            hosts,
            table,
            readiness,
        }
    }

    /// Returns the figures of the node.
    #[must_use]
    pub fn figures(&self) -> NodeState {
        let (raft, leads, me) = (&self.core.raw.raft, self.core.leads(), self.core.raft_id());
        let state_machine = &self.core.state_machine;
        let members: Vec<_> = state_machine.members().iter().map(|member| self.member_status(member)).collect();
        let voters = Voters::among(&members);
        let own = members.iter().find(|member| member.raft_id == me);
        // A joiner has the member table only with the snapshot.
        let is_learner = own.is_some_and(|member| member.role == Role::Learner) || self.core.phase == Phase::Joining;
        let options = &self.core.options;
        let raft_address = own.map_or(&options.raft_address, |member| &member.raft_address).clone();
        let http_address = own.map_or(&options.http_address, |member| &member.http_address).clone();
        let last_index = raft.raft_log.last_index();
        let space = self.core.free_space();
        let peers = members.into_iter().filter(|member| member.raft_id != me).map(|member| {
            // A new leader begins with 0, and learns it from the first answer.
            let match_index = member.match_index.filter(|matched| *matched > 0);
            PeerState {
                name: member.node_id,
                raft_id: member.raft_id,
                is_learner: member.role == Role::Learner,
                raft_address: member.raft_address,
                http_address: member.http_address,
                free_bytes: member.disk.map(|space| space.free_bytes),
                is_disk_nearly_full: member.disk.is_some_and(DiskSpace::is_nearly_full),
                is_disk_below_floor: member.disk.is_some_and(DiskSpace::is_below_floor),
                match_index,
                lag_entries: match_index.map(|matched| last_index.saturating_sub(matched)),
            }
        });
        NodeState {
            cluster_id: self.core.data_dir.identity().cluster_id,
            node: self.core.my_name(),
            raft_id: me,
            is_member: self.core.phase == Phase::Member,
            raft_address,
            http_address,
            has_leader: self.core.phase == Phase::Member && raft.leader_id != 0,
            is_leader: leads,
            is_learner,
            is_candidate: self.core.phase == Phase::Member && state(raft.state) == State::Candidate,
            leader_changes: self.leader_changes,
            term: raft.term,
            last_index,
            committed_index: raft.raft_log.committed,
            applied_index: self.core.applied(),
            snapshot_index: self.core.raw.store().journal.checkpoint().0,
            voters: voters.count as u64,
            failure_tolerance: leads.then_some(voters.failure_tolerance as u64),
            peers: peers.collect(),
            keys: state_machine.keys(),
            size_bytes: state_machine.live_bytes(),
            ttl_keys: state_machine.ttl_keys(),
            free_bytes: space.map(|space| space.free_bytes),
            reserve_bytes: space.map(|space| space.reserve_bytes),
            is_disk_nearly_full: self.core.own_space().is_some_and(DiskSpace::is_nearly_full),
            is_disk_below_floor: self.core.own_space().is_some_and(DiskSpace::is_below_floor),
            pending: self.proposals.len() as u64,
            wal_write_bytes: self.core.wal_write_bytes(),
            ttl_expired: self.ttl_expired,
            state_hash_mismatches: self.state_hash_mismatches,
        }
    }

    fn member_hosts(&self) -> BTreeSet<String> {
        let addresses =
            self.core.state_machine.members().iter().flat_map(|member| [&member.raft_address, &member.http_address]);
        let hosts = addresses.filter_map(|address| Some(address.rsplit_once(':')?.0.trim_matches(['[', ']'])));
        hosts.map(str::to_ascii_lowercase).collect()
    }

    /// The status line of the change feed.
    pub(crate) fn feed_status(&self) -> FeedStatus {
        FeedStatus {
            term: self.core.raw.raft.term,
            contact_until: self.reads.fresh_as_of(view!(self)).map_or(0, |as_of| as_of + self.core.election_timeout()),
            refusal: self.no_member(),
        }
    }

    fn member_status(&self, member: &crate::model::Member) -> MemberStatus {
        let me = member.raft_id == self.core.raft_id();
        let heard = self.live.contact.get(&member.raft_id).map(|heard| self.core.now.saturating_sub(*heard));
        let matched = self.core.raw.raft.prs().get(member.raft_id).map(|progress| progress.matched);
        // A node that waits for its cluster shows what it would be found under, and not what an earlier start said.
        let own = me && self.core.phase == Phase::Forming;
        let address = |table: &String, own_word: &String| if own { own_word.clone() } else { table.clone() };
        MemberStatus {
            node_id: member.name.clone(),
            raft_id: member.raft_id,
            raft_address: address(&member.raft_address, &self.core.options.raft_address),
            http_address: address(&member.http_address, &self.core.options.http_address),
            role: member.role,
            heard_ms: self.live.heard_ms(&self.core, member.raft_id),
            connected: self.live.hears(&self.core, member.raft_id),
            match_index: matched.filter(|_| self.core.leads()),
            last_contact_ms: if me { Some(0) } else { heard }.filter(|_| self.core.leads()),
            disk: self.voter_disk_space.space_of(&self.core, member.raft_id),
        }
    }

    /// Whether raft's configuration is the stored one, as it must be between two turns; for tests.
    #[must_use]
    pub fn configuration_agrees(&self) -> bool {
        let sets = |is: &ConfState| {
            let sorted = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
            [is.get_voters(), is.get_learners(), is.get_voters_outgoing(), is.get_learners_next()].map(sorted)
        };
        let stored = &self.core.raw.store().conf_state;
        self.core.phase == Phase::Removed
            || (sets(&self.core.raw.raft.prs().conf().to_conf_state()) == sets(stored)
                && sets(self.core.state_machine.conf_state()) == sets(stored))
    }
}
