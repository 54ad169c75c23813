//! Conditional requests: `If-Match`, `If-None-Match` and `if_version`.
//!
//! Why: compare-and-set is what HTTP's conditional requests are for, and the version of a key is its entity tag.
//!
//! | request | condition of the write |
//! |---|---|
//! | `If-Match: "7"`, or `"if_version": 7` | the key has version 7 |
//! | `If-Match: *` | the key exists |
//! | `If-None-Match: *`, or `"if_version": 0` | the key does not exist |
//! | `If-Match: W/"7"` | never true (412): a weak tag does not match in a write |
//!
//! Invariants: a condition that is not understood is refused, because ignoring it would make an unconditional write of a
//! conditional one. A request has at most one condition. A write's condition is decided when its entry is applied; only
//! that of a read is decided here.
//!
//! See also: the conditions themselves ([`crate::model::Condition`]).

use serde_json::value::RawValue;
use warp::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::handler_context::RequestContext;
use crate::http::response::problem::{Problem, clip};
use crate::model::Condition;

/// Conditions of HTTP that huskv does not support, each with what to use instead.
const UNSUPPORTED: [(HeaderName, &str); 2] = [
    (HeaderName::from_static("if-unmodified-since"), "use If-Match"),
    (HeaderName::from_static("if-range"), "use If-Match"),
];

/// Parses the condition in the headers of a write.
pub(crate) fn of_write(request: &RequestContext) -> Result<Condition, Problem> {
    for (name, instead) in &UNSUPPORTED {
        if request.header(name)?.is_some() {
            return Err(Problem::header(format!("header `{name}` is not supported; {instead}")));
        }
    }
    match (request.header(&IF_MATCH)?, request.header(&IF_NONE_MATCH)?) {
        (None, None) => Ok(Condition::Always),
        (Some(_), Some(_)) => Err(Problem::header("headers `If-Match` and `If-None-Match` exclude each other")),
        (Some("*"), None) => Ok(Condition::Exists),
        (None, Some("*")) => Ok(Condition::Absent),
        (Some(tag), None) if is_weak(tag) => Err(Problem::weak_tag(tag)),
        (Some(tag), None) => version(tag).map(Condition::Version).ok_or_else(|| {
            let tag = clip(tag);
            Problem::header(format!("header `If-Match` must be * or one ETag such as \"7\", not `{tag}`"))
        }),
        (None, Some(tag)) => {
            let tag = clip(tag);
            Err(Problem::header(format!("header `If-None-Match` of a write must be *, not `{tag}`")))
        }
    }
}

/// Refuses a condition in the headers, on a route that takes none.
pub(crate) fn none(request: &RequestContext) -> Result<(), Problem> {
    match of_write(request)? {
        Condition::Always => Ok(()),
        _ => Err(Problem::header("headers `If-Match` and `If-None-Match` go with a write of a single key")),
    }
}

/// Parses the condition in the headers of a write, or in the member `if_version` of its body.
pub(crate) fn of_write_or_body(request: &RequestContext, if_version: Option<&RawValue>) -> Result<Condition, Problem> {
    let of_headers = of_write(request)?;
    match if_version {
        None => Ok(of_headers),
        // Refused even where both are the same condition: which one is meant when they differ is no question to guess at.
        Some(_) if of_headers != Condition::Always => {
            Err(Problem::header("member `if_version` and a condition in the headers exclude each other"))
        }
        Some(member) => version_of(member, "if_version"),
    }
}

/// Parses a member with a version as a condition; 0 is a key that must not exist.
pub(crate) fn version_of(member: &RawValue, name: &str) -> Result<Condition, Problem> {
    let text = member.get();
    // `-0`, `7.0` and `7e0` do not parse. `+7` would, but is no JSON.
    match text.parse::<u64>() {
        Ok(0) => Ok(Condition::Absent),
        Ok(version) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Condition::Version(version)),
        _ => Err(Problem::body(format!("member `{name}` must be a whole number from 0 on, not {}", clip(text)))),
    }
}

/// Checks that the headers of a read have no condition but `If-None-Match`.
pub(crate) fn of_read(request: &RequestContext) -> Result<(), Problem> {
    if request.header(&IF_MATCH)?.is_some() {
        return Err(Problem::header("header `If-Match` goes with a write; a read takes `If-None-Match`"));
    }
    is_known(request, 0).map(drop)
}

/// Whether the `If-None-Match` of a read names the version `found`, so that the response is a 304.
pub(crate) fn is_known(request: &RequestContext, found: u64) -> Result<bool, Problem> {
    let Some(tags) = request.header(&IF_NONE_MATCH)? else { return Ok(false) };
    if tags == "*" {
        return Ok(true);
    }
    // Each tag is checked even after a match: a malformed list is refused whatever the key's version is.
    let mut known = false;
    for tag in tags.split(',').map(str::trim) {
        // `If-None-Match` compares weakly (RFC 9110, section 13.1.2): a cache may have made the tag weak.
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        if tag.len() < 2 || !tag.starts_with('"') || !tag.ends_with('"') {
            let tag = clip(tag);
            return Err(Problem::header(format!(
                "header `If-None-Match` must be * or ETags such as \"7\", not `{tag}`"
            )));
        }
        known |= version(tag) == Some(found);
    }
    Ok(known)
}

/// Whether this is one weak entity tag, `W/"..."`.
fn is_weak(tag: &str) -> bool {
    let tag = tag.strip_prefix("W/\"").and_then(|rest| rest.strip_suffix('"'));
    tag.is_some_and(|tag| !tag.contains('"'))
}

/// Parses an entity tag as huskv writes it, `"7"`; a tag of another form is that of no version.
fn version(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_a_version_in_quotes() {
        assert_eq!(version("\"7\""), Some(7));
        for tag in
            ["7", "\"7", "\"\"", "\"0\"", "\"07\"", "\"+7\"", "W/\"7\"", "\"7\", \"8\"", "\"99999999999999999999\""]
        {
            assert_eq!(version(tag), None, "{tag}");
        }
        assert!(is_weak("W/\"7\"") && is_weak("W/\"7-gzip\""));
        for tag in ["\"7\"", "W/7", "w/\"7\"", "W/\"7\", \"8\""] {
            assert!(!is_weak(tag), "{tag}");
        }
    }
}
