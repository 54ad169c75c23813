//! The load history: a point a second of the last ten minutes.
//!
//! Why: trouble is looked at after it has passed, so the points of a graph are kept whether a client asks for them or not.
//!
//! Invariants: at most [`POINTS`] points are held. A point is the difference of counters that are kept anyway, so a request pays nothing for
//! it. Where the process was stopped there is one point for all of that time, with the rates of it.
//!
//! Example: within a second the histogram of puts has 90 more in the bucket up to 1 ms and 10 more in the one from 1 to 2.5 ms. The 99th
//! percentile is the 9th of the 10, so it is 1 + 0.9 * 1.5 = 2.35 ms: durations are taken to be even within a bucket.
//!
//! See also: the counters ([`crate::telemetry::metrics`]), `GET /load` (`http::metrics::load`).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;

/// The maximum points.
pub const POINTS: usize = 600;

/// The buckets of a histogram: each upper bound in seconds, the last of which is infinite, and how many are in that bucket alone.
pub type Buckets = Vec<(f64, u64)>;

/// The counters of a moment, since the start of the process.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// The durations of requests that write keys.
    pub puts: Buckets,
    /// The durations of requests that read keys.
    pub gets: Buckets,
    /// The syncs of the journal.
    pub syncs: u64,
}

/// The load of a second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    /// The end of the second, in seconds since 1970 by the wall clock, which may be set back.
    pub at: u64,
    /// Requests that write keys, a second.
    pub puts: u64,
    /// Requests that read keys, a second.
    pub gets: u64,
    /// The median duration of the writes in milliseconds; None without any.
    pub put_p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub put_p99_ms: Option<f64>,
    /// The median duration of the reads in milliseconds; None without any.
    pub get_p50_ms: Option<f64>,
    /// Their 99th percentile.
    pub get_p99_ms: Option<f64>,
    /// Syncs of the journal, a second.
    pub syncs: u64,
}

/// The points of the last minutes.
#[derive(Debug, Default)]
pub struct LoadHistory(Mutex<Ring>);

#[derive(Debug, Default)]
struct Ring {
    points: VecDeque<Point>,
    last: Option<(Instant, Totals)>,
}

impl LoadHistory {
    /// Adds the point between the last totals and these, which are those of `now`, `at` by the wall clock. The first totals make none.
    pub fn record(&self, at: u64, now: Instant, totals: Totals) {
        let mut ring = self.ring();
        if let Some((then, before)) = &ring.last {
            let seconds = now.saturating_duration_since(*then).as_secs_f64();
            let point = point(at, seconds, before, &totals);
            ring.points.truncate(POINTS - 1);
            ring.points.push_front(point);
        }
        ring.last = Some((now, totals));
    }

    /// Returns the latest points, at most `count`, the oldest first.
    #[must_use]
    pub fn latest(&self, count: usize) -> Vec<Point> {
        let ring = self.ring();
        let mut points: Vec<_> = ring.points.iter().take(count).copied().collect();
        points.reverse();
        points
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn point(at: u64, seconds: f64, before: &Totals, now: &Totals) -> Point {
    let (puts, gets) = (between(&before.puts, &now.puts), between(&before.gets, &now.gets));
    let rate = |count: u64| rounded(float(count) / seconds.max(f64::EPSILON));
    let count = |buckets: &Buckets| buckets.iter().map(|(_, count)| count).sum::<u64>();
    Point {
        at,
        puts: rate(count(&puts)),
        gets: rate(count(&gets)),
        put_p50_ms: quantile_ms(&puts, 0.5),
        put_p99_ms: quantile_ms(&puts, 0.99),
        get_p50_ms: quantile_ms(&gets, 0.5),
        get_p99_ms: quantile_ms(&gets, 0.99),
        syncs: rate(now.syncs.saturating_sub(before.syncs)),
    }
}

/// How many more are in each bucket.
fn between(before: &Buckets, now: &Buckets) -> Buckets {
    let before = before.iter().map(|(_, count)| *count).chain(std::iter::repeat(0));
    now.iter().zip(before).map(|((bound, now), before)| (*bound, now.saturating_sub(before))).collect()
}

/// Returns the duration in milliseconds that this part does not exceed; None of none. What is above all bounds counts as the last one.
fn quantile_ms(buckets: &Buckets, part: f64) -> Option<f64> {
    let all = buckets.iter().map(|(_, count)| count).sum::<u64>();
    let rank = part * float(all);
    let (mut below, mut lower) = (0, 0.0);
    for (upper, count) in buckets.iter().filter(|_| all > 0) {
        if *count > 0 && float(below + count) >= rank {
            let within = if upper.is_finite() { (upper - lower) * (rank - float(below)) / float(*count) } else { 0.0 };
            // To a microsecond, which the buckets are too wide for anyway.
            return Some(((lower + within) * 1e6).round() / 1e3);
        }
        below += count;
        lower = if upper.is_finite() { *upper } else { lower };
    }
    None
}

#[allow(clippy::cast_precision_loss, reason = "counts of a second are far below 2^53")]
fn float(count: u64) -> f64 {
    count as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is not negative, and the cast saturates"
)]
fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn totals(counts: [u64; 4], syncs: u64) -> Totals {
        let puts = [0.001, 0.0025, 0.005, f64::INFINITY].into_iter().zip(counts).collect();
        Totals { puts, gets: vec![(0.001, 0), (f64::INFINITY, 0)], syncs }
    }

    #[test]
    fn a_point_is_what_has_come_since_the_one_before() {
        let (history, start) = (LoadHistory::default(), Instant::now());
        history.record(10, start, totals([5, 0, 0, 0], 3));
        assert!(history.latest(POINTS).is_empty(), "there is nothing to compare with");
        history.record(11, start + Duration::from_secs(1), totals([95, 10, 0, 0], 10));
        let first = history.latest(1)[0];
        assert_eq!((first.at, first.puts, first.gets, first.syncs), (11, 100, 0, 7));
        // The 50th of 90 in a bucket of a millisecond; the 99th is the 9th of 10 in the next.
        assert_eq!((first.put_p50_ms, first.put_p99_ms), (Some(0.556), Some(2.35)));
        assert_eq!((first.get_p50_ms, first.get_p99_ms), (None, None));
        // Stopped for 10 s.
        history.record(21, start + Duration::from_secs(11), totals([95, 10, 0, 50], 10));
        let second = history.latest(POINTS)[1];
        assert_eq!((second.at, second.puts, second.syncs), (21, 5, 0));
        assert_eq!(second.put_p50_ms, Some(5.0), "above the last bound");
    }

    #[test]
    fn the_oldest_points_make_room_and_the_latest_are_returned_in_order() {
        let (history, start) = (LoadHistory::default(), Instant::now());
        for second in 0..=700 {
            history.record(second, start + Duration::from_secs(second), Totals::default());
        }
        let of = |count| history.latest(count).iter().map(|point| point.at).collect::<Vec<_>>();
        assert_eq!(of(3), [698, 699, 700]);
        let all = of(1_000);
        assert_eq!((all.len(), all[0], all[POINTS - 1]), (POINTS, 101, 700));
    }

    #[test]
    fn totals_that_go_back_make_no_negative_rates() {
        let (history, start) = (LoadHistory::default(), Instant::now());
        history.record(1, start, totals([9, 9, 9, 9], 9));
        history.record(2, start, totals([1, 1, 1, 1], 1));
        let point = history.latest(1)[0];
        assert_eq!((point.puts, point.syncs, point.put_p99_ms), (0, 0, None));
    }
}
