//! `GET /watch`: what happens to a key, or to all keys with a prefix, as server-sent events.
//!
//! Why: whoever waits for a change must not have to ask again and again, and must miss none over lost connections, dead
//! nodes and new leaders. Server-sent events are what curl shows and what browsers resume by themselves.
//!
//! Laws: events come in order, none is left out and none comes twice. All changes of an index come before the next
//! `progress`, and a progress never says more than was sent. A watcher costs a cursor and a bounded piece of the text of
//! what comes next; the events themselves are the feed's alone. So a client that does not take them falls behind, is told
//! so, and never holds up the loop or another client. A `progress` is only sent while the node is in touch with a leader,
//! and last before the node stops.
//!
//! Not here: how long events are kept (`changefeed`), how they are written ([`crate::http::response::event_stream`]), and connections
//! that take too little ([`crate::http::server::write_timeout`]) or have gone ([`crate::http::server::socket`]).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::time::{Instant, sleep, sleep_until};
use warp::Reply;
use warp::http::Method;
use warp::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use warp::reply::Response;

use crate::changefeed::{FeedRead, Filter, SubscribeError, Subscription};
use crate::consensus::{Bounds, Consistency};
use crate::http::request::context::{RequestContext, ServerContext};
use crate::http::request::query;
use crate::http::request::query::Deadline;
use crate::http::response::event_stream;
use crate::http::response::event_stream::Rest;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::http::server::socket::Fin;
use crate::http::server::watcher_slots::WatcherSlot;
use crate::model::{Cursor, Event};

/// The header with which a client says which event it had last.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Tells proxies to pass events on as they come.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";
/// How soon a browser whose stream has ended asks again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often a client hears of progress; one that has heard nothing for three times as long asks another node.
const PROGRESS: Duration = Duration::from_secs(4);
/// How long watchers are not woken again: what happens meanwhile they hear of all at once.
const TOGETHER: Duration = Duration::from_millis(10);
/// How soon a progress that could not be sent is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// A line that says nothing. A client that has gone answers it with a reset.
const NOTHING: &[u8] = b":\n\n";
/// What a read asks for that is to tell an index: any key.
const ANY_KEY: &[u8] = b"0";

/// Tells all watchers of what the loop tells only once: it must not spend time on each of them.
pub(crate) async fn broadcast_changes(context: Arc<ServerContext>) {
    loop {
        context.feed().changed().await;
        context.watchers.wake_all();
        sleep(TOGETHER).await;
    }
}

/// Whether an answer goes on for as long as both sides want.
pub(crate) fn is_stream(response: &Response) -> bool {
    response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == EVENT_STREAM)
}

/// Answers `GET /watch`.
pub(crate) async fn handle(call: RequestContext) -> Result<Response, Problem> {
    call.takes_get()?;
    let last_event_id = call.header(&LAST_EVENT_ID)?;
    let (filter, cursor) = asked(&call.query, last_event_id, call.context.options.key_bytes)?;
    let slot = call.context.watchers.take(call.source).ok_or_else(Problem::watchers_full)?;
    let opened = call.context.feed().open(cursor).map_err(|unopened| match unopened {
        SubscribeError::Refused(refusal) => refusal.into(),
        SubscribeError::Compacted(oldest) => Problem::compacted(oldest),
    })?;
    is_committed(&call, &opened).await?;
    let mut response = if call.method == Method::HEAD {
        Response::default()
    } else {
        let watcher = Watcher::new(call.context, filter, opened, (slot, call.fin));
        warp::reply::stream(stream::unfold(watcher, Watcher::next)).into_response()
    };
    as_stream(&mut response);
    success::mark(&mut response, opened.applied, opened.term);
    Ok(response)
}

fn as_stream(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
}

/// That a client which is further on than this node is not further on than the cluster, which then was made anew: nothing
/// would come for it, maybe for ever. A ReadIndex tells.
async fn is_committed(call: &RequestContext, opened: &Subscription) -> Result<(), Problem> {
    let cursor = opened.cursor;
    let seen = cursor.complete().unwrap_or(cursor.index);
    if seen <= opened.applied {
        return Ok(());
    }
    let deadline = Deadline(call.arrived + call.context.options.request_timeout);
    let fresh = (Consistency::Linearizable, Bounds::default());
    let committed = call.context.read(ANY_KEY.to_vec(), fresh, deadline).await?.index;
    if seen <= committed { Ok(()) } else { Err(Problem::ahead(committed)) }
}

/// Whether the client reads events and nothing else: a browser's `EventSource` gives up for ever on any other answer.
pub(crate) fn wants_events(call: &RequestContext) -> bool {
    call.header(&ACCEPT).ok().flatten().is_some_and(|accept| accept.eq_ignore_ascii_case("text/event-stream"))
}

/// The answer to such a client where nobody can be watched here, now or any more: one event that says why, and the end,
/// after which it asks again by itself unless it closes.
pub(crate) fn refused(problem: &Problem) -> Response {
    let data = String::from_utf8(problem.to_json(&Method::GET)).expect("JSON is UTF-8");
    let text = format!("{}event:refused\ndata:{data}\n\n", again());
    let mut response = warp::reply::stream(stream::iter([Ok::<_, Infallible>(text)])).into_response();
    as_stream(&mut response);
    response
}

/// Tells how soon to ask again after the end.
fn again() -> String {
    format!("retry:{}\n\n", ASK_AGAIN.as_millis())
}

