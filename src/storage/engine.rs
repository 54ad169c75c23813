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

/// A set of absolute changes that take effect together or, after a crash, not at all.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Keys with their new values, or None for a removal; a later change of the same key wins.
    pub changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

/// A key with its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// One ordered key-value database. Writes are visible at once and durable after [`Db::sync`].
pub trait Db: Send + Sync {
    /// The value of `key`.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Sets `key`.
    ///
    /// # Errors
    /// [`Error`] as for any failed write: the database is poisoned.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<(), Error>;
    /// Applies `batch` atomically as far as crashes are concerned; readers may see it half done.
    ///
    /// # Errors
    /// [`Error`] as for any failed write: the database is poisoned.
    fn write(&self, batch: Batch) -> Result<(), Error>;
    /// Up to `limit` pairs with `from <= key`, and `key < to` where given, in byte order.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn scan(&self, from: &[u8], to: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Error>;
    /// The last pair with `from <= key < to` in byte order.
    ///
    /// # Errors
    /// [`Error`] where the engine cannot read or finds damage.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, Error>;
    /// Makes every write that returned before this call durable.
    ///
    /// # Errors
    /// [`Error`] where that failed: the database is poisoned.
    fn sync(&self) -> Result<(), Error>;
    /// About how many bytes it takes up on the disk; 0 where the engine does not say.
    fn size_on_disk(&self) -> u64 {
        0
    }
    /// The relative name it was opened under, for messages.
    fn name(&self) -> &str;
    /// The node's directory as people know it, for messages.
    fn directory(&self) -> &str;
}

/// Where databases and small files live: one node's directory.
pub trait Engine: Send + Sync {
    /// Opens the database of this relative name; `create` makes a new one, otherwise a missing one is damage. What it
    /// holds is durable on return, also what a process wrote that was killed before its sync: whoever reads it, promises it.
    ///
    /// # Errors
    /// [`Error`] where it cannot be opened or is damaged.
    fn open(&self, name: &str, create: bool, cache_bytes: u64) -> Result<Arc<dyn Db>, Error>;
    /// Removes a database or folder of this relative name with everything in it; one that is not there is fine.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn remove(&self, name: &str) -> Result<(), Error>;
    /// The names in a relative folder ("" is the root); none where it does not exist.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn list(&self, folder: &str) -> Result<Vec<String>, Error>;
    /// A small file's content, or None where there is none.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn read_file(&self, name: &str) -> Result<Option<Vec<u8>>, Error>;
    /// Replaces a small file atomically; durable on return.
    ///
    /// # Errors
    /// [`Error`] where the system refuses; the old content is still there then.
    fn replace_file(&self, name: &str, content: &[u8]) -> Result<(), Error>;
    /// An empty, unnamed scratch file that is gone with the process.
    ///
    /// # Errors
    /// [`Error`] where the system refuses.
    fn scratch(&self) -> Result<std::fs::File, Error>;
    /// What is left of the disk now; None where the system does not say. It may take as long as the disk does.
    fn space(&self) -> Option<DiskSpace> {
        None
    }
    /// The same, as of at most a second or two ago; does not block.
    fn last_space(&self) -> Option<DiskSpace> {
        self.space()
    }
    /// The directory as people know it, for messages.
    fn path(&self) -> String;
    /// Whether the files in use are still where the engine keeps them, as of at most a second or two ago; does not block.
    ///
    /// # Errors
    /// [`Error::Gone`] where one was removed or replaced: what is written from now on is lost at the next start.
    fn check(&self) -> Result<(), Error>;
}
