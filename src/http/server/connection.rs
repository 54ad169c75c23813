//! One connection: hyper, event streams, eviction, and the close.
//!
//! Why: hyper knows requests and keep-alive. It does not know that a slot is wanted by another connection, that an event
//! stream's client is gone, or that a close resets a connection with unread bytes.
//!
//! Invariants: a request that arrives after the eviction of its connection is refused and not carried out. The slot is given
//! back when the socket is closed, or earlier where another connection waits for it. A connection ends in a bounded time
//! after the shutdown's begin and its last response. A request that crosses the shutdown gets a 503.
//!
//! See also: the timeouts and the eviction ([`super::activity`]), what a request is answered ([`mod@super::dispatch`]).

use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use slog::{Logger, debug};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::sync::watch as signal;
use tokio::time::{sleep, timeout};
use warp::http::Method;
use warp::reply::Response;

use super::activity::{ReadTimeout, Timeouts, TrackedBody};
use super::client_socket::Fin;
use super::connection_slots::{ConnectionSlot, SlotKind};
use super::dispatch::{Dispatch, Routes};
use super::lingering_close::{LINGER, raw_response};
use crate::http::api::watch;
use crate::http::request::client_certificate::ClientCertificate;
use crate::http::request::handler_context::ServerContext;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::telemetry::metrics::Overload;

/// How long the head of a request may take.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than `Keep-Alive` says a connection may be idle: a request sent at the last moment is on its way.
const IDLE_GRACE: Duration = Duration::from_secs(1);
/// The idle and head timeout of a connection in a slot for probes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The size of a connection's head buffer; a head that does not fit is a 431.
const HEAD_BYTES: usize = 64 * 1024;
/// How long after a shutdown's begin a connection without a request waits for one that is on its way.
pub(super) const LATE_REQUEST: Duration = Duration::from_millis(100);
/// How long a connection lingers during a shutdown, [`LATE_REQUEST`] included.
pub(super) const STOP_LINGER: Duration = Duration::from_millis(600);
/// How long the end of an event stream may take once the loop has ended: its client may have stopped reading.
const STREAM_END_TIMEOUT: Duration = Duration::from_millis(300);

/// What is known of the client of a connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// Its address, or that of a proxy.
    pub(super) address: IpAddr,
    /// Signals its FIN.
    pub(super) fin: Fin,
    /// Its certificate.
    pub(super) certificate: ClientCertificate,
}

impl Client {
    /// A client without a certificate.
    pub(super) fn at(address: IpAddr, fin: Fin) -> Self {
        Self { address, fin, certificate: ClientCertificate::default() }
    }
}

