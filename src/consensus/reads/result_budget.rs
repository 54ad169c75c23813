//! Unsent results: bytes of read results that http has not taken from the loop yet.
//!
//! Why: the loop reads values faster than they can be written out as JSON, and whether there is memory for an answer is
//! only asked then. Thousands of reads at once would be thousands of values in memory.
//!
//! Invariants: where too much lies there, the loop reads nothing more until some was taken; what waits then is answered
//! late, by the next turn that finds room.
//!
//! See also: how many reads may wait (`reads`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most bytes that may lie there before the loop stops reading.
const MOST_BYTES: usize = 32 << 20;

/// Counts what lies there.
#[derive(Debug, Clone, Default)]
pub(crate) struct UnsentResults(Arc<AtomicUsize>);

/// What one reply adds, until it is taken.
#[derive(Debug)]
pub(crate) struct UnsentBytes {
    all: UnsentResults,
    bytes: usize,
}

impl UnsentResults {
    /// A reply of so many bytes goes out.
    pub(crate) fn add(&self, bytes: usize) -> UnsentBytes {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        UnsentBytes { all: self.clone(), bytes }
    }

    /// Whether the loop is to read nothing more for now.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= MOST_BYTES
    }
}

impl Drop for UnsentBytes {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_until_some_was_taken() {
        let unsent = UnsentResults::default();
        let lying: Vec<_> = (0..4).map(|_| unsent.add(MOST_BYTES / 4)).collect();
        assert!(unsent.is_full());
        drop(lying);
        assert!(!unsent.is_full());
    }
}
