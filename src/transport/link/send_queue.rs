//! The send queue of a member: a control lane and a bulk lane, each bounded.
//!
//! Why: the loop fills the queue without waiting, and a slow member must not exhaust the memory. What must be timely
//! (heartbeats, ReadIndex, votes, acknowledgements) must not wait for megabytes of entries before it.
//!
//! ```text
//!   append 7, append 8, heartbeat, append 9   is written as   heartbeat, append 7, append 8, append 9
//! ```
//!
//! Invariants: both lanes are bounded in frames, and the bulk lane in bytes; bytes count until the frame is written or
//! dropped. Each lane keeps its order. Between the lanes only what means the same before and after any append overtakes:
//! a heartbeat commits no more than its receiver has acknowledged, and a read waits for the index that answers it. An
//! append never overtakes another, not even an empty one: its receiver would refuse it and be probed anew. Entries are
//! queued once: what waits here is either written, or dropped and reported as `PeerDown`. An empty bulk lane takes one message of
//! any size, and a full one still takes small messages. A forwarded request takes no bytes here: they were reserved where it
//! came in, and the queue shares them.
//!
//! See also: `outbox` (what happens to a frame without room).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use raft::eraftpb::{Message, MessageType};
use tokio::sync::mpsc;

use crate::consensus::Hop;
use crate::model::{DiskSpace, Request, StateDigest};

/// The maximum frames in each lane of one member.
pub const QUEUE_FRAMES: usize = 4096;
/// The size up to which a message without entries always has room.
const SMALL_BYTES: usize = 1 << 10;

/// The loop's end of a send queue.
pub struct SendQueue {
    control: mpsc::Sender<QueuedFrame>,
    bulk: mpsc::Sender<QueuedFrame>,
    held: Arc<Held>,
    max: usize,
}

/// The link's end of a send queue.
pub struct SendQueueEnd {
    control: mpsc::Receiver<QueuedFrame>,
    bulk: mpsc::Receiver<QueuedFrame>,
}

/// Returns an empty queue whose bulk lane holds at most `max` bytes.
pub fn send_queue(max: usize) -> (SendQueue, SendQueueEnd) {
    let (control, control_end) = mpsc::channel(QUEUE_FRAMES);
    let (bulk, bulk_end) = mpsc::channel(QUEUE_FRAMES);
    (SendQueue { control, bulk, held: Arc::default(), max }, SendQueueEnd { control: control_end, bulk: bulk_end })
}

impl SendQueue {
    /// Queues a frame in the control lane; false if it has no room.
    pub fn put_control(&self, frame: QueuedFrame) -> bool {
        self.control.try_send(frame).is_ok()
    }

    /// Queues a frame of this size in the bulk lane; false if it has no room.
    pub fn put_bulk(&self, bytes: usize, frame: impl FnOnce(QueuedBytes) -> QueuedFrame) -> bool {
        self.put(bytes, None, frame)
    }

    /// Queues a message with entries in the bulk lane; false if it has no room. Entries that the lane holds already are
    /// not queued again: a heartbeat that has overtaken them makes raft send them once more.
    pub fn put_append(&self, bytes: usize, message: Box<Message>) -> bool {
        let entries = Entries::of(&message);
        entries.is_some_and(|entries| self.held.covers(entries))
            || self.put(bytes, entries, |bytes_held| QueuedFrame::Append(message, bytes_held))
    }

    /// Queues a forwarded request in the bulk lane; false if it has no room.
    pub fn put_forward(&self, token: u64, hop: Hop, request: Request) -> bool {
        self.bulk.try_send(QueuedFrame::Forward(token, hop, request)).is_ok()
    }

    fn put(&self, bytes: usize, entries: Option<Entries>, frame: impl FnOnce(QueuedBytes) -> QueuedFrame) -> bool {
        // Bytes first, frames second: if the channel is full the closure's frame is dropped, and its `QueuedBytes`
        // gives the bytes back.
        let held = QueuedBytes::take(&self.held, bytes, entries, self.max);
        held.is_some_and(|bytes_held| self.bulk.try_send(frame(bytes_held)).is_ok())
    }

    /// Whether the link has ended.
    pub fn is_closed(&self) -> bool {
        self.bulk.is_closed()
    }
}

