//! `GET /version`: the version of the program, of the peer protocol, and of the files on the disk.
//!
//! Why: an upgrade or a downgrade needs to know whether two versions understand each other, and read the same directory.
//!
//! Invariants: all of it is fixed at compile time, so it is answered in any state of the node.
//!
//! See also: `transport` and `storage` (where the versions are defined), `node::module_options` (which hands them in).

use std::collections::BTreeMap;

use serde::Serialize;
use warp::reply::Response;

use crate::http::api::deadline;
use crate::http::request::handler_context::RequestContext;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::telemetry::metrics::COMMIT;

/// The body of `/version`.
#[derive(Serialize)]
struct Version {
    huskv: &'static str,
    commit: &'static str,
    wire: Wire,
    formats: BTreeMap<&'static str, u32>,
}

/// The versions of the peer protocol that the node speaks.
#[derive(Serialize)]
struct Wire {
    oldest: u16,
    newest: u16,
}

/// Serves `GET /version`.
pub(crate) async fn version(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    // Valid but unused: nothing is waited for.
    deadline(&request)?;
    let options = &request.context.options;
    let (oldest, newest) = options.wire_versions.clone().into_inner();
    Ok(success::json(&Version {
        huskv: env!("CARGO_PKG_VERSION"),
        commit: COMMIT,
        wire: Wire { oldest, newest },
        formats: options.formats.iter().copied().collect(),
    }))
}
