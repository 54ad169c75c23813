//! The status of a node: one consistent view, taken between two turns of the consensus loop.
//!
//! See also: `http::api::stats` (rendered in hashicorp/raft's field names).

use super::{DiskSpace, Leader, Refusal, Role};

/// The role that raft plays on this node, in hashicorp/raft's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It leads.
    Leader,
    /// It follows, or would.
    Follower,
    /// It asks for votes, or whether it would get them.
    Candidate,
}

impl State {
    /// The word as in `"state": "Leader"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "Leader",
            Self::Follower => "Follower",
            Self::Candidate => "Candidate",
        }
    }
}

/// One row of the member table with what the asked node knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its name.
    pub node_id: String,
    /// Its raft id.
    pub raft_id: u64,
    /// Its peer address, `host:port`.
    pub raft_address: String,
    /// Its client address, `host:port`.
    pub http_address: String,
    /// Voter or learner.
    pub role: Role,
    /// Milliseconds since the asked node heard it last, whoever leads; 0 for that node itself, None if never.
    pub heard_ms: Option<u64>,
    /// Whether that is short enough for it to count as reachable.
    pub connected: bool,
    /// On the leader: the last index known to be durable there.
    pub match_index: Option<u64>,
    /// On the leader: milliseconds since it was last heard; 0 for the leader itself, None if never.
    pub last_contact_ms: Option<u64>,
    /// What is left of its disk, as it has told within the last seconds; None where it has not.
    pub disk: Option<DiskSpace>,
}

/// How many voters there are, and how many of them may still fail, as one node sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voters {
    /// All of them.
    pub count: usize,
    /// Those that the node does not hear.
    pub unreachable: usize,
    /// How many of the others may fail before no majority is left; 0 also where there is none.
    pub failure_tolerance: usize,
}

impl Voters {
    /// Counts the voters among `members`.
    #[must_use]
    pub fn among(members: &[MemberStatus]) -> Self {
        let voters = || members.iter().filter(|member| member.role == Role::Voter);
        let (count, reachable) = (voters().count(), voters().filter(|voter| voter.connected).count());
        let failure_tolerance = reachable.saturating_sub(count / 2 + 1);
        Self { count, unreachable: count - reachable, failure_tolerance }
    }
}

/// What a joining node was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousStatus {
    /// The cluster that it was of.
    pub cluster_id: u64,
    /// Its raft id there.
    pub raft_id: u64,
    /// In how many milliseconds the node goes back to it, unless something comes from the cluster that it joins.
    pub goes_back_in_ms: u64,
}

/// One consistent look at a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node's name.
    pub node_id: String,
    /// The raft id of its present incarnation.
    pub raft_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// Its role.
    pub state: State,
    /// Who leads, where known.
    pub leader: Option<Leader>,
    /// The present term.
    pub term: u64,
    /// The last index of the log.
    pub last_log_index: u64,
    /// Its term.
    pub last_log_term: u64,
    /// What is known to be committed.
    pub commit_index: u64,
    /// What the machine has applied.
    pub applied_index: u64,
    /// The term of the entry applied last.
    pub applied_term: u64,
    /// Committed entries that wait for the machine.
    pub fsm_pending: u64,
    /// The applied index of the last durable cut.
    pub last_snapshot_index: u64,
    /// Its term.
    pub last_snapshot_term: u64,
    /// The index of the last membership change that was applied.
    pub configuration_index: u64,
    /// Milliseconds since the leader was last heard; 0 on the leader, None if never.
    pub last_contact_ms: Option<u64>,
    /// How many keys the store has.
    pub keys: u64,
    /// How many syncs the node has asked its disk for since it started.
    pub disk_syncs: u64,
    /// The member table.
    pub members: Vec<MemberStatus>,
    /// Whether this node was removed from its cluster.
    pub removed: bool,
    /// Whether this node belongs to no cluster yet (its data routes answer 503).
    pub joining: bool,
    /// While `joining`: what the node keeps, to go back to where the join is never finished.
    pub previous: Option<PreviousStatus>,
    /// Whether this node waits, pristine, for a cluster of its `HUSKV_JOIN` list to take it or to begin.
    pub forming: bool,
    /// What this node was told that would end it, while it asks the other voters, and afterwards where they could not
    /// tell; None where there is nothing of the kind.
    pub verifying: Option<String>,
    /// Of which members a life speaks that is not the one that was known, and which members say so of this node.
    pub identity_conflicts: Vec<String>,
    /// Why this node takes no requests now; None where it does.
    pub not_ready: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_voters_are_counted_before_the_next_failure_makes_them_matter() {
        for (voters, dead, learners, tolerance) in [
            (1, 0, 0, 0),
            (2, 0, 0, 0),
            (3, 0, 2, 1),
            (3, 1, 0, 0),
            (4, 0, 0, 1),
            (5, 0, 0, 2),
            (5, 2, 1, 0),
            (5, 3, 0, 0),
        ] {
            let member = |number: usize, role| MemberStatus {
                node_id: number.to_string(),
                raft_id: 1,
                raft_address: String::new(),
                http_address: String::new(),
                role,
                heard_ms: None,
                connected: number >= dead,
                match_index: None,
                last_contact_ms: None,
                disk: None,
            };
            let all = (0..voters).map(|number| member(number, Role::Voter));
            let all: Vec<_> = all.chain((0..learners).map(|number| member(number, Role::Learner))).collect();
            let expected = Voters { count: voters, unreachable: dead, failure_tolerance: tolerance };
            assert_eq!(Voters::among(&all), expected, "{voters} voters, {dead} dead");
        }
    }
}
