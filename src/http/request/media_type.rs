//! Media types of values and bodies, and base64.
//!
//! Why: requests and responses need the same few questions answered about a `Content-Type`, so the answers are below both.
//!
//! Invariants: no media type is refused here; its syntax is checked by [`crate::model::validate::content_type`].
//!
//! See also: how a value gets its type ([`super::content`]) and how it is shown ([`crate::http::response::item_json`]).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::model::validate::essence;

/// The type of text that came without one.
pub(crate) const TEXT: &str = "text/plain; charset=utf-8";
/// The type of bytes that came without one and are not UTF-8.
pub(crate) const BINARY: &str = "application/octet-stream";
/// The type of JSON.
pub(crate) const JSON: &str = "application/json";
/// curl's default for `-d` and `--data-binary`, so it does not say what the client sends.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// The type of HTML forms with files, and of `curl -F`.
pub(crate) const MULTIPART: &str = "multipart/form-data";

/// Whether a content type was chosen by the client, and is not curl's default.
pub(crate) fn is_explicit(content_type: &str) -> bool {
    !content_type.is_empty() && essence(content_type) != FORM
}

/// Returns the charset of a content type where it is another one than UTF-8 or its subset US-ASCII.
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

/// Encodes bytes as `value_base64` has them: padded, with the standard alphabet.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes padded base64 of the standard alphabet.
///
/// # Errors
/// The reason.
pub(crate) fn from_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    STANDARD.decode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charset_other_than_utf_8_is_found() {
        for ours in ["text/plain", "a/b; charset=utf-8", "a/b;Charset=\"UTF-8\"; x=y", "a/b; charset=us-ascii"] {
            assert_eq!(foreign_charset(ours), None, "{ours}");
        }
        assert_eq!(foreign_charset("application/json; charset=iso-8859-1"), Some("iso-8859-1"));
        assert_eq!(foreign_charset("a/b; x=y; charset=\"utf-16\""), Some("utf-16"));
    }
}
