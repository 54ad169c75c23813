//! The routes of one key, and the way to those of many: `/store` and `/store/KEY`.
//!
//! Why: setting, reading and removing a key is what people come for.
//!
//! Laws: a key in a path may contain `/`; one slash at the end belongs to the route, so a key that ends in one is
//! written with `%2F`. A value goes in and out byte for byte.
//!
//! Not here: which entry wins and whether a condition is true (`model::decide`), when a read is fresh
//! (`consensus::reads`), how a value is shown ([`crate::http::response::item_json`]).

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use warp::http::header::{ACCEPT_RANGES, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::list;
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::content;
use crate::http::request::context::RequestContext;
use crate::http::request::idempotency;
use crate::http::request::media_type;
use crate::http::request::query;
use crate::http::request::query::{Deadline, FRESH, TIMEOUT};
use crate::http::request::ttl;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::http::server::memory_budget::Share;
use crate::model::{Answer, Command, CommandResult, Condition, Request, Ttl, Value, Write, Written};

const PERSISTED: &str = "success persisting data";
const FETCHED: &str = "success fetching data";

/// What DELETE answers.
#[derive(Serialize)]
struct Deletion<'a> {
    data: Deleted<'a>,
    message: &'static str,
}

#[derive(Serialize)]
struct Deleted<'a> {
    key: &'a str,
    /// Always null: a tutorial client reads it.
    value: (),
    deleted: bool,
}

/// What PUT answers: the client has the value.
#[derive(Serialize)]
struct Persistence<'a> {
    data: Persisted<'a>,
    message: &'static str,
}

#[derive(Serialize)]
struct Persisted<'a> {
    key: &'a str,
    version: u64,
}

/// Answers `/store` (an empty tail) and `/store/KEY`.
pub(crate) async fn handle(call: RequestContext, tail: &str) -> Result<Response, Problem> {
    let key = tail.strip_suffix('/').unwrap_or(tail);
    if key.is_empty() {
        return match call.method {
            Method::POST => post(call).await,
            Method::GET | Method::HEAD => list::list(&call).await,
            Method::DELETE => list::sweep(&call).await,
            _ => Err(Problem::method(&call.method, "GET, HEAD, POST, DELETE, OPTIONS")),
        };
    }
    match call.method {
        Method::GET | Method::HEAD => get(&call, key).await,
        Method::PUT => put(call, key).await,
        Method::DELETE => delete(&call, key).await,
        _ => Err(Problem::method(&call.method, "GET, HEAD, PUT, DELETE, OPTIONS")),
    }
}

async fn post(mut call: RequestContext) -> Result<Response, Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let body = call.body(deadline).await?;
    let options = &call.context.options;
    let Posted { key, value, if_version, ttl } = parsed(&body.bytes, options.key_bytes, options.value_bytes)?;
    let condition = conditions::of_write_or_body(&call, if_version)?;
    let put = Put { value: value.clone(), condition, ttl };
    let written = persist(&call, &body.bytes, &key, put, deadline).await?;
    let text = success::stored(PERSISTED, &key, &value, written.index);
    let share = body.into_share(text.len());
    let mut response = success::json_text(text, share);
    success::tag(&mut response, written.index);
    success::mark_written(&mut response, &written);
    Ok(response)
}

async fn put(mut call: RequestContext, raw_key: &str) -> Result<Response, Problem> {
    let [timeout, ttl, empty] = query::parameters(&call.query, [TIMEOUT, "ttl", "empty"])?;
    let empty = query::flag(empty.as_deref(), "empty")?;
    let ttl = ttl::of_query(ttl.as_deref())?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let key = query::key_in_path(raw_key, call.context.options.key_bytes)?;
    let condition = conditions::of_write(&call)?;
    let announced = call.header(&CONTENT_TYPE)?.map(str::to_owned);
    let body = call.raw_body(deadline).await?;
    let chosen = announced.as_deref().is_some_and(media_type::is_explicit);
    match (body.bytes.is_empty(), empty) {
        // What a script sends whose variable is not set: `-d "$VALUE"`.
        (true, false) if !chosen => {
            return Err(Problem::body("the body is empty; if that is the value, say so with ?empty or a Content-Type"));
        }
        (false, true) => return Err(Problem::query("query parameter `empty` is given, but the body is not empty")),
        _ => {}
    }
    let value = content::from_body(body.bytes.clone(), announced.as_deref(), call.context.options.value_bytes)?;
    let written = persist(&call, &body.bytes, &key, Put { value, condition, ttl }, deadline).await?;
    let data = Persisted { key: &key, version: written.index };
    let mut response = success::json(&Persistence { data, message: PERSISTED });
    success::tag(&mut response, written.index);
    success::mark_written(&mut response, &written);
    Ok(response)
}

/// What a key is to hold.
pub(crate) struct Put {
    pub(crate) value: Value,
    pub(crate) condition: Condition,
    pub(crate) ttl: Option<Ttl>,
}

