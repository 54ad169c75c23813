//! The parts of the `RawNode`: settings, storage, entries.

pub(crate) mod decoded_entries;
pub(crate) mod entry_decode;
pub(crate) mod raft_storage;
pub(crate) mod raw_node_setup;
