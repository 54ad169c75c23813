//! Checkpoints, log compaction, and snapshot streams to followers that the log no longer reaches.
//!
//! Why: the tree on disk is the snapshot (Raft thesis 5.2); a checkpoint is a flush, which makes it durable up to a known index, off
//! the loop, so that the log behind it can go. State is streamed only to a follower or joiner that needs it.
//!
//! ```text
//!   checkpoint:  begin_checkpoint --flush thread--> flushed: record, sync --> compact, a little each turn
//!   stream:      raft's offer --> begin_stream --spool thread--> scanned --> end_scanned, between two flushes
//!                                                            --> stream_ended: report to raft
//! ```
//!
//! Invariants: the log is never compacted beyond what the tree has durably, and the checkpoint is recorded
//! durably first. A stream ends between two flushes. One stream is under way at a time, and each
//! ends in a report to raft, or its follower is stuck for ever. Failed streams to one node are spaced 1 s, doubling to
//! 60 s. Compaction waits for a stream under way, within a bound, and not on a disk that is nearly full. Below the floor of the disk,
//! checkpoints, compaction and streams wait.
//!
//! See also: the scan (`storage::snapshot`), the stream (`transport::snapshot_stream`), the install
//! (`driver::own_incarnation_switch`).

mod journal_reclaim;
pub(crate) mod reclaim;

use std::collections::BTreeMap;

use raft::SnapshotStatus;
use raft::eraftpb::{Message, SnapshotMetadata};
use slog::{info, warn};

use super::core::{Core, Phase};
use super::input::{InstallError, Reply};
use crate::model::Millis;
use crate::model::{Code, DiskSpace, Refusal, mib};
use crate::storage::{Error, SnapshotTarget, SpoolBound};
use crate::telemetry::node_events::Kind;
use journal_reclaim::JournalReclaim;
use reclaim::Reclaim;

/// About the chunks of the journal that one step of a compaction removes, at least and at most; in between it is twice what was
/// added since the step before. What a checkpoint leaves behind, 4 000 chunks of 4 KiB, held up all clients for 50 ms when it was removed in
/// consecutive turns (measured). And sled frees nothing of what a batch replaces before the batch ends: 64 records of 1 MiB in one
/// batch took 200 MB and stalled the loop for two seconds (measured).
const CHUNKS_PER_STEP: (usize, usize) = (128, 1024);

/// The time between two steps, unless half of the maximum was added before.
const COMPACT_EVERY: Millis = 10;

/// The maximum bytes of log that a running snapshot keeps from being compacted.
const PIN_BYTES: u64 = 1 << 30;

/// How long the log behind a sent snapshot is kept, for the follower to go on from there.
const PIN_AFTER: Millis = 30_000;

/// The first and the longest pause after a failed snapshot.
const PAUSES: (Millis, Millis) = (1000, 60_000);

/// How long what is applied may wait for a flush: removed data is given back only once it has left the tree.
const FLUSH_AFTER: Millis = 30_000;

/// The space that a flush of some size may take beyond its estimate: segments that the engine begins.
const FLUSH_MARGIN: u64 = 8 << 20;

/// The shortest interval between two checkpoints that are taken only to measure the disk space.
const MEASURES_EVERY: Millis = 1000;

/// A running snapshot stream.
struct Stream {
    /// The token of its scan.
    token: u64,
    to: u64,
    /// The applied index when it began; once it has ended, the index of its state.
    index: u64,
    began: Millis,
    /// Whether the tree was scanned: the snapshot ends at the next flush, or at the last one if that had all of `index`.
    is_scanned: bool,
}

fn is_below_floor(core: &Core) -> bool {
    core.free_space().is_some_and(DiskSpace::is_below_floor)
}

/// A request for a checkpoint.
struct CheckpointRequest {
    deadline: Millis,
    /// The index that was applied at the request: the checkpoint is there or later.
    index: u64,
    reply: Reply<Result<(), Refusal>>,
}

