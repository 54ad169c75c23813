//! The sled engine: one directory, one sled database per name.
//!
//! Why: sled 0.34 has faults that a node must not inherit, and each is handled here. A flush that does not reach the disk is
//! proven to be replaced ([`super::sync_override`]). Panics on damaged files become [`Error::Damaged`]. A file in `blobs/` is refused. A
//! half-written `snap.*.generating`, left by a kill or a full disk, would make the next start fail as corrupt although it was
//! never in use; it is removed. One of sled's two write paths stores an error without waking its waiter, so the [`Watchdog`]
//! wakes calls that take seconds. sled panics where the wall clock shows a time before 1970 ([`super::clamped_system_time`]).
//!
//! Invariants: the directory belongs to one process (`LOCK`). After one failed write or sync a database answers only errors. What
//! can be checked is checked before sled opens anything, because opening writes.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::disk_health::{Reserve, Watchdog};
use super::errors::{system_error, translate};
use super::guarded_db::SledDb;
use super::io_threads;
use super::panic_guard::{catch_panic, disk_wait};
use super::sync_override;
use crate::model::DiskSpace;
use crate::storage::layout::{IDENTITY, LOCK, PROOF_KEY, SPOOL};
use crate::storage::{Db, Engine, Error};

/// The size of sled's segments. A page record over a quarter of it becomes a blob, and the largest page is an inner
/// one: some 256 children, each under a key of up to 2 KiB when escaped. With sled's default of 512 KiB, keys of 1 KiB
/// with a long common prefix create blobs (measured); 4 MiB has room, at the same speed and for about 30 MB more disk
/// (measured).
const SEGMENT_BYTES: usize = 4 << 20;

/// The interval of the rounds of sled's cleaner, which ends a round with each segment that it has emptied. Under uniform overwrites of a
/// million keys (259 MB) at 12 000 a second the tree grew by 300 MB a minute without rounds, by 95 with one each 500 ms, and not beyond
/// 700 MB with ten a second, for 2 % of a core (measured).
const CLEANED_EVERY_MS: u64 = 100;

/// The content of sled 0.34's `conf` file for these settings, before its checksum.
const CONF: &[u8] = b"segment_size: 4194304\nuse_compression: false\nversion: 0.34\n";

/// The bytes of a file that are synced at once.
const SYNC_PART: usize = 256 << 10;

/// How long an open waits for sled's threads of an earlier handle to release the file.
const REOPEN_WAIT: Duration = Duration::from_secs(5);

/// How long a dropped engine waits for the watchdog thread.
const WATCHDOG_EXIT_WAIT: Duration = Duration::from_millis(200);

/// The sled engine: one database per name, under one directory.
pub struct SledEngine {
    dir: PathBuf,
    path_text: String,
    spool: Mutex<()>,
    watchdog: Arc<Watchdog>,
    lock: Arc<File>,
    reserve: Reserve,
}

impl SledEngine {
    /// As [`SledEngine::with_reserve`], with the default reserve.
    ///
    /// # Errors
    /// As there.
    pub fn new(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        Self::with_reserve(dir, None)
    }