/// Serves a connection until one side ends it. `stream` has a [`super::write_timeout`]; below TLS, where it is TLS. `broken`
/// ends when nothing can be sent any more.
pub(super) async fn serve<I, S>(
    (stream, broken): (I, impl Future<Output = ()>),
    client: Client,
    slot: ConnectionSlot,
    context: Arc<ServerContext>,
    dispatch: Dispatch<S>,
    mut stop_signal: signal::Receiver<bool>,
    log: Logger,
) where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Routes,
{
    let activity = &slot.activity;
    let timeouts = timeouts(slot.kind, &context);
    let stream = ReadTimeout::new(stream, Arc::clone(activity), timeouts);
    let (is_streaming, stream_begins) = (AtomicBool::new(false), Notify::new());
    // Whether the last response told the client not to send another request.
    let (close_expected, stopping) = (AtomicBool::new(false), stop_signal.clone());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let accepted = activity.begin_request();
        let refused = (!accepted).then(|| request.method().clone());
        // `answer` is an async function: until it is polled it does nothing, so a refused request has no effect.
        let (response, activity) = (dispatch.answer(&client, slot.kind, request), Arc::clone(activity));
        let (is_streaming, stream_begins, close_expected, stopping, context) =
            (&is_streaming, &stream_begins, &close_expected, &stopping, &context);
        async move {
            let mut response = match refused {
                Some(method) => {
                    context.count_overload(Overload::Connections);
                    evicted(&method)
                }
                None => response.await?,
            };
            let is_stream = watch::is_stream(&response);
            is_streaming.store(is_stream, Ordering::Relaxed);
            // From here on `client_gone` watches the socket, and a shutdown waits for the feed instead of the response's end.
            if is_stream {
                stream_begins.notify_one();
            }
            if *stopping.borrow() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // A stream cut off in its middle cannot be followed by another response.
            close_expected.store(is_stream || response.headers().contains_key(CONNECTION), Ordering::Relaxed);
            Ok::<_, Infallible>(response.map(|body| TrackedBody::new(body, activity)))
        }
    });
    let mut connection = http1_builder().serve_connection(TokioIo::new(stream), service);
    // An event stream has no end of its own, and hyper reads nothing while it writes one: its client's end shows here only.
    let mut client_gone = Box::pin(async {
        stream_begins.notified().await;
        broken.await;
        // The stream may have ended meanwhile; then the connection's own future sees what is wrong.
        if !is_streaming.load(Ordering::Relaxed) {
            pending().await
        }
    });
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = &mut client_gone => Ok(()),
        () = activity.evicted() => Ok(()),
        () = stopped(&mut stop_signal) => {
            // Ends hyper's part of an idle connection at once, of a busy one after its response.
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            if is_streaming.load(Ordering::Relaxed) {
                // The stream ends with a progress event once the loop has ended and the feed is closed. A client that has
                // stopped reading would never take that event, so the wait for it is bounded.
                tokio::select! {
                    ended = &mut connection => ended,
                    () = async { context.feed().closed().await; sleep(STREAM_END_TIMEOUT).await } => Ok(()),
                }
            } else {
                tokio::select! {
                    ended = &mut connection => ended,
                    // The request under way finds that by itself, with this poll.
                    () = context.ending() => (&mut connection).await,
                }
            }
        }
    };
    // Both kinds of end are expected by the client: its own mistake has got a response of hyper that announces the close.
    let close_expected = close_expected.load(Ordering::Relaxed) || ended.is_err();
    if let Err(error) = ended {
        debug!(log, "an http connection failed"; "error" => %error);
    }
    // The socket is taken back from hyper, which would close it at once and so reset a client that still sends.
    drop(client_gone);
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_inner();
    let unparsed = (!close_expected).then_some(&parts.read_buf[..]);
    end((stream, unparsed), slot, stop_signal).await;
}

/// Sets hyper's options.
fn http1_builder() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // `ReadTimeout` has the head timeout: hyper's starts with the wait for a request, so it cannot differ from idle.
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        // A client may send a FIN behind its request (`nc -N`), and gets its response all the same.
        .half_close(true)
        // `success::set_common_headers` sets `Date`, unless the clock shows a year that cannot be written.
        .auto_date_header(false);
    builder
}

/// Ends a connection that hyper has given back, with what it has read of a next request; None where the client expects the
/// close.
async fn end<I: AsyncRead + AsyncWrite + Unpin>(
    (mut stream, unparsed): (I, Option<&[u8]>),
    slot: ConnectionSlot,
    mut stop_signal: signal::Receiver<bool>,
) {
    let unparsed = unparsed.filter(|_| *stop_signal.borrow() && !slot.activity.is_evicted());
    let end = async {
        let lingers = match unparsed {
            Some(unparsed) => refuse_late_request(&mut stream, unparsed).await,
            None => true,
        };
        if lingers {
            close(stream, slot).await;
        }
    };
    tokio::select! {
        () = end => {}
        // A shutdown has less time than `LINGER` for each connection.
        () = async { stopped(&mut stop_signal).await; sleep(STOP_LINGER).await } => {}
    }
}

