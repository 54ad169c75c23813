//! Accepting connections, and refusing those that find no slot or arrive during a shutdown.
//!
//! Why: a connection that is left in the listen backlog hangs, and one that is in it when the port closes is reset. Both
//! look like a broken node; a 503 tells the client what to do.
//!
//! Invariants: a refusal costs no task and does not hold up the next accept ([`super::lingering_close`]). Connections in the backlog are answered
//! before the port closes.
//!
//! See also: which connections get a slot ([`super::connection_slots`]).

use std::future::{Future, pending};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, debug, warn};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until};

use super::client_socket;
use super::lingering_close::{LINGER, LingeringCloses, POLL_INTERVAL, raw_response};
use crate::http::response::problem::Problem;
use crate::telemetry::logging::LogLimits;

/// The pause after a failed accept, most likely because no file descriptor is free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The acceptor: the listener's connections, and the refused ones that linger.
pub(crate) struct Acceptor {
    lingering: LingeringCloses,
    next_poll: Instant,
    log_limits: LogLimits,
    log: Logger,
}

impl Acceptor {
    /// Creates an acceptor that lets at most `max` refused connections linger.
    /// `tls_only` is whether every client speaks TLS.
    pub(crate) fn new(max: usize, tls_only: bool, log: Logger) -> Self {
        let lingering = LingeringCloses::new(max, tls_only);
        Self { lingering, next_poll: Instant::now(), log_limits: LogLimits::default(), log }
    }

    /// Accepts the next connection, with its address; None after other work, so that the caller calls again.
    pub(crate) async fn next(&mut self, listener: &TcpListener) -> Option<(TcpStream, IpAddr)> {
        // `accept` is cancel safe: a connection is either returned or still in the backlog.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sleep_until(self.next_poll.into()), if !self.lingering.is_empty() => {
                self.lingering.poll();
                self.next_poll = Instant::now() + POLL_INTERVAL;
                return None;
            }
        };
        match accepted {
            Ok((stream, address)) => {
                if let Err(error) = client_socket::configure(&stream) {
                    debug!(self.log, "cannot set the options of an http socket"; "error" => %error);
                }
                Some((stream, address.ip()))
            }
            Err(error) => {
                // Most likely EMFILE. The lingering sockets are refused ones, so their descriptors are the ones to free. Without the pause this loop would spin: the connection stays in the backlog.
                self.lingering.close_all();
                self.warn_limited("an http connection cannot be accepted", &error.to_string());
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// Logs a rate-limited warning.
    pub(crate) fn warn_limited(&self, reason: &'static str, detail: &str) {
        if let Some(suppressed) = self.log_limits.due(reason) {
            warn!(self.log, "{}", reason; "detail" => detail, "more_like_this" => suppressed);
        }
    }

    /// Refuses a connection with this response.
    pub(crate) fn refuse(&mut self, stream: TcpStream, response: &Arc<[u8]>) {
        // An error means that the runtime ends.
        if let Ok(stream) = stream.into_std() {
            self.lingering.respond_and_close(stream, response);
        }
    }

    /// Refuses new connections with 503 `stopping` until `drained` has ended, then those in the backlog, and closes the port.
    /// Returns by `end`, with all sockets closed.
    pub(crate) async fn shut_down(mut self, drained: impl Future<Output = ()>, listener: TcpListener, end: Instant) {
        let stopping = raw_response(&Problem::stopping());
        let refusals = async {
            loop {
                if let Some((stream, _)) = self.next(&listener).await {
                    self.refuse(stream, &stopping);
                }
            }
        };
        tokio::select! {
            () = drained => {}
            () = refusals => pending().await,
        }
        // Closing a listener resets the connections in its backlog, so they are answered first, and then have a moment to read.
        self.refuse_backlog(listener, &stopping);
        let end = end.min(Instant::now() + LINGER);
        while !self.lingering.is_empty() && Instant::now() < end {
            sleep(POLL_INTERVAL.min(end.saturating_duration_since(Instant::now()))).await;
            self.lingering.poll();
        }
        self.lingering.close_all();
    }

    /// Refuses the connections in the backlog, and closes the port.
    fn refuse_backlog(&mut self, listener: TcpListener, response: &Arc<[u8]>) {
        let Ok(listener) = listener.into_std() else { return };
        // At most as many as the backlog holds: a client that reconnects at once must not hold up the end.
        for _ in 0..client_socket::BACKLOG {
            match listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    self.lingering.respond_and_close(stream, response);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The backlog is empty, or no file descriptor is free.
                Err(_) => return,
            }
        }
    }
}
