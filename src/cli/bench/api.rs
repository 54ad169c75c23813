//! Operations as HTTP requests, for huskv and for what it is compared with.
//!
//! Why: two systems are compared fairly only by one generator, so it speaks to both: huskv's own routes, and the JSON
//! gateway of etcd (`/v3/kv/put` and `/v3/kv/range`, keys and values in base64).
//!
//! Laws: a request is written into a buffer that is used again, without a structure in between.
//!
//! Not here: sending it (`line`).

use std::io::Write;

/// Which system is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// This one.
    Huskv,
    /// The JSON gateway of etcd 3.
    Etcd,
}

/// One kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write.
    Put,
    /// A read.
    Get,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// As asked.
    Done,
    /// A read of a key that is not there; an answer like any other.
    Missing,
    /// Not as asked, and why in few words.
    Failed(String),
}

impl Api {
    /// Writes a put of `value`, which has no character that JSON escapes.
    pub(super) fn put(self, out: &mut Vec<u8>, host: &str, key: &str, value: &[u8]) {
        let (path, around) = match self {
            Self::Huskv => ("/store", key.len() + value.len() + r#"{"key":"","value":""}"#.len()),
            Self::Etcd => {
                ("/v3/kv/put", sixty_four(key.len()) + sixty_four(value.len()) + r#"{"key":"","value":""}"#.len())
            }
        };
        head(out, "POST", path, host, Some(around));
        out.extend_from_slice(br#"{"key":""#);
        self.text(out, key.as_bytes());
        out.extend_from_slice(br#"","value":""#);
        self.text(out, value);
        out.extend_from_slice(br#""}"#);
    }

    /// Writes a linearizable get, or a local one.
    pub(super) fn get(self, out: &mut Vec<u8>, host: &str, key: &str, stale: bool) {
        match self {
            Self::Huskv => {
                let query = if stale { "?consistency=stale" } else { "" };
                head(out, "GET", &format!("/store/{key}{query}"), host, None);
            }
            Self::Etcd => {
                let end = if stale { r#"","serializable":true}"# } else { r#""}"# };
                let length = sixty_four(key.len()) + r#"{"key":""#.len() + end.len();
                head(out, "POST", "/v3/kv/range", host, Some(length));
                out.extend_from_slice(br#"{"key":""#);
                self.text(out, key.as_bytes());
                out.extend_from_slice(end.as_bytes());
            }
        }
    }

    fn text(self, out: &mut Vec<u8>, bytes: &[u8]) {
        match self {
            Self::Huskv => out.extend_from_slice(bytes),
            Self::Etcd => base64(out, bytes),
        }
    }

    /// What an answer to a `kind` means.
    pub(super) fn ending(self, kind: Kind, status: u16, body: &[u8]) -> Ending {
        let holds = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        match (self, kind, status) {
            (Self::Huskv, Kind::Get, 404) => Ending::Missing,
            (Self::Etcd, Kind::Get, 200) if !holds(br#""kvs""#) => Ending::Missing,
            (_, _, 200) => Ending::Done,
            _ => Ending::Failed(format!("{status} {}", code(body))),
        }
    }
}

fn head(out: &mut Vec<u8>, method: &str, path: &str, host: &str, length: Option<usize>) {
    out.clear();
    // Writing to memory does not fail.
    write!(out, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n").ok();
    if let Some(length) = length {
        write!(out, "Content-Type: application/json\r\nContent-Length: {length}\r\n").ok();
    }
    out.extend_from_slice(b"\r\n");
}

/// The stable word of a failure, or how its body begins.
fn code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let word = text.split_once(r#""code":""#).and_then(|(_, rest)| rest.split('"').next());
    word.map_or_else(|| text.chars().take(60).collect::<String>().trim().to_owned(), str::to_owned)
}

/// How long so many bytes are in base64.
fn sixty_four(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for three in bytes.chunks(3) {
        let at = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= three.len() { digit } else { b'=' });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> (String, serde_json::Value) {
        let mut out = b"left over".to_vec();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        if let Some((_, length)) = head.split_once("Content-Length: ") {
            assert_eq!(length.parse::<usize>().unwrap(), body.len(), "{text}");
        }
        (head.to_owned(), serde_json::from_str(body).unwrap_or_default())
    }

    #[test]
    fn requests_are_whole() {
        let (head, body) = written(|out| Api::Huskv.put(out, "h:1", "k1", b"vw"));
        assert!(head.starts_with("POST /store HTTP/1.1\r\nHost: h:1\r\n"), "{head}");
        assert_eq!(body, serde_json::json!({"key": "k1", "value": "vw"}));
        let (head, _) = written(|out| Api::Huskv.get(out, "h:1", "k1", false));
        assert_eq!(head, "GET /store/k1 HTTP/1.1\r\nHost: h:1");
        let (head, _) = written(|out| Api::Huskv.get(out, "h:1", "k1", true));
        assert!(head.starts_with("GET /store/k1?consistency=stale HTTP/1.1"), "{head}");
        for value in [&b""[..], b"f", b"fo", b"foo", b"foob"] {
            let (_, body) = written(|out| Api::Etcd.put(out, "h:1", "foobar", value));
            let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="][value.len()];
            assert_eq!(body, serde_json::json!({"key": "Zm9vYmFy", "value": expected}));
        }
        let (_, body) = written(|out| Api::Etcd.get(out, "h:1", "f", true));
        assert_eq!(body, serde_json::json!({"key": "Zg==", "serializable": true}));
    }

    #[test]
    fn answers_are_understood() {
        assert_eq!(Api::Huskv.ending(Kind::Get, 200, b""), Ending::Done);
        assert_eq!(Api::Huskv.ending(Kind::Get, 404, b""), Ending::Missing);
        assert_eq!(Api::Etcd.ending(Kind::Get, 200, br#"{"header":{}}"#), Ending::Missing);
        assert_eq!(Api::Etcd.ending(Kind::Get, 200, br#"{"kvs":[{}]}"#), Ending::Done);
        let busy = br#"{"title":"t","code":"overloaded","error":"e"}"#;
        assert_eq!(Api::Huskv.ending(Kind::Put, 503, busy), Ending::Failed("503 overloaded".into()));
        assert_eq!(Api::Huskv.ending(Kind::Put, 404, b"none here\n"), Ending::Failed("404 none here".into()));
    }
}
