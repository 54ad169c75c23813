//! The sending side of a snapshot: the spooler and the reader.
//!
//! See also: [`super`] (why the stream is exact), [`super::send_spool`] (the queue and file between them).

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::SnapshotMetadata;

use super::frames::frames;
use super::send_spool::{ScanEnd, Spool, Work};
use crate::plant::{self, Plant};
use crate::storage::kv::layers::StateReader;
use crate::storage::layout::Kind;
use crate::storage::{Db, Error};

/// The maximum pairs of one scan, up to 1 MiB. A part has as many, and those that are inserted before it is read. A simulated tree is
/// smaller, so there a stream has fewer ([`SnapshotReader::set_scan_pairs`]).
const SCAN_PAIRS: usize = 256;

/// The result of one step of a [`Spooler`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spooled {
    /// The scan of the tree has ended, so the state machine may end the snapshot; returned once.
    Scanned,
    /// The snapshot has ended, and all effects are in the spool.
    Complete,
}

/// Follows a snapshot to its end. Dropped before [`Spooled::Complete`], the snapshot is aborted.
pub struct Spooler {
    spool: Arc<Spool>,
    scan_reported: bool,
}

impl Spooler {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, scan_reported: false }
    }

    /// Returns what has happened since the last call, without waiting; None if nothing has.
    ///
    /// # Errors
    /// [`Error::Snapshot`] if the snapshot was aborted, its reader is gone, or the spool or the disk reached its limit;
    /// the reader fails then, too.
    pub fn step(&mut self) -> Result<Option<Spooled>, Error> {
        let done = match self.spool.work(self.scan_reported)? {
            None => return Ok(None),
            Some(Work::Scanned) => {
                self.scan_reported = true;
                Spooled::Scanned
            }
            // The state machine ends a snapshot between two flushes, so nothing is missing in front of the end.
            Some(Work::Ended) => {
                self.spool.seal()?;
                Spooled::Complete
            }
        };
        Ok(Some(done))
    }

    /// As [`Spooler::step`], but waits.
    ///
    /// # Errors
    /// As there.
    pub fn wait(&mut self) -> Result<Spooled, Error> {
        loop {
            if let Some(done) = self.step()? {
                return Ok(done);
            }
            self.spool.wait_for_work(self.scan_reported);
        }
    }
}

impl Drop for Spooler {
    fn drop(&mut self) {
        self.spool.fail("its spooler ended early");
    }
}

/// Returns the reason of an abort for the other end.
fn reason(failure: &Error) -> String {
    match failure {
        Error::Snapshot { detail } => detail.clone(),
        other => other.to_string(),
    }
}

/// A frame of a snapshot.
#[derive(Debug)]
pub enum Frame {
    /// A part of the tree for [`SnapshotWriter::write`](super::receiver::SnapshotWriter::write); at most 1 MiB and one change.
    Scan(Vec<u8>),
    /// Changes made meanwhile for the same; as large.
    Effects(Vec<u8>),
    /// The end, with the metadata of the snapshot.
    End(SnapshotMetadata),
}

/// Reads a snapshot while it is created: scans the tree on demand, and takes spooled effects.
pub struct SnapshotReader {
    state: StateReader,
    #[cfg(feature = "plant")]
    first_tree: Arc<dyn Db>,
    spool: Arc<Spool>,
    /// On disk, and of keys and values, when it began.
    bytes: (u64, u64),
    /// Where the scan resumes; None at its end.
    from: Option<Vec<u8>>,
    /// Where the present part of the scan ends.
    part_end: ScanEnd,
    /// Frames of the last scan that were not returned yet.
    frames: VecDeque<Vec<u8>>,
    scans: u64,
    scan_pairs: usize,
}

impl SnapshotReader {
    pub(crate) fn new(state: StateReader, spool: Arc<Spool>, live_bytes: u64) -> Self {
        let tree = state.tree();
        Self {
            bytes: (tree.size_on_disk(), live_bytes),
            #[cfg(feature = "plant")]
            first_tree: tree,
            state,
            spool,
            from: Some(Kind::FIRST.to_vec()),
            part_end: ScanEnd::None,
            frames: VecDeque::new(),
            scans: 0,
            scan_pairs: SCAN_PAIRS,
        }
    }

