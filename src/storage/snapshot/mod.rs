//! A copy of the machine for another node: made here, read here, written there.
//!
//! Why: a follower that the log no longer reaches needs the state itself, while writes go on. An iterator of sled is no
//! snapshot, so the copy is one stream of two things: the chunks of a scan, and the effects of everything applied since
//! the copy began. The reader scans, so that the scan goes as fast as the peer takes it and nothing of the tree lies on the
//! disk a second time; only effects are spooled, by a [`Spooler`] on a thread of its own.
//!
//! The stream, applied in order with the last writer winning, is exactly the state at the index where it ends: a chunk
//! stands in the stream where it was read, and an effect is sent after its batch is in the tree, in order. Take any key.
//! Without an effect since the beginning it never changed, and the scan has it as it is. Otherwise look at its last effect:
//! every chunk that stands behind it was read after it had been received, hence after it was in the tree, and shows the
//! same value. So the last word on the key is right. Effects that a chunk has already shown are repeated, which is
//! harmless, because the effects on a key come in order and end with the last.
//!
//! Laws: the copy is checked as a whole where it arrives: its values must add up to what its state says. Until then it is
//! in a generation of its own and nothing names it. A copy that would take the disk below its reserve ends, at either end.
//!
//! Not here: the wire (`transport::snapshot_stream`), and taking it (`consensus`).

pub(crate) mod spool;

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::SnapshotMetadata;

use super::data_dir::Reserved;
use super::layout::{Bytes, CHANGES_VERSION, Kind, PIECE_BYTES, is_key_of, parse_cell_key, push_run};
use super::{Batch, Db, Error, StateMachine};
use crate::model::{DiskSpace, mib};
use spool::{Spool, Work};

/// The most bytes of a frame, 1 MiB and one change.
const FRAME_BYTES: usize = 1 << 20;

/// The most pairs of one chunk; up to 1 MiB.
const CHUNK: usize = 256;

/// What the engine may write before the space is looked at again: some of its segments.
const WRITTEN_AHEAD: u64 = 16 << 20;

/// What a [`Spooler`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spooled {
    /// Effects are in the spool.
    Effects,
    /// The tree has been read to its end, so the machine may end the copy; said once.
    Scanned,
    /// The machine has ended the copy, and all effects are in the spool.
    Whole,
}

/// Puts the effects of what is applied during a copy where its reader finds them. Dropped before it has said
/// [`Spooled::Whole`], the copy is aborted.
pub struct Spooler {
    spool: Arc<Spool>,
    told: bool,
}

impl Spooler {
    pub(crate) fn new(spool: Arc<Spool>) -> Self {
        Self { spool, told: false }
    }

    /// Does what there is to do, without waiting; None where there is nothing.
    ///
    /// # Errors
    /// [`Error::Copy`] where the copy was aborted, its reader is gone, the spool is over its bound, or the disk would have
    /// less than its reserve; the reader fails then too.
    pub fn step(&mut self) -> Result<Option<Spooled>, Error> {
        let done = match self.spool.work(self.told)? {
            None => return Ok(None),
            Some(Work::Effects(batches)) => {
                for batch in batches {
                    frames(batch.changes, |frame| self.spool.append(&frame))
                        .inspect_err(|failure| self.spool.fail(reason(failure)))?;
                }
                Spooled::Effects
            }
            Some(Work::Scanned) => {
                self.told = true;
                Spooled::Scanned
            }
            Some(Work::Ended) => {
                self.spool.seal()?;
                Spooled::Whole
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
            self.spool.wait_for_work(self.told);
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
        Error::Copy { detail } => detail.clone(),
        other => other.to_string(),
    }
}

/// Hands `changes` on in frames, each of which [`decode`] reads.
fn frames<E>(
    changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    mut take: impl FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut frame = vec![CHANGES_VERSION];
    for (key, value) in changes {
        if frame.len() >= FRAME_BYTES {
            take(std::mem::replace(&mut frame, vec![CHANGES_VERSION]))?;
        }
        frame.push(u8::from(value.is_some()));
        push_run(&mut frame, &key);
        push_run(&mut frame, &value.unwrap_or_default());
    }
    if frame.len() > 1 { take(frame) } else { Ok(()) }
}

/// What [`frames`] wrote.
pub(crate) fn decode(changes: &[u8]) -> Option<Batch> {
    let mut bytes = Bytes(changes);
    if bytes.u8()? != CHANGES_VERSION {
        return None;
    }
    let mut batch = Batch::default();
    while !bytes.is_empty() {
        let tag = bytes.u8()?;
        let (key, value) = (bytes.run()?, bytes.run()?);
        parse_cell_key(key).filter(|(kind, key, _)| is_key_of(*kind, key))?;
        let value = match tag {
            0 if value.is_empty() => None,
            1 if value.len() <= PIECE_BYTES => Some(value.to_vec()),
            _ => return None,
        };
        batch.changes.push((key.to_vec(), value));
    }
    Some(batch)
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
        let pairs = self.db.scan(from, None, CHUNK)?;
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
        self.spool.leave();
    }
}

/// What is left of a disk, with the setting that says how much stays free.
pub(crate) fn left(space: DiskSpace) -> String {
    let (free, reserve) = (mib(space.free_bytes), mib(space.reserve_bytes));
    format!("{free} are free there, and {reserve} stay free (storage.reserve_mb)")
}

/// Builds a new machine generation out of a copy that arrives.
pub struct SnapshotWriter {
    db: Arc<dyn Db>,
    reserved: Reserved,
    /// How many bytes may still come.
    left: u64,
}

impl SnapshotWriter {
    pub(crate) fn new(db: Arc<dyn Db>, reserved: Reserved, most: u64) -> Self {
        Self { db, reserved, left: most }
    }

