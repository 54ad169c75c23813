//! The accept loop and its connections.
//!
//! Why: warp's own server panics where it cannot bind, waits for ever for a request's head, and takes any number of
//! connections. Ours bounds all three, and ends in a bounded time.
//!
//! Laws: at most as many connections as the options say; beyond that, idle ones give way ([`connection_slots`]), and where
//! none is idle, new ones are refused at once ([`acceptor`]). A head arrives
//! within [`HEAD_TIMEOUT`]; before it, a connection may be idle for as long as the options say. A client that takes its answer too slowly ([`min_rate`]) loses it. After a stop
//! whoever comes is told so, a request under way is answered, and each connection closes behind its answer;
//! a stream ends once the loop has. Where the loop says nothing until shortly before the end, those who wait are told what
//! is known. A request whose client has sent a FIN behind it is answered.
//!
//! Not here: what is answered ([`super::routes`]).

pub(crate) mod acceptor;
pub(crate) mod activity;
pub(crate) mod browser_guard;
pub(crate) mod connection_slots;
pub(crate) mod host_guard;
pub(crate) mod lingering_close;
pub(crate) mod memory_budget;
pub(crate) mod min_rate;
pub(crate) mod socket;
pub(crate) mod write_timeout;

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, EXPECT, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use slog::{Logger, debug, info, warn};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch as signal;
use tokio::sync::{Notify, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use warp::http::request::Parts;
use warp::http::{Method, Version};
use warp::reply::Response;

use super::api::watch;
use super::request::body_stream::RequestBody;
use super::request::context::ServerContext;
use super::request::headers;
use super::response::problem::Problem;
use super::response::success;
use super::routes::routes;
use acceptor::Acceptor;
use activity::{Attended, Attending, Waits};
use browser_guard::OriginCheck;
use connection_slots::{ConnectionSlot, ConnectionSlots, Kind};
use host_guard::Asked;
use lingering_close::{LINGER, last_word};
use socket::{Fin, Seen, Socket};
use write_timeout::WriteTimeout;

/// The header that tells how long a connection may be idle.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer a connection may be idle than its client is told: what is sent in the last moment is on its way.
const IDLE_GRACE: Duration = Duration::from_secs(1);
/// How long a connection that has a place for a probe only may do nothing.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The bytes of a request's head that a connection buffers; a head that is still not complete then is 431.
const HEAD_BYTES: usize = 64 * 1024;
/// How long the end of a stream may take once the loop has ended: its client may have stopped reading.
const STREAM_END: Duration = Duration::from_millis(300);
/// The part of the time of a stop, one in so many, in which those are answered who still wait for the loop.
const LAST_WORDS: u32 = 8;

/// A running server. Dropping it closes every connection at once.
pub struct Server {
    stop: oneshot::Sender<Duration>,
    acceptor: JoinHandle<()>,
}

/// Begins to serve; must be called within a tokio runtime.
pub(crate) fn start(listener: std::net::TcpListener, context: Arc<ServerContext>, log: Logger) -> io::Result<Server> {
    listener.set_nonblocking(true)?;
    // The standard library's own number loses a burst of clients for a second.
    SockRef::from(&listener).listen(socket::BACKLOG)?;
    let listener = TcpListener::from_std(listener)?;
    let connections = context.options.connections;
    info!(log, "serving http"; "address" => listener.local_addr()?, "connections_max" => connections);
    let (stop, stopped) = oneshot::channel();
    let acceptor = tokio::spawn(accept(listener, ConnectionSlots::new(connections), context, stopped, log));
    Ok(Server { stop, acceptor })
}

impl Server {
    /// Stops accepting, lets requests under way finish for at most `drain`, then closes every connection.
    pub async fn stop(self, drain: Duration) {
        // Both fail only where the acceptor has ended already, and then there is nothing left to stop.
        let _ = self.stop.send(drain);
        drop(self.acceptor.await);
    }
}

async fn accept(
    listener: TcpListener,
    places: Arc<ConnectionSlots>,
    context: Arc<ServerContext>,
    mut stopped: oneshot::Receiver<Duration>,
    log: Logger,
) {
    // Ends with this function.
    let mut broadcast_changes = JoinSet::new();
    broadcast_changes.spawn(watch::broadcast_changes(Arc::clone(&context)));
    let (closing, closed) = signal::channel(false);
    let service = service(Arc::clone(&context));
    let mut connections = JoinSet::new();
    let mut refusals = Acceptor::new(places.refused(), log.clone());
    let no_place = last_word(&Problem::no_place());
    let drain = loop {
        let accepted = tokio::select! {
            drain = &mut stopped => break drain.unwrap_or_default(),
            Some(_) = connections.join_next() => continue,
            accepted = refusals.next(&listener) => accepted,
        };
        let Some((stream, source)) = accepted else { continue };
        let looked = if places.are_few() { socket::look(stream) } else { Ok((stream, Seen::default())) };
        // An error means that the runtime ends.
        let Ok((stream, seen)) = looked else { continue };
        let place = places.take(source, seen);
        if place.as_ref().is_none_or(|place| place.kind != Kind::Open) {
            refusals.warn_limited("too many http connections are open", "none of them is idle; new ones are refused");
        }
        let Some(place) = place else {
            refusals.send_away(stream, &no_place);
            continue;
        };
        let fin = Fin::default();
        let socket = Socket::new(stream, fin.clone());
        let (context, service, closed) = (Arc::clone(&context), service.clone(), closed.clone());
        connections.spawn(serve(socket, fin, place, context, service, closed, log.clone()));
    };
    let end = Instant::now() + drain;
    closing.send_replace(true);
    let drained = async {
        let last_words = drain / LAST_WORDS;
        if timeout(drain - last_words, all_of(&mut connections)).await.is_err() {
            context.give_up();
        }
        if timeout(last_words, all_of(&mut connections)).await.is_err() {
            warn!(log, "closing http connections whose requests are still under way"; "connections" => connections.len());
        }
        connections.shutdown().await;
    };
    refusals.until(drained, listener, end).await;
}

/// Waits until all have ended.
async fn all_of(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// What answers the requests of a connection.
fn service(
    context: Arc<ServerContext>,
) -> impl Service<hyper::Request<Incoming>, Response = Response, Error = Infallible, Future: Send> + Clone + Send + 'static
{
    let app = TowerToHyperService::new(warp::service(routes(&context)));
    service_fn(move |request| answer(Arc::clone(&context), app.clone(), request))
}

/// Serves what a client sends at once, and ends where that ends.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) async fn serve_once<I>(stream: I, context: Arc<ServerContext>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (_closing, closed) = signal::channel(false);
    let log = Logger::root(slog::Discard, slog::o!());
    let place = ConnectionSlots::new(context.options.connections)
        .take(memory_budget::Source::loopback(), Seen::default())
        .expect("the first one finds a place");
    serve((stream, pending()), Fin::default(), place, Arc::clone(&context), service(context), closed, log).await;
}

/// Answers a request: checks who asks, has it done where that is allowed, and completes the answer's head.
async fn answer<S>(
    context: Arc<ServerContext>,
    app: S,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible>
where
    S: Service<hyper::Request<RequestBody>, Response = Response, Error = Infallible>,
{
    let (parts, body) = request.into_parts();
    let mut body = RequestBody::new(body);
    let waits = parts.headers.contains_key(EXPECT);
    let goes_on = parts.version == Version::HTTP_11 && !asks_to_close(&parts.headers);
    let probes_only = parts.extensions.get() == Some(&Kind::Probe) && !host_guard::is_probe(parts.uri.path());
    let mut response = match context.origins.check(&parts.headers) {
        _ if probes_only => Problem::no_place().respond(&parts.method),
        OriginCheck::Absent => for_host(&context, app, parts, &body).await?,
        OriginCheck::Refused(problem) => problem.respond(&parts.method),
        OriginCheck::Allowed(origin) => {
            let mut response = if browser_guard::is_preflight(&parts.method, &parts.headers) {
                browser_guard::preflight(&parts.headers)
            } else {
                for_host(&context, app, parts, &body).await?
            };
            browser_guard::open(&mut response, origin);
            response
        }
    };
    success::complete(&mut response);
    // What is closed without a word loses the client's next request.
    if !response.headers().contains_key(CONNECTION) && !body.read_off(waits).await {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if goes_on
        && !response.headers().contains_key(CONNECTION)
        && let Some(seconds) = &context.keep_alive
    {
        response.headers_mut().insert(KEEP_ALIVE, seconds.clone());
    }
    Ok(response)
}

/// Whether the client wants the connection to end behind the answer.
fn asks_to_close(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case("close"))
}

/// Answers a request of a client that may ask, if it is for this node's host.
async fn for_host<S>(context: &ServerContext, app: S, parts: Parts, body: &RequestBody) -> Result<Response, Infallible>
where
    S: Service<hyper::Request<RequestBody>, Response = Response, Error = Infallible>,
{
    let asked = match context.hosts.check(&parts, &context.names().hosts) {
        Ok(asked) => asked,
        Err(problem) => return Ok(problem.respond(&parts.method)),
    };
    // What probes of an orchestrator are told, they say themselves.
    let is_asked_of_the_loop = !host_guard::is_probe(parts.uri.path()) || parts.uri.path().starts_with("/health");
    let checked = match context.starting() {
        Some(problem) if is_asked_of_the_loop => Err(problem),
        _ => headers::check(&parts.headers),
    };
    let response = match checked {
        Ok(()) => routed(app, hyper::Request::from_parts(parts, body.clone())).await?,
        Err(problem) => problem.respond(&parts.method),
    };
    Ok(match asked {
        Asked::Known => context.with_node_headers(response),
        Asked::Foreign => success::empty(response.status()),
    })
}

/// Asks the routes. A target without a path (`CONNECT host:port`, `OPTIONS *`) is kept from warp, which panics at one.
async fn routed<S>(app: S, request: hyper::Request<RequestBody>) -> Result<Response, Infallible>
where
    S: Service<hyper::Request<RequestBody>, Response = Response, Error = Infallible>,
{
    if request.uri().path().starts_with('/') {
        app.call(request).await
    } else if request.method() == Method::OPTIONS && request.uri().path() == "*" {
        Ok(success::options("GET, HEAD, POST, PUT, DELETE, OPTIONS"))
    } else {
        Ok(Problem::no_route(&request.uri().to_string()).respond(request.method()))
    }
}

/// Serves a connection until one side ends it; `broken` returns where nothing can be
/// sent any more, and `fin` tells that the client has closed its side.
async fn serve<I, S>(
    (stream, broken): (I, impl Future<Output = ()>),
    fin: Fin,
    place: ConnectionSlot,
    context: Arc<ServerContext>,
    service: S,
    mut closed: signal::Receiver<bool>,
    log: Logger,
) where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<hyper::Request<Incoming>, Response = Response, Error = Infallible>,
{
    let activity = &place.activity;
    let waits = waits(place.kind, &context);
    let stream = Attended::new(WriteTimeout::new(stream, context.options.rate_grace), Arc::clone(activity), waits);
    let (streams, begins) = (AtomicBool::new(false), Notify::new());
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let stays = activity.begin();
        request.extensions_mut().insert(place.source);
        request.extensions_mut().insert(place.kind);
        request.extensions_mut().insert(fin.clone());
        let method = (!stays).then(|| request.method().clone());
        let (answer, activity, streams, begins) = (service.call(request), Arc::clone(activity), &streams, &begins);
        async move {
            let mut answer = match method {
                // Its place is somebody else's.
                Some(method) => given_way(&method),
                None => answer.await?,
            };
            let is_stream = watch::is_stream(&answer);
            streams.store(is_stream, Ordering::Relaxed);
            if is_stream {
                begins.notify_one();
            }
            if place.kind == Kind::Probe {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| Attending::new(body, activity)))
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(HEAD_BYTES)
        // Whoever has sent all of a request may say so with a FIN, and gets the answer all the same.
        .half_close(true)
        // Answers have one of their own, where the clock shows what can be written.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    // A stream, which has no end, ends where its client has gone; hyper reads nothing behind a FIN.
    let mut gone = Box::pin(async {
        begins.notified().await;
        broken.await;
        if !streams.load(Ordering::Relaxed) {
            pending().await
        }
    });
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = &mut gone => Ok(()),
        // It is idle, and gives its place to somebody else.
        () = activity.told_to_leave() => Ok(()),
        () = told(&mut closed) => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            if streams.load(Ordering::Relaxed) {
                // A stream says how far it went once nothing more happens here.
                tokio::select! {
                    ended = &mut connection => ended,
                    () = async { context.feed().closed().await; sleep(STREAM_END).await } => Ok(()),
                }
            } else {
                (&mut connection).await
            }
        }
    };
    if let Err(error) = ended {
        debug!(log, "an http connection broke"; "error" => %error);
    }
    drop(gone);
    let stream = connection.into_parts().io.into_inner().into_inner().into_inner();
    tokio::select! {
        () = part(stream, place) => {}
        () = told(&mut closed) => {}
    }
}

