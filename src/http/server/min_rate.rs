//! How slow a client may be with what the node holds for it.
//!
//! Why: memory and connections are bounded, and whoever sends or takes a byte now and then would hold some for ever.
//!
//! Laws: only the time counts in which the node waits for the client. The client has [`MinRate::new`]'s patience, loses it
//! while it is waited for, and gains it back by what it sends or takes: so once it is used up it must keep 64 KiB/s. Patience is
//! never more than there is at first: what was fast once may not be slow for ever.
//!
//! Not here: what is waited for ([`super::write_timeout`], [`crate::http::request::body`]).

use std::time::Duration;

/// The least rate, in bytes a second.
pub(crate) const LEAST_RATE: u32 = 64 << 10;

/// What is left of the patience with one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MinRate {
    left: Duration,
    most: Duration,
}

impl MinRate {
    /// With a client that has not been waited for yet.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { left: patience, most: patience }
    }

    /// How long the client may be waited for now.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// The client was waited for.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }

    /// The client has sent or taken so much.
    pub(crate) fn moved(&mut self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let gained = Duration::from_secs(1).saturating_mul(bytes) / LEAST_RATE;
        self.left = (self.left + gained).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// After how many waits of 100 ms for `bytes` each the patience is over; None for never.
    fn ends_after(bytes: usize) -> Option<usize> {
        let mut pace = MinRate::new(PATIENCE);
        (1..100_000).find(|_| {
            pace.waited(Duration::from_millis(100));
            let over = pace.left().is_zero();
            pace.moved(bytes);
            over
        })
    }

    #[test]
    fn patience_lasts_for_ever_at_the_least_rate_and_five_seconds_without_anything() {
        assert_eq!(ends_after(0), Some(50));
        assert_eq!(ends_after(3277), Some(100), "half of the rate, twice the time");
        assert!(ends_after(6000).is_some());
        assert_eq!(ends_after(6554), None);
    }
}
