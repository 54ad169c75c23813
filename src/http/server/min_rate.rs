//! The least rate of a client while the node holds memory or a connection for it, and the grace period for being slower.
//!
//! Why: memory and connections are bounded, and a client that sends or takes a byte now and then would hold some for ever.
//!
//! Invariants: only the time counts in which the node waits for the client. It is taken from the client's grace period, and each
//! byte that the client sends or takes adds to it, at 64 KiB/s. So once the grace period is used up, the client must keep that
//! rate. The grace period never exceeds what it was at first: a client that was fast cannot save up time for being slow.
//!
//! See also: what is measured ([`super::write_timeout`], [`crate::http::request::body`]).

use std::time::Duration;

/// The least rate, in bytes a second.
pub(crate) const MIN_RATE: u32 = 64 << 10;

/// A token bucket of time: the grace period that one client has left.
//
// Example with a grace period of 5 s and a client that sends 16 KiB every second: each second of waiting takes 1 s, each 16 KiB
// give 16/64 = 0.25 s back. After 6 s it has 5 - 6 + 6 * 0.25 = 0.5 s left; during the 7th second the grace period is used up. A
// client that sends 64 KiB every second gets each second back and is served for ever.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MinRate {
    left: Duration,
    max: Duration,
}

impl MinRate {
    /// Starts with the whole grace period.
    pub(crate) fn new(grace: Duration) -> Self {
        Self { left: grace, max: grace }
    }

    /// How long the node may wait for the client from here on.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// Takes the time that the node has waited for the client.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// Adds the time that this many bytes are worth, sent or taken by the client.
    pub(crate) fn transferred(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(1).saturating_mul(bytes) / MIN_RATE;
        self.left = (self.left + earned).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    /// After how many waits of 100 ms for `bytes` each the grace period is used up; None for never.
    fn ends_after(bytes: usize) -> Option<usize> {
        let mut rate = MinRate::new(GRACE);
        (1..100_000).find(|_| {
            rate.waited(Duration::from_millis(100));
            let over = rate.left().is_zero();
            rate.transferred(bytes);
            over
        })
    }

    #[test]
    fn the_grace_lasts_for_ever_at_the_least_rate_and_five_seconds_without_a_byte() {
        assert_eq!(ends_after(0), Some(50));
        assert_eq!(ends_after(3277), Some(100), "half of the rate, twice the time");
        assert!(ends_after(6000).is_some());
        assert_eq!(ends_after(6554), None);
    }
}
