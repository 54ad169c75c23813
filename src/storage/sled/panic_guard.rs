//! What keeps the storage engine's bad manners in its room: panics, silence, and answers after a failure.
//!
//! Why: sled 0.34 panics on some damaged files and can wait for ever after a failed write. A node owes its operator one
//! clear line and an exit instead.
//!
//! Laws: a panic inside [`guarded`] is an error, and the process's panic hook stays quiet about it ([`opening`]).
//! A database that failed once is poisoned for good.
//!
//! Not here: the hook itself (the node room installs it), and the words for sled's ordinary errors.

use std::cell::Cell;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::db::{SledDb, full};
use super::fsync;
use crate::model::DiskSpace;
use crate::storage::layout::{IDENTITY, LOCK};
use crate::storage::{Db, Error};

/// How long a call, most likely a sync, may run before somebody asks whether it will ever end.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often [`Watch`] looks.
const ROUND: Duration = Duration::from_millis(500);

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}
static OPENING: AtomicUsize = AtomicUsize::new(0);
static AT_DISK: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic on the calling thread is one that the storage catches and reports as an [`Error`]; the process's
/// panic hook asks this first, and neither prints nor aborts then.
#[must_use]
pub fn opening() -> bool {
    INSIDE.with(Cell::get) > 0
        || (OPENING.load(Ordering::SeqCst) > 0
            && std::thread::current().name().is_some_and(|name| name.starts_with("sled-io")))
}

/// Whether any thread of the process waits for a disk at this moment, as far as the storage has sent it there.
#[must_use]
pub fn is_at_disk() -> bool {
    AT_DISK.load(Ordering::SeqCst) > 0
}

/// A call that may wait for the disk, for [`is_at_disk`]; it ends where this is dropped.
pub(crate) struct AtDisk(());

pub(crate) fn at_disk() -> AtDisk {
    AT_DISK.fetch_add(1, Ordering::SeqCst);
    AtDisk(())
}

impl Drop for AtDisk {
    fn drop(&mut self) {
        AT_DISK.fetch_sub(1, Ordering::SeqCst);
    }
}

/// That the engine panicked.
pub(crate) struct Panicked {
    full: bool,
}

impl Panicked {
    /// As an error about the database `name` of the node in `dir`.
    pub(crate) fn into_error(self, name: &str, dir: &Path) -> Error {
        if self.full {
            return full(format!("writing {name}"), dir, false);
        }
        let path = dir.display().to_string();
        Error::Damaged { what: name.into(), detail: "the storage engine cannot make sense of its files".into(), path }
    }
}

/// Calls into the engine; `opening` says that its own threads may panic too.
pub(crate) fn guarded<T>(opening: bool, call: impl FnOnce() -> T) -> Result<T, Panicked> {
    let _at_disk = at_disk();
    let count = usize::from(opening);
    OPENING.fetch_add(count, Ordering::SeqCst);
    INSIDE.with(|depth| depth.set(depth.get() + 1));
    let answer = std::panic::catch_unwind(AssertUnwindSafe(call));
    INSIDE.with(|depth| depth.set(depth.get() - 1));
    OPENING.fetch_sub(count, Ordering::SeqCst);
    answer.map_err(|payload| {
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or_default();
        Panicked { full: text.contains("StorageFull") || text.contains("No space left") }
    })
}

/// Whether a database still answers.
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
        let source = std::io::Error::other("an earlier write or sync failed, so nothing here is believed any more");
        Error::Io { what: "using the database".into(), path: directory.into(), source }
    }
}

/// How much of a file system is left free where nothing is set: this part of it, and at most [`MOST_RESERVED`].
const PART_RESERVED: u64 = 10;
/// 256 MiB.
const MOST_RESERVED: u64 = 256 << 20;

/// How many bytes are left free: as set, 0 for none, or None for the smaller of 256 MiB and a tenth of the file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reserve(pub Option<u64>);

impl Reserve {
    /// What is left of the disk that `dir` is on; None where the system does not say.
    pub(crate) fn space(self, dir: &Path) -> Option<DiskSpace> {
        let fsync::FileSystem { free_bytes, all_bytes, .. } = fsync::file_system(dir)?;
        let reserve_bytes = self.0.unwrap_or(MOST_RESERVED.min(all_bytes / PART_RESERVED));
        Some(DiskSpace { free_bytes, reserve_bytes })
    }
}

/// Looks after calls that never end, after files that go away, and after the space that is left: one thread for all
/// databases of an engine, which ends with it.
pub(crate) struct Watch {
    dir: PathBuf,
    lock: Arc<File>,
    databases: Mutex<Vec<Weak<SledDb>>>,
    missing: OnceLock<String>,
    /// Whether there is an identity: a new directory has none at first.
    has_identity: AtomicBool,
    reserve: Reserve,
    space: Mutex<Option<DiskSpace>>,
}

impl Watch {
    /// Starts the thread for the node in `dir`, whose `LOCK` is open as `lock`. Where the system gives no thread, nothing
    /// is looked after.
    pub(crate) fn start(dir: &Path, lock: Arc<File>, reserve: Reserve) -> Arc<Self> {
        let (databases, missing) = (Mutex::default(), OnceLock::new());
        let space = Mutex::new(reserve.space(dir));
        let has_identity = AtomicBool::new(!is_gone(&dir.join(IDENTITY)));
        let watch = Arc::new(Self { dir: dir.into(), lock, databases, missing, has_identity, reserve, space });
        let weak = Arc::downgrade(&watch);
        drop(std::thread::Builder::new().name("storage-watch".into()).spawn(move || {
            while let Some(watch) = weak.upgrade() {
                watch.look();
                drop(watch);
                std::thread::sleep(ROUND);
            }
        }));
        watch
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
    pub(crate) fn forget(&self, name: &str) {
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

    fn look(&self) {
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
            db.rouse(PATIENCE);
        }
        // Not under the lock: a disk that hangs must not make who asks for the last answer wait.
        let space = self.reserve.space(&self.dir);
        *self.lock_space() = space;
    }

    fn find_missing(&self, databases: &[Arc<SledDb>]) -> Option<String> {
        if !in_place(&self.dir.join(LOCK), self.lock.metadata().ok().as_ref()) {
            return Some(LOCK.into());
        }
        if self.has_identity.load(Ordering::Relaxed) && is_gone(&self.dir.join(IDENTITY)) {
            return Some(IDENTITY.into());
        }
        databases.iter().find_map(|db| Some(format!("{}/{}", db.name(), db.missing()?)))
    }
}

/// Whether there is certainly no file at `path`.
pub(crate) fn is_gone(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// Whether the file at `path` is the one that `opened` tells of.
pub(crate) fn in_place(path: &Path, opened: Option<&Metadata>) -> bool {
    let same = |found: &Metadata, opened: &Metadata| (found.dev(), found.ino()) == (opened.dev(), opened.ino());
    std::fs::metadata(path).is_ok_and(|found| opened.is_none_or(|opened| same(&found, opened)))
}
