//! The sled storage engine: the only files that name sled.

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod bounded_wall_clock;
pub(crate) mod engine;
pub(crate) mod errors;
pub(crate) mod file_identity;
pub(crate) mod guarded_db;
pub(crate) mod panic_guard;
pub(crate) mod sync_override;
pub(crate) mod watchdog;
