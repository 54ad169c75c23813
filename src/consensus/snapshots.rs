//! Durable cuts, compaction, and copies for those whom the log no longer reaches.
//!
//! Why: the tree on disk is the snapshot (Raft thesis 5.2); a cut only makes it durable up to a known index, off the
//! loop, so that the log behind it can go. A second copy is made only for a follower or joiner that needs one.
//!
//! Laws: the log is never compacted beyond what the machine has synced, and the cut is recorded durably first. A copy
//! begins and ends between two batches of the loop. One copy is under way at a time, and each ends in a report to raft,
//! or its follower is stuck for ever. Failed copies to one node are spaced 1 s, doubling to 60 s. Compaction waits for a
//! copy under way, within a bound, and not on a disk that is nearly full.
//!
//! Not here: the scan (`storage::snapshot`) and the stream (`transport::snapshot_stream`).

use std::collections::BTreeMap;

use raft::SnapshotStatus;
use raft::eraftpb::{Message, MessageType, SnapshotMetadata};
use slog::{info, warn};

use super::core::Phase;
use super::driver::{Driver, view};
use super::input::{InstallError, Reply};
use crate::model::Millis;
use crate::model::{Code, DiskSpace, Refusal};
use crate::plant::{self, Plant};
use crate::storage::{Error, Received, Reception, SpoolBound};

/// How many journal records one turn removes at most.
const RECORDS_PER_TURN: usize = 256;

/// How many bytes of log a copy under way may keep from being compacted.
const PIN_BYTES: u64 = 1 << 30;

/// How long after a copy the log behind it is still kept, for the follower to go on from there.
const PIN_AFTER: Millis = 10_000;

/// The first and the longest pause after a failed copy.
const PAUSES: (Millis, Millis) = (1000, 60_000);

/// A copy under way.
struct Stream {
    /// Tells its scan from that of an earlier one.
    token: u64,
    to: u64,
    /// The applied index when it began.
    index: u64,
    began: Millis,
}

/// Cuts and copies of this node.
#[derive(Default)]
pub(crate) struct Snapshots {
    /// The mark of the sync under way, and when it began.
    syncing: Option<((u64, u64), Millis)>,
    /// Who waits for a cut.
    waiting: Vec<(Millis, Reply<Result<(), Refusal>>)>,
    /// Up to where the log can go.
    compact_to: u64,
    /// The copy under way.
    stream: Option<Stream>,
    /// The index that a copy just sent still needs, and until when it is kept.
    pinned: Option<(u64, Millis)>,
    /// A copy that could not even begin: to whom, and why. Raft is told after the turn's Ready.
    stillborn: Option<(u64, String)>,
    /// Failures in a row, by follower.
    failures: BTreeMap<u64, u32>,
}

impl Snapshots {
    /// A copy was installed: what was to be compacted belongs to the old log.
    pub fn installed(&mut self) {
        self.syncing = None;
        self.compact_to = 0;
    }
}

impl Driver {
    /// An operator wants a cut.
    pub(crate) fn snapshot_now(&mut self, deadline: Millis, reply: Reply<Result<(), Refusal>>) {
        if let Some(refusal) = self.unavailable() {
            return reply(Err(refusal));
        }
        self.snapshots.waiting.push((deadline, reply));
    }

    fn begin_cut(&mut self) -> Result<(), Error> {
        let mark = self.core.state_machine.applied();
        info!(self.core.log, "snapshot begun"; "index" => mark.0);
        self.snapshots.syncing = Some((mark, self.core.now));
        let db = self.core.state_machine.db()?;
        self.core.background.sync(db, mark);
        Ok(())
    }

    /// The machine is durable up to `mark`: this is recorded, and the log behind it may go.
    pub(crate) fn machine_synced(&mut self, mark: (u64, u64), result: Result<(), Error>) -> Result<(), Error> {
        // A disk that fails is believed no more, whichever generation the sync was for.
        result?;
        let Some((_, began)) = self.snapshots.syncing.filter(|(expected, _)| *expected == mark) else { return Ok(()) };
        self.snapshots.syncing = None;
        let behind = self.keep_from(mark.0);
        let log = self.core.raw.mut_store();
        let hard_state = log.hard_state.clone();
        log.journal.note_snapshot(mark.0, mark.1);
        log.journal.append(&[], &hard_state)?;
        log.journal.sync()?;
        self.snapshots.compact_to = self.snapshots.compact_to.max(behind);
        info!(self.core.log, "snapshot ended"; "index" => mark.0, "term" => mark.1, "ms" => self.core.now.saturating_sub(began));
        for (_, reply) in std::mem::take(&mut self.snapshots.waiting) {
            reply(Ok(()));
        }
        Ok(())
    }

