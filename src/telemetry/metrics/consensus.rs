//! Figures of writes, reads, the loop, the journal, flushes and snapshots.

use std::fmt;
use std::time::Duration;

use super::counters::{Counter, Gauge, Seconds};
use super::exposition::Exposition;
use super::histogram::Histogram;

/// An apply of a batch that takes longer is slow, as in etcd.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// Why a write failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No leader took it in time.
    NoLeader,
    /// It was not decided in time.
    Timeout,
    /// Too much waits on a node.
    Overloaded,
    /// The disk of a voter is nearly full.
    DiskNearlyFull,
    /// The node is starting or stopping, or serves in no cluster.
    NotServing,
    /// It is invalid.
    Invalid,
    /// Anything else.
    Other,
}

impl Failure {
    const ALL: [(Self, &'static str); 7] = [
        (Self::NoLeader, "no_leader"),
        (Self::Timeout, "timeout"),
        (Self::Overloaded, "overloaded"),
        (Self::DiskNearlyFull, "disk_nearly_full"),
        (Self::NotServing, "not_serving"),
        (Self::Invalid, "invalid"),
        (Self::Other, "other"),
    ];
}

/// Writes of this node's clients, proposed here or on the leader that they were forwarded to.
#[derive(Debug)]
pub struct Proposals {
    /// From the request to its answer, of those that were applied.
    pub duration: Histogram,
    failed: [Counter; Failure::ALL.len()],
    /// Writes whose outcome their client was not told.
    pub unknown_outcomes: Counter,
    /// Writes whose condition was false.
    pub preconditions_failed: Counter,
    /// Writes answered with the stored result of their idempotency key.
    pub idempotency_replayed: Counter,
    /// Transactions whose checks held.
    pub txn_succeeded: Counter,
    /// The others.
    pub txn_failed: Counter,
}

impl Default for Proposals {
    fn default() -> Self {
        Self {
            duration: Histogram::of_disk(),
            failed: Default::default(),
            unknown_outcomes: Counter::default(),
            preconditions_failed: Counter::default(),
            idempotency_replayed: Counter::default(),
            txn_succeeded: Counter::default(),
            txn_failed: Counter::default(),
        }
    }
}

impl Proposals {
    /// Counts a write that failed.
    pub fn failed(&self, why: Failure) {
        self.failed[why as usize].inc();
    }

    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.counters(
            "huskv_server_proposals_failed",
            "Writes of clients of this node that were refused or not decided.",
            Failure::ALL.map(|(why, reason)| (vec![("reason", reason)], self.failed[why as usize].get())),
        )?;
        to.counter(
            "huskv_server_unknown_outcomes",
            "Writes of clients of this node that may or may not have been applied.",
            self.unknown_outcomes.get(),
        )?;
        to.histogram(
            "huskv_server_proposal_duration_seconds",
            "Time from a write of a client of this node to its answer, of those that were applied.",
            &self.duration,
        )?;
        to.counter(
            "huskv_preconditions_failed",
            "Writes of clients of this node whose condition was false.",
            self.preconditions_failed.get(),
        )?;
        to.counter(
            "huskv_idempotency_replayed",
            "Writes of clients of this node answered with a stored result.",
            self.idempotency_replayed.get(),
        )?;
        to.counters(
            "huskv_txn",
            "Transactions of clients of this node, by whether their checks held.",
            [
                (vec![("succeeded", "true")], self.txn_succeeded.get()),
                (vec![("succeeded", "false")], self.txn_failed.get()),
            ],
        )
    }
}

/// Linearizable reads of this node's clients.
#[derive(Debug)]
pub struct Reads {
    /// From the request to the leave to read.
    pub read_index_duration: Histogram,
    /// Reads without that leave.
    pub read_indexes_failed: Counter,
}

impl Default for Reads {
    fn default() -> Self {
        Self { read_index_duration: Histogram::of_disk(), read_indexes_failed: Counter::default() }
    }
}

impl Reads {
    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.histogram(
            "huskv_server_read_index_duration_seconds",
            "Time until a linearizable read of a client of this node was confirmed.",
            &self.read_index_duration,
        )?;
        to.counter(
            "huskv_server_read_indexes_failed",
            "Linearizable reads of clients of this node that were not confirmed.",
            self.read_indexes_failed.get(),
        )
    }
}

