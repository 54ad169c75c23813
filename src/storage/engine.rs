//! The storage engine interface.
//!
//! Why: journal, state machine and data directory use only these two traits. So the simulator can run them over an engine that
//! loses what was not synced, and sled stays behind [`super::SledEngine`].
//!
//! Invariants: a failed write or sync poisons a database: every later call fails. Names are relative paths with `/`.
//!
//! See also: `layout` (what is stored).

use std::sync::Arc;

use super::Error;
use crate::model::DiskSpace;

/// A set of absolute changes, atomic with regard to crashes.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Keys with new values, None for a removal; a later change of the same key wins.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A change of a key: its new value, or None for a removal.
pub type Change<'a> = (&'a [u8], Option<&'a [u8]>);

/// One ordered key-value database. Writes are visible at once and durable after [`Db::sync`].
pub trait Db: Send + Sync {
    /// Returns the value of `key`.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Sets `key`.
    ///
    /// # Errors
    /// [`Error`] as for any failed write: the database is poisoned.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error>;
    /// Applies `batch` atomically with regard to crashes; concurrent readers may see a part of it.
    ///
    /// # Errors
    /// [`Error`] as for any failed write: the database is poisoned.
    fn write(&self, batch: Batch) -> Result<(), Error>;
    /// Applies changes one by one, in order; a crash may leave any part of them. No reader waits for more than one of them.
    ///
    /// # Errors
    /// [`Error`] as for any failed write: the database is poisoned.
    fn write_each(&self, changes: &[Change<'_>]) -> Result<(), Error>;
    /// Returns up to `limit` pairs with `from <= key < to` in byte order; without `to` the range is unbounded.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error>;
    /// Returns the key that has `n` keys of `from <= key` in front of it; None if there are not so many.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn nth_key(&self, from: &[u8], n: usize) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.scan(from, None, n.saturating_add(1))?.into_iter().nth(n).map(|(key, _)| key))
    }
    /// Returns the last pair with `from <= key < to`.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error>;
    /// Makes every write that returned before this call durable.
    ///
    /// # Errors
    /// [`Error`] where that failed: the database is poisoned.
    fn sync(&self) -> Result<(), Error>;
    /// Returns about its bytes on disk; 0 if the engine does not report them.
    fn size_on_disk(&self) -> u64 {
        0
    }
    /// Returns its relative name, for messages.
    fn name(&self) -> &str;
    /// Returns the path of the data directory, for messages.
    fn directory(&self) -> &str;
}

/// A data directory with databases and small files.
pub trait Engine: Send + Sync {
    /// Opens a database; `create` makes a new one, otherwise a missing one is damage. Everything in it is durable on
    /// return, also what a killed process wrote before its sync, because readers rely on it.
    ///
    /// # Errors
    /// [`Error`] where it cannot be opened or is damaged.
    fn open(&self, name: &str, create: bool, cache_bytes: u64) -> Result<Arc<dyn Db>, Error>;
    /// Removes a database or folder with everything in it, or a file; a missing one is no error.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn remove(&self, name: &str) -> Result<(), Error>;
    /// Lists the names in a folder ("" is the root); none if it does not exist.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn list(&self, folder: &str) -> Result<Vec<String>, Error>;
    /// Reads a small file; None if it does not exist.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
    /// Replaces a small file atomically; durable on return.
    ///
    /// # Errors
    /// [`Error`] where the system refuses; the old content is still there then.
    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error>;
    /// Creates an unnamed scratch file, which is deleted when the process ends.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn scratch(&self) -> Result<std::fs::File, Error>;
    /// Measures the free disk space; None if the system does not report it. Blocks as long as the disk does.
    fn space(&self) -> Option<DiskSpace> {
        None
    }
    /// Returns the free disk space of at most two seconds ago; does not block.
    fn last_space(&self) -> Option<DiskSpace> {
        self.space()
    }
    /// Returns the path of the data directory, for messages.
    fn path(&self) -> String;
    /// Checks that the files in use are still in place, as of at most two seconds ago; does not block.
    ///
    /// # Errors
    /// [`Error::Gone`] if one was removed or replaced: later writes are lost at the next start.
    fn check(&self) -> Result<(), Error>;
}

impl Error {
    /// Returns the error of a damaged database.
    pub(super) fn damaged(db: &dyn Db, detail: impl Into<String>) -> Self {
        Self::Damaged { what: db.name().into(), detail: detail.into(), path: db.directory().into() }
    }
}
