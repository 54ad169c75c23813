//! The token file: TOML with one `[[token]]` table for each token.
//!
//! ```toml
//! [[token]]
//! name = "billing"
//! sha256 = "..."                                      # of the secret, in hex; or cert = "CN=billing"
//! allow = [{ prefix = "billing/", do = ["read", "write"] }]
//! metrics = true                                      # GET /metrics, /events, /load, /cluster/overview; no key
//! expires = "2027-01-31T00:00:00Z"                    # or never
//! ```
//!
//! Invariants: an unknown key is an error, because a misspelt `expires` would be a token that never ends. Names, hashes and subjects are
//! unique. An error names the token, and repeats no hash.
//!
//! See also: when the file is read ([`super::TokenStore`]).

use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;
use toml::{Table, Value};

use super::expiry::parse_expiry;
use super::token_set::{Credential, Grant, Token, TokenSet};
use crate::model::TokenName;

/// The maximum size of a file in bytes.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 20;
/// The maximum number of tokens; each request is compared with all of them.
const MAX_TOKENS: usize = 1024;
/// The maximum length of a common name.
const COMMON_NAME_BYTES: usize = 64;
/// The maximum length of a prefix: no key is longer.
const PREFIX_BYTES: usize = 1024;

/// What is wrong with a token file, in one line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TokenFileError(pub(super) String);

/// Parses the content of a token file.
///
/// # Errors
/// [`TokenFileError`] with the first thing that is wrong.
pub fn parse(content: &[u8]) -> Result<TokenSet, TokenFileError> {
    let text = std::str::from_utf8(content).map_err(|_| wrong("it is not UTF-8"))?;
    let table: Table = toml::from_str(text).map_err(|problem| {
        let line = problem.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        wrong(format!("line {line}: {}", problem.message().replace('\n', " ")))
    })?;
    if let Some(unknown) = table.keys().find(|key| *key != "token") {
        return Err(wrong(format!("unknown key {unknown:?}; a file has [[token]] tables only")));
    }
    let Some(Value::Array(tables)) = table.get("token") else {
        return Err(wrong("it has no [[token]] table; with none, no request would be answered"));
    };
    if tables.is_empty() || tables.len() > MAX_TOKENS {
        return Err(wrong(format!("it has {} tokens, not from 1 to {MAX_TOKENS}", tables.len())));
    }
    let mut tokens: Vec<Arc<Token>> = Vec::with_capacity(tables.len());
    for (place, value) in tables.iter().enumerate() {
        let named = value.get("name").and_then(Value::as_str).filter(|name| TokenName::is_valid(name));
        // Without a name that can be printed, the place has to do.
        let place = named.map_or_else(|| format!("token {}", place + 1), |name| format!("token {name:?}"));
        let token = parse_token(value).map_err(|why| wrong(format!("{place}: {why}")))?;
        for other in &tokens {
            if other.name == token.name {
                return Err(wrong(format!("{place}: another token has this name")));
            }
            if other.credential == token.credential {
                return Err(wrong(format!("{place}: token \"{}\" has the same sha256 or cert", other.name)));
            }
        }
        tokens.push(Arc::new(token));
    }
    Ok(TokenSet(tokens))
}

fn wrong(problem: impl Into<String>) -> TokenFileError {
    // A file can hold any character in a key, and the error must stay one line.
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    TokenFileError(problem.into().chars().map(shown).collect())
}

/// Whether this is a subject of a single common name. Subjects are compared as text, in which `O=a, CN=b` could also be an organization
/// with a comma in its name.
fn is_common_name(subject: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-@ ".contains(c);
    subject
        .strip_prefix("CN=")
        .is_some_and(|name| (1..=COMMON_NAME_BYTES).contains(&name.len()) && name.chars().all(plain))
}

