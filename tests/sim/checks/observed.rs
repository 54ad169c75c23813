//! What is known of the whole cluster.

use std::collections::{BTreeMap, BTreeSet};

use huskv::model::{MemberChange, Request, Role};

use crate::checks::journal::Entry;

/// What is known of the whole cluster.
#[derive(Default)]
pub struct Observed {
    /// Who led which term.
    pub leaders: BTreeMap<u64, u64>,
    /// What the store looked like at an applied index, on whichever node got there first.
    pub states: BTreeMap<u64, u64>,
    /// The entry that was applied at an index, and the hash of it and of all before it that are known.
    pub applied: BTreeMap<u64, Entry>,
    /// When the entry at an index was first applied.
    pub applied_at: BTreeMap<u64, u64>,
    /// Where a client's write was applied, and when first.
    pub operations: BTreeMap<u64, (u64, u64)>,
    /// Raft ids that any node has ever known to be removed.
    pub tombstones: BTreeSet<u64>,
    /// Raft ids that nodes have taken on because a leader asked them to.
    pub adopted: BTreeSet<u64>,
    /// Writes whose clients were told that they were not applied.
    pub refused: BTreeSet<u64>,
    /// All raft ids that any node ever had.
    pub ids: BTreeSet<u64>,
    /// By when each write was to be proposed: the latest that any of its clients waits.
    pub deadlines: BTreeMap<u64, u64>,
    /// When each membership entry was proposed, by index and term.
    pub changes: BTreeMap<(u64, u64), (u64, MemberChange)>,
    /// The name of each member that there ever was.
    pub names: BTreeMap<u64, String>,
    /// Membership requests that were refused as not applied.
    pub refused_changes: Vec<RefusedChange>,
}

/// A membership request that was refused as not applied: from the moment that it was asked to the next one about the same
/// name no entry that is applied may have been proposed for it.
pub struct RefusedChange {
    pub request: Request,
    pub name: String,
    pub asked: u64,
    pub next: u64,
}

impl Observed {
    /// The cluster's time, as the latest of the entries that are known to be applied say.
    pub fn clock(&self) -> u64 {
        let stamps = self.applied.values().filter_map(|entry| Some(entry.proposal.as_deref()?.stamp));
        stamps.max().unwrap_or(0)
    }

    /// The greatest index that any node had applied at a moment, as far as that is known.
    pub fn applied_by(&self, moment: u64) -> u64 {
        let by = self.applied_at.iter().rev().find(|(_, at)| **at <= moment);
        by.map_or(0, |(index, _)| *index)
    }

    /// Whether a client's write is known to be applied.
    pub fn was_applied(&self, operation: u64) -> bool {
        self.operations.contains_key(&operation)
    }

    /// A refusal that was not true.
    pub fn false_refusal(&self) -> Option<String> {
        self.refused_changes.iter().find_map(|refused| {
            let ((index, _), (at, change)) = self.changes.iter().find(|((index, term), (at, change))| {
                let is_applied = self.applied.get(index).is_some_and(|entry| entry.term == *term);
                let about = match change {
                    MemberChange::Set(member) if member.role == Role::Learner => Some(&member.name),
                    // Any leader promotes any learner that has caught up.
                    MemberChange::Set(_) => None,
                    MemberChange::Remove { raft_id } => self.names.get(raft_id),
                };
                is_applied && (refused.asked..refused.next).contains(at) && about == Some(&refused.name)
            })?;
            let request = &refused.request;
            Some(format!("{request:?} was refused as not applied, and entry {index}, proposed at {at}, is {change:?}"))
        })
    }
}
