//! `GET /watch`: the changes of a key, or of all keys with a prefix, as server-sent events.
//!
//! Why: a client that waits for a change should not poll, and must not miss one over lost connections, failed nodes and new
//! leaders. curl prints server-sent events, and browsers resume them by themselves.
//!
//! Invariants: events are in order, without a gap or a duplicate. All changes of an index come before the next `progress`,
//! and `progress` never names an index that was not sent completely. A watcher holds a cursor and a bounded chunk of text;
//! the events belong to the change feed. So a client that reads slowly gets `lagged`, and never delays the consensus loop
//! or another client. `progress` is sent only while the node is in contact with a leader, and last before the node stops.
//! A stream whose token has lost its right, or whose client certificate is not valid any more, ends with `denied`, before any further
//! change.
//!
//! Example: entry 41 is a transaction that puts `u/1` and `x`, with the events 41.1 and 41.2. A client that watches `u/`
//! reconnects with `Last-Event-ID: 41.1`. Its cursor is the second change of 41, which the filter skips. The feed has
//! nothing for it up to index 50, so the cursor becomes the first change of 51, and the client gets `progress` with
//! `id:50`. If it reconnects now, on any node, it resumes at 51 and not at 41, although it has received no event in
//! between.
//!
//! See also: `changefeed` (retention), [`crate::http::response::event_stream`] (text of an event),
//! [`crate::http::server::write_timeout`] (clients that read too slowly), [`crate::http::server::client_socket`] (clients that are
//! gone).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, sleep, sleep_until};
use warp::Reply;
use warp::http::Method;
use warp::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use warp::reply::Response;

use crate::changefeed::{FeedRead, Filter, SubscribeError, Subscription};
use crate::consensus::{Bounds, Consistency};
use crate::http::request::caller::{HeldRight, Need};
use crate::http::request::handler_context::{RequestContext, ServerContext};
use crate::http::request::uri;
use crate::http::request::uri::Deadline;
use crate::http::response::event_stream;
use crate::http::response::event_stream::PartialEvent;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::http::server::client_socket::Fin;
use crate::http::server::watchers::WatcherSlot;
use crate::model::{Cursor, Event};

/// The request header with the id of the last event that the client has received.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The response header that turns off response buffering in nginx and others.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// The time after which a browser reconnects when a stream has ended.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// The time between two `progress` events; a client without any event for three times as long uses another node.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(4);
/// The minimum time between two wake-ups of the watchers, so that many small batches cost each of them one wake-up.
const WAKE_INTERVAL: Duration = Duration::from_millis(10);
/// The time after which a `progress` that was due without contact with a leader is tried again.
const PROGRESS_RETRY: Duration = Duration::from_millis(250);
/// An empty comment. The host of a client that is gone answers it with a TCP reset.
pub(crate) const EMPTY_COMMENT: &[u8] = b":\n\n";
/// The key of a read of which only the index is used.
const ANY_KEY: &[u8] = b"0";

/// Wakes all watchers after each change of the feed, of the tokens or of the certificates. The consensus loop wakes only this task, so the number of watchers costs
/// it nothing.
pub(crate) async fn broadcast_changes(context: Arc<ServerContext>) {
    let mut tokens = context.options.tokens.as_ref().map(|tokens| tokens.changes());
    let mut certificates = context.options.tls.as_ref().map(|tls| tls.acceptor.credentials().changes());
    loop {
        tokio::select! {
            () = context.feed().changed() => {}
            // Each watcher looks whether it still has its right.
            () = reloaded(&mut tokens) => {}
            () = reloaded(&mut certificates) => {}
        }
        context.watchers.wake_all();
        sleep(WAKE_INTERVAL).await;
    }
}

/// Waits for the next reload; for ever where there is nothing to reload.
async fn reloaded(changes: &mut Option<tokio::sync::watch::Receiver<u64>>) {
    match changes {
        // An error would mean that what is reloaded is gone, but the context owns it.
        Some(changes) => drop(changes.changed().await),
        None => std::future::pending().await,
    }
}

/// Whether a response is an event stream, which has no end of its own.
pub(crate) fn is_stream(response: &Response) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM)
}

/// Serves `GET /watch`.
pub(crate) async fn handle(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let last_event_id = request.header(&LAST_EVENT_ID)?;
    let (filter, cursor) = parse(request.query(), last_event_id, request.context.options.key_bytes)?;
    // The slot is taken before the cursor is checked, so a flood of refused requests stays within the limit too.
    let slot = request.context.watchers.take(request.holder.clone()).ok_or_else(Problem::watchers_full)?;
    let subscription = request.context.feed().open(cursor).map_err(|error| match error {
        SubscribeError::Refused(refusal) => refusal.into(),
        SubscribeError::Compacted(oldest) => Problem::compacted(oldest),
    })?;
    check_not_ahead(&request, &subscription).await?;
    let mut response = if request.method == Method::HEAD {
        Response::default()
    } else {
        let right = HeldRight::new(&request, Need::of_filter(&filter));
        let watcher = Watcher::new((request.context, right), filter, subscription, (slot, request.fin));
        warp::reply::stream(stream::unfold(watcher, Watcher::next)).into_response()
    };
    set_stream_headers(&mut response);
    success::set_raft_headers(&mut response, subscription.applied, subscription.term);
    Ok(response)
}

