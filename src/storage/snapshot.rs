//! A copy of the machine for another node: made here, read here, written there.

use raft::eraftpb::SnapshotMetadata;

use super::{Error, Machine};

/// The making of a copy: a scan in chunks, and the effects of what is applied meanwhile.
pub struct Cut;

impl Cut {
    /// Copies one more chunk and the effects that came in; false once the scan has reached the end.
    ///
    /// # Errors
    /// [`Error`] for damage, a full spool or one over its bound; the reader fails then too.
    pub fn next_chunk(&mut self) -> Result<bool, Error> {
        todo!()
    }
    /// Waits for [`Machine::end_cut`], copies the remaining effects and seals the copy.
    ///
    /// # Errors
    /// [`Error`] as for a chunk, and where the cut was aborted.
    pub fn finish(self) -> Result<(), Error> {
        todo!()
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

/// Reads a copy while it is made; never holds up the making.
pub struct SnapshotReader;

impl SnapshotReader {
    /// The next piece, waiting for it.
    ///
    /// # Errors
    /// [`Error`] where the cut was aborted or failed, or the spool cannot be read.
    pub fn next(&mut self) -> Result<Frame, Error> {
        todo!()
    }
}

/// Builds a new machine generation out of a copy that arrives.
pub struct SnapshotWriter;

impl SnapshotWriter {
    /// Writes one piece; not durable yet.
    ///
    /// # Errors
    /// [`Error`] for malformed bytes or a failed write; the generation is dropped then and nothing else is touched.
    pub fn write(&mut self, _changes: &[u8]) -> Result<(), Error> {
        todo!()
    }
    /// Checks that the state is the one announced, and syncs it.
    ///
    /// # Errors
    /// [`Error`] as above.
    pub fn finish(self, _metadata: &SnapshotMetadata) -> Result<Received, Error> {
        todo!()
    }
}

/// A complete, durable machine generation that is not in use yet; dropped, it is removed again.
pub struct Received {
    /// The generation.
    pub generation: u64,
    /// The machine in it.
    pub machine: Machine,
}

impl Received {
    /// Takes the generation into use: it is not removed any more.
    #[must_use]
    pub fn take(self) -> (u64, Machine) {
        (self.generation, self.machine)
    }
}
