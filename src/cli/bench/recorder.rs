//! Recorder of latencies, throughput and failures.
//!
//! Why: the progress line, the table and the JSON are made from the same counters, so that they cannot disagree.
//!
//! Invariants: times are in microseconds. Only operations that were due in the measured window count as latency; only
//! those that ended in it count as throughput. A failure counts as neither.
//!
//! Example: window 1 000 to 2 000. Due 900, ended 1 100: throughput only. Due 1 900, ended 2 500: latency 600 only.
//!
//! See also: `load_generator` for the operations, `report` for the output.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::systems_under_test::{Operation, OperationResult};

/// The significant digits of a latency.
const DIGITS: u8 = 3;

/// The maximum recorded latency, in microseconds: ten minutes.
const MAX_US: u64 = 600_000_000;

/// The maximum number of distinct failure reasons.
const MAX_REASONS: usize = 20;

/// The reason of all further failures.
const OTHERS: &str = "others";

/// The measured window, in microseconds since the run began.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// Its first microsecond.
    pub begins: u64,
    /// The first one after it.
    pub ends: u64,
}

impl Window {
    /// Whether the window contains a time.
    pub(crate) fn contains(&self, at: u64) -> bool {
        (self.begins..self.ends).contains(&at)
    }
}

/// The counters of one thread, or the sum of all threads.
pub(crate) struct Recorder {
    /// Latencies of writes.
    pub puts: Histogram<u64>,
    /// Latencies of reads.
    pub gets: Histogram<u64>,
    /// Latencies of both since the last sample, in or outside the window.
    pub recent: Histogram<u64>,
    /// Successes in the window.
    pub done: u64,
    /// Reads among them that found no key.
    pub missing: u64,
    /// Failures in the window, by reason.
    pub failures: BTreeMap<String, u64>,
}

/// Creates a histogram of microseconds. Without a maximum `saturating_record` would clip at the initial size.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(MAX_US, DIGITS).expect("three digits up to ten minutes are allowed")
}

impl Recorder {
    /// Creates empty counters.
    pub(crate) fn new() -> Self {
        Self {
            puts: latencies(),
            gets: latencies(),
            recent: latencies(),
            done: 0,
            missing: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Records an operation with its due time and its end.
    pub(crate) fn record(
        &mut self,
        window: Window,
        operation: Operation,
        (due, ended): (u64, u64),
        result: OperationResult,
    ) {
        let latency = ended.saturating_sub(due);
        if let OperationResult::Failed(reason) = result {
            if window.contains(ended) {
                // A reason may hold an address or an index; without a bound a long run would keep a counter for each.
                let known = self.failures.contains_key(&reason) || self.failures.len() < MAX_REASONS;
                *self.failures.entry(if known { reason } else { OTHERS.into() }).or_default() += 1;
            }
            return;
        }
        self.recent.saturating_record(latency);
        // Throughput counts what ended in the window, latency what was due in it: an operation of the warm-up that
        // ends late must not distort the latencies, and one that ends after the window must not be lost.
        if window.contains(ended) {
            self.done += 1;
            self.missing += u64::from(result == OperationResult::Missing);
        }
        if window.contains(due) {
            self.latencies(operation).saturating_record(latency);
        }
    }

    /// Records operations that were due at these times and not sent when the run ended at `end`: they took at least
    /// until then.
    pub(crate) fn record_unsent(
        &mut self,
        window: Window,
        operation: Operation,
        due: impl Iterator<Item = u64>,
        end: u64,
    ) {
        for due in due.filter(|due| window.contains(*due)) {
            self.latencies(operation).saturating_record(end.saturating_sub(due));
        }
    }

    fn latencies(&mut self, operation: Operation) -> &mut Histogram<u64> {
        match operation {
            Operation::Put => &mut self.puts,
            Operation::Get => &mut self.gets,
        }
    }

    /// Adds the counters of another thread.
    pub(crate) fn add(&mut self, other: &Self) {
        // `add` fails only for histograms of different bounds.
        self.puts.add(&other.puts).ok();
        self.gets.add(&other.gets).ok();
        self.done += other.done;
        self.missing += other.missing;
        for (reason, times) in &other.failures {
            *self.failures.entry(reason.clone()).or_default() += times;
        }
    }

    /// The number of failures.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { begins: 1_000, ends: 2_000 };

    #[test]
    fn only_operations_of_the_window_count() {
        let mut recorder = Recorder::new();
        for (due, ended) in [(500, 900), (900, 1_100), (1_000, 1_001), (1_900, 2_500), (2_000, 2_001)] {
            recorder.record(WINDOW, Operation::Put, (due, ended), OperationResult::Done);
        }
        assert_eq!((recorder.done, recorder.puts.len(), recorder.gets.len(), recorder.recent.len()), (2, 2, 0, 5));
        assert_eq!(
            (recorder.puts.min(), recorder.puts.max()),
            (1, 600),
            "an operation that ends after the window has a latency"
        );
        recorder.record(WINDOW, Operation::Get, (1_500, 1_501), OperationResult::Missing);
        recorder.record(WINDOW, Operation::Get, (1_500, 1_501), OperationResult::Failed("x".into()));
        recorder.record(WINDOW, Operation::Get, (100, 200), OperationResult::Failed("x".into()));
        assert_eq!((recorder.done, recorder.missing, recorder.failed(), recorder.gets.len()), (3, 1, 1, 1));
        let mut sum = Recorder::new();
        sum.add(&recorder);
        sum.add(&recorder);
        assert_eq!((sum.done, sum.failures["x"], sum.puts.len()), (6, 2, 4));
    }

    #[test]
    fn operations_that_were_never_sent_count_as_latency() {
        let mut recorder = Recorder::new();
        recorder.record_unsent(WINDOW, Operation::Put, [900, 1_200, 1_900, 2_100].into_iter(), 2_000);
        assert_eq!((recorder.puts.len(), recorder.puts.min(), recorder.puts.max(), recorder.done), (2, 100, 800, 0));
    }

    #[test]
    fn long_latencies_are_not_clipped() {
        let mut recorder = Recorder::new();
        recorder.record(WINDOW, Operation::Get, (1_000, 90_001_000), OperationResult::Done);
        let seen = recorder.gets.max();
        assert!((90_000_000..90_100_000).contains(&seen), "{seen}");
    }

    #[test]
    fn failure_reasons_are_bounded() {
        let mut recorder = Recorder::new();
        for number in 0..50 {
            recorder.record(WINDOW, Operation::Put, (1_000, 1_001), OperationResult::Failed(number.to_string()));
        }
        assert_eq!((recorder.failures.len(), recorder.failures[OTHERS], recorder.failed()), (MAX_REASONS + 1, 30, 50));
    }
}
