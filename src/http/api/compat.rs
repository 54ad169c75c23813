//! Compatibility routes: `/keys/KEY/` of raft-kv and `/kv/KEY` of distributed-raft-kv-store.
//!
//! Why: scripts written for these stores keep working.
//!
//! Invariants: there is one keyspace: a key written here is read at `/store`, and the other way round. A success and a missing
//! key have the form of the other store; every other failure is a problem as on all routes. A value is a string, or bytes in
//! `value_base64`.
//!
//! See also: [`super::store`], [`super::health`] (the `/health` of the second store is part of it).

use bytes::Bytes;
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::propose::propose;
use super::store::{self, Put};
use super::{deadline, deadline_after};
use crate::consensus::Fetched;
use crate::http::request::body;
use crate::http::request::body::Body;
use crate::http::request::conditions;
use crate::http::request::content;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri;
use crate::http::request::uri::{Deadline, FRESH, TIMEOUT};
use crate::http::response::item_json;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::{Command, CommandResult, Value, Written};

/// Serves `/keys/KEY/`. A missing key has the empty value, as in raft-kv.
pub(crate) async fn keys(mut request: RequestContext) -> Result<Response, Problem> {
    match request.method {
        Method::GET | Method::HEAD => {
            let (_, fetched) = read(&request).await?;
            let mut body = br#"{"value":"#.to_vec();
            match &fetched.value {
                Some(item) => item_json::value(&mut body, &item.value),
                None => body.extend_from_slice(br#""""#),
            }
            read_response(&request, body, &fetched)
        }
        Method::POST => {
            let (_, body_read, value, written) = write(&mut request).await?;
            let mut body = br#"{"value":"#.to_vec();
            item_json::value(&mut body, &value);
            body.push(b'}');
            let share = body_read.into_share(body.len());
            Ok(with_write_headers(success::json_text(body, share), &written))
        }
        _ => Err(Problem::method(&request.method, "GET, HEAD, POST, OPTIONS")),
    }
}

/// Serves `/kv/KEY`. A missing key is 404 with `{"error": "key not found"}`.
pub(crate) async fn kv(mut request: RequestContext) -> Result<Response, Problem> {
    match request.method {
        Method::GET | Method::HEAD => {
            let (key, fetched) = read(&request).await?;
            let Some(item) = &fetched.value else {
                let mut response = key_not_found();
                success::set_raft_headers(&mut response, fetched.index, fetched.term);
                return Ok(response);
            };
            let mut body = br#"{"key":"#.to_vec();
            item_json::string(&mut body, &key);
            body.extend_from_slice(br#","value":"#);
            item_json::value(&mut body, &item.value);
            read_response(&request, body, &fetched)
        }
        Method::PUT => {
            let (key, _, _, written) = write(&mut request).await?;
            // 201 for an existing key as well: this form has one status for both.
            let mut response = status(&key, "created");
            *response.status_mut() = StatusCode::CREATED;
            Ok(with_write_headers(response, &written))
        }
        Method::DELETE => {
            let (key, deadline) = key_and_deadline(&request)?;
            let condition = conditions::of_write(&request)?;
            let command = Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()), condition };
            let written = propose(&request, b"", command, deadline).await?;
            match written.outcome {
                CommandResult::Deleted { existed: true } => Ok(with_write_headers(status(&key, "deleted"), &written)),
                CommandResult::Deleted { existed: false } => Ok(with_write_headers(key_not_found(), &written)),
                _ => Err(store::no_effect(&request, &key, &written)),
            }
        }
        _ => Err(Problem::method(&request.method, "GET, HEAD, PUT, DELETE, OPTIONS")),
    }
}

/// Returns the key in the path and the deadline of the request.
fn key_and_deadline(request: &RequestContext) -> Result<(String, Deadline), Problem> {
    let deadline = deadline(request)?;
    Ok((key(request)?, deadline))
}

/// Parses the key in the path.
fn key(request: &RequestContext) -> Result<String, Problem> {
    let tail = request.tail();
    uri::key_in_path(tail.strip_suffix('/').unwrap_or(tail), request.context.options.key_bytes)
}

/// Reads the key in the path.
async fn read(request: &RequestContext) -> Result<(String, Fetched), Problem> {
    let [one, two, three] = FRESH;
    let [timeout, one, two, three] = uri::parameters(request.query(), [TIMEOUT, one, two, three])?;
    let deadline = deadline_after(request, timeout.as_deref())?;
    let fresh = uri::freshness([one, two, three])?;
    let key = key(request)?;
    let fetched = request.context.read(key.clone().into_bytes(), fresh, deadline).await?;
    Ok((key, fetched))
}

/// Puts the key in the path; a failed condition is a problem.
async fn write(request: &mut RequestContext) -> Result<(String, Body, Value, Written), Problem> {
    let (key, deadline) = key_and_deadline(request)?;
    let condition = conditions::of_write(request)?;
    let body = request.body(deadline).await?;
    let [value, value_base64, content_type] = body::members(&body.bytes, ["value", "value_base64", "content_type"])?;
    // Both stores have strings only, so a number here is more likely a mistake than a JSON value.
    if let Some(other) = value.map(|value| value.get()).filter(|text| !text.starts_with('"')) {
        return Err(Problem::body(format!("member `value` must be a string here, not {}", clip(other))));
    }
    let value = content::from_members(value, value_base64, content_type, request.context.options.value_bytes)?;
    let put = Put { value: value.clone(), condition, ttl: None };
    let written = store::persist(request, &body.bytes, &key, put, deadline).await?;
    Ok((key, body, value, written))
}

/// Closes the JSON object in `body` and returns it as the answer to a read.
fn read_response(request: &RequestContext, mut body: Vec<u8>, fetched: &Fetched) -> Result<Response, Problem> {
    body.push(b'}');
    let share = request.share(body.len())?;
    let mut response = success::json_text(body, Some(share));
    if let Some(item) = &fetched.value {
        success::set_etag(&mut response, item.version);
    }
    success::set_raft_headers(&mut response, fetched.index, fetched.term);
    Ok(response)
}

fn status(key: &str, status: &str) -> Response {
    success::json(&serde_json::json!({ "key": key, "status": status }))
}

fn key_not_found() -> Response {
    let mut response = success::json(&serde_json::json!({ "error": "key not found" }));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

/// Adds the headers of a write.
fn with_write_headers(mut response: Response, written: &Written) -> Response {
    success::set_write_headers(&mut response, written);
    response
}
