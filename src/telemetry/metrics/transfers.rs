//! Snapshot streams that this node sends now, by the raft id of their receiver.
//!
//! Why: a joiner with gigabytes to receive is waited for, and its operator wants to know for how long.
//!
//! Invariants: a stream is listed until its guard is dropped. What is left is what is left of the state: how many changes will be made
//! meanwhile is not known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::counters::Counter;

/// The streams under way.
#[derive(Debug, Default)]
pub struct Transfers(Arc<Mutex<BTreeMap<u64, Arc<Transfer>>>>);

/// A stream under way.
struct Transfer {
    /// Bytes of the state.
    state: Counter,
    /// Bytes of changes made meanwhile.
    changes: Counter,
    /// About the bytes of the whole state.
    total: u64,
    /// Whether the whole state was read.
    is_read: Box<dyn Fn() -> bool + Send + Sync>,
    began: Instant,
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("total", &self.total).finish_non_exhaustive()
    }
}

/// How far a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferProgress {
    /// The raft id of its receiver.
    pub to: u64,
    /// The bytes sent.
    pub bytes: u64,
    /// About the bytes that it will have: those of the state, and of the changes that were sent. Equal to `bytes` once the state is sent.
    pub total_bytes: u64,
    /// The bytes a second since it began.
    pub bytes_per_second: u64,
}

/// A stream for as long as it is held.
#[derive(Debug)]
pub struct TransferGuard {
    to: u64,
    transfer: Arc<Transfer>,
    all: Arc<Mutex<BTreeMap<u64, Arc<Transfer>>>>,
}

fn lock(all: &Mutex<BTreeMap<u64, Arc<Transfer>>>) -> MutexGuard<'_, BTreeMap<u64, Arc<Transfer>>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Transfers {
    /// Lists a stream of a state of about `total` bytes to the member `to` until the result is dropped; a newer one takes its place.
    /// `is_read` says whether the whole state was read.
    #[must_use]
    pub fn begin(&self, to: u64, total: u64, is_read: impl Fn() -> bool + Send + Sync + 'static) -> TransferGuard {
        let (state, changes, is_read) = (Counter::default(), Counter::default(), Box::new(is_read));
        let transfer = Arc::new(Transfer { state, changes, total, is_read, began: Instant::now() });
        lock(&self.0).insert(to, Arc::clone(&transfer));
        TransferGuard { to, transfer, all: Arc::clone(&self.0) }
    }

    /// Returns how far each stream is.
    #[must_use]
    pub fn progress(&self) -> Vec<TransferProgress> {
        let now = Instant::now();
        lock(&self.0).iter().map(|(to, transfer)| transfer.progress(*to, now)).collect()
    }
}

impl Transfer {
    fn progress(&self, to: u64, now: Instant) -> TransferProgress {
        let (state, changes) = (self.state.get(), self.changes.get());
        let bytes = state + changes;
        // Before the first tenth of a second a rate says nothing.
        let millis = now.saturating_duration_since(self.began).max(Duration::from_millis(100)).as_millis();
        let bytes_per_second = u64::try_from(u128::from(bytes) * 1_000 / millis).unwrap_or(u64::MAX);
        // What was removed while the state was read is not sent.
        let total = if (self.is_read)() { state } else { self.total.max(state) };
        TransferProgress { to, bytes, total_bytes: total + changes, bytes_per_second }
    }
}

impl TransferGuard {
    /// Counts bytes of the state that are sent.
    pub fn sent(&self, bytes: usize) {
        self.transfer.state.add(bytes as u64);
    }

    /// Counts bytes of changes made meanwhile that are sent.
    pub fn sent_changes(&self, bytes: usize) {
        self.transfer.changes.add(bytes as u64);
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        let mut all = lock(&self.all);
        if all.get(&self.to).is_some_and(|listed| Arc::ptr_eq(listed, &self.transfer)) {
            all.remove(&self.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_stream_is_listed_while_it_is_sent_and_a_newer_one_takes_its_place() {
        let transfers = Transfers::default();
        assert!(transfers.progress().is_empty());
        let is_read = Arc::new(AtomicBool::new(false));
        let read = Arc::clone(&is_read);
        let older = transfers.begin(7, 1_000, move || read.load(Ordering::Relaxed));
        older.sent(400);
        older.sent_changes(50);
        let progress = transfers.progress()[0];
        assert_eq!((progress.to, progress.bytes, progress.total_bytes), (7, 450, 1_050), "600 are left");
        is_read.store(true, Ordering::Relaxed);
        assert_eq!(transfers.progress()[0].total_bytes, 450, "all that there was is sent");
        let newer = transfers.begin(7, 100, || false);
        newer.sent(150);
        drop(older);
        assert_eq!(transfers.progress()[0].total_bytes, 150, "it has more than was announced");
        let later = newer.transfer.began + Duration::from_secs(3);
        assert_eq!(newer.transfer.progress(7, later).bytes_per_second, 50);
        drop(newer);
        assert!(transfers.progress().is_empty());
    }
}
