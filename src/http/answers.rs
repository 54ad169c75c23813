//! How a success looks: 200, `{"data": ..., "message": "..."}`.
//!
//! Why: every success has one form and the same headers, whichever route it comes from.
//!
//! Laws: the entity tag is the version and nothing else, so it can be sent back as a condition.
//!
//! Not here: failures ([`super::errors`]), and how an item looks ([`super::envelope`]).

use serde::Serialize;
use warp::http::StatusCode;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use warp::reply::Response;

use super::envelope;
use crate::model::Item;

/// The header with the raft index that an answer of a data route is about.
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The header with its term.
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// A 200 with this content as it is.
pub(super) fn json(content: &impl Serialize) -> Response {
    json_text(serde_json::to_vec(content).expect("the answers hold nothing that has no JSON form"))
}

/// The answer to a write or a read of one item.
pub(super) fn item(message: &str, key: &str, item: &Item) -> Response {
    let mut body = br#"{"data":"#.to_vec();
    envelope::item(&mut body, key, item);
    body.extend_from_slice(format!(r#","message":"{message}"}}"#).as_bytes());
    json_text(body)
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Says which version of the key the answer is about.
pub(super) fn tag(response: &mut Response, version: u64) {
    response.headers_mut().insert(ETAG, etag(version));
}

/// The entity tag of a version.
pub(super) fn etag(version: u64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).expect("digits in quotes are a header")
}

/// Says which raft index and term the answer is about.
pub(super) fn mark(response: &mut Response, index: u64, term: u64) {
    let headers = response.headers_mut();
    headers.insert(X_RAFT_INDEX, HeaderValue::from(index));
    headers.insert(X_RAFT_TERM, HeaderValue::from(term));
}

/// Keeps caches from answering in the node's stead.
pub(super) fn uncached(mut response: Response) -> Response {
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A 200 with this JSON text.
pub(super) fn json_text(mut body: Vec<u8>) -> Response {
    // People look at it with curl, and their prompt comes next.
    body.push(b'\n');
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
