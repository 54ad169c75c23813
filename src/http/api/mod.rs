//! Request handlers, a file for each group of routes.
//!
//! See also: [`super::routes`] (which path leads to which handler).

pub(crate) mod admin;
pub(crate) mod cluster;
pub(crate) mod compat;
pub(crate) mod openapi;
pub(crate) mod probes;
mod propose;
pub(crate) mod range_and_prefix_delete;
mod security_stats;
pub(crate) mod status_json;
pub(crate) mod store;
pub(crate) mod touch;
pub(crate) mod txn;
pub(crate) mod watch;

use super::request::handler_context::RequestContext;
use super::request::uri;
use super::request::uri::{Deadline, TIMEOUT};
use super::response::problem::Problem;

/// Returns the deadline of a request whose only query parameter is `timeout`.
pub(super) fn deadline(request: &RequestContext) -> Result<Deadline, Problem> {
    let [timeout] = uri::parameters(request.query(), [TIMEOUT])?;
    deadline_after(request, timeout.as_deref())
}

/// Returns the deadline of a request with this value of `timeout`; without one the node's `limits.request_timeout_ms` holds.
fn deadline_after(request: &RequestContext, timeout: Option<&str>) -> Result<Deadline, Problem> {
    uri::deadline(timeout, request.context.request_timeout(), request.arrived)
}
