//! Conditions: `If-Match`, `If-None-Match` and `if_version`.
//!
//! Why: HTTP has had conditional requests all along, and the version of a key is its entity tag.
//!
//! Laws: a condition that is not understood is refused, for ignoring it would turn a conditional write into an
//! unconditional one. There is at most one condition in a request. Whether it is true is decided where the write is
//! applied; only reads are judged here.
//!
//! Not here: the rule itself ([`crate::model::Condition`]).

use serde_json::value::RawValue;
use warp::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};

use super::context::RequestContext;
use crate::http::response::problem::{Problem, clip};
use crate::model::Condition;

/// Headers that say when a write may be done and that huskv could only ignore, each with what to use instead.
const UNKNOWN: [(HeaderName, &str); 2] = [
    (HeaderName::from_static("if-unmodified-since"), "use If-Match"),
    (HeaderName::from_static("if-range"), "use If-Match"),
];

/// The condition that the headers of a write name.
pub(crate) fn of_write(call: &RequestContext) -> Result<Condition, Problem> {
    for (name, instead) in &UNKNOWN {
        if call.header(name)?.is_some() {
            return Err(Problem::header(format!("header `{name}` is nothing that huskv can honour; {instead}")));
        }
    }
    match (call.header(&IF_MATCH)?, call.header(&IF_NONE_MATCH)?) {
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

/// That the headers of a write that knows no condition name none.
pub(crate) fn none(call: &RequestContext) -> Result<(), Problem> {
    match of_write(call)? {
        Condition::Always => Ok(()),
        _ => Err(Problem::header("headers `If-Match` and `If-None-Match` go with a write of a single key")),
    }
}

/// As [`of_write`], where the body may name the condition too, in its member `if_version`.
pub(crate) fn of_write_or_body(call: &RequestContext, if_version: Option<&RawValue>) -> Result<Condition, Problem> {
    let of_headers = of_write(call)?;
    match if_version {
        None => Ok(of_headers),
        Some(_) if of_headers != Condition::Always => {
            Err(Problem::header("member `if_version` and a condition in the headers exclude each other"))
        }
        Some(member) => version_of(member, "if_version"),
    }
}

/// The condition that a member with a version names: 0 is a key that must not exist.
pub(crate) fn version_of(member: &RawValue, name: &str) -> Result<Condition, Problem> {
    let text = member.get();
    match text.parse::<u64>() {
        Ok(0) => Ok(Condition::Absent),
        Ok(version) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(Condition::Version(version)),
        _ => Err(Problem::body(format!("member `{name}` must be a whole number from 0 on, not {}", clip(text)))),
    }
}

/// Whether the headers of a read name nothing but a condition that can be judged.
pub(crate) fn of_read(call: &RequestContext) -> Result<(), Problem> {
    if call.header(&IF_MATCH)?.is_some() {
        return Err(Problem::header("header `If-Match` goes with a write; a read takes `If-None-Match`"));
    }
    is_known(call, 0).map(drop)
}

/// Whether a reader that sent this `If-None-Match` has the version already.
pub(crate) fn is_known(call: &RequestContext, found: u64) -> Result<bool, Problem> {
    let Some(tags) = call.header(&IF_NONE_MATCH)? else { return Ok(false) };
    if tags == "*" {
        return Ok(true);
    }
    let mut known = false;
    for tag in tags.split(',').map(str::trim) {
        // A cache may have made the tag weak; for a read that makes no difference.
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

/// The version that an entity tag of ours names.
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