    /// Up to where the log behind a cut at `mark` can go: a tail is kept for slow followers, bounded by entries and, so that
    /// large values do not fill the disk, by the bytes between two cuts.
    fn keep_from(&self, mark: u64) -> u64 {
        let journal = &self.core.raw.store().journal;
        let bound = journal.bytes_after(mark) + self.core.options.snapshot_every_bytes;
        let (mut low, mut high) = (mark.saturating_sub(self.core.options.snapshot_keep_entries), mark);
        while low < high {
            let middle = low + (high - low) / 2;
            if journal.bytes_after(middle) > bound { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Begins a cut where one is due, and compacts a little.
    pub(crate) fn run_snapshots(&mut self) -> Result<(), Error> {
        if let Some((to, reason)) = self.snapshots.stillborn.take() {
            self.stream_ended(to, Err(reason));
        }
        let (mark, _) = self.core.raw.store().journal.snapshot();
        let entries = self.core.state_machine.applied().0.saturating_sub(mark);
        let due = entries >= self.core.options.snapshot_every_entries
            || (entries > 0
                && self.core.raw.store().journal.bytes_after(mark) >= self.core.options.snapshot_every_bytes);
        let wanted = due || !self.snapshots.waiting.is_empty();
        if wanted && self.snapshots.syncing.is_none() && self.core.phase == Phase::Member {
            self.begin_cut()?;
        }
        let now = self.core.now;
        for (_, reply) in self.snapshots.waiting.extract_if(.., |(deadline, _)| *deadline <= now) {
            reply(Err(Refusal::unknown(Code::Timeout, "the snapshot was not taken before the deadline; it goes on")));
        }
        if self.snapshots.pinned.is_some_and(|(_, until)| now >= until) {
            self.snapshots.pinned = None;
        }
        self.compact()
    }

    fn compact(&mut self) -> Result<(), Error> {
        let mut target = self.snapshots.compact_to;
        let copy = self.snapshots.stream.as_ref().map(|stream| stream.index);
        let after = self.snapshots.pinned.map(|(index, _)| index);
        let is_tight = self.core.own_space().is_some_and(DiskSpace::is_nearly_full);
        for pin in [copy, after].into_iter().flatten() {
            if !is_tight && self.core.raw.store().journal.bytes_after(pin) < PIN_BYTES {
                target = target.min(pin);
            }
        }
        if target >= self.core.raw.store().journal.first_index() {
            self.core.raw.mut_store().journal.compact(target, RECORDS_PER_TURN)?;
        }
        Ok(())
    }

    /// Raft has offered a follower a snapshot: the copy begins.
    pub(crate) fn begin_stream(&mut self, message: Message) -> Result<(), Error> {
        let to = message.to;
        let (token, index) = (self.core.token(), self.core.state_machine.applied().0);
        self.snapshots.stream = Some(Stream { token, to, index, began: self.core.now });
        match self.core.data_dir.engine().scratch() {
            Ok(scratch) => {
                // What fails here is a write to the tree, not the copy: it poisons like any other.
                let bound = SpoolBound::on(self.core.data_dir.engine(), self.core.options.snapshot_spool_bytes);
                let (spooler, reader) = self.core.state_machine.begin_cut(scratch, bound)?;
                info!(self.core.log, "copy for a follower begun"; "to" => self.core.name_of(to), "index" => index);
                self.core.background.spool(token, spooler);
                self.core.outbox.stream(to, message, reader);
            }
            Err(failure) => self.snapshots.stillborn = Some((to, failure.to_string())),
        }
        Ok(())
    }

    /// The reader has read the tree to its end: the copy ends at the state that is applied now.
    ///
    /// # Errors
    /// [`Error`]: poisoned.
    pub(crate) fn scanned(&mut self, token: u64, result: Result<(), Error>) -> Result<(), Error> {
        if self.snapshots.stream.as_ref().is_none_or(|stream| stream.token != token) {
            return Ok(());
        }
        if let Err(failure) = result {
            warn!(self.core.log, "a copy for a follower failed"; "error" => %failure);
            self.core.state_machine.abort_cut();
            return Ok(());
        }
        self.core.state_machine.end_cut()
    }

    /// The stream of a copy has ended, well or not.
    pub(crate) fn stream_ended(&mut self, to: u64, result: Result<SnapshotMetadata, String>) {
        let Some(Stream { began, .. }) = self.snapshots.stream.take_if(|stream| stream.to == to) else { return };
        self.core.state_machine.abort_cut();
        self.core.raw.mut_store().streaming.set(false);
        let (name, ms) = (self.core.name_of(to), self.core.now.saturating_sub(began));
        match result {
            Ok(metadata) => {
                info!(self.core.log, "copy for a follower ended"; "to" => name, "index" => metadata.index, "ms" => ms);
                self.snapshots.failures.remove(&to);
                self.core.raw.mut_store().not_before.remove(&to);
                self.snapshots.pinned = Some((metadata.index, self.core.now + PIN_AFTER));
                self.core.raw.report_snapshot(to, SnapshotStatus::Finish);
            }
            Err(reason) => {
                let failures = self.snapshots.failures.entry(to).or_default();
                let pause = (PAUSES.0 << (*failures).min(6)).min(PAUSES.1);
                *failures += 1;
                warn!(self.core.log, "copy for a follower failed"; "to" => name, "reason" => reason, "ms" => ms, "next_in_ms" => pause);
                let until = self.core.now + pause;
                self.core.raw.mut_store().not_before.insert(to, until);
                self.core.raw.report_snapshot(to, SnapshotStatus::Failure);
            }
        }
    }

    /// A peer wants to send a copy. Nobody but the leader has a reason to.
    pub(crate) fn receive(&mut self, from: u64, reply: Reply<Result<Reception, InstallError>>) {
        if !matches!(self.core.phase, Phase::Member | Phase::Joining) || self.core.stop_by.is_some() {
            return reply(Err(InstallError("this node takes no copy now".into())));
        }
        if from != self.core.raw.raft.leader_id {
            warn!(self.core.log, "a copy is refused"; "from" => self.core.name_of(from), "reason" => "it is not the leader");
            return reply(Err(InstallError("a copy is taken from the present leader alone".into())));
        }
        info!(self.core.log, "receiving a copy"; "from" => self.core.name_of(from));
        if self.lag.copy_arrives(&self.core) {
            self.reads.refuse_reads_that_lag(view!(self));
        }
        reply(self.core.data_dir.receive().map_err(|failure| {
            warn!(self.core.log, "a copy cannot be received"; "error" => %failure);
            InstallError(failure.to_string())
        }));
    }

    /// A copy has arrived: raft decides in the turn that follows whether it is taken.
    pub(crate) fn install(
        &mut self,
        message: Message,
        received: Received,
        reply: Reply<Result<(), InstallError>>,
    ) -> Result<(), Error> {
        let fits = message.get_msg_type() == MessageType::MsgSnapshot && message.to == self.core.raft_id();
        if fits {
            self.turn(self.core.now)?;
        }
        // The turn may have removed this node.
        let takes = matches!(self.core.phase, Phase::Member | Phase::Joining) && self.core.stop_by.is_none();
        let refusal = if !fits || !takes || self.installing.is_some() {
            Some("this node takes no copy now")
        } else if !self.believes(&message)? {
            Some("this node does not believe the message that came with the copy")
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.core.discard(received);
            reply(Err(InstallError(refusal.into())));
            return Ok(());
        }
        self.live.contact.insert(message.from, self.core.now);
        let metadata = message.get_snapshot().get_metadata().clone();
        self.installing = Some((received, reply));
        let stepped = self.core.raw.step(message);
        let offered = self.core.raw.snap().is_some_and(|snapshot| snapshot.get_metadata() == &metadata);
        if !offered && let Some((received, reply)) = self.installing.take() {
            self.core.discard(received);
            let behind = self.core.state_machine.applied().0 < metadata.index
                && self.core.raw.raft.raft_log.committed < metadata.index;
            let detail = format!("raft did not take the copy at {}: {stepped:?}", metadata.index);
            reply(if behind { Err(InstallError(detail)) } else { Ok(()) });
        }
        if offered && !plant::is(Plant::StaleEntriesAfterInstall) {
            // The copy covers what is committed and not applied yet. Raft has the copy's configuration already, and a
            // change from before must not be made to that one.
            self.committed.clear();
        }
        self.turn(self.core.now)
    }
}