/// The loop, and what it waits for.
#[derive(Debug)]
pub struct Loop {
    /// The time of turns; the rest is waiting for something to do.
    pub busy: Seconds,
    /// Syncs of the journal.
    pub wal_fsync: Histogram,
    /// Flushes of the memtable into the tree, without their rests.
    pub backend_commit: Histogram,
    apply: Histogram,
    slow_apply: Counter,
}

impl Default for Loop {
    fn default() -> Self {
        Self {
            busy: Seconds::default(),
            wal_fsync: Histogram::of_disk(),
            backend_commit: Histogram::of_disk(),
            apply: Histogram::of_disk(),
            slow_apply: Counter::default(),
        }
    }
}

impl Loop {
    /// Counts the apply of a batch of entries.
    pub fn applied(&self, took: Duration) {
        self.apply.observe(took);
        if took > SLOW_APPLY {
            self.slow_apply.inc();
        }
    }

    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.histogram("huskv_disk_wal_fsync_duration_seconds", "Duration of syncs of the journal.", &self.wal_fsync)?;
        to.histogram(
            "huskv_disk_backend_commit_duration_seconds",
            "Duration of flushes of the memtable into the tree, without their rests.",
            &self.backend_commit,
        )?;
        to.histogram(
            "huskv_server_apply_duration_seconds",
            "Duration of the apply of a batch of committed entries.",
            &self.apply,
        )?;
        to.counter("huskv_server_slow_apply", "Batches whose apply took over 100 ms.", self.slow_apply.get())?;
        to.counter(
            "huskv_loop_busy_seconds",
            "Time in which the consensus loop worked or waited for its disk; its rate is the saturation.",
            self.busy.get(),
        )
    }
}

/// Checkpoints, and snapshot streams to and from other nodes.
#[derive(Debug)]
pub struct Snapshots {
    /// Checkpoints of the state.
    pub taken: Counter,
    /// Streams to a follower that failed.
    pub sends_failed: Counter,
    /// Streams from a leader that failed.
    pub installs_failed: Counter,
    /// Streams to a follower that installed it.
    pub send: Histogram,
    /// Streams from a leader, to the end of the install.
    pub install: Histogram,
    /// The bytes of the state that was last streamed, as the sender announced them.
    pub bytes: Gauge,
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            taken: Counter::default(),
            sends_failed: Counter::default(),
            installs_failed: Counter::default(),
            send: Histogram::of_streams(),
            install: Histogram::of_streams(),
            bytes: Gauge::default(),
        }
    }
}

impl Snapshots {
    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        to.counter("huskv_snapshot_taken", "Checkpoints of the state.", self.taken.get())?;
        to.counters(
            "huskv_snapshot_failures",
            "Snapshot streams that failed, to a follower (send) and from a leader (install).",
            [
                (vec![("what", "send")], self.sends_failed.get()),
                (vec![("what", "install")], self.installs_failed.get()),
            ],
        )?;
        to.histogram(
            "huskv_snapshot_send_duration_seconds",
            "Duration of snapshot streams to a follower, until it had installed them.",
            &self.send,
        )?;
        to.histogram(
            "huskv_snapshot_install_duration_seconds",
            "Duration of snapshot streams from a leader, until they were installed.",
            &self.install,
        )?;
        to.gauge(
            "huskv_snapshot_bytes",
            "Bytes of the state that was last streamed, as its sender announced them.",
            self.bytes.get(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter() {
        let proposals = Proposals::default();
        for (at, (why, _)) in Failure::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at);
            (0..=at).for_each(|_| proposals.failed(why));
        }
        let counted = proposals.failed.each_ref().map(Counter::get);
        assert_eq!(counted, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn an_apply_is_slow_above_a_tenth_of_a_second() {
        let turns = Loop::default();
        turns.applied(SLOW_APPLY);
        assert_eq!(turns.slow_apply.get(), 0);
        turns.applied(SLOW_APPLY + Duration::from_nanos(1));
        assert_eq!((turns.slow_apply.get(), turns.apply.read().1), (1, 2));
    }
}
