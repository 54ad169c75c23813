//! Target systems of the benchmark, huskv and etcd: an operation as an HTTP/1 request to each.
//!
//! Why: a fair comparison needs one generator for both systems: huskv's own routes, and the JSON gateway of etcd
//! (`/v3/kv/put` and `/v3/kv/range`, keys and values in base64). etcd's gRPC port speaks neither HTTP/1 nor JSON.
//!
//! Invariants: a request is written into a buffer that is reused, without an intermediate structure.
//!
//! See also: `raw_client`, which sends it; `grpc_client` for etcd's gRPC port.

use std::io::Write;

/// The API of the system under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    /// Over HTTP/1.
    Http(HttpApi),
    /// The gRPC port of etcd 3.
    EtcdGrpc,
}

/// An API over HTTP/1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpApi {
    /// A huskv node.
    Huskv,
    /// The JSON gateway of etcd 3.
    Etcd,
}

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// A write.
    Put,
    /// A read.
    Get,
}

/// The result of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OperationResult {
    /// Success.
    Done,
    /// A read of a key that does not exist; a success too.
    Missing,
    /// A failure, with a short reason.
    Failed(String),
}

impl HttpApi {
    /// Writes a put of `value`, which has no character that JSON escapes.
    pub(super) fn put(self, out: &mut Vec<u8>, host: &str, key: &str, value: &[u8]) {
        let (path, length) = match self {
            Self::Huskv => ("/store", key.len() + value.len() + r#"{"key":"","value":""}"#.len()),
            Self::Etcd => {
                ("/v3/kv/put", base64_len(key.len()) + base64_len(value.len()) + r#"{"key":"","value":""}"#.len())
            }
        };
        write_head(out, "POST", path, host, Some(length));
        out.extend_from_slice(br#"{"key":""#);
        self.write_text(out, key.as_bytes());
        out.extend_from_slice(br#"","value":""#);
        self.write_text(out, value);
        out.extend_from_slice(br#""}"#);
    }

    /// Writes a linearizable get, or a local one.
    pub(super) fn get(self, out: &mut Vec<u8>, host: &str, key: &str, stale: bool) {
        match self {
            Self::Huskv => {
                let query = if stale { "?consistency=stale" } else { "" };
                write_head(out, "GET", &format!("/store/{key}{query}"), host, None);
            }
            Self::Etcd => {
                let end = if stale { r#"","serializable":true}"# } else { r#""}"# };
                let length = base64_len(key.len()) + r#"{"key":""#.len() + end.len();
                write_head(out, "POST", "/v3/kv/range", host, Some(length));
                out.extend_from_slice(br#"{"key":""#);
                self.write_text(out, key.as_bytes());
                out.extend_from_slice(end.as_bytes());
            }
        }
    }

    fn write_text(self, out: &mut Vec<u8>, bytes: &[u8]) {
        match self {
            Self::Huskv => out.extend_from_slice(bytes),
            Self::Etcd => write_base64(out, bytes),
        }
    }

    /// Classifies a response.
    pub(super) fn classify(self, operation: Operation, status: u16, body: &[u8]) -> OperationResult {
        let holds = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
        match (self, operation, status) {
            (Self::Huskv, Operation::Get, 404) => OperationResult::Missing,
            (Self::Etcd, Operation::Get, 200) if !holds(br#""kvs""#) => OperationResult::Missing,
            (_, _, 200) => OperationResult::Done,
            _ => OperationResult::Failed(format!("{status} {}", code(body))),
        }
    }
}

/// Writes a request for a page of huskv.
pub(super) fn page(out: &mut Vec<u8>, host: &str, path: &str) {
    write_head(out, "GET", path, host, None);
}

fn write_head(out: &mut Vec<u8>, method: &str, path: &str, host: &str, length: Option<usize>) {
    out.clear();
    // Writing to memory does not fail.
    write!(out, "{method} {path} HTTP/1.1\r\nHost: {host}\r\n").ok();
    if let Some(length) = length {
        write!(out, "Content-Type: application/json\r\nContent-Length: {length}\r\n").ok();
    }
    out.extend_from_slice(b"\r\n");
}

/// The stable code of a failure, or the beginning of its body.
fn code(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let word = text.split_once(r#""code":""#).and_then(|(_, rest)| rest.split('"').next());
    word.map_or_else(|| text.chars().take(60).collect::<String>().trim().to_owned(), str::to_owned)
}

/// The length of `bytes` bytes in base64.
fn base64_len(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        // Three bytes are four digits of six bits; a chunk of one byte gives two digits and `==`, of two bytes three
        // and `=`.
        let at = |place: usize| u32::from(chunk.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit } else { b'=' });
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
    fn requests_have_the_right_path_and_body() {
        let (head, body) = written(|out| HttpApi::Huskv.put(out, "h:1", "k1", b"vw"));
        assert!(head.starts_with("POST /store HTTP/1.1\r\nHost: h:1\r\n"), "{head}");
        assert_eq!(body, serde_json::json!({"key": "k1", "value": "vw"}));
        let (head, _) = written(|out| HttpApi::Huskv.get(out, "h:1", "k1", false));
        assert_eq!(head, "GET /store/k1 HTTP/1.1\r\nHost: h:1");
        let (head, _) = written(|out| HttpApi::Huskv.get(out, "h:1", "k1", true));
        assert!(head.starts_with("GET /store/k1?consistency=stale HTTP/1.1"), "{head}");
        for value in [&b""[..], b"f", b"fo", b"foo", b"foob"] {
            let (_, body) = written(|out| HttpApi::Etcd.put(out, "h:1", "foobar", value));
            let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="][value.len()];
            assert_eq!(body, serde_json::json!({"key": "Zm9vYmFy", "value": expected}));
        }
        let (_, body) = written(|out| HttpApi::Etcd.get(out, "h:1", "f", true));
        assert_eq!(body, serde_json::json!({"key": "Zg==", "serializable": true}));
    }

    #[test]
    fn responses_are_classified() {
        assert_eq!(HttpApi::Huskv.classify(Operation::Get, 200, b""), OperationResult::Done);
        assert_eq!(HttpApi::Huskv.classify(Operation::Get, 404, b""), OperationResult::Missing);
        assert_eq!(HttpApi::Etcd.classify(Operation::Get, 200, br#"{"header":{}}"#), OperationResult::Missing);
        assert_eq!(HttpApi::Etcd.classify(Operation::Get, 200, br#"{"kvs":[{}]}"#), OperationResult::Done);
        let busy = br#"{"title":"t","code":"overloaded","error":"e"}"#;
        assert_eq!(
            HttpApi::Huskv.classify(Operation::Put, 503, busy),
            OperationResult::Failed("503 overloaded".into())
        );
        assert_eq!(
            HttpApi::Huskv.classify(Operation::Put, 404, b"none here\n"),
            OperationResult::Failed("404 none here".into())
        );
    }
}