/// Sets the headers of an event stream.
pub(crate) fn set_stream_headers(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// Checks that a cursor beyond this node's applied index is not beyond the commit index of the cluster.
///
/// Example: the client has seen index 900 when the cluster is replaced by a new one under the same addresses, which is at index
/// 20. Without this check the client would wait for 880 more writes, and then miss nothing that it can notice.
async fn check_not_ahead(request: &RequestContext, subscription: &Subscription) -> Result<(), Problem> {
    let cursor = subscription.cursor;
    // In the middle of an entry (41.2) the client has seen part of that index, so it must be committed as well.
    let seen = cursor.complete().unwrap_or(cursor.index);
    if seen <= subscription.applied {
        return Ok(());
    }
    // A linearizable read returns an index that was committed when it began, so an existing index is at most that.
    let deadline = Deadline(request.arrived + request.context.request_timeout());
    let fresh = (Consistency::Linearizable, Bounds::default());
    let committed = request.context.read(ANY_KEY.to_vec(), fresh, deadline).await?.index;
    if seen <= committed { Ok(()) } else { Err(Problem::ahead(committed)) }
}

/// Whether the client accepts events only. That is a browser's `EventSource`, which never reconnects after any other answer.
pub(crate) fn accepts_only_events(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT).iter();
    let is_only = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"text/event-stream");
    values.next().is_some_and(is_only) && values.next().is_none()
}

/// Returns a stream of one `refused` event with the problem, for an `EventSource`: after its end the browser reconnects, unless
/// the page closes it.
pub(crate) fn refused_stream(problem: &Problem) -> Response {
    let text = format!("{}{}", retry_field(), problem_event("refused", problem));
    let mut response = warp::reply::stream(stream::iter([Ok::<_, Infallible>(text)])).into_response();
    set_stream_headers(&mut response);
    response
}

/// Returns the event with a problem, after which the stream ends.
pub(crate) fn problem_event(name: &str, problem: &Problem) -> String {
    let data = String::from_utf8(problem.to_json(&Method::GET)).expect("JSON is UTF-8");
    format!("event:{name}\ndata:{data}\n\n")
}

/// Returns the `retry` field, which sets the reconnection time of a browser.
pub(crate) fn retry_field() -> String {
    format!("retry:{}\n\n", RECONNECT_DELAY.as_millis())
}

/// Parses the filter and the cursor, if any; `key_bytes` is the maximum key.
pub(crate) fn parse(
    query: &str,
    last_event_id: Option<&str>,
    key_bytes: usize,
) -> Result<(Filter, Option<Cursor>), Problem> {
    let [prefix, key, from] = uri::parameters(query, ["prefix", "key", "from"])?;
    let filter = match (prefix, key) {
        (Some(prefix), None) if prefix.len() > key_bytes => {
            let detail = format!("query parameter `prefix` has {} bytes, no key has over {key_bytes}", prefix.len());
            return Err(Problem::query(detail));
        }
        (Some(prefix), None) => Filter::Prefix(prefix.into()),
        (None, Some(key)) => {
            uri::check_key(&key, key_bytes).map_err(|problem| problem.within("query parameter `key`"))?;
            Filter::Key(key.into())
        }
        _ => {
            let detail = "exactly one of the query parameters `prefix` and `key` must be given; `prefix=` is every key";
            return Err(Problem::query(detail));
        }
    };
    let from = from.map(|text| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().map(Cursor::from).ok_or_else(|| {
            Problem::query(format!("query parameter `from` must be a raft index, not `{}`", clip(&text)))
        })
    });
    let from = from.transpose()?;
    // A browser that has received no event with an id sends an empty one.
    let last = last_event_id.filter(|id| !id.is_empty()).map(|id| {
        id.parse().map_err(|why| Problem::header(format!("header `Last-Event-ID` is `{}`, but {why}", clip(id))))
    });
    // `EventSource` reconnects with the same URL, so `from` is where the first connection began and `Last-Event-ID` is newer.
    Ok((filter, last.transpose()?.or(from)))
}

/// The stream of one watching client.
struct Watcher {
    context: Arc<ServerContext>,
    right: HeldRight,
    filter: Filter,
    epoch: u64,
    /// The first change that was not sent.
    cursor: Cursor,
    /// The next events, as long as the feed retains them.
    chunk: VecDeque<Weak<Event>>,
    /// The cursor after the chunk; changes that the filter skips may lie between its last event and this.
    chunk_end: Cursor,
    /// When the next `progress` is due.
    progress_due: Instant,
    /// Whether the `retry` field was sent.
    retry_sent: bool,
    /// Whether a `progress` was sent since the client has received all changes.
    caught_up_sent: bool,
    closed: bool,
    /// The rest of the event that is being sent.
    partial: Option<PartialEvent>,
    fin: Fin,
    slot: WatcherSlot,
}

