//! `POST /touch/KEY`: keeps a key for so long from now on.
//!
//! Why: whoever holds a lock has to say now and then that he lives, without becoming another version of the lock.
//!
//! Laws: only the expiry changes; version and entity tag stay, for others rely on them as fencing tokens. Nothing may
//! follow the key in the path, for keys may contain `/`.
//!
//! Not here: when the time is over (`consensus::proposals::cluster_clock`).

use bytes::Bytes;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::store;
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::TIMEOUT;
use crate::http::request::ttl;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::{Command, CommandResult, Ttl};

const TOUCHED: &str = "success touching data";

/// Answers `/touch/KEY`.
pub(crate) async fn handle(mut call: RequestContext, tail: &str) -> Result<Response, Problem> {
    call.takes_post()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let key = query::key_in_path(tail.strip_suffix('/').unwrap_or(tail), call.context.options.key_bytes)?;
    let body = call.body(deadline).await?;
    let (ttl, if_version) = parsed(&body.bytes)?;
    let condition = conditions::of_write_or_body(&call, if_version)?;
    let command = Command::Touch { key: Bytes::copy_from_slice(key.as_bytes()), ttl, condition };
    let room = call.share_for_renewal(deadline).await?;
    let written = store::write(&call, &body.bytes, command, deadline).await?;
    let mut response = match &written.outcome {
        CommandResult::Touched(item) => {
            let body = success::item(TOUCHED, &key, item, written.clock);
            // It is done, whether or not there is room to show a large value to a client that may take its time.
            let mut response = match call.share(body.len()) {
                Ok(share) => success::json_text(body, Some(share)),
                Err(_) => success::truncated(TOUCHED, item.version),
            };
            success::tag(&mut response, item.version);
            response
        }
        CommandResult::Truncated { version } => {
            let mut response = success::truncated(TOUCHED, *version);
            success::tag(&mut response, *version);
            response
        }
        _ => return Err(store::refused(&key, &written)),
    };
    success::mark_written(&mut response, &written);
    drop(room);
    Ok(response)
}

/// The members `ttl` and `if_version` of a body.
pub(crate) fn parsed(body: &[u8]) -> Result<(Ttl, Option<&RawValue>), Problem> {
    let [ttl, if_version] = body::members(body, ["ttl", "if_version"])?;
    let ttl = ttl::of_member(Some(body::required(ttl, "ttl")?))?;
    Ok((ttl.ok_or_else(Problem::internal)?, if_version))
}
