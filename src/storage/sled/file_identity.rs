//! File identity: whether a path still leads to the file that was opened.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whether there is certainly no file at `path`.
pub(crate) fn is_missing(path: &Path) -> bool {
    matches!(path.try_exists(), Ok(false))
}

/// Whether the file at `path` is the one with the metadata `opened`.
pub(crate) fn is_same_file(path: &Path, opened: Option<&Metadata>) -> bool {
    // The inode, not only the name: a directory restored from a backup under a running node has all the names.
    let same = |found: &Metadata, opened: &Metadata| (found.dev(), found.ino()) == (opened.dev(), opened.ino());
    std::fs::metadata(path).is_ok_and(|found| opened.is_none_or(|opened| same(&found, opened)))
}
