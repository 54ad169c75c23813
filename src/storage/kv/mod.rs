//! The key-value state machine: apply, memtables over a tree, scans, flushes, and the metadata beside the values.

pub(crate) mod audit;
pub(crate) mod chunks;
pub(crate) mod dedup_table;
pub(crate) mod entry_view;
pub(crate) mod flush;
pub(crate) mod item_codec;
pub(crate) mod layers;
pub(crate) mod memtable;
pub(crate) mod merged_scan;
pub(crate) mod meta;
pub(crate) mod meta_cache;
pub(crate) mod operation;
pub(crate) mod state_machine;
pub(crate) mod tree_scan;
pub(crate) mod ttl_index;
