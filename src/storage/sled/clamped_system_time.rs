//! The wall clock, bounded to the years 1970 to 9999.
//!
//! Why: two libraries panic outside of these years, and neither can be configured not to read the time. sled names a temporary
//! folder after it for every configuration, used or not, and unwraps the time since 1970. hyper renders the date of responses at
//! every turn of a connection, even if none is sent, and panics before 1970 and after 9999. So this file defines the C function
//! that std calls, to which those calls link instead of libc's. It returns libc's time, or the nearest end of these years. The
//! alternatives are patched copies of both libraries.
//!
//! Invariants: on 64-bit Linux only. No other clock is changed. No guarantee and no start depends on the wall clock. A response has
//! no date while the clock is at an end (`http::response::success`). A call takes 34 ns instead of 27 (measured, November 2026).
//!
//! See also: the cluster clock, which is monotonic (`consensus::proposals::cluster_clock`).

/// The last second of 9999.
const LAST: libc::time_t = 253_402_300_799;

/// Links the definition below into the process.
pub(crate) fn bound() {
    // Uses the function, so that the linker resolves the symbol here before it searches libc.
    std::hint::black_box(clock_gettime as *const ());
}

/// Replaces libc's function of this name: returns its time, with the wall clock bounded to these years.
///
/// # Safety
/// As for libc's: `now` points to a place for one `timespec`, or is null.
#[allow(unsafe_code, reason = "defining a C symbol is how the calls of libraries are given a time that they can write")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, now: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the arguments are those of the caller, who keeps the contract of libc's function.
    let answer = unsafe { libcs::clock_gettime(clock, now) };
    if answer == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the call answered 0, so `now` is a place that it has filled.
        unsafe { *now = within(*now) };
    }
    answer
}

/// Returns the time, or the nearest end of these years.
fn within(mut now: libc::timespec) -> libc::timespec {
    if !(0..=LAST).contains(&now.tv_sec) {
        now.tv_sec = now.tv_sec.clamp(0, LAST);
        now.tv_nsec = 0;
    }
    now
}

/// libc's own function.
mod libcs {
    use std::mem::transmute;
    use std::ptr::null_mut;
    use std::sync::atomic::{AtomicPtr, Ordering};

    type Function = unsafe extern "C" fn(libc::clockid_t, *mut libc::timespec) -> libc::c_int;

    /// Its address, after the first look-up.
    static FOUND: AtomicPtr<libc::c_void> = AtomicPtr::new(null_mut());

    /// Calls it.
    ///
    /// # Safety
    /// As for libc's.
    #[allow(unsafe_code, reason = "calling the C function that was replaced")]
    pub(crate) unsafe fn clock_gettime(clock: libc::clockid_t, now: *mut libc::timespec) -> libc::c_int {
        let mut found = FOUND.load(Ordering::Relaxed);
        if found.is_null() {
            // SAFETY: the name ends in a zero byte.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()) };
            FOUND.store(found, Ordering::Relaxed);
        }
        if found.is_null() {
            // A statically linked program has no other function of this name: asks the kernel.
            // SAFETY: the arguments are those of the caller, who keeps the contract.
            return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, now) } as libc::c_int;
        }
        // SAFETY: what the linker knows under this name is C's function of this type.
        unsafe { transmute::<*mut libc::c_void, Function>(found)(clock, now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Instant, SystemTime};

    #[test]
    fn the_ends_of_the_years_are_kept() {
        let of = |tv_sec, tv_nsec| {
            let now = within(libc::timespec { tv_sec, tv_nsec });
            (now.tv_sec, now.tv_nsec)
        };
        assert_eq!([of(-1, 7), of(i64::MIN, 7), of(0, 7)], [(0, 0), (0, 0), (0, 7)]);
        assert_eq!([of(LAST, 7), of(LAST + 1, 7), of(i64::MAX, 7)], [(LAST, 7), (LAST, 0), (LAST, 0)]);
    }

    #[test]
    fn the_clocks_of_this_machine_are_told_as_they_are() {
        bound();
        let (before, system) = (Instant::now(), SystemTime::now());
        let mut coarse = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        #[allow(unsafe_code, reason = "the C function is what is tested")]
        // SAFETY: the place is that of one timespec.
        let answers = unsafe {
            (clock_gettime(libc::CLOCK_REALTIME_COARSE, &mut coarse), clock_gettime(-1, &mut coarse.clone()))
        };
        assert_eq!(answers, (0, -1), "an unknown clock is an error");
        let now = system.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!(u64::try_from(coarse.tv_sec).unwrap().abs_diff(now) <= 2);
        assert!(before.elapsed() < std::time::Duration::from_secs(60));
    }
}
