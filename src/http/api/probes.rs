//! `/readyz` and `/livez`, for load balancers and orchestrators.
//!
//! Why: an orchestrator takes traffic from a node that is not ready, and kills one that does not live. A node without a
//! quorum, or with a slow disk, is no better after a restart, so only the first of the two speaks of it.
//!
//! Laws: neither asks the loop, nor any other node: they are answered from what the loop has published, whatever it does.
//! A foreign host is told the status alone ([`crate::http::server::host_guard`]).
//!
//! Not here: why a node is not ready (`consensus::liveness::readiness`).

use std::time::Duration;

use serde::Serialize;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use crate::http::request::context::{RequestContext, STALLED_AFTER};
use crate::http::request::query;
use crate::http::request::query::TIMEOUT;
use crate::http::response::problem::Problem;
use crate::model::{Code, Refusal};

/// After how long without one, though no disk is waited for, the loop has died or hangs.
const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// Why a node takes no requests, as its states show it.
#[derive(Serialize)]
pub(crate) struct NotReady<'a> {
    code: &'a str,
    detail: &'a str,
}

impl<'a> NotReady<'a> {
    pub(crate) fn of(refusal: &'a Refusal) -> Self {
        Self { code: refusal.code.as_str(), detail: &refusal.detail }
    }
}

/// `GET /readyz`.
pub(crate) async fn readyz(call: RequestContext) -> Result<Response, Problem> {
    checked(&call)?;
    let (silence, _) = call.context.silence();
    readiness(silence, call.context.names().not_ready.as_ref()).map_or_else(|| Ok(ok()), Err)
}

/// `GET /livez`.
pub(crate) async fn livez(call: RequestContext) -> Result<Response, Problem> {
    checked(&call)?;
    let (silence, at_disk) = call.context.silence();
    if is_alive(silence, at_disk) { Ok(ok()) } else { Err(Problem::stalled()) }
}

/// Why the node takes no requests, if it does not: its loop has ended its last turn `silence` ago and published `not_ready`.
fn readiness(silence: Option<Duration>, not_ready: Option<&Refusal>) -> Option<Problem> {
    let Some(silence) = silence else {
        return Some(Refusal::not_applied(Code::Starting, "this node has not begun to serve yet; wait").into());
    };
    match not_ready {
        Some(refusal) => Some(Problem::not_ready(refusal.clone())),
        None if silence > STALLED_AFTER => Some(Problem::stalled()),
        None => None,
    }
}

/// Whether the loop turns, or is about to: it has not begun, or is at the disk, which no restart would make faster.
fn is_alive(silence: Option<Duration>, at_disk: bool) -> bool {
    at_disk || silence.is_none_or(|silence| silence <= LIVE_WITHIN)
}

fn checked(call: &RequestContext) -> Result<(), Problem> {
    call.takes_get()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived).map(drop)
}

fn ok() -> Response {
    let mut response = Response::new("ok\n".into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use warp::http::Method;

    #[test]
    fn a_node_is_ready_where_its_loop_turns_and_has_no_reason_against_it() {
        let seen = |silence, code: Option<Code>| {
            let refusal = code.map(|code| Refusal::not_applied(code, "why"));
            readiness(silence, refusal.as_ref()).map(|problem| {
                let body: serde_json::Value = serde_json::from_slice(&problem.to_json(&Method::GET)).unwrap();
                (problem.respond(&Method::GET).status().as_u16(), body["code"].as_str().unwrap().to_owned())
            })
        };
        let not = |code: &str| Some((503, code.to_owned()));
        assert_eq!(seen(None, None), not("starting"));
        assert_eq!(seen(Some(Duration::ZERO), None), None);
        assert_eq!(seen(Some(STALLED_AFTER * 2), None), not("stalled"));
        for code in [Code::Joining, Code::NoLeader, Code::Lagging, Code::Stopping, Code::Removed, Code::Verifying] {
            assert_eq!(seen(Some(Duration::ZERO), Some(code)), not(code.as_str()));
        }
    }

    #[test]
    fn a_loop_that_starts_or_waits_for_its_disk_lives() {
        let long = Some(LIVE_WITHIN * 2);
        assert!(is_alive(None, false) && is_alive(Some(STALLED_AFTER * 2), false) && is_alive(long, true));
        assert!(!is_alive(long, false));
    }
}
