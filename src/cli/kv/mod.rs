//! Subcommands for keys, transactions and watches.

pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod input;
pub(crate) mod list;
pub(crate) mod put;
pub(crate) mod render;
pub(crate) mod txn;
pub(crate) mod watch;
pub(crate) mod write_flags;
