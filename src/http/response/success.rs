//! Successful responses: `{"data": ..., "message": "..."}`, and the headers of every response.
//!
//! Why: every route answers a success in one form and with the same headers.
//!
//! Invariants: the ETag is the version and nothing else, so a client can send it back as a condition.
//!
//! See also: [`super::problem`] (failures), [`super::item_json`] (items).

use std::cell::RefCell;
use std::io::Write;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use warp::http::StatusCode;
use warp::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use warp::reply::Response;

use super::item_json;
use crate::http::server::fair_memory::Share;
use crate::model::{Item, Value, Written};

/// The header with the raft index of a read or a write.
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The header with the term of that index.
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// The header of a replayed result.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Forbids pages of other origins to embed a response as an image or a script.
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// The range of the process's clock, 1970 to 9999, since the epoch. It stands at an end where the system's clock is beyond it.
const CLOCK_RANGE: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(253_402_300_799));
/// The estimated bytes around an item.
const ENVELOPE: usize = 48;
/// The capacity for the headers of a data route with CORS. A new map has less, and would grow twice.
const HEADERS: usize = 16;

/// Returns a 200 with `content` as JSON.
pub(crate) fn json(content: &impl Serialize) -> Response {
    json_text(serde_json::to_vec(content).expect("bodies have string keys and numbers that JSON can hold"), None)
}

/// Returns a 200 with `data` and a message. The fields of the data keep their order.
pub(crate) fn data(data: impl Serialize, message: &'static str) -> Response {
    #[derive(Serialize)]
    struct Body<T> {
        data: T,
        message: &'static str,
    }
    json(&Body { data, message })
}

