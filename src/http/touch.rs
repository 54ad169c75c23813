//! `POST /touch/KEY`: keeps a key for so long from now on.
//!
//! Why: whoever holds a lock has to say now and then that he lives, without becoming another version of the lock.
//!
//! Laws: only the expiry changes; version and entity tag stay, for others rely on them as fencing tokens. Nothing may
//! follow the key in the path, for keys may contain `/`.
//!
//! Not here: when the time is over (`consensus::time`).

use bytes::Bytes;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::answers;
use super::body;
use super::conditions;
use super::door::Call;
use super::errors::Problem;
use super::query::{self, TIMEOUT};
use super::store;
use super::ttl;
use crate::model::{Command, Outcome, Ttl};

const TOUCHED: &str = "success touching data";

/// Answers `/touch/KEY`.
pub(super) async fn handle(mut call: Call, tail: &str) -> Result<Response, Problem> {
    call.takes_post()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.door.options.request_timeout, call.arrived)?;
    let key = query::key_in_path(tail.strip_suffix('/').unwrap_or(tail), call.door.options.key_bytes)?;
    let body = call.body(deadline).await?;
    let (ttl, if_version) = parsed(&body.bytes)?;
    let condition = conditions::of_write_or_body(&call, if_version)?;
    let command = Command::Touch { key: Bytes::copy_from_slice(key.as_bytes()), ttl, condition };
    let room = call.share_for_renewal(deadline).await?;
    let written = store::write(&call, &body.bytes, command, deadline).await?;
    let mut response = match &written.outcome {
        Outcome::Touched(item) => {
            let body = answers::item(TOUCHED, &key, item, written.clock);
            // It is done, whether or not there is room to show a large value to a client that may take its time.
            let mut response = match call.share(body.len()) {
                Ok(share) => answers::json_text(body, Some(share)),
                Err(_) => answers::truncated(TOUCHED, item.version),
            };
            answers::tag(&mut response, item.version);
            response
        }
        Outcome::Truncated { version } => {
            let mut response = answers::truncated(TOUCHED, *version);
            answers::tag(&mut response, *version);
            response
        }
        _ => return Err(store::refused(&key, &written)),
    };
    answers::mark_written(&mut response, &written);
    drop(room);
    Ok(response)
}

/// The members `ttl` and `if_version` of a body.
pub(super) fn parsed(body: &[u8]) -> Result<(Ttl, Option<&RawValue>), Problem> {
    let [ttl, if_version] = body::members(body, ["ttl", "if_version"])?;
    let ttl = ttl::of_member(Some(body::required(ttl, "ttl")?))?;
    Ok((ttl.ok_or_else(Problem::internal)?, if_version))
}
