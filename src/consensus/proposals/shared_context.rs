//! The state that proposals and membership changes share: the core, liveness, the cluster clock, the disk space of voters.
//!
//! See also: `driver` (which lends it).

use super::cluster_clock::ClusterClock;
use super::disk_space::VoterDiskSpace;
use crate::consensus::core::Core;
use crate::consensus::liveness::Liveness;

/// The borrowed state.
pub(crate) struct Context<'a> {
    pub core: &'a mut Core,
    pub live: &'a mut Liveness,
    pub clock: &'a mut ClusterClock,
    pub space: &'a VoterDiskSpace,
}
