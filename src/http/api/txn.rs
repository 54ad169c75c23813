//! `POST /txn`: a transaction of conditions and operations over several keys.
//!
//! Why: clients build counters, locks, queues and secondary indexes from it, which stay consistent through failures.
//!
//! Invariants: a transaction is one command in one log entry: all of it is applied at one index, or none of it. An error
//! names the element that is wrong, such as `then[3]`.
//!
//! Example: a counter `n` is at version 41. Two clients send `if n at version 41, then put n`. The first entry, 42, puts
//! `n` at version 42; the second, 43, finds version 42, answers `"succeeded": false` and changes nothing. The version in the
//! condition is the number in the ETag of a read of `n`.
//!
//! See also: `model::decide` (evaluation), [`crate::model::Txn`].

use std::collections::BTreeSet;

use bytes::Bytes;
use serde_json::value::RawValue;
use warp::reply::Response;

use super::deadline;
use super::propose::propose;
use crate::http::request::body;
use crate::http::request::conditions;
use crate::http::request::content;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::ttl;
use crate::http::request::uri;
use crate::http::response::item_json;
use crate::http::response::problem::{Problem, clip};
use crate::http::response::success;
use crate::model::validate::TXN_PARTS;
use crate::model::{
    Check, Command, CommandResult, Condition, Limits, OpResult, Operation, TXN_BYTES, Test, Txn, Written,
};

const APPLIED: &str = "success applying transaction";

/// Serves `POST /txn`.
pub(crate) async fn handle(mut request: RequestContext) -> Result<Response, Problem> {
    request.takes_post()?;
    let deadline = deadline(&request)?;
    // A transaction has conditions of its own: an `If-Match` would name no key, so it is refused and not ignored.
    conditions::none(&request)?;
    let body = request.body(deadline).await?;
    let limits = request.context.options.limits();
    let txn = parse(&body.bytes, limits)?;
    // Results come back in the order of the operations and without keys, so the keys of both branches are remembered.
    let keys = [&txn.then, &txn.otherwise]
        .map(|branch| branch.iter().map(|operation| operation.key().clone()).collect::<Vec<_>>());
    // The result may be 16 MiB. Its memory is reserved before the proposal: after it, an answer without the values would
    // leave the client with a transaction that was applied and results that are lost.
    let share = request.share_for_transaction(max_read_bytes(&txn, limits), deadline).await?;
    let written = propose(&request, &body.bytes, Command::Txn(txn), deadline).await?;
    let mut response = match &written.outcome {
        CommandResult::Txn { succeeded, results } => {
            let keys = &keys[usize::from(!succeeded)];
            let body = render(*succeeded, keys, results, &written)?;
            let share = share.map(|mut share| {
                // The result is in memory by now, so its real size is charged, even over the budget.
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
    success::set_write_headers(&mut response, &written);
    Ok(response)
}

/// Returns the maximum bytes of values that a transaction reads: only one of its branches runs.
fn max_read_bytes(txn: &Txn, limits: Limits) -> usize {
    let gets = |branch: &[Operation]| branch.iter().filter(|one| matches!(one, Operation::Get { .. })).count();
    (gets(&txn.then).max(gets(&txn.otherwise)) * limits.value_bytes).min(TXN_BYTES)
}

/// Parses the body of a transaction.
pub(crate) fn parse(body: &[u8], limits: Limits) -> Result<Txn, Problem> {
    let [checks, then, otherwise] = body::members(body, ["if", "then", "else"])?;
    let then = Some(body::required(then, "then")?);
    Ok(Txn {
        checks: parse_list(checks, "if", |text| parse_check(text, limits))?,
        then: parse_branch(then, "then", limits)?,
        otherwise: parse_branch(otherwise, "else", limits)?,
    })
}

/// Parses each element of a list member; a missing member is an empty list.
fn parse_list<T>(
    member: Option<&RawValue>,
    name: &str,
    parse: impl Fn(&RawValue) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let Some(member) = member else { return Ok(Vec::new()) };
    let elements: Vec<&RawValue> = serde_json::from_str(member.get())
        .map_err(|_| Problem::body(format!("member `{name}` must be a list, not {}", clip(member.get()))))?;
    // Counted before any element is parsed: a body of 2 MiB holds hundreds of thousands of `{}`.
    if elements.len() > TXN_PARTS {
        let count = elements.len();
        return Err(Problem::body(format!(
            "member `{name}` has {count} elements, over the {TXN_PARTS} that it may have"
        )));
    }
    // An error names the element: `if[2]: the key is empty`.
    let place = |at| move |problem: Problem| problem.within(&format!("`{name}[{at}]`"));
    elements.into_iter().enumerate().map(|(at, element)| parse(element).map_err(place(at))).collect()
}

/// Parses the operations of a branch. A branch writes a key at most once, since a second write would hide the first one.
fn parse_branch(member: Option<&RawValue>, name: &str, limits: Limits) -> Result<Vec<Operation>, Problem> {
    let operations = parse_list(member, name, |text| parse_operation(text, limits))?;
    let mut written = BTreeSet::new();
    for operation in &operations {
        if !matches!(operation, Operation::Get { .. }) && !written.insert(operation.key()) {
            let key = String::from_utf8_lossy(operation.key());
            return Err(Problem::body(format!("member `{name}` writes key `{}` more than once", clip(&key))));
        }
    }
    Ok(operations)
}

/// Parses a condition of `if`.
fn parse_check(text: &RawValue, limits: Limits) -> Result<Check, Problem> {
    let names = ["key", "version", "exists", "value", "value_base64", "content_type"];
    let [key, version, exists, value, value_base64, content_type] = body::members(text.get().as_bytes(), names)?;
    let key = parse_key(key, limits)?;
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
        // Compares with the bytes that a put of this value would store: a JSON string is its text without quotes.
        (None, None) => {
            Test::Holds(content::from_members(value, value_base64, content_type, limits.value_bytes)?.bytes)
        }
    };
    Ok(Check { key, test })
}

/// Parses an operation of `then` or `else`.
fn parse_operation(text: &RawValue, limits: Limits) -> Result<Operation, Problem> {
    let names = ["op", "key", "value", "value_base64", "content_type", "ttl"];
    let [op, key, value, value_base64, content_type, ttl] = body::members(text.get().as_bytes(), names)?;
    let op = body::string(op, "op")?;
    let key = parse_key(key, limits)?;
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

fn parse_key(member: Option<&RawValue>, limits: Limits) -> Result<Bytes, Problem> {
    let key = body::string(member, "key")?;
    uri::check_key(&key, limits.key_bytes)?;
    Ok(key.into())
}

/// Renders the result; `keys` are those of the operations of the branch that ran.
fn render(succeeded: bool, keys: &[Bytes], results: &[OpResult], written: &Written) -> Result<Vec<u8>, Problem> {
    let index = written.index;
    // Both come from one branch. A difference would attach results to the wrong keys.
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
