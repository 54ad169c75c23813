//! Durations and moments as numbers.

/// Milliseconds; a moment is counted from the start of the process's monotonic clock (`consensus::Clock`).
pub type Millis = u64;
