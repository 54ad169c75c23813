//! The HTTP/1.1 server: accept loop, connections, shutdown.
//!
//! Why: warp's own server panics where it cannot bind, waits for a request's head without a bound, and accepts any number of
//! connections. This one bounds all three, and ends in a bounded time.
//!
//! ```text
//!   accept ---> slot? --no--> 503, lingering close          (acceptor, connection_slots, lingering_close)
//!                | yes
//!                v  one task for each connection
//!   TcpStream -> Socket -> WriteTimeout -> [TLS] -> ReadTimeout -> hyper http1 -> dispatch -> warp routes
//!                (FIN)     (least rate)  (handshake) (idle, head)  (connection)   (origin, host, rate, headers)
//! ```
//!
//! Invariants:
//! * At most as many connections as the options say. Beyond that idle ones are evicted ([`connection_slots`]), and where none
//!   is idle, new ones are refused ([`acceptor`]).
//! * A head arrives within [`connection::HEAD_TIMEOUT`]; before it, a connection may be idle for as long as the options say. A client
//!   that takes its response too slowly is disconnected ([`min_rate`]).
//! * During a shutdown new connections get a 503, requests under way are answered, and each connection closes after its
//!   response; an event stream ends when the consensus loop has. Requests that the loop has not answered shortly before the
//!   end get a 503 with what is known of them.
//! * A request whose client has sent a FIN behind it is answered.
//! * A TLS handshake is made in the connection's task, under its slot and timeouts ([`tls_handshake`]).
//!
//! See also: the routes ([`super::routes`]).

pub(crate) mod acceptor;
pub(crate) mod activity;
pub(crate) mod browser_guard;
pub(crate) mod client_socket;
mod connection;
pub(crate) mod connection_slots;
mod dispatch;
pub(crate) mod fair_memory;
pub(crate) mod host_guard;
pub(crate) mod lingering_close;
pub(crate) mod min_rate;
mod tls_handshake;
pub(crate) mod watchers;
pub(crate) mod write_timeout;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slog::{Logger, info, warn};
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::sync::watch as signal;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::api::watch;
use super::metrics;
use super::reload::Control;
use super::request::handler_context::ServerContext;
use super::response::problem::Problem;
use crate::telemetry::metrics::Overload;
use crate::trust::Mode;
use acceptor::Acceptor;
use client_socket::{Fin, PeekedRequest, Socket};
use connection::Client;
use connection_slots::{ConnectionSlots, SlotKind};
use dispatch::dispatch;
use fair_memory::Source;
use lingering_close::raw_response;
use write_timeout::WriteTimeout;

/// The part of a shutdown, as a divisor, that is left for answering requests which the loop has not answered.
const LAST_ANSWERS_DIVISOR: u32 = 8;

/// The connections of the port for figures and probes.
pub(crate) const METRICS_CONNECTIONS: usize = 32;

/// What a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PortKind {
    /// Every route.
    Clients,
    /// Figures, probes and version alone, without TLS.
    Metrics,
}

impl PortKind {
    /// What it serves, for the log.
    fn name(self) -> &'static str {
        match self {
            Self::Clients => "http",
            Self::Metrics => "metrics",
        }
    }

    /// Whether it serves this path.
    pub(crate) fn serves(self, path: &str) -> bool {
        let exact = path.strip_suffix('/').unwrap_or(path);
        self == Self::Clients
            || [metrics::PATH, "/livez", "/readyz", "/version"].contains(&exact)
            || path.starts_with("/readyz/")
    }
}

/// A running server. Dropping it closes every connection at once.
pub struct Server {
    context: Arc<ServerContext>,
    stop: oneshot::Sender<Duration>,
    acceptor: JoinHandle<()>,
}

/// Starts the server; must be called within a tokio runtime.
pub(crate) fn start(listener: std::net::TcpListener, context: Arc<ServerContext>, log: Logger) -> io::Result<Server> {
    let connections = context.options.connections;
    start_port(listener, context, (PortKind::Clients, connections), log)
}

/// As [`start`], for the port of figures and probes.
pub(crate) fn start_metrics(
    listener: std::net::TcpListener,
    context: Arc<ServerContext>,
    log: Logger,
) -> io::Result<Server> {
    start_port(listener, context, (PortKind::Metrics, METRICS_CONNECTIONS), log)
}

fn start_port(
    listener: std::net::TcpListener,
    context: Arc<ServerContext>,
    (kind, connections): (PortKind, usize),
    log: Logger,
) -> io::Result<Server> {
    listener.set_nonblocking(true)?;
    // The standard library's backlog is 128. In a burst of more clients the system drops SYNs, which are sent again a
    // second later.
    SockRef::from(&listener).listen(client_socket::BACKLOG)?;
    let listener = TcpListener::from_std(listener)?;
    info!(log, "serving {}", kind.name(); "address" => listener.local_addr()?, "connections_max" => connections);
    let (stop, stopped) = oneshot::channel();
    let slots = ConnectionSlots::new(connections);
    let acceptor = tokio::spawn(accept((listener, kind), slots, Arc::clone(&context), stopped, log));
    Ok(Server { context, stop, acceptor })
}

