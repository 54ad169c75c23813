//! The monotonic clock that deadlines are given in.
//!
//! Why: the loop reads no clock (its tests and the simulator give it the time), so the handle turns a client's timeout
//! into a deadline before the loop sees it.

use std::time::Duration;

use crate::model::Millis;

/// The process's monotonic clock, in milliseconds since its creation. On Linux it includes the time that the machine is
/// suspended: what was fresh before is not fresh after.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Duration);

impl Clock {
    /// Returns a clock that starts at 0 now.
    #[must_use]
    pub fn start() -> Self {
        Self(since_boot())
    }

    /// Returns the present time.
    #[must_use]
    pub fn now(&self) -> Millis {
        millis(since_boot().saturating_sub(self.0))
    }

    /// Returns the time `wait` from now.
    #[must_use]
    pub fn after(&self, wait: Duration) -> Millis {
        self.now().saturating_add(millis(wait))
    }
}

fn millis(span: Duration) -> Millis {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}