/// The answer to a request that is not carried out, since its connection has to give way.
fn given_way(method: &Method) -> Response {
    let mut answer = Problem::no_place().respond(method);
    success::complete(&mut answer);
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// Ends a connection whose last answer has been written.
async fn part<I: AsyncRead + AsyncWrite + Unpin>(mut stream: I, place: ConnectionSlot) {
    let places = Arc::clone(&place.places);
    if place.activity.is_leaving() {
        // Another one has its place already. What it asked was not carried out, and it is told so.
        let asked =
            place.activity.leaves_unanswered() || matches!(stream.read(&mut [0; 1024]).now_or_never(), Some(Ok(1..)));
        drop(place);
        if asked && matches!(timeout(LINGER, stream.write_all(&last_word(&Problem::no_place()))).await, Ok(Ok(()))) {
            match places.partings.try_acquire() {
                Ok(_parting) => linger(stream).await,
                Err(_) => drop(stream.shutdown().await),
            }
        }
        return;
    }
    if place.kind == Kind::Probe {
        // The places of probes are few: the next one must not wait until this one is gone.
        drop(place);
        if let Ok(_parting) = places.partings.try_acquire() {
            linger(stream).await;
        }
    } else {
        linger(stream).await;
        drop(place);
    }
}

fn waits(kind: Kind, context: &ServerContext) -> Waits {
    match kind {
        Kind::Probe => Waits { idle: PROBE_TIMEOUT, head: PROBE_TIMEOUT },
        _ => Waits { idle: context.options.idle_timeout + IDLE_GRACE, head: HEAD_TIMEOUT },
    }
}

/// Returns once the server is to stop.
async fn told(closed: &mut signal::Receiver<bool>) {
    // An error means that the acceptor is gone, which is a stop too.
    drop(closed.wait_for(|closed| *closed).await);
}

/// Reads and throws away what a client still sends after our last answer. Closing a socket with unread bytes resets the
/// connection, and the client could lose an answer such as 413 before it has read it.
async fn linger<I: AsyncRead + AsyncWrite + Unpin>(mut stream: I) {
    let mut scrap = vec![0; 16 * 1024];
    let drained = async {
        if stream.shutdown().await.is_ok() {
            while matches!(stream.read(&mut scrap).await, Ok(1..)) {}
        }
    };
    // At the end of the time the client has had its chance.
    drop(timeout(LINGER, drained).await);
}
