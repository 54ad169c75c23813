//! The disk: everything a node keeps, and the only room that knows the storage engine.
//!
//! Why: what an acknowledgement is worth is decided here. Raft's log and hard state live in the [`Journal`], the
//! key-value state in the [`StateMachine`], who the node is in the [`Identity`]; a [`DataDir`] is the directory that holds them.
//!
//! Laws: nothing is durable before a sync says so; after one failed write or sync nothing is believed any more (the
//! caller ends the process); nothing read from the disk is trusted before it was checked.
//!
//! Not here: when to write what (`consensus::driver::ready`), and snapshots on the wire (`transport::snapshot_stream`).

mod data_dir;
pub mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod identity;
mod journal;
mod kv;
mod layout;
mod peers;
mod sealed_file;
mod sled;
mod snapshot;

#[cfg(test)]
mod tests;

pub use data_dir::{DataDir, Incarnation, Mint, OpenOptions, Reception};
pub use engine::{Batch, Db, Engine, Pair};
pub use error::Error;
pub use identity::{Identity, Previous, peek};
pub use journal::Journal;
pub use kv::state_machine::{Applied, Operation, StateMachine};
pub use peers::Peers;
pub use sled::engine::SledEngine;
pub use sled::fsync::{step_back, syncs};
pub use sled::panic_guard::{is_at_disk, opening};
pub use snapshot::spool::SpoolBound;
pub use snapshot::{Frame, Received, SnapshotReader, SnapshotWriter, Spooled, Spooler};
