//! Translation of sled's and the system's errors into [`Error`].
//!
//! Why: an operator needs to know the place, the cause and the remedy; a full disk is told apart from all other errors.

use std::io::ErrorKind;
use std::path::Path;

use super::sync_override;
use crate::storage::Error;

/// Translates an error of sled.
pub(crate) fn translate(error: sled::Error, what: &str, name: &str, dir: &Path) -> Error {
    let path = dir.display().to_string();
    match error {
        sled::Error::Io(source) if matches!(source.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData) => {
            Error::Damaged { what: name.into(), detail: "a file ends too early or cannot be read".into(), path }
        }
        sled::Error::Io(source) => system_error(format!("{what} {name}"), dir, source),
        sled::Error::Corruption { .. } => {
            Error::Damaged { what: name.into(), detail: "a checksum of the storage engine does not fit".into(), path }
        }
        sled::Error::Unsupported(detail) => Error::Damaged { what: name.into(), detail, path },
        sled::Error::CollectionNotFound(_) | sled::Error::ReportableBug(_) => {
            Error::Damaged { what: name.into(), detail: "the storage engine finds it inconsistent".into(), path }
        }
    }
}

/// Translates an error of the system; a full disk gets an error of its own.
pub(crate) fn system_error(what: impl Into<String>, dir: &Path, source: std::io::Error) -> Error {
    let path = dir.display().to_string();
    match source.kind() {
        ErrorKind::StorageFull => disk_full(what, dir, false),
        ErrorKind::QuotaExceeded => disk_full(what, dir, true),
        _ => Error::Io { what: what.into(), path, source },
    }
}

/// Returns the error of a full disk, or of a full quota.
pub(crate) fn disk_full(what: impl Into<String>, dir: &Path, quota: bool) -> Error {
    let found = sync_override::file_system(dir);
    let hint = match found {
        _ if quota => ", but the quota of this user is used up, so more of that is needed",
        Some(found) if found.lacks_inodes => ", but the file system has no inode left, so files have to go",
        _ => "",
    };
    let free_bytes = found.map_or(0, |found| found.free_bytes);
    Error::Full { what: what.into(), path: dir.display().to_string(), free_bytes, hint }
}
