//! The node itself: `POST /admin/reload`.
//!
//! Why: an operator changes a setting without a restart, and is told which settings still need one.
//!
//! Invariants: the reload is of the node that is asked, and of no other. It is finished even where its client does not wait for it.
//!
//! See also: `node::reload` (what is read and applied), [`crate::http::reload`].

use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::time::timeout;
use warp::reply::Response;

use crate::http::reload::ReloadReport;
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri;
use crate::http::request::uri::TIMEOUT;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::{Code, Refusal};

/// The default timeout of a reload, which reads a few files.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The body of the answer.
#[derive(Serialize)]
struct ReloadBody {
    data: ReloadReport,
    message: &'static str,
}

/// Serves `POST /admin/reload`.
pub(crate) async fn reload(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let [timeout_text] = uri::parameters(request.query(), [TIMEOUT])?;
    conditions::none(&request)?;
    let deadline = uri::deadline(timeout_text.as_deref(), RELOAD_TIMEOUT, request.arrived)?;
    let body = request.body(deadline).await?;
    if !body.is_blank() {
        body::members(&body.bytes, [])?;
    }
    let (reply, report) = oneshot::channel();
    let asked = async {
        request.context.options.reloads.send(reply).await.ok()?;
        report.await.ok()
    };
    match timeout(deadline.left(), asked).await {
        Ok(Some(Ok(data))) => Ok(success::json(&ReloadBody { data, message: "success reloading settings" })),
        Ok(Some(Err(reason))) => Err(Problem::reload_failed(reason)),
        // The node stops, and with it the task that reloads.
        Ok(None) => Err(Problem::stopping()),
        Err(_) => {
            let detail =
                "the reload has not ended by the deadline, and goes on; the stats show when it has (reloaded_at)";
            Err(Refusal::unknown(Code::Timeout, detail).into())
        }
    }
}
