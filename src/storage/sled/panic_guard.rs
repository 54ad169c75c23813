//! Panic containment and poisoning for sled.
//!
//! Why: sled 0.34 panics on some damaged files. An operator needs one clear error and an exit instead.
//!
//! Invariants: a panic inside [`catch_panic`] is an error, and the process's panic hook ignores it ([`catches_panic`]). A database
//! that failed once is poisoned for good.
//!
//! See also: [`super::disk_health`] (calls that never return), `node::panics` (the hook).

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::errors::disk_full;
use crate::storage::Error;

thread_local! {
    static GUARDED_DEPTH: Cell<u32> = const { Cell::new(0) };
}
static OPENING_CALLS: AtomicUsize = AtomicUsize::new(0);
static DISK_WAITS: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic on the calling thread is caught here and reported as an [`Error`]; the panic hook then neither
/// prints nor aborts.
#[must_use]
pub fn catches_panic() -> bool {
    // The threads of sled are named `sled-io-1` and so on. Their panics count as caught only while a database is
    // opened; at any other time the hook ends the process.
    GUARDED_DEPTH.with(Cell::get) > 0
        || (OPENING_CALLS.load(Ordering::SeqCst) > 0
            && std::thread::current().name().is_some_and(|name| name.starts_with("sled-io")))
}

/// Whether any thread of the process is in a storage call at this moment.
#[must_use]
pub fn is_waiting_for_disk() -> bool {
    DISK_WAITS.load(Ordering::SeqCst) > 0
}

/// A running call that may wait for the disk, for [`is_waiting_for_disk`].
pub(crate) struct DiskWait(());

pub(crate) fn disk_wait() -> DiskWait {
    DISK_WAITS.fetch_add(1, Ordering::SeqCst);
    DiskWait(())
}

impl Drop for DiskWait {
    fn drop(&mut self) {
        DISK_WAITS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A caught panic of the engine.
pub(crate) struct Panicked {
    full: bool,
}

impl Panicked {
    /// Converts it into an error about the database `name` of the node in `dir`.
    pub(crate) fn into_error(self, name: &str, dir: &Path) -> Error {
        if self.full {
            return disk_full(format!("writing {name}"), dir, false);
        }
        let path = dir.display().to_string();
        Error::Damaged { what: name.into(), detail: "the storage engine cannot make sense of its files".into(), path }
    }
}

/// Calls into the engine and catches a panic; `opening` says that sled's own threads may panic, too.
pub(crate) fn catch_panic<T>(opening: bool, call: impl FnOnce() -> T) -> Result<T, Panicked> {
    let _waiting = disk_wait();
    let count = usize::from(opening);
    OPENING_CALLS.fetch_add(count, Ordering::SeqCst);
    // A depth, since a drop inside of a call may be guarded again.
    GUARDED_DEPTH.with(|depth| depth.set(depth.get() + 1));
    let answer = std::panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED_DEPTH.with(|depth| depth.set(depth.get() - 1));
    OPENING_CALLS.fetch_sub(count, Ordering::SeqCst);
    answer.map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or_default();
        Panicked { full: text.contains("StorageFull") || text.contains("No space left") }
    })
}

/// The poison flag of a database.
#[derive(Default)]
pub(crate) struct Poison {
    failed: AtomicBool,
    panicked: AtomicBool,
}

impl Poison {
    pub(crate) fn set(&self, panicked: bool) {
        self.panicked.fetch_or(panicked, Ordering::SeqCst);
        self.failed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn panicked(&self) -> bool {
        self.panicked.load(Ordering::SeqCst)
    }

    pub(crate) fn check(&self, directory: &str) -> Result<(), Error> {
        if self.failed.load(Ordering::SeqCst) { Err(self.error(directory)) } else { Ok(()) }
    }

    #[allow(clippy::unused_self, reason = "only a poisoned database answers so")]
    pub(crate) fn error(&self, directory: &str) -> Error {
        let source = std::io::Error::other("an earlier write or sync failed, so the database is not trusted any more");
        Error::Io { what: "using the database".into(), path: directory.into(), source }
    }
}
