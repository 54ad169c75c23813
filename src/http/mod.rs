//! Clients: the HTTP face.
//!
//! Why: everything huskv does can be had with curl. This room turns requests into calls of the loop's door and answers
//! into JSON.
//!
//! Laws: it imports the ground floor and the loop's door, nothing else of huskv. It is the only room that knows warp.
//! Every failure is written by one page, `problem`; every route stands on one page, `routes`.
//!
//! Not here: the Rust client (`client`).

mod api;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod request;
mod response;
mod routes;
mod server;
#[cfg(test)]
mod tests;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use crate::consensus::Handle;
use crate::model::Limits;

use request::context::ServerContext;
pub use server::Server;
pub use server::memory_budget::Budgets;

/// What the HTTP server is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest key, in bytes.
    pub key_bytes: usize,
    /// The longest value, in bytes.
    pub value_bytes: usize,
    /// The longest request body, in bytes.
    pub body_bytes: usize,
    /// The most clients that watch at once.
    pub watchers: usize,
    /// The most connections at once; fewer where the process may open few files.
    pub connections: usize,
    /// How long a request may take where it does not say so itself.
    pub request_timeout: Duration,
    /// How long a connection may be idle between two requests.
    pub idle_timeout: Duration,
    /// How long a client may keep the node waiting before it has to keep the least rate (64 KiB/s).
    pub rate_grace: Duration,
    /// Origins besides the node's own whose pages may use it, such as `https://ui.example.org`.
    pub allowed_origins: Vec<String>,
    /// Hosts besides the node's own that requests may be for; `*` is any.
    pub allowed_hosts: Vec<String>,
    /// The hosts that make an origin the node's own, beside localhost, 127.0.0.1 and `[::1]` on loopback: bound and
    /// advertised host.
    pub own_hosts: Vec<String>,
    /// Whether the bound host is a loopback address.
    pub loopback: bool,
    /// The real HTTP port.
    pub port: u16,
    /// How much memory clients may hold.
    pub budgets: Budgets,
    /// The HUSKV_JOIN list, shown in the stats of a node that waits to form a cluster; its hosts are the node's own too.
    pub join_list: Vec<String>,
}

impl Options {
    /// What a command may have here.
    fn limits(&self) -> Limits {
        Limits::of_settings(self.key_bytes, self.value_bytes, self.body_bytes)
    }
}

/// Serves HTTP on `listener`. Tasks run on the calling tokio runtime.
///
/// # Errors
/// Where the listener cannot be used.
pub fn start(listener: TcpListener, handle: Handle, options: Options, log: slog::Logger) -> std::io::Result<Server> {
    server::start(listener, Arc::new(ServerContext::new(handle, options)), log)
}
