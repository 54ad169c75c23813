//! How a success looks: 200, `{"data": ..., "message": "..."}`.
//!
//! Why: every success has one form and the same headers, whichever route it comes from.
//!
//! Laws: the entity tag is the version and nothing else, so it can be sent back as a condition.
//!
//! Not here: failures ([`super::problem`]), and how an item looks ([`super::item_json`]).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Serialize;
use warp::http::StatusCode;
use warp::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, DATE, ETAG, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use warp::reply::Response;

use super::item_json;
use crate::http::server::memory_budget::Share;
use crate::model::{Item, Value, Written};

/// The header with the raft index that an answer of a data route is about.
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The header with its term.
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// The header of an answer that was given before.
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Keeps pages of other origins from having an answer loaded as their own image or script.
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// The ends of the years that have a date, since 1970: there the process's clock stands where the system's is beyond them.
const ENDS: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(253_402_300_799));
/// How many headers an answer of a data route has, and one that opens it to a page: more than a new map has room for.
const HEADERS: usize = 16;

/// A 200 with this content as it is.
pub(crate) fn json(content: &impl Serialize) -> Response {
    json_text(serde_json::to_vec(content).expect("the answers hold nothing that has no JSON form"), None)
}

/// The answer to a write of this value: what was sent, and the version that it has now.
pub(crate) fn stored(message: &str, key: &str, value: &Value, version: u64) -> Vec<u8> {
    let mut body = br#"{"data":"#.to_vec();
    item_json::stored(&mut body, key, value, version);
    body.extend_from_slice(format!(r#"}},"message":"{message}"}}"#).as_bytes());
    body
}

/// The answer to a read of one item, as it is at `clock`.
pub(crate) fn item(message: &str, key: &str, item: &Item, clock: u64) -> Vec<u8> {
    let mut body = br#"{"data":"#.to_vec();
    item_json::item(&mut body, key, item, clock);
    body.extend_from_slice(format!(r#","message":"{message}"}}"#).as_bytes());
    body
}

/// A 200 with this JSON text. It keeps its `share` of the memory of answers until the client has taken it.
pub(crate) fn json_text(mut body: Vec<u8>, share: Option<Share>) -> Response {
    // People look at it with curl, and their prompt comes next.
    body.push(b'\n');
    // A client may take its time, and what was too much room would be held as long.
    if body.capacity() > body.len() + body.len() / 4 {
        body.shrink_to_fit();
    }
    let mut response = Response::new(held(body.into(), share).into());
    let headers = response.headers_mut();
    headers.reserve(HEADERS);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Bytes that keep their share of a budget while they live.
pub(crate) fn held(bytes: Bytes, share: Option<Share>) -> Bytes {
    match share {
        Some(share) => Bytes::from_owner(SizedBody { bytes, _share: share }),
        None => bytes,
    }
}

struct SizedBody {
    bytes: Bytes,
    _share: Share,
}

impl AsRef<[u8]> for SizedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Says which version of the key the answer is about.
pub(crate) fn tag(response: &mut Response, version: u64) {
    response.headers_mut().insert(ETAG, etag(version));
}

/// The entity tag of a version.
pub(crate) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header")
}

/// Says which raft index and term the answer is about.
pub(crate) fn mark(response: &mut Response, index: u64, term: u64) {
    let headers = response.headers_mut();
    headers.insert(X_RAFT_INDEX, HeaderValue::from(index));
    headers.insert(X_RAFT_TERM, HeaderValue::from(term));
}

/// Says which entry did what the answer is about, and whether that was on an earlier request.
pub(crate) fn mark_written(response: &mut Response, written: &Written) {
    mark(response, written.index, written.term);
    if written.replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
}

/// The answer to a write that was done before, and of whose result only the version was kept.
pub(crate) fn truncated(message: &str, version: u64) -> Response {
    let data = serde_json::json!({ "version": version, "truncated": true });
    json(&serde_json::json!({ "data": data, "message": message }))
}

/// What OPTIONS answers: the methods that the target takes.
pub(crate) fn options(allow: &'static str) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// What every answer says: that browsers take it as the type that it has and show it to no page of another origin, what
/// caches may do with it, and when it was given.
pub(crate) fn complete(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if let Some(date) = date(SystemTime::now()) {
        headers.insert(DATE, date);
    }
    cached(response);
}

/// The time as HTTP writes it; none where the clock shows one that cannot be right (RFC 9110, section 6.6.1).
fn date(now: SystemTime) -> Option<HeaderValue> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (ENDS.0 < since && since < ENDS.1).then(|| HeaderValue::from_str(&httpdate::fmt_http_date(now)).ok()).flatten()
}

/// Says what caches may do with an answer: keep the value of a key, but ask each time whether it is still that one (by
/// its entity tag), and keep nothing else.
fn cached(response: &mut Response) {
    let is_data = matches!(response.status(), StatusCode::OK | StatusCode::NOT_MODIFIED);
    let how = if is_data && response.headers().contains_key(ETAG) { "no-cache" } else { "no-store" };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(how));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::memory_budget::{Budget, Source};
    use http_body_util::BodyExt;

    #[test]
    fn a_clock_that_cannot_be_right_is_not_told() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(date(at(784_111_777)).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(date(at(1)).is_some() && date(at(253_402_300_798)).is_some());
        assert_eq!([date(at(0)), date(at(253_402_300_799)), date(at(253_402_300_800))], [None, None, None]);
        assert_eq!(date(SystemTime::UNIX_EPOCH - Duration::from_secs(1)), None);
    }

    #[tokio::test]
    async fn an_answer_keeps_its_share_until_it_is_taken() {
        let all = Budget::new(100);
        let share = all.take(Source::loopback(), 40).unwrap();
        let response = json_text(b"[1]".to_vec(), Some(share));
        assert_eq!(all.free(), 60);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "[1]\n");
        assert_eq!(all.free(), 60, "the bytes are still there");
        drop(bytes);
        assert_eq!(all.free(), 100);
    }
}
