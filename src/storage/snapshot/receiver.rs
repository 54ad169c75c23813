//! The receiving side of a snapshot: a new generation, written, verified, and taken into use.
//!
//! Invariants: the generation is complete, verified and durable before it can be taken; dropped earlier, it is removed.

use std::sync::Arc;

use raft::eraftpb::SnapshotMetadata;

use super::frames::{decode, free_space_text};
use crate::model::mib;
use crate::storage::incoming_generations::ReservedGeneration;
use crate::storage::{Db, Error, StateMachine};

/// The bytes the engine may write between two checks of the free space: some of its segments.
const SPACE_CHECK_MARGIN: u64 = 16 << 20;

/// The maximum bytes of effects on top of the announced state, 1 GiB.
const CHANGES_ALLOWANCE: u64 = 1 << 30;

/// How many times smaller a snapshot may be than the files of its tree; up to 12 times was measured.
const MAX_COMPRESSION: u64 = 16;

/// A reserved generation for a snapshot; dropped, it leaves nothing behind.
pub struct SnapshotTarget {
    reserved: ReservedGeneration,
    cache_bytes: u64,
}

impl SnapshotTarget {
    pub(crate) fn new(reserved: ReservedGeneration, cache_bytes: u64) -> Self {
        Self { reserved, cache_bytes }
    }

    /// Creates the generation, which takes a while: not for the consensus thread. `announced` is the size of the state
    /// on the sender's disk.
    ///
    /// # Errors
    /// [`Error`] if there is no room for even a small part of it, or the generation cannot be created.
    pub fn open(self, announced: u64) -> Result<SnapshotWriter, Error> {
        let Self { reserved, cache_bytes } = self;
        if let Some(space) = reserved.space().filter(|space| space.room() < announced / MAX_COMPRESSION) {
            let (announced, free_space_text) = (mib(announced), free_space_text(space));
            return Err(Error::snapshot(format!(
                "{announced} on the sender's disk do not fit on the receiver's: {free_space_text}"
            )));
        }
        // A bound for a sender that never ends, not an estimate. A state of 3 GB may come as up to 7 GB: with what was
        // written meanwhile.
        let most = announced.saturating_mul(2).saturating_add(CHANGES_ALLOWANCE);
        let db = reserved.create(cache_bytes)?;
        Ok(SnapshotWriter::new(db, reserved, most))
    }
}

/// Writes a received snapshot into a new generation.
pub struct SnapshotWriter {
    db: Arc<dyn Db>,
    reserved: ReservedGeneration,
    /// The bytes that may still come.
    left: u64,
}

impl SnapshotWriter {
    pub(crate) fn new(db: Arc<dyn Db>, reserved: ReservedGeneration, most: u64) -> Self {
        Self { db, reserved, left: most }
    }

    /// Writes one frame; not durable yet.
    ///
    /// # Errors
    /// [`Error`] for malformed bytes, for more bytes than the bound, for a disk at its reserve, or for a failed write;
    /// the generation is dropped and nothing else is changed.
    pub fn write(&mut self, changes: &[u8]) -> Result<(), Error> {
        if let Some(space) = self.reserved.space().filter(|space| space.room() < SPACE_CHECK_MARGIN) {
            return Err(Error::snapshot(format!("it does not fit on the receiver's disk: {}", free_space_text(space))));
        }
        let left = self.left.checked_sub(changes.len() as u64);
        self.left = left.ok_or_else(|| {
            Error::snapshot(
                "it has more than twice the announced size and 1 GiB: changes come faster than they are sent",
            )
        })?;
        let batch = decode(changes).ok_or_else(|| Error::snapshot("it holds changes that this huskv cannot read"))?;
        self.db.write(batch)
    }

    /// Verifies the state against the metadata, and syncs it.
    ///
    /// # Errors
    /// [`Error`] as above.
    pub fn finish(self, metadata: &SnapshotMetadata) -> Result<ReceivedSnapshot, Error> {
        // Durable before it is audited, so that a `ReceivedSnapshot` can be taken into use at once.
        self.db.sync()?;
        // The open audits every value: a snapshot that lost a frame does not add up and is refused here.
        let state_machine = StateMachine::open(self.db, self.reserved.redo()).map_err(|error| match error {
            Error::Damaged { detail, .. } => Error::snapshot(format!("it did not arrive whole: {detail}")),
            Error::Newer { what, found, known } => {
                Error::snapshot(format!("{what} has format version {found}, this huskv reads up to {known}"))
            }
            other => other,
        })?;
        if state_machine.applied() != (metadata.index, metadata.term)
            || state_machine.conf_state() != metadata.get_conf_state()
        {
            let (index, term) = state_machine.applied();
            return Err(Error::snapshot(format!(
                "it is of entry {index} of term {term}, announced was entry {} of term {}",
                metadata.index, metadata.term
            )));
        }
        Ok(ReceivedSnapshot {
            generation: self.reserved.generation(),
            state_machine: Box::new(state_machine),
            reserved: self.reserved,
        })
    }
}

/// A complete, durable generation that is not in use yet; dropped, it is removed.
pub struct ReceivedSnapshot {
    /// The generation.
    pub generation: u64,
    // Declared before the reservation, so that the database is closed before its folder is removed. Boxed, because
    // every slot of the loop's inbox is as large as the largest input.
    state_machine: Box<StateMachine>,
    reserved: ReservedGeneration,
}

impl ReceivedSnapshot {
    /// Returns its state machine.
    pub fn state_machine(&self) -> &StateMachine {
        &self.state_machine
    }

    /// Takes the generation into use: its folder is kept until [`super::super::DataDir::garbage`] is called with
    /// another generation.
    pub fn take(self) -> (u64, StateMachine) {
        self.reserved.keep();
        (self.generation, *self.state_machine)
    }
}
