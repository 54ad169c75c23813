//! The HTTP API and the command line, against live nodes.

mod browser_guard;
mod cli;
mod compat;
mod connection_slots;
mod fairness;
mod generated_client;
mod http;
mod idempotency;
mod list_and_txn;
mod openapi;
pub(crate) mod tokens;
mod ttl;
mod values;
mod watch;

use crate::harness::Case;

/// The tests of this folder.
pub fn cases() -> Vec<Case> {
    [
        cli::cases(),
        http::cases(),
        browser_guard::cases(),
        connection_slots::cases(),
        fairness::cases(),
        values::cases(),
        list_and_txn::cases(),
        watch::cases(),
        compat::cases(),
        openapi::cases(),
        generated_client::cases(),
        ttl::cases(),
        tokens::cases(),
        idempotency::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
