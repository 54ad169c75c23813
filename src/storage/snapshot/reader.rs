//! The sending side of a snapshot: the spooler and the reader.
//!
//! See also: [`super`] (why the stream is exact), [`super::spool`] (the queue and file between them).

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::SnapshotMetadata;

use super::frames::frames;
use super::spool::{Spool, Work};
use crate::storage::layout::Kind;
use crate::storage::{Db, Error};

/// The most pairs of one chunk; up to 1 MiB.
const SCAN_PAIRS: usize = 256;

/// What a [`Spooler`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spooled {
    /// Effects are in the spool.
    Effects,
    /// The tree has been read to its end, so the machine may end the copy; said once.
    Scanned,
    /// The machine has ended the copy, and all effects are in the spool.
    Complete,
}

/// Puts the effects of what is applied during a copy where its reader finds them. Dropped before it has said
/// [`Spooled::Complete`], the copy is aborted.
pub struct Spooler {
    spool: Arc<Spool>,
    scan_reported: bool,
}

impl Spooler {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, scan_reported: false }
    }

    /// Does what there is to do, without waiting; None where there is nothing.
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the copy was aborted, its reader is gone, the spool is over its bound, or the disk would have
    /// less than its reserve; the reader fails then too.
    pub fn step(&mut self) -> Result<Option<Spooled>, Error> {
        let done = match self.spool.work(self.scan_reported)? {
            None => return Ok(None),
            Some(Work::Effects(batches)) => {
                for batch in batches {
                    frames(batch.changes, |frame| self.spool.append(&frame))
                        .inspect_err(|failure| self.spool.fail(reason(failure)))?;
                }
                Spooled::Effects
            }
            Some(Work::Scanned) => {
                self.scan_reported = true;
                Spooled::Scanned
            }
            Some(Work::Ended) => {
                self.spool.seal()?;
                Spooled::Complete
            }
        };
        Ok(Some(done))
    }

    /// As [`Spooler::step`], but waits for something to do.
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
        self.spool.fail("its making ended early");
    }
}

/// Why a copy was given up, for the other end of it.
fn reason(failure: &Error) -> String {
    match failure {
        Error::Snapshot { detail } => detail.clone(),
        other => other.to_string(),
    }
}

/// A piece of a copy.
#[derive(Debug)]
pub enum Frame {
    /// Changes, to be handed to [`SnapshotWriter::write`] as they are; at most 1 MiB and one change.
    Changes(Vec<u8>),
    /// The end: what the copy is a copy of.
    End(SnapshotMetadata),
}

/// Reads a copy while it is made: the tree, as fast as it is asked for, and the effects that were spooled meanwhile.
pub struct SnapshotReader {
    db: Arc<dyn Db>,
    spool: Arc<Spool>,
    bytes: u64,
    /// Where the scan goes on; None at its end.
    from: Option<Vec<u8>>,
    /// What was read and not taken yet.
    frames: VecDeque<Vec<u8>>,
    scans: u64,
}

impl SnapshotReader {
    pub(crate) fn new(db: Arc<dyn Db>, spool: Arc<Spool>, bytes: u64) -> Self {
        Self { db, spool, bytes, from: Some(Kind::FIRST.to_vec()), frames: VecDeque::new(), scans: 0 }
    }

    /// About how many bytes the state takes up on this node's disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many parts of the tree it has read: a simulator reads one at a time.
    pub fn scans(&self) -> u64 {
        self.scans
    }

    /// The next piece, waiting for it.
    ///
    /// # Errors
    /// [`Error`] where the copy was aborted or failed, or the tree or the spool cannot be read.
    #[allow(clippy::should_implement_trait, reason = "it waits and fails, which an iterator's user does not expect")]
    pub fn next(&mut self) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = self.try_next()? {
                return Ok(frame);
            }
            if self.from.is_none() {
                self.spool.wait_for_frame();
            }
        }
    }

    /// The next piece, where one can be had without waiting for the machine.
    ///
    /// # Errors
    /// As [`SnapshotReader::next`].
    pub fn try_next(&mut self) -> Result<Option<Frame>, Error> {
        let frame = match self.frames.pop_front() {
            Some(frame) => Some(frame),
            None => self.spool.next()?,
        };
        if let Some(frame) = frame {
            return Ok(Some(Frame::Changes(frame)));
        }
        if let Some(from) = self.from.take() {
            self.scan(&from).inspect_err(|failure| self.spool.fail(reason(failure)))?;
            return Ok(self.frames.pop_front().map(Frame::Changes));
        }
        Ok(self.spool.end()?.map(Frame::End))
    }

    /// Reads one chunk of the tree.
    fn scan(&mut self, from: &[u8]) -> Result<(), Error> {
        self.scans += 1;
        let pairs = self.db.scan(from, None, SCAN_PAIRS)?;
        self.from = pairs.last().map(|(last, _)| [last, &[0][..]].concat());
        let kept = &mut self.frames;
        frames(pairs.into_iter().map(|(key, value)| (key, Some(value))), |frame| {
            kept.push_back(frame);
            Ok::<_, Error>(())
        })?;
        // Effects and chunks take turns, so that neither keeps the other from being sent.
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
