//! `GET /load`: the load of the node over the last minutes, a point a second.
//!
//! Invariants: it asks neither the loop nor the disk, so it answers while either stalls.
//!
//! See also: how the points are made ([`crate::telemetry::load`]).

use serde::Serialize;
use warp::reply::Response;

use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri::{self, TIMEOUT};
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::telemetry::load::{POINTS, Point};

/// The path.
pub(in crate::http) const PATH: &str = "/load";

/// The `data` of the answer.
#[derive(Serialize)]
struct Load<'a> {
    node: &'a str,
    interval_seconds: u64,
    points: Vec<Point>,
}

/// Serves `GET /load`.
pub(in crate::http) async fn load(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let [seconds, timeout] = uri::parameters(request.query(), ["seconds", TIMEOUT])?;
    uri::deadline(timeout.as_deref(), request.context.request_timeout(), request.arrived)?;
    let points = request.context.metrics().load.latest(parse(seconds.as_deref())?);
    let names = request.context.names();
    let data = Load { node: &names.node, interval_seconds: 1, points };
    Ok(success::data(data, "Here is the load of this node"))
}

/// Parses for how many seconds points are wanted: all without a number.
fn parse(seconds: Option<&str>) -> Result<usize, Problem> {
    let Some(text) = seconds else { return Ok(POINTS) };
    // The standard parser would accept a plus.
    let number = text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    number.filter(|seconds| (1..=POINTS).contains(seconds)).ok_or_else(|| {
        Problem::query(format!("query parameter `seconds` must be from 1 to {POINTS}, not `{}`", clip(text)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_a_number_from_one_to_all() {
        assert_eq!(
            [parse(None), parse(Some("1")), parse(Some("600"))].map(Result::ok),
            [Some(600), Some(1), Some(600)]
        );
        for bad in ["", "0", "601", "+5", "-1", "1.5", "x", "99999999999999999999999"] {
            assert!(parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
