//! Query parameters, keys in paths, and the deadline of a request.
//!
//! Why: a misspelt parameter must not be ignored. The caller believes that it holds, so whatever is not understood is
//! refused by name.
//!
//! Laws: the deadline counts from the arrival of the request's head; reading the body is part of it. In a query `+` is a
//! space, as HTML forms write it, and a plus is `%2B`; in a path `+` is itself (RFC 3986).
//!
//! Not here: bodies ([`super::body`]).

use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;

use crate::consensus::{Bounds, Consistency};
use crate::http::response::problem::{Problem, clip};
use crate::model::validate;

/// The parameter that every route knows.
pub(crate) const TIMEOUT: &str = "timeout";
/// The shortest and the longest timeout that a client may ask for, in milliseconds.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1..=60_000;

/// The moment by which a request must be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// What is left of it, zero once it has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Reads a raw query that may hold the parameters `names`, each at most once; the values in the order of the names.
pub(crate) fn parameters<const N: usize>(
    query: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    if query.is_empty() {
        return Ok(values);
    }
    for part in query.split('&') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = form_decoded(name).map_err(|why| Problem::query(format!("the query {why}")))?;
        let Some(place) = names.iter().position(|known| *known == name) else {
            return Err(Problem::query(format!(
                "unknown query parameter `{}`; this route knows {}",
                clip(&name),
                listed(&names)
            )));
        };
        let value = form_decoded(value).map_err(|why| Problem::query(format!("query parameter `{name}` {why}")))?;
        if values[place].replace(value).is_some() {
            return Err(Problem::query(format!("query parameter `{name}` is given more than once")));
        }
    }
    Ok(values)
}

/// The deadline of a request that arrived at `arrived`: as its `timeout` says, else `default`.
pub(crate) fn deadline(timeout: Option<&str>, default: Duration, arrived: Instant) -> Result<Deadline, Problem> {
    let timeout = match timeout {
        None => default,
        Some(text) => duration(text).ok_or_else(|| {
            Problem::query(format!(
                "query parameter `timeout` must be from 1ms to 60s, such as 500ms or 2s, not `{}`",
                clip(text)
            ))
        })?,
    };
    Ok(Deadline(arrived + timeout))
}

/// The parameters that say how fresh a read has to be.
pub(crate) const FRESH: [&str; 3] = ["consistency", "max_stale", "min_index"];

/// How fresh a read has to be, as the values of [`FRESH`] say; linearizable without them.
pub(crate) fn freshness(values: [Option<String>; 3]) -> Result<(Consistency, Bounds), Problem> {
    let [consistency, max_stale, min_index] = values;
    let consistency = match consistency.as_deref() {
        None | Some("linearizable") => Consistency::Linearizable,
        Some("stale") => Consistency::Stale,
        Some(other) => {
            let other = clip(other);
            let detail = format!("query parameter `consistency` must be linearizable or stale, not `{other}`");
            return Err(Problem::query(detail));
        }
    };
    if max_stale.is_some() && consistency != Consistency::Stale {
        return Err(Problem::query("query parameter `max_stale` goes with consistency=stale only"));
    }
    let max_stale = max_stale.map(|text| {
        let found = duration(&text).and_then(|most| u64::try_from(most.as_millis()).ok());
        found.ok_or_else(|| {
            let text = clip(&text);
            Problem::query(format!("query parameter `max_stale` must be from 1ms to 60s, such as 500ms, not `{text}`"))
        })
    });
    let min_index = min_index.map(|text| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().ok_or_else(|| {
            Problem::query(format!("query parameter `min_index` must be a raft index, not `{}`", clip(&text)))
        })
    });
    let bounds = Bounds { min_index: min_index.transpose()?.unwrap_or(0), max_stale_ms: max_stale.transpose()? };
    Ok((consistency, bounds))
}

/// Whether a flag is set: `?x` or `?x=true`.
pub(crate) fn flag(text: Option<&str>, name: &str) -> Result<bool, Problem> {
    match text {
        None => Ok(false),
        Some("" | "true") => Ok(true),
        Some(other) => Err(Problem::query(format!(
            "query parameter `{name}` is a flag, written `?{name}` or `?{name}=true`, not `{}`",
            clip(other)
        ))),
    }
}

/// The key that a path names, of at most `limit` bytes.
pub(crate) fn key_in_path(raw: &str, limit: usize) -> Result<String, Problem> {
    let key = decoded(raw).map_err(|why| Problem::key(format!("the key in the path {why}")))?;
    check_key(&key, limit)?;
    Ok(key)
}

/// Whether `key` has 1 to `limit` bytes.
pub(crate) fn check_key(key: &str, limit: usize) -> Result<(), Problem> {
    validate::key(key.as_bytes(), limit).map_err(Problem::key)
}

/// The names as a message lists them.
pub(crate) fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    TIMEOUT_MS.contains(&ms).then(|| Duration::from_millis(ms))
}

/// Decodes a part of a query, `application/x-www-form-urlencoded`: what curl's `--data-urlencode`, browsers and the
/// libraries of most languages send. The error continues a sentence.
fn form_decoded(raw: &str) -> Result<String, String> {
    if raw.contains('+') { decoded(&raw.replace('+', " ")) } else { decoded(raw) }
}

/// Percent-decodes strictly; the error continues a sentence.
fn decoded(raw: &str) -> Result<String, String> {
    let bytes = raw.as_bytes();
    for (at, _) in raw.match_indices('%') {
        let complete = matches!(bytes.get(at + 1..at + 3), Some(pair) if pair.iter().all(u8::is_ascii_hexdigit));
        if !complete {
            return Err("has a % that is not followed by two hexadecimal digits (write %25 for %)".to_owned());
        }
    }
    let text = percent_decode_str(raw).decode_utf8().map_err(|_| "is not UTF-8".to_owned())?;
    Ok(text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_from_1_ms_to_60_s_and_nothing_else() {
        for (text, ms) in [("1ms", 1), ("500ms", 500), ("2s", 2000), ("60s", 60_000), ("60000ms", 60_000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in
            ["", "0s", "0ms", "61s", "60001ms", "5", "s", "ms", "-1s", "+1s", "1.5s", "1 s", "1S", "2m", "99999999999s"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
        assert_eq!(duration("18446744073709551615s"), None);
    }

    #[test]
    fn a_parameter_is_known_given_once_and_well_encoded_or_refused() {
        let names = ["timeout", "consistency"];
        let values = parameters("consistency=st%61le&timeout=1s", names).unwrap();
        assert_eq!(values, [Some("1s".to_owned()), Some("stale".to_owned())]);
        assert_eq!(parameters("", names).unwrap(), [None, None]);
        let [prefix] = parameters("prefix=my+key%2B%20/", ["prefix"]).unwrap();
        assert_eq!(prefix.as_deref(), Some("my key+ /"));
        for query in ["timout=1s", "timeout=1s&timeout=2s", "timeout=%", "timeout=%ff", "a", "&", "timeout=1s&"] {
            assert!(parameters(query, names).is_err(), "{query}");
        }
    }

    #[test]
    fn keys_are_decoded_strictly_and_bounded() {
        assert_eq!(key_in_path("a%2Fb/c%25%20+é", 64).unwrap(), "a/b/c% +é");
        assert_eq!(key_in_path("a//b", 64).unwrap(), "a//b");
        for raw in ["", "%", "%4", "a%4", "%zz", "%+1", "%ff", "%c3", "abcde"] {
            assert!(key_in_path(raw, 4).is_err(), "{raw}");
        }
    }
}
