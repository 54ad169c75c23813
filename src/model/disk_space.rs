//! Free disk space of a node.
//!
//! Why: all members hold the same data, so one full disk stops the cluster's writes. Each member reports its free space,
//! and the leader refuses growing writes before a disk is full.
//!
//! ```text
//!   free   |---- all writes ----| reserve |-- deletes, touches, expiries, checkpoints --| floor |-- reads, membership --| 0
//! ```
//!
//! See also: `storage` (measurement), `consensus::proposals::disk_space` (what is refused).

use serde::{Deserialize, Serialize};

/// The least floor: a start needs 20 MiB, and the write-out of what is pending up to three segments of 4 MiB.
const MIN_FLOOR_BYTES: u64 = 32 << 20;

/// Free space and reserve of the disk of a data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpace {
    /// The free bytes; as a member reports them, without what it has yet to write.
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

    /// Returns the floor: half of the reserve, but at least 32 MiB, and never more than the reserve. Deleting also takes
    /// space before it frees any, so below the floor a node writes next to nothing.
    #[must_use]
    pub fn floor_bytes(self) -> u64 {
        // A reserve of 256 MiB has the floor 128; one of 40 MiB has 32, since a restart needs as much; one of 8 MiB has 8.
        (self.reserve_bytes / 2).max(MIN_FLOOR_BYTES).min(self.reserve_bytes)
    }

    /// Whether less than the floor is free.
    #[must_use]
    pub fn is_below_floor(self) -> bool {
        self.free_bytes < self.floor_bytes()
    }

    /// Returns the space that is left once so many more bytes are written.
    #[must_use]
    pub fn after_writing(self, bytes: u64) -> Self {
        Self { free_bytes: self.free_bytes.saturating_sub(bytes), ..self }
    }

    /// Whether the two are on different sides of the reserve or of the floor.
    #[must_use]
    pub fn level_differs(self, other: Self) -> bool {
        // A change of level is reported to the other members at once, smaller changes with the next report.
        (self.is_nearly_full(), self.is_below_floor()) != (other.is_nearly_full(), other.is_below_floor())
    }

    /// Returns the free bytes above the floor.
    #[must_use]
    pub fn above_floor(self) -> u64 {
        self.free_bytes.saturating_sub(self.floor_bytes())
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
    let tenths = bytes.saturating_mul(10) >> 20;
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
    fn the_floor_is_half_of_the_reserve_within_32_mib_and_the_reserve() {
        // In MiB: no reserve, reserves below 32 (the floor is the reserve), up to 64 (the floor is 32), and above (half).
        for (reserve, floor) in [(0, 0), (8, 8), (32, 32), (40, 32), (64, 32), (67, 33), (256, 128), (1024, 512)] {
            let space = |free_bytes| DiskSpace { free_bytes, reserve_bytes: reserve << 20 };
            assert_eq!(space(0).floor_bytes() >> 20, floor, "a reserve of {reserve} MiB");
            assert!(!space(space(0).floor_bytes()).is_below_floor());
            assert_eq!(space(0).is_below_floor(), reserve > 0);
            assert_eq!(space(space(0).floor_bytes() + 5).above_floor(), 5);
        }
    }

    #[test]
    fn pending_writes_count_as_used() {
        // 70 MiB free with a reserve of 64 and a floor of 32: 7 pending MiB reach the reserve, 39 the floor, 99 exceed the
        // disk.
        let space = DiskSpace { free_bytes: 70 << 20, reserve_bytes: 64 << 20 };
        for (pending, nearly_full, below_floor) in
            [(0, false, false), (7, true, false), (39, true, true), (99, true, true)]
        {
            let after = space.after_writing(pending << 20);
            assert_eq!((after.is_nearly_full(), after.is_below_floor()), (nearly_full, below_floor), "{pending} MiB");
            assert_eq!(space.level_differs(after), pending > 0);
        }
    }

    #[test]
    fn bytes_are_printed_in_mib() {
        assert_eq!([mib(0), mib(63 << 20), mib((3 << 19) + 7)], ["0.0 MiB", "63.0 MiB", "1.5 MiB"]);
    }
}