fn parse_token(value: &Value) -> Result<Token, String> {
    let table = value.as_table().ok_or("it is no table")?;
    known_keys(table, &["name", "sha256", "cert", "allow", "admin", "metrics", "expires"])?;
    let name: TokenName = text(table, "name")?.ok_or("name is missing")?.parse()?;
    let credential = match (text(table, "sha256")?, text(table, "cert")?) {
        (Some(hex), None) => Credential::Sha256(parse_hash(hex)?),
        (None, Some(subject)) if is_common_name(subject) => Credential::Certificate(subject.to_owned()),
        (None, Some(_)) => return Err("cert must be a subject of one common name, such as CN=billing".to_owned()),
        (None, None) => return Err("sha256 (of the secret) or cert is missing".to_owned()),
        (Some(_), Some(_)) => return Err("sha256 and cert exclude each other; use two tokens".to_owned()),
    };
    let (admin, metrics) = (flag(table, "admin")?, flag(table, "metrics")?);
    let grants = match table.get("allow") {
        None => Vec::new(),
        Some(Value::Array(grants)) => grants.iter().map(parse_grant).collect::<Result<_, _>>()?,
        Some(_) => return Err("allow must be a list of {prefix, do}".to_owned()),
    };
    if grants.is_empty() && !admin && !metrics {
        return Err("it allows nothing; give it allow = [{prefix, do}], metrics = true or admin = true".to_owned());
    }
    Ok(Token { name, credential, grants, admin, metrics, expires: expires(table)? })
}

/// Parses one element of `allow`.
fn parse_grant(value: &Value) -> Result<Grant, String> {
    let table = value.as_table().ok_or("an element of allow is no table {prefix, do}")?;
    known_keys(table, &["prefix", "do"]).map_err(|why| format!("allow: {why}"))?;
    let prefix = text(table, "prefix")?.ok_or("allow: prefix is missing; \"\" is every key")?;
    if prefix.len() > PREFIX_BYTES {
        return Err(format!("allow: prefix has {} bytes, no key has over {PREFIX_BYTES}", prefix.len()));
    }
    let actions = table.get("do").and_then(Value::as_array).filter(|actions| !actions.is_empty());
    let mut grant = Grant { prefix: prefix.to_owned(), read: false, write: false };
    for action in actions.ok_or("allow: do must be a list of \"read\" and \"write\"")? {
        match action.as_str() {
            Some("read") => grant.read = true,
            Some("write") => grant.write = true,
            _ => return Err("allow: do must be a list of \"read\" and \"write\"".to_owned()),
        }
    }
    Ok(grant)
}

fn known_keys(table: &Table, known: &[&str]) -> Result<(), String> {
    let unknown = table.keys().find(|key| !known.contains(&key.as_str()));
    unknown.map_or(Ok(()), |key| Err(format!("unknown key {key:?}, known are {}", known.join(", "))))
}

fn text<'a>(table: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    table.get(key).map(|value| value.as_str().ok_or_else(|| format!("{key} must be a text in quotes"))).transpose()
}

/// Parses an optional `true` or `false`.
fn flag(table: &Table, key: &str) -> Result<bool, String> {
    let Some(value) = table.get(key) else { return Ok(false) };
    value.as_bool().ok_or_else(|| format!("{key} must be true or false"))
}

/// Parses `expires`, a text or a TOML time.
fn expires(table: &Table) -> Result<Option<SystemTime>, String> {
    let text = match table.get("expires") {
        None => return Ok(None),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Datetime(time)) => time.to_string(),
        Some(_) => return Err("expires must be an RFC 3339 time".to_owned()),
    };
    parse_expiry(&text).map(Some).map_err(|why| format!("expires: {why}"))
}

