//! The routes of a single key: `POST /store`, and GET, PUT and DELETE of `/store/KEY`.
//!
//! Invariants: a key in a path may contain `/`. One trailing slash belongs to the route, so a key that ends in one is sent
//! with `%2F`. A value is stored and returned byte for byte.
//!
//! See also: [`super::range_and_prefix_delete`] (lists and deletes by prefix), `model::decide` (conditions), `consensus::reads` (freshness of
//! reads), [`crate::http::response::item_json`] (JSON form of a value).

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use warp::http::header::{ACCEPT_RANGES, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use warp::http::{Method, StatusCode};
use warp::reply::Response;

use super::propose::propose;
use super::{deadline, deadline_after, range_and_prefix_delete};
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::content;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::media_type;
use crate::http::request::ttl;
use crate::http::request::uri;
use crate::http::request::uri::{Deadline, FRESH, TIMEOUT};
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::http::server::fair_memory::Share;
use crate::model::{Command, CommandResult, Condition, Ttl, Value, Written};

const PERSISTED: &str = "success persisting data";
const FETCHED: &str = "success fetching data";

/// The body of the answer to DELETE.
#[derive(Serialize)]
struct DeleteBody<'a> {
    data: Deleted<'a>,
    message: &'static str,
}

#[derive(Serialize)]
struct Deleted<'a> {
    key: &'a str,
    /// Always null: clients of the Go tutorial read this member.
    value: (),
    deleted: bool,
}

/// The body of the answer to PUT, without the value that the client has just sent.
#[derive(Serialize)]
struct PutBody<'a> {
    data: Persisted<'a>,
    message: &'static str,
}

#[derive(Serialize)]
struct Persisted<'a> {
    key: &'a str,
    version: u64,
}

/// Serves `/store` (an empty tail) and `/store/KEY`.
pub(crate) async fn handle(request: RequestContext) -> Result<Response, Problem> {
    // Each in a box of its own size: the future of a request is moved several times on its way to hyper, so it has to be small.
    if raw_key(&request).is_empty() {
        return match request.method {
            Method::POST => Box::pin(post(request)).await,
            Method::GET | Method::HEAD => Box::pin(range_and_prefix_delete::list(&request)).await,
            Method::DELETE => Box::pin(range_and_prefix_delete::delete_prefix(&request)).await,
            _ => Err(Problem::method(&request.method, "GET, HEAD, POST, DELETE, OPTIONS")),
        };
    }
    match request.method {
        Method::GET | Method::HEAD => Box::pin(get(&request)).await,
        Method::PUT => Box::pin(put(request)).await,
        Method::DELETE => Box::pin(delete(&request)).await,
        _ => Err(Problem::method(&request.method, "GET, HEAD, PUT, DELETE, OPTIONS")),
    }
}

/// The key in the path, not decoded; empty where there is none.
fn raw_key(request: &RequestContext) -> &str {
    let tail = request.tail();
    tail.strip_suffix('/').unwrap_or(tail)
}

async fn post(mut request: RequestContext) -> Result<Response, Problem> {
    let deadline = deadline(&request)?;
    let body = request.body(deadline).await?;
    let options = &request.context.options;
    let PostBody { key, value, if_version, ttl } = parse(&body.bytes, options.key_bytes, options.value_bytes)?;
    let condition = conditions::of_write_or_body(&request, if_version)?;
    let put = Put { value: value.clone(), condition, ttl };
    let written = persist(&request, &body.bytes, &key, put, deadline).await?;
    let text = success::put_body(PERSISTED, &key, &value, written.index);
    // The answer repeats the value. The body's share of memory is resized for it, so a second reservation cannot fail after
    // the write.
    let share = body.into_share(text.len());
    let mut response = success::json_text(text, share);
    success::set_etag(&mut response, written.index);
    success::set_write_headers(&mut response, &written);
    Ok(response)
}

async fn put(mut request: RequestContext) -> Result<Response, Problem> {
    let [timeout, ttl, empty] = uri::parameters(request.query(), [TIMEOUT, "ttl", "empty"])?;
    let empty = uri::flag(empty.as_deref(), "empty")?;
    let ttl = ttl::of_query(ttl.as_deref())?;
    let deadline = deadline_after(&request, timeout.as_deref())?;
    let key = uri::key_in_path(raw_key(&request), request.context.options.key_bytes)?;
    // Key and condition are checked before the body is read, which may be megabytes.
    let condition = conditions::of_write(&request)?;
    let announced = request.header(&CONTENT_TYPE)?.map(str::to_owned);
    let body = request.raw_body(deadline).await?;
    let has_type = announced.as_deref().is_some_and(media_type::is_explicit);
    match (body.bytes.is_empty(), empty) {
        // `curl -d "$VALUE"` sends an empty body where the variable is unset, which must not erase the value.
        (true, false) if !has_type => {
            return Err(Problem::body("the body is empty; if that is the value, say so with ?empty or a Content-Type"));
        }
        (false, true) => return Err(Problem::query("query parameter `empty` is given, but the body is not empty")),
        _ => {}
    }
    let value = content::from_body(body.bytes.clone(), announced.as_deref(), request.context.options.value_bytes)?;
    let written = persist(&request, &body.bytes, &key, Put { value, condition, ttl }, deadline).await?;
    let data = Persisted { key: &key, version: written.index };
    let mut response = success::json(&PutBody { data, message: PERSISTED });
    success::set_etag(&mut response, written.index);
    success::set_write_headers(&mut response, &written);
    Ok(response)
}

