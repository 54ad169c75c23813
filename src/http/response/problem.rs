//! Problem responses (RFC 9457): the status, code and title of every failure, and their JSON form.
//!
//! Why: programs rely on the status and on `code`, people on `detail`. The list of codes is complete, and every failure is
//! rendered by [`Problem::respond`], so all have one form.
//!
//! | code | status | meaning |
//! |---|---|---|
//! | each of [`Code`] | see `refusal_codes` | refused by the consensus layer, here or on the leader |
//! | `bad_query` | 400 | a query parameter is unknown, repeated or has a wrong value |
//! | `bad_body` | 400 | the body is not a JSON object with the members of the route |
//! | `bad_key` | 400 | the key is empty, too long, or not percent-encoded UTF-8 |
//! | `bad_header` | 400 | a header is invalid or unsupported: a condition, a content type, an idempotency key, `Content-Range` |
//! | `bad_host` | 400 | the request has no `Host`, more than one, or an invalid one |
//! | `https_required` | 400 | the request is plain HTTP, and the port speaks HTTPS only |
//! | `unauthorized` | 401 | the node wants a token, and the request has none, or one that is wrong or has expired |
//! | `forbidden` | 403 | the token lacks the right that `detail` names |
//! | `cross_origin` | 403 | the request is of a web page of another origin |
//! | `not_found` | 404 | there is no such route |
//! | `key_not_found` | 404 | the store has no such key |
//! | `method_not_allowed` | 405 | the route has other methods, listed in `Allow` |
//! | `body_timeout` | 408 | the body did not arrive by the deadline, or arrived too slowly |
//! | `compacted` | 410 | the change feed has dropped these events, or they are of an earlier cluster |
//! | `precondition_failed` | 412 | the condition on the version of the key failed |
//! | `too_large` | 413 | the body or the value is over its limit |
//! | `unsupported_media_type` | 415 | the body is compressed, in another charset than UTF-8, or a multipart form |
//! | `unknown_host` | 421 | the request is for a host that this node does not serve |
//! | `idempotency_key_reused` | 422 | the idempotency key belongs to another request |
//! | `rate_limited` | 429 | the caller sends more requests than `limits.requests_per_second` |
//! | `reload_failed` | 422 | a setting or a file that a reload has read is wrong, and nothing has changed |
//! | `internal` | 500 | the consensus loop returned a reply of the wrong type, a bug |
//! | `stalled` | 503 | the consensus loop did not reply in time, most likely because its disk is slow |
//!
//! Invariants: every failed request with a method that may change something has an `outcome`, which is `not_applied` only
//! if that is certain. A 429 and a 503 have `Retry-After`. A response to a request whose body was not read closes the connection.
//! `OPTIONS` is answered with the methods of the route and fails only with 429.
//!
//! See also: problems of tokens and origins ([`super::access`]), and of limits ([`super::overload`]). hyper answers bytes that are not an HTTP request with 400, 414 or 431 and no body.

use serde::Serialize;
use warp::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::overload::Refused;
use super::refusal_codes::status_and_title;
use super::success;
pub(crate) use crate::model::validate::clip;
use crate::model::{Code, Leader, Outcome, Refusal, Written};
use crate::telemetry::metrics::Overload;

/// The value of `Retry-After`, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");
/// The challenge of a 401 (RFC 6750, section 3).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"huskv\"");

/// A failed request. Boxed, so that a `Result` with it stays small.
#[derive(Debug, Clone)]
pub(crate) struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    detail: String,
    outcome: Outcome,
    leader: Option<Leader>,
    allow: Option<&'static str>,
    /// The current version of the key, after a failed condition; 0 for a missing key.
    version: Option<u64>,
    /// The first retained index, if the requested events were dropped.
    oldest_index: Option<u64>,
    /// The commit index of the cluster, if the cursor of the client is beyond it.
    newest_index: Option<u64>,
    /// The result of a write that was applied and failed by its condition or its idempotency key.
    written: Option<Box<Written>>,
    /// When the request may be sent again, in seconds, where that is known.
    retry_after: Option<u64>,
    /// What had no room for the request.
    overload: Option<Overload>,
    /// Whether the connection closes after the response.
    close: bool,
    /// Whether the request was refused here, before it was passed to the consensus loop.
    local: bool,
}

/// The JSON members of a problem, in their order.
#[derive(Serialize)]
struct Body<'a> {
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a Leader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_index: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    newest_index: Option<u64>,
}