/// Checkpoints and snapshot streams of this node.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// The mark of the flush under way, and when it began.
    flushing: Option<((u64, u64), Millis)>,
    /// The rewrite of the tree.
    pub reclaim: Reclaim,
    /// Until when it goes before the next flush.
    reclaim_until: Millis,
    /// The rewrite of the journal.
    pub journal_reclaim: JournalReclaim,
    /// Since when there is something to flush.
    unflushed_since: Option<Millis>,
    /// Requests for a checkpoint.
    waiting: Vec<CheckpointRequest>,
    /// The index that the log may be compacted to.
    pub(in crate::consensus) compact_to: u64,
    /// When the last step of a compaction was, or there was nothing to remove, and the chunks that the journal had written by then.
    compacted: (Millis, usize),
    /// The running stream.
    stream: Option<Stream>,
    /// The index that the receiver of the last snapshot still needs, and until when it is kept.
    pinned: Option<(u64, Millis)>,
    /// A stream that could not begin: its receiver, and why. Reported to raft after the turn's Ready.
    failed_start: Option<(u64, String)>,
    /// Consecutive failures by follower.
    failures: BTreeMap<u64, u32>,
    /// Whether the log says that a checkpoint waits for disk space.
    waits_for_space: bool,
    /// When the next checkpoint may begin that only measures the disk space.
    measures_after: Millis,
}

impl Snapshots {
    /// Forgets checkpoint, rewrite and compaction of the old state and log after an install.
    pub fn installed(&mut self, core: &mut Core) {
        self.reclaim.abandon(core);
        self.flushing = None;
        self.unflushed_since = None;
        self.compact_to = 0;
    }

    /// Requests a checkpoint of what is applied now.
    pub fn snapshot_now(&mut self, core: &Core, deadline: Millis, reply: Reply<Result<(), Refusal>>) {
        self.waiting.push(CheckpointRequest { deadline, index: core.applied(), reply });
    }

    fn begin_checkpoint(&mut self, core: &mut Core) {
        let Some(flush) = core.state_machine.freeze(self.reclaim.rewrite()) else { return };
        let mark = flush.mark();
        info!(core.log, "snapshot begun"; "index" => mark.0);
        self.flushing = Some((mark, core.now));
        self.unflushed_since = None;
        core.background.flush(flush);
    }

    /// Records a checkpoint: the tree is durable up to `mark`, and the log behind it may be compacted.
    pub fn flushed(&mut self, core: &mut Core, mark: (u64, u64), result: Result<u64, Error>) -> Result<(), Error> {
        // A disk that fails is believed no more, whichever generation the flush was for.
        let tree_bytes = result?;
        let Some((_, began)) = self.flushing.filter(|(expected, _)| *expected == mark) else { return Ok(()) };
        self.flushing = None;
        self.reclaim_until = Reclaim::turn_until(core.now, core.now.saturating_sub(began));
        // Hundreds of thousands of items: they are freed on another thread.
        if let Some(frozen) = core.state_machine.flush_ended(mark) {
            core.discard(frozen);
        }
        debug_assert!(mark.0 <= core.applied(), "a checkpoint is at or below what is applied");
        let behind = Self::keep_from(core, mark.0, core.options.snapshot_every_bytes);
        // Order: the state machine is durable up to `mark` (that is why this is called), the journal records it
        // durably, and only then may entries go. A crash in between finds the old checkpoint and the whole log.
        let log = core.raw.mut_store();
        let hard_state = log.hard_state.clone();
        log.journal.record_checkpoint(mark.0, mark.1);
        log.journal.append(&[], &hard_state)?;
        log.journal.sync()?;
        self.compact_to = self.compact_to.max(behind);
        info!(core.log, "snapshot ended"; "index" => mark.0, "term" => mark.1, "ms" => core.now.saturating_sub(began));
        core.note(Kind::Checkpoint { upto: mark.0, ms: core.now.saturating_sub(began) });
        // A flush that had begun before a request has not all that was applied then.
        for request in self.waiting.extract_if(.., |request| request.index <= mark.0) {
            (request.reply)(Ok(()));
        }
        self.reclaim.measured(core, tree_bytes)
    }

