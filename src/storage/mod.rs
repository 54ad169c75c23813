//! Storage: everything a node keeps on its disk. The only module that uses the storage engine.
//!
//! Why: this module decides what an acknowledgement is worth. Raft's log and hard state are in the [`Journal`], the key-value state
//! is in the [`StateMachine`], and the [`Identity`] says which node this is. A [`DataDir`] holds them.
//!
//! ```text
//!   data_dir/            one process (LOCK)
//!     identity           raft id in use: replaced atomically, the commit point of a join
//!     peers              last boot id of each peer
//!     <raft id>/journal          raft log, synced every turn
//!     <raft id>/machine-<n>      key-value tree, generation n, synced at checkpoints
//! ```
//!
//! Invariants: nothing is durable before a sync returns. After one failed write or sync nothing is trusted any more and the caller
//! ends the process. Nothing read from the disk is used before it was checked.
//!
//! See also: `consensus::driver::ready` (when to write), `transport::snapshot_stream` (snapshots on the wire).

mod checksummed_file;
mod data_dir;
pub mod engine;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod identity;
mod incoming_generations;
mod journal;
mod journal_switch;
mod kv;
mod layout;
mod peer_boot_ids;
mod sled;
mod snapshot;

#[cfg(test)]
mod tests;

pub use data_dir::{DataDir, Incarnation, OpenOptions, RandomSource};
pub use engine::{Batch, Change, Db, Engine, Pair};
pub use error::Error;
pub use identity::{Identity, PreviousIncarnation, peek};
pub use journal::Journal;
pub use journal::rewrite::{Copied, JournalRewrite};
pub use kv::flush::Flush;
pub use kv::flush::rewrite::{Rewrite, Sliced};
pub use kv::layers::{BegunRead, KeyAt, KeyInMemory, ReadPoint, StateReader};
pub use kv::merged_scan::MemoryPage;
pub use kv::operation::{Applied, Operation};
pub use kv::state_machine::StateMachine;
pub use layout::FORMATS;
pub use peer_boot_ids::Peers;
pub use sled::engine::SledEngine;
pub use sled::panic_guard::{catches_panic, is_waiting_for_disk};
pub use sled::sync_override::{lower_thread_priority, syncs};
pub use snapshot::receiver::{ReceivedSnapshot, SnapshotTarget, SnapshotWriter};
pub use snapshot::send_spool::SpoolBound;
pub use snapshot::sender::{Frame, SnapshotReader, Spooled, Spooler};