/// Refuses a request that crosses the shutdown of a connection whose last response did not announce the close. Hyper has read
/// `unparsed` of it. False where there is no such request; then the client's side has nothing to wait for, and the socket is
/// shut down.
///
/// Example: a client sends its next request 1 ms before the node gets SIGTERM. Hyper takes the connection for idle and ends;
/// a close now would reset the client, which could not know whether the request was carried out.
async fn refuse_late_request<I: AsyncRead + AsyncWrite + Unpin>(stream: &mut I, unparsed: &[u8]) -> bool {
    let has_request =
        !unparsed.is_empty() || matches!(timeout(LATE_REQUEST, stream.read(&mut [0; 1024])).await, Ok(Ok(1..)));
    // An error means that the client is gone.
    if has_request {
        drop(stream.write_all(&raw_response(&Problem::stopping())).await);
    } else {
        drop(stream.shutdown().await);
    }
    has_request
}

/// Answers a request that arrived after the eviction of its connection.
fn evicted(method: &Method) -> Response {
    let mut response = Problem::connections_full().respond(method);
    success::set_common_headers(&mut response);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Closes a connection after its last response, and gives its slot back.
async fn close<I: AsyncRead + AsyncWrite + Unpin>(mut stream: I, slot: ConnectionSlot) {
    let slots = Arc::clone(&slot.slots);
    if slot.activity.is_evicted() {
        // A new connection has the slot already. A request that hyper has read in part, or that lies in the socket, was not
        // carried out, and its client gets a 503. An idle client gets a plain close, as keep-alive allows at any time.
        let is_unanswered = slot.activity.is_evicted_unanswered()
            || matches!(stream.read(&mut [0; 1024]).now_or_never(), Some(Ok(1..)));
        drop(slot);
        let response = || raw_response(&Problem::connections_full());
        if is_unanswered && matches!(timeout(LINGER, stream.write_all(&response())).await, Ok(Ok(()))) {
            // Evicted connections no longer count against the slots, so there is a bound for those that linger.
            match slots.lingering.try_acquire() {
                Ok(_permit) => linger(stream).await,
                Err(_) => drop(stream.shutdown().now_or_never()),
            }
        } else {
            // TLS announces its end. Nothing waits for a client that does not take it.
            drop(stream.shutdown().now_or_never());
        }
        return;
    }
    if slot.kind == SlotKind::Probe {
        // Slots for probes are few: the next probe must not wait until this connection has lingered.
        drop(slot);
        match slots.lingering.try_acquire() {
            Ok(_permit) => linger(stream).await,
            Err(_) => drop(stream.shutdown().now_or_never()),
        }
    } else {
        linger(stream).await;
        drop(slot);
    }
}

/// The timeouts of a connection in a slot of this kind.
pub(super) fn timeouts(kind: SlotKind, context: &ServerContext) -> Timeouts {
    match kind {
        SlotKind::Probe => Timeouts { idle: PROBE_TIMEOUT, head: PROBE_TIMEOUT },
        _ => Timeouts { idle: context.options.idle_timeout + IDLE_GRACE, head: HEAD_TIMEOUT },
    }
}

/// Waits for the shutdown.
pub(super) async fn stopped(stop_signal: &mut signal::Receiver<bool>) {
    // An error means that the acceptor is gone, which is a shutdown too.
    drop(stop_signal.wait_for(|stopping| *stopping).await);
}

/// Sends a FIN, then reads and discards what the client still sends, for at most [`LINGER`]. Example: a 413 is sent while the
/// client still uploads; a close at that moment would reset the connection, and the client would see no 413.
pub(super) async fn linger<I: AsyncRead + AsyncWrite + Unpin>(mut stream: I) {
    let mut buffer = vec![0; 16 * 1024];
    let drained = async {
        if stream.shutdown().await.is_ok() {
            while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
        }
    };
    drop(timeout(LINGER, drained).await);
}
