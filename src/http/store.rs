//! The data routes: `/store` and `/store/KEY`.
//!
//! Why: the store is what people come for; these two handlers are all of it.
//!
//! Laws: a value is the JSON text that was sent, without the white space around it. A key in a path may contain `/`;
//! one slash at the end belongs to the route, so a key that ends in one is written with `%2F`.
//!
//! Not here: which entry wins (`model::decide`), and when a read is fresh (`consensus::reads`).

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use warp::http::Method;
use warp::reply::Response;

use super::answers;
use super::body;
use super::door::Call;
use super::errors::Problem;
use super::query::{self, TIMEOUT};
use crate::model::{Answer, Command, Outcome, Request};

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

/// Answers `/store` (an empty tail) and `/store/KEY`.
pub(super) async fn handle(call: Call, tail: &str) -> Result<Response, Problem> {
    let key = tail.strip_suffix('/').unwrap_or(tail);
    if key.is_empty() {
        call.takes(&Method::POST, "POST")?;
        return put(call).await;
    }
    match call.method {
        Method::GET => get(&call, key).await,
        Method::DELETE => delete(&call, key).await,
        _ => Err(Problem::method(&call.method, "GET, DELETE")),
    }
}

async fn put(mut call: Call) -> Result<Response, Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.door.options.request_timeout, call.arrived)?;
    let body = call.body(deadline).await?;
    let (key, value) = parsed(&body.bytes, call.door.options.key_bytes, call.door.options.value_bytes)?;
    let command = Command::Put { key: Bytes::copy_from_slice(key.as_bytes()), value: value.clone() };
    let Answer::Written { index, term, outcome: Outcome::Put } =
        call.door.request(Request::Write(command), deadline).await?
    else {
        return Err(Problem::internal());
    };
    let mut response = answers::value("success persisting data", &key, &value, index);
    answers::mark(&mut response, index, term);
    Ok(response)
}

async fn get(call: &Call, raw_key: &str) -> Result<Response, Problem> {
    let [timeout, consistency] = query::parameters(&call.query, [TIMEOUT, "consistency"])?;
    let deadline = query::deadline(timeout.as_deref(), call.door.options.request_timeout, call.arrived)?;
    let consistency = query::consistency(consistency.as_deref())?;
    let key = query::key_in_path(raw_key, call.door.options.key_bytes)?;
    let fetched = call.door.read(key.clone().into_bytes(), consistency, deadline).await?;
    let mut response = match fetched.value {
        Some(found) => answers::value("success fetching data", &key, &found.value, found.version),
        None => Problem::no_key(&key).respond(&call.method),
    };
    answers::mark(&mut response, fetched.index, fetched.term);
    Ok(response)
}

async fn delete(call: &Call, raw_key: &str) -> Result<Response, Problem> {
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.door.options.request_timeout, call.arrived)?;
    let key = query::key_in_path(raw_key, call.door.options.key_bytes)?;
    let command = Command::Delete { key: Bytes::copy_from_slice(key.as_bytes()) };
    let Answer::Written { index, term, outcome: Outcome::Deleted { existed } } =
        call.door.request(Request::Write(command), deadline).await?
    else {
        return Err(Problem::internal());
    };
    let data = Deleted { key: &key, value: (), deleted: existed };
    let mut response = answers::json(&Deletion { data, message: "success removing data" });
    answers::mark(&mut response, index, term);
    Ok(response)
}

/// The key and the value in the body of a POST.
pub(super) fn parsed(body: &[u8], key_bytes: usize, value_bytes: usize) -> Result<(String, Bytes), Problem> {
    let [key, value] = body::members(body, ["key", "value"])?;
    let key = body::string(key, "key")?;
    query::check_key(&key, key_bytes)?;
    Ok((key, checked_value(body::required(value, "value")?, value_bytes)?))
}

fn checked_value(value: &RawValue, limit: usize) -> Result<Bytes, Problem> {
    let text = value.get();
    if text.len() > limit {
        let detail = format!("the value has {} bytes, over limits.value_bytes ({limit})", text.len());
        return Err(Problem::value_too_large(detail));
    }
    Ok(Bytes::copy_from_slice(text.as_bytes()))
}
