//! Raft's role in the words of hashicorp/raft.

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