fn parse_hash(hex: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    // The text is not repeated: it may be the secret, put into the wrong place.
    let wrong = "sha256 must be 64 hexadecimal digits";
    if hex.len() != 2 * hash.len() || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong.to_owned());
    }
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).map_err(|_| wrong)?;
    }
    Ok(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

    #[test]
    fn a_complete_file_is_read() {
        let text = format!(
            "[[token]]\nname = \"a\"\nsha256 = \"{HASH}\"\nexpires = 2027-01-31T00:00:00Z\n\
             allow = [{{prefix = \"x/\", do = [\"read\", \"write\"]}}, {{prefix = \"\", do = [\"read\"]}}]\n\
             [[token]]\nname = \"b\"\ncert = \"CN=b\"\nadmin = true\nexpires = \"2027-01-31T00:00:00Z\"\n"
        );
        let TokenSet(tokens) = parse(text.as_bytes()).unwrap();
        assert_eq!((tokens[0].grants.len(), tokens[0].admin, tokens[1].admin), (2, false, true));
        assert_eq!(tokens[0].credential, Credential::Sha256([15; 32]));
        assert_eq!(tokens[1].credential, Credential::Certificate("CN=b".into()));
        assert!(tokens[0].expires.is_some() && tokens[0].expires == tokens[1].expires);
    }

    #[test]
    fn an_error_names_the_token_and_what_is_wrong() {
        let hash = format!("sha256 = \"{HASH}\"");
        let admin = "admin = true";
        for (body, problem) in [
            ("name = \"a\"".to_owned(), "token \"a\": sha256 (of the secret) or cert is missing"),
            (format!("{hash}\n{admin}"), "token 1: name is missing"),
            (format!("name = \"a b\"\n{hash}\n{admin}"), "token 1: name must be"),
            (format!("name = \"{}\"\n{hash}\n{admin}", "a".repeat(65)), "token 1: name must be"),
            (format!("name = \"a\"\n{hash}"), "token \"a\": it allows nothing"),
            (format!("name = \"a\"\n{hash}\nallow = []"), "token \"a\": it allows nothing"),
            (format!("name = \"a\"\n{hash}\ncert = \"CN=a\"\n{admin}"), "exclude each other"),
            (format!("name = \"a\"\ncert = \"a\"\n{admin}"), "a subject of one common name"),
            (format!("name = \"a\"\ncert = \"O=b, CN=a\"\n{admin}"), "a subject of one common name"),
            (format!("name = \"a\"\ncert = \"CN=a, O=b\"\n{admin}"), "a subject of one common name"),
            (format!("name = \"a\"\n{hash}\n{admin}\nexpire = \"x\""), "token \"a\": unknown key \"expire\""),
            (format!("name = \"a\"\n{hash}\n{admin}\nexpires = \"x\""), "expires: \"x\" is no RFC 3339 time"),
            (format!("name = \"a\"\n{hash}\n{admin}\nexpires = 2027-01-31"), "is no RFC 3339 time"),
            (format!("name = \"a\"\n{hash}\nadmin = 1"), "admin must be true or false"),
            (format!("name = \"a\"\n{hash}\nmetrics = \"yes\""), "metrics must be true or false"),
            (format!("name = \"a\"\n{hash}\nmetrics = false"), "it allows nothing"),
            (format!("name = \"a\"\nsha256 = \"hkv_x\"\n{admin}"), "sha256 must be 64 hexadecimal digits"),
            (format!("name = \"a\"\n{hash}\nallow = [{{prefix = \"\", do = [\"delete\"]}}]"), "do must be a list"),
            (format!("name = \"a\"\n{hash}\nallow = [{{prefix = \"\", do = []}}]"), "do must be a list"),
            (format!("name = \"a\"\n{hash}\nallow = [{{do = [\"read\"]}}]"), "prefix is missing"),
            (
                format!("name = \"a\"\n{hash}\nallow = [{{prefix = \"\", to = [\"read\"]}}]"),
                "allow: unknown key \"to\"",
            ),
            (format!("name = \"a\"\n{hash}\nallow = \"all\""), "allow must be a list"),
            (
                format!("name = \"a\"\n{hash}\n{admin}\n[[token]]\nname = \"a\"\ncert = \"CN=a\"\n{admin}"),
                "has this name",
            ),
            (
                format!("name = \"a\"\n{hash}\n{admin}\n[[token]]\nname = \"b\"\n{hash}\n{admin}"),
                "token \"a\" has the same",
            ),
            ("name = ".to_owned(), "line 2: "),
        ] {
            let error = parse(format!("[[token]]\n{body}\n").as_bytes()).unwrap_err().to_string();
            assert!(error.contains(problem) && !error.contains('\n'), "{body}: {error}");
            assert!(!error.contains("hkv_x") && !error.contains(HASH), "{error}");
        }
        for (text, problem) in [
            (&b""[..], "no [[token]] table"),
            (b"token = []", "0 tokens"),
            (b"tokens = 1", "unknown key \"tokens\""),
            (b"token = 1", "no [[token]] table"),
            (b"\xff", "not UTF-8"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(problem), "{problem}");
        }
        let many = format!("[[token]]\nname = \"a\"\n{hash}\n{admin}\n").repeat(MAX_TOKENS + 1);
        assert!(parse(many.as_bytes()).unwrap_err().to_string().contains("1025 tokens"));
    }
}
