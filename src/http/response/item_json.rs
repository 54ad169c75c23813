//! How an item looks inside JSON: `{"key", "value", "version", "create_version", "content_type"}`, and `"ttl"` where it
//! expires.
//!
//! Why: one form in every answer that shows an item, whichever route it comes from.
//!
//! Laws: JSON is copied as it is, never written anew, so numbers keep every digit. Bytes that are no JSON, whatever their
//! type says, are never copied: whatever is stored, what is written here is one JSON value.
//! Text that is UTF-8 is a string; everything else is `"value": null` with `value_base64` behind it.
//!
//! Not here: what surrounds it ([`super::success`]), and raw values ([`crate::http::api::store`]).

use crate::http::request::media_type;
use crate::model::validate;
use crate::model::{Item, Value};

/// Room for the names of the members and for numbers.
const AROUND: usize = 160;

/// Writes the item of `key` behind what `out` holds, as it is at `clock`.
pub(crate) fn item(out: &mut Vec<u8>, key: &str, item: &Item, clock: u64) {
    out.reserve(AROUND + key.len() + item.value.bytes.len());
    begin(out, key);
    value(out, &item.value);
    end(out, item, clock);
}

/// Begins the object, up to its value.
pub(crate) fn begin(out: &mut Vec<u8>, key: &str) {
    out.extend_from_slice(br#"{"key":"#);
    string(out, key);
    out.extend_from_slice(br#","value":"#);
}

/// Ends the object of an item behind its value.
pub(crate) fn end(out: &mut Vec<u8>, item: &Item, clock: u64) {
    let (version, created) = (item.version, item.create_version);
    out.extend_from_slice(format!(r#","version":{version},"create_version":{created},"content_type":"#).as_bytes());
    string(out, &item.value.content_type);
    if let Some(expires) = item.expires {
        out.extend_from_slice(format!(r#","ttl":{}"#, seconds_left(expires, clock)).as_bytes());
    }
    out.push(b'}');
}

/// Begins the object: key, value and version. It is left open.
pub(crate) fn stored(out: &mut Vec<u8>, key: &str, stored: &Value, version: u64) {
    out.reserve(AROUND + key.len() + stored.bytes.len());
    begin(out, key);
    value(out, stored);
    out.extend_from_slice(format!(r#","version":{version}"#).as_bytes());
}

/// The seconds until then, rounded up. A key is there until it is removed, so while it is there it has some left.
fn seconds_left(expires: u64, clock: u64) -> u64 {
    expires.saturating_sub(clock).div_ceil(1000).max(1)
}

/// Writes a value, and where it is neither JSON nor text the member `value_base64` after it.
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

/// How a value looks inside JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is stored.
    Json,
    /// A string.
    Text,
    /// Null, and `value_base64` behind it.
    Binary,
}

impl Form {
    /// The form of this value.
    pub(crate) fn of(value: &Value) -> Self {
        // What is stored as JSON was checked when it was put there; what lies on a disk is checked again before it becomes
        // part of an answer.
        if validate::is_json(&value.content_type) && validate::json(&value.bytes).is_ok() {
            Self::Json
        } else if media_type::is_text(&value.content_type) && std::str::from_utf8(&value.bytes).is_ok() {
            Self::Text
        } else {
            Self::Binary
        }
    }

    /// What stands before it.
    pub(crate) fn open(self, out: &mut Vec<u8>) {
        out.extend_from_slice(match self {
            Self::Json => b"",
            Self::Text => b"\"",
            Self::Binary => br#"null,"value_base64":""#,
        });
    }

    /// What stands behind it.
    pub(crate) fn close(self, out: &mut Vec<u8>) {
        if self != Self::Json {
            out.push(b'"');
        }
    }

    /// What to write next of a value of which `rest` is left: about `bytes`, a multiple of three, and at a place where it
    /// may be cut.
    pub(crate) fn piece(self, rest: &[u8], bytes: usize) -> &[u8] {
        let mut end = bytes.min(rest.len());
        // Between two characters.
        while self == Self::Text && end < rest.len() && rest[end] & 0xc0 == 0x80 {
            end -= 1;
        }
        &rest[..end]
    }

    /// Writes a piece of the value.
    pub(crate) fn write(self, out: &mut Vec<u8>, piece: &[u8]) {
        match self {
            Self::Json => out.extend_from_slice(piece),
            Self::Text => {
                // The pieces are cut between characters, and all of them together are UTF-8.
                let text = String::from_utf8_lossy(piece);
                let before = out.len();
                string(out, &text);
                // Its quotes stand around all pieces.
                out.pop();
                out.remove(before);
            }
            Self::Binary => out.extend_from_slice(media_type::base64(piece).as_bytes()),
        }
    }
}

/// Writes a JSON string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn shown(content_type: &str, bytes: &'static [u8]) -> String {
        let mut out = Vec::new();
        value(&mut out, &Value { content_type: content_type.into(), bytes: bytes.into() });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn seconds_are_rounded_up_and_never_none() {
        for (expires, left) in [(1, 1), (1000, 1), (5000, 1), (5001, 1), (6000, 1), (6001, 2), (35_000, 30)] {
            assert_eq!(seconds_left(expires, 5000), left, "{expires}");
        }
    }

    #[test]
    fn json_is_inline_text_a_string_and_the_rest_base64() {
        assert_eq!(shown("application/json", b"{\"n\": 1.10}"), "{\"n\": 1.10}");
        assert_eq!(shown("text/html", "é\"".as_bytes()), "\"é\\\"\"");
        assert_eq!(shown("text/plain", b"\xff"), r#"null,"value_base64":"/w==""#);
        assert_eq!(shown("image/png", b"a"), r#"null,"value_base64":"YQ==""#);
    }

    #[test]
    fn whatever_is_stored_is_shown_as_one_json_value() {
        let deep = [b'['; 200];
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
