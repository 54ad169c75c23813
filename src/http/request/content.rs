//! From what a request carries to the value that is stored.
//!
//! Why: a value may come as a raw body, as a member of a JSON body or as base64, and the same bytes must be stored
//! whichever way they came.
//!
//! Laws: what is announced as JSON is JSON, so it can be shown inside JSON without being parsed again. No byte is
//! changed: a JSON string is stored as its text, other JSON as the very text that was sent.
//!
//! Not here: what a content type and JSON are ([`crate::model::validate`]), and how a value is shown
//! ([`crate::http::response::item_json`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::body;
use crate::http::response::problem::{Problem, clip};
use crate::model::Value;
use crate::model::validate;
use crate::model::validate::{essence, is_json};

/// The type of text that came without one.
const TEXT: &str = "text/plain; charset=utf-8";
/// The type of bytes that came without one and are no text.
const BINARY: &str = "application/octet-stream";
/// The type of JSON.
const JSON: &str = "application/json";
/// What curl announces where it was told nothing, so it announces nothing.
const FORM: &str = "application/x-www-form-urlencoded";

/// The value that a raw body is.
pub(crate) fn from_body(bytes: Bytes, announced: Option<&str>, limit: usize) -> Result<Value, Problem> {
    let announced = announced.filter(|kind| says_something(kind));
    if let Some(kind) = announced {
        validate::content_type(kind).map_err(|why| Problem::header(format!("header `Content-Type` {why}")))?;
        if is_json(kind) {
            if let Some(charset) = foreign_charset(kind) {
                return Err(Problem::media_type(format!("JSON is stored as UTF-8, not `{}`", clip(charset))));
            }
            validate::json(&bytes).map_err(|why| Problem::body(format!("the body, announced as {kind}, {why}")))?;
        }
    }
    typed(bytes, announced, limit)
}

/// The value that the members `value`, `value_base64` and `content_type` of a JSON object name.
pub(crate) fn from_members(
    value: Option<&RawValue>,
    value_base64: Option<&RawValue>,
    content_type: Option<&RawValue>,
    limit: usize,
) -> Result<Value, Problem> {
    match (value, value_base64) {
        (Some(_), Some(_)) => Err(Problem::body("members `value` and `value_base64` exclude each other")),
        (Some(_), None) if content_type.is_some() => {
            Err(Problem::body("member `content_type` goes with `value_base64` only; the type of `value` is known"))
        }
        (Some(json), None) => from_json(json, limit),
        (None, Some(_)) => {
            let encoded = body::string(value_base64, "value_base64")?;
            let bytes = STANDARD
                .decode(&encoded)
                .map_err(|why| Problem::body(format!("member `value_base64` is no padded base64: {why}")))?;
            let announced = content_type.map(|_| body::string(content_type, "content_type")).transpose()?;
            if let Some(kind) = &announced {
                validate::content_type(kind).map_err(|why| Problem::body(format!("member `content_type` {why}")))?;
                if is_json(kind) {
                    validate::json(&bytes).map_err(|why| Problem::body(format!("member `value_base64` {why}")))?;
                }
            }
            typed(bytes.into(), announced.as_deref(), limit)
        }
        (None, None) => Err(Problem::body("member `value` is missing")),
    }
}

/// Whether a content type was chosen by the client: curl announces a form where it was told nothing.
pub(crate) fn says_something(content_type: &str) -> bool {
    !content_type.is_empty() && essence(content_type) != FORM
}

/// The charset of a content type where it is another than UTF-8 or its subset US-ASCII.
pub(crate) fn foreign_charset(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let charsets = parameters.filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"));
    let mut charsets = charsets.map(|(_, value)| value.trim().trim_matches('"'));
    charsets.find(|charset| !["utf-8", "utf8", "us-ascii"].iter().any(|ours| charset.eq_ignore_ascii_case(ours)))
}

/// Whether values of this type are shown as strings where they are UTF-8.
pub(crate) fn is_text(content_type: &str) -> bool {
    essence(content_type).starts_with("text/")
}

/// Bytes in the form that `value_base64` has.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn from_json(json: &RawValue, limit: usize) -> Result<Value, Problem> {
    let text = json.get();
    if !text.starts_with('"') {
        validate::json(text.as_bytes()).map_err(|why| Problem::body(format!("member `value` {why}")))?;
        return within(Bytes::copy_from_slice(text.as_bytes()), JSON, limit);
    }
    within(body::text(json, "value")?.into(), TEXT, limit)
}

