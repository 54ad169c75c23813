//! What the checks remember of the whole cluster: entries, states, leaders, identities, answers.

use std::collections::{BTreeMap, BTreeSet};

use huskv::model::{MemberChange, Request, Role};

use crate::checks::journal::Entry;

/// What all nodes together have shown so far.
#[derive(Default)]
pub struct Observed {
    /// The leader of each term.
    pub leaders: BTreeMap<u64, u64>,
    /// The terms in which an impostor has spoken as a leader, which those that it spoke to may take it for.
    pub forged_terms: BTreeSet<u64>,
    /// The hash of the state at an applied index, from the node that got there first.
    pub states: BTreeMap<u64, u64>,
    /// The entry that was applied at an index, from the node that got there first.
    pub applied: BTreeMap<u64, Entry>,
    /// When the entry at an index was first applied.
    pub applied_at: BTreeMap<u64, u64>,
    /// The index at which a client's write was applied, and the moment when the first node did.
    pub operations: BTreeMap<u64, (u64, u64)>,
    /// Raft ids that any node has ever known as removed.
    pub tombstones: BTreeSet<u64>,
    /// Raft ids with which nodes have accepted the join offer of a leader.
    pub joined: BTreeSet<u64>,
    /// Writes that were refused as `not_applied`.
    pub refused: BTreeSet<u64>,
    /// All raft ids that any node has ever had.
    pub ids: BTreeSet<u64>,
    /// The deadline of each write: the latest one, where it was sent more than once.
    pub deadlines: BTreeMap<u64, u64>,
    /// The moment when each membership entry was proposed, by index and term.
    pub changes: BTreeMap<(u64, u64), (u64, MemberChange)>,
    /// The name of each member that there has ever been, by raft id.
    pub names: BTreeMap<u64, String>,
    /// Membership requests that were refused as `not_applied`.
    pub refused_changes: Vec<RefusedChange>,
}

/// A membership request that was refused as `not_applied`.
///
/// No entry for it may have been proposed between this request and the next one about the same name, and applied.
pub struct RefusedChange {
    pub request: Request,
    pub name: String,
    pub asked: u64,
    pub next: u64,
}

impl Observed {
    /// The cluster clock: the greatest stamp of all applied entries.
    pub fn clock(&self) -> u64 {
        let stamps = self.applied.values().filter_map(|entry| Some(entry.proposal.as_deref()?.stamp));
        stamps.max().unwrap_or(0)
    }

    /// The greatest index that any node had applied at a moment.
    pub fn applied_by(&self, moment: u64) -> u64 {
        let by = self.applied_at.iter().rev().find(|(_, at)| **at <= moment);
        by.map_or(0, |(index, _)| *index)
    }

    /// Whether any node has applied a client's write.
    pub fn was_applied(&self, operation: u64) -> bool {
        self.operations.contains_key(&operation)
    }

    /// Describes a refusal of a membership request that was not true.
    pub fn false_refusal(&self) -> Option<String> {
        self.refused_changes.iter().find_map(|refused| {
            let ((index, _), (at, change)) = self.changes.iter().find(|((index, term), (at, change))| {
                let is_applied = self.applied.get(index).is_some_and(|entry| entry.term == *term);
                let about = match change {
                    MemberChange::Set(member) if member.role == Role::Learner => Some(&member.name),
                    // A promotion follows from no request: any leader promotes a learner that has caught up.
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
