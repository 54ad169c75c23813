//! `/openapi.json`: the whole contract for programs, in one file.
//!
//! Why: clients, tests and documentation in any language are made from it.
//!
//! Laws: the file that is served is the one in the tree, `src/http/openapi.json`. Tests hold it equal to the routes: their
//! paths, methods and parameters (`tests/cluster`), and every code (`tests/contract.rs`).
//!
//! Not here: what a route means; the document says it.

use warp::reply::Response;

use super::answers;
use super::door::Call;
use super::errors::Problem;
use super::query::{self, TIMEOUT};

const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /openapi.json`.
pub(super) async fn document(call: Call) -> Result<Response, Problem> {
    call.takes_get()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    query::deadline(timeout.as_deref(), call.door.options.request_timeout, call.arrived)?;
    Ok(answers::json_text(DOCUMENT.trim_end().into(), None))
}