    /// Writes one piece; not durable yet.
    ///
    /// # Errors
    /// [`Error`] for malformed bytes, for more than was announced, where the disk would have less than its reserve, or for
    /// a failed write; the generation is dropped then and nothing else is touched.
    pub fn write(&mut self, changes: &[u8]) -> Result<(), Error> {
        if let Some(space) = self.reserved.space().filter(|space| space.room() < WRITTEN_AHEAD) {
            return Err(Error::copy(format!("it does not fit on the receiver's disk: {}", left(space))));
        }
        let left = self.left.checked_sub(changes.len() as u64);
        self.left = left.ok_or_else(|| Error::copy("more comes than was announced, or than there is room for"))?;
        let batch = decode(changes).ok_or_else(|| Error::copy("it holds changes that this huskv cannot read"))?;
        self.db.write(batch)
    }

    /// Checks that the state is the one announced, and syncs it.
    ///
    /// # Errors
    /// [`Error`] as above.
    pub fn finish(self, metadata: &SnapshotMetadata) -> Result<Received, Error> {
        self.db.sync()?;
        let state_machine = StateMachine::open(self.db).map_err(|error| match error {
            Error::Damaged { detail, .. } => Error::copy(format!("it did not arrive whole: {detail}")),
            Error::Newer { what, found, known } => {
                Error::copy(format!("{what} has format version {found}, this huskv reads up to {known}"))
            }
            other => other,
        })?;
        if state_machine.applied() != (metadata.index, metadata.term)
            || state_machine.conf_state() != metadata.get_conf_state()
        {
            let (index, term) = state_machine.applied();
            return Err(Error::copy(format!(
                "it is of entry {index} of term {term}, announced was entry {} of term {}",
                metadata.index, metadata.term
            )));
        }
        Ok(Received {
            generation: self.reserved.generation(),
            state_machine: Box::new(state_machine),
            reserved: self.reserved,
        })
    }
}

/// A complete, durable machine generation that is not in use yet; dropped, it is removed again.
pub struct Received {
    /// The generation.
    pub generation: u64,
    // Before the reservation, so that the database is closed when its folder goes. Boxed, since it travels in the loop's
    // inbox, whose every place is as large as the largest input.
    state_machine: Box<StateMachine>,
    reserved: Reserved,
}

impl Received {
    /// The machine in it.
    pub fn state_machine(&self) -> &StateMachine {
        &self.state_machine
    }

    /// Takes the generation into use: its folder stays from now on, until [`super::DataDir::garbage`] is asked with
    /// another generation than this.
    pub fn take(self) -> (u64, StateMachine) {
        self.reserved.keep();
        (self.generation, *self.state_machine)
    }
}
