//! `POST /touch/KEY`: a new time to live for a key.
//!
//! Why: the holder of a lock renews it without changing its version.
//!
//! Invariants: only the expiry and, with tokens, the name of the last write change. A client that may not read the key learns nothing of it but that it is
//! there. Version and ETag stay, because other clients use them as fencing tokens. The key is
//! the whole rest of the path, since keys may contain `/`.
//!
//! Example: the lock `l` is at version 7. A touch answers version 7 again; storage that has seen token 7 still accepts it.
//! A put with a `ttl` would make it version 9, and the holder's own token 7 would be refused from then on.
//!
//! See also: `consensus::proposals::cluster_clock` (when a key expires).

use bytes::Bytes;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::propose::propose;
use super::{deadline, store};
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::ttl;
use crate::http::request::uri;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::{Command, CommandResult, Ttl};

const TOUCHED: &str = "success touching data";

/// Serves `/touch/KEY`.
pub(crate) async fn handle(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let deadline = deadline(&request)?;
    let tail = request.tail();
    let raw_key = tail.strip_suffix('/').unwrap_or(tail);
    let key = uri::key_in_path(raw_key, request.context.options.key_bytes)?;
    let body = request.body(deadline).await?;
    let (ttl, if_version) = parse(&body.bytes)?;
    let condition = conditions::of_write_or_body(&request, if_version)?;
    let command = Command::Touch { key: Bytes::copy_from_slice(key.as_bytes()), ttl, condition };
    // Memory for the result is reserved before the proposal, since the touched value comes back whole, however large it is.
    let renewal_share = request.share_for_renewal(deadline).await?;
    let written = propose(&request, &body.bytes, command, deadline).await?;
    let mut response = match &written.outcome {
        // The right to write is not one to read the value, nor the version, which is that of another's write. The holder of a lock has
        // it from its own.
        CommandResult::Touched(_) | CommandResult::Truncated { .. } if !request.caller.may_read(&key) => {
            success::unread(TOUCHED)
        }
        CommandResult::Touched(item) => {
            let body = success::item_body(TOUCHED, &key, item, written.clock);
            // The touch is applied: where no memory is left for the value, the answer is a success without it.
            let mut response = match request.share(body.len()) {
                Ok(share) => success::json_text(body, Some(share)),
                Err(_) => success::truncated(TOUCHED, item.version),
            };
            success::set_etag(&mut response, item.version);
            response
        }
        CommandResult::Truncated { version } => {
            let mut response = success::truncated(TOUCHED, *version);
            success::set_etag(&mut response, *version);
            response
        }
        _ => return Err(store::no_effect(&request, &key, &written)),
    };
    success::set_write_headers(&mut response, &written);
    drop(renewal_share);
    Ok(response)
}

/// Parses the members `ttl` and `if_version` of a body.
pub(crate) fn parse(body: &[u8]) -> Result<(Ttl, Option<&RawValue>), Problem> {
    let [ttl, if_version] = body::members(body, ["ttl", "if_version"])?;
    let ttl = ttl::of_member(Some(body::required(ttl, "ttl")?))?;
    Ok((ttl.ok_or_else(Problem::internal)?, if_version))
}