    /// Locks the directory for this process, and creates it durably if it does not exist. `reserve` is the disk space
    /// to leave free, 0 for none; the default is a tenth of the file system, at least 64 MiB or a quarter of it, and at
    /// most 256 MiB.
    ///
    /// # Errors
    /// [`Error::Busy`] where another process has it, [`Error::Full`] and [`Error::Io`] where the system refuses.
    pub fn with_reserve(dir: impl Into<PathBuf>, reserve: Option<u64>) -> Result<Self, Error> {
        let dir = dir.into();
        let path_text = dir.display().to_string();
        make_dir(&dir).map_err(|error| system_error("creating the directory", &dir, error))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .custom_flags(i32::from_ne_bytes(rustix::fs::OFlags::NOFOLLOW.bits().to_ne_bytes()))
            .open(dir.join(LOCK));
        let lock = lock.map_err(|error| system_error("opening LOCK", &dir, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Busy { path: path_text }),
            Err(TryLockError::Error(error)) => return Err(system_error("locking LOCK", &dir, error)),
        }
        // Left by a process that was killed between creating the scratch file and unlinking it. The lock is held, so it
        // is in no use.
        match std::fs::remove_file(dir.join(SPOOL)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(system_error("removing the spool", &dir, error));
            }
            _ => {}
        }
        let lock = Arc::new(lock);
        let reserve = Reserve(reserve);
        let watchdog = Watchdog::start(&dir, Arc::clone(&lock), reserve);
        Ok(Self { dir, path_text, spool: Mutex::new(()), watchdog, lock, reserve })
    }

    fn system(&self, what: impl Into<String>, error: std::io::Error) -> Error {
        system_error(what, &self.dir, error)
    }

    fn damaged(&self, what: &str, detail: impl Into<String>) -> Error {
        Error::Damaged { what: what.into(), detail: detail.into(), path: self.path_text.clone() }
    }

    /// Checks the files of a database without opening it.
    fn inspect(&self, name: &str) -> Result<(), Error> {
        let folder = self.dir.join(name);
        let reading = |error| self.system(format!("reading {name}"), error);
        if !folder.is_dir() {
            return Err(self.damaged(name, "the folder is missing"));
        }
        let conf = match std::fs::read(folder.join("conf")) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(self.damaged(name, "the file conf is missing"));
            }
            other => other.map_err(reading)?,
        };
        if conf != [CONF, &crc32fast::hash(CONF).to_le_bytes()].concat() {
            return Err(self.damaged(name, "the file conf is not as it was written"));
        }
        match std::fs::metadata(folder.join("db")) {
            Ok(db) if db.len() == 0 => return Err(self.damaged(name, "the file db is empty")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(self.damaged(name, "the file db is missing"));
            }
            other => other.map_err(reading)?,
        };
        // sled does not sync blob files, so a value in one could be lost after it was acknowledged.
        if let Some(blob) = self.list(&format!("{name}/blobs"))?.first() {
            return Err(self.damaged(name, format!("blobs/{blob} exists, and nothing huskv stores may be in a blob")));
        }
        for file in self.list(name)? {
            if file.starts_with("snap.") && file.ends_with(".generating") {
                std::fs::remove_file(folder.join(&file)).map_err(|error| self.system("removing", error))?;
            }
        }
        Ok(())
    }

    fn start(&self, name: &str, cache_bytes: u64) -> Result<sled::Db, Error> {
        #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
        super::clamped_system_time::bound();
        let config = sled::Config::new()
            .path(self.dir.join(name))
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(cache_bytes)
            // The cleaner runs as often, for at most half of the time. See `sync_override` for its syncs.
            .flush_every_ms(Some(CLEANED_EVERY_MS));
        // An open reads the heads of all segments, each as a job of its own.
        io_threads::release();
        let begun = Instant::now();
        loop {
            match catch_panic(true, || config.open()) {
                Ok(Ok(db)) => return Ok(db),
                // sled closes a database on its own threads, some time after the last handle was dropped.
                Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                    if begun.elapsed() > REOPEN_WAIT {
                        return Err(Error::Busy { path: self.path_text.clone() });
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(Err(error)) => return Err(translate(error, "opening", name, &self.dir)),
                Err(panicked) => return Err(panicked.into_error(name, &self.dir)),
            }
        }
    }

    /// Verifies once per process that sled's flush ends in our fdatasync, and that its other syncs come by us.
    fn prove_syncs(&self, db: &SledDb) -> Result<(), Error> {
        static PROVEN: OnceLock<()> = OnceLock::new();
        if cfg!(not(target_os = "linux")) || PROVEN.get().is_some() {
            return Ok(());
        }
        // The counter moves only if sled's call was linked to our function.
        let before = sync_override::syncs();
        // Writes another value each time: an unchanged one would leave nothing to flush.
        let last = db.get(&PROOF_KEY)?.and_then(|bytes| Some(u64::from_be_bytes(bytes.try_into().ok()?)));
        db.put(&PROOF_KEY, &last.unwrap_or(0).wrapping_add(1).to_be_bytes())?;
        db.sync()?;
        if sync_override::syncs() == before {
            return Err(Error::NotDurable { detail: "a flush ended without fdatasync".into() });
        }
        let before = sync_override::file_syncs();
        sync_dir(&self.dir).map_err(|error| self.system("syncing the directory", error))?;
        if sync_override::file_syncs() == before {
            return Err(Error::NotDurable { detail: "a failed fsync of sled could go unnoticed".into() });
        }
        PROVEN.get_or_init(|| ());
        Ok(())
    }
}

