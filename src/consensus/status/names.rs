//! Who this node is, who leads and who the peers are, as the driver knows it.
//!
//! Not here: how the node is (`status`).

use std::collections::BTreeSet;

use raft::StateRole;
use raft::eraftpb::ConfState;

use crate::consensus::driver::{Driver, Phase};
use crate::model::PeerTable;

impl Driver {
    /// Whether raft counts votes by the configuration that is stored, which must be so between any two turns; for tests.
    #[must_use]
    pub fn configuration_agrees(&self) -> bool {
        let sets = |is: &ConfState| {
            let sorted = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<_>>();
            [is.get_voters(), is.get_learners(), is.get_voters_outgoing(), is.get_learners_next()].map(sorted)
        };
        let stored = &self.raw.store().conf_state;
        self.phase == Phase::Removed
            || (sets(&self.raw.raft.prs().conf().to_conf_state()) == sets(stored)
                && sets(self.state_machine.conf_state()) == sets(stored))
    }

    /// Tells the transport who this node is and who its peers are.
    pub(crate) fn publish(&mut self) {
        let me = self.raft_id();
        let members = self.state_machine.members();
        self.outbox.publish(PeerTable {
            node_id: self.my_name(),
            raft_id: me,
            cluster_id: self.data_dir.identity().cluster_id,
            raft_address: self.options.raft_address.clone(),
            peers: members
                .iter()
                .filter(|member| member.raft_id != me)
                .map(|member| (member.raft_id, member.name.clone(), member.raft_address.clone()))
                .collect(),
            tombstones: members.tombstones().collect(),
            removed: self.phase == Phase::Removed,
            lives: self.data_dir.identity().lives.clone(),
            moved: self.has_moved(),
            follow_moves: self.options.follow_moves,
        });
    }

    pub(crate) fn raft_id(&self) -> u64 {
        self.raw.raft.id
    }

    pub(crate) fn leads(&self) -> bool {
        self.phase != Phase::Removed && self.raw.raft.state == StateRole::Leader
    }

    pub(crate) fn conf_voters(&self) -> &[u64] {
        self.raw.store().conf_state.get_voters()
    }

    pub(crate) fn my_name(&self) -> String {
        self.state_machine
            .members()
            .get(self.raft_id())
            .map_or_else(|| self.data_dir.identity().started_as.clone(), |member| member.name.clone())
    }

    /// A member's name for messages; its number where it has none.
    pub(crate) fn name_of(&self, raft_id: u64) -> String {
        self.state_machine.members().get(raft_id).map_or_else(|| raft_id.to_string(), |member| member.name.clone())
    }
}
