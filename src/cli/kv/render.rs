//! Format of an item on a terminal: a line with the key, a tab, and the value.
//!
//! Why: lists and watches are for people; programs use `--json`, which has every field.
//!
//! Invariants: one item is one line, and control characters are escaped.
//!
//! See also: `get`, which prints a value byte for byte.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::exit::ExitError;

/// The fields of an item that are printed; the value of a delete is null.
#[derive(Deserialize)]
struct Item<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    value_base64: Option<String>,
    content_type: Option<String>,
}

/// Formats an item, or a key alone, as one line.
pub(crate) fn item(item: &RawValue) -> Result<String, ExitError> {
    let unreadable = |error| ExitError::failed(format_args!("the node sent an invalid item: {error}"));
    if item.get().starts_with('"') {
        let key: String = serde_json::from_str(item.get()).map_err(unreadable)?;
        return Ok(escape_control(&key));
    }
    let Item { key, value, value_base64, content_type } = serde_json::from_str(item.get()).map_err(unreadable)?;
    let value = match (value_base64, content_type) {
        (Some(encoded), kind) => {
            // Four digits are three bytes, less one for each `=` at the end.
            let padding = encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
            format!("({} bytes of {})", encoded.len() / 4 * 3 - padding.min(2), kind.unwrap_or_default())
        }
        // The event of a delete has neither a type nor a value.
        (None, None) => return Ok(escape_control(&key)),
        (None, Some(kind)) if kind.starts_with("text/") => serde_json::from_str(value.get()).map_err(unreadable)?,
        (None, Some(_)) => value.get().to_owned(),
    };
    Ok(format!("{}\t{}", escape_control(&key), escape_control(&value)))
}

/// Formats JSON as one line: only the space between tokens can hold a line feed, a string cannot.
pub(crate) fn json(text: &RawValue) -> String {
    text.get().replace(['\n', '\r'], " ")
}

/// Returns a text whose control characters are escaped, as for a terminal.
pub(crate) fn escape_control(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str) -> String {
        item(&RawValue::from_string(text.to_owned()).unwrap()).unwrap()
    }

    #[test]
    fn an_item_is_one_line_without_control_characters() {
        assert_eq!(
            rendered(r#"{"key":"a","value":"b\nc\u001b","version":1,"content_type":"text/plain"}"#),
            "a\tb\\nc\\u{1b}"
        );
        assert_eq!(
            rendered(r#"{"key":"a","value":{"n": 1.10},"content_type":"application/json"}"#),
            "a\t{\"n\": 1.10}"
        );
        let binary = r#"{"key":"a","value":null,"value_base64":"YWI=","content_type":"image/png"}"#;
        assert_eq!(rendered(binary), "a\t(2 bytes of image/png)");
        assert_eq!(rendered(r#"{"key":"a","value":null,"version":7}"#), "a");
        assert_eq!(rendered(r#""a\tb""#), "a\\tb");
        assert_eq!(json(&RawValue::from_string("{\"a\":\n\"\\n\"}".to_owned()).unwrap()), "{\"a\": \"\\n\"}");
    }
}
