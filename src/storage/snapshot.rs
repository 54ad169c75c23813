//! A copy of the machine for another node: made here, read here, written there.
//!
//! Why: a follower that the log no longer reaches needs the state itself, while writes go on. An iterator of sled is no
//! snapshot, so the copy is one stream of two things: the chunks of a scan, and the effects of everything applied since
//! the copy began.
//!
//! The stream, applied in order with the last writer winning, is exactly the state at the index where it ends, because
//! each step reads a chunk, appends it, and only then appends the effects that have come in; and because the machine
//! sends effects after its batch is in the tree, in order. Take any key. Without an effect since the beginning it never
//! changed, and the scan has it as it is. Otherwise look at its last effect, appended after chunk i: every chunk up to i
//! stands before it in the stream, and every later chunk was read after the effect had been received, hence after it was
//! in the tree, and shows the same value. So the last word on the key is right. Effects that a chunk has already shown
//! are repeated, which is harmless, because the effects on a key come in order and end with the last.
//!
//! Laws: the copy is checked as a whole where it arrives: its values must add up to what its state says. Until then it is
//! in a generation of its own and nothing names it.
//!
//! Not here: the wire (`transport::snapshot`), and taking it (`consensus`).

use std::sync::Arc;

use raft::eraftpb::SnapshotMetadata;

use super::layout::{Bytes, CHANGES_VERSION, Kind, PIECE_BYTES, is_key_of, parse_cell_key, push_run};
use super::spool::Spool;
use super::volume::Reserved;
use super::{Batch, Db, Error, Machine};

/// The most bytes of a frame, 1 MiB and one change.
const FRAME_BYTES: usize = 1 << 20;

/// The most pairs of one chunk; up to 1 MiB.
const CHUNK: usize = 256;

/// The making of a copy: a scan in chunks, and the effects of what is applied meanwhile.
pub struct Cut {
    db: Arc<dyn Db>,
    spool: Arc<Spool>,
    /// Where the scan goes on; None at its end.
    from: Option<Vec<u8>>,
}

impl Cut {
    pub(super) fn new(db: Arc<dyn Db>, spool: Arc<Spool>) -> Self {
        Self { db, spool, from: Some(Kind::FIRST.to_vec()) }
    }

    /// Copies one more chunk and the effects that came in; false once the scan has reached the end.
    ///
    /// # Errors
    /// [`Error`] for damage, a full spool or one over its bound; the reader fails then too. All but damage is
    /// [`Error::Copy`].
    pub fn next_chunk(&mut self) -> Result<bool, Error> {
        if let Some(from) = self.from.take() {
            let pairs = self.db.scan(&from, None, CHUNK)?;
            if let Some((last, _)) = pairs.last() {
                self.from = Some([last, &[0][..]].concat());
            }
            self.append(pairs.into_iter().map(|(key, value)| (key, Some(value))))?;
        }
        // The order of the two is what makes the copy exact: see the head of this file.
        for effects in self.spool.effects()? {
            self.append(effects.changes)?;
        }
        Ok(self.from.is_some())
    }

    /// Waits for [`Machine::end_cut`], copies the remaining effects and seals the copy.
    ///
    /// # Errors
    /// [`Error`] as for a chunk, and where the cut was aborted.
    pub fn finish(mut self) -> Result<(), Error> {
        while self.next_chunk()? {}
        while let Some(effects) = self.spool.wait_effects()? {
            for effects in effects {
                self.append(effects.changes)?;
            }
        }
        self.spool.seal()
    }

    fn append(&self, changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), Error> {
        let mut frame = vec![CHANGES_VERSION];
        for (key, value) in changes {
            if frame.len() >= FRAME_BYTES {
                self.spool.append(&frame)?;
                frame.truncate(1);
            }
            frame.push(u8::from(value.is_some()));
            push_run(&mut frame, &key);
            push_run(&mut frame, &value.unwrap_or_default());
        }
        if frame.len() > 1 { self.spool.append(&frame) } else { Ok(()) }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.spool.fail("its making ended early");
    }
}

/// What [`Cut::append`] wrote.
pub(super) fn decode(changes: &[u8]) -> Option<Batch> {
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

/// Reads a copy while it is made; never holds up the making.
pub struct SnapshotReader {
    spool: Arc<Spool>,
    bytes: u64,
}

impl SnapshotReader {
    pub(super) fn new(spool: Arc<Spool>, bytes: u64) -> Self {
        Self { spool, bytes }
    }

    /// About how many bytes the state takes up on this node's disk.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next piece, waiting for it.
    ///
    /// # Errors
    /// [`Error`] where the cut was aborted or failed, or the spool cannot be read.
    #[allow(clippy::should_implement_trait, reason = "it waits and fails, which an iterator's user does not expect")]
    pub fn next(&mut self) -> Result<Frame, Error> {
        Ok(match self.spool.next()? {
            Ok(changes) => Frame::Changes(changes),
            Err(metadata) => Frame::End(metadata),
        })
    }
}

impl Drop for SnapshotReader {
    fn drop(&mut self) {
        self.spool.leave();
    }
}

/// Builds a new machine generation out of a copy that arrives.
pub struct SnapshotWriter {
    db: Arc<dyn Db>,
    reserved: Reserved,
    /// How many bytes may still come.
    left: u64,
}

impl SnapshotWriter {
    pub(super) fn new(db: Arc<dyn Db>, reserved: Reserved, most: u64) -> Self {
        Self { db, reserved, left: most }
    }

    /// Writes one piece; not durable yet.
    ///
    /// # Errors
    /// [`Error`] for malformed bytes, for more than was announced, or for a failed write; the generation is dropped then
    /// and nothing else is touched.
    pub fn write(&mut self, changes: &[u8]) -> Result<(), Error> {
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
        let machine = Machine::open(self.db).map_err(|error| match error {
            Error::Damaged { detail, .. } => Error::copy(format!("it did not arrive whole: {detail}")),
            Error::Newer { what, found, known } => {
                Error::copy(format!("{what} has format version {found}, this huskv reads up to {known}"))
            }
            other => other,
        })?;
        if machine.applied() != (metadata.index, metadata.term) || machine.conf_state() != metadata.get_conf_state() {
            let (index, term) = machine.applied();
            return Err(Error::copy(format!(
                "it is of entry {index} of term {term}, announced was entry {} of term {}",
                metadata.index, metadata.term
            )));
        }
        Ok(Received { generation: self.reserved.generation(), machine: Box::new(machine), reserved: self.reserved })
    }
}

/// A complete, durable machine generation that is not in use yet; dropped, it is removed again.
pub struct Received {
    /// The generation.
    pub generation: u64,
    // Before the reservation, so that the database is closed when its folder goes. Boxed, since it travels in the loop's
    // inbox, whose every place is as large as the largest input.
    machine: Box<Machine>,
    reserved: Reserved,
}

impl Received {
    /// The machine in it.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Takes the generation into use: its folder stays from now on, until [`super::Volume::garbage`] is asked with
    /// another generation than this.
    pub fn take(self) -> (u64, Machine) {
        self.reserved.keep();
        (self.generation, *self.machine)
    }
}
