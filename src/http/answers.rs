//! How a success looks: 200, `{"data": ..., "message": "..."}`.
//!
//! Why: a stored value is JSON text and goes out as it came in. It is copied, never parsed and written anew, so numbers
//! keep every digit and a large value costs a copy.
//!
//! Laws: what is given as JSON here was checked when it was stored.
//!
//! Not here: failures ([`super::errors`]).

use serde::Serialize;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use warp::reply::Response;

/// The header with the raft index that an answer of a data route is about.
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The header with its term.
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// A 200 with this content as it is.
pub(super) fn json(content: &impl Serialize) -> Response {
    text(serde_json::to_vec(content).expect("the answers hold nothing that has no JSON form"))
}

/// The answer to a write or a read of one value, which is JSON text.
pub(super) fn value(message: &str, key: &str, value: &[u8], version: u64) -> Response {
    const AROUND: usize = 96;
    let mut body = Vec::with_capacity(value.len() + key.len() + message.len() + AROUND);
    body.extend_from_slice(br#"{"data":{"key":"#);
    serde_json::to_writer(&mut body, key).expect("writing to memory does not fail");
    body.extend_from_slice(br#","value":"#);
    body.extend_from_slice(value);
    body.extend_from_slice(format!(r#","version":{version}}},"message":"{message}"}}"#).as_bytes());
    text(body)
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

fn text(mut body: Vec<u8>) -> Response {
    // People look at it with curl, and their prompt comes next.
    body.push(b'\n');
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
