//! The disk: everything a node keeps, and the only room that knows the storage engine.
//!
//! Why: what an acknowledgement is worth is decided here. Raft's log and hard state live in the [`Journal`], the
//! key-value state in the [`Machine`], who the node is in the [`Identity`]; a [`Volume`] is the directory that holds them.
//!
//! Laws: nothing is durable before a sync says so; after one failed write or sync nothing is believed any more (the
//! caller ends the process); nothing read from the disk is trusted before it was checked.
//!
//! Not here: when to write what (`consensus::ready`), and snapshots on the wire (`transport::snapshot`).

mod behind;
mod cells;
mod durable;
pub mod engine;
mod error;
mod expiries;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod guard;
mod identity;
mod index;
mod item;
mod journal;
mod layout;
mod machine;
mod overlay;
mod peers;
mod progress;
mod record;
mod recovery;
mod results;
mod sealed;
mod sled_db;
mod sled_engine;
mod snapshot;
mod spool;
mod state;
mod tail;
mod volume;
mod walk;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod wall_clock;

#[cfg(test)]
mod tests;

pub use durable::{step_back, syncs};
pub use engine::{Batch, Db, Engine, Pair};
pub use error::Error;
pub use guard::{is_at_disk, opening};
pub use identity::{Identity, Previous, peek};
pub use journal::Journal;
pub use machine::{Applied, Machine, Operation};
pub use peers::Peers;
pub use sled_engine::SledEngine;
pub use snapshot::{Frame, Received, SnapshotReader, SnapshotWriter, Spooled, Spooler};
pub use spool::SpoolBound;
pub use volume::{Boot, Incarnation, Mint, Reception, Volume};
