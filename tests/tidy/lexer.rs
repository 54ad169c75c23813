//! Just enough of Rust's lexical rules to tell code from comments and texts.
//!
//! Not here: syntax. Rules look at words.

/// The text with comments gone and the inside of texts and characters emptied; lines stay where they are.
pub fn code_only(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1).copied()) {
            ('/', Some('/')) => until(&chars, at, '\n'),
            ('/', Some('*')) => block_comment(&chars, at),
            ('"', _) => quoted(&chars, at),
            ('r', Some('"' | '#')) if !follows_a_word(&chars, at) => raw(&chars, at).unwrap_or(at),
            ('\'', Some('\\')) => until(&chars, at + 3, '\'') + 1,
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        if chars[at] != '/' {
            out.push_str("\"\"");
        }
        out.extend(chars[at..end.min(chars.len())].iter().filter(|c| **c == '\n'));
        at = end;
    }
    out
}

fn until(chars: &[char], from: usize, what: char) -> usize {
    (from..chars.len()).find(|at| chars[*at] == what).unwrap_or(chars.len())
}

fn follows_a_word(chars: &[char], at: usize) -> bool {
    // In `br"..."` the letter before belongs to the text.
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') && chars[at - 1] != 'b'
}

fn block_comment(chars: &[char], from: usize) -> usize {
    let mut depth = 0;
    let mut at = from;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn quoted(chars: &[char], from: usize) -> usize {
    let mut at = from + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// A raw text, or None where this is a raw identifier.
fn raw(chars: &[char], from: usize) -> Option<usize> {
    let hashes = chars[from + 1..].iter().take_while(|c| **c == '#').count();
    let open = from + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes =
        |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    Some((open + 1..chars.len()).find(closes).map_or(chars.len(), |at| at + 1 + hashes))
}

/// Code without the modules and items that exist only in tests.
pub fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut out = String::new();
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        out.push_str(&rest[..at]);
        rest = &rest[at + MARK.len()..];
        let ends_at = rest.find(';').unwrap_or(rest.len());
        rest = match rest.find('{') {
            Some(open) if open < ends_at => &rest[closing(rest, open)..],
            _ => &rest[(ends_at + 1).min(rest.len())..],
        };
    }
    out.push_str(rest);
    out
}

fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + at + 1;
        }
    }
    code.len()
}

/// Words, `::`, and every other sign by itself.
pub fn words(code: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut joins = false;
    for c in code.chars() {
        let word = c.is_alphanumeric() || c == '_';
        match found.last_mut() {
            Some(last) if word && joins => last.push(c),
            Some(last) if c == ':' && last == ":" && !joins => last.push(c),
            _ if c.is_whitespace() => {}
            _ => found.push(c.to_string()),
        }
        joins = word;
    }
    found
}

#[test]
fn comments_and_texts_are_not_code() {
    assert_eq!(code_only("a // b\nc /* d /* e */ */ f"), "a \nc  f");
    assert_eq!(
        code_only(r##"x("a\"b", r#"c"d"#, 'e', '\'', b"f") &'life g"##),
        "x(\"\", \"\", \"\", \"\", b\"\") &'life g"
    );
    assert_eq!(code_only("r#type var\"y\""), "r#type var\"\"");
}

#[test]
fn words_are_split_at_signs() {
    assert_eq!(words("use a::{b_1, c as d};"), ["use", "a", "::", "{", "b_1", ",", "c", "as", "d", "}", ";"]);
}
