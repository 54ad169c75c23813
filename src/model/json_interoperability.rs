//! Interoperability limits of JSON values.
//!
//! Why: a JSON value is embedded verbatim in pages and events, so one value that a common parser refuses makes the whole page
//! unreadable.
//!
//! Invariants: at most [`DEPTH`] levels; surrogates in `\u` escapes come in pairs (RFC 8259, section 8.2); a number has at most
//! [`DIGITS`] digits and is within the range of a double (section 6). The input is known to be JSON. A client's value has the
//! stricter [`VALUE_DEPTH`] and [`EXPONENT`], too: only where its request arrives, so every node applies a log alike.
//!
//! See also: [`validate::json`](crate::model::validate::json).

/// The maximum nesting of a value in a command. Common parsers stop at 128.
pub const DEPTH: usize = 100;
/// The maximum nesting of a client's value. .NET's parser stops at 64 levels and Ruby's at 100; pages and the results of
/// transactions add [`RESPONSE_DEPTH`], which leaves 4 to an application that embeds a response.
pub const VALUE_DEPTH: usize = 56;
/// The levels that a response has around a value, at most: `{"data":{"items":[{"value":` of a page.
pub const RESPONSE_DEPTH: usize = 4;
/// The maximum exponent in a client's value, either sign: a double ends at 308, and Java's `BigDecimal` refuses 99999999999
/// even where the number is 0.
pub const EXPONENT: u32 = 400;
/// The maximum digits of a number: jq and Python's `int` refuse numbers of some thousands.
pub const DIGITS: usize = 1_000;

/// The UTF-8 byte order mark that some editors write; JSON must not begin with it (RFC 8259, section 8.1).
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Checks `text`, which is valid JSON.
///
/// # Errors
/// The reason, to continue a sentence.
pub fn check(text: &str) -> Result<(), String> {
    check_bounds(text, DEPTH, None)
}

/// Checks `text`, which is the value of a client and valid JSON: as [`check`], with [`VALUE_DEPTH`] and [`EXPONENT`].
///
/// # Errors
/// The reason, to continue a sentence.
pub fn check_value(text: &str) -> Result<(), String> {
    check_bounds(text, VALUE_DEPTH, Some(EXPONENT))
}

fn check_bounds(text: &str, max_depth: usize, max_exponent: Option<u32>) -> Result<(), String> {
    let bytes = text.as_bytes();
    // One pass over the bytes without a parser: the text is valid JSON, so a quote begins a string, and a digit or minus a
    // number.
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'"' => end_of_string(bytes, at + 1)?,
            b'-' | b'0'..=b'9' => end_of_number(text, at, max_exponent)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > max_depth {
                    return Err(format!("is nested deeper than {max_depth} levels"));
                }
                at + 1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            _ => at + 1,
        };
    }
    Ok(())
}

/// Returns the reason why bytes are no JSON where a parser's message would hide it: UTF-16, a byte order mark, or half of a
/// surrogate pair. The words continue a sentence.
#[must_use]
pub fn hint(bytes: &[u8]) -> Option<String> {
    // Without a mark: JSON begins with two ASCII characters, so in UTF-16 every other byte is zero.
    let utf_16 = match bytes {
        [0xff, 0xfe, ..] => Some("UTF-16 with the byte order mark FF FE"),
        [0xfe, 0xff, ..] => Some("UTF-16 with the byte order mark FE FF"),
        [0, a, 0, b, ..] | [a, 0, b, 0, ..] if *a != 0 && *b != 0 => Some("UTF-16"),
        _ => None,
    };
    if let Some(what) = utf_16 {
        return Some(format!("is {what}; JSON is sent as UTF-8"));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Some("begins with a byte order mark, which JSON may not have; leave its three bytes out".to_owned());
    }
    if let Some(at) = mark_between_strings(bytes) {
        return Some(format!("has a byte order mark at byte {at}, which JSON may have only within a string"));
    }
    // The parser stopped at the surrogate, so the text before it is valid, and `check` finds the same place.
    check(std::str::from_utf8(bytes).ok()?).err().filter(|why| why.contains("surrogate"))
}

fn mark_between_strings(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut in_string) = (0, false);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            _ if !in_string && bytes[at..].starts_with(BYTE_ORDER_MARK) => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

/// Returns the end of the string whose content begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, String> {
    loop {
        match bytes.get(at) {
            None => return Ok(at),
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => {
                let low = |unit: u16| (0xdc00..0xe000).contains(&unit);
                // `\ud83d\ude00` is one character of two escapes, 12 bytes. A high half without a low one behind it, or a
                // low half alone, is no character: serde_json accepts it in a value that is skipped, and jq and Python
                // refuse the whole page.
                at = match unit(bytes, at) {
                    Some(0xd800..0xdc00) if unit(bytes, at + 6).is_some_and(low) => at + 12,
                    Some(half @ 0xd800..0xe000) => {
                        return Err(format!("has the lone surrogate \\u{half:04x}, which is no character"));
                    }
                    Some(_) => at + 6,
                    // Another escape, such as `\"`, which must not end the string.
                    None => at + 2,
                };
            }
            Some(_) => at += 1,
        }
    }
}

