//! Problems of requests beyond a limit: of memory, watchers, connections, or requests per second.
//!
//! Invariants: nothing was applied, and the same request may succeed later, so each has `Retry-After`.
//!
//! See also: who holds what ([`crate::http::server::fair_memory`]), rates ([`crate::http::clients::rate_limit`]).

use warp::http::StatusCode;

use super::problem::Problem;
use crate::model::{Code, Refusal, Written};
use crate::telemetry::metrics::Overload;

/// What is counted of a refused request; an extension of its response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    Unauthorized,
    Forbidden,
    Overload(Overload),
}

impl Problem {
    /// Returns `rate_limited`, for `who` may send so many requests per second and at once. The next one is allowed in `wait` seconds.
    pub(crate) fn rate_limited(who: &str, (per_second, burst): (u32, u32), wait: u64) -> Self {
        let detail = format!(
            "{who} sends more than {per_second} requests per second, with bursts of {burst} \
             (limits.requests_per_second, limits.request_burst); try again in {wait} s"
        );
        Self::local(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "Too many requests", detail).retry_after(wait)
    }

    /// Returns the problem of an exhausted budget of request bodies.
    pub(crate) fn bodies_full() -> Self {
        let refusal = Refusal::not_applied(
            Code::Overloaded,
            "the memory for request bodies, of this caller or of all, is in use; try again in a moment",
        );
        Self::from(refusal).full(Overload::Bodies).closing()
    }

    /// Returns the problem of an exhausted budget of responses that clients have not read yet.
    pub(crate) fn answers_full() -> Self {
        let detail = "the memory for responses that clients, of this caller or of all, have not read yet is in use; try again in a \
             moment";
        Self::from(Refusal::not_applied(Code::Overloaded, detail)).full(Overload::Responses)
    }

    /// Returns the problem of a full dedup table without a result that may be evicted.
    pub(crate) fn results_full(written: &Written) -> Self {
        let detail = "the memory for results of requests with an Idempotency-Key is in use, and none is old enough to be evicted; \
             try again in a moment";
        Self::from(Refusal::not_applied(Code::Overloaded, detail)).full(Overload::Results).decided(written)
    }

    /// Returns the problem of a node with the maximum number of watchers.
    pub(crate) fn watchers_full() -> Self {
        let detail = "this node has the maximum number of watchers (limits.watchers, and half of the connections); use another one";
        Self::from(Refusal::not_applied(Code::Overloaded, detail)).full(Overload::Watchers)
    }

    /// Returns the problem of a node with the maximum number of connections, none of them idle.
    pub(crate) fn connections_full() -> Self {
        let detail = "this node has the maximum number of connections, and all of them are busy; use another node, or try again in \
             a moment";
        Self::from(Refusal::not_applied(Code::Overloaded, detail)).full(Overload::Connections)
    }
}
