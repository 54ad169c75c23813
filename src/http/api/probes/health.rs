//! `GET /health`: a flat summary of the node, for people and scripts.
//!
//! Why: it answers 200 while the process lives and its disk works; a node whose disk fails ends.
//!
//! Invariants: it never waits for another node. Where the node wants a token, a client without one gets the status alone.
//!
//! See also: [`super::readyz`] (whether the node takes requests; `not_ready` here gives the first reason why it does not).

use serde::Serialize;
use warp::reply::Response;

use super::NotReady;
use crate::http::api::deadline;
use crate::http::request::handler_context::RequestContext;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::Leader;

/// The body of `/health`.
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

/// Serves `GET /health`.
pub(crate) async fn health(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let deadline = deadline(&request)?;
    let status = request.context.status(deadline).await?;
    if !request.caller.is_known() {
        return Ok(success::json(&serde_json::json!({ "status": "healthy" })));
    }
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