/// Which keys are watched, and from where on, if that is said; keys have at most `key_bytes` bytes.
pub(crate) fn asked(
    query: &str,
    last_event_id: Option<&str>,
    key_bytes: usize,
) -> Result<(Filter, Option<Cursor>), Problem> {
    let [prefix, key, from] = query::parameters(query, ["prefix", "key", "from"])?;
    let filter = match (prefix, key) {
        (Some(prefix), None) if prefix.len() > key_bytes => {
            let detail = format!("query parameter `prefix` has {} bytes, no key has over {key_bytes}", prefix.len());
            return Err(Problem::query(detail));
        }
        (Some(prefix), None) => Filter::Prefix(prefix.into()),
        (None, Some(key)) => {
            query::check_key(&key, key_bytes).map_err(|problem| problem.within("query parameter `key`"))?;
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
    // An empty one is what a browser remembers where it has had no event with an id.
    let last = last_event_id.filter(|id| !id.is_empty()).map(|id| {
        id.parse().map_err(|why| Problem::header(format!("header `Last-Event-ID` is `{}`, but {why}", clip(id))))
    });
    Ok((filter, last.transpose()?.or(from)))
}

/// One client that watches.
struct Watcher {
    context: Arc<ServerContext>,
    filter: Filter,
    epoch: u64,
    /// The first change that has not been sent.
    cursor: Cursor,
    /// What comes next, as long as the feed keeps it, and where the client is once it has all of it.
    chunk: VecDeque<Weak<Event>>,
    behind: Cursor,
    /// When the client is to hear of progress.
    due: Instant,
    /// Whether it has heard how soon to ask again.
    begun: bool,
    /// Whether it has heard where it is since it has everything.
    greeted: bool,
    closed: bool,
    /// What is left of the event that is being sent.
    rest: Option<Rest>,
    fin: Fin,
    slot: WatcherSlot,
}

impl Watcher {
    fn new(context: Arc<ServerContext>, filter: Filter, opened: Subscription, (slot, fin): (WatcherSlot, Fin)) -> Self {
        Self {
            context,
            filter,
            epoch: opened.epoch,
            cursor: opened.cursor,
            chunk: VecDeque::new(),
            behind: opened.cursor,
            due: Instant::now() + PROGRESS,
            begun: false,
            greeted: false,
            closed: false,
            rest: None,
            fin,
            slot,
        }
    }

    /// The next piece of text, once there is one; None at the end.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if !std::mem::replace(&mut self.begun, true) {
            return Some((Ok(again().into()), self));
        }
        if let Some(rest) = self.rest.take() {
            // An event that is gone meanwhile cannot be ended: the client drops what has no end, and asks again after the
            // event before.
            let (piece, rest) = rest.next()?;
            self.rest = rest;
            return Some((Ok(piece), self));
        }
        self.next_event().await
    }

    /// The beginning of the next event, or of what is said instead of one, once there is any; None at the end.
    async fn next_event(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let context = Arc::clone(&self.context);
        while !self.closed {
            match self.chunk.pop_front().map(|event| event.upgrade()) {
                Some(Some(event)) => {
                    self.cursor = if self.chunk.is_empty() { self.behind } else { event.after() };
                    let (piece, rest) =
                        event_stream::begin(&event, |bytes| context.events.take(self.slot.source, bytes));
                    self.rest = rest;
                    return Some((Ok(piece), self));
                }
                // The feed has dropped it, and says below from where on it has everything.
                Some(None) => self.chunk.clear(),
                None => {}
            }
            // Before the feed is read, or what comes between would be slept through.
            let news = context.watchers.changed();
            let mut news = std::pin::pin!(news);
            news.as_mut().enable();
            match context.feed().read(self.epoch, self.cursor, &self.filter) {
                FeedRead::Ended => break,
                FeedRead::Stopped(cursor) => {
                    // On another node, or on this one when it is back, the client goes on here and not further back.
                    self.closed = true;
                    if let Some(index) = cursor.complete() {
                        return Some((Ok(progress(index)), self));
                    }
                }
                FeedRead::Lagged(oldest) => {
                    self.closed = true;
                    let data = format!(r#"{{"oldest_index":{oldest}}}"#);
                    return Some((Ok(format!("event:lagged\ndata:{data}\n\n").into()), self));
                }
                FeedRead::Found { events, cursor, all, applied, in_touch_until } => {
                    let idle = all && events.is_empty();
                    if idle {
                        self.cursor = cursor;
                    }
                    let due = Instant::now() >= self.due || (idle && !self.greeted);
                    let complete = self.cursor.complete().filter(|index| *index <= applied);
                    let in_touch = context.now() < in_touch_until;
                    if due && !in_touch {
                        context.feed().want_contact();
                    }
                    if due && let Some(index) = complete.filter(|_| in_touch) {
                        self.greeted |= idle;
                        self.due = Instant::now() + PROGRESS;
                        return Some((Ok(progress(index)), self));
                    }
                    if idle {
                        let until = if due { Instant::now() + RETRY } else { self.due };
                        tokio::select! {
                            () = news => {}
                            () = sleep_until(until) => {}
                            () = self.fin.seen() => return Some((Ok(Bytes::from_static(NOTHING)), self)),
                        }
                    } else if events.is_empty() {
                        self.cursor = cursor;
                    } else {
                        self.behind = cursor;
                        self.chunk = events.iter().map(Arc::downgrade).collect();
                    }
                }
            }
        }
        None
    }
}

/// Everything up to `index` was sent.
fn progress(index: u64) -> Bytes {
    format!("event:progress\ndata:{{\"index\":{index}}}\nid:{index}\n\n").into()
}