    /// Returns the index that the log may be compacted to after a checkpoint at `mark`. A tail is kept for slow
    /// followers, bounded by entries and, so that large values do not fill the disk, by `bytes`.
    fn keep_from(core: &Core, mark: u64, bytes: u64) -> u64 {
        let journal = &core.raw.store().journal;
        // Example: a checkpoint at 50 000, bounds of 10 000 entries and 64 MiB. Entries of 1 KiB: the log goes up to 40
        // 000, since 10 000 of them are 10 MiB. Entries of 1 MiB: it goes up to 49 936.
        let bound = journal.bytes_after(mark) + bytes;
        // Binary search for the first index behind which the log is no longer than the bound.
        let (mut low, mut high) = (mark.saturating_sub(core.options.snapshot_keep_entries), mark);
        while low < high {
            let middle = low + (high - low) / 2;
            if journal.bytes_after(middle) > bound { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Begins a checkpoint if one is due, and compacts a little.
    pub fn run_snapshots(&mut self, core: &mut Core) -> Result<(), Error> {
        // Here and not in `begin_stream`: that runs between a Ready and its advance, where nothing may be stepped.
        if let Some((to, reason)) = self.failed_start.take() {
            self.stream_ended(core, to, Err(reason));
        }
        let (mark, _) = core.raw.store().journal.checkpoint();
        let entries = core.state_machine.applied().0.saturating_sub(mark);
        let due = entries >= core.options.snapshot_every_entries
            || core.state_machine.is_full()
            || (entries > 0 && core.raw.store().journal.bytes_after(mark) >= core.options.snapshot_every_bytes)
            || self.reclaim.wants_flush(core.now)
            || (entries > 0 && self.is_old(core.now))
            || (entries > 0 && self.shows_space(core));
        let wanted = self.end_scanned(core) || due || !self.waiting.is_empty();
        let waits = self.waits_for_space(core, wanted);
        if core.phase == Phase::Member && self.flushing.is_none() && !self.reclaim.is_slicing() {
            let goes_first = core.stop_by.is_none() && self.reclaim.goes_first(core.now < self.reclaim_until);
            if wanted && !waits && !goes_first {
                self.begin_checkpoint(core);
            } else if core.stop_by.is_none() {
                self.reclaim.go_on(core, wanted)?;
            }
        }
        let now = core.now;
        for request in self.waiting.extract_if(.., |request| request.deadline <= now) {
            (request.reply)(Err(Refusal::unknown(
                Code::Timeout,
                "the snapshot was not taken before the deadline; it goes on",
            )));
        }
        if self.pinned.is_some_and(|(_, until)| now >= until) {
            self.pinned = None;
        }
        // Removing from the journal takes space before it frees any.
        if is_below_floor(core) {
            return Ok(());
        }
        let kept_from = self.kept_from(core);
        self.compact(core, kept_from)?;
        self.journal_reclaim.run(core, kept_from)
    }

    /// Whether what is applied has waited long enough for its flush.
    fn is_old(&mut self, now: Millis) -> bool {
        self.flushing.is_none() && now >= *self.unflushed_since.get_or_insert(now) + FLUSH_AFTER
    }

    /// Ends the snapshot that is streamed, if its tree was scanned and it can end now; returns whether it needs a flush first.
    fn end_scanned(&mut self, core: &mut Core) -> bool {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.is_scanned) else { return false };
        // What raft has offered is the state at `index` or a later one.
        let is_ready = !core.state_machine.is_flushing() && core.state_machine.flushed() >= stream.index;
        if is_ready {
            stream.is_scanned = false;
            stream.index = core.state_machine.flushed();
            core.state_machine.end_snapshot();
        }
        !is_ready
    }

    /// Whether the disk has too little space only by the estimate of what is still to be written; a checkpoint makes it
    /// exact.
    fn shows_space(&mut self, core: &Core) -> bool {
        let differs = core.free_space().zip(core.own_space()).is_some_and(|(free, own)| free.level_differs(own));
        let shows = differs && core.now >= self.measures_after;
        if shows {
            self.measures_after = core.now + MEASURES_EVERY;
        }
        shows
    }

    /// Whether a checkpoint has to wait until the disk is above its floor, and has room for the flush; requested ones are refused then.
    fn waits_for_space(&mut self, core: &Core, wanted: bool) -> bool {
        // A flush that finds no space ends the node; unflushed, the journal still has everything.
        let pending = core.state_machine.pending_bytes();
        let flush = if pending > FLUSH_MARGIN { pending + FLUSH_MARGIN } else { 0 };
        let least = |space: DiskSpace| space.floor_bytes().max(flush);
        let space = core.free_space().filter(|space| wanted && space.free_bytes < least(*space));
        let waited = std::mem::replace(&mut self.waits_for_space, space.is_some());
        let Some(space) = space else { return false };
        let (free, floor) = (mib(space.free_bytes), mib(least(space)));
        if !waited {
            warn!(core.log, "a checkpoint waits: the disk is almost full"; "free" => &free, "floor" => &floor);
        }
        let name = core.my_name();
        for request in std::mem::take(&mut self.waiting) {
            let detail = format!(
                "the disk of {name} has {free} free, and no checkpoint is taken below {floor} (storage.reserve_mb); free \
                 some on that file system or make it larger"
            );
            (request.reply)(Err(Refusal::not_applied(Code::DiskNearlyFull, detail)));
        }
        true
    }

    /// Returns the index behind which the log is kept: for slow followers, and for the receiver of a snapshot.
    pub fn kept_from(&self, core: &Core) -> u64 {
        // What a stream under way will need of the log: its receiver goes on from the index where the snapshot ends,
        // which is at least the one where it began. A log over 1 GiB or a disk that is nearly full outweighs that.
        let mut target = self.compact_to;
        let streaming = self.stream.as_ref().map(|stream| stream.index);
        let after = self.pinned.map(|(index, _)| index);
        let is_tight = core.own_space().is_some_and(DiskSpace::is_nearly_full);
        if is_tight {
            // Less than otherwise, and not nothing: a follower that needs a snapshot may have no space for it.
            let mark = core.raw.store().journal.checkpoint().0;
            target = target.max(Self::keep_from(core, mark, reclaim::slack_bytes(core)));
        }
        for pin in [streaming, after].into_iter().flatten() {
            if !is_tight && core.raw.store().journal.bytes_after(pin) < PIN_BYTES {
                target = target.min(pin);
            }
        }
        target
    }

    fn compact(&mut self, core: &mut Core, kept_from: u64) -> Result<(), Error> {
        // Nor is the log compacted beyond what a rewrite has copied, however long that is.
        let copied = self.journal_reclaim.copied().unwrap_or(u64::MAX);
        let target = kept_from.min(copied);
        debug_assert!(target <= core.raw.store().journal.checkpoint().0, "the log goes only behind what is synced");
        let journal = &mut core.raw.mut_store().journal;
        let is_needed = target >= journal.first_index();
        let (then, before) = self.compacted;
        let added = journal.chunks_written().saturating_sub(before);
        let (least, most) = CHUNKS_PER_STEP;
        if is_needed && core.now < then + COMPACT_EVERY && added < most / 2 {
            return Ok(());
        }
        self.compacted = (core.now, journal.chunks_written());
        if is_needed {
            journal.compact(target, (2 * added).clamp(least, most))?;
        }
        Ok(())
    }

    /// Begins a snapshot stream to the follower that raft has offered one.
    pub fn begin_stream(&mut self, core: &mut Core, message: Message) -> Result<(), Error> {
        let to = message.to;
        let (token, index) = (core.token(), core.state_machine.applied().0);
        self.stream = Some(Stream { token, to, index, began: core.now, is_scanned: false });
        if is_below_floor(core) {
            self.failed_start = Some((to, "the sender's disk is almost full (storage.reserve_mb)".into()));
            return Ok(());
        }
        match core.data_dir.engine().scratch() {
            Ok(scratch) => {
                let bound = SpoolBound::on(core.data_dir.engine(), core.options.snapshot_spool_bytes);
                let (spooler, reader) = core.state_machine.begin_snapshot(scratch, bound);
                info!(core.log, "snapshot stream begun"; "to" => core.name_of(to), "index" => index);
                core.background.spool(token, spooler);
                core.outbox.stream(to, message, reader);
            }
            Err(failure) => self.failed_start = Some((to, failure.to_string())),
        }
        Ok(())
    }

    /// Notes that the reader has scanned the tree.
    pub fn scanned(&mut self, core: &mut Core, token: u64, result: Result<(), Error>) {
        let Some(stream) = self.stream.as_mut().filter(|stream| stream.token == token) else { return };
        match result {
            Ok(()) => stream.is_scanned = true,
            Err(failure) => {
                warn!(core.log, "a snapshot stream failed"; "error" => %failure);
                core.state_machine.abort_snapshot();
            }
        }
    }

    /// Handles the end of a stream, and reports it to raft.
    pub fn stream_ended(&mut self, core: &mut Core, to: u64, result: Result<SnapshotMetadata, String>) {
        let Some(Stream { began, .. }) = self.stream.take_if(|stream| stream.to == to) else { return };
        core.state_machine.abort_snapshot();
        core.raw.mut_store().streaming.set(false);
        let (name, ms) = (core.name_of(to), core.now.saturating_sub(began));
        match result {
            Ok(metadata) => {
                info!(core.log, "snapshot stream ended"; "to" => &name, "index" => metadata.index, "ms" => ms);
                core.note(Kind::SnapshotSent { to: name, upto: metadata.index, ms });
                self.failures.remove(&to);
                core.raw.mut_store().not_before.remove(&to);
                core.raw.mut_store().stream_failures.remove(&to);
                self.pinned = Some((metadata.index, core.now + PIN_AFTER));
                core.raw.report_snapshot(to, SnapshotStatus::Finish);
            }
            Err(reason) => {
                let failures = self.failures.entry(to).or_default();
                // 1, 2, 4, 8, 16, 32, 60, 60, ... seconds.
                let pause = (PAUSES.0 << (*failures).min(6)).min(PAUSES.1);
                *failures += 1;
                warn!(core.log, "snapshot stream failed"; "to" => &name, "reason" => &reason, "ms" => ms, "next_in_ms" => pause);
                core.note(Kind::SnapshotFailed { to: name, why: reason.clone(), next_in_ms: pause });
                let until = core.now + pause;
                core.raw.mut_store().not_before.insert(to, until);
                core.raw.mut_store().stream_failures.insert(to, reason);
                core.raw.report_snapshot(to, SnapshotStatus::Failure);
            }
        }
    }

    /// Answers a peer that wants to send a snapshot, which only the leader may; returns whether one is received.
    pub fn receive(core: &mut Core, from: u64, reply: Reply<Result<SnapshotTarget, InstallError>>) -> bool {
        if !matches!(core.phase, Phase::Member | Phase::Joining) || core.stop_by.is_some() {
            reply(Err(InstallError("this node takes no snapshot now".into())));
            return false;
        }
        if from != core.raw.raft.leader_id {
            warn!(core.log, "a snapshot is refused"; "from" => core.name_of(from), "reason" => "it is not the leader");
            reply(Err(InstallError("a snapshot is taken from the present leader alone".into())));
            return false;
        }
        info!(core.log, "receiving a snapshot"; "from" => core.name_of(from));
        reply(core.data_dir.reserve_generation().map_err(|failure| {
            warn!(core.log, "a snapshot cannot be received"; "error" => %failure);
            InstallError(failure.to_string())
        }));
        true
    }
}
