//! The member table: names, addresses and roles of the members, and tombstones of removed raft ids.
//!
//! Why: raft knows members only as numbers. Names and addresses are replicated data and change by log entries only, so every
//! node that has applied the same index has the same table.
//!
//! Invariants: a removed raft id becomes a tombstone and is never a member again (Raft thesis, section 4.4: a server that
//! lost its disk is a new server). A name belongs to one member at a time. The latest [`TOMBSTONES`] removed ids are kept.
//! An older one is unknown instead of removed: it cannot vote either, only the error that its process gets is less exact.
//! Raft ids are random, so uniqueness does not depend on the tombstones.
//!
//! See also: `consensus::membership` (liveness and changes), `raft::eraftpb::ConfState` (the voters).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The maximum raft id: JSON readers round numbers from 2^53.
pub const MAX_RAFT_ID: u64 = (1 << 53) - 1;

/// The number of tombstones: 8 KiB in the table, in each snapshot and in each join offer.
pub const TOMBSTONES: usize = 1024;

/// The role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Votes and counts for the quorum.
    Voter,
    /// Receives the log without a vote; a joiner until it has caught up (Raft thesis, section 4.2.1).
    Learner,
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, unique among the members.
    pub name: String,
    /// The raft id of its present incarnation, from 1 to [`MAX_RAFT_ID`].
    pub raft_id: u64,
    /// Its peer address, `host:port`.
    pub raft_address: String,
    /// Its client address, `host:port`.
    pub http_address: String,
    /// Voter or learner.
    pub role: Role,
}

/// The change of the member table by a configuration entry; in the context of the entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Adds the member, or changes the role of an existing one.
    Set(Member),
    /// Removes the member; its id becomes a tombstone.
    Remove {
        /// Its raft id.
        raft_id: u64,
    },
}

/// The member table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    members: BTreeMap<u64, Member>,
    /// In log order.
    tombstones: Vec<u64>,
}

impl Members {
    /// Applies a committed change. For an existing member a `Set` changes only the role: its addresses may have changed
    /// since the proposal.
    pub fn apply(&mut self, change: &MemberChange) {
        match change {
            MemberChange::Set(member) => {
                // The proposal may carry an older address. Example: the leader proposes to promote `a` at x:1; before that
                // entry comes the entry by which `a` moved to y:1. Taking the whole row would move `a` back to an address
                // where nothing listens.
                let row = self.members.entry(member.raft_id).or_insert_with(|| member.clone());
                row.role = member.role;
            }
            MemberChange::Remove { raft_id } => {
                self.members.remove(raft_id);
                // Once is enough: a duplicate would push an older tombstone out of the table.
                if !self.is_tombstone(*raft_id) {
                    self.tombstones.push(*raft_id);
                }
                // Drops the earliest beyond the limit. The order is that of the log, so all nodes drop the same ones.
                self.tombstones.drain(..self.tombstones.len().saturating_sub(TOMBSTONES));
            }
        }
    }

    /// Replaces the addresses of a member; false if there is no such member.
    pub fn update_addresses(&mut self, raft_id: u64, raft_address: &str, http_address: &str) -> bool {
        let Some(member) = self.members.get_mut(&raft_id) else { return false };
        raft_address.clone_into(&mut member.raft_address);
        http_address.clone_into(&mut member.http_address);
        true
    }

    /// Returns the member with this raft id.
    #[must_use]
    pub fn get(&self, raft_id: u64) -> Option<&Member> {
        self.members.get(&raft_id)
    }

    /// Returns the member with this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|member| member.name == name)
    }

    /// Returns all members in order of raft ids.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// Returns the number of members, learners included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether the table is empty, as on a joiner before its first snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether this raft id has a tombstone.
    #[must_use]
    pub fn is_tombstone(&self, raft_id: u64) -> bool {
        self.tombstones.contains(&raft_id)
    }

    /// Returns the tombstones, the earliest first.
    pub fn tombstones(&self) -> impl Iterator<Item = u64> {
        self.tombstones.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, raft_id: u64) -> Member {
        Member {
            name: name.into(),
            raft_id,
            raft_address: format!("{name}:1111"),
            http_address: format!("{name}:2221"),
            role: Role::Learner,
        }
    }

    #[test]
    fn a_removed_id_is_a_tombstone_and_its_name_is_free() {
        let mut members = Members::default();
        members.apply(&MemberChange::Set(member("a", 5)));
        members.apply(&MemberChange::Remove { raft_id: 5 });
        assert!(members.is_tombstone(5) && members.named("a").is_none() && members.is_empty());
        members.apply(&MemberChange::Set(member("a", 6)));
        assert_eq!(members.named("a").map(|m| m.raft_id), Some(6));
        assert!(members.is_tombstone(5));
    }

    #[test]
    fn the_latest_tombstones_are_kept_and_no_more() {
        let mut members = Members::default();
        let last = 2 * TOMBSTONES as u64;
        // Removed from the greatest to 1, so the greatest ids are the earliest tombstones; 7 is removed twice more.
        for raft_id in (1..=last).rev().chain([7, 7]) {
            members.apply(&MemberChange::Remove { raft_id });
        }
        assert_eq!(members.tombstones().count(), TOMBSTONES);
        assert!(members.is_tombstone(1) && members.is_tombstone(7) && !members.is_tombstone(last));
        assert_eq!(members.tombstones().last(), Some(1));
    }

    #[test]
    fn a_promotion_keeps_the_addresses_of_a_move_before_it() {
        let mut members = Members::default();
        members.apply(&MemberChange::Set(member("a", 5)));
        members.update_addresses(5, "x:1", "x:2");
        members.apply(&MemberChange::Set(Member { role: Role::Voter, ..member("a", 5) }));
        let row = members.get(5).map(|m| (m.raft_address.as_str(), m.role));
        assert_eq!(row, Some(("x:1", Role::Voter)));
    }

    #[test]
    fn a_move_changes_addresses_only_and_only_of_a_member() {
        let mut members = Members::default();
        members.apply(&MemberChange::Set(member("a", 5)));
        assert!(members.update_addresses(5, "x:1", "x:2"));
        assert!(!members.update_addresses(6, "x:1", "x:2"));
        assert_eq!(members.get(5).map(|m| (m.name.as_str(), m.raft_address.as_str())), Some(("a", "x:1")));
        assert_eq!(members.len(), 1);
    }
}
