//! How an item looks inside JSON: `{"key", "value", "version", "create_version", "content_type"}`, and `"ttl"` where it
//! expires.
//!
//! Why: one form in every answer that shows an item, whichever route it comes from.
//!
//! Laws: JSON is copied as it is, never written anew, so numbers keep every digit. Bytes that are no JSON, whatever their
//! type says, are never copied: whatever is stored, what is written here is one JSON value.
//! Text that is UTF-8 is a string; everything else is `"value": null` with `value_base64` behind it.
//!
//! Not here: what surrounds it ([`super::answers`]), and raw values ([`super::store`]).

use super::values;
use crate::model::{Item, Value, validate};

/// Room for the names of the members and for numbers.
const AROUND: usize = 160;

/// Writes the item of `key` behind what `out` holds, as it is at `clock`.
pub(super) fn item(out: &mut Vec<u8>, key: &str, item: &Item, clock: u64) {
    stored(out, key, &item.value, item.version);
    out.extend_from_slice(format!(r#","create_version":{},"content_type":"#, item.create_version).as_bytes());
    string(out, &item.value.content_type);
    if let Some(expires) = item.expires {
        out.extend_from_slice(format!(r#","ttl":{}"#, seconds_left(expires, clock)).as_bytes());
    }
    out.push(b'}');
}

/// Begins the object: key, value and version. It is left open.
pub(super) fn stored(out: &mut Vec<u8>, key: &str, stored: &Value, version: u64) {
    out.reserve(AROUND + key.len() + stored.bytes.len());
    out.extend_from_slice(br#"{"key":"#);
    string(out, key);
    out.extend_from_slice(br#","value":"#);
    value(out, stored);
    out.extend_from_slice(format!(r#","version":{version}"#).as_bytes());
}

/// The seconds until then, rounded up. A key is there until it is removed, so while it is there it has some left.
fn seconds_left(expires: u64, clock: u64) -> u64 {
    expires.saturating_sub(clock).div_ceil(1000).max(1)
}

/// Writes a value, and where it is neither JSON nor text the member `value_base64` after it.
pub(super) fn value(out: &mut Vec<u8>, value: &Value) {
    // What is stored as JSON was checked when it was put there; what lies on a disk is checked again before it becomes
    // part of an answer.
    if validate::is_json(&value.content_type) && validate::json(&value.bytes).is_ok() {
        out.extend_from_slice(&value.bytes);
        return;
    }
    match std::str::from_utf8(&value.bytes) {
        Ok(text) if values::is_text(&value.content_type) => string(out, text),
        _ => {
            out.extend_from_slice(br#"null,"value_base64":""#);
            out.extend_from_slice(values::base64(&value.bytes).as_bytes());
            out.push(b'"');
        }
    }
}

/// Writes a JSON string.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
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