impl Drop for SledEngine {
    /// Waits for the watchdog thread to release the lock, so that the directory can be opened again in this process.
    fn drop(&mut self) {
        let begun = Instant::now();
        while Arc::strong_count(&self.watchdog) > 1 && begun.elapsed() < WATCHDOG_EXIT_WAIT {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Engine for SledEngine {
    fn open(&self, name: &str, create: bool, cache_bytes: u64) -> Result<Arc<dyn Db>, Error> {
        let _waiting = disk_wait();
        let folder = self.dir.join(name);
        if create {
            let making = |error| self.system(format!("creating {name}"), error);
            if let Some(parent) = folder.parent() {
                make_dir(parent).map_err(making)?;
            }
            std::fs::create_dir(&folder).map_err(making)?;
        } else {
            self.inspect(name)?;
        }
        // Order: sled opens, the first flush of the process proves that its syncs are ours, and only then is anything
        // relied on.
        let db = SledDb::new(self.start(name, cache_bytes)?, name, &self.dir, self.lock.clone());
        let db = Arc::new(db);
        self.prove_syncs(&db)?;
        db.sync()?;
        let durably = || {
            // A killed process may have written without a sync, and sled has nothing to flush now.
            File::open(folder.join("db"))?.sync_all()?;
            File::open(folder.join("conf"))?.sync_all()?;
            sync_dir(&folder)?;
            if create { folder.parent().map_or(Ok(()), sync_dir) } else { Ok(()) }
        };
        durably().map_err(|error| self.system(format!("syncing {name}"), error))?;
        self.watchdog.add(&db);
        Ok(db)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let _waiting = disk_wait();
        self.watchdog.unwatch(name);
        let path = self.dir.join(name);
        let removed = match std::fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_dir() => std::fs::remove_file(&path),
            _ => std::fs::remove_dir_all(&path),
        };
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.system(format!("removing {name}"), error)),
            _ => Ok(()),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, Error> {
        let _waiting = disk_wait();
        let listing = |error| self.system(format!("listing {folder:?}"), error);
        let entries = match std::fs::read_dir(self.dir.join(folder)) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(listing)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(listing)?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let _waiting = disk_wait();
        match std::fs::read(self.dir.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.system(format!("reading {name}"), error)),
            Ok(bytes) => Ok(Some(bytes)),
        }
    }

    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error> {
        let _waiting = disk_wait();
        let path = self.dir.join(name);
        let fresh = path.with_extension("tmp");
        let replace = || {
            // write, fsync, rename, fsync of the directory: after a crash the old or the new content is there, never a mix.
            let mut file = create_new(&fresh)?;
            // A large one is synced part by part: one sync of all of it would hold up the journal's on the same disk.
            for part in content.chunks(SYNC_PART) {
                file.write_all(part)?;
                file.sync_data()?;
            }
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            path.parent().map_or(Ok(()), sync_dir)
        };
        replace().map_err(|error| {
            let error = self.system(format!("replacing {name}"), error);
            drop(std::fs::remove_file(&fresh));
            error
        })?;
        if name == IDENTITY {
            self.watchdog.has_identity();
        }
        Ok(())
    }

    fn scratch(&self) -> Result<File, Error> {
        let _waiting = disk_wait();
        let _one = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.dir.join(SPOOL);
        let make = || {
            let file = create_new(&path)?;
            // Unlinked while open: the space is free again when the process ends, whatever ends it.
            std::fs::remove_file(&path)?;
            Ok(file)
        };
        make().map_err(|error| self.system("creating the spool", error))
    }

    fn space(&self) -> Option<DiskSpace> {
        self.reserve.space(&self.dir)
    }

    fn last_space(&self) -> Option<DiskSpace> {
        self.watchdog.space()
    }

    fn path(&self) -> String {
        self.path_text.clone()
    }

    fn check(&self) -> Result<(), Error> {
        match self.watchdog.missing() {
            Some(what) => Err(Error::Gone { what, path: self.path_text.clone() }),
            None => Ok(()),
        }
    }
}

/// Creates a file for reading and writing. An existing one is removed first and never followed: through a planted link
/// this process would overwrite the file the link names.
fn create_new(path: &Path) -> std::io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().create_new(true).read(true).write(true).open(path)
}

/// Creates a folder and its missing parents, each durable in its parent.
fn make_dir(path: &Path) -> std::io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    path.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir(path: &Path) -> std::io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}
