//! The storage watchdog: stuck calls, missing files, free disk space, surplus threads of sled.
//!
//! Why: sled 0.34 can wait for ever after a failed write, and a removed or unmounted directory is noticed by no write. One thread
//! per engine looks at both every [`CHECK_INTERVAL`].
//!
//! ```text
//!   storage-watch thread --every 500 ms--> LOCK, identity, db, conf still there?   -> missing()
//!                        ----------------> call running for 2 s and sled failed?   -> wake it by a second flush
//!                        ----------------> statvfs                                 -> space()
//!                        ----------------> much to flush lately, or a slow call?   -> sled's threads parked or released
//! ```
//!
//! Invariants: the thread holds only a weak reference, so it ends with its engine. No lock is held while the disk is read for
//! its free space.
//!
//! See also: [`super::guarded_db`], [`super::panic_guard`], [`super::io_threads`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::file_identity::{is_missing, is_same_file};
use super::guarded_db::SledDb;
use super::io_threads;
use super::sync_override;
use crate::model::DiskSpace;
use crate::storage::Db;
use crate::storage::layout::{IDENTITY, LOCK};

/// How long a call may run before the watchdog wakes it.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// The interval of the checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// Returns the default reserve: a tenth of the file system, but at least 64 MiB or a quarter of it, and at most 256 MiB.
fn default_reserve(all_bytes: u64) -> u64 {
    // A start needs 20 MiB, and the writes under way some more: 45 MiB of 180, 64 MiB of 256 to 640, 100 MiB of 1 000,
    // and 256 MiB from 2 560 on.
    (all_bytes / 10).max((all_bytes / 4).min(64 << 20)).min(256 << 20)
}

/// The reserve: as configured, 0 for none, None for the default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserve(pub Option<u64>);

impl Reserve {
    /// Measures the free space of the disk of `dir`; None if the system does not report it.
    pub(crate) fn space(self, dir: &Path) -> Option<DiskSpace> {
        let sync_override::FileSystem { free_bytes, all_bytes, .. } = sync_override::file_system(dir)?;
        let reserve_bytes = self.0.unwrap_or_else(|| default_reserve(all_bytes));
        Some(DiskSpace { free_bytes, reserve_bytes })
    }
}

/// The watchdog of an engine and its databases.
pub(crate) struct Watchdog {
    dir: PathBuf,
    lock: Arc<File>,
    databases: Mutex<Vec<Weak<SledDb>>>,
    missing: OnceLock<String>,
    /// Whether the identity file exists: a new directory has none at first.
    has_identity: AtomicBool,
    reserve: Reserve,
    space: Mutex<Option<DiskSpace>>,
    /// The number of releases of sled's threads at the last check.
    releases: AtomicU64,
}

impl Watchdog {
    /// Starts the thread for the node in `dir`, whose `LOCK` is open as `lock`. Without a thread nothing is watched.
    pub(crate) fn start(dir: &Path, lock: Arc<File>, reserve: Reserve) -> Arc<Self> {
        let (databases, missing) = (Mutex::default(), OnceLock::new());
        let space = Mutex::new(reserve.space(dir));
        let has_identity = AtomicBool::new(!is_missing(&dir.join(IDENTITY)));
        let releases = AtomicU64::new(io_threads::releases());
        let dir = dir.into();
        let watchdog = Arc::new(Self { dir, lock, databases, missing, has_identity, reserve, space, releases });
        let weak = Arc::downgrade(&watchdog);
        drop(std::thread::Builder::new().name("storage-watch".into()).spawn(move || {
            while let Some(watchdog) = weak.upgrade() {
                watchdog.check_once();
                // Dropped before the sleep, or the engine would stay alive, with its lock, for up to half a second.
                drop(watchdog);
                std::thread::sleep(CHECK_INTERVAL);
            }
        }));
        watchdog
    }

    /// Watches `db`, as long as it is open.
    pub(crate) fn add(&self, db: &Arc<SledDb>) {
        self.lock_databases().push(Arc::downgrade(db));
    }

    /// Watches the identity file from now on.
    pub(crate) fn has_identity(&self) {
        self.has_identity.store(true, Ordering::Relaxed);
    }

    /// Stops watching the folder `name`, which is about to be removed.
    pub(crate) fn unwatch(&self, name: &str) {
        let below = |db: &SledDb| Path::new(db.name()).starts_with(name);
        self.lock_databases().retain(|db| db.upgrade().is_some_and(|db| !below(&db)));
    }

    /// Returns the missing file, if any.
    pub(crate) fn missing(&self) -> Option<String> {
        self.missing.get().cloned()
    }

    /// Returns the free space at the last check.
    pub(crate) fn space(&self) -> Option<DiskSpace> {
        *self.lock_space()
    }

    fn lock_space(&self) -> MutexGuard<'_, Option<DiskSpace>> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_databases(&self) -> MutexGuard<'_, Vec<Weak<SledDb>>> {
        self.databases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_once(&self) {
        let databases: Vec<_> = {
            let mut all = self.lock_databases();
            all.retain(|db| db.strong_count() > 0);
            let databases: Vec<_> = all.iter().filter_map(Weak::upgrade).collect();
            // Under the lock, so that a folder is unwatched before it is removed on purpose.
            if let Some(what) = self.find_missing(&databases) {
                self.missing.get_or_init(|| what);
            }
            databases
        };
        // After the lock was released: waking a call may take as long as the disk does.
        for db in &databases {
            db.wake_stuck_call(STUCK_AFTER);
        }
        self.tend_io_threads(&databases);
        drop(databases);
        // Not under the lock: a disk that hangs must not block readers of the last value.
        let space = self.reserve.space(&self.dir);
        *self.lock_space() = space;
    }

    /// Parks sled's surplus threads after a whole interval without much to flush, and releases them while a call takes long.
    fn tend_io_threads(&self, databases: &[Arc<SledDb>]) {
        let releases = io_threads::releases();
        let is_quiet = self.releases.swap(releases, Ordering::Relaxed) == releases;
        if databases.iter().any(|db| db.has_run_for(CHECK_INTERVAL)) {
            io_threads::release();
        } else if is_quiet && let Some(db) = databases.iter().find(|db| db.is_flushed()) {
            io_threads::park_surplus(releases, |waker| db.begin_flush(waker));
        }
    }

    fn find_missing(&self, databases: &[Arc<SledDb>]) -> Option<String> {
        if !is_same_file(&self.dir.join(LOCK), self.lock.metadata().ok().as_ref()) {
            return Some(LOCK.into());
        }
        // A new directory has no identity at first, which is no loss.
        if self.has_identity.load(Ordering::Relaxed) && is_missing(&self.dir.join(IDENTITY)) {
            return Some(IDENTITY.into());
        }
        databases.iter().find_map(|db| Some(format!("{}/{}", db.name(), db.missing()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_reserve_is_a_tenth_of_the_disk_within_64_and_256_mib_and_at_most_a_quarter() {
        for (disk, reserve) in
            [(0, 0), (112, 28), (180, 45), (256, 64), (640, 64), (1000, 100), (2560, 256), (9999, 256)]
        {
            assert_eq!(default_reserve(disk << 20) >> 20, reserve, "a disk of {disk} MiB");
        }
    }
}