/// Returns the body of a put: the value as sent, and its version.
pub(crate) fn put_body(message: &str, key: &str, value: &Value, version: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(ENVELOPE + item_json::OVERHEAD + key.len() + value.bytes.len());
    body.extend_from_slice(br#"{"data":"#);
    item_json::open_item(&mut body, key, value, version);
    body.push(b'}');
    end_with(&mut body, message);
    body
}

/// Returns the body of a read of one item, with its time to live at `clock`.
pub(crate) fn item_body(message: &str, key: &str, item: &Item, clock: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(ENVELOPE + item_json::OVERHEAD + key.len() + item.value.bytes.len());
    body.extend_from_slice(br#"{"data":"#);
    item_json::item(&mut body, key, item, clock);
    end_with(&mut body, message);
    body
}

/// Appends the message, which has nothing to escape, and the end of the object.
fn end_with(body: &mut Vec<u8>, message: &str) {
    for part in [r#","message":""#, message, r#""}"#] {
        body.extend_from_slice(part.as_bytes());
    }
}

/// Returns a 200 with this JSON text. The body holds `share` of the response budget until the client has read it.
pub(crate) fn json_text(mut body: Vec<u8>, share: Option<Share>) -> Response {
    // With curl in a terminal the prompt follows the body.
    body.push(b'\n');
    // A slow client holds the buffer for long, so unused capacity is given back, unless it is too little to be worth a copy.
    if body.capacity() > body.len() + body.len() / 4 {
        body.shrink_to_fit();
    }
    let mut response = Response::new(with_share(body.into(), share).into());
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns bytes that release `share` when the last reference to them is dropped.
pub(crate) fn with_share(bytes: Bytes, share: Option<Share>) -> Bytes {
    match share {
        Some(share) => Bytes::from_owner(BodyWithShare { bytes, _share: share }),
        None => bytes,
    }
}

/// A body with its share of the response budget.
struct BodyWithShare {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for BodyWithShare {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns a response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Sets the ETag to the version of the key.
pub(crate) fn set_etag(response: &mut Response, version: u64) {
    response.headers_mut().insert(ETAG, etag(version));
}

/// Returns the ETag of a version.
pub(crate) fn etag(version: u64) -> HeaderValue {
    let mut text = [0; 22];
    let mut rest = &mut text[..];
    write!(rest, "\"{version}\"").expect("20 digits in quotes have room");
    let unused = rest.len();
    HeaderValue::from_bytes(&text[..text.len() - unused]).expect("digits in quotes are a header")
}

/// Sets the headers with raft index and term.
pub(crate) fn set_raft_headers(response: &mut Response, index: u64, term: u64) {
    let headers = response.headers_mut();
    headers.insert(X_RAFT_INDEX, HeaderValue::from(index));
    headers.insert(X_RAFT_TERM, HeaderValue::from(term));
}

/// Returns the raft index in the headers of a response.
pub(crate) fn raft_index(response: &Response) -> Option<u64> {
    response.headers().get(&X_RAFT_INDEX)?.to_str().ok()?.parse().ok()
}

/// Sets the headers of a write: the index and term of its entry, and whether its result is replayed.
pub(crate) fn set_write_headers(response: &mut Response, written: &Written) {
    set_raft_headers(response, written.index, written.term);
    if written.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}

/// Returns the answer to a write whose result was too large to keep, so that only its version is left.
pub(crate) fn truncated(message: &str, version: u64) -> Response {
    let data = serde_json::json!({ "version": version, "truncated": true });
    json(&serde_json::json!({ "data": data, "message": message }))
}

/// Returns the answer to a touch for a client that may not read the key.
pub(crate) fn unread(message: &str) -> Response {
    json(&serde_json::json!({ "data": { "truncated": true }, "message": message }))
}

/// Returns the answer to OPTIONS with the methods of a route.
pub(crate) fn options(allow: &'static str) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// Sets the headers of every response: protection against type sniffing and embedding by other origins, the date, and caching.
pub(crate) fn set_common_headers(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if let Some(date) = date_of_second(SystemTime::now()) {
        headers.insert(DATE, date);
    }
    set_cache_control(response);
}

thread_local! {
    /// The last date of this thread, and the second that it is of.
    static LAST_DATE: RefCell<(u64, Option<HeaderValue>)> = const { RefCell::new((0, None)) };
}

/// As [`date`], which is the same for all responses of a second.
fn date_of_second(now: SystemTime) -> Option<HeaderValue> {
    // A time before the epoch has no date, nor has second 0 as a whole that of a clock which stands there.
    let Some(second) =
        now.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs()).filter(|at| *at > 0)
    else {
        return date(now);
    };
    LAST_DATE.with_borrow_mut(|last| {
        if last.0 != second {
            *last = (second, date(now));
        }
        last.1.clone()
    })
}

/// Formats an HTTP date; None for an end of the clock's range. A server without a plausible clock sends no `Date` (RFC 9110,
/// section 6.6.1).
fn date(now: SystemTime) -> Option<HeaderValue> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (CLOCK_RANGE.0 < since && since < CLOCK_RANGE.1)
        .then(|| HeaderValue::from_str(&httpdate::fmt_http_date(now)).ok())
        .flatten()
}

/// Sets `Cache-Control`: a cache may keep a response with an ETag but must revalidate it each time, and keeps nothing else.
fn set_cache_control(response: &mut Response) {
    // Only values of keys and the files of the page have an ETag that a cache can revalidate. A 404 or 412 with one must not be kept.
    let is_data = matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED);
    let how = if is_data && response.headers().contains_key(ETAG) { "no-cache" } else { "no-store" };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(how));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::fair_memory::{Budget, Source};
    use http_body_util::BodyExt;

    #[test]
    fn a_clock_outside_of_its_range_gives_no_date() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(date(at(784_111_777)).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(date(at(1)).is_some() && date(at(253_402_300_798)).is_some());
        // Both ends are excluded: the clock stands there when it cannot be right.
        assert_eq!([date(at(0)), date(at(253_402_300_799)), date(at(253_402_300_800))], [None, None, None]);
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    #[tokio::test]
    async fn a_response_holds_its_share_until_it_is_read() {
        let all = Budget::new(100);
        let share = all.take(&Source::loopback().into(), 40).unwrap();
        let response = json_text(b"[1]".to_vec(), Some(share));
        assert_eq!(all.free(), 60);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "[1]\n");
        assert_eq!(all.free(), 60, "the bytes are still there");
        drop(bytes);
        assert_eq!(all.free(), 100);
    }
}
