//! `/health`: flat, for people and tools that want to know whether the node lives, and how it is.
//!
//! Why: it answers 200 while the process lives and its disk is sound; a node whose disk breaks ends.
//!
//! Laws: it never waits for another node.
//!
//! Not here: whether the node takes requests. `not_ready` says why it does not; the status is that of `/readyz`
//! ([`super::probes`]).

use serde::Serialize;
use warp::reply::Response;

use super::probes::NotReady;
use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::TIMEOUT;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::Leader;

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    keys: String,
    node_id: &'a str,
    state: &'static str,
    leader: Option<&'a Leader>,
    applied_index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<NotReady<'a>>,
}

/// `GET /health`.
pub(crate) async fn health(call: RequestContext) -> Result<Response, Problem> {
    call.takes_get()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let status = call.context.status(deadline).await?;
    Ok(success::json(&Health {
        status: "healthy",
        keys: status.keys.to_string(),
        node_id: &status.node_id,
        state: status.state.as_str(),
        leader: status.leader.as_ref(),
        applied_index: status.applied_index,
        not_ready: status.not_ready.as_ref().map(NotReady::of),
    }))
}