impl Problem {
    /// Returns a problem found before the request was passed to the consensus loop: nothing was applied.
    pub(super) fn local(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Parts {
            status,
            code,
            title,
            detail: detail.into(),
            outcome: Outcome::NotApplied,
            leader: None,
            allow: None,
            version: None,
            oldest_index: None,
            newest_index: None,
            written: None,
            retry_after: None,
            overload: None,
            close: false,
            local: true,
        }))
    }

    /// Marks the problem as found by the consensus layer, with this outcome.
    pub(super) fn by_consensus(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self.0.local = false;
        self
    }

    /// Adds the result of a write that was applied without effect.
    pub(crate) fn decided(mut self, written: &Written) -> Self {
        self.0.written = Some(Box::new(written.clone()));
        self.by_consensus(Outcome::NotApplied)
    }

    /// Prefixes the detail with the part of the request that is wrong.
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.0.detail = format!("{place}: {}", self.0.detail);
        self
    }

    /// Closes the connection after the response: the rest of the body is unread, or the client has to connect again.
    pub(crate) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// Adds `Retry-After`, in seconds.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.0.retry_after = Some(seconds);
        self
    }

    /// Names what had no room for the request.
    pub(super) fn full(mut self, overload: Overload) -> Self {
        self.0.overload = Some(overload);
        self
    }

    /// Returns `bad_query`.
    pub(crate) fn query(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_query", "Bad query", detail)
    }

    /// Returns `bad_body`.
    pub(crate) fn body(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_body", "Bad body", detail)
    }

    /// Returns `bad_key`.
    pub(crate) fn key(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_key", "Bad key", detail)
    }

    /// Returns `bad_header`.
    pub(crate) fn header(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_header", "Bad header", detail)
    }

    /// Returns `bad_host`.
    pub(crate) fn host(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_host", "Bad host", detail)
    }

    /// Returns `unknown_host`.
    pub(crate) fn unknown_host(host: &str) -> Self {
        let detail = format!(
            "this node does not answer for host `{}`; if it should, add it to http.allowed_hosts \
             (HUSKV_HTTP_ALLOWED_HOSTS)",
            clip(host)
        );
        Self::local(StatusCode::MISDIRECTED_REQUEST, "unknown_host", "Unknown host", detail)
    }

    /// Returns `unsupported_media_type`.
    pub(crate) fn media_type(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type", detail)
    }

    /// Returns the problem of `If-Match` with a weak ETag, which matches nothing (RFC 9110, section 13.1.1).
    pub(crate) fn weak_tag(tag: &str) -> Self {
        let detail = format!(
            "header `If-Match` has the weak ETag `{}`, which matches nothing. The ETags of huskv are strong, so it was \
             changed on the way, most likely by a proxy that compresses: turn compression off for huskv, or send the \
             version in quotes",
            clip(tag)
        );
        Self::local(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Condition not true", detail)
    }

    /// Returns the problem of a failed condition; `version` is the current one, 0 for a missing key.
    pub(crate) fn condition(key: &str, version: u64) -> Self {
        let detail = match version {
            0 => format!("there is no key `{key}`, so the condition is not true"),
            _ => format!("key `{key}` has version {version}, so the condition is not true"),
        };
        let mut problem =
            Self::local(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Condition not true", detail)
                .by_consensus(Outcome::NotApplied);
        problem.0.version = Some(version);
        problem
    }

    /// Returns `idempotency_key_reused`.
    pub(crate) fn key_reused() -> Self {
        let detail = "another request had this Idempotency-Key; send each request with a key of its own, and repeat \
                      one unchanged (only `timeout` may differ)";
        Self::local(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency key reused", detail)
    }

    /// Returns the problem of a command that every node refused when its entry was applied.
    pub(crate) fn invalid() -> Self {
        let detail = "the leader proposed a command that no node accepts, which is a bug; nothing was changed";
        Refusal::not_applied(Code::BadRequest, detail).into()
    }

    /// Returns `not_found` for a path without a route.
    pub(crate) fn no_route(path: &str) -> Self {
        Self::local(StatusCode::NOT_FOUND, "not_found", "Not found", format!("there is no route {}", clip(path)))
    }

    /// Returns `key_not_found`.
    pub(crate) fn no_key(key: &str) -> Self {
        let detail = format!("there is no key `{key}`");
        Self::local(StatusCode::NOT_FOUND, "key_not_found", "Key not found", detail).by_consensus(Outcome::NotApplied)
    }

    /// Returns `method_not_allowed`; `allow` lists the methods of the route.
    pub(crate) fn method(method: &Method, allow: &'static str) -> Self {
        let detail = format!("this route does not take {}, but {allow}", clip(method.as_str()));
        let mut problem =
            Self::local(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail);
        problem.0.allow = Some(allow);
        // OPTIONS is answered on a node outside of a cluster too: the methods of a route do not depend on membership.
        problem.0.local = *method != Method::OPTIONS;
        problem
    }

    /// Returns the problem of a body that did not arrive by the deadline.
    pub(crate) fn body_timeout() -> Self {
        let detail = "the request's body had not arrived by its deadline";
        Self::local(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body too slow", detail).closing()
    }

    /// Returns the problem of a body below the minimum rate.
    pub(crate) fn body_too_slow() -> Self {
        let detail = "the request's body came too slowly: a client that is waited for longer than http.rate_grace_ms must send 64 KiB/s";
        Self::local(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body too slow", detail).closing()
    }

    /// Returns the problem of a value over its limit, in a body that was read.
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", detail)
    }

    /// Returns the problem of a body over its limit, whose rest was not read.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::too_large(format!("the body is over limits.body_bytes ({limit} bytes)")).closing()
    }

    /// Returns the problem of a cursor before `oldest`, the first retained index.
    pub(crate) fn compacted(oldest: u64) -> Self {
        let detail = format!(
            "this node retains no changes before index {oldest}; ask another node, or list the keys again and \
             watch from the list's index + 1"
        );
        let mut problem =
            Self::local(StatusCode::GONE, "compacted", "Changes are gone", detail).by_consensus(Outcome::NotApplied);
        problem.0.oldest_index = Some(oldest);
        problem
    }

    /// Returns the problem of a cursor beyond the commit index: it is of an earlier cluster under the same addresses.
    pub(crate) fn ahead(newest: u64) -> Self {
        let detail = format!(
            "this cluster has committed nothing after index {newest}, so the cursor is of another cluster \
             (see X-Huskv-Cluster); list the keys again and watch from the list's index + 1"
        );
        let mut problem =
            Self::local(StatusCode::GONE, "compacted", "Changes are gone", detail).by_consensus(Outcome::NotApplied);
        problem.0.newest_index = Some(newest);
        problem
    }

    /// Returns the problem of a node that is shutting down.
    pub(crate) fn stopping() -> Self {
        Refusal::not_applied(Code::Stopping, "this node is shutting down; ask another one").into()
    }

    /// Returns the problem of a consensus loop that did not reply.
    pub(crate) fn stalled() -> Self {
        let detail = "the node's loop has not answered in time; its disk is slow or its machine overloaded";
        Self::local(StatusCode::SERVICE_UNAVAILABLE, "stalled", "Stalled", detail).by_consensus(Outcome::Unknown)
    }

    /// Returns the problem of a reply of the wrong type.
    pub(crate) fn internal() -> Self {
        let detail = "the node's loop returned a reply of the wrong type; this is a bug";
        Self::local(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
            .by_consensus(Outcome::Unknown)
    }

    /// Whether the request was refused before it was passed to the consensus loop.
    pub(crate) fn is_local(&self) -> bool {
        self.0.local
    }

    /// Whether the request is valid, and the state of the node or of the cluster is the cause.
    pub(crate) fn is_server_side(&self) -> bool {
        self.0.status == StatusCode::GONE || self.0.status.is_server_error()
    }

    /// Returns the problem as JSON, for a request with this method.
    pub(crate) fn to_json(&self, method: &Method) -> Vec<u8> {
        let parts = &*self.0;
        // A failed read changes nothing whatever happened, so `outcome` would only raise a question.
        let could_change = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        serde_json::to_vec(&Body {
            title: parts.title,
            status: parts.status.as_u16(),
            detail: &parts.detail,
            code: parts.code,
            // Clients of the Go tutorial read `error`.
            error: &parts.detail,
            outcome: could_change.then_some(parts.outcome),
            leader: parts.leader.as_ref(),
            version: parts.version,
            oldest_index: parts.oldest_index,
            newest_index: parts.newest_index,
        })
        .expect("strings and numbers always have a JSON form")
    }

    /// What is counted of the problem.
    fn refused(&self) -> Option<Refused> {
        match self.0.status {
            StatusCode::UNAUTHORIZED => Some(Refused::Unauthorized),
            StatusCode::FORBIDDEN if self.0.code == "forbidden" => Some(Refused::Forbidden),
            _ => self.0.overload.map(Refused::Overload),
        }
    }

    /// Returns the response to a request with this method.
    pub(crate) fn respond(&self, method: &Method) -> Response {
        let parts = &*self.0;
        // Every handler refuses OPTIONS as a method that it does not have, so this one place answers it for all routes.
        if let Some(allow) = parts.allow.filter(|_| *method == Method::OPTIONS) {
            return success::options(allow);
        }
        let mut body = self.to_json(method);
        body.push(b'\n');
        let mut response = Response::new(body.into());
        *response.status_mut() = parts.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = parts.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        // Version 0 is a missing key, which has no ETag.
        if let Some(version) = parts.version.filter(|version| *version != 0) {
            headers.insert(ETAG, success::etag(version));
        }
        if parts.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, CHALLENGE);
        }
        if let Some(seconds) = parts.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        } else if parts.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        // The rest of the body is still on the connection and would be parsed as the next request. And a node that stops
        // closes its connections soon.
        if parts.close || parts.code == Code::Stopping.as_str() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(written) = &parts.written {
            success::set_write_headers(&mut response, written);
        }
        if let Some(refused) = self.refused() {
            response.extensions_mut().insert(refused);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, title) = status_and_title(refusal.code);
        let mut problem =
            Self::local(status, refusal.code.as_str(), title, refusal.detail).by_consensus(refusal.outcome);
        problem.0.leader = refusal.leader;
        problem.0.overload = (refusal.code == Code::Overloaded).then_some(Overload::Requests);
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_503_has_retry_after_and_a_504_has_none() {
        for code in [Code::NoLeader, Code::NoQuorum, Code::Stopping, Code::Verifying, Code::Lagging, Code::Starting] {
            let response = Problem::from(Refusal::not_applied(code, "x")).respond(&Method::GET);
            assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (503, true));
        }
        let response = Problem::from(Refusal::unknown(Code::Timeout, "x")).respond(&Method::POST);
        assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (504, false));
    }
}
