//! Membership and status: `/raft/join`, `/raft/remove`, `/raft/transfer`, `/raft/snapshot`, `/raft/stats`.
//!
//! Why: an operator changes the cluster with curl, through any node.
//!
//! Invariants: a success includes the status of the serving node after the change. A change that was made is never answered
//! as a failure, even if the status cannot be read afterwards.
//!
//! See also: `consensus::membership` (which changes are allowed), [`super::status_json`] (the fields of the status).

use std::time::{Duration, Instant};

use serde::Serialize;
use warp::http::Method;
use warp::reply::Response;

use super::security_stats::ReloadStats;
use super::status_json::{Outline, Stats};
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri;
use crate::http::request::uri::{Deadline, TIMEOUT};
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::{Answer, Request, check_address, check_name};

/// The default timeout of a join, which includes a snapshot for the joiner.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The default timeout of a removal or a transfer; both may wait for an election.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The minimum time for reading the status after a change, whatever is left of the deadline.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of the answer to a change.
#[derive(Serialize)]
struct ChangeBody<'a> {
    /// None only if the node stopped before its status was read.
    data: Option<Stats<'a>>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
}

/// Serves `POST /raft/join`.
pub(crate) async fn join(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let deadline = deadline_or(&request, JOIN_TIMEOUT)?;
    let body = request.body(deadline).await?;
    let (node_id, raft_address, force) = parse_join(&body.bytes)?;
    note_member(&request, &node_id);
    let message = format!("node {node_id} at {raft_address} joined successfully");
    match request.context.request(Request::Join { node_id, raft_address, force }, deadline).await? {
        Answer::Members { warning, dropped, index, .. } => {
            note_index(&request, index);
            Ok(change_response(&request, deadline, message, warning, dropped).await)
        }
        _ => Err(Problem::internal()),
    }
}

/// Parses the body of a join: name, peer address, and whether the node may lose its data.
pub(crate) fn parse_join(body: &[u8]) -> Result<(String, String, bool), Problem> {
    let [node_id, raft_address, force] = body::members(body, ["node_id", "raft_address", "force"])?;
    let node_id = parse_name(body::string(node_id, "node_id")?)?;
    let raft_address = parse_address(body::string(raft_address, "raft_address")?)?;
    Ok((node_id, raft_address, body::flag(force, "force")?))
}

/// Serves `POST /raft/remove`.
pub(crate) async fn remove(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let deadline = deadline_or(&request, CHANGE_TIMEOUT)?;
    let body = request.body(deadline).await?;
    let [node_id] = body::members(&body.bytes, ["node_id"])?;
    let node_id = parse_name(body::string(node_id, "node_id")?)?;
    note_member(&request, &node_id);
    match request.context.request(Request::Remove { node_id: node_id.clone() }, deadline).await? {
        Answer::Members { changed: true, warning, dropped, index } => {
            note_index(&request, index);
            let message = format!("node {node_id} removed successfully");
            Ok(change_response(&request, deadline, message, warning, dropped).await)
        }
        // A repeated removal has the requested end state, so it is a success. The message keeps a misspelt name from going
        // unnoticed.
        Answer::Members { changed: false, warning, dropped, .. } => {
            let message = format!("there is no member {node_id}, nothing changed");
            Ok(change_response(&request, deadline, message, warning, dropped).await)
        }
        _ => Err(Problem::internal()),
    }
}

/// Serves `POST /raft/transfer`.
pub(crate) async fn transfer(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let deadline = deadline_or(&request, CHANGE_TIMEOUT)?;
    let body = request.body(deadline).await?;
    // `curl -X POST` without a body is the common case: the leader then chooses the most caught-up voter.
    let [node_id] = if body.is_blank() { [None] } else { body::members(&body.bytes, ["node_id"])? };
    let node_id = node_id.map(|text| parse_name(body::string(Some(text), "node_id")?)).transpose()?;
    if let Some(node_id) = &node_id {
        note_member(&request, node_id);
    }
    match request.context.request(Request::Transfer { node_id }, deadline).await? {
        Answer::Transferred { node_id } => {
            note_member(&request, &node_id);
            Ok(change_response(&request, deadline, format!("leadership moved to node {node_id}"), None, None).await)
        }
        _ => Err(Problem::internal()),
    }
}

/// Serves `POST /raft/snapshot`.
pub(crate) async fn snapshot(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let deadline = deadline_or(&request, request.context.request_timeout())?;
    let body = request.body(deadline).await?;
    if !body.is_blank() {
        body::members(&body.bytes, [])?;
    }
    request.context.snapshot(deadline).await?;
    Ok(change_response(&request, deadline, "snapshot taken".to_owned(), None, None).await)
}

/// Serves `GET /raft/stats`.
pub(crate) async fn stats(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let deadline = deadline_or(&request, request.context.request_timeout())?;
    let status = request.context.status(deadline).await?;
    let options = &request.context.options;
    if !request.caller.is_known() {
        let data = Outline::new(&status, &options.join_list);
        return Ok(success::json(&serde_json::json!({ "data": data, "message": "Here is what needs no token" })));
    }
    let last_reload = request.context.last_reload.load_full();
    let reload = last_reload.map(|reload| ReloadStats::of(&reload, request.caller.is_admin()));
    Ok(success::json(&ChangeBody {
        data: Some(
            Stats::new(&status, options, reload).with_transfers(&request.context.metrics().transfers.progress()),
        ),
        message: "Here is the raft status".to_owned(),
        warning: None,
        dropped: None,
    }))
}

/// Notes the member of a change for the audit file.
fn note_member(request: &RequestContext, name: &str) {
    if let Some(trail) = &request.trail {
        trail.member(name);
    }
}

/// Notes the index of a change for the audit file.
fn note_index(request: &RequestContext, index: u64) {
    if let Some(trail) = &request.trail {
        trail.index(index);
    }
}

/// Returns the deadline of a request with this default timeout; a POST with a condition in its headers is refused.
fn deadline_or(request: &RequestContext, default: Duration) -> Result<Deadline, Problem> {
    let [timeout] = uri::parameters(request.query(), [TIMEOUT])?;
    if request.method == Method::POST {
        conditions::none(request)?;
    }
    uri::deadline(timeout.as_deref(), default, request.arrived)
}

/// Answers a change that was made, with the status of this node after it.
async fn change_response(
    request: &RequestContext,
    deadline: Deadline,
    message: String,
    warning: Option<String>,
    dropped: Option<String>,
) -> Response {
    // A join may use up its whole deadline and still succeed. The status is a local read, so it gets a second of its own.
    let deadline = Deadline(deadline.0.max(Instant::now() + STATUS_TIMEOUT));
    let status = request.context.status(deadline).await.ok();
    let data = status.as_ref().map(|status| Stats::new(status, &request.context.options, None));
    success::json(&ChangeBody { data, message, warning, dropped })
}

fn parse_name(name: String) -> Result<String, Problem> {
    match check_name(&name) {
        Ok(()) => Ok(name),
        Err(reason) => Err(Problem::body(format!("member `node_id`: {reason}, not `{}`", clip(&name)))),
    }
}

fn parse_address(address: String) -> Result<String, Problem> {
    match check_address(&address) {
        Ok(()) => Ok(address),
        Err(reason) => Err(Problem::body(format!(
            "member `raft_address` must be host:port, such as localhost:1112 or [::1]:1112, not `{}`: {reason}",
            clip(&address)
        ))),
    }
}
