//! The key-value state machine on its tree: apply, scans, memtable, and the metadata beside the values.

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod chunks;
pub(crate) mod dedup_table;
pub(crate) mod item_codec;
pub(crate) mod memtable;
pub(crate) mod meta;
pub(crate) mod overlay;
pub(crate) mod scan;
pub(crate) mod state_machine;
pub(crate) mod ttl_index;