fn typed(bytes: Bytes, announced: Option<&str>, limit: usize) -> Result<Value, Problem> {
    let guessed = if std::str::from_utf8(&bytes).is_ok() { TEXT } else { BINARY };
    within(bytes, announced.unwrap_or(guessed), limit)
}

fn within(bytes: Bytes, content_type: &str, limit: usize) -> Result<Value, Problem> {
    validate::value_length(bytes.len(), limit).map_err(Problem::too_large)?;
    Ok(Value { content_type: content_type.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::json::{self, BYTE_ORDER_MARK};

    fn raw(bytes: &'static [u8], announced: Option<&str>) -> Option<(String, Bytes)> {
        from_body(bytes.into(), announced, 16).ok().map(|value| (value.content_type, value.bytes))
    }

    #[test]
    fn a_raw_body_has_the_type_it_announces_or_the_one_it_looks_like() {
        let text = Some((TEXT.to_owned(), Bytes::from("a=b")));
        for announced in [None, Some(""), Some(FORM), Some("application/X-www-form-urlencoded; charset=utf-8")] {
            assert_eq!(raw(b"a=b", announced), text, "{announced:?}");
        }
        assert_eq!(raw(b"\xff", None), Some((BINARY.to_owned(), Bytes::from_static(b"\xff"))));
        assert_eq!(raw(b" [1] ", Some(JSON)), Some((JSON.to_owned(), Bytes::from(" [1] "))));
        for announced in [JSON, "application/ld+json; a=b", "Application/JSON"] {
            for body in [&b"nope"[..], b"", b"1 2", b"\"\xff\""] {
                assert_eq!(raw(body, Some(announced)), None, "{announced} {body:?}");
            }
        }
        for announced in ["text", "/", "a/", "/b", "a b/c", "a/b;\u{7f}", "é/x"] {
            assert_eq!(raw(b"x", Some(announced)), None, "{announced}");
        }
        assert_eq!(raw(b"12345678901234567", None), None, "over the limit");
    }

    #[test]
    fn json_that_many_parsers_refuse_is_refused_whichever_way_it_comes() {
        let marked = [BYTE_ORDER_MARK, b"1"].concat();
        assert!(from_body(marked.clone().into(), Some(JSON), 16).is_err());
        assert!(from_body(marked.into(), None, 16).is_ok(), "text is stored as it is");
        for text in [r#"{"s":"\ud800"}"#, "[1e400]", r#""\udc00""#] {
            assert!(from_body(text.into(), Some(JSON), 64).is_err(), "{text}");
            let member = RawValue::from_string(text.to_owned()).unwrap();
            assert!(from_members(Some(&member), None, None, 64).is_err(), "{text}");
            let (encoded, kind) = (format!("\"{}\"", base64(text.as_bytes())), format!("\"{JSON}\""));
            let [encoded, kind] = [encoded, kind].map(|text| RawValue::from_string(text).unwrap());
            assert!(from_members(None, Some(&encoded), Some(&kind), 64).is_err(), "{text}");
        }
    }

    #[test]
    fn a_charset_that_is_not_utf_8_is_found() {
        for ours in ["text/plain", "a/b; charset=utf-8", "a/b;Charset=\"UTF-8\"; x=y", "a/b; charset=us-ascii"] {
            assert_eq!(foreign_charset(ours), None, "{ours}");
        }
        assert_eq!(foreign_charset("application/json; charset=iso-8859-1"), Some("iso-8859-1"));
        assert_eq!(foreign_charset("a/b; x=y; charset=\"utf-16\""), Some("utf-16"));
    }

    #[test]
    fn json_is_bounded_in_depth_and_brackets_in_strings_do_not_count() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for (text, sound) in [
            (nested(json::DEPTH), true),
            (nested(json::DEPTH + 1), false),
            (objects(json::DEPTH), true),
            (objects(json::DEPTH + 1), false),
            (format!(r#"["\"{}", "\\", []]"#, "[".repeat(200)), true),
            (format!("[{}]", vec!["[]"; 300].join(",")), true),
        ] {
            let body = from_body(text.clone().into(), Some(JSON), 1 << 20);
            assert_eq!(body.is_ok(), sound, "{text}");
            let member = RawValue::from_string(text.clone()).unwrap();
            assert_eq!(from_members(Some(&member), None, None, 1 << 20).is_ok(), sound, "{text}");
        }
    }
}
