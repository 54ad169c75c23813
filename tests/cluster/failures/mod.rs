//! Crashes, partitions, disks and clocks that fail.

pub(crate) mod corruption;
pub(crate) mod disk_full;
pub(crate) mod disk_reserve;
pub(crate) mod disk_usage;
pub(crate) mod forwarding;
pub(crate) mod fsync;
pub(crate) mod kill_and_pause;
pub(crate) mod link_loss;
pub(crate) mod no_quorum;
pub(crate) mod slow_link;
pub(crate) mod snapshots;
pub(crate) mod wall_clock;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        forwarding::cases(),
        no_quorum::cases(),
        link_loss::cases(),
        slow_link::cases(),
        wall_clock::cases(),
        snapshots::cases(),
        corruption::cases(),
        disk_full::cases(),
        disk_reserve::cases(),
        fsync::cases(),
        disk_usage::cases(),
        kill_and_pause::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
