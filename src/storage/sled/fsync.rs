//! fsync for sled, free disk space, and thread priority.
//!
//! Why: on Linux sled 0.34 ends a flush in `sync_file_range`, which is no fsync: it writes no metadata and does not flush the
//! disk's cache, so a power failure loses acknowledged data. This file defines that one C symbol, to which sled's call links
//! instead of libc's, as a real `fdatasync`. So each buffer that sled writes is durable before the next one. A flush followed by
//! our own sync was not enough: 1 of 20 simulated power failures lost entries (measured with sled 0.34.7).
//!
//! Invariants: with [`super::wall_clock`] the only `unsafe` in the tree. That the definition is in force is not assumed:
//! [`crate::storage::SledEngine`] flushes once and refuses to start if [`syncs`] has not moved.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The priority of [`lower_thread_priority`], as in nice(1): about a tenth of a core beside a thread that has the usual one.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: libc::c_int = 10;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// How many syncs this process has asked its disks for, through the definition below; 0 on systems without it.
#[must_use]
pub fn syncs() -> u64 {
    // A use of the function, so that the linker takes the object that defines it, and does so before it sees libc's.
    #[cfg(target_os = "linux")]
    std::hint::black_box(sync_file_range as *const ());
    CALLS.load(Ordering::SeqCst)
}

/// Stands in for libc's function of this name: syncs the whole file, whatever range is asked for.
///
/// # Safety
/// None is needed beyond C's calling convention: `fd` is only handed on, and the kernel checks it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "defining a C symbol is how sled's call is made to reach the disk")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(
    fd: libc::c_int,
    _offset: libc::off64_t,
    _bytes: libc::off64_t,
    _flags: libc::c_uint,
) -> libc::c_int {
    CALLS.fetch_add(1, Ordering::SeqCst);
    #[cfg(test)]
    let fd = faults::file(fd);
    loop {
        // SAFETY: fdatasync takes any number and answers EBADF for one that is no open file.
        let answer = unsafe { libc::fdatasync(fd) };
        if answer == 0 || std::io::Error::last_os_error().kind() != std::io::ErrorKind::Interrupted {
            return answer;
        }
    }
}

/// What a file system has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileSystem {
    /// Bytes that an unprivileged process can still write.
    pub free_bytes: u64,
    /// All bytes.
    pub all_bytes: u64,
    /// Whether it can hold no further file, however many bytes are free.
    pub lacks_inodes: bool,
}

/// The file system that `path` is on; None where the system does not say.
#[allow(unsafe_code, reason = "statvfs has no counterpart in std")]
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut answer = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero byte, and the call writes at most one statvfs to the place it is given.
    if unsafe { libc::statvfs(path.as_ptr(), answer.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call answered 0, so it has filled the structure.
    let answer = unsafe { answer.assume_init() };
    #[allow(clippy::useless_conversion, reason = "the fields have other widths on other systems")]
    let bytes = |blocks| u64::from(blocks).saturating_mul(u64::from(answer.f_frsize));
    let (free_bytes, all_bytes) = (bytes(answer.f_bavail), bytes(answer.f_blocks));
    // A file system that makes inodes as it needs them, such as btrfs, has none at all.
    Some(FileSystem { free_bytes, all_bytes, lacks_inodes: answer.f_files > 0 && answer.f_favail == 0 })
}

/// Lets every other thread go before the calling one where there are not cores enough: for long work that no client waits
/// for. Where the system knows no priority of a single thread, nothing.
#[allow(unsafe_code, reason = "setpriority has no counterpart in std")]
pub fn lower_thread_priority() {
    // SAFETY: the call takes numbers alone. On Linux, 0 is the calling thread, and anybody may lower a priority.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, BACKGROUND_NICE);
    }
}

/// Lets a test make the syncs of one file fail.
#[cfg(all(test, target_os = "linux"))]
pub(crate) mod faults {
    use std::os::fd::RawFd;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, PoisonError};

    static FAILING: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    /// From now on every sync of the file at `path` fails.
    pub(crate) fn fail(path: &Path) {
        FAILING.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_path_buf());
    }

    /// The file to sync in place of `fd`: itself, or one that cannot be synced.
    pub(crate) fn file(fd: RawFd) -> RawFd {
        let failing = FAILING.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{fd}")) else { return fd };
        if failing.contains(&path) { -1 } else { fd }
    }
}
