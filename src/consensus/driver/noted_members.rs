//! Events about members: who joined, was removed, moved; who is there and who is lost.
//!
//! Invariants: only what differs is noted. A node that stood still itself notes no peer as lost.
//!
//! See also: when a member counts as lost (`liveness`), the member table (`model::Members`).

use std::collections::BTreeMap;

use super::Driver;
use crate::consensus::core::Phase;
use crate::model::{Members, Millis, Role};
use crate::telemetry::node_events::Kind;

/// The members that were there; those that are lost have the time of that.
pub(crate) type Presence = BTreeMap<u64, Option<Millis>>;

impl Driver {
    /// Notes which peers are lost or found.
    pub(super) fn note_peers(&mut self) {
        if self.core.phase != Phase::Member || self.history.has_stalled(&self.core) {
            return;
        }
        let (core, live, me) = (&self.core, &self.live, self.core.raft_id());
        let members = core.state_machine.members();
        self.presence.retain(|raft_id, _| members.get(*raft_id).is_some());
        for member in members.iter().filter(|member| member.raft_id != me) {
            let (is_there, peer) = (live.hears(core, member.raft_id), || member.name.clone());
            match self.presence.get_mut(&member.raft_id) {
                None if is_there => {
                    self.presence.insert(member.raft_id, None);
                    core.note(Kind::PeerFound { peer: peer(), lost_ms: None });
                }
                Some(lost @ None) if !is_there => {
                    let last_contact_ms = live.heard_ms(core, member.raft_id);
                    *lost = Some(core.now.saturating_sub(last_contact_ms.unwrap_or(0)));
                    core.note(Kind::PeerLost { peer: peer(), last_contact_ms });
                }
                Some(lost) if is_there => {
                    if let Some(at) = lost.take() {
                        let lost_ms = Some(core.now.saturating_sub(at));
                        core.note(Kind::PeerFound { peer: peer(), lost_ms });
                    }
                }
                None | Some(_) => {}
            }
        }
    }

    /// Notes an installed snapshot, and what its member table has changed.
    pub(super) fn note_installed(&self, before: &Members, upto: u64) {
        let (from, keys) = (self.core.name_of(self.core.raw.raft.leader_id), self.core.state_machine.keys());
        self.core.note(Kind::SnapshotInstalled { from, upto, keys });
        self.note_members(before);
    }

    /// Notes that this node was removed, where it knows that from others and not from its log.
    pub(super) fn note_own_removal(&self) {
        if self.core.state_machine.members().get(self.core.raft_id()).is_some() {
            self.core.note(Kind::MemberRemoved { member: self.core.my_name() });
        }
    }

    /// Notes what differs from the member table `before`.
    pub(super) fn note_members(&self, before: &Members) {
        // What a restart applies again was noted before it.
        if self.core.applied() <= self.replayed {
            return;
        }
        let now = self.core.state_machine.members();
        for member in now.iter() {
            let name = || member.name.clone();
            match before.get(member.raft_id) {
                None => self.core.note(Kind::MemberJoined {
                    member: name(),
                    role: role(member.role),
                    raft_address: member.raft_address.clone(),
                }),
                Some(was) => {
                    if was.role != member.role && member.role == Role::Voter {
                        self.core.note(Kind::MemberPromoted { member: name() });
                    }
                    if was.raft_address != member.raft_address {
                        let (from, to) = (was.raft_address.clone(), member.raft_address.clone());
                        self.core.note(Kind::MemberMoved { member: name(), from, to });
                    }
                }
            }
        }
        for gone in before.iter().filter(|member| now.get(member.raft_id).is_none()) {
            self.core.note(Kind::MemberRemoved { member: gone.name.clone() });
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Voter => "voter",
        Role::Learner => "learner",
    }
}
