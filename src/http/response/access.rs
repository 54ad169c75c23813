//! Problems of requests whose token is missing, wrong, or without the right.
//!
//! Invariants: what they say follows from the request and its token, and never from a stored key.
//!
//! See also: [`crate::http::request::caller`], which finds them.

use warp::http::StatusCode;

use super::problem::Problem;
use crate::model::Outcome;

impl Problem {
    /// Returns `unauthorized`.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::UNAUTHORIZED, "unauthorized", "Unauthorized", detail)
    }

    /// Returns `forbidden`; the detail names the token and what it lacks.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::local(StatusCode::FORBIDDEN, "forbidden", "Forbidden", detail)
    }

    /// Returns the problem of a failed condition for a client that may not read the key: its version is not in it.
    pub(crate) fn condition_unread() -> Self {
        let detail = "the condition is not true; the token has no right to read the key, so its version is not shown";
        Self::local(StatusCode::PRECONDITION_FAILED, "precondition_failed", "Condition not true", detail)
            .by_consensus(Outcome::NotApplied)
    }
}
