//! The one page of failures: every code that HTTP answers, its status, its title, and how it is written out.
//!
//! Why: a client program relies on the status and on the word in `code`, a person on `detail`. Both sides find the
//! whole list here, and every failure leaves through [`Problem::respond`], so none can look different.
//!
//! | code | status | meaning |
//! |---|---|---|
//! | the words of [`Code`] | see `refusal_codes` | what the loop, or the leader, refused |
//! | `bad_query` | 400 | a query parameter is unknown, repeated or has a wrong value |
//! | `bad_body` | 400 | the body is no JSON object of the members that the route knows |
//! | `bad_key` | 400 | the key is empty, too long, or not percent-encoded UTF-8 |
//! | `bad_header` | 400 | a header cannot be used: a condition, a content type, an idempotency key, a part of a value |
//! | `bad_host` | 400 | the request names no host, more than one, or none that can be read |
//! | `cross_origin` | 403 | a web page of another origin asks |
//! | `not_found` | 404 | there is no such route |
//! | `key_not_found` | 404 | the store has no such key |
//! | `method_not_allowed` | 405 | the route has other methods; `Allow` names them |
//! | `body_timeout` | 408 | the body had not arrived by the deadline, or came too slowly |
//! | `compacted` | 410 | the node's memory of changes does not reach back so far |
//! | `precondition_failed` | 412 | the key has another version than the condition names |
//! | `too_large` | 413 | the body or the value is over its limit |
//! | `unsupported_media_type` | 415 | the body is compressed, or in another charset than UTF-8 |
//! | `unknown_host` | 421 | the request is for a host that this node does not answer for |
//! | `idempotency_key_reused` | 422 | the idempotency key is that of another request |
//! | `internal` | 500 | the loop gave an answer of the wrong kind, a bug |
//! | `stalled` | 503 | the loop has not answered in time, most likely because its disk is slow |
//!
//! Laws: `outcome` is written on every failure of a request that could have changed something, and says `not_applied`
//! only where that is certain. A 503 always carries `Retry-After`. An answer that leaves a body unread closes the
//! connection. `OPTIONS` is answered by what the route takes, and is no failure.
//!
//! Not here: what hyper answers to bytes that are no HTTP request (400, 414 or 431 without a body).

use serde::Serialize;
use warp::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, ETAG, HeaderValue, RETRY_AFTER};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::refusal_codes::of_loop;
use super::success;
pub(crate) use crate::model::validate::clip;
use crate::model::{Code, Leader, Outcome, Refusal, Written};

/// The seconds after which a client may try again, as every 503 says.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// A request that failed, ready to be written out. Boxed, so that the results which may hold one stay small.
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
    /// The version that the key has, where a condition was not true; 0 where there is no such key.
    version: Option<u64>,
    /// The first index whose events are kept, where they do not reach back far enough.
    oldest_index: Option<u64>,
    /// The last index that the cluster has committed, where the client was further on.
    newest_index: Option<u64>,
    /// The result of the write, where it was applied and came to this.
    written: Option<Box<Written>>,
    close: bool,
    /// Whether this room refused before the loop was asked.
    local: bool,
}

