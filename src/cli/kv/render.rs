//! How an item looks on a terminal: a line with the key, a tab, and the value.
//!
//! Why: lists and watches are read by people; programs take `--json`, where nothing is left out.
//!
//! Laws: one item is one line, and no stored byte steers the terminal.
//!
//! Not here: `get`, which prints a value as it is.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::cli::common::ExitError;

/// What is read of an item; of a removal the value is null.
#[derive(Deserialize)]
struct Item<'a> {
    key: String,
    #[serde(borrow)]
    value: &'a RawValue,
    value_base64: Option<String>,
    content_type: Option<String>,
}

/// An item, or a key alone, as one line.
pub(crate) fn item(item: &RawValue) -> Result<String, ExitError> {
    let unreadable = |error| ExitError::failed(format_args!("the node sent an item that is none: {error}"));
    if item.get().starts_with('"') {
        let key: String = serde_json::from_str(item.get()).map_err(unreadable)?;
        return Ok(plain(&key));
    }
    let Item { key, value, value_base64, content_type } = serde_json::from_str(item.get()).map_err(unreadable)?;
    let shown = match (value_base64, content_type) {
        (Some(encoded), kind) => {
            let padding = encoded.bytes().rev().take_while(|byte| *byte == b'=').count();
            format!("({} bytes of {})", encoded.len() / 4 * 3 - padding.min(2), kind.unwrap_or_default())
        }
        // Without a type there is no value.
        (None, None) => return Ok(plain(&key)),
        (None, Some(kind)) if kind.starts_with("text/") => serde_json::from_str(value.get()).map_err(unreadable)?,
        (None, Some(_)) => value.get().to_owned(),
    };
    Ok(format!("{}\t{}", plain(&key), plain(&shown)))
}

/// JSON as one line; what stored JSON has between its tokens may hold line ends, and a string never does.
pub(crate) fn json(text: &RawValue) -> String {
    text.get().replace(['\n', '\r'], " ")
}

fn plain(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        item(&RawValue::from_string(text.to_owned()).unwrap()).unwrap()
    }

    #[test]
    fn an_item_is_one_line_that_steers_no_terminal() {
        assert_eq!(
            shown(r#"{"key":"a","value":"b\nc\u001b","version":1,"content_type":"text/plain"}"#),
            "a\tb\\nc\\u{1b}"
        );
        assert_eq!(shown(r#"{"key":"a","value":{"n": 1.10},"content_type":"application/json"}"#), "a\t{\"n\": 1.10}");
        let binary = r#"{"key":"a","value":null,"value_base64":"YWI=","content_type":"image/png"}"#;
        assert_eq!(shown(binary), "a\t(2 bytes of image/png)");
        assert_eq!(shown(r#"{"key":"a","value":null,"version":7}"#), "a");
        assert_eq!(shown(r#""a\tb""#), "a\\tb");
        assert_eq!(json(&RawValue::from_string("{\"a\":\n\"\\n\"}".to_owned()).unwrap()), "{\"a\": \"\\n\"}");
    }
}
