//! The size of the data directory and of its file system, measured now and then for the figures.
//!
//! Why: a scrape must not wait for a disk that stalls, so it shows what was measured last.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::telemetry::metrics::Metrics;

/// The time between two measurements.
const EVERY: Duration = Duration::from_secs(10);

/// Measures the directory for as long as the node runs.
pub(super) async fn measure(directory: PathBuf, metrics: Arc<Metrics>) {
    loop {
        let path = directory.clone();
        // What is not known now keeps the last figure.
        if let Ok((bytes, disk)) = tokio::task::spawn_blocking(move || (bytes_below(&path), bytes_of_disk(&path))).await
        {
            metrics.directory_bytes.set(bytes);
            metrics.disk_total_bytes.set(disk.unwrap_or(metrics.disk_total_bytes.get()));
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// The bytes of all files below a folder; one that goes away meanwhile counts nothing.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// The bytes of the file system of a folder; None where the system does not report them.
fn bytes_of_disk(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_blocks.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_all_folders_count_and_links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        std::fs::write(root.path().join("a/b"), [0; 1000]).unwrap();
        std::fs::write(root.path().join("c"), [0; 24]).unwrap();
        assert_eq!(bytes_below(root.path()), 1024);
        std::os::unix::fs::symlink(root.path(), root.path().join("a/loop")).unwrap();
        assert!(bytes_below(root.path()) < 2048);
        assert_eq!(bytes_below(&root.path().join("none")), 0);
    }
}
