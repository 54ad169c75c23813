//! What is asked without a token: liveness, readiness, health, version.
//!
//! Why: an orchestrator sends no traffic to a node that is not ready, and restarts one that is not alive. A restart repairs
//! neither a lost quorum nor a slow disk, so those fail readiness and never liveness.
//!
//! Invariants: liveness, readiness and version answer on any node, also while it starts, joins or waits for its disk. Liveness is the
//! loop's last turn and nothing else. A probe waits for nothing but a round of ReadIndex, for at most a second, and not at all where the
//! node knows already that none would be confirmed.
//!
//! See also: `consensus::liveness::readiness` (the reasons), [`crate::http::server::host_guard`] (requests for a foreign host get the
//! status alone).

mod checks;
pub(crate) mod health;
pub(crate) mod readyz;
pub(crate) mod version;

use std::time::Duration;

use serde::Serialize;
use warp::http::header::{CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use super::deadline_after;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri::{self, TIMEOUT};
use crate::http::response::problem::Problem;
use crate::model::Refusal;

/// The query parameter that asks for a line for each check.
const VERBOSE: &str = "verbose";

/// The maximum time since the last turn of a live node that is not waiting for its disk.
const LIVE_WITHIN: Duration = Duration::from_mins(1);

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

/// Serves `GET /livez`.
pub(crate) async fn livez(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let [timeout, verbose] = uri::parameters(request.query(), [TIMEOUT, VERBOSE])?;
    // Valid but unused: nothing is waited for.
    deadline_after(&request, timeout.as_deref())?;
    let verbose = uri::flag(verbose.as_deref(), VERBOSE)?;
    let (silence, at_disk) = request.context.silence();
    if !is_alive(silence, at_disk) {
        return Err(Problem::stalled());
    }
    Ok(text(if verbose { "[+]loop ok\nok\n" } else { "ok\n" }))
}

/// Whether the loop turns, has not begun, or waits for its disk, which a restart would not speed up.
fn is_alive(silence: Option<Duration>, at_disk: bool) -> bool {
    at_disk || silence.is_none_or(|silence| silence <= LIVE_WITHIN)
}

fn text(body: &str) -> Response {
    let mut response = Response::new(body.as_bytes().to_vec().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_starts_or_waits_for_its_disk_is_alive() {
        let (shortly, long) = (Some(LIVE_WITHIN), Some(LIVE_WITHIN * 2));
        assert!(is_alive(None, false) && is_alive(shortly, false) && is_alive(long, true));
        assert!(!is_alive(long, false));
    }
}
