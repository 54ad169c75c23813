//! The memory budget of incoming frames.
//!
//! Why: each frame is bounded, but many connections may each send a large one faster than the loop takes them.
//!
//! Invariants: a frame reserves its bytes before its body is read, and releases them once the loop has taken it. Members have a
//! budget of their own, which other peers cannot use up. No connection exceeds its share.
//!
//! See also: `acceptor` (requests in flight).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The bytes that one connection may have on its way: the largest frame, and some air.
const CONNECTION_BYTES: usize = 40 << 20;
/// The bytes that all others together may have on their way.
const OTHER_BYTES: usize = CONNECTION_BYTES;
/// The unit of the count.
const UNIT: usize = 1 << 10;

/// The room of a node.
pub struct Budget {
    members: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

/// The room of one connection.
pub struct ConnectionShare(Arc<Semaphore>);

/// What one frame takes up, until it is dropped.
pub struct BudgetPermit {
    /// The bytes of its payload.
    pub bytes: usize,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// How many units `bytes` take: the frame's own memory counts too.
pub fn units(bytes: usize) -> u32 {
    u32::try_from(bytes / UNIT + 1).unwrap_or(u32::MAX)
}

/// A count of as many units as `bytes` have.
pub fn count(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(bytes / UNIT))
}

impl ConnectionShare {
    /// The room of a new connection.
    pub fn new() -> Self {
        Self(count(CONNECTION_BYTES))
    }
}

impl Budget {
    /// All of it is free; members have `member_bytes`, and one connection always finds its share.
    pub fn new(member_bytes: usize) -> Self {
        Self { members: count(member_bytes.max(CONNECTION_BYTES)), others: count(OTHER_BYTES) }
    }

    /// Waits for room for a frame of `bytes`.
    pub async fn reserve(&self, share: &ConnectionShare, is_member: bool, bytes: usize) -> BudgetPermit {
        let pool = if is_member { &self.members } else { &self.others };
        // Nobody closes them, so there is always a permit in the end.
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
    fn others_cannot_fill_the_room_of_members_and_no_connection_that_of_the_rest() {
        let budget = Budget::new(256 << 20);
        let shares: Vec<ConnectionShare> = (0..8).map(|_| ConnectionShare::new()).collect();
        let room = |share, member| budget.reserve(share, member, FRAME_BYTES).now_or_never();
        let stranger = reserve(&shares[0], false).unwrap();
        assert!(reserve(&shares[1], false).is_none(), "others have one large frame");
        let first = reserve(&shares[2], true).unwrap();
        assert!(reserve(&shares[2], true).is_none(), "one large frame a connection");
        assert!(shares[3..].iter().all(|share| reserve(share, true).is_some()));
        drop((stranger, first));
        assert!(reserve(&shares[1], false).is_some() && reserve(&shares[2], true).is_some(), "it is given back");
    }
}
