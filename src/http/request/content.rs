//! The value of a write, from a raw body or from the members of a JSON body.
//!
//! Why: a value may come as a raw body, as a JSON member or as base64, and the same value must be stored as the same bytes.
//!
//! | request | stored bytes | stored type |
//! |---|---|---|
//! | `PUT`, body `bar` | `bar` | `text/plain; charset=utf-8` |
//! | `PUT`, body `{"n": 1.0}`, `Content-Type: application/json` | `{"n": 1.0}` | `application/json` |
//! | `POST`, `{"value": "bar"}` | `bar` | `text/plain; charset=utf-8` |
//! | `POST`, `{"value": {"n": 1.0}}` | `{"n": 1.0}` | `application/json` |
//! | `POST`, `{"value_base64": "/w=="}` | the byte ff | `application/octet-stream` |
//!
//! Invariants: a value whose type is JSON is valid JSON, so it can be shown inside JSON without being parsed again. No byte
//! is changed: a JSON string is stored as its text, other JSON as the text that was sent.
//!
//! See also: the syntax of content types and JSON ([`crate::model::validate`]), how a value is shown
//! ([`crate::http::response::item_json`]).

use bytes::Bytes;
use serde_json::value::RawValue;

use super::body;
use super::media_type::{BINARY, JSON, MULTIPART, TEXT, foreign_charset, from_base64, is_explicit};
use crate::http::response::problem::{Problem, clip};
use crate::model::Value;
use crate::model::validate;
use crate::model::validate::{essence, is_json};

/// Makes a value of a raw body with this `Content-Type`.
pub(crate) fn from_body(bytes: Bytes, content_type: Option<&str>, limit: usize) -> Result<Value, Problem> {
    let content_type = content_type.filter(|kind| is_explicit(kind));
    if let Some(kind) = content_type {
        validate::content_type(kind).map_err(|why| Problem::header(format!("header `Content-Type` {why}")))?;
        // `curl -F f=@logo.png` sends the file within an envelope of boundaries and headers, which would become the value.
        if essence(kind) == MULTIPART {
            return Err(Problem::media_type(format!(
                "{MULTIPART} is an envelope around the value; send the value alone, as curl does with `--data-binary @FILE` \
                 or `-T FILE`"
            )));
        }
        // A charset other than UTF-8 is fine for text, whose bytes are stored as they are. JSON is checked and shown as
        // UTF-8.
        if is_json(kind) {
            if let Some(charset) = foreign_charset(kind) {
                return Err(Problem::media_type(format!("JSON is stored as UTF-8, not `{}`", clip(charset))));
            }
            validate::client_json(&bytes)
                .map_err(|why| Problem::body(format!("the body, announced as {kind}, {why}")))?;
        }
    }
    typed(bytes, content_type, limit)
}

/// Makes a value of the members `value`, `value_base64` and `content_type` of a JSON object.
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
            let bytes = from_base64(&encoded)
                .map_err(|why| Problem::body(format!("member `value_base64` is not padded base64: {why}")))?;
            let content_type = content_type.map(|_| body::string(content_type, "content_type")).transpose()?;
            if let Some(kind) = &content_type {
                validate::content_type(kind).map_err(|why| Problem::body(format!("member `content_type` {why}")))?;
                if is_json(kind) {
                    validate::client_json(&bytes)
                        .map_err(|why| Problem::body(format!("member `value_base64` {why}")))?;
                }
            }
            typed(bytes.into(), content_type.as_deref(), limit)
        }
        (None, None) => Err(Problem::body("member `value` is missing")),
    }
}

fn from_json(json: &RawValue, limit: usize) -> Result<Value, Problem> {
    let text = json.get();
    if !text.starts_with('"') {
        // Neither parsed and written again (1.10 would become 1.1) nor borrowed: a value must not keep the whole body alive.
        validate::client_json(text.as_bytes()).map_err(|why| Problem::body(format!("member `value` {why}")))?;
        return within(Bytes::copy_from_slice(text.as_bytes()), JSON, limit);
    }
    within(body::text(json, "value")?.into(), TEXT, limit)
}

fn typed(bytes: Bytes, content_type: Option<&str>, limit: usize) -> Result<Value, Problem> {
    // Only UTF-8 or not is looked at. Guessing more, such as JSON or HTML, would let stored bytes become a page in a browser.
    let guessed = if std::str::from_utf8(&bytes).is_ok() { TEXT } else { BINARY };
    within(bytes, content_type.unwrap_or(guessed), limit)
}

fn within(bytes: Bytes, content_type: &str, limit: usize) -> Result<Value, Problem> {
    validate::value_length(bytes.len(), limit).map_err(Problem::too_large)?;
    Ok(Value { content_type: content_type.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::media_type::{FORM, base64};
    use crate::model::json_interoperability::{self, BYTE_ORDER_MARK};

    fn raw(bytes: &'static [u8], content_type: Option<&str>) -> Option<(String, Bytes)> {
        from_body(bytes.into(), content_type, 16).ok().map(|value| (value.content_type, value.bytes))
    }

    #[test]
    fn a_raw_body_has_its_content_type_or_a_default() {
        let text = Some((TEXT.to_owned(), Bytes::from("a=b")));
        for content_type in [None, Some(""), Some(FORM), Some("application/X-www-form-urlencoded; charset=utf-8")] {
            assert_eq!(raw(b"a=b", content_type), text, "{content_type:?}");
        }
        assert_eq!(raw(b"\xff", None), Some((BINARY.to_owned(), Bytes::from_static(b"\xff"))));
        assert_eq!(raw(b" [1] ", Some(JSON)), Some((JSON.to_owned(), Bytes::from(" [1] "))));
        for content_type in [JSON, "application/ld+json; a=b", "Application/JSON"] {
            for body in [&b"nope"[..], b"", b"1 2", b"\"\xff\""] {
                assert_eq!(raw(body, Some(content_type)), None, "{content_type} {body:?}");
            }
        }
        for content_type in ["text", "/", "a/", "/b", "a b/c", "a/b;\u{7f}", "é/x"] {
            assert_eq!(raw(b"x", Some(content_type)), None, "{content_type}");
        }
        assert_eq!(raw(b"12345678901234567", None), None, "over the limit");
    }

    #[test]
    fn json_that_is_not_interoperable_is_refused_in_every_form() {
        let marked = [BYTE_ORDER_MARK, b"1"].concat();
        assert!(from_body(marked.clone().into(), Some(JSON), 16).is_err());
        assert!(from_body(marked.into(), None, 16).is_ok(), "text is stored as it is");
        for text in [r#"{"s":"\ud800"}"#, "[1e400]", "0e99999999999", r#""\udc00""#] {
            assert!(from_body(text.into(), Some(JSON), 64).is_err(), "{text}");
            let member = RawValue::from_string(text.to_owned()).unwrap();
            assert!(from_members(Some(&member), None, None, 64).is_err(), "{text}");
            let (encoded, kind) = (format!("\"{}\"", base64(text.as_bytes())), format!("\"{JSON}\""));
            let [encoded, kind] = [encoded, kind].map(|text| RawValue::from_string(text).unwrap());
            assert!(from_members(None, Some(&encoded), Some(&kind), 64).is_err(), "{text}");
        }
    }

    #[test]
    fn json_is_bounded_in_depth_and_brackets_in_strings_do_not_count() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        for (text, sound) in [
            (nested(json_interoperability::VALUE_DEPTH), true),
            (nested(json_interoperability::VALUE_DEPTH + 1), false),
            (objects(json_interoperability::VALUE_DEPTH), true),
            (objects(json_interoperability::VALUE_DEPTH + 1), false),
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
