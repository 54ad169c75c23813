//! A guarded sled database behind the [`Db`] interface: panics contained, poisoned after a failed write.
//!
//! Why: every call goes through one place that catches panics, remembers a failure for good, and translates sled's errors for
//! operators.
//!
//! Invariants: after one error every call fails and none reaches sled.
//!
//! See also: [`super::engine`] (how a database is checked and opened), [`super::io_threads`] (sled's own threads).

use std::fs::{File, Metadata};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use super::errors::translate;
use super::file_identity::{is_missing, is_same_file};
use super::io_threads;
use super::panic_guard::{Poison, catch_panic};
use crate::storage::{Batch, Change, Db, Error, Pair};

/// One sled database.
pub(crate) struct SledDb {
    /// None only while it is dropped.
    db: Option<sled::Db>,
    name: String,
    dir: PathBuf,
    path_text: String,
    poison: Poison,
    /// The metadata of the `db` file when it was opened; None if the system did not report it.
    file: Option<Metadata>,
    /// The start times of running calls.
    running: Mutex<Vec<Instant>>,
    /// The bytes written since the last flush.
    unflushed: AtomicU64,
    /// The directory stays locked while any of its databases is open.
    _lock: Arc<File>,
}

impl SledDb {
    /// Wraps an open database of the node in `dir`.
    pub(crate) fn new(db: sled::Db, name: &str, dir: &Path, lock: Arc<File>) -> Self {
        Self {
            db: Some(db),
            name: name.into(),
            dir: dir.into(),
            path_text: dir.display().to_string(),
            poison: Poison::default(),
            file: std::fs::metadata(dir.join(name).join("db")).ok(),
            running: Mutex::default(),
            unflushed: AtomicU64::new(0),
            _lock: lock,
        }
    }

    fn run<T>(&self, what: &str, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Error> {
        self.poison.check(&self.path_text)?;
        let Some(db) = &self.db else { return Err(self.poison.error(&self.path_text)) };
        // The watchdog looks at the start times of running calls.
        let begun = Instant::now();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(begun);
        let answer = catch_panic(false, || call(db));
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = running.iter().position(|other| *other == begun) {
            running.swap_remove(at);
        }
        // Released before a failure is translated: that may ask the file system, and the watchdog takes this lock.
        drop(running);
        match answer {
            Ok(Ok(value)) => Ok(value),
            // Poisoned, because after a failed fdatasync the kernel may have dropped the dirty pages: a second sync
            // could succeed without the data being on the disk.
            Ok(Err(error)) => {
                self.poison.set(false);
                Err(translate(error, what, &self.name, &self.dir))
            }
            Err(panicked) => {
                self.poison.set(true);
                Err(panicked.into_error(&self.name, &self.dir))
            }
        }
    }

    /// Returns the missing file that the engine needs, if any.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let folder = self.dir.join(&self.name);
        if !is_same_file(&folder.join("db"), self.file.as_ref()) {
            return Some("db");
        }
        is_missing(&folder.join("conf")).then_some("conf")
    }

    /// Called by the watchdog: if a call has run for `stuck_after` and sled has stored an error meanwhile, a second
    /// flush fails at once and wakes the first call, which then fails, too.
    pub(crate) fn wake_stuck_call(&self, stuck_after: Duration) {
        let Some(db) = &self.db else { return };
        if self.has_run_for(stuck_after) && db.context.global_error().is_err() {
            drop(db.flush());
        }
    }

    /// Whether a call has run for so long.
    pub(crate) fn has_run_for(&self, time: Duration) -> bool {
        let oldest = self.running.lock().unwrap_or_else(PoisonError::into_inner).iter().min().copied();
        oldest.is_some_and(|begun| begun.elapsed() >= time)
    }

    /// Whether nothing was written since the last flush.
    pub(crate) fn is_flushed(&self) -> bool {
        self.unflushed.load(Ordering::SeqCst) == 0
    }

    /// Begins a flush on a thread of sled's that calls `waker` at its end; returns whether it will.
    pub(crate) fn begin_flush(&self, waker: &Waker) -> bool {
        if self.poison.check(&self.path_text).is_err() {
            return false;
        }
        let Some(db) = &self.db else { return false };
        let pending = || pin!(db.flush_async()).poll(&mut Context::from_waker(waker)).is_pending();
        catch_panic(false, pending).unwrap_or(false)
    }

    /// Counts bytes that are about to be written.
    fn note_write(&self, bytes: usize) {
        let before = self.unflushed.fetch_add(bytes as u64, Ordering::SeqCst);
        if before + bytes as u64 > io_threads::BURST_BYTES {
            io_threads::release();
        }
    }
}

impl Db for SledDb {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.run("reading", |db| Ok(db.get(key)?.map(|value| value.to_vec())))
    }

    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.note_write(key.len() + value.len());
        self.run("writing", |db| db.insert(key, value).map(drop))
    }

    fn write(&self, batch: Batch) -> Result<(), Error> {
        let (mut changes, mut bytes) = (sled::Batch::default(), 0);
        for (key, value) in batch.changes {
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.note_write(bytes);
        self.run("writing", |db| db.apply_batch(changes))
    }

    fn write_each(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        self.run("writing", |db| {
            changes.iter().try_for_each(|(key, value)| match value {
                Some(value) => db.insert(key, *value).map(drop),
                None => db.remove(key).map(drop),
            })
        })
    }

    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        self.run("reading", |db| {
            let range = db.range::<&[u8], _>((Included(from), to.map_or(Unbounded, Excluded)));
            range.take(limit).map(|pair| pair.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
        })
    }

    fn nth_key(&self, from: &[u8], n: usize) -> Result<Option<Vec<u8>>, Error> {
        // Without copies of the values.
        self.run("reading", |db| Ok(db.range(from..).keys().nth(n).transpose()?.map(|key| key.to_vec())))
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error> {
        self.run("reading", |db| {
            let pair = db.range(from..to).next_back().transpose()?;
            Ok(pair.map(|(key, value)| (key.to_vec(), value.to_vec())))
        })
    }

    fn sync(&self) -> Result<(), Error> {
        // What is written meanwhile by another thread may not be part of this flush.
        let unflushed = self.unflushed.load(Ordering::SeqCst);
        self.run("syncing", |db| db.flush().map(drop))?;
        self.unflushed.fetch_sub(unflushed, Ordering::SeqCst);
        Ok(())
    }

    fn size_on_disk(&self) -> u64 {
        self.run("measuring", |db| db.size_on_disk()).unwrap_or(0)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn directory(&self) -> &str {
        &self.path_text
    }
}

impl Drop for SledDb {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        if self.poison.panicked() {
            // Dropping it would flush, which may hang or panic again after a panic.
            std::mem::forget(db);
        } else {
            drop(catch_panic(false, || drop(db)));
        }
    }
}
