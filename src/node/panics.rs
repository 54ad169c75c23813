//! What happens when the program itself is wrong: one line, and the process ends.
//!
//! Why: a thread that died alone would leave a node that answers without a loop behind it, or a loop without its
//! transport. raft-rs panics where its log is impossible; that too must end the process, and leave a line that an
//! operator can report.
//!
//! Laws: no panic is survived, except while the storage engine opens a damaged file and the storage room catches it.
//!
//! Not here: errors. Those are returned.

use std::panic::PanicHookInfo;

use slog::{Logger, crit};

use crate::logging::Guard;
use crate::storage;

/// The exit code of an internal error, EX_SOFTWARE of `sysexits.h`.
const INTERNAL_ERROR: i32 = 70;

/// Makes every panic from now on end the process with one line in the log.
pub fn install(log: Logger, guard: Guard) {
    std::panic::set_hook(Box::new(move |panic| {
        if storage::catches_panic() {
            return;
        }
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
