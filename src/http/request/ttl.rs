//! The time to live of a key: `ttl`, in whole seconds.
//!
//! Why: it is a member of three bodies and a parameter of one route, with the same syntax in all of them.
//!
//! Invariants: from 1 to [`Ttl::MAX_SECONDS`], in plain digits; anything else is refused by name.
//!
//! See also: when a key expires (`consensus::proposals::cluster_clock`).

use serde_json::value::RawValue;

use crate::http::response::problem::{Problem, clip};
use crate::model::Ttl;
use crate::model::validate;

/// Parses the query parameter `ttl`.
pub(crate) fn of_query(text: Option<&str>) -> Result<Option<Ttl>, Problem> {
    text.map(|text| parse(text).ok_or_else(|| Problem::query(format!("query parameter {}", syntax(text))))).transpose()
}

/// Parses the member `ttl`.
pub(crate) fn of_member(member: Option<&RawValue>) -> Result<Option<Ttl>, Problem> {
    let of = |text: &str| parse(text).ok_or_else(|| Problem::body(format!("member {}", syntax(text))));
    member.map(|member| of(member.get())).transpose()
}

fn syntax(text: &str) -> String {
    format!("`ttl` must be whole seconds from 1 to {}, not `{}`", Ttl::MAX_SECONDS, clip(text))
}

// Not a `ClientDuration`: a TTL is a JSON number as well, so it has no unit.
fn parse(text: &str) -> Option<Ttl> {
    // The text of a JSON member may be `1e3`, `-1` or `"30"`. Only digits are a number of whole seconds in both forms.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.then(|| text.parse().ok()).flatten()?;
    Some(Ttl(seconds)).filter(|ttl| validate::is_ttl(*ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_seconds_within_ten_years() {
        assert_eq!((parse("1"), parse("315360000")), (Some(Ttl(1)), Some(Ttl(315_360_000))));
        for text in ["", "0", "315360001", "-1", "+1", "1.0", "1e3", "30s", "\"30\"", "null", "99999999999999999999"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
