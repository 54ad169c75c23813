//! The memory budget of writes that were accepted and not answered yet.
//!
//! Why: a write stays in memory from its acceptance until its answer, in queues, batches and waiters, also where its
//! client has gone. A leader holds those of its own clients and those that every follower forwards to it.
//!
//! Invariants: a write reserves its bytes before it is queued, and releases them with its answer. What does not fit is
//! refused before anything is proposed. Writes of up to 16 KiB have a reserve that larger ones cannot take. A write
//! that is larger than the budget fits into an empty one.
//!
//! See also: bodies and their division among addresses (`http::server::fair_memory`).

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest write that may take of the reserve.
const SMALL_BYTES: usize = 16 << 10;
/// The reserve, as a divisor of the budget.
const RESERVE: usize = 16;
/// The unit of the count.
const UNIT: usize = 1 << 10;

/// A budget of writes.
#[derive(Clone)]
pub(super) struct WriteBudget {
    bytes: usize,
    large: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

/// The reserved bytes of one write, released when dropped.
pub struct WritePermit(OwnedSemaphorePermit);

impl std::fmt::Debug for WritePermit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WritePermit({} KiB)", self.0.num_permits())
    }
}

impl WriteBudget {
    /// Returns a free budget of so many bytes, and the reserve of small writes besides.
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(SMALL_BYTES, Semaphore::MAX_PERMITS);
        let pool = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT));
        Self { bytes, large: pool(bytes), small: pool((bytes / RESERVE).max(SMALL_BYTES)) }
    }

    /// Whether any write holds bytes.
    pub(super) fn is_used(&self) -> bool {
        self.large.available_permits() < self.bytes / UNIT
    }

    /// Reserves the bytes of a write; None without room.
    pub(super) fn reserve(&self, bytes: usize) -> Option<WritePermit> {
        let units = u32::try_from(bytes.min(self.bytes).div_ceil(UNIT)).ok()?;
        let of = |pool: &Arc<Semaphore>| Arc::clone(pool).try_acquire_many_owned(units).ok();
        // Small writes use the reserve last, so it is whole when the large ones have taken the rest.
        let permit = of(&self.large).or_else(|| if bytes <= SMALL_BYTES { of(&self.small) } else { None })?;
        Some(WritePermit(permit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn large_writes_leave_the_reserve_to_small_ones() {
        let budget = WriteBudget::new(4 * MIB);
        let held: Vec<_> = std::iter::from_fn(|| budget.reserve(MIB)).collect();
        assert_eq!(held.len(), 4);
        let small: Vec<_> = std::iter::from_fn(|| budget.reserve(SMALL_BYTES)).collect();
        assert_eq!(small.len(), 4 * MIB / RESERVE / SMALL_BYTES);
        assert!(budget.is_used());
        drop((held, small));
        assert!(!budget.is_used());
        assert!(budget.reserve(MIB).is_some() && budget.reserve(SMALL_BYTES).is_some());
    }

    #[test]
    fn a_write_larger_than_the_budget_fits_into_an_empty_one() {
        let budget = WriteBudget::new(4 * MIB);
        let large = budget.reserve(16 * MIB);
        assert!(large.is_some() && budget.reserve(MIB).is_none());
        drop(large);
        let first = budget.reserve(1);
        assert!(first.is_some() && budget.reserve(16 * MIB).is_none());
    }
}
