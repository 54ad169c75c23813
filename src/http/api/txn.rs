//! `POST /txn`: conditions on some keys, and changes of others, in one step.
//!
//! Why: with it clients build counters, locks, queues and indexes that hold whatever fails in between.
//!
//! Laws: the whole request is one command, so either all of it happens at one index or none of it. What is wrong with it
//! is told with its place, such as `then[3]`.
//!
//! Not here: what a transaction does ([`crate::model::Txn`]).

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::store;
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::content;
use crate::http::request::context::RequestContext;
use crate::http::request::query;
use crate::http::request::query::TIMEOUT;
use crate::http::request::ttl;
use crate::http::response::item_json;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::validate::TXN_PARTS;
use crate::model::{
    Check, Command, CommandResult, Condition, Limits, OpResult, Operation, TXN_BYTES, Test, Txn, Written,
};

const APPLIED: &str = "success applying transaction";

/// Answers `/txn`.
pub(crate) async fn handle(mut call: RequestContext) -> Result<Response, Problem> {
    call.takes_post()?;
    let [timeout] = query::parameters(&call.query, [TIMEOUT])?;
    let deadline = query::deadline(timeout.as_deref(), call.context.options.request_timeout, call.arrived)?;
    conditions::none(&call)?;
    let body = call.body(deadline).await?;
    let limits = call.context.options.limits();
    let txn = parsed(&body.bytes, limits)?;
    let keys = [&txn.then, &txn.otherwise]
        .map(|branch| branch.iter().map(|operation| operation.key().clone()).collect::<Vec<_>>());
    let share = call.share_for_transaction(most_read(&txn, limits), deadline).await?;
    let written = store::write(&call, &body.bytes, Command::Txn(txn), deadline).await?;
    let mut response = match &written.outcome {
        CommandResult::Txn { succeeded, results } => {
            let keys = &keys[usize::from(!succeeded)];
            let body = shown(*succeeded, keys, results, &written)?;
            let share = share.map(|mut share| {
                // What is there already cannot be refused for its size.
                share.resize(body.len());
                share
            });
            success::json_text(body, share)
        }
        CommandResult::Truncated { version } => success::truncated(APPLIED, *version),
        CommandResult::TooLarge => {
            let detail =
                format!("the transaction would read, replace or remove over {TXN_BYTES} bytes of stored values");
            return Err(Problem::too_large(detail).decided(&written));
        }
        _ => return Err(Problem::internal()),
    };
    success::mark_written(&mut response, &written);
    Ok(response)
}

/// How many bytes of values it reads at most.
fn most_read(txn: &Txn, limits: Limits) -> usize {
    let gets = |branch: &[Operation]| branch.iter().filter(|one| matches!(one, Operation::Get { .. })).count();
    (gets(&txn.then).max(gets(&txn.otherwise)) * limits.value_bytes).min(TXN_BYTES)
}

/// The transaction that a body describes.
pub(crate) fn parsed(body: &[u8], limits: Limits) -> Result<Txn, Problem> {
    let [checks, then, otherwise] = body::members(body, ["if", "then", "else"])?;
    let then = Some(body::required(then, "then")?);
    Ok(Txn {
        checks: each(checks, "if", |text| check(text, limits))?,
        then: branch(then, "then", limits)?,
        otherwise: branch(otherwise, "else", limits)?,
    })
}

/// The elements of a list, each read by `read`; an empty list where there is none.
fn each<T>(
    member: Option<&RawValue>,
    name: &str,
    read: impl Fn(&RawValue) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let Some(member) = member else { return Ok(Vec::new()) };
    let elements: Vec<&RawValue> = serde_json::from_str(member.get())
        .map_err(|_| Problem::body(format!("member `{name}` must be a list, not {}", clip(member.get()))))?;
    if elements.len() > TXN_PARTS {
        let count = elements.len();
        return Err(Problem::body(format!(
            "member `{name}` has {count} elements, over the {TXN_PARTS} that it may have"
        )));
    }
    let place = |at| move |problem: Problem| problem.within(&format!("`{name}[{at}]`"));
    elements.into_iter().enumerate().map(|(at, element)| read(element).map_err(place(at))).collect()
}

