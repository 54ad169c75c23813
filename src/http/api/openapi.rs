//! `/openapi.json`: the whole contract for programs, in one file.
//!
//! Why: clients, tests and documentation in any language are made from it.
//!
//! Laws: the file that is served is the one in the tree, `src/http/api/openapi.json`. Tests hold it equal to the routes: their
//! paths, methods and parameters (`tests/cluster`), and every code (`tests/contract.rs`).
//!
//! Not here: what a route means; the document says it.

use warp::reply::Response;

use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::TIMEOUT;
use crate::http::response::problem::Problem;
use crate::http::response::success;

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(crate) async fn document(call: RequestContext) -> Result<Response, Problem> {
    call.takes_get()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    Ok(success::json_text(DOCUMENT.trim_end().into(), None))
}
