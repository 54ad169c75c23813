//! Process-wide settings: file permissions, the limit of open files, huge pages.
//!
//! Why: the directory holds every value that clients stored, so no other user may read it; and a soft limit of 1 024
//! files is a few hundred clients.
//!
//! Invariants: nothing here fails a start. What the system refuses is a line in the log.
//!
//! See also: `node::fd_budget` and `node::memory`, which divide the limits.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use slog::{Logger, debug, warn};

/// The umask: no permissions for group and others, so files are 0600 and directories 0700.
const PRIVATE: Mode = Mode::RWXG.union(Mode::RWXO);

/// Sets the umask, and raises the soft limit of open files to the hard one.
pub fn prepare(log: &Logger) {
    umask(PRIVATE);
    // Only the soft limit can be raised without privileges.
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(log, "the limit of open files cannot be raised"; "soft" => ?limit.current, "hard" => ?limit.maximum, "error" => %error);
    }
}

/// Disables transparent huge pages for this process: a start takes 25 MB less (measured), and freed memory is returned in
/// smaller units.
pub(super) fn disable_huge_pages(log: &Logger) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        debug!(log, "huge pages cannot be disabled"; "error" => %error);
    }
}

/// Logs a warning where group or others have permissions on the node's directory.
pub(super) fn check_directory(directory: &Path, log: &Logger) {
    let Ok(metadata) = std::fs::metadata(directory) else { return };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & PRIVATE.bits() != 0 {
        warn!(log, "the node's directory is open to others; chmod 700 closes it";
            "directory" => directory.display().to_string(), "mode" => format!("{mode:o}"));
    }
}