impl Watcher {
    fn new(
        (context, right): (Arc<ServerContext>, HeldRight),
        filter: Filter,
        subscription: Subscription,
        (slot, fin): (WatcherSlot, Fin),
    ) -> Self {
        Self {
            context,
            right,
            filter,
            epoch: subscription.epoch,
            cursor: subscription.cursor,
            chunk: VecDeque::new(),
            chunk_end: subscription.cursor,
            progress_due: Instant::now() + PROGRESS_INTERVAL,
            retry_sent: false,
            caught_up_sent: false,
            closed: false,
            partial: None,
            fin,
            slot,
        }
    }

    /// Returns the next text of the stream, once there is some; None at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if !std::mem::replace(&mut self.retry_sent, true) {
            return Some((Ok(retry_field().into()), self));
        }
        if let Some(partial) = self.partial.take() {
            // The feed may drop an event while a slow client is in the middle of it. The stream then ends without the blank
            // line that ends an event, so the client discards what it has of it and reconnects with the id of the previous
            // event.
            let (text, partial) = partial.next_chunk()?;
            self.partial = partial;
            return Some((Ok(text), self));
        }
        self.next_event().await
    }

    /// Returns the first text of the next event, or of `progress` or `lagged`, once there is one; None at the end.
    async fn next_event(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let context = Arc::clone(&self.context);
        while !self.closed {
            // Registered before right and feed are looked at: a change between the look and the wait would not wake this watcher
            // otherwise.
            let changed = context.watchers.changed();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            // It is woken by each reload and at least every `PROGRESS_INTERVAL`, so an expiry is noticed as well.
            if let Err(problem) = self.right.check() {
                self.closed = true;
                return Some((Ok(problem_event("denied", &problem).into()), self));
            }
            // Sends from the chunk first. It holds weak references: memory is bounded by the feed, whatever the number of
            // watchers.
            match self.chunk.pop_front().map(|event| event.upgrade()) {
                Some(Some(event)) => {
                    self.cursor = if self.chunk.is_empty() { self.chunk_end } else { event.after() };
                    let (text, partial) =
                        event_stream::first_chunk(&event, |bytes| context.events.take(&self.slot.holder, bytes));
                    self.partial = partial;
                    context.metrics().http.watch_events.inc();
                    return Some((Ok(text), self));
                }
                // The feed has dropped the event. The read below, at the cursor of that event, answers `Lagged`.
                Some(None) => self.chunk.clear(),
                None => {}
            }
            match context.feed().read(self.epoch, self.cursor, &self.filter) {
                FeedRead::Ended => break,
                FeedRead::Stopped(cursor) => {
                    // The last `progress` names all that this node has applied, so the client resumes there, on another
                    // node or on this one after its restart. In the middle of an entry there is no such index, and the last
                    // id is enough.
                    self.closed = true;
                    if let Some(index) = cursor.complete() {
                        return Some((Ok(progress(index)), self));
                    }
                }
                FeedRead::Lagged(oldest) => {
                    self.closed = true;
                    context.metrics().http.watch_lagged.inc();
                    let data = format!(r#"{{"oldest_index":{oldest}}}"#);
                    return Some((Ok(format!("event:lagged\ndata:{data}\n\n").into()), self));
                }
                FeedRead::Found { events, cursor, all, applied, contact_until } => {
                    let idle = all && events.is_empty();
                    if idle {
                        self.cursor = cursor;
                    }
                    // `progress` is due every 4 s, also between events, and once when the client has caught up, so that it
                    // learns at once that there is nothing more.
                    let due = Instant::now() >= self.progress_due || (idle && !self.caught_up_sent);
                    // A cursor from another node may be ahead of this one: `progress` must not confirm what is not applied
                    // here.
                    let complete = self.cursor.complete().filter(|index| *index <= applied);
                    // On a partitioned node silence is the signal: its client counts 15 s and uses another node.
                    let in_contact = context.now() < contact_until;
                    if due && !in_contact {
                        context.feed().request_contact();
                    }
                    if due && let Some(index) = complete.filter(|_| in_contact) {
                        self.caught_up_sent |= idle;
                        self.progress_due = Instant::now() + PROGRESS_INTERVAL;
                        return Some((Ok(progress(index)), self));
                    }
                    if idle {
                        let until = if due { Instant::now() + PROGRESS_RETRY } else { self.progress_due };
                        tokio::select! {
                            () = changed => {}
                            () = sleep_until(until) => {}
                            // A half-closed connection may be a client that goes on reading, or one that is gone: the
                            // empty comment shows which.
                            () = self.fin.seen() => return Some((Ok(Bytes::from_static(EMPTY_COMMENT)), self)),
                        }
                    } else if events.is_empty() {
                        // The filter has skipped everything that one read looks at: reads on from there.
                        self.cursor = cursor;
                    } else {
                        self.chunk_end = cursor;
                        self.chunk = events.iter().map(Arc::downgrade).collect();
                    }
                }
            }
        }
        None
    }
}

/// Returns the `progress` event: all changes up to `index` were sent.
fn progress(index: u64) -> Bytes {
    format!("event:progress\ndata:{{\"index\":{index}}}\nid:{index}\n\n").into()
}
