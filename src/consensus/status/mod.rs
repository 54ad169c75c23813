//! One consistent look at the node, between two turns.
//!
//! Not here: how it is written out (`http::api::stats`).

pub(crate) mod names;
pub(crate) mod single_flight;

use std::collections::BTreeSet;
use std::sync::Arc;

use raft::StateRole;

use super::driver::{Driver, Phase};
use super::handle::Names;
use crate::changefeed::FeedStatus;
use crate::model::{Leader, MemberStatus, State, Status};
use crate::storage;

/// Raft's role in hashicorp/raft's words.
pub(crate) fn state(role: StateRole) -> State {
    match role {
        StateRole::Leader => State::Leader,
        StateRole::Follower => State::Follower,
        StateRole::Candidate | StateRole::PreCandidate => State::Candidate,
    }
}

impl Driver {
    pub(crate) fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let journal = &self.raw.store().journal;
        let (applied_index, applied_term) = self.state_machine.applied();
        let (last_snapshot_index, last_snapshot_term) = journal.snapshot();
        let last_log_index = raft.raft_log.last_index();
        let in_cluster = self.phase == Phase::Member;
        let since = |id: u64| self.contact.get(&id).map(|heard| self.now.saturating_sub(*heard));
        Status {
            node_id: self.my_name(),
            raft_id: self.raft_id(),
            cluster_id: self.data_dir.identity().cluster_id,
            state: if in_cluster { state(raft.state) } else { State::Follower },
            leader: if in_cluster { self.leader() } else { None },
            term: raft.term,
            last_log_index,
            last_log_term: raft.raft_log.term(last_log_index).unwrap_or(0),
            commit_index: raft.raft_log.committed,
            applied_index,
            applied_term,
            fsm_pending: raft.raft_log.committed.saturating_sub(applied_index),
            last_snapshot_index,
            last_snapshot_term,
            configuration_index: self.state_machine.configuration_index(),
            last_contact_ms: if self.leads() { Some(0) } else { since(raft.leader_id) },
            keys: self.state_machine.keys(),
            disk_syncs: storage::syncs(),
            members: self.state_machine.members().iter().map(|member| self.member_status(member)).collect(),
            removed: self.phase == Phase::Removed,
            joining: self.phase == Phase::Joining,
            previous: self.previous_status(),
            forming: self.phase == Phase::Forming,
            verifying: self.verification.words(),
            identity_conflicts: self.identity_conflicts(),
            not_ready: self.not_ready(),
        }
    }

    /// Who leads, where this node knows it and has it in its table.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let member = self.state_machine.members().get(self.raw.raft.leader_id)?;
        Some(Leader { node_id: member.name.clone(), http_address: member.http_address.clone() })
    }

    /// Who this node is, who leads and who is a member, for those who answer clients and for peers; `before` is what was told last.
    #[must_use]
    pub fn names(&self, before: &Names) -> Names {
        let follows = if self.phase == Phase::Member { self.raw.raft.leader_id } else { 0 };
        let (cluster_id, table) = (self.data_dir.identity().cluster_id, self.state_machine.configuration_index());
        // The table changes seldom, and this is asked after every turn.
        let is_same = (before.cluster_id, before.table) == (cluster_id, table);
        let hosts = if is_same { Arc::clone(&before.hosts) } else { Arc::new(self.member_hosts()) };
        let leader = self.leader().map(|leader| leader.node_id);
        let believable_term = Some(self.believable_term());
        let not_ready = self.not_ready();
        let in_no_cluster = matches!(self.phase, Phase::Joining | Phase::Forming);
        Names {
            node: self.my_name(),
            leader,
            follows,
            believable_term,
            in_no_cluster,
            cluster_id,
            hosts,
            table,
            not_ready,
        }
    }

    fn member_hosts(&self) -> BTreeSet<String> {
        let addresses =
            self.state_machine.members().iter().flat_map(|member| [&member.raft_address, &member.http_address]);
        let hosts = addresses.filter_map(|address| Some(address.rsplit_once(':')?.0.trim_matches(['[', ']'])));
        hosts.map(str::to_ascii_lowercase).collect()
    }

    /// How the node is, for those who watch.
    pub(crate) fn footing(&self) -> FeedStatus {
        FeedStatus {
            term: self.raw.raft.term,
            in_touch_until: self.fresh_as_of().map_or(0, |as_of| as_of + self.election_timeout()),
            refusal: self.no_member(),
        }
    }

    fn member_status(&self, member: &crate::model::Member) -> MemberStatus {
        let me = member.raft_id == self.raft_id();
        let heard = self.contact.get(&member.raft_id).map(|heard| self.now.saturating_sub(*heard));
        let matched = self.raw.raft.prs().get(member.raft_id).map(|progress| progress.matched);
        // A node that waits for its cluster shows what it would be found under, and not what an earlier start said.
        let own = me && self.phase == Phase::Forming;
        let address = |table: &String, own_word: &String| if own { own_word.clone() } else { table.clone() };
        MemberStatus {
            node_id: member.name.clone(),
            raft_id: member.raft_id,
            raft_address: address(&member.raft_address, &self.options.raft_address),
            http_address: address(&member.http_address, &self.options.http_address),
            role: member.role,
            heard_ms: self.heard_ms(member.raft_id),
            connected: self.hears(member.raft_id),
            match_index: matched.filter(|_| self.leads()),
            last_contact_ms: if me { Some(0) } else { heard }.filter(|_| self.leads()),
            disk: self.space_of(member.raft_id),
        }
    }
}
