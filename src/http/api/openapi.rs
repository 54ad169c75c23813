//! `GET /openapi.json`: the OpenAPI document of the HTTP interface.
//!
//! Why: clients, tests and documentation in any language are generated from it.
//!
//! Invariants: the file that is served is `src/http/api/openapi.json`. Tests compare it with the routes (paths, methods and
//! parameters: `tests/cluster`) and with every error code (`tests/contract.rs`).

use warp::reply::Response;

use super::deadline;
use crate::http::request::handler_context::RequestContext;
use crate::http::response::problem::Problem;
use crate::http::response::success;

const DOCUMENT: &str = include_str!("openapi.json");

/// Serves `GET /openapi.json`.
pub(crate) async fn document(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    deadline(&request)?;
    Ok(success::json_text(DOCUMENT.trim_end().into(), None))
}
