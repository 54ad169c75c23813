//! The handlers, a file for each group of routes.

pub(crate) mod cluster;
pub(crate) mod compat;
pub(crate) mod health;
pub(crate) mod list;
pub(crate) mod openapi;
pub(crate) mod probes;
pub(crate) mod stats;
pub(crate) mod store;
pub(crate) mod touch;
pub(crate) mod txn;
pub(crate) mod watch;
