//! How a success looks: 200, `{"data": ..., "message": "..."}`.
//!
//! Why: a stored value is JSON text and goes out as it came in. It is copied, never parsed and written anew, so numbers
//! keep every digit and a large value costs a copy.
//!
//! Laws: what is given as JSON here was checked when it was stored.
//!
//! Not here: failures ([`super::errors`]).

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use warp::reply::Response;

/// The header with the raft index that an answer of a data route is about.
const X_RAFT_INDEX: HeaderName = HeaderName::from_static("x-raft-index");
/// The header with its term.
const X_RAFT_TERM: HeaderName = HeaderName::from_static("x-raft-term");

/// A 200 with this content as it is.
pub(super) fn json(content: &impl Serialize) -> Response {
    text(serde_json::to_vec(content).expect("the answers hold nothing that has no JSON form"), None)
}

/// The answer to a write or a read of one value, which is JSON text. It keeps its `share` of the memory of answers until
/// the client has taken it.
pub(super) fn value(
    message: &str,
    key: &str,
    value: &[u8],
    version: u64,
    share: Option<OwnedSemaphorePermit>,
) -> Response {
    const AROUND: usize = 96;
    let mut body = Vec::with_capacity(value.len() + key.len() + message.len() + AROUND);
    body.extend_from_slice(br#"{"data":{"key":"#);
    serde_json::to_writer(&mut body, key).expect("writing to memory does not fail");
    body.extend_from_slice(br#","value":"#);
    body.extend_from_slice(value);
    body.extend_from_slice(format!(r#","version":{version}}},"message":"{message}"}}"#).as_bytes());
    text(body, share)
}

/// An answer and what it takes of the budget.
struct Held {
    body: Vec<u8>,
    _share: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
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

fn text(body: Vec<u8>, share: Option<OwnedSemaphorePermit>) -> Response {
    let mut held = Held { body, _share: share };
    // People look at it with curl, and their prompt comes next.
    held.body.push(b'\n');
    let body = Bytes::from_owner(held);
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn an_answer_keeps_its_share_until_it_is_taken() {
        let all = Arc::new(Semaphore::new(100));
        let share = Arc::clone(&all).try_acquire_many_owned(40).unwrap();
        let response = value("m", "k", b"[1]", 7, Some(share));
        assert_eq!(all.available_permits(), 60);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, "{\"data\":{\"key\":\"k\",\"value\":[1],\"version\":7},\"message\":\"m\"}\n");
        assert_eq!(all.available_permits(), 60, "the bytes are still there");
        drop(bytes);
        assert_eq!(all.available_permits(), 100);
    }
}
