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

use super::answers;
use super::body;
use super::conditions;
use super::door::Call;
use super::errors::{Problem, clip};
use super::query::{self, Deadline, TIMEOUT};
use super::stats::Stats;
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
pub(super) async fn join(mut call: Call) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, JOIN_TIMEOUT)?;
    let body = call.body(deadline).await?;
    let (node_id, raft_address, force) = joining(&body.bytes)?;
    let message = format!("node {node_id} at {raft_address} joined successfully");
    match call.door.request(Request::Join { node_id, raft_address, force }, deadline).await? {
        Answer::Members { warning, dropped, .. } => Ok(changed(&call, deadline, message, warning, dropped).await),
        _ => Err(Problem::internal()),
    }
}

/// Who is to join, where it is, and whether it may lose its data.
pub(super) fn joining(body: &[u8]) -> Result<(String, String, bool), Problem> {
    let [node_id, raft_address, force] = body::members(body, ["node_id", "raft_address", "force"])?;
    let node_id = checked_name(body::string(node_id, "node_id")?)?;
    let raft_address = checked_address(body::string(raft_address, "raft_address")?)?;
    Ok((node_id, raft_address, body::flag(force, "force")?))
}

/// `POST /raft/remove`.
pub(super) async fn remove(mut call: Call) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, CHANGE_TIMEOUT)?;
    let body = call.body(deadline).await?;
    let [node_id] = body::members(&body.bytes, ["node_id"])?;
    let node_id = checked_name(body::string(node_id, "node_id")?)?;
    match call.door.request(Request::Remove { node_id: node_id.clone() }, deadline).await? {
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
pub(super) async fn transfer(mut call: Call) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, CHANGE_TIMEOUT)?;
    let body = call.body(deadline).await?;
    let [node_id] = if body.is_blank() { [None] } else { body::members(&body.bytes, ["node_id"])? };
    let node_id = node_id.map(|text| checked_name(body::string(Some(text), "node_id")?)).transpose()?;
    match call.door.request(Request::Transfer { node_id }, deadline).await? {
        Answer::Transferred { node_id } => {
            Ok(changed(&call, deadline, format!("leadership moved to node {node_id}"), None, None).await)
        }
        _ => Err(Problem::internal()),
    }
}

/// `POST /raft/snapshot`.
pub(super) async fn snapshot(mut call: Call) -> Result<Response, Problem> {
    call.takes_post()?;
    let deadline = deadline(&call, call.door.options.request_timeout)?;
    let body = call.body(deadline).await?;
    if !body.is_blank() {
        body::members(&body.bytes, [])?;
    }
    call.door.snapshot(deadline).await?;
    Ok(changed(&call, deadline, "snapshot taken".to_owned(), None, None).await)
}

/// `GET /raft/stats`.
pub(super) async fn stats(call: Call) -> Result<Response, Problem> {
    call.takes_get()?;
    let deadline = deadline(&call, call.door.options.request_timeout)?;
    let status = call.door.status(deadline).await?;
    Ok(answers::json(&Changed {
        data: Some(Stats::new(&status, &call.door.options.join_list)),
        message: "Here is the raft status".to_owned(),
        warning: None,
        dropped: None,
    }))
}

fn deadline(call: &Call, default: Duration) -> Result<Deadline, Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    if call.method == Method::POST {
        conditions::none(call)?;
    }
    query::deadline(timeout.as_deref(), default, call.arrived)
}

async fn changed(
    call: &Call,
    deadline: Deadline,
    message: String,
    warning: Option<String>,
    dropped: Option<String>,
) -> Response {
    let deadline = Deadline(deadline.0.max(Instant::now() + STATUS_TIMEOUT));
    let status = call.door.status(deadline).await.ok();
    let data = status.as_ref().map(|status| Stats::new(status, &call.door.options.join_list));
    answers::json(&Changed { data, message, warning, dropped })
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
