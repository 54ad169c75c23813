//! Clients: the HTTP face.

use std::net::TcpListener;
use std::time::Duration;

use crate::consensus::Handle;

/// What the HTTP server is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest key, in bytes.
    pub key_bytes: usize,
    /// The longest value, in bytes.
    pub value_bytes: usize,
    /// The longest request body, in bytes.
    pub body_bytes: usize,
    /// How long a request may take where it does not say so itself.
    pub request_timeout: Duration,
    /// Origins besides the node's own whose pages may use it, such as `https://ui.example.org`.
    pub allowed_origins: Vec<String>,
    /// The hosts that make an origin the node's own, beside localhost, 127.0.0.1 and `[::1]` on loopback: bound and
    /// advertised host.
    pub own_hosts: Vec<String>,
    /// Whether the bound host is a loopback address.
    pub loopback: bool,
    /// The real HTTP port.
    pub port: u16,
    /// The HUSKV_JOIN list, shown in the stats of a node that waits to form a cluster.
    pub join_list: Vec<String>,
}

/// A running server.
pub struct Server;

/// Serves HTTP on `listener`. Tasks run on the calling tokio runtime.
///
/// # Errors
/// Where the listener cannot be used.
pub fn start(
    _listener: TcpListener,
    _handle: Handle,
    _options: Options,
    _log: slog::Logger,
) -> std::io::Result<Server> {
    todo!()
}

impl Server {
    /// Stops accepting, lets requests under way finish for at most `drain`, then closes every connection.
    pub async fn stop(self, _drain: Duration) {
        todo!()
    }
}