/// The content of a failure, in the order in which it is written.
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
    /// A refusal by this room, before the loop was asked: nothing was applied.
    fn local(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
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
            close: false,
            local: true,
        }))
    }

    /// A failure that only the loop could tell, so it is not this room's own refusal.
    fn of_the_loop(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self.0.local = false;
        self
    }

    /// What the write came to where it was applied: nothing was changed.
    pub(crate) fn decided(mut self, written: &Written) -> Self {
        self.0.written = Some(Box::new(written.clone()));
        self.of_the_loop(Outcome::NotApplied)
    }

    /// The same, of a part of what was sent.
    pub(crate) fn within(mut self, place: &str) -> Self {
        self.0.detail = format!("{place}: {}", self.0.detail);
        self
    }

    /// The connection closes behind the answer, since some of the body was not read.
    pub(crate) fn closing(mut self) -> Self {
        self.0.close = true;
        self
    }

    /// The query cannot be read as the route's parameters.
    pub(crate) fn query(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_query", "Bad query", detail)
    }

    /// The body cannot be read as the route's members.
    pub(crate) fn body(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_body", "Bad body", detail)
    }

    /// The key is not one.
    pub(crate) fn key(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_key", "Bad key", detail)
    }

    /// A header cannot be read as what the route takes.
    pub(crate) fn header(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_header", "Bad header", detail)
    }

    /// The request names no host, more than one, or none that can be read.
    pub(crate) fn host(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::BAD_REQUEST, "bad_host", "Bad host", detail)
    }

    /// The request is for a host that this node does not answer for.
    pub(crate) fn unknown_host(host: &str) -> Self {
        let detail = format!(
            "this node does not answer for host `{}`; if it should, add it to http.allowed_hosts \
             (HUSKV_HTTP_ALLOWED_HOSTS)",
            clip(host)
        );
        Self::local(StatusCode::MISDIRECTED_REQUEST, "unknown_host", "Unknown host", detail)
    }

    /// The body is in a form that is not taken.
    pub(crate) fn media_type(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "Unsupported media type", detail)
    }

    /// A condition with a weak entity tag, which is true of nothing (RFC 9110, section 13.1.1).
    pub(crate) fn weak_tag(tag: &str) -> Self {
        let detail = format!(
            "header `If-Match` has the weak ETag `{}`, which matches nothing. huskv's own are strong, so something in \
             between has changed it, most likely a proxy that compresses: switch that off for huskv, or send the \
             version in quotes",
            clip(tag)
        );
        Self::local(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Condition not true", detail)
    }

    /// The condition was not true of the key, which has this version, 0 where there is no such key.
    pub(crate) fn condition(key: &str, version: u64) -> Self {
        let detail = match version {
            0 => format!("there is no key `{key}`, so the condition is not true"),
            _ => format!("key `{key}` has version {version}, so the condition is not true"),
        };
        let mut problem =
            Self::local(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Condition not true", detail)
                .of_the_loop(Outcome::NotApplied);
        problem.0.version = Some(version);
        problem
    }

    /// The client has given another request the same name.
    pub(crate) fn key_reused() -> Self {
        let detail = "another request had this Idempotency-Key; send each request with a key of its own, and repeat \
                      one unchanged (only `timeout` may differ)";
        Self::local(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", "Idempotency key reused", detail)
    }

    /// The entry of the write is none that may be applied.
    pub(crate) fn invalid() -> Self {
        let detail = "the leader has let a command pass that no node may apply; nothing was changed";
        Refusal::not_applied(Code::BadRequest, detail).into()
    }

    /// A page of another origin asks.
    pub(crate) fn cross_origin(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::FORBIDDEN, "cross_origin", "Cross-origin request refused", detail)
    }

    /// There is no such route.
    pub(crate) fn no_route(path: &str) -> Self {
        Self::local(StatusCode::NOT_FOUND, "not_found", "Not found", format!("there is no route {}", clip(path)))
    }

    /// There is no such key.
    pub(crate) fn no_key(key: &str) -> Self {
        let detail = format!("there is no key `{key}`");
        Self::local(StatusCode::NOT_FOUND, "key_not_found", "Key not found", detail).of_the_loop(Outcome::NotApplied)
    }

    /// The route has other methods: those that `allow` lists.
    pub(crate) fn method(method: &Method, allow: &'static str) -> Self {
        let detail = format!("this route does not take {}, but {allow}", clip(method.as_str()));
        let mut problem =
            Self::local(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed", detail);
        problem.0.allow = Some(allow);
        // Which methods a route takes does not depend on whether the node is a member.
        problem.0.local = *method != Method::OPTIONS;
        problem
    }

    /// The body did not arrive in time.
    pub(crate) fn body_timeout() -> Self {
        let detail = "the request's body had not arrived by its deadline";
        Self::local(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body too slow", detail).closing()
    }

    /// The body comes too slowly to be held any longer.
    pub(crate) fn body_too_slow() -> Self {
        let detail = "the request's body came too slowly: a client that is waited for longer than http.rate_grace_ms must send 64 KiB/s";
        Self::local(StatusCode::REQUEST_TIMEOUT, "body_timeout", "Body too slow", detail).closing()
    }

    /// The value is over its limit; the body was read.
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large", detail)
    }

    /// The body is over its limit; the rest of it was not read.
    pub(crate) fn body_too_large(limit: usize) -> Self {
        Self::too_large(format!("the body is over limits.body_bytes ({limit} bytes)")).closing()
    }

    /// The bodies of the requests under way fill the memory they may take.
    pub(crate) fn bodies_full() -> Self {
        let refusal = Refusal::not_applied(
            Code::Overloaded,
            "the requests under way, from this address or from all, hold as much memory as they may; try again in a moment",
        );
        Self::from(refusal).closing()
    }

    /// The values that clients have asked for and not taken fill the memory they may take.
    pub(crate) fn answers_full() -> Self {
        let detail = "the answers that clients, at this address or at all, have not taken yet hold as much memory as they may; try \
             again in a moment";
        Refusal::not_applied(Code::Overloaded, detail).into()
    }

    /// Events that the client asks for are gone; those from `oldest` on are here.
    pub(crate) fn compacted(oldest: u64) -> Self {
        let detail = format!(
            "this node has no changes before index {oldest} in memory; ask another node, or list the keys again and \
             watch from the list's index + 1"
        );
        let mut problem =
            Self::local(StatusCode::GONE, "compacted", "Changes are gone", detail).of_the_loop(Outcome::NotApplied);
        problem.0.oldest_index = Some(oldest);
        problem
    }

    /// The client has seen more than the cluster has committed: events of another life of it.
    pub(crate) fn ahead(newest: u64) -> Self {
        let detail = format!(
            "this cluster has committed nothing after index {newest}, so what was seen after it was of another cluster \
             (see X-Huskv-Cluster); list the keys again and watch from the list's index + 1"
        );
        let mut problem =
            Self::local(StatusCode::GONE, "compacted", "Changes are gone", detail).of_the_loop(Outcome::NotApplied);
        problem.0.newest_index = Some(newest);
        problem
    }

    /// As many results of named requests are kept as may be, and none is old enough to go.
    pub(crate) fn results_full(written: &Written) -> Self {
        let detail = "the results of the latest requests with an Idempotency-Key fill their memory, and none is old enough to be \
             forgotten; try again in a moment";
        Self::from(Refusal::not_applied(Code::Overloaded, detail)).decided(written)
    }

    /// As many clients watch as may.
    pub(crate) fn watchers_full() -> Self {
        let detail =
            "as many clients watch this node as may (limits.watchers, and half of the connections); ask another";
        Refusal::not_applied(Code::Overloaded, detail).into()
    }

    /// As many connections are open as may be, and none of them is idle.
    pub(crate) fn no_place() -> Self {
        let detail = "as many clients are connected to this node as may be, and all of them are busy; ask another node, or \
                      try again in a moment";
        Refusal::not_applied(Code::Overloaded, detail).into()
    }

    /// The node stops.
    pub(crate) fn stopping() -> Self {
        Refusal::not_applied(Code::Stopping, "this node is shutting down; ask another one").into()
    }

    /// The loop did not say how the node is.
    pub(crate) fn stalled() -> Self {
        let detail = "the node's loop has not answered in time; its disk is slow or its machine overloaded";
        Self::local(StatusCode::SERVICE_UNAVAILABLE, "stalled", "Stalled", detail).of_the_loop(Outcome::Unknown)
    }

    /// The node takes no requests, for this reason.
    pub(crate) fn not_ready(refusal: Refusal) -> Self {
        let mut problem = Self::from(refusal);
        // A probe asks whether, and 410 would be an answer to another question.
        problem.0.status = StatusCode::SERVICE_UNAVAILABLE;
        problem
    }

    /// The loop gave an answer of the wrong kind.
    pub(crate) fn internal() -> Self {
        let detail = "the node answered something else than was asked; this is a bug";
        Self::local(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
            .of_the_loop(Outcome::Unknown)
    }

    /// Whether this room refused before the loop was asked.
    pub(crate) fn is_local(&self) -> bool {
        self.0.local
    }

    /// Whether the request itself is fine: it fails for the node's sake, or for what has become of the cluster.
    pub(crate) fn is_of_the_node(&self) -> bool {
        self.0.status == StatusCode::GONE || self.0.status.is_server_error()
    }

    /// The failure as JSON, as the answer to a request with this method.
    pub(crate) fn to_json(&self, method: &Method) -> Vec<u8> {
        let parts = &*self.0;
        let could_change = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        serde_json::to_vec(&Body {
            title: parts.title,
            status: parts.status.as_u16(),
            detail: &parts.detail,
            code: parts.code,
            error: &parts.detail,
            outcome: could_change.then_some(parts.outcome),
            leader: parts.leader.as_ref(),
            version: parts.version,
            oldest_index: parts.oldest_index,
            newest_index: parts.newest_index,
        })
        .expect("strings and numbers always have a JSON form")
    }

    /// Writes the failure out as the answer to a request with this method.
    pub(crate) fn respond(&self, method: &Method) -> Response {
        let parts = &*self.0;
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
        if let Some(version) = parts.version.filter(|version| *version != 0) {
            headers.insert(ETAG, success::etag(version));
        }
        if parts.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_SECONDS);
        }
        if parts.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(written) = &parts.written {
            success::mark_written(&mut response, written);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, title) = of_loop(refusal.code);
        let mut problem =
            Self::local(status, refusal.code.as_str(), title, refusal.detail).of_the_loop(refusal.outcome);
        problem.0.leader = refusal.leader;
        problem
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_503_says_when_to_try_again_and_no_other_status_does() {
        for code in [Code::NoLeader, Code::NoQuorum, Code::Stopping, Code::Verifying, Code::Lagging, Code::Starting] {
            let response = Problem::from(Refusal::not_applied(code, "x")).respond(&Method::GET);
            assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (503, true));
        }
        let response = Problem::from(Refusal::unknown(Code::Timeout, "x")).respond(&Method::POST);
        assert_eq!((response.status().as_u16(), response.headers().contains_key(RETRY_AFTER)), (504, false));
    }
}
