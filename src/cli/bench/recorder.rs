//! What a run has seen: latencies, failures, and how many operations there were when.
//!
//! Why: one place counts, so that the progress line, the table and the JSON cannot disagree.
//!
//! Laws: times are in microseconds. Only operations that were due in the measured window count as latency; only those
//! that ended in it count as throughput. A failure counts as neither.
//!
//! Not here: who operates (`load`), and how it is shown (`report`).

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::api::{Ending, Kind};

/// Digits that a latency keeps.
const DIGITS: u8 = 3;

/// The longest latency that is told from longer ones, in microseconds: ten minutes.
const MOST_US: u64 = 600_000_000;

/// The most kinds of failures that are told apart.
const MOST_FAILURES: usize = 20;

/// The kind of all further failures.
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
    /// Whether a moment is in it.
    pub(crate) fn holds(&self, at: u64) -> bool {
        (self.begins..self.ends).contains(&at)
    }
}

/// Counts of one thread, or of all once they were added up.
pub(crate) struct Recorder {
    /// Latencies of writes.
    pub puts: Histogram<u64>,
    /// Latencies of reads.
    pub gets: Histogram<u64>,
    /// Latencies of both since it was last looked at, whatever the window.
    pub recent: Histogram<u64>,
    /// How many operations ended well in the window.
    pub done: u64,
    /// How many reads of those found nothing.
    pub missing: u64,
    /// Failures in the window, by kind.
    pub failures: BTreeMap<String, u64>,
}

/// An empty histogram of microseconds. One without a maximum would be clipped by `saturating_record` at its first size.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(MOST_US, DIGITS).expect("three digits up to ten minutes are allowed")
}

impl Recorder {
    /// Nothing yet.
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

    /// Takes in an operation that was due at one moment and ended at another.
    pub(crate) fn take(&mut self, window: Window, kind: Kind, (due, ended): (u64, u64), ending: Ending) {
        let latency = ended.saturating_sub(due);
        if let Ending::Failed(why) = ending {
            if window.holds(ended) {
                let known = self.failures.contains_key(&why) || self.failures.len() < MOST_FAILURES;
                *self.failures.entry(if known { why } else { OTHERS.into() }).or_default() += 1;
            }
            return;
        }
        self.recent.saturating_record(latency);
        if window.holds(ended) {
            self.done += 1;
            self.missing += u64::from(ending == Ending::Missing);
        }
        if window.holds(due) {
            self.latencies(kind).saturating_record(latency);
        }
    }

    /// Takes in operations that were due at these moments and had not even begun when the run ended: they took at least
    /// so long.
    pub(crate) fn take_unsent(&mut self, window: Window, kind: Kind, due: impl Iterator<Item = u64>, end: u64) {
        for due in due.filter(|due| window.holds(*due)) {
            self.latencies(kind).saturating_record(end.saturating_sub(due));
        }
    }

    fn latencies(&mut self, kind: Kind) -> &mut Histogram<u64> {
        match kind {
            Kind::Put => &mut self.puts,
            Kind::Get => &mut self.gets,
        }
    }

    /// Adds what another thread has seen.
    pub(crate) fn add(&mut self, other: &Self) {
        // They all have the same digits and grow as they must.
        self.puts.add(&other.puts).ok();
        self.gets.add(&other.gets).ok();
        self.done += other.done;
        self.missing += other.missing;
        for (why, times) in &other.failures {
            *self.failures.entry(why.clone()).or_default() += times;
        }
    }

    /// How many operations failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { begins: 1_000, ends: 2_000 };

    #[test]
    fn only_the_window_counts() {
        let mut record = Recorder::new();
        for (due, ended) in [(500, 900), (900, 1_100), (1_000, 1_001), (1_900, 2_500), (2_000, 2_001)] {
            record.take(WINDOW, Kind::Put, (due, ended), Ending::Done);
        }
        assert_eq!((record.done, record.puts.len(), record.gets.len(), record.recent.len()), (2, 2, 0, 5));
        assert_eq!((record.puts.min(), record.puts.max()), (1, 600), "what ends late is still a latency");
        record.take(WINDOW, Kind::Get, (1_500, 1_501), Ending::Missing);
        record.take(WINDOW, Kind::Get, (1_500, 1_501), Ending::Failed("x".into()));
        record.take(WINDOW, Kind::Get, (100, 200), Ending::Failed("x".into()));
        assert_eq!((record.done, record.missing, record.failed(), record.gets.len()), (3, 1, 1, 1));
        let mut sum = Recorder::new();
        sum.add(&record);
        sum.add(&record);
        assert_eq!((sum.done, sum.failures["x"], sum.puts.len()), (6, 2, 4));
    }

    #[test]
    fn operations_that_never_began_are_not_forgotten() {
        let mut record = Recorder::new();
        record.take_unsent(WINDOW, Kind::Put, [900, 1_200, 1_900, 2_100].into_iter(), 2_000);
        assert_eq!((record.puts.len(), record.puts.min(), record.puts.max(), record.done), (2, 100, 800, 0));
    }

    #[test]
    fn long_latencies_are_kept() {
        let mut record = Recorder::new();
        record.take(WINDOW, Kind::Get, (1_000, 90_001_000), Ending::Done);
        let seen = record.gets.max();
        assert!((90_000_000..90_100_000).contains(&seen), "{seen}");
    }

    #[test]
    fn failures_are_bounded() {
        let mut record = Recorder::new();
        for number in 0..50 {
            record.take(WINDOW, Kind::Put, (1_000, 1_001), Ending::Failed(number.to_string()));
        }
        assert_eq!((record.failures.len(), record.failures[OTHERS], record.failed()), (MOST_FAILURES + 1, 30, 50));
    }
}