impl SendQueueEnd {
    /// Waits for the next frame, those of the control lane first; None once the queue is closed and empty. Cancel safe.
    pub async fn recv(&mut self) -> Option<QueuedFrame> {
        tokio::select! {
            biased;
            Some(frame) = self.control.recv() => Some(frame),
            Some(frame) = self.bulk.recv() => Some(frame),
            else => None,
        }
    }

    /// Takes the next frame if there is one.
    pub fn try_recv(&mut self) -> Option<QueuedFrame> {
        self.control.try_recv().or_else(|_| self.bulk.try_recv()).ok()
    }

    /// Whether no frame is queued.
    pub fn is_empty(&self) -> bool {
        self.control.is_empty() && self.bulk.is_empty()
    }
}

/// Whether a raft message goes by the control lane: all but those that bring entries.
pub fn is_control(message: &Message) -> bool {
    !matches!(message.msg_type, MessageType::MsgAppend | MessageType::MsgSnapshot | MessageType::MsgPropose)
}

/// A queued frame.
pub enum QueuedFrame {
    /// A raft message with entries.
    Append(Box<Message>, QueuedBytes),
    /// Another raft message.
    Step(Box<Message>),
    /// A client's request; its token is in the member's [`Forwards`](super::forwards::Forwards).
    Forward(u64, Hop, Request),
    /// The member's raft id was removed.
    Removed,
    /// The digest of this leader's state.
    Digest(StateDigest),
    /// The free disk space of this node.
    Space(DiskSpace),
}

/// The entries of an append: the term of the leader that sent it, and the first and the last index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entries {
    term: u64,
    first: u64,
    last: u64,
}

impl Entries {
    fn of(message: &Message) -> Option<Self> {
        let last = message.index + message.entries.len() as u64;
        (last > message.index).then_some(Self { term: message.term, first: message.index + 1, last })
    }
}

/// What the bulk lane holds.
#[derive(Default)]
struct Held {
    bytes: AtomicUsize,
    /// The entries of its appends, in their order.
    appends: Mutex<Vec<Entries>>,
}

impl Held {
    fn appends(&self) -> MutexGuard<'_, Vec<Entries>> {
        self.appends.lock().expect("no panic while the lock is held")
    }

    /// Whether the lane holds all of these entries: a leader has one entry for each index in its term.
    fn covers(&self, wanted: Entries) -> bool {
        // The lane holds 11 to 15 and 16 to 20 of term 3. Wanted 12 to 19: the first takes `next` from 12 to 16, the
        // second to 21, so all are held. Wanted 12 to 21: `next` stays at 21, and the message is queued.
        let mut next = wanted.first;
        for held in self.appends().iter().filter(|held| held.term == wanted.term) {
            if (held.first..=held.last).contains(&next) {
                next = held.last + 1;
            }
        }
        next > wanted.last
    }
}

/// The place of a queued frame, released when dropped.
pub struct QueuedBytes {
    bytes: usize,
    entries: Option<Entries>,
    held: Arc<Held>,
}

impl QueuedBytes {
    /// Reserves `bytes`; None if the queue is full.
    fn take(held: &Arc<Held>, bytes: usize, entries: Option<Entries>, max: usize) -> Option<Self> {
        let before = held.bytes.fetch_add(bytes, Ordering::Relaxed);
        held.appends().extend(entries);
        // Releases them again when dropped over the limit.
        let guard = Self { bytes, entries, held: Arc::clone(held) };
        // An entry of 20 MB passes an empty lane of 8 MB alone, and an empty append passes a full one.
        (before + bytes <= max || before == 0 || bytes <= SMALL_BYTES).then_some(guard)
    }
}

