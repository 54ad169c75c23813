//! `GET /events`: the latest events of the node, once or as a stream. `GET /cluster/events` has a file of its own.
//!
//! Invariants: it neither waits for the consensus loop nor for the disk, so it answers while either stalls, while the node starts, and on a
//! node outside of a cluster. A stream takes a slot of the watchers, and holds one event at a time.
//!
//! See also: what is noted ([`crate::telemetry::node_events`]), the stream ([`stream`]), `docs/monitoring.md`.

pub(super) mod cluster;
pub(super) mod overload;
mod stream;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use warp::http::header::{ACCEPT, HeaderMap, HeaderName};
use warp::reply::Response;

use super::request::handler_context::RequestContext;
use super::request::uri::{self, TIMEOUT};
use super::response::problem::{Problem, clip};
use super::response::success;
use crate::telemetry::node_events::{Batch, CAPACITY, NodeEvent, NodeEvents};

/// The path.
pub(super) const PATH: &str = "/events";

/// The request header with the id of the last event that the client has received.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The events of an answer without `limit`.
const LIMIT: usize = 100;

/// The body of the answer.
#[derive(Serialize)]
struct Body<'a> {
    node: &'a str,
    boot: &'a str,
    first: u64,
    last: u64,
    events: Vec<&'a NodeEvent>,
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// The id after which its first event is; None for the latest ones.
    since: Option<u64>,
    limit: usize,
}

/// Serves `GET /events`.
pub(super) async fn handle(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let last_event_id = request.header(&LAST_EVENT_ID)?;
    let context = &request.context;
    let wanted = parse(request.query(), last_event_id, context.events_of_node())?;
    if wants_stream(&request.headers) {
        return stream::serve(request, &wanted);
    }
    let Batch { first, last, events } = context.events_of_node().read(wanted.since, wanted.limit);
    let boot = context.events_of_node().boot();
    let names = context.names();
    Ok(success::json(&Body { node: &names.node, boot, first, last, events: events.iter().map(Arc::as_ref).collect() }))
}

/// Whether `Accept` names event streams.
fn wants_stream(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut ranges = lists.flat_map(|list| list.split(','));
    ranges.any(|range| range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream"))
}

/// Parses query and `Last-Event-ID`, which is newer than `since` where both are there.
fn parse(query: &str, last_event_id: Option<&str>, events: &NodeEvents) -> Result<Wanted, Problem> {
    let [since, limit, timeout] = uri::parameters(query, ["since", "limit", TIMEOUT])?;
    // As for every route; nothing is waited for.
    uri::deadline(timeout.as_deref(), Duration::ZERO, Instant::now())?;
    let limit = parse_limit(limit.as_deref())?;
    let since = since.map(|text| {
        cursor(&text, events).ok_or_else(|| {
            Problem::query(format!("query parameter `since` must be the id of an event, not `{}`", clip(&text)))
        })
    });
    let since = since.transpose()?;
    let last = last_event_id.filter(|id| !id.is_empty()).map(|id| {
        cursor(id, events).ok_or_else(|| {
            Problem::header(format!("header `Last-Event-ID` must be the id of an event of /events, not `{}`", clip(id)))
        })
    });
    Ok(Wanted { since: last.transpose()?.or(since), limit })
}

/// Parses how many events are wanted.
fn parse_limit(limit: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = limit else { return Ok(LIMIT) };
    let limit = digits(text).and_then(|limit| usize::try_from(limit).ok());
    limit.filter(|limit| (1..=CAPACITY).contains(limit)).ok_or_else(|| {
        Problem::query(format!("query parameter `limit` must be from 1 to {CAPACITY}, not `{}`", clip(text)))
    })
}

/// Parses `57`, or `BOOT.57` as a stream has it. An id of an earlier start of the process means all events of this one.
fn cursor(text: &str, events: &NodeEvents) -> Option<u64> {
    let (boot, id) = match text.split_once('.') {
        Some((boot, id)) => (Some(boot), digits(id)?),
        None => (None, digits(text)?),
    };
    if boot.is_some_and(|boot| boot.len() != events.boot().len() || !boot.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return None;
    }
    let is_of_this_start = boot.is_none_or(|boot| boot == events.boot()) && id <= events.last();
    Some(if is_of_this_start { id } else { 0 })
}

/// Parses decimal digits; the standard parser would accept a plus.
fn digits(text: &str) -> Option<u64> {
    let are_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    are_digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::node_events::Kind;
    use warp::http::HeaderValue;

    #[test]
    fn a_cursor_of_an_earlier_start_begins_anew() {
        let (events, other) = (NodeEvents::default(), NodeEvents::default());
        (0..9).for_each(|_| events.note(Kind::Draining));
        for (text, expected) in [
            ("5".to_owned(), Some(5)),
            ("9".to_owned(), Some(9)),
            // The node has started again since.
            ("10".to_owned(), Some(0)),
            (format!("{}.5", events.boot()), Some(5)),
            (format!("{}.5", other.boot()), Some(0)),
            (format!("{}.", events.boot()), None),
            ("x.5".to_owned(), None),
            ("+5".to_owned(), None),
            ("-1".to_owned(), None),
            (String::new(), None),
            ("99999999999999999999".to_owned(), None),
        ] {
            assert_eq!(cursor(&text, &events), expected, "{text}");
        }
    }

    #[test]
    fn the_last_event_id_is_newer_than_the_query() {
        let events = NodeEvents::default();
        (0..9).for_each(|_| events.note(Kind::Draining));
        let wanted = |query, id| parse(query, id, &events).ok();
        assert_eq!(wanted("", None), Some(Wanted { since: None, limit: LIMIT }));
        assert_eq!(wanted("since=3&limit=7", None), Some(Wanted { since: Some(3), limit: 7 }));
        assert_eq!(wanted("since=3", Some("6")), Some(Wanted { since: Some(6), limit: LIMIT }));
        assert_eq!(wanted("since=3", Some("")), Some(Wanted { since: Some(3), limit: LIMIT }));
        for query in ["limit=0", "limit=1001", "limit=", "since=", "since=x", "until=3", "limit=1&limit=2"] {
            assert_eq!(wanted(query, None), None, "{query}");
        }
        assert_eq!(wanted("", Some("x")), None);
    }

    #[test]
    fn a_stream_is_for_those_who_name_it() {
        let wants =
            |accept: &str| wants_stream(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]));
        assert!(!wants_stream(&HeaderMap::new()) && !wants("*/*") && !wants("application/json"));
        assert!(wants("text/event-stream") && wants("application/json, Text/Event-Stream;q=0.9"));
    }
}
