//! The HTTP API for clients.
//!
//! Why: everything that huskv does can be done with curl. This module turns requests into calls of the consensus loop's
//! handle, and results into JSON.
//!
//! ```text
//!   server (connections, guards, budgets) ---> routes ---> api (one file a topic)
//!     |                                                      |
//!     +-> clients (address, token, rate limit)               |
//!                                                            |
//!                        request (context, body, query, ...) <+-> response (success, problem, item_json)
//! ```
//!
//! Invariants: of huskv it imports the model, the change feed, and the facade of the consensus module. It is the only module
//! that uses warp. Every failure is written by `response::problem`; every route is listed in `routes`.
//!
//! See also: the Rust client (`client`).

mod api;
mod audit;
mod clients;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod metrics;
mod node_events;
mod options;
mod reload;
mod request;
mod response;
mod routes;
mod rules;
mod server;
#[cfg(test)]
mod tests;
mod ui;

use std::net::TcpListener;
use std::sync::Arc;

use crate::consensus::Handle;

pub use audit::Audit;
pub use clients::rate_limit::RequestLimiter;
pub use clients::trusted_proxies::TrustedProxies;
pub use options::{HttpTls, Options};
pub use reload::{Control, ReloadChange, ReloadReport, ReloadRequest, ReloadRequests, Reloadable};
use request::handler_context::ServerContext;
pub(crate) use server::METRICS_CONNECTIONS;
pub use server::Server;
pub use server::fair_memory::Budgets;

/// Serves HTTP on `listener`. Tasks run on the calling tokio runtime.
///
/// # Errors
/// Where the listener cannot be used.
pub fn start(listener: TcpListener, handle: Handle, options: Options, log: slog::Logger) -> std::io::Result<Server> {
    server::start(listener, Arc::new(ServerContext::new(handle, options)), log)
}

/// Serves figures and probes of the same node on a plain `listener`, with connections of its own.
///
/// # Errors
/// Where the listener cannot be used.
pub fn start_metrics(listener: TcpListener, control: &Control, log: slog::Logger) -> std::io::Result<Server> {
    server::start_metrics(listener, Arc::clone(&control.0), log)
}
