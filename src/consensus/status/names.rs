//! Who this node is, who leads and who the peers are, as the driver knows it.
//!
//! Not here: how the node is (`status`).

use std::collections::BTreeSet;

use raft::eraftpb::ConfState;

use crate::consensus::core::Phase;
use crate::consensus::driver::Driver;

impl Driver {
    /// Whether raft counts votes by the configuration that is stored, which must be so between any two turns; for tests.
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
