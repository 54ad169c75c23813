//! The sled storage engine: the only files that name sled.

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod clamped_system_time;
pub(crate) mod disk_health;
pub(crate) mod engine;
pub(crate) mod errors;
pub(crate) mod file_identity;
pub(crate) mod guarded_db;
pub(crate) mod io_threads;
pub(crate) mod panic_guard;
pub(crate) mod sync_override;
