//! What the process asks of the system before a node starts: who may read its files, how many it may open, and the pages
//! that it is given.
//!
//! Why: the directory holds every value that clients stored, and a soft limit of 1 024 files is a few hundred clients.
//!
//! Laws: nothing here can fail a start. What the system refuses is a line in the log.
//!
//! Not here: the sockets that count against the limit (`http`, `transport`).

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use slog::{Logger, debug, warn};

/// The permissions that nothing this process creates has: those of group and others, so files are 0600 and directories
/// 0700.
const PRIVATE: Mode = Mode::RWXG.union(Mode::RWXO);

/// Makes what the process creates private, and raises its soft limit of open files to the hard one.
pub fn prepare(log: &Logger) {
    umask(PRIVATE);
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!(log, "the limit of open files cannot be raised"; "soft" => ?limit.current, "hard" => ?limit.maximum, "error" => %error);
    }
}

/// Has the system give this process small pages alone: a start takes 25 MB less (measured), and memory goes
/// back in smaller pieces.
pub(super) fn refuse_huge_pages(log: &Logger) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        debug!(log, "huge pages cannot be switched off"; "error" => %error);
    }
}

/// Says in the log where others than the owner can enter the node's directory.
pub(super) fn check_directory(directory: &Path, log: &Logger) {
    let Ok(metadata) = std::fs::metadata(directory) else { return };
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & PRIVATE.bits() != 0 {
        warn!(log, "the node's directory is open to others; chmod 700 closes it";
            "directory" => directory.display().to_string(), "mode" => format!("{mode:o}"));
    }
}
