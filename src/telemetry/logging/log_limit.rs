//! Rate limits of log lines.
//!
//! Why: peers, port scans and an overload can cause a line per message or per turn; the log must stay readable and still
//! show what goes on.
//!
//! Invariants: a limit reads no clock; its time is in milliseconds of any monotonic clock, also a simulated one. A line
//! that is logged carries the number of suppressed ones before it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use slog::{Logger, warn};

/// The lines of one reason that [`LogLimit::backoff`] allows at once.
const BURST: u32 = 8;
/// The shortest interval between two lines after the burst, in milliseconds.
const MIN_INTERVAL: u64 = 1_000;
/// The longest interval between two lines, in milliseconds.
const MAX_INTERVAL: u64 = 16_000;

/// The rate limit of one kind of line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogLimit {
    last: Option<u64>,
    suppressed: u64,
    interval: u64,
    burst_left: u32,
}

impl LogLimit {
    /// Allows one line per `interval` milliseconds: returns the number of suppressed lines before this one, or None if
    /// this one is suppressed, too.
    pub fn every(&mut self, interval: u64, now: u64) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + interval) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }

    /// Allows a burst of 8 lines, then one line per interval, which doubles from 1 s to 16 s while lines keep coming.
    /// After a pause of two intervals it starts over. Returns what [`LogLimit::every`] does.
    pub fn backoff(&mut self, now: u64) -> Option<u64> {
        if self.last.is_none_or(|last| now.saturating_sub(last) >= self.interval * 2) {
            (self.burst_left, self.interval) = (BURST, MIN_INTERVAL);
        }
        if self.burst_left > 0 {
            self.burst_left -= 1;
            // An interval of 0 suppresses nothing.
            return self.every(0, now);
        }
        let suppressed = self.every(self.interval, now)?;
        // Doubled only after a line was logged, so the interval grows while lines keep coming.
        self.interval = (self.interval * 2).min(MAX_INTERVAL);
        Some(suppressed)
    }
}

/// The rate limits of many reasons, each with a [`LogLimit::backoff`] of its own.
pub struct LogLimits {
    started: Instant,
    reasons: Mutex<HashMap<&'static str, (LogLimit, u64)>>,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { started: Instant::now(), reasons: Mutex::default() }
    }
}

impl LogLimits {
    /// Logs a warning about `peer`, unless it is suppressed.
    pub fn warn(&self, log: &Logger, reason: &'static str, peer: &str, detail: &str) {
        if let Some(suppressed) = self.due(reason) {
            warn!(log, "{}", reason; "peer" => peer, "detail" => detail, "more_like_this" => suppressed);
        }
    }

    /// Returns the number of suppressed lines before this one, or None if this one is suppressed, too.
    pub fn due(&self, reason: &'static str) -> Option<u64> {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut reasons = self.reasons.lock().expect("no panic while the lock is held");
        let (limit, total) = reasons.entry(reason).or_default();
        *total += 1;
        limit.backoff(now)
    }

    /// Returns how often each reason has come, logged or not.
    pub fn totals(&self) -> Vec<(&'static str, u64)> {
        let reasons = self.reasons.lock().expect("no panic while the lock is held");
        reasons.iter().map(|(reason, (_, total))| (*reason, *total)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_then_ever_fewer_lines_and_suppressed_ones_are_counted() {
        let mut limit = LogLimit::default();
        assert_eq!((0..10).filter_map(|_| limit.backoff(0)).count(), 8);
        assert_eq!((limit.backoff(999), limit.backoff(1_000)), (None, Some(3)));
        assert_eq!((limit.backoff(2_500), limit.backoff(3_000)), (None, Some(1)), "the interval has doubled");
        assert_eq!((0..10).filter_map(|_| limit.backoff(60_000)).count(), 8, "a pause starts over");
    }

    #[test]
    fn a_fixed_interval_allows_one_line_each() {
        let mut limit = LogLimit::default();
        let allowed: Vec<_> = [0, 1, 999, 1_000, 1_500, 9_000].map(|now| limit.every(1_000, now)).into();
        assert_eq!(allowed, [Some(0), None, None, Some(2), None, Some(1)]);
    }

    #[test]
    fn each_reason_has_its_own_limit() {
        let limits = LogLimits::default();
        assert_eq!((0..10).filter_map(|_| limits.due("a")).count(), 8);
        assert_eq!(limits.due("b"), Some(0));
        let mut totals = limits.totals();
        totals.sort_unstable();
        assert_eq!(totals, [("a", 10), ("b", 1)]);
    }
}
