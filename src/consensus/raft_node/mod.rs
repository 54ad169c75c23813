//! What raft runs on: its settings, its view of the disk, the bytes of its entries.

pub(crate) mod entry_codec;
pub(crate) mod raft_config;
pub(crate) mod raft_storage;
