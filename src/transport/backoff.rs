//! Exponential backoff with jitter between dials.
//!
//! Invariants: the delay doubles from [`Backoff::MIN`] to [`Backoff::MAX`]. Each one is a random part of it, half at least, so that
//! nodes do not dial in step.

use std::time::Duration;

/// The state of one backoff.
pub struct Backoff {
    delay: Duration,
}

impl Backoff {
    /// The shortest delay.
    pub const MIN: Duration = Duration::from_millis(50);
    /// The longest delay.
    pub const MAX: Duration = Duration::from_secs(1);

    /// Starts with the shortest delay.
    pub fn new() -> Self {
        Self { delay: Self::MIN }
    }

    /// Returns the next delay with jitter, and doubles the one after it.
    pub fn next_delay(&mut self) -> Duration {
        let delay = jitter(self.delay);
        self.delay = (self.delay * 2).min(Self::MAX);
        delay
    }

    /// Starts over.
    pub fn reset(&mut self) {
        self.delay = Self::MIN;
    }
}

/// Returns a random duration between half of `delay` and all of it.
pub fn jitter(delay: Duration) -> Duration {
    // Without a source of randomness the full delay is used.
    let part = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
    delay.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_doubles_up_to_the_maximum_and_stays_within_its_jitter() {
        let mut backoff = Backoff::new();
        for full in [50, 100, 200, 400, 800, 1_000, 1_000] {
            let (delay, full) = (backoff.next_delay(), Duration::from_millis(full));
            assert!(delay >= full / 2 && delay <= full, "{delay:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Backoff::MIN);
    }
}