fn branch(member: Option<&RawValue>, name: &str, limits: Limits) -> Result<Vec<Operation>, Problem> {
    let operations = each(member, name, |text| operation(text, limits))?;
    let mut written = BTreeSet::new();
    for operation in &operations {
        if !matches!(operation, Operation::Get { .. }) && !written.insert(operation.key()) {
            let key = String::from_utf8_lossy(operation.key());
            return Err(Problem::body(format!("member `{name}` writes key `{}` more than once", clip(&key))));
        }
    }
    Ok(operations)
}

fn check(text: &RawValue, limits: Limits) -> Result<Check, Problem> {
    let names = ["key", "version", "exists", "value", "value_base64", "content_type"];
    let [key, version, exists, value, value_base64, content_type] = body::members(text.get().as_bytes(), names)?;
    let key = key_of(key, limits)?;
    let given = [version, exists, value, value_base64].iter().flatten().count();
    if given != 1 {
        return Err(Problem::body("exactly one of the members `version`, `exists` and `value` must be given"));
    }
    if content_type.is_some() && value_base64.is_none() {
        return Err(Problem::body("member `content_type` goes with `value_base64` only"));
    }
    let test = match (version, exists) {
        (Some(version), _) => Test::Is(conditions::version_of(version, "version")?),
        (None, Some(_)) => Test::Is(if body::flag(exists, "exists")? { Condition::Exists } else { Condition::Absent }),
        (None, None) => {
            Test::Holds(content::from_members(value, value_base64, content_type, limits.value_bytes)?.bytes)
        }
    };
    Ok(Check { key, test })
}

fn operation(text: &RawValue, limits: Limits) -> Result<Operation, Problem> {
    let names = ["op", "key", "value", "value_base64", "content_type", "ttl"];
    let [op, key, value, value_base64, content_type, ttl] = body::members(text.get().as_bytes(), names)?;
    let op = body::string(op, "op")?;
    let key = key_of(key, limits)?;
    if op == "put" {
        let value = content::from_members(value, value_base64, content_type, limits.value_bytes)?;
        let ttl = ttl::of_member(ttl)?;
        return Ok(Operation::Put { key, value, ttl });
    }
    for (name, member) in
        [("value", value), ("value_base64", value_base64), ("content_type", content_type), ("ttl", ttl)]
    {
        if member.is_some() {
            return Err(Problem::body(format!("member `{name}` goes with op `put` only")));
        }
    }
    match op.as_str() {
        "delete" => Ok(Operation::Delete { key }),
        "get" => Ok(Operation::Get { key }),
        _ => Err(Problem::body(format!("member `op` must be put, delete or get, not `{}`", clip(&op)))),
    }
}

fn key_of(member: Option<&RawValue>, limits: Limits) -> Result<Bytes, Problem> {
    let key = body::string(member, "key")?;
    query::check_key(&key, limits.key_bytes)?;
    Ok(key.into())
}

fn shown(succeeded: bool, keys: &[Bytes], results: &[OpResult], written: &Written) -> Result<Vec<u8>, Problem> {
    let index = written.index;
    if keys.len() != results.len() {
        return Err(Problem::internal());
    }
    let mut out = format!(r#"{{"data":{{"succeeded":{succeeded},"results":["#).into_bytes();
    for (at, (key, done)) in keys.iter().zip(results).enumerate() {
        let key = std::str::from_utf8(key).map_err(|_| Problem::internal())?;
        if at > 0 {
            out.push(b',');
        }
        let rest = match done {
            OpResult::Got(Some(item)) => {
                item_json::item(&mut out, key, item, written.clock);
                continue;
            }
            OpResult::Got(None) => r#""value":null,"version":0"#.to_owned(),
            OpResult::Put => format!(r#""version":{index}"#),
            OpResult::Deleted { existed } => format!(r#""deleted":{existed}"#),
        };
        out.extend_from_slice(br#"{"key":"#);
        item_json::string(&mut out, key);
        out.extend_from_slice(format!(",{rest}}}").as_bytes());
    }
    out.extend_from_slice(format!(r#"],"index":{index}}},"message":"{APPLIED}"}}"#).as_bytes());
    Ok(out)
}
