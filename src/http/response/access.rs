//! Problems of requests that their client may not make: without TLS, without the right token, or from the page of another origin;
//! and of a reload, which an admin asks for.
//!
//! Invariants: what they say follows from the request and its headers, and never from a stored key.
//!
//! See also: what finds them ([`crate::http::request::caller`], [`crate::http::server::browser_guard`]).

use warp::http::StatusCode;

use super::problem::Problem;
use crate::model::Outcome;

impl Problem {
    /// Returns the problem of a plain request to a port that speaks TLS only.
    pub(crate) fn https_required() -> Self {
        let detail = "This port speaks HTTPS; use https:// instead of http://.";
        Self::local(StatusCode::BAD_REQUEST, "https_required", "HTTPS required", detail)
    }

    /// Returns `unauthorized`.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    /// Returns the problem of a request on a connection whose client certificate was valid when it began; it closes the connection.
    pub(crate) fn certificate_ended(reason: &str) -> Self {
        let detail = format!(
            "the client certificate of this connection is not valid any more: {reason}; connect again with a valid one"
        );
        Self::unauthorized(detail).closing()
    }

    /// Returns `forbidden`; the detail names the token and what it lacks.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// Returns `cross_origin`.
    pub(crate) fn cross_origin(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::FORBIDDEN, "cross_origin", "Cross-origin request refused", detail)
    }

    /// Returns `reload_failed`: what was read is wrong, and nothing has changed.
    pub(crate) fn reload_failed(reason: impl Into<String>) -> Self {
        Self::local(StatusCode::UNPROCESSABLE_ENTITY, "reload_failed", "Reload failed", reason)
            .by_consensus(Outcome::NotApplied)
    }

    /// Returns the problem of a failed condition for a client that may not read the key: its version is not in it.
    pub(crate) fn condition_unread() -> Self {
        let detail = "the condition is not true; the token has no right to read the key, so its version is not shown";
        Self::local(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Condition not true", detail)
            .by_consensus(Outcome::NotApplied)
    }
}
