//! Durations and instants as numbers, and the duration syntax of clients.

/// Milliseconds; a moment is counted from the start of the process's monotonic clock (`consensus::Clock`).
pub type Millis = u64;
