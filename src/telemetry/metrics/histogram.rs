//! Histograms of durations with fixed buckets.
//!
//! Why: the histogram of the crate takes a lock for each observation. This one is one search in a short list and two relaxed
//! additions, so that threads that serve clients do not wait for each other.
//!
//! Invariants: a bucket counts what is at most its bound, and more than the bound before it. The count that is shown is the sum of the
//! buckets that are shown, so a scrape between two additions is never contradictory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::counters::{nanos, seconds};

/// One millisecond in nanoseconds.
const MS: u64 = 1_000_000;

/// Syncs, commits, applies and proposals: 0.5 ms doubled to 8.192 s, in nanoseconds.
const OF_DISK: &[u64] = &doubled::<15>(500_000);

/// Round trips: 0.1 ms doubled to 3.2768 s.
const OF_ROUND_TRIPS: &[u64] = &doubled::<16>(100_000);

/// Snapshot streams: 0.1 s doubled to 409.6 s.
const OF_STREAMS: &[u64] = &doubled::<13>(100 * MS);

/// HTTP requests: 0.5 ms to 10 s.
const OF_HTTP: &[u64] = &[
    MS / 2,
    MS,
    5 * MS / 2,
    5 * MS,
    10 * MS,
    25 * MS,
    50 * MS,
    100 * MS,
    250 * MS,
    500 * MS,
    1_000 * MS,
    2_500 * MS,
    5_000 * MS,
    10_000 * MS,
];

const fn doubled<const COUNT: usize>(first: u64) -> [u64; COUNT] {
    let (mut bounds, mut at) = ([first; COUNT], 1);
    while at < COUNT {
        bounds[at] = 2 * bounds[at - 1];
        at += 1;
    }
    bounds
}

/// A histogram.
#[derive(Debug)]
pub struct Histogram {
    /// The upper bounds in nanoseconds, ascending.
    bounds: &'static [u64],
    /// One more than the bounds: the last is for what is above all.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, buckets: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }

    /// Returns a histogram for what waits for a disk.
    #[must_use]
    pub fn of_disk() -> Self {
        Self::new(OF_DISK)
    }

    /// Returns a histogram for snapshot streams.
    #[must_use]
    pub fn of_streams() -> Self {
        Self::new(OF_STREAMS)
    }

    /// Returns a histogram for round trips between nodes.
    #[must_use]
    pub fn of_round_trips() -> Self {
        Self::new(OF_ROUND_TRIPS)
    }

    /// Returns a histogram for HTTP requests.
    #[must_use]
    pub fn of_http() -> Self {
        Self::new(OF_HTTP)
    }

    /// Counts a duration.
    pub fn observe(&self, took: Duration) {
        let took = nanos(took);
        let at = self.bounds.partition_point(|bound| *bound < took);
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(took, Ordering::Relaxed);
    }

    /// Returns the sum in seconds, the count, and the buckets: each bound in seconds, and how many are in its bucket alone.
    pub(super) fn read(&self) -> (f64, u64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().map(|bound| seconds(*bound)).chain([f64::INFINITY]);
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        (seconds(self.sum.load(Ordering::Relaxed)), count, buckets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let histogram = Histogram::of_disk();
        for micros in [0, 500, 501, 1_000, 8_192_000, 8_192_001, 60_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let (sum, count, buckets) = histogram.read();
        let found: Vec<_> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(found, [(0.0005, 2), (0.001, 2), (8.192, 1), (f64::INFINITY, 2)]);
        assert!((sum - 76.386_002).abs() < 1e-9 && count == 7, "{sum} {count}");
    }

    #[test]
    fn the_bounds_are_those_of_the_documents() {
        let ends = |histogram: Histogram| {
            let (_, _, buckets) = histogram.read();
            (buckets.len(), buckets[0].0, buckets[buckets.len() - 2].0)
        };
        assert_eq!(ends(Histogram::of_disk()), (16, 0.0005, 8.192));
        assert_eq!(ends(Histogram::of_round_trips()), (17, 0.0001, 3.2768));
        assert_eq!(ends(Histogram::of_streams()), (14, 0.1, 409.6));
        assert_eq!(ends(Histogram::of_http()), (15, 0.0005, 10.0));
    }
}
