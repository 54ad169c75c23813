//! Peer port against strangers and rogue members.

mod hostile_peers;
mod rogue_member;
mod unproven_claims;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [hostile_peers::cases(), rogue_member::cases(), unproven_claims::cases()].into_iter().flatten().collect()
}
