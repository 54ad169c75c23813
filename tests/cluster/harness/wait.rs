//! Bounded waits on conditions.
//!
//! Why: a test names the condition and the timeout; it never sleeps in the hope that the condition is true afterwards.
//!
//! Invariants: every wait is bounded, and its failure names the condition and the last observation.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// What a closure says that is waited for: the value, or why it is not there yet.
pub type Seen<T> = Result<T, String>;

/// Looks at `look` until it answers `Ok`, at most for `timeout`, and returns what it answered.
///
/// Panics past that with `what` and the last reason.
pub fn eventually<T>(timeout: Duration, what: impl Display, mut look: impl FnMut() -> Seen<T>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(value) => return value,
            Err(last) if begun.elapsed() >= timeout => {
                panic!("not within {timeout:?}: {what}; last seen: {last}")
            }
            Err(_) => sleep(POLL),
        }
    }
}

/// Looks at `look` for all of `span` and panics as soon as it answers an error: for what must stay true.
pub fn throughout(span: Duration, what: impl Display, mut look: impl FnMut() -> Seen<()>) {
    let begun = Instant::now();
    while begun.elapsed() < span {
        if let Err(seen) = look() {
            panic!("did not stay true: {what}; after {:?}: {seen}", begun.elapsed());
        }
        sleep(POLL);
    }
}

/// `Ok` where `holds`, else what was seen.
pub fn check(holds: bool, seen: impl Display) -> Seen<()> {
    if holds { Ok(()) } else { Err(seen.to_string()) }
}

/// Whole seconds, to keep the tests short.
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds, to keep the tests short.
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