impl Server {
    /// Returns the handle that applies reloads.
    #[must_use]
    pub fn control(&self) -> Control {
        Control(Arc::clone(&self.context))
    }

    /// Stops accepting, lets requests under way finish for at most `drain`, then closes every connection.
    pub async fn stop(self, drain: Duration) {
        // Both fail only where the acceptor has ended already, and then there is nothing left to stop.
        let _ = self.stop.send(drain);
        drop(self.acceptor.await);
    }
}

/// Accepts connections until `stopped`, then shuts down.
async fn accept(
    (listener, kind): (TcpListener, PortKind),
    slots: Arc<ConnectionSlots>,
    context: Arc<ServerContext>,
    mut stopped: oneshot::Receiver<Duration>,
    log: Logger,
) {
    // A JoinSet, so that the task ends with this function.
    let mut broadcast_changes = JoinSet::new();
    if kind == PortKind::Clients {
        broadcast_changes.spawn(watch::broadcast_changes(Arc::clone(&context)));
    }
    let (stopping, stop_signal) = signal::channel(false);
    let dispatch = dispatch(Arc::clone(&context), kind);
    let mut connections = JoinSet::new();
    let tls = context.options.tls.clone().filter(|_| kind == PortKind::Clients);
    let tls_only = tls.as_ref().is_some_and(|tls| tls.mode == Mode::On);
    let mut acceptor = Acceptor::new(slots.max_lingering_refused(), tls_only, log.clone());
    let no_slot = raw_response(&Problem::connections_full());
    let all_figures = Arc::clone(context.metrics());
    let figures = &all_figures.http;
    let drain = loop {
        // Each connection that comes or ends begins another round.
        if kind == PortKind::Clients {
            figures.connections.set(connections.len() as u64);
        }
        let accepted = tokio::select! {
            drain = &mut stopped => break drain.unwrap_or_default(),
            // Removes ended connections, or the set would grow for ever.
            Some(_) = connections.join_next() => continue,
            accepted = acceptor.next(&listener) => accepted,
        };
        let Some((stream, address)) = accepted else { continue };
        // The peek is a system call, so it is made only when the slot depends on it.
        let peeked = if slots.general_are_taken() {
            client_socket::peek_request(stream)
        } else {
            Ok((stream, PeekedRequest::default()))
        };
        // An error means that the runtime ends.
        let Ok((stream, request)) = peeked else { continue };
        let slot = slots.take(Source::of(address), request);
        if slot.as_ref().is_none_or(|slot| slot.kind != SlotKind::General) {
            acceptor.warn_limited("all http connections are busy", "none can be evicted; new ones are refused");
        }
        let Some(slot) = slot else {
            context.count_overload(Overload::Connections);
            acceptor.refuse(stream, &no_slot);
            continue;
        };
        let (context, dispatch, stop_signal) = (Arc::clone(&context), dispatch.clone(), stop_signal.clone());
        if let Some(tls) = &tls {
            let tls = Arc::clone(tls);
            let serve = tls_handshake::serve((stream, tls), slot, context, dispatch, stop_signal, log.clone());
            connections.spawn(serve);
            continue;
        }
        let client = Client::at(address, Fin::default());
        let (socket, broken) = Socket::new(stream, client.fin.clone());
        let socket = WriteTimeout::new(socket, context.options.rate_grace);
        let serve = connection::serve((socket, broken), client, slot, context, dispatch, stop_signal, log.clone());
        connections.spawn(serve);
    };
    // Of a drain of 8 s: for 7 s requests end by themselves. Then the waits for the loop are given up, and their clients get
    // "unknown outcome" within the last second. What is left then is aborted.
    let end = Instant::now() + drain;
    stopping.send_replace(true);
    let drained = async {
        let last_answers = drain / LAST_ANSWERS_DIVISOR;
        if timeout(drain - last_answers, join_all(&mut connections)).await.is_err() {
            context.stop_waiting();
        }
        if timeout(last_answers, join_all(&mut connections)).await.is_err() {
            warn!(log, "closing http connections whose requests are still under way"; "connections" => connections.len());
        }
        connections.shutdown().await;
    };
    acceptor.shut_down(drained, listener, end).await;
}

/// Waits until all connections have ended.
async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Serves a single connection until its client's end of file.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) async fn serve_connection<I>(stream: I, context: Arc<ServerContext>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (_stopping, stop_signal) = signal::channel(false);
    let log = Logger::root(slog::Discard, slog::o!());
    let slot = ConnectionSlots::new(context.options.connections)
        .take(Source::loopback(), PeekedRequest::default())
        .expect("the first connection finds a slot");
    connection::serve(
        (WriteTimeout::new(stream, context.options.rate_grace), std::future::pending()),
        Client::at(std::net::Ipv4Addr::LOCALHOST.into(), Fin::default()),
        slot,
        Arc::clone(&context),
        dispatch(context, PortKind::Clients),
        stop_signal,
        log,
    )
    .await;
}