/// Has the value persisted, if the condition is true.
pub(crate) async fn persist(
    call: &RequestContext,
    body: &[u8],
    key: &str,
    put: Put,
    deadline: Deadline,
) -> Result<Written, Problem> {
    let Put { value, condition, ttl } = put;
    let command = Command::Put { key: Bytes::copy_from_slice(key.as_bytes()), value, condition, ttl };
    let written = write(call, body, command, deadline).await?;
    match written.outcome {
        CommandResult::Put { .. } => Ok(written),
        _ => Err(refused(key, &written)),
    }
}

/// Has the command of a request with this body applied, once if the request has a name.
pub(crate) async fn write(
    call: &RequestContext,
    body: &[u8],
    command: Command,
    deadline: Deadline,
) -> Result<Written, Problem> {
    let write = Write { idempotency_key: idempotency::of(call, body)?, command };
    match call.context.request(Request::Write(write), deadline).await? {
        Answer::Written(written) if written.outcome == CommandResult::IdempotencyKeyReused => {
            Err(Problem::key_reused().decided(&written))
        }
        Answer::Written(written) if written.outcome == CommandResult::Invalid => {
            Err(Problem::invalid().decided(&written))
        }
        Answer::Written(written) if written.outcome == CommandResult::ResultsFull => {
            Err(Problem::results_full(&written))
        }
        Answer::Written(written) => Ok(written),
        _ => Err(Problem::internal()),
    }
}

/// The refusal of a write of one key, as it was decided where it was applied.
pub(crate) fn refused(key: &str, written: &Written) -> Problem {
    match written.outcome {
        CommandResult::ConditionFailed { version } => Problem::condition(key, version).decided(written),
        CommandResult::NotFound => Problem::no_key(key).decided(written),
        _ => Problem::internal(),
    }
}

async fn get(call: &RequestContext, raw_key: &str) -> Result<Response, Problem> {
    let [consistency, max_stale, min_index] = FRESH;
    let names = [TIMEOUT, consistency, max_stale, min_index, "raw"];
    let [timeout, consistency, max_stale, min_index, raw] = query::parameters(&call.query, names)?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let fresh = query::freshness([consistency, max_stale, min_index])?;
    let raw = query::flag(raw.as_deref(), "raw")?;
    let key = query::key_in_path(raw_key, call.context.options.key_bytes)?;
    conditions::of_read(call)?;
    let fetched = call.context.read(key.clone().into_bytes(), fresh, deadline).await?;
    let mut response = match &fetched.value {
        Some(found) => {
            let mut response = if conditions::is_known(call, found.version)? {
                success::empty(StatusCode::NOT_MODIFIED)
            } else if raw {
                let share = call.share(found.value.bytes.len())?;
                as_it_came(&found.value, share)
            } else {
                let body = success::item(FETCHED, &key, found, fetched.clock);
                let share = call.share(body.len())?;
                success::json_text(body, Some(share))
            };
            success::tag(&mut response, found.version);
            response
        }
        None => Problem::no_key(&key).respond(&call.method),
    };
    success::mark(&mut response, fetched.index, fetched.term);
    Ok(response)
}

/// The bytes alone. A browser must neither guess another type nor let what was stored here act as a page of this node.
fn as_it_came(value: &Value, share: Share) -> Response {
    let mut response = Response::new(success::held(value.bytes.clone(), Some(share)).into());
    let headers = response.headers_mut();
    let fallback = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(&value.content_type).unwrap_or(fallback));
    // A `Range` is answered by all of it, which every client must reckon with (RFC 9110, section 14.2).
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

async fn delete(call: &RequestContext, raw_key: &str) -> Result<Response, Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let key = query::key_in_path(raw_key, call.context.options.key_bytes)?;
    let condition = conditions::of_write(call)?;
    let command = Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()), condition };
    let written = write(call, b"", command, deadline).await?;
    let CommandResult::Deleted { existed: deleted } = written.outcome else { return Err(refused(&key, &written)) };
    let data = Deleted { key: &key, value: (), deleted };
    let mut response = success::json(&Deletion { data, message: "success removing data" });
    success::mark_written(&mut response, &written);
    Ok(response)
}

/// The body of a POST.
pub(crate) struct Posted<'a> {
    key: String,
    value: Value,
    if_version: Option<&'a RawValue>,
    ttl: Option<Ttl>,
}

/// What the body of a POST says.
pub(crate) fn parsed(body: &[u8], key_bytes: usize, value_bytes: usize) -> Result<Posted<'_>, Problem> {
    let names = ["key", "value", "value_base64", "content_type", "if_version", "ttl"];
    let [key, value, value_base64, content_type, if_version, ttl] = body::members(body, names)?;
    let key = body::string(key, "key")?;
    query::check_key(&key, key_bytes)?;
    let value = content::from_members(value, value_base64, content_type, value_bytes)?;
    Ok(Posted { key, value, if_version, ttl: ttl::of_member(ttl)? })
}
