//! The operation of a committed entry, as the state machine takes it.
//!
//! See also: `consensus::raft_rs_adapter::entry_decode` (where it comes from).

use raft::eraftpb::ConfState;

use crate::model::{MemberChange, Proposal};

/// The operation of a committed entry.
#[derive(Debug, Clone)]
pub enum Operation {
    /// No effect but the applied index.
    Nothing,
    /// A command with the leader's timestamp.
    Command(Proposal),
    /// A membership change, with the resulting configuration.
    Membership {
        /// The change of the member table; None if the entry carried nothing readable.
        change: Option<MemberChange>,
        /// The configuration from this index on.
        conf_state: ConfState,
    },
}

/// A committed entry to apply.
#[derive(Debug, Clone)]
pub struct Applied {
    /// Its index; each batch continues where the last one ended.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The operation.
    pub operation: Operation,
}
