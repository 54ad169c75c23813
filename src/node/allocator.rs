//! The allocator's setting for the memory limit: how long it keeps freed memory.
//!
//! Why: mimalloc keeps freed memory for a second before it returns it to the system. With 256 MiB of budgets and values of
//! 8 MiB that alone took a node 130 MiB over `limits.memory_mb` (measured 2026-11-29: 509 MiB with the delay, 334 without,
//! and as many writes a second). With large limits a second is too short: log entries live for some seconds in the cache, so their
//! memory was returned and taken again all the time. Page faults were a quarter of the consensus thread's time (measured
//! 2026-11-29).
//!
//! Invariants: one call, before the load; it changes a number in the allocator.

use libc::{c_int, c_long};
// Links the C library, whose bindings leave this option out.
use libmimalloc_sys as _;

/// `mi_option_purge_delay`.
const PURGE_DELAY: c_int = 15;

#[allow(unsafe_code, reason = "the option has no safe binding")]
unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
    #[cfg(test)]
    fn mi_option_get(option: c_int) -> c_long;
}

/// How long freed memory is kept with a large limit, in milliseconds: longer than an entry is in the cache.
const KEPT_MS: c_long = 10_000;

/// Sets how long freed memory is kept: not at all with a small memory limit. Where another allocator is in use (tests of the library)
/// it has no effect.
pub(super) fn set_purge_delay(is_small: bool) {
    #[allow(
        unsafe_code,
        reason = "the option has no safe binding; the call stores an integer and may be made at any time"
    )]
    // SAFETY: `mi_option_set` takes any option number below `_mi_option_last` and touches nothing but that option.
    unsafe {
        mi_option_set(PURGE_DELAY, if is_small { 0 } else { KEPT_MS });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_purge_delay_whose_default_is_a_second() {
        #[allow(unsafe_code, reason = "reads an integer")]
        // SAFETY: as above; reading has no effect.
        let delay = || unsafe { mi_option_get(PURGE_DELAY) };
        assert_eq!(delay(), 1000, "another option has this number in this version of mimalloc");
        set_purge_delay(true);
        assert_eq!(delay(), 0);
        set_purge_delay(false);
        assert_eq!(delay(), KEPT_MS);
    }
}