    /// Returns about the bytes of the state on this node's disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.0
    }

    /// Returns about the bytes of all keys and values, as stored.
    pub fn live_bytes(&self) -> u64 {
        self.bytes.1
    }

    /// Returns what says, on any thread, whether the whole tree was scanned.
    pub fn scan_watch(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let spool = self.spool.clone();
        move || spool.is_scanned()
    }

    /// Returns the number of scans so far; the simulator makes one at a time.
    pub fn scans(&self) -> u64 {
        self.scans
    }

    /// Sets the maximum pairs of one scan, for the simulator; at least 1.
    pub fn set_scan_pairs(&mut self, pairs: usize) {
        self.scan_pairs = pairs.max(1);
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`Error`] if the snapshot was aborted, or the tree or the spool cannot be read.
    #[allow(clippy::should_implement_trait, reason = "it waits and fails, which an iterator's user does not expect")]
    pub fn next(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(frame);
            }
            // Waits only behind the end of the scan. Before it there is always a next scan to do, so the reader never
            // waits for writes.
            if self.from.is_none() {
                self.spool.wait_for_frame();
            }
        }
    }

    /// Returns the next frame without waiting for the state machine.
    ///
    /// # Errors
    /// As [`SnapshotReader::next`].
    pub fn try_next(&mut self) -> Result<Option<Frame>, Error> {
        // Priority: the rest of the last scan, then spooled effects that are due, then the next scan, then the end.
        if let Some(frame) = self.frames.pop_front() {
            return Ok(Some(Frame::Scan(frame)));
        }
        if let Some(frame) = self.spool.next()? {
            return Ok(Some(Frame::Effects(frame)));
        }
        if let Some(from) = self.from.take() {
            self.scan(&from).inspect_err(|failure| self.spool.fail(reason(failure)))?;
            return Ok(self.frames.pop_front().map(Frame::Scan));
        }
        Ok(self.spool.end()?.map(Frame::End))
    }

    /// Returns the tree in use.
    fn tree(&self) -> Arc<dyn Db> {
        #[cfg(feature = "plant")]
        if plant::is(Plant::ScanOfReplacedTree) {
            return self.first_tree.clone();
        }
        self.state.tree()
    }

    /// Scans a part of the tree, or what was left of it.
    fn scan(&mut self, from: &[u8]) -> Result<(), Error> {
        self.scans += 1;
        if !self.part_end.is_behind(from) {
            self.part_end = self.tree().nth_key(from, self.scan_pairs)?.map_or(ScanEnd::Tree, ScanEnd::Before);
            // Before the part is read, so that what changes while it is read is sent behind it.
            let is_late = plant::is(Plant::ScanReportedLate);
            self.spool.scan_to(if is_late { ScanEnd::Before(from.to_vec()) } else { self.part_end.clone() });
        }
        let end = match &self.part_end {
            ScanEnd::Before(end) => Some(end),
            ScanEnd::None | ScanEnd::Tree => None,
        };
        // Asked for anew, behind `scan_to`: a rewrite may have put another tree in place. A flush that writes to that one alone either
        // finds the end of this part, and its changes are sent behind it, or came earlier, and then this is that tree.
        let pairs = self.tree().scan(from, end.map(Vec::as_slice), self.scan_pairs)?;
        self.from = match pairs.last() {
            // The part goes on with the first key that can come after `last` in byte order: `last` with a zero byte at its end.
            Some((last, _)) if pairs.len() == self.scan_pairs => Some([last, &[0][..]].concat()),
            _ => end.cloned(),
        };
        let kept = &mut self.frames;
        frames(pairs.into_iter().map(|(key, value)| (key, Some(value))), |frame| {
            kept.push_back(frame);
            Ok::<_, Error>(())
        })?;
        // Scans and effects take turns, so that neither starves the other.
        self.spool.mark_due();
        if self.from.is_none() {
            self.spool.scanned();
        }
        Ok(())
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        self.spool.reader_gone();
    }
}
