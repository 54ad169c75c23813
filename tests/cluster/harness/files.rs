//! Files of a data directory: listing, copying, sizes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Every file below `directory`, sorted. A file that goes away meanwhile is left out.
pub fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(next) = todo.pop() {
        let Ok(entries) = fs::read_dir(&next) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                Ok(_) => found.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// The bytes on disk of everything below `directory`, as blocks.
pub fn blocks(directory: &Path) -> u64 {
    walk(directory).iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.blocks() * 512).sum()
}

/// Every file below `directory` that lies in a `blobs` folder.
pub fn blobs(directory: &Path) -> Vec<PathBuf> {
    walk(directory).into_iter().filter(|path| path.components().any(|part| part.as_os_str() == "blobs")).collect()
}

/// Copies all files below `from` to `to`.
pub fn copy(from: &Path, to: &Path) {
    for path in walk(from) {
        let target = to.join(path.strip_prefix(from).expect("a path below the directory"));
        fs::create_dir_all(target.parent().expect("a file lies in a directory")).expect("making a directory");
        fs::copy(&path, target).expect("copying a file");
    }
}

/// The content of all files below `directory`, to see whether anything changed.
pub fn content(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    walk(directory).into_iter().map(|path| (path.clone(), fs::read(&path).unwrap_or_default())).collect()
}
