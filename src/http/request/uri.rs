//! What a request's URI holds: query parameters, keys in paths, and the deadline.
//!
//! Why: a misspelt parameter must not be ignored while the client relies on it, so an unknown one is refused by name.
//!
//! Invariants: the deadline counts from the arrival of the request's head; reading the body is part of it. In a query `+` is
//! a space, as HTML forms write it, and a plus is `%2B`; in a path `+` is itself (RFC 3986).
//!
//! See also: bodies ([`super::body`]).

use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;

use crate::consensus::{Bounds, Consistency};
use crate::http::response::problem::{Problem, clip};
use crate::model::{ClientDuration, validate};

/// The parameter of every route but /watch.
pub(crate) const TIMEOUT: &str = "timeout";
/// The longest duration of a parameter.
const MAX_DURATION: Duration = Duration::from_secs(60);

/// The moment by which a request must be answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(pub(crate) Instant);

impl Deadline {
    /// The time left, zero once the deadline has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Parses a raw query that may have the parameters `names`, each at most once. Returns the values in the order of the names.
pub(crate) fn parameters<const N: usize>(
    query: &str,
    names: [&'static str; N],
) -> Result<[Option<String>; N], Problem> {
    let mut values = [const { None }; N];
    each(
        query,
        names,
        |index, value| {
            if values[index].replace(value).is_some() { Err(repeats(names[index])) } else { Ok(()) }
        },
    )?;
    Ok(values)
}

/// As [`parameters`], where each may be given any number of times.
pub(crate) fn repeated<const N: usize>(query: &str, names: [&'static str; N]) -> Result<[Vec<String>; N], Problem> {
    let mut values = [const { Vec::new() }; N];
    each(query, names, |index, value| {
        values[index].push(value);
        Ok(())
    })?;
    Ok(values)
}

/// Returns the value of a parameter that may be given only once.
pub(crate) fn single(name: &str, mut values: Vec<String>) -> Result<Option<String>, Problem> {
    if values.len() > 1 { Err(repeats(name)) } else { Ok(values.pop()) }
}

fn repeats(name: &str) -> Problem {
    Problem::query(format!("query parameter `{name}` is given more than once"))
}

/// Takes each parameter of a raw query: its place among `names`, and its value.
fn each<const N: usize>(
    query: &str,
    names: [&'static str; N],
    mut take: impl FnMut(usize, String) -> Result<(), Problem>,
) -> Result<(), Problem> {
    if query.is_empty() {
        return Ok(());
    }
    // Names are compared after decoding: `%74imeout=1s&timeout=2s` gives one parameter twice. An empty part, as in `a=1&&b=2`,
    // is the parameter with the empty name, which no route knows.
    for part in query.split('&') {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let name = form_decoded(name).map_err(|why| Problem::query(format!("the query {why}")))?;
        let Some(index) = names.iter().position(|known| *known == name) else {
            return Err(Problem::query(format!(
                "unknown query parameter `{}`; this route knows {}",
                clip(&name),
                listed(&names)
            )));
        };
        let value = form_decoded(value).map_err(|why| Problem::query(format!("query parameter `{name}` {why}")))?;
        take(index, value)?;
    }
    Ok(())
}

/// Returns the deadline of a request that arrived at `arrived`: after its `timeout`, or after `default`.
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

/// The parameters for how fresh a read has to be.
pub(crate) const FRESH: [&str; 3] = ["consistency", "max_stale", "min_index"];

/// Parses the values of [`FRESH`]; linearizable without them.
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
        let max_stale = duration(&text).and_then(|max| u64::try_from(max.as_millis()).ok());
        max_stale.ok_or_else(|| {
            let text = clip(&text);
            Problem::query(format!("query parameter `max_stale` must be from 1ms to 60s, such as 500ms, not `{text}`"))
        })
    });
    let min_index = min_index.map(|text| {
        // The standard parser would accept a plus, which a query writes as `%2B7`.
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().ok_or_else(|| {
            Problem::query(format!("query parameter `min_index` must be a raft index, not `{}`", clip(&text)))
        })
    });
    let bounds = Bounds { min_index: min_index.transpose()?.unwrap_or(0), max_stale_ms: max_stale.transpose()? };
    Ok((consistency, bounds))
}

/// Parses a flag: `?x` or `?x=true`.
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

/// Decodes the key in a path, of at most `limit` bytes.
pub(crate) fn key_in_path(raw: &str, limit: usize) -> Result<String, Problem> {
    let key = decoded(raw).map_err(|why| Problem::key(format!("the key in the path {why}")))?;
    check_key(&key, limit)?;
    Ok(key)
}

/// Checks that `key` has 1 to `limit` bytes.
pub(crate) fn check_key(key: &str, limit: usize) -> Result<(), Problem> {
    validate::key(key.as_bytes(), limit).map_err(Problem::key)
}

/// Lists names for a message.
pub(crate) fn listed(names: &[&str]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Parses a duration from 1 ms to [`MAX_DURATION`].
fn duration(text: &str) -> Option<Duration> {
    text.parse::<ClientDuration>().ok().map(|parsed| parsed.0).filter(|duration| *duration <= MAX_DURATION)
}

/// Decodes a part of a query as `application/x-www-form-urlencoded`, as curl's `--data-urlencode`, browsers and most
/// languages' libraries send it. The error continues a sentence.
fn form_decoded(raw: &str) -> Result<String, String> {
    if raw.contains('+') { decoded(&raw.replace('+', " ")) } else { decoded(raw) }
}

/// Percent-decodes strictly; the error continues a sentence.
fn decoded(raw: &str) -> Result<String, String> {
    // `percent_decode_str` passes malformed escapes through: `/store/50%` would be the key `50%`, as `/store/50%25` is.
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
