//! The sled storage engine: the only files that name sled.

pub(crate) mod db;
pub(crate) mod engine;
pub(crate) mod errors;
pub(crate) mod file_state;
pub(crate) mod fsync;
pub(crate) mod panic_guard;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub(crate) mod wall_clock;
pub(crate) mod watchdog;
