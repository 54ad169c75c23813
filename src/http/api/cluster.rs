//! The cluster routes: `/raft/join`, `/raft/remove`, `/raft/transfer`, `/raft/snapshot`, `/raft/stats`.
//!
//! Why: an operator, or the tutorial, shapes the cluster with curl from any node.
//!
//! Laws: a success tells how the node that was asked is afterwards. A change that was made is never answered as a
//! failure, even where the status cannot be had any more.
//!
//! Not here: what may be changed and when (`consensus::membership`).

use std::time::{Duration, Instant};

use serde::Serialize;
use warp::http::Method;
use warp::reply::Response;

use super::stats::Stats;
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::{Deadline, TIMEOUT};
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::{Answer, Request, check_address, check_name};

/// How long a join may take where the request does not say.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a removal or a transfer may take where the request does not say; both may wait for an election.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the status may take after a change that was made, whatever is left of the deadline.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// What a change answers.
#[derive(Serialize)]
struct Changed<'a> {
    /// None only where the node stopped before it could tell.
    data: Option<Stats<'a>>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
}

/// `POST /raft/join`.
pub(crate) async fn join(mut call: RequestContext) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, JOIN_TIMEOUT)?;
    let body = call.body(deadline).await?;
    let (node_id, raft_address, force) = joining(&body.bytes)?;
    let message = format!("node {node_id} at {raft_address} joined successfully");
    match call.context.request(Request::Join { node_id, raft_address, force }, deadline).await? {
        Answer::Members { warning, dropped, .. } => Ok(changed(&call, deadline, message, warning, dropped).await),
        _ => Err(Problem::internal()),
    }
}

/// Who is to join, where it is, and whether it may lose its data.
pub(crate) fn joining(body: &[u8]) -> Result<(String, String, bool), Problem> {
    let [node_id, raft_address, force] = body::members(body, ["node_id", "raft_address", "force"])?;
    let node_id = checked_name(body::string(node_id, "node_id")?)?;
    let raft_address = checked_address(body::string(raft_address, "raft_address")?)?;
    Ok((node_id, raft_address, body::flag(force, "force")?))
}

/// `POST /raft/remove`.
pub(crate) async fn remove(mut call: RequestContext) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, CHANGE_TIMEOUT)?;
    let body = call.body(deadline).await?;
    let [node_id] = body::members(&body.bytes, ["node_id"])?;
    let node_id = checked_name(body::string(node_id, "node_id")?)?;
    match call.context.request(Request::Remove { node_id: node_id.clone() }, deadline).await? {
        Answer::Members { changed: true, warning, dropped, .. } => {
            let message = format!("node {node_id} removed successfully");
            Ok(changed(&call, deadline, message, warning, dropped).await)
        }
        Answer::Members { changed: false, warning, dropped, .. } => {
            let message = format!("there is no member {node_id}, nothing changed");
            Ok(changed(&call, deadline, message, warning, dropped).await)
        }
        _ => Err(Problem::internal()),
    }
}

/// `POST /raft/transfer`.
pub(crate) async fn transfer(mut call: RequestContext) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, CHANGE_TIMEOUT)?;
    let body = call.body(deadline).await?;
    let [node_id] = if body.is_blank() { [None] } else { body::members(&body.bytes, ["node_id"])? };
    let node_id = node_id.map(|text| checked_name(body::string(Some(text), "node_id")?)).transpose()?;
    match call.context.request(Request::Transfer { node_id }, deadline).await? {
        Answer::Transferred { node_id } => {
            Ok(changed(&call, deadline, format!("leadership moved to node {node_id}"), None, None).await)
        }
        _ => Err(Problem::internal()),
    }
}

/// `POST /raft/snapshot`.
pub(crate) async fn snapshot(mut call: RequestContext) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, call.context.options.request_timeout)?;
    let body = call.body(deadline).await?;
    if !body.is_blank() {
        body::members(&body.bytes, [])?;
    }
    call.context.snapshot(deadline).await?;
    Ok(changed(&call, deadline, "snapshot taken".to_owned(), None, None).await)
}

/// `GET /raft/stats`.
pub(crate) async fn stats(call: RequestContext) -> Result<Response, Problem> {
    call.takes_get()?;
    let deadline = deadline(&call, call.context.options.request_timeout)?;
    let status = call.context.status(deadline).await?;
    Ok(success::json(&Changed {
        data: Some(Stats::new(&status, &call.context.options.join_list)),
        message: "Here is the raft status".to_owned(),
        warning: None,
        dropped: None,
    }))
}

fn deadline(call: &RequestContext, default: Duration) -> Result<Deadline, Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    if call.method == Method::POST {
        conditions::none(call)?;
    }
    query::deadline(timeout.as_deref(), default, call.arrived)
}

async fn changed(
    call: &RequestContext,
    deadline: Deadline,
    message: String,
    warning: Option<String>,
    dropped: Option<String>,
) -> Response {
    let deadline = Deadline(deadline.0.max(Instant::now() + STATUS_TIMEOUT));
    let status = call.context.status(deadline).await.ok();
    let data = status.as_ref().map(|status| Stats::new(status, &call.context.options.join_list));
    success::json(&Changed { data, message, warning, dropped })
}

fn checked_name(name: String) -> Result<String, Problem> {
    match check_name(&name) {
        Ok(()) => Ok(name),
        Err(reason) => Err(Problem::body(format!("member `node_id`: {reason}, not `{}`", clip(&name)))),
    }
}

fn checked_address(address: String) -> Result<String, Problem> {
    match check_address(&address) {
        Ok(()) => Ok(address),
        Err(reason) => Err(Problem::body(format!(
            "member `raft_address` must be host:port, such as localhost:1112 or [::1]:1112, not `{}`: {reason}",
            clip(&address)
        ))),
    }
}
