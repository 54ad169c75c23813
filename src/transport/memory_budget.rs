//! The memory budget of incoming frames.
//!
//! Why: each frame is bounded, but many connections may each send a large one faster than the loop takes them.
//!
//! Invariants: a frame reserves its bytes before its body is read, and releases them once the loop has taken it. Members have a
//! budget of their own, which other peers cannot use up. No connection exceeds its share.
//!
//! See also: `accepted_connection` (requests in flight).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The budget of one connection: the largest frame and some slack.
const CONNECTION_BYTES: usize = 40 << 20;
/// The budget of all peers that are no members.
const OTHER_BYTES: usize = CONNECTION_BYTES;
/// The unit of the count.
const UNIT: usize = 1 << 10;

/// The budget of a node.
pub struct Budget {
    members: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

/// The share of one connection.
pub struct ConnectionShare(Arc<Semaphore>);

/// The reserved bytes of one frame, released when dropped.
pub struct BudgetPermit {
    /// The bytes of its payload.
    pub bytes: usize,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Converts bytes to units; the frame itself counts as one.
pub fn units(bytes: usize) -> u32 {
    // An empty frame takes one unit, or frames without a payload would be unbounded.
    u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX)
}

/// Returns a semaphore of this many bytes.
pub fn count(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / UNIT))
}

impl ConnectionShare {
    /// Returns the share of a new connection.
    pub fn new() -> Self {
        Self(count(CONNECTION_BYTES))
    }
}

impl Budget {
    /// Returns a free budget: `member_bytes` for members, and at least one full share.
    pub fn new(member_bytes: usize) -> Self {
        Self { members: count(member_bytes.max(CONNECTION_BYTES)), others: count(OTHER_BYTES) }
    }

    /// Waits until `bytes` can be reserved.
    pub async fn reserve(&self, share: &ConnectionShare, is_member: bool, bytes: usize) -> BudgetPermit {
        let pool = if is_member { &self.members } else { &self.others };
        // The semaphores are never closed, so this always succeeds.
        // In this order: a connection that waits for its own share holds nothing of the pool meanwhile.
        let own = Arc::clone(&share.0).acquire_many_owned(units(bytes)).await.ok();
        let all = Arc::clone(pool).acquire_many_owned(units(bytes)).await.ok();
        BudgetPermit { bytes, _permits: [own, all] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::wire::FRAME_BYTES;
    use futures_util::FutureExt;

    #[test]
    fn other_peers_cannot_exhaust_the_members_budget() {
        let budget = Budget::new(256 << 20);
        let shares: Vec<ConnectionShare> = (0..8).map(|_| ConnectionShare::new()).collect();
        let room = |share, member| budget.reserve(share, member, FRAME_BYTES).now_or_never();
        let other_peer = room(&shares[0], false).unwrap();
        assert!(room(&shares[1], false).is_none(), "others have one large frame");
        let first = room(&shares[2], true).unwrap();
        assert!(room(&shares[2], true).is_none(), "one large frame a connection");
        assert!(shares[3..].iter().all(|share| room(share, true).is_some()));
        drop((other_peer, first));
        assert!(room(&shares[1], false).is_some() && room(&shares[2], true).is_some(), "it is given back");
    }
}
