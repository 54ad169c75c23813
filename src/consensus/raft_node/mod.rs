//! The parts of the `RawNode`: settings, storage, entries.

pub(crate) mod entry_decode;
pub(crate) mod raft_config;
pub(crate) mod raft_storage;
