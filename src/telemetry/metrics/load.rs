//! What the load history is made of: durations of requests and syncs of the journal, read once a second.
//!
//! See also: how points are made of them ([`crate::telemetry::load`]).

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{MissedTickBehavior, interval};

use super::Metrics;
use crate::telemetry::load::Totals;

impl Metrics {
    /// Adds a point to the load history each second, for as long as it is awaited.
    pub async fn keep_load_history(self: Arc<Self>) {
        let mut seconds = interval(Duration::from_secs(1));
        seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            seconds.tick().await;
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            self.load.record(at, Instant::now(), self.totals());
        }
    }

    fn totals(&self) -> Totals {
        let (puts, gets) = self.http.puts_and_gets();
        Totals { puts, gets, syncs: self.turns.wal_fsync.read().1 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;

    #[test]
    fn writes_and_reads_of_keys_are_counted_and_nothing_else() {
        let metrics = Metrics::default();
        for (method, path) in [
            ("PUT", "/store/a"),
            ("DELETE", "/store/a"),
            ("POST", "/store"),
            ("POST", "/txn"),
            ("POST", "/touch/a"),
            ("GET", "/store/a"),
            ("HEAD", "/store/a"),
            ("GET", "/store"),
            ("GET", "/metrics"),
            ("GET", "/watch"),
        ] {
            metrics.http.answered(Target::of(method, path), 200, Duration::from_millis(2));
        }
        metrics.turns.wal_fsync.observe(Duration::from_millis(1));
        let Totals { puts, gets, syncs } = metrics.totals();
        let count = |buckets: Vec<(f64, u64)>| buckets.into_iter().filter(|it| it.1 > 0).collect::<Vec<_>>();
        assert_eq!((count(puts), count(gets), syncs), (vec![(0.0025, 5)], vec![(0.0025, 3)], 1));
    }
}