impl Drop for QueuedBytes {
    fn drop(&mut self) {
        let before = self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        debug_assert!(before >= self.bytes, "bytes are released once");
        if let Some(entries) = self.entries {
            let mut appends = self.held.appends();
            let place = appends.iter().position(|held| *held == entries);
            place.map(|place| appends.remove(place));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8 << 20;

    #[test]
    fn the_queue_has_a_bound_in_bytes_and_gets_room_back() {
        let held = Arc::<Held>::default();
        let most = QueuedBytes::take(&held, MAX, None, MAX).unwrap();
        assert!(QueuedBytes::take(&held, SMALL_BYTES + 1, None, MAX).is_none());
        assert!(QueuedBytes::take(&held, SMALL_BYTES, None, MAX).is_some(), "a small message has room");
        drop(most);
        assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
        assert!(QueuedBytes::take(&held, SMALL_BYTES + 1, None, MAX).is_some());
    }

    #[test]
    fn a_message_over_the_bound_passes_an_empty_queue_alone() {
        let held = Arc::<Held>::default();
        let largest = QueuedBytes::take(&held, 2 * MAX, None, MAX).unwrap();
        assert!(QueuedBytes::take(&held, 2 * MAX, None, MAX).is_none());
        drop(largest);
        let small = QueuedBytes::take(&held, 1, None, MAX).unwrap();
        assert!(QueuedBytes::take(&held, 2 * MAX, None, MAX).is_none());
        drop(small);
    }

    #[tokio::test]
    async fn entries_that_wait_in_the_queue_are_not_queued_again() {
        let (queue, mut end) = send_queue(MAX);
        let append = |term, before, count| {
            let entries = vec![raft::eraftpb::Entry::default(); count].into();
            Box::new(Message { msg_type: MessageType::MsgAppend, term, index: before, entries, ..Message::default() })
        };
        let mut unwritten = Vec::new();
        // Term, index before the first entry, number of entries; whether it is queued.
        for (term, before, count, queued) in [
            (3, 10, 5, true),
            (3, 15, 5, true),
            (3, 10, 5, false),
            (3, 12, 8, false),
            (3, 12, 9, true),
            (3, 9, 2, true),
            (4, 10, 5, true),
            (3, 15, 0, true),
            (3, 15, 0, true),
        ] {
            assert!(queue.put_append(1, append(term, before, count)));
            let last = std::iter::from_fn(|| end.bulk.try_recv().ok()).collect::<Vec<_>>();
            assert_eq!(last.len(), usize::from(queued), "{count} entries after {before} of term {term}");
            unwritten.extend(last);
        }
        drop(unwritten);
        assert!(queue.put_append(1, append(3, 10, 5)) && !end.is_empty(), "what was written is sent again");
    }

    fn step(msg_type: MessageType, index: u64) -> Box<Message> {
        Box::new(Message { msg_type, index, ..Message::default() })
    }

    #[tokio::test]
    async fn control_frames_overtake_appends_and_each_lane_keeps_its_order() {
        let (queue, mut end) = send_queue(MAX);
        for index in 1..=3 {
            assert!(queue.put_bulk(1, |bytes| QueuedFrame::Append(step(MessageType::MsgAppend, index), bytes)));
            assert!(queue.put_control(QueuedFrame::Step(step(MessageType::MsgHeartbeat, index))));
        }
        drop(queue);
        let mut got = Vec::new();
        while let Some(QueuedFrame::Append(message, _) | QueuedFrame::Step(message)) = end.recv().await {
            got.push((message.msg_type == MessageType::MsgAppend, message.index));
        }
        assert_eq!(got, [(false, 1), (false, 2), (false, 3), (true, 1), (true, 2), (true, 3)]);
        assert!(end.is_empty() && end.try_recv().is_none());
    }

    #[tokio::test]
    async fn a_full_bulk_lane_leaves_the_control_lane_its_room() {
        let (queue, mut end) = send_queue(MAX);
        let append = |bytes| QueuedFrame::Append(step(MessageType::MsgAppend, 1), bytes);
        assert!(queue.put_bulk(MAX, append) && !queue.put_bulk(SMALL_BYTES + 1, append));
        assert!(queue.put_control(QueuedFrame::Step(step(MessageType::MsgHeartbeat, 1))));
        assert!(matches!(end.recv().await, Some(QueuedFrame::Step(_))));
        assert!(matches!(end.recv().await, Some(QueuedFrame::Append(..))));
        assert!(queue.put_bulk(SMALL_BYTES + 1, append));
    }

    #[test]
    fn messages_with_entries_of_the_log_are_bulk_and_all_others_control() {
        use MessageType::*;
        for bulk in [MsgAppend, MsgSnapshot, MsgPropose] {
            assert!(!is_control(&step(bulk, 1)), "{bulk:?}");
        }
        let control = [MsgHeartbeat, MsgHeartbeatResponse, MsgAppendResponse, MsgReadIndex, MsgReadIndexResp];
        let votes =
            [MsgRequestVote, MsgRequestVoteResponse, MsgRequestPreVote, MsgRequestPreVoteResponse, MsgTimeoutNow];
        for control in control.into_iter().chain(votes) {
            assert!(is_control(&step(control, 1)), "{control:?}");
        }
    }
}
