//! What proposals and membership changes look at beside their own state.
//!
//! See also: `driver` (which lends it).

use super::cluster_clock::ClusterClock;
use super::disk_space::VoterDiskSpace;
use crate::consensus::core::Core;
use crate::consensus::liveness::Liveness;

/// The floor below proposals and membership.
pub(crate) struct Context<'a> {
    pub core: &'a mut Core,
    pub live: &'a mut Liveness,
    pub clock: &'a mut ClusterClock,
    pub space: &'a VoterDiskSpace,
}