/// Returns the UTF-16 code unit of the escape at `at`, if it is one.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Returns the end of the number that begins at `at`.
fn end_of_number(text: &str, at: usize, max_exponent: Option<u32>) -> Result<usize, String> {
    let rest = &text[at..];
    let of_number = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    let number = &rest[..rest.bytes().position(|byte| !of_number(byte)).unwrap_or(rest.len())];
    let shown = if number.len() > 24 { format!("{}...", &number[..24]) } else { number.to_owned() };
    if number.bytes().filter(u8::is_ascii_digit).count() > DIGITS {
        return Err(format!("has the number {shown} of over {DIGITS} digits; write it as a string"));
    }
    if let Some(max) = max_exponent.filter(|max| !is_exponent_within(number, *max)) {
        return Err(format!(
            "has the number {shown}, whose exponent is not within -{max} to {max}; write it as a string"
        ));
    }
    // `1e400` is valid JSON and infinite as a double. `1e-400` is rounded to 0, as every parser does.
    match number.parse::<f64>() {
        Ok(double) if double.is_infinite() => {
            Err(format!("has the number {shown}, which is beyond the range of a double; write it as a string"))
        }
        _ => Ok(at + number.len()),
    }
}

/// Whether the exponent of a number, if it has one, is at most `max` in magnitude.
fn is_exponent_within(number: &str, max: u32) -> bool {
    let Some((_, exponent)) = number.split_once(['e', 'E']) else { return true };
    // `e-0000000001` is 1: zeros in front do not count, and what is longer than a u32 is too large.
    let digits = exponent.trim_start_matches(['+', '-']).trim_start_matches('0');
    digits.is_empty() || digits.parse::<u32>().is_ok_and(|magnitude| magnitude <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_range_and_a_length() {
        let long = |digits: usize| format!("[0.{}]", "1".repeat(digits - 1));
        for text in ["0", "-1.5e-3", "[1.7976931348623157e308, -1E+5]", "1e-400", &long(DIGITS)] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in ["1e400", "{\"a\": -1e309}", &format!("[{}]", "9".repeat(400)), &long(DIGITS + 1)] {
            assert!(check(text).unwrap_err().contains("number"), "{text}");
        }
        assert_eq!(check("\"1e400\""), Ok(()), "a string is no number");
    }

    #[test]
    fn a_clients_value_has_bounds_of_its_own() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check_value(&nested(VALUE_DEPTH)), Ok(()));
        assert!(check_value(&nested(VALUE_DEPTH + 1)).unwrap_err().contains("56 levels"));
        for text in ["1e308", "[1E-400, 0e400, 1e+0000000000308]", "0.5e-0", "\"1e-99999999999\"", "12"] {
            assert_eq!(check_value(text), Ok(()), "{text}");
        }
        for text in ["1e-401", "1e-99999999999", "0e99999999999", "[0E+401]", "{\"e\": 0.0e-4294967297}"] {
            assert!(check_value(text).unwrap_err().contains("exponent is not within -400 to 400"), "{text}");
            assert_eq!(check(text), Ok(()), "{text} in a command");
        }
    }

    #[test]
    fn a_hint_names_the_encoding_mistake() {
        for (bytes, named) in [
            (&b"\xff\xfe{\0}\0"[..], "FF FE"),
            (b"\xfe\xff\0{\0}", "FE FF"),
            (b"{\0\"\0", "UTF-16"),
            (b"\0{\0\"", "UTF-16"),
            (b"\xef\xbb\xbf{}", "begins with a byte order mark"),
            (b"{\"a\\\"\xef\xbb\xbf\":\xef\xbb\xbf1}", "byte order mark at byte 10"),
            (br#"{"\udead":1}"#, r"lone surrogate \udead"),
            (br#""\ud800"#, r"lone surrogate \ud800"),
        ] {
            let why = hint(bytes).unwrap();
            assert!(why.contains(named), "{why}");
        }
        for bytes in
            [&b""[..], b"{", b"{\"a\":1}", b"{\"\xef\xbb\xbf\":1}", b"\0\0\0\0", b"nul", b"-", b"\"\\", b"\xff"]
        {
            assert_eq!(hint(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn surrogates_come_in_pairs() {
        for text in
            [r#""\ud83d\ude00""#, r#"{"\u0041": "\\ud800"}"#, r#"["\\", "\"", "\uD7FF\uE000"]"#, "\"\u{1f600}\""]
        {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            r#"{"s":"\ud800"}"#,
            r#""\uDC00""#,
            r#""\ud800\ud800""#,
            r#"{"\udfff":1}"#,
            r#""\ud800\n""#,
            r#""\ud800x""#,
        ] {
            assert!(check(text).unwrap_err().contains("surrogate"), "{text}");
        }
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(DEPTH)), Ok(()));
        assert!(check(&nested(DEPTH + 1)).is_err());
        assert_eq!(check(&format!(r#"["\"{}", "\\", []]"#, "[".repeat(200))), Ok(()));
    }
}
