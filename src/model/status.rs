//! The status of a node: one consistent view, taken between two turns of the consensus loop.
//!
//! See also: `http::api::status_json` (rendered in hashicorp/raft's field names).

use super::{DiskSpace, Leader, Refusal, Role};

/// The raft role of a node, in hashicorp/raft's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Leader.
    Leader,
    /// Follower.
    Follower,
    /// Candidate or pre-candidate.
    Candidate,
}

impl State {
    /// Returns it as in `"state": "Leader"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "Leader",
            Self::Follower => "Follower",
            Self::Candidate => "Candidate",
        }
    }
}

/// A member as the reporting node sees it.
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
    /// Milliseconds since its last message to the reporting node; 0 for itself, None if never.
    pub heard_ms: Option<u64>,
    /// Whether it counts as reachable.
    pub connected: bool,
    /// On the leader: its match index.
    pub match_index: Option<u64>,
    /// On the leader: milliseconds since its last message; 0 for the leader itself, None if never.
    pub last_contact_ms: Option<u64>,
    /// Its free disk space, if reported within the last seconds.
    pub disk: Option<DiskSpace>,
}

/// Voter counts as one node sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voters {
    /// All of them.
    pub count: usize,
    /// The unreachable ones.
    pub unreachable: usize,
    /// How many more may fail before the majority is lost.
    pub failure_tolerance: usize,
}

impl Voters {
    /// Counts the voters among `members`.
    #[must_use]
    pub fn among(members: &[MemberStatus]) -> Self {
        let voters = || members.iter().filter(|member| member.role == Role::Voter);
        let (count, reachable) = (voters().count(), voters().filter(|voter| voter.connected).count());
        // Five voters, one unreachable: a majority is 3, so of the 4 reachable ones 1 may fail. Without a majority it is 0.
        let failure_tolerance = reachable.saturating_sub(count / 2 + 1);
        Self { count, unreachable: count - reachable, failure_tolerance }
    }
}

/// The previous incarnation of a joining node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousStatus {
    /// Its cluster.
    pub cluster_id: u64,
    /// Its raft id there.
    pub raft_id: u64,
    /// Milliseconds until the node rolls back, unless the new cluster sends something.
    pub goes_back_in_ms: u64,
}

/// A consistent status of a node.
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
    /// The leader, if known.
    pub leader: Option<Leader>,
    /// The present term.
    pub term: u64,
    /// The last index of the log.
    pub last_log_index: u64,
    /// Its term.
    pub last_log_term: u64,
    /// The commit index.
    pub commit_index: u64,
    /// The applied index.
    pub applied_index: u64,
    /// The term of the entry applied last.
    pub applied_term: u64,
    /// Committed entries not applied yet.
    pub fsm_pending: u64,
    /// The index of the last checkpoint.
    pub last_snapshot_index: u64,
    /// Its term.
    pub last_snapshot_term: u64,
    /// The index of the last membership change that was applied.
    pub configuration_index: u64,
    /// Milliseconds since the last message of the leader; 0 on the leader, None if never.
    pub last_contact_ms: Option<u64>,
    /// The number of keys.
    pub keys: u64,
    /// The number of syncs since the start.
    pub disk_syncs: u64,
    /// The member table.
    pub members: Vec<MemberStatus>,
    /// Whether this node was removed from its cluster.
    pub removed: bool,
    /// Whether this node belongs to no cluster yet (its data routes answer 503).
    pub joining: bool,
    /// While `joining`: the incarnation to roll back to.
    pub previous: Option<PreviousStatus>,
    /// Whether this node waits to form or join the cluster of its `HUSKV_JOIN` list.
    pub forming: bool,
    /// The claim that would end this node, while it probes the other voters and afterwards if they could not decide.
    pub verifying: Option<String>,
    /// Identity conflicts: of members with this node, and of this node as members see it.
    pub identity_conflicts: Vec<String>,
    /// Why this node refuses requests; None if it serves.
    pub not_ready: Option<Refusal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unreachable_voters_lower_the_failure_tolerance() {
        // Learners never count. With 5 voters and 2 dead ones the majority of 3 is just reached, so none more may fail.
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
