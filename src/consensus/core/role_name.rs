//! The name of raft's role (Leader, Follower, Candidate) as hashicorp/raft has it.

use raft::StateRole;

use crate::model::State;

/// Raft's role in hashicorp/raft's words.
pub(crate) fn state(role: StateRole) -> State {
    match role {
        StateRole::Leader => State::Leader,
        StateRole::Follower => State::Follower,
        StateRole::Candidate | StateRole::PreCandidate => State::Candidate,
    }
}
