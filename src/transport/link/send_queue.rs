//! The send queue of a member, and its limit in bytes.
//!
//! Why: the loop fills the queue without waiting, and a slow member must not exhaust the memory.
//!
//! Invariants: a queue is bounded in frames and in bytes; bytes count until the frame is written or dropped.
//!
//! See also: `outbox` (what happens to a frame without room).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use raft::eraftpb::Message;

use crate::consensus::Hop;
use crate::model::{DiskSpace, Request, StateDigest};

/// The maximum frames queued for one member.
pub const QUEUE_FRAMES: usize = 4096;
/// The maximum bytes queued for one member, 64 MiB.
pub const QUEUE_BYTES: usize = 64 << 20;

/// A queued frame.
pub enum QueuedFrame {
    /// A raft message.
    Step(Box<Message>, QueuedBytes),
    /// A client's request; its token is in the member's [`Forwards`](super::forwards::Forwards).
    Forward(u64, Hop, Request, QueuedBytes),
    /// The member's raft id was removed.
    Removed,
    /// The digest of this leader's state.
    Digest(StateDigest),
    /// The free disk space of this node.
    Space(DiskSpace),
}

/// The bytes of a queued frame, released when dropped.
pub struct QueuedBytes {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl QueuedBytes {
    /// Reserves `bytes`; None if the queue is full.
    pub fn take(total: &Arc<AtomicUsize>, bytes: usize) -> Option<Self> {
        let before = total.fetch_add(bytes, Ordering::Relaxed);
        // Releases them again when dropped over the limit.
        let guard = Self { bytes, total: Arc::clone(total) };
        (before + bytes <= QUEUE_BYTES).then_some(guard)
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        let before = self.total.fetch_sub(self.bytes, Ordering::Relaxed);
        debug_assert!(before >= self.bytes, "bytes are released once");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_has_a_bound_in_bytes_and_gets_room_back() {
        let total = Arc::new(AtomicUsize::new(0));
        let most = QueuedBytes::take(&total, QUEUE_BYTES).unwrap();
        assert!(QueuedBytes::take(&total, 1).is_none());
        drop(most);
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert!(QueuedBytes::take(&total, 1).is_some());
    }
}
