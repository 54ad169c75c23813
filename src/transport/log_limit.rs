//! Rate-limited warnings.
//!
//! Why: peers and port scans can cause a warning per connection; the log must stay readable and still show what goes on.
//!
//! Invariants: the first [`BURST`] lines of a reason are logged at once, then one per interval, which doubles up to
//! [`MAX_INTERVAL`] while the reason goes on. Each line carries the number of suppressed ones. After a quiet period it starts
//! over.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use slog::{Logger, warn};

/// The lines of one reason that are logged at once.
const BURST: u32 = 8;
/// The shortest interval between two lines of a reason after the burst.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest interval between two lines of a reason.
const MAX_INTERVAL: Duration = Duration::from_secs(16);

/// The rate limits of all reasons.
#[derive(Default)]
pub struct LogLimit {
    reasons: Mutex<HashMap<&'static str, Limit>>,
}

/// The rate limit of one reason.
struct Limit {
    last: Instant,
    interval: Duration,
    suppressed: u64,
    burst_left: u32,
}

impl LogLimit {
    /// Logs a warning about `peer`, unless it is suppressed.
    pub fn warn(&self, log: &Logger, reason: &'static str, peer: &str, detail: &str) {
        if let Some(suppressed) = self.due(reason) {
            warn!(log, "{}", reason; "peer" => peer, "detail" => detail, "more_like_this" => suppressed);
        }
    }

    /// Returns the number of suppressed lines before this one, or None if this one is suppressed, too.
    pub fn due(&self, reason: &'static str) -> Option<u64> {
        self.due_at(reason, Instant::now())
    }

    fn due_at(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut reasons = self.reasons.lock().expect("no panic while the lock is held");
        let limit = reasons.entry(reason).or_insert(Limit {
            last: now,
            interval: MIN_INTERVAL,
            suppressed: 0,
            burst_left: BURST,
        });
        let quiet_for = now.duration_since(limit.last);
        if quiet_for >= limit.interval * 2 {
            (limit.burst_left, limit.interval) = (BURST, MIN_INTERVAL);
        }
        if limit.burst_left > 0 {
            limit.burst_left -= 1;
        } else if quiet_for < limit.interval {
            limit.suppressed += 1;
            return None;
        } else {
            limit.interval = (limit.interval * 2).min(MAX_INTERVAL);
        }
        limit.last = now;
        Some(std::mem::take(&mut limit.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_logged_then_ever_fewer_lines_and_suppressed_ones_are_counted() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |ms| limit.due_at("a", start + Duration::from_millis(ms));
        assert_eq!((0..10).filter_map(|_| at(0)).count(), 8);
        assert_eq!((at(999), at(1_000)), (None, Some(3)));
        assert_eq!((at(2_500), at(3_000)), (None, Some(1)), "the interval has doubled");
        assert_eq!(limit.due_at("b", start), Some(0), "each reason has its own limit");
        assert_eq!((0..10).filter_map(|_| at(60_000)).count(), 8, "a quiet period starts over");
    }
}