/// The parameters of a put, besides its key.
pub(crate) struct Put {
    pub(crate) value: Value,
    pub(crate) condition: Condition,
    pub(crate) ttl: Option<Ttl>,
}

/// Puts `key`; a failed condition is a problem.
pub(crate) async fn persist(
    request: &RequestContext,
    body: &[u8],
    key: &str,
    put: Put,
    deadline: Deadline,
) -> Result<Written, Problem> {
    let Put { value, condition, ttl } = put;
    let command = Command::Put { key: Bytes::copy_from_slice(key.as_bytes()), value, condition, ttl };
    let written = propose(request, body, command, deadline).await?;
    match written.outcome {
        CommandResult::Put { .. } => Ok(written),
        _ => Err(no_effect(request, key, &written)),
    }
}

/// Returns the problem of a write to one key that was applied without effect.
pub(crate) fn no_effect(request: &RequestContext, key: &str, written: &Written) -> Problem {
    match written.outcome {
        // Neither version nor ETag: whether the key exists is for tokens that may read it.
        CommandResult::ConditionFailed { .. } if !request.caller.may_read(key) => {
            Problem::condition_unread().decided(written)
        }
        CommandResult::ConditionFailed { version } => Problem::condition(key, version).decided(written),
        // Only a touch: a put creates the key, and a delete of a missing key is a success.
        CommandResult::NotFound => Problem::no_key(key).decided(written),
        _ => Problem::internal(),
    }
}

async fn get(request: &RequestContext) -> Result<Response, Problem> {
    let [consistency, max_stale, min_index] = FRESH;
    let names = [TIMEOUT, consistency, max_stale, min_index, "raw"];
    let [timeout, consistency, max_stale, min_index, raw] = uri::parameters(request.query(), names)?;
    let deadline = deadline_after(request, timeout.as_deref())?;
    let fresh = uri::freshness([consistency, max_stale, min_index])?;
    let raw = uri::flag(raw.as_deref(), "raw")?;
    let key = uri::key_in_path(raw_key(request), request.context.options.key_bytes)?;
    conditions::of_read(request)?;
    let fetched = request.context.read(key.clone().into_bytes(), fresh, deadline).await?;
    let mut response = match &fetched.value {
        Some(found) => {
            // Versions grow with every change of a key, so an equal ETag means that the client's copy is the current value.
            let mut response = if conditions::is_known(request, found.version)? {
                success::empty(StatusCode::NOT_MODIFIED)
            } else if raw {
                let share = request.share(found.value.bytes.len())?;
                raw_value(&found.value, share)
            } else {
                let body = success::item_body(FETCHED, &key, found, fetched.clock);
                let share = request.share(body.len())?;
                success::json_text(body, Some(share))
            };
            success::set_etag(&mut response, found.version);
            response
        }
        // Answered here and not as an error: a 404 is a result of this read and carries its index and term as well.
        None => Problem::no_key(&key).respond(&request.method),
    };
    success::set_raft_headers(&mut response, fetched.index, fetched.term);
    Ok(response)
}

/// Returns the bytes of a value. A browser must neither guess another type nor run a stored document as a page of this node.
fn raw_value(value: &Value, share: Share) -> Response {
    let mut response = Response::new(success::with_share(value.bytes.clone(), Some(share)).into());
    let headers = response.headers_mut();
    let fallback = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(&value.content_type).unwrap_or(fallback));
    // A server may ignore `Range` and answer with the whole value (RFC 9110, section 14.2).
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    response
}

async fn delete(request: &RequestContext) -> Result<Response, Problem> {
    let deadline = deadline(request)?;
    let key = uri::key_in_path(raw_key(request), request.context.options.key_bytes)?;
    let condition = conditions::of_write(request)?;
    let command = Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()), condition };
    let written = propose(request, b"", command, deadline).await?;
    let CommandResult::Deleted { existed: deleted } = written.outcome else {
        return Err(no_effect(request, &key, &written));
    };
    let data = Deleted { key: &key, value: (), deleted };
    let mut response = success::json(&DeleteBody { data, message: "success removing data" });
    success::set_write_headers(&mut response, &written);
    Ok(response)
}

/// The parsed body of a POST.
pub(crate) struct PostBody<'a> {
    key: String,
    value: Value,
    if_version: Option<&'a RawValue>,
    ttl: Option<Ttl>,
}

/// Parses the body of a POST.
pub(crate) fn parse(body: &[u8], key_bytes: usize, value_bytes: usize) -> Result<PostBody<'_>, Problem> {
    let names = ["key", "value", "value_base64", "content_type", "if_version", "ttl"];
    let [key, value, value_base64, content_type, if_version, ttl] = body::members(body, names)?;
    let key = body::string(key, "key")?;
    uri::check_key(&key, key_bytes)?;
    let value = content::from_members(value, value_base64, content_type, value_bytes)?;
    Ok(PostBody { key, value, if_version, ttl: ttl::of_member(ttl)? })
}
