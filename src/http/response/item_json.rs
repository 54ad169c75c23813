//! The JSON form of an item: `{"key", "value", "version", "create_version", "content_type"}`, `"ttl"` if it expires, and
//! `"by"` if its last write came with a token.
//!
//! Why: every response that contains an item has the same form.
//!
//! Invariants: a JSON value is copied verbatim, so numbers keep every digit. Bytes that are not JSON are never copied, whatever
//! their content type says, so the output is one JSON value for any stored bytes. UTF-8 text is a string; everything else is
//! `"value": null` followed by `value_base64`.
//!
//! Example: `{"n": 1.10}` as `application/json` is `"value":{"n": 1.10}`; `bar` as `text/plain` is `"value":"bar"`; the byte ff
//! is `"value":null,"value_base64":"/w=="`.
//!
//! See also: [`super::success`] (the object around it), [`crate::http::api::store`] (raw values).

use std::fmt;
use std::io::Write;

use crate::http::request::media_type;
use crate::model::validate;
use crate::model::{Item, TokenName, Value};

/// The estimated bytes of member names and numbers.
pub(super) const OVERHEAD: usize = 160;

/// Appends an item with its time to live at `clock`.
pub(crate) fn item(out: &mut Vec<u8>, key: &str, item: &Item, clock: u64) {
    out.reserve(OVERHEAD + key.len() + item.value.bytes.len());
    begin(out, key);
    value(out, &item.value);
    end(out, item, clock);
}

/// Appends the beginning of an item, up to its value.
pub(crate) fn begin(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(br#"{"key":"#);
    string(out, key);
    out.extend_from_slice(br#","value":"#);
}

/// Appends the end of an item, after its value.
pub(crate) fn end(out: &mut Vec<u8>, item: &Item, clock: u64) {
    let (version, created) = (item.version, item.create_version);
    append(out, format_args!(r#","version":{version},"create_version":{created},"content_type":"#));
    string(out, &item.value.content_type);
    if let Some(expires) = item.expires {
        append(out, format_args!(r#","ttl":{}"#, seconds_left(expires, clock)));
    }
    by(out, item.by.as_ref());
    out.push(b'}');
}

/// Appends formatted text.
fn append(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a vector takes every byte");
}

/// Appends the member with the token of a write, if there is one.
pub(crate) fn by(out: &mut Vec<u8>, name: Option<&TokenName>) {
    if let Some(name) = name {
        out.extend_from_slice(br#","by":"#);
        string(out, name);
    }
}

/// Appends key, value and version of an object that the caller closes.
pub(crate) fn open_item(out: &mut Vec<u8>, key: &str, value: &Value, version: u64) {
    out.reserve(OVERHEAD + key.len() + value.bytes.len());
    begin(out, key);
    self::value(out, value);
    append(out, format_args!(r#","version":{version}"#));
}

/// Returns the seconds until the expiry, rounded up, and at least 1: a key exists until the entry that expires it is
/// applied, which may be after its time.
fn seconds_left(expires: u64, clock: u64) -> u64 {
    expires.saturating_sub(clock).div_ceil(1000).max(1)
}

/// Appends a value; for one that is neither JSON nor text `null` and the member `value_base64`.
pub(crate) fn value(out: &mut Vec<u8>, value: &Value) {
    match (Form::of(value), std::str::from_utf8(&value.bytes)) {
        (Form::Text, Ok(text)) => string(out, text),
        (form, _) => {
            form.open(out);
            form.write(out, &value.bytes);
            form.close(out);
        }
    }
}

/// The form of a value inside JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The stored bytes.
    Json,
    /// A string.
    Text,
    /// `null`, followed by `value_base64`.
    Binary,
}

impl Form {
    /// Chooses the form of a value.
    pub(crate) fn of(value: &Value) -> Self {
        // A put checks JSON, but the bytes come from a disk now. They are checked again, since one value such as `1,"x":2`
        // would forge members of the object around it.
        if validate::is_json(&value.content_type) && validate::json(&value.bytes).is_ok() {
            Self::Json
        } else if media_type::is_text(&value.content_type) && std::str::from_utf8(&value.bytes).is_ok() {
            Self::Text
        } else {
            Self::Binary
        }
    }

    /// Appends what precedes the value.
    pub(crate) fn open(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Json => b"",
            Self::Text => b"\"",
            Self::Binary => br#"null,"value_base64":""#,
        });
    }

    /// Appends what follows the value.
    pub(crate) fn close(self, out: &mut Vec<u8>) {
        if self != Self::Json {
            out.push(b'"');
        }
    }

    /// Returns the next chunk of a value of which `rest` is left: at most `bytes`, a multiple of three, and never a part of a
    /// character.
    pub(crate) fn chunk(self, rest: &[u8], bytes: usize) -> &[u8] {
        let mut end = bytes.min(rest.len());
        // Moves back over continuation bytes (10xxxxxx) to the start of a character.
        while self == Self::Text && end < rest.len() && rest[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        &rest[..end]
    }

    /// Appends a chunk of the value.
    pub(crate) fn write(self, out: &mut Vec<u8>, chunk: &[u8]) {
        match self {
            Self::Json => out.extend_from_slice(chunk),
            Self::Text => {
                // Chunks end between characters, so nothing is lost here.
                let text = String::from_utf8_lossy(chunk);
                let before = out.len();
                string(out, &text);
                // Removes the quotes: `open` and `close` write them around all chunks.
                out.pop();
                out.remove(before);
            }
            Self::Binary => out.extend_from_slice(media_type::base64(chunk).as_bytes()),
        }
    }
}

/// Appends a JSON string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn rendered(content_type: &str, bytes: &'static [u8]) -> String {
        let mut out = Vec::new();
        value(&mut out, &Value { content_type: content_type.into(), bytes: bytes.into() });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn seconds_left_are_rounded_up_and_at_least_one() {
        // At clock 5 000. A key whose time is over, but whose expiry is not applied yet, has 1 s left.
        for (expires, left) in [(1, 1), (1000, 1), (5000, 1), (5001, 1), (6000, 1), (6001, 2), (35_000, 30)] {
            assert_eq!(seconds_left(expires, 5000), left, "{expires}");
        }
    }

    #[test]
    fn json_is_inline_text_a_string_and_the_rest_base64() {
        assert_eq!(rendered("application/json", b"{\"n\": 1.10}"), "{\"n\": 1.10}");
        assert_eq!(rendered("text/html", "é\"".as_bytes()), "\"é\\\"\"");
        // The content type claims text, or the bytes look like text: in doubt base64, which loses nothing.
        assert_eq!(rendered("text/plain", b"\xff"), r#"null,"value_base64":"/w==""#);
        assert_eq!(rendered("image/png", b"a"), r#"null,"value_base64":"YQ==""#);
    }

    #[test]
    fn any_stored_bytes_render_as_one_json_value() {
        let deep = [b'['; 200];
        // A second member, nothing, half an object, no UTF-8, trailing bytes, and nesting beyond the limit.
        for bytes in [&b"1,\"x\":2"[..], b"", b"{", b"\xff", b"\"\xff\"", b"1}", &deep] {
            for kind in ["application/json", "a/b+json", "text/plain", "application/octet-stream", "", "\n;json"] {
                let mut out = br#"{"value":"#.to_vec();
                value(&mut out, &Value { content_type: kind.into(), bytes: Bytes::copy_from_slice(bytes) });
                out.push(b'}');
                let shown: serde_json::Value = serde_json::from_slice(&out).unwrap();
                let members = shown.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>();
                assert!(members == ["value"] || members == ["value", "value_base64"], "{kind} {members:?}");
            }
        }
    }
}
