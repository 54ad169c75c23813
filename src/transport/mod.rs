//! Peers: how nodes reach each other.

use std::net::TcpListener;

use crate::consensus::{Handle, Outbox};

/// What the transport is configured with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The most connections that strangers and peers may hold open at once.
    pub max_inbound: usize,
}

/// A started transport; dropped, its connections close.
pub struct Transport;

/// Accepts peers on `listener` and makes the outbox that dials them. Tasks run on the calling tokio runtime. Nobody is
/// dialled, and peers are refused, until the loop publishes who is who.
///
/// # Errors
/// Where the listener cannot be used.
pub fn start(
    _listener: TcpListener,
    _handle: Handle,
    _options: Options,
    _log: slog::Logger,
) -> std::io::Result<(Transport, Box<dyn Outbox>)> {
    todo!()
}

impl Transport {
    /// Stops accepting and closes every connection.
    pub async fn stop(self) {
        todo!()
    }
}
