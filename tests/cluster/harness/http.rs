//! A small blocking HTTP/1.1 client.
//!
//! Why: the tests must send what no polite library sends: paths untouched, two content types, no content type, chunked
//! bodies, a body over the limit; and they must see the answer to the byte.
//!
//! Invariants: every request is bounded in time; a connection serves one request.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// How long a request may take unless it says so: longer than a join's own deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(70);

/// A request in the making.
#[derive(Clone)]
pub struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    chunk: Option<usize>,
    timeout: Duration,
}

impl Request {
    /// `METHOD path`; the path goes out as it is, with its query.
    pub fn new(method: &str, path: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: None,
            chunk: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Adds a header; the same name twice is sent twice.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a secret, unless there is an `Authorization`; an empty one counts and is not sent.
    pub fn or_bearer(self, secret: &str) -> Self {
        let has_own = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if has_own { self } else { self.header("Authorization", &format!("Bearer {secret}")) }
    }

    /// Sends this secret.
    pub fn bearer(self, secret: &str) -> Self {
        self.header("Authorization", &format!("Bearer {secret}"))
    }

    /// Sends no secret, even to a node that is asked with one.
    pub fn anonymous(self) -> Self {
        self.header("Authorization", "")
    }

    /// The body, as it is; no content type is added.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sends the body chunked, `chunk` bytes each, instead of with its length.
    pub fn chunked(mut self, chunk: usize) -> Self {
        self.chunk = Some(chunk);
        self
    }

    /// How long until the whole answer must be there.
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends it to `address` (`host:port`) and reads the answer.
    pub fn send(self, address: &str) -> std::io::Result<Answer> {
        let deadline = Instant::now() + self.timeout;
        let pending = self.open(address)?;
        pending.answer(deadline.saturating_duration_since(Instant::now()))
    }

    /// Sends it and leaves the answer for later.
    pub fn open(self, address: &str) -> std::io::Result<Pending> {
        let mut stream = dial(address, self.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(self.timeout))?;
        // A server may refuse a body that is too long before it has read it all, so a failed write is no failure yet.
        let sent = stream.write_all(&self.bytes(address));
        Ok(Pending { stream, sent, bodiless: self.method == "HEAD" })
    }

    /// Sends it on a connection that is open, such as one of TLS, and reads the answer.
    pub fn send_over(self, mut stream: impl Read + Write, address: &str) -> std::io::Result<Answer> {
        stream.write_all(&self.bytes(address))?;
        stream.flush()?;
        read_answer(&mut BufReader::new(stream), self.method == "HEAD")
    }

    /// Everything that goes out.
    fn bytes(&self, address: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {address}\r\n");
        }
        for (name, value) in self.headers.iter().filter(|(name, value)| name != "Authorization" || !value.is_empty()) {
            head += &format!("{name}: {value}\r\n");
        }
        let mut bytes = head.into_bytes();
        match (&self.body, self.chunk) {
            (None, _) => bytes.extend_from_slice(b"\r\n"),
            (Some(body), None) => {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            (Some(body), Some(chunk)) => {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                for piece in body.chunks(chunk) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

/// Dials `host:port`, at most for `timeout`.
fn dial(address: &str, timeout: Duration) -> std::io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
    let mut last = std::io::Error::other(format!("{address} has no address"));
    for one in addresses {
        match TcpStream::connect_timeout(&one, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A request that was sent and whose answer has not been read.
pub struct Pending {
    stream: TcpStream,
    sent: std::io::Result<()>,
    /// Whether the answer ends with its head, whatever length it names.
    bodiless: bool,
}

impl Pending {
    /// The connection itself, for an answer that has no end.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Reads the answer, at most for `timeout`.
    pub fn answer(self, timeout: Duration) -> std::io::Result<Answer> {
        let deadline = Instant::now() + timeout;
        let mut reader = BufReader::new(Bounded { stream: self.stream, deadline });
        match read_answer(&mut reader, self.bodiless) {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.sent.err().unwrap_or(error)),
        }
    }
}

/// A stream whose reads end at one deadline, however slowly bytes come.
struct Bounded {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}

fn read_line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Reads the head of an answer.
pub fn read_head(reader: &mut impl BufRead) -> std::io::Result<Answer> {
    let first = read_line(reader)?;
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| std::io::Error::other(format!("not HTTP: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) =
            line.split_once(':').ok_or_else(|| std::io::Error::other(format!("not a header: {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Answer { status, headers, body: Vec::new() })
}

fn read_answer(reader: &mut impl BufRead, bodiless: bool) -> std::io::Result<Answer> {
    let mut answer = read_head(reader)?;
    if bodiless || [204, 304].contains(&answer.status) {
        return Ok(answer);
    }
    if answer.header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
        loop {
            let line = read_line(reader)?;
            let length = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
                .map_err(|_| std::io::Error::other(format!("not a chunk length: {line:?}")))?;
            let mut piece = vec![0; length];
            reader.read_exact(&mut piece)?;
            answer.body.extend_from_slice(&piece);
            read_line(reader)?;
            if length == 0 {
                break;
            }
        }
    } else if let Some(length) = answer.header("content-length").and_then(|value| value.parse().ok()) {
        answer.body = vec![0; length];
        reader.read_exact(&mut answer.body)?;
    } else {
        reader.read_to_end(&mut answer.body)?;
    }
    Ok(answer)
}

/// What a node answered.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body, as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The `data` of a success.
    pub fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    /// A member of the body that must be a string; empty where it is none.
    pub fn word(&self, name: &str) -> String {
        self.json()[name].as_str().unwrap_or("").to_owned()
    }

    /// `data.value` to the byte.
    pub fn raw_value(&self) -> String {
        #[derive(Deserialize)]
        struct Data {
            value: Box<RawValue>,
        }
        #[derive(Deserialize)]
        struct SuccessBody {
            data: Data,
        }
        serde_json::from_slice::<SuccessBody>(&self.body)
            .map(|body| body.data.value.get().to_owned())
            .unwrap_or_default()
    }

    /// Panics where the status is another one.
    #[track_caller]
    pub fn expect(self, status: u16, what: &str) -> Self {
        assert!(self.status == status, "{what}: expected status {status}, got {self}");
        self
    }

    /// Panics unless this is a failure in the form that every failure has, with `status`.
    #[track_caller]
    pub fn problem(self, status: u16, what: &str) -> Self {
        let answer = self.expect(status, what);
        let kind = answer.header("content-type").unwrap_or("").to_owned();
        assert!(kind.starts_with("application/problem+json"), "{what}: content type {kind:?} of {answer}");
        let body = answer.json();
        assert_eq!(body["status"], status, "{what}: the status in the body of {answer}");
        for member in ["title", "detail", "code", "error"] {
            let text = body[member].as_str().unwrap_or("");
            assert!(!text.is_empty(), "{what}: no {member} in {answer}");
        }
        assert_eq!(body["detail"], body["error"], "{what}: error is not the text of detail");
        let code = answer.word("code");
        assert!(code.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{what}: {code:?} is no stable word");
        answer
    }

    /// Panics unless the failure has this stable word.
    #[track_caller]
    pub fn code(self, code: &str, what: &str) -> Self {
        assert_eq!(self.word("code"), code, "{what}: the code of {self}");
        self
    }

    /// Panics unless the failure says this about the write.
    #[track_caller]
    pub fn outcome(self, outcome: &str, what: &str) -> Self {
        assert_eq!(self.word("outcome"), outcome, "{what}: the outcome of {self}");
        self
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        let cut: String = text.chars().take(1500).collect();
        write!(out, "{} {cut}", self.status)
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{self}")
    }
}
