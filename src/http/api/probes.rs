//! `/readyz` and `/livez`: readiness and liveness probes for load balancers and orchestrators.
//!
//! Why: an orchestrator sends no traffic to a node that is not ready, and restarts one that is not alive. A restart repairs
//! neither a lost quorum nor a slow disk, so those fail readiness and never liveness.
//!
//! Invariants: neither probe waits for the consensus loop or another node; both read the state that the loop has published.
//! Where the node wants a token, a client without one learns whether it is ready, and not why it is not.
//! A request for a foreign host gets the status alone ([`crate::http::server::host_guard`]).
//!
//! See also: `consensus::liveness::readiness` (the reasons).

use std::time::Duration;

use serde::Serialize;
use warp::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::reply::Response;

use super::deadline;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::loop_wait::STALLED_AFTER;
use crate::http::response::problem::Problem;
use crate::model::{Code, Refusal};

/// The maximum time since the last turn of a live node that is not waiting for its disk.
const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// The reason why a node takes no requests, as `/health` and `/raft/stats` show it.
#[derive(Serialize)]
pub(crate) struct NotReady<'a> {
    code: &'a str,
    detail: &'a str,
}

impl<'a> NotReady<'a> {
    /// Returns the code and the detail of a refusal.
    pub(crate) fn of(refusal: &'a Refusal) -> Self {
        Self { code: refusal.code.as_str(), detail: &refusal.detail }
    }
}

/// Serves `GET /readyz`.
pub(crate) async fn readyz(request: RequestContext) -> Result<Response, Problem> {
    check(&request)?;
    let (silence, _) = request.context.silence();
    match readiness(silence, request.context.names().not_ready.as_ref()) {
        None => Ok(ok()),
        // Why it is not ready says something of the cluster.
        Some(problem) if !request.caller.is_known() => Ok(without_details(&problem.respond(&request.method))),
        Some(problem) => Err(problem),
    }
}

/// Serves `GET /livez`.
pub(crate) async fn livez(request: RequestContext) -> Result<Response, Problem> {
    check(&request)?;
    let (silence, at_disk) = request.context.silence();
    if is_alive(silence, at_disk) { Ok(ok()) } else { Err(Problem::stalled()) }
}

/// Returns the reason why a node takes no requests, if any. `silence` is the time since the last turn of its loop, None before
/// the first one; `not_ready` is what that turn published.
fn readiness(silence: Option<Duration>, not_ready: Option<&Refusal>) -> Option<Problem> {
    let Some(silence) = silence else {
        return Some(Refusal::not_applied(Code::Starting, "this node has not begun to serve yet; wait").into());
    };
    // A published reason is more exact than `stalled`, so it is preferred, however old it is.
    match not_ready {
        Some(refusal) => Some(Problem::not_ready(refusal.clone())),
        None if silence > STALLED_AFTER => Some(Problem::stalled()),
        None => None,
    }
}

/// Whether the loop turns, has not begun, or waits for its disk, which a restart would not speed up.
fn is_alive(silence: Option<Duration>, at_disk: bool) -> bool {
    at_disk || silence.is_none_or(|silence| silence <= LIVE_WITHIN)
}

/// Checks method and query. The deadline is valid but unused: nothing is waited for.
fn check(request: &RequestContext) -> Result<(), Problem> {
    request.takes_get()?;
    deadline(request).map(drop)
}

/// Returns the status and `Retry-After` of a response, with a body that gives no reason.
fn without_details(full: &Response) -> Response {
    let mut response = text("not ready\n");
    *response.status_mut() = full.status();
    if let Some(seconds) = full.headers().get(RETRY_AFTER) {
        response.headers_mut().insert(RETRY_AFTER, seconds.clone());
    }
    response
}

fn ok() -> Response {
    text("ok\n")
}

fn text(body: &'static str) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::Method;

    #[test]
    fn a_node_is_ready_if_its_loop_turns_and_publishes_no_reason() {
        let reason = |silence, code: Option<Code>| {
            let refusal = code.map(|code| Refusal::not_applied(code, "why"));
            readiness(silence, refusal.as_ref()).map(|problem| {
                let body: serde_json::Value = serde_json::from_slice(&problem.to_json(&Method::GET)).unwrap();
                (problem.respond(&Method::GET).status().as_u16(), body["code"].as_str().unwrap().to_owned())
            })
        };
        let not = |code: &str| Some((503, code.to_owned()));
        assert_eq!(reason(None, None), not("starting"));
        assert_eq!(reason(Some(Duration::ZERO), None), None);
        assert_eq!(reason(Some(STALLED_AFTER * 2), None), not("stalled"));
        for code in [Code::Joining, Code::NoLeader, Code::Lagging, Code::Stopping, Code::Removed, Code::Verifying] {
            assert_eq!(reason(Some(Duration::ZERO), Some(code)), not(code.as_str()));
        }
    }

    #[test]
    fn a_loop_that_starts_or_waits_for_its_disk_is_alive() {
        let long = Some(LIVE_WITHIN * 2);
        assert!(is_alive(None, false) && is_alive(Some(STALLED_AFTER * 2), false) && is_alive(long, true));
        assert!(!is_alive(long, false));
    }
}
