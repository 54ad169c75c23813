//! The panic hook: a bug ends the process with one line in the log.
//!
//! Why: a thread that ended alone would leave a node that answers without a consensus thread, or that one without a
//! transport. raft-rs panics where its log is impossible; that too must end the process, and leave a line that an
//! operator can report.
//!
//! Invariants: no panic is survived, except while sled opens a damaged file, where the storage module catches it.
//!
//! See also: `storage::sled::panic_guard`.

use std::panic::PanicHookInfo;

use slog::{Logger, crit};

use crate::storage;
use crate::telemetry::logging::Guard;

/// The exit code of an internal error, EX_SOFTWARE of `sysexits.h`.
const INTERNAL_ERROR: i32 = 70;

/// Installs the hook: every panic from then on ends the process with one line in the log.
pub fn install(log: Logger, guard: Guard) {
    std::panic::set_hook(Box::new(move |panic| {
        if storage::catches_panic() {
            return;
        }
        // Ended here and not by unwinding: a caught panic would leave a node without one of its threads.
        crit!(log, "huskv stops: internal error {}", line(panic));
        guard.flush();
        std::process::exit(INTERNAL_ERROR);
    }));
}

fn line(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("without a message").replace(['\n', '\r'], " ");
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    match panic.location() {
        Some(place) => format!("at {}:{} in thread {thread}: {message}", place.file(), place.line()),
        None => format!("in thread {thread}: {message}"),
    }
}
