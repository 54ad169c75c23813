//! The storage watchdog: stuck calls, missing files, free disk space.
//!
//! Why: sled 0.34 can wait for ever after a failed write, and a removed or unmounted directory is noticed by no write. One thread
//! per engine looks at both every [`CHECK_INTERVAL`].
//!
//! ```text
//!   storage-watch thread --every 500 ms--> LOCK, identity, db, conf still there?   -> missing()
//!                        ----------------> call running for 2 s and sled failed?   -> wake it by a second flush
//!                        ----------------> statvfs                                 -> space()
//! ```
//!
//! Invariants: the thread holds only a weak reference, so it ends with its engine. No lock is held while the disk is read for
//! its free space.
//!
//! See also: [`super::db`], [`super::panic_guard`].

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::db::SledDb;
use super::file_state::{is_missing, is_same_file};
use super::fsync;
use crate::model::DiskSpace;
use crate::storage::Db;
use crate::storage::layout::{IDENTITY, LOCK};

/// How long a call, most likely a sync, may run before somebody asks whether it will ever end.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How often [`Watchdog`] looks.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How much of a file system is left free where nothing is set: this part of it, and at most [`MAX_RESERVE_BYTES`].
const RESERVE_DIVISOR: u64 = 10;
/// 256 MiB.
const MAX_RESERVE_BYTES: u64 = 256 << 20;

/// How many bytes are left free: as set, 0 for none, or None for the smaller of 256 MiB and a tenth of the file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserve(pub Option<u64>);

impl Reserve {
    /// What is left of the disk that `dir` is on; None where the system does not say.
    pub(crate) fn space(self, dir: &Path) -> Option<DiskSpace> {
        let fsync::FileSystem { free_bytes, all_bytes, .. } = fsync::file_system(dir)?;
        let reserve_bytes = self.0.unwrap_or(MAX_RESERVE_BYTES.min(all_bytes / RESERVE_DIVISOR));
        Some(DiskSpace { free_bytes, reserve_bytes })
    }
}

/// Looks after calls that never end, after files that go away, and after the space that is left: one thread for all
/// databases of an engine, which ends with it.
pub(crate) struct Watchdog {
    dir: PathBuf,
    lock: Arc<File>,
    databases: Mutex<Vec<Weak<SledDb>>>,
    missing: OnceLock<String>,
    /// Whether there is an identity: a new directory has none at first.
    has_identity: AtomicBool,
    reserve: Reserve,
    space: Mutex<Option<DiskSpace>>,
}

impl Watchdog {
    /// Starts the thread for the node in `dir`, whose `LOCK` is open as `lock`. Where the system gives no thread, nothing
    /// is looked after.
    pub(crate) fn start(dir: &Path, lock: Arc<File>, reserve: Reserve) -> Arc<Self> {
        let (databases, missing) = (Mutex::default(), OnceLock::new());
        let space = Mutex::new(reserve.space(dir));
        let has_identity = AtomicBool::new(!is_missing(&dir.join(IDENTITY)));
        let watchdog = Arc::new(Self { dir: dir.into(), lock, databases, missing, has_identity, reserve, space });
        let weak = Arc::downgrade(&watchdog);
        drop(std::thread::Builder::new().name("storage-watch".into()).spawn(move || {
            while let Some(watchdog) = weak.upgrade() {
                watchdog.check_once();
                drop(watchdog);
                std::thread::sleep(CHECK_INTERVAL);
            }
        }));
        watchdog
    }

    /// Looks after `db` too, as long as it is open.
    pub(crate) fn add(&self, db: &Arc<SledDb>) {
        self.lock_databases().push(Arc::downgrade(db));
    }

    /// The identity is in the directory from now on.
    pub(crate) fn has_identity(&self) {
        self.has_identity.store(true, Ordering::Relaxed);
    }

    /// Looks no longer after what lies in the folder `name`, which is about to be removed.
    pub(crate) fn unwatch(&self, name: &str) {
        let below = |db: &SledDb| Path::new(db.name()).starts_with(name);
        self.lock_databases().retain(|db| db.upgrade().is_some_and(|db| !below(&db)));
    }

    /// What is no longer in its place, if anything.
    pub(crate) fn missing(&self) -> Option<String> {
        self.missing.get().cloned()
    }

    /// What was left of the disk when it was looked at last.
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
            // Under the lock, so that a folder which is removed on purpose is forgotten before it goes.
            if let Some(what) = self.find_missing(&databases) {
                self.missing.get_or_init(|| what);
            }
            databases
        };
        for db in databases {
            db.wake_stuck_call(STUCK_AFTER);
        }
        // Not under the lock: a disk that hangs must not make who asks for the last answer wait.
        let space = self.reserve.space(&self.dir);
        *self.lock_space() = space;
    }

    fn find_missing(&self, databases: &[Arc<SledDb>]) -> Option<String> {
        if !is_same_file(&self.dir.join(LOCK), self.lock.metadata().ok().as_ref()) {
            return Some(LOCK.into());
        }
        if self.has_identity.load(Ordering::Relaxed) && is_missing(&self.dir.join(IDENTITY)) {
            return Some(IDENTITY.into());
        }
        databases.iter().find_map(|db| Some(format!("{}/{}", db.name(), db.missing()?)))
    }
}
