//! The pace of a snapshot stream that this node sends, and how far it is.
//!
//! Why: a stream as fast as it can takes the disk, the network and the cores from the writes of clients, on both ends: the receiver
//! writes all of it into its tree.
//!
//! Invariants: at most the rate in bytes, and a quarter of it while writes of clients are under way. Only the scan of the tree is
//! held back: effects are changes that were made meanwhile, and a stream that was slower than these would never end. No wait is longer than [`MAX_WAIT`], which is far below the receiver's limit. It waits in its task, and holds no lock.
//!
//! See also: [`super`] (the stream; its queues hold back the thread that reads the tree).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::telemetry::metrics::TransferGuard;

/// The part of the rate that a stream takes while clients write.
const SHARE_BESIDE_WRITES: u32 = 4;

/// The longest wait before a frame.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// The pace of one stream.
pub struct Pace {
    /// 0: unbounded.
    bytes_per_second: u64,
    /// When the next frame may be sent.
    next: Instant,
    any_write: Box<dyn Fn() -> bool + Send + Sync>,
    /// Where the bytes are counted, for those who wait.
    transfer: Option<Arc<TransferGuard>>,
}

impl Pace {
    /// Begins a stream; `any_write` is whether writes of clients are under way now. Unbounded at a rate of 0.
    pub fn new(bytes_per_second: u64, any_write: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { bytes_per_second, next: Instant::now(), any_write: Box::new(any_write), transfer: None }
    }

    /// Counts what is sent from now on as the progress of this transfer.
    #[must_use]
    pub fn counted(self, transfer: Arc<TransferGuard>) -> Self {
        Self { transfer: Some(transfer), ..self }
    }

    /// Waits until a frame of the scan, of so many bytes, may be sent, and counts it.
    pub async fn wait(&mut self, bytes: usize) {
        self.wait_for_turn(bytes).await;
        if let Some(transfer) = &self.transfer {
            transfer.sent(bytes);
        }
    }

    /// Counts a frame of changes, which is not held back.
    pub fn count_changes(&self, bytes: usize) {
        if let Some(transfer) = &self.transfer {
            transfer.sent_changes(bytes);
        }
    }

    async fn wait_for_turn(&mut self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        sleep_until(self.next).await;
        let micros = (bytes as u64).saturating_mul(1_000_000) / self.bytes_per_second;
        let share = if (self.any_write)() { SHARE_BESIDE_WRITES } else { 1 };
        // From now on and not from when it was due: a stream that the receiver has held up does not make up for it.
        self.next = Instant::now() + (Duration::from_micros(micros) * share).min(MAX_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    const MIB: usize = 1 << 20;

    async fn seconds(pace: &mut Pace, frames: usize, bytes: usize) -> f64 {
        let begun = Instant::now();
        for _ in 0..frames {
            pace.wait(bytes).await;
        }
        begun.elapsed().as_secs_f64()
    }

    fn is_about(found: f64, expected: f64) -> bool {
        // The clock of a sleep counts whole milliseconds, at most one more a frame.
        found > expected - 0.01 && found < expected + 0.15
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_has_its_rate_and_a_quarter_of_it_while_clients_write() {
        let writes = Arc::new(AtomicBool::new(false));
        let any_write = Arc::clone(&writes);
        let mut pace = Pace::new(64 * MIB as u64, move || any_write.load(Ordering::Relaxed));
        assert!(is_about(seconds(&mut pace, 129, MIB).await, 2.0));
        writes.store(true, Ordering::Relaxed);
        pace.wait(MIB).await;
        assert!(is_about(seconds(&mut pace, 64, MIB).await, 4.0));
        // A pause is not made up for.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(is_about(seconds(&mut pace, 65, MIB).await, 4.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_of_zero_is_none() {
        let mut pace = Pace::new(0, || true);
        assert!(is_about(seconds(&mut pace, 100, MIB).await, 0.0));
    }

    #[tokio::test(start_paused = true)]
    async fn no_wait_is_near_the_limit_of_a_step() {
        let mut pace = Pace::new(MIB as u64, || true);
        assert!(is_about(seconds(&mut pace, 2, 9 * MIB).await, MAX_WAIT.as_secs_f64()));
        assert!(2 * MAX_WAIT < super::super::PROGRESS);
    }
}
