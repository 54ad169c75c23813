//! Override of sled's sync calls: a real fdatasync, and none by its cleaner; free disk space, and thread priority.
//!
//! Why: on Linux sled 0.34 ends a flush in `sync_file_range`, which is no fsync: it writes no metadata and does not flush the
//! disk's cache, so a power failure loses acknowledged data. This file defines that one C symbol, to which sled's call links
//! instead of libc's, as a real `fdatasync`. So each buffer that sled writes is durable before the next one. A flush followed by
//! our own sync was not enough: 1 of 20 simulated power failures lost entries (measured with sled 0.34.7).
//!
//! sled's cleaner, a thread for each database, moves what is left in nearly empty segments, so that they are used again; without it a file
//! grows to many times its data. It ends each round in an fsync whose failure it only logs. The system reports a failure once: our next sync
//! of the file would succeed, and promise what is not on the disk. So `fsync` is defined here as well, and does nothing on that thread; the
//! buffers that the cleaner fills are synced as all others are.
//!
//! Invariants: with [`super::clamped_system_time`] and `node::allocator` the only `unsafe` in the source. That the definition is in force is not assumed:
//! [`crate::storage::SledEngine`] flushes once and refuses to start if [`syncs`] has not moved.

#[cfg(target_os = "linux")]
use std::cell::OnceCell;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The nice value of [`lower_thread_priority`]: about a tenth of a core beside a thread of normal priority.
#[cfg(target_os = "linux")]
const BACKGROUND_NICE: i32 = 10;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of syncs through `sync_file_range` since the process started; 0 on other systems.
#[must_use]
pub fn syncs() -> u64 {
    // Uses the function, so that the linker resolves the symbol here before it searches libc.
    #[cfg(target_os = "linux")]
    std::hint::black_box(sync_file_range as *const ());
    CALLS.load(Ordering::SeqCst)
}

/// Replaces libc's function of this name: syncs the whole file, whatever the range.
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
    // Range and flags are ignored: an fdatasync of the whole file covers any range.
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

/// The name of the cleaner's thread.
#[cfg(target_os = "linux")]
const CLEANER: &str = "log flusher";

static FILE_SYNCS: AtomicU64 = AtomicU64::new(0);

/// Returns the number of calls of `fsync` since the process started; 0 on other systems.
#[must_use]
pub fn file_syncs() -> u64 {
    #[cfg(target_os = "linux")]
    std::hint::black_box(fsync as *const ());
    FILE_SYNCS.load(Ordering::SeqCst)
}

/// Replaces libc's function of this name: on sled's cleaner it syncs nothing, on all other threads it is libc's.
///
/// # Safety
/// None is needed beyond C's calling convention: `fd` is only handed on, and the kernel checks it.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "defining a C symbol is how sled's call is caught")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: libc::c_int) -> libc::c_int {
    FILE_SYNCS.fetch_add(1, Ordering::SeqCst);
    if is_cleaner() {
        return 0;
    }
    // SAFETY: the next definition behind this one is libc's, or one that stands in front of it, and both have this type.
    let next = *NEXT.get_or_init(|| unsafe {
        let symbol = libc::dlsym(libc::RTLD_NEXT, c"fsync".as_ptr());
        (!symbol.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, SyncCall>(symbol))
    });
    match next {
        // SAFETY: it takes any number and answers EBADF for one that is no open file.
        Some(next) => unsafe { next(fd) },
        // SAFETY: as above.
        None => unsafe { libc::fdatasync(fd) },
    }
}

#[cfg(target_os = "linux")]
type SyncCall = unsafe extern "C" fn(libc::c_int) -> libc::c_int;

#[cfg(target_os = "linux")]
static NEXT: OnceLock<Option<SyncCall>> = OnceLock::new();

/// Whether the calling thread is a cleaner. Its priority is a normal one: it holds a lock of sled that all writes need.
#[cfg(target_os = "linux")]
fn is_cleaner() -> bool {
    thread_local! {
        static IS_CLEANER: OnceCell<bool> = const { OnceCell::new() };
    }
    let look = |known: &OnceCell<bool>| *known.get_or_init(|| std::thread::current().name() == Some(CLEANER));
    // A thread that ends has no such variables any more, and is no cleaner: that has synced before.
    IS_CLEANER.try_with(look).unwrap_or(false)
}

/// Capacity and free space of a file system.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileSystem {
    /// Free bytes for an unprivileged process.
    pub free_bytes: u64,
    /// Total bytes.
    pub all_bytes: u64,
    /// Whether it has no free inode, whatever its free bytes.
    pub lacks_inodes: bool,
}

/// Returns the file system of `path`, or None if the system does not report it.
pub(crate) fn file_system(path: &Path) -> Option<FileSystem> {
    let found = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    // A file system that creates inodes on demand, such as btrfs, reports none at all.
    let lacks_inodes = found.f_files > 0 && found.f_favail == 0;
    Some(FileSystem { free_bytes: bytes(found.f_bavail), all_bytes: bytes(found.f_blocks), lacks_inodes })
}

/// Lowers the priority of the calling thread, for long work that no client waits for. Does nothing where the system has no
/// priority per thread.
pub fn lower_thread_priority() {
    // On Linux this is the calling thread alone, and every process may lower its own priority.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, BACKGROUND_NICE);
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn an_fsync_fails_on_every_thread_but_the_cleaner_which_does_none() {
        // The system syncs no pipe.
        let (pipe, _end) = std::io::pipe().unwrap();
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        let before = file_syncs();
        assert!(pipe.sync_all().is_err());
        let as_cleaner = std::thread::Builder::new().name(CLEANER.into()).spawn(move || pipe.sync_all()).unwrap();
        as_cleaner.join().unwrap().unwrap();
        assert!(file_syncs() >= before + 2);
    }
}
