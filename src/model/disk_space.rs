//! Free disk space of a node.
//!
//! Why: all members hold the same data, so one full disk stops the cluster's writes. Each member reports its free space, and the
//! leader refuses growing writes before a disk is full.
//!
//! See also: `storage` (measurement), `consensus::proposals::disk_space` (what is refused).

use serde::{Deserialize, Serialize};

/// Free space and reserve of the disk of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// The free bytes.
    pub free_bytes: u64,
    /// The reserve (`storage.reserve_mb`); 0 for none.
    pub reserve_bytes: u64,
}

impl DiskSpace {
    /// Whether less than the reserve is free.
    #[must_use]
    pub fn is_nearly_full(self) -> bool {
        self.free_bytes < self.reserve_bytes
    }

    /// Returns the free bytes above the reserve.
    #[must_use]
    pub fn room(self) -> u64 {
        self.free_bytes.saturating_sub(self.reserve_bytes)
    }
}

/// Formats bytes in MiB, such as `63.5 MiB`.
#[must_use]
pub fn mib(bytes: u64) -> String {
    const TENTH: u64 = (1 << 20) / 10;
    let tenths = bytes / TENTH;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_nearly_full_below_the_reserve_and_never_without_one() {
        let space = |free_bytes, reserve_bytes| DiskSpace { free_bytes, reserve_bytes };
        assert!(space(9, 10).is_nearly_full() && !space(10, 10).is_nearly_full() && !space(0, 0).is_nearly_full());
        assert_eq!((space(9, 10).room(), space(25, 10).room(), space(7, 0).room()), (0, 15, 7));
    }

    #[test]
    fn bytes_are_printed_in_mib() {
        assert_eq!([mib(0), mib(63 << 20), mib((3 << 19) + 7)], ["0.0 MiB", "63.0 MiB", "1.5 MiB"]);
    }
}
