//! Peer liveness: which members were heard when, whether the live voters are a quorum, and the route to a leader that
//! this node does not reach.
//!
//! Why: raft's followers hear only their leader. A node whose link to the leader is cut while the others go on must
//! report that instead of a lost majority, and can still bring writes to the leader through a member that reaches it.
//!
//! Invariants: `contact` (raft messages) alone decides whether a member is live for a quorum check; what members say of
//! themselves decides no vote, no quorum and no read. A request is relayed at most once ([`Hop`]), only to a voter that
//! has just said that it follows a leader, and only after the time in which all would have given a failed leader up.
//! Reads are not relayed: what they would show is not applied here.
//!
//! See also: `peers_leaders` (the reports and how long they hold), `outage_errors` (error texts), `core` (below this one).

pub(crate) mod apply_lag;
pub(crate) mod identity_conflicts;
pub(crate) mod leader_history;
mod outage_errors;
pub(crate) mod peers_leaders;
pub(crate) mod readiness;
pub(crate) mod stalled_followers;

use std::collections::BTreeMap;

use super::core::Core;
use super::input::Hop;
use crate::model::{Code, Millis, Refusal, Request};
use peers_leaders::{HEARD_WITHIN, PeerContact};

/// When members were last heard.
#[derive(Default)]
pub(crate) struct Liveness {
    /// When each peer last sent a raft message.
    pub contact: BTreeMap<u64, Millis>,
    /// What peers report of themselves, beside raft messages.
    pub peers: PeerContact,
    /// Since when this node leads.
    pub led_since: Option<Millis>,
    /// When a leader was last heard, or this node last led.
    pub leader_seen: Option<Millis>,
}

impl Liveness {
    /// Notes a raft message of a peer.
    pub fn contacted(&mut self, core: &Core, from: u64) {
        self.contact.insert(from, core.now);
    }

    /// Drops what is known of a member that was removed.
    pub fn forget(&mut self, raft_id: u64) {
        self.contact.remove(&raft_id);
        self.peers.forget(raft_id);
    }

    /// How long ago a peer sent a raft message; None if never.
    pub fn contact_ms(&self, core: &Core, raft_id: u64) -> Option<Millis> {
        self.contact.get(&raft_id).map(|heard| core.now.saturating_sub(*heard))
    }

    /// Whether this node leads so shortly that live members may not have been heard yet.
    pub fn is_settling(&self, core: &Core) -> bool {
        self.led_since.is_some_and(|since| core.now < since + core.election_timeout())
    }

    /// Whether a member was heard within an election timeout.
    pub fn is_live(&self, core: &Core, raft_id: u64) -> bool {
        raft_id == core.raft_id()
            || self.contact.get(&raft_id).is_some_and(|heard| core.now < heard + core.election_timeout())
    }

    /// Refuses a configuration in which the live voters are no quorum, before or after the change.
    pub fn check_quorum(&self, core: &Core, after: &[u64]) -> Result<(), Refusal> {
        // Three voters, n3 silent. Remove n3: before, two of three are live; after, two of two. Allowed. Remove n2: after,
        // n1 and n3 are left, of which one is live where two are needed. Refused.
        for voters in [core.conf_voters(), after] {
            let (live, dead): (Vec<u64>, Vec<u64>) = voters.iter().partition(|id| self.is_live(core, **id));
            let quorum = voters.len() / 2 + 1;
            if live.len() < quorum {
                let dead = dead.into_iter().map(|id| core.name_of(id)).collect::<Vec<_>>().join(", ");
                return Err(Refusal::not_applied(
                    Code::QuorumLoss,
                    format!(
                        "of {} voters {quorum} must be alive, and {} would be: {dead} cannot be heard. Start it again first",
                        voters.len(),
                        live.len()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The live voter, other than this node, that has most of the log.
    pub fn successor(&self, core: &Core) -> Option<u64> {
        let me = core.raft_id();
        let live = core.conf_voters().iter().copied().filter(|id| *id != me && self.is_live(core, *id));
        live.max_by_key(|id| core.raw.raft.prs().get(*id).map_or(0, |progress| progress.matched))
    }

    /// Whether there has been no leader for longer than an election among members that hear each other takes.
    pub fn is_leaderless_for_long(&self, core: &Core) -> bool {
        self.peers.is_cut_off(core.election_timeout(), core.now)
    }

    /// How long ago the member was heard; None if never, 0 for this node.
    pub fn heard_ms(&self, core: &Core, raft_id: u64) -> Option<Millis> {
        if raft_id == core.raft_id() {
            return Some(0);
        }
        let said = self.peers.heard_at(raft_id);
        let heard = said.max(self.contact.get(&raft_id).copied());
        heard.map(|at| core.now.saturating_sub(at))
    }

    /// Whether the member counts as heard.
    pub fn hears(&self, core: &Core, raft_id: u64) -> bool {
        self.heard_ms(core, raft_id).is_some_and(|ms| ms < HEARD_WITHIN.max(core.election_timeout()))
    }

    /// A peer is there, and follows this leader; one that is in no table here has no place in the list either.
    pub fn heard(&mut self, core: &Core, from: u64, follows: u64) {
        if core.state_machine.members().get(from).is_some() {
            self.peers.heard(from, follows, core.now);
        }
    }

    /// Notes whether there is a leader.
    pub fn note_leader(&mut self, core: &Core) {
        self.peers.note_leader(core.raw.raft.leader_id != 0, core.now);
    }

    /// A request came back from this member and was not applied.
    pub fn note_no_way(&mut self, core: &Core, to: u64) {
        self.peers.note_no_way(to, core.raw.raft.leader_id, core.now);
    }

    /// Where a request goes that this node cannot carry out, and as what.
    pub fn way_to_leader(&mut self, core: &Core, hop: Hop, request: &Request) -> Option<(u64, Hop)> {
        let leader = core.raw.raft.leader_id;
        let known = leader != 0 && leader != core.raft_id();
        let direct = known.then_some((leader, Hop::Leader));
        match hop {
            Hop::Leader => None,
            Hop::Relay => direct,
            Hop::Client if known && !self.peers.is_unreached(leader, core.now) => direct,
            Hop::Client => {
                // A membership change is answered once this node has applied it, which takes a leader that it hears.
                // A write may go through a relay even where this node knows no leader: n3 is cut off from the leader n1, and
                // n2 follows n1.
                let cut_off = self.is_leaderless_for_long(core);
                let may = known || cut_off && matches!(request, Request::Write(_));
                self.relay(core).filter(|_| may).map(|relay| (relay, Hop::Relay)).or(direct)
            }
        }
    }

    fn relay(&mut self, core: &Core) -> Option<u64> {
        let relays = self.peers.relays(core.conf_voters(), core.raft_id(), core.raw.raft.leader_id, core.now);
        let turn = self.peers.next_turn();
        relays.get(turn % relays.len().max(1)).copied()
    }
}
