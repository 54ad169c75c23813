//! The dialects of the stores that huskv follows: `/keys/KEY/` of raft-kv, and `/kv/KEY` of distributed-raft-kv-store.
//!
//! Why: who comes from one of them keeps the scripts. (The `/health` of the second is part of ours.)
//!
//! Laws: one keyspace: what is written here is read at `/store`, and the other way round. A success has the form of its
//! dialect, and so has a missing key; every other failure is a problem as on all routes. A value is a string, as theirs
//! are, or bytes in `value_base64`.
//!
//! Not here: the store itself ([`super::store`]).

use bytes::Bytes;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::store::{self, Put};
use crate::consensus::Fetched;
use crate::http::request::body;
use crate::http::request::body::Body;
use crate::http::request::conditions;
use crate::http::request::content;
use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::{Deadline, FRESH, TIMEOUT};
use crate::http::response::item_json;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::{Command, CommandResult, Value, Written};

/// Answers `/keys/KEY/`. A missing key has the empty value.
pub(crate) async fn keys(mut call: RequestContext, tail: &str) -> Result<Response, Problem> {
    match call.method {
        Method::GET | Method::HEAD => {
            let (_, fetched) = read(&call, tail).await?;
            let mut body = br#"{"value":"#.to_vec();
            match &fetched.value {
                Some(item) => item_json::value(&mut body, &item.value),
                None => body.extend_from_slice(br#""""#),
            }
            shown(&call, body, &fetched)
        }
        Method::POST => {
            let (_, held, value, written) = write(&mut call, tail).await?;
            let mut body = br#"{"value":"#.to_vec();
            item_json::value(&mut body, &value);
            body.push(b'}');
            let share = held.into_share(body.len());
            Ok(done(success::json_text(body, share), &written))
        }
        _ => Err(Problem::method(&call.method, "GET, HEAD, POST, OPTIONS")),
    }
}

/// Answers `/kv/KEY`. A missing key is 404, `{"error": "key not found"}`.
pub(crate) async fn kv(mut call: RequestContext, tail: &str) -> Result<Response, Problem> {
    match call.method {
        Method::GET | Method::HEAD => {
            let (key, fetched) = read(&call, tail).await?;
            let Some(item) = &fetched.value else {
                let mut response = missing();
                success::mark(&mut response, fetched.index, fetched.term);
                return Ok(response);
            };
            let mut body = br#"{"key":"#.to_vec();
            item_json::string(&mut body, &key);
            body.extend_from_slice(br#","value":"#);
            item_json::value(&mut body, &item.value);
            shown(&call, body, &fetched)
        }
        Method::PUT => {
            let (key, _, _, written) = write(&mut call, tail).await?;
            let mut response = status(&key, "created");
            *response.status_mut() = StatusCode::CREATED;
            Ok(done(response, &written))
        }
        Method::DELETE => {
            let (key, deadline) = named(&call, tail)?;
            let condition = conditions::of_write(&call)?;
            let command = Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()), condition };
            let written = store::write(&call, b"", command, deadline).await?;
            match written.outcome {
                CommandResult::Deleted { existed: true } => Ok(done(status(&key, "deleted"), &written)),
                CommandResult::Deleted { existed: false } => Ok(done(missing(), &written)),
                _ => Err(store::refused(&key, &written)),
            }
        }
        _ => Err(Problem::method(&call.method, "GET, HEAD, PUT, DELETE, OPTIONS")),
    }
}

/// The key in the path, and by when the request is to be answered.
fn named(call: &RequestContext, tail: &str) -> Result<(String, Deadline), Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    Ok((key(call, tail)?, deadline))
}

fn key(call: &RequestContext, tail: &str) -> Result<String, Problem> {
    query::key_in_path(tail.strip_suffix('/').unwrap_or(tail), call.context.options.key_bytes)
}

async fn read(call: &RequestContext, tail: &str) -> Result<(String, Fetched), Problem> {
    let [one, two, three] = FRESH;
    let [timeout, one, two, three] = query::parameters(&call.query, [TIMEOUT, one, two, three])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    let fresh = query::freshness([one, two, three])?;
    let key = key(call, tail)?;
    let fetched = call.context.read(key.clone().into_bytes(), fresh, deadline).await?;
    Ok((key, fetched))
}

/// A write that changed the key; one whose condition was not true is a problem.
async fn write(call: &mut RequestContext, tail: &str) -> Result<(String, Body, Value, Written), Problem> {
    let (key, deadline) = named(call, tail)?;
    let condition = conditions::of_write(call)?;
    let body = call.body(deadline).await?;
    let [value, value_base64, content_type] = body::members(&body.bytes, ["value", "value_base64", "content_type"])?;
    if let Some(other) = value.map(|value| value.get()).filter(|text| !text.starts_with('"')) {
        return Err(Problem::body(format!("member `value` must be a string here, not {}", clip(other))));
    }
    let value = content::from_members(value, value_base64, content_type, call.context.options.value_bytes)?;
    let put = Put { value: value.clone(), condition, ttl: None };
    let written = store::persist(call, &body.bytes, &key, put, deadline).await?;
    Ok((key, body, value, written))
}

/// The answer to a read, its object not ended yet.
fn shown(call: &RequestContext, mut body: Vec<u8>, fetched: &Fetched) -> Result<Response, Problem> {
    body.push(b'}');
    let share = call.share(body.len())?;
    let mut response = success::json_text(body, Some(share));
    if let Some(item) = &fetched.value {
        success::tag(&mut response, item.version);
    }
    success::mark(&mut response, fetched.index, fetched.term);
    Ok(response)
}

fn status(key: &str, status: &str) -> Response {
    success::json(&serde_json::json!({ "key": key, "status": status }))
}

fn missing() -> Response {
    let mut response = success::json(&serde_json::json!({ "error": "key not found" }));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn done(mut response: Response, written: &Written) -> Response {
    success::mark_written(&mut response, written);
    response
}
