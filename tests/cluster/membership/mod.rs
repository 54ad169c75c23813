//! Membership changes: bootstrap, joins, removals, address changes.

mod address_change;
mod bootstrap;
mod copied_disks;
mod join;
mod join_offers;
mod remove;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        bootstrap::cases(),
        join::cases(),
        join_offers::cases(),
        remove::cases(),
        address_change::cases(),
        copied_disks::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
