//! Minimal HTTP/1.1 client: one connection, one request at a time.
//!
//! Why: the generator shares its machine with the system under test, so it must use less CPU than a server. A general
//! HTTP client uses as much for a request as the node does; this one writes prepared bytes and parses only the status,
//! the length and the connection header.
//!
//! Invariants: after a failure the connection is closed, and the next request dials again.
//!
//! See also: `systems_under_test` for the requests, `load_generator` for the timeout.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The maximum size of the head of a response.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// The maximum size of the body of a response.
const MAX_BODY_BYTES: usize = 64 << 20;

/// The size of a read.
const READ_BYTES: usize = 16 << 10;

/// The end of a chunked body. The bodies are JSON, in which these bytes cannot occur.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A connection to one address, dialled when it is needed.
pub(crate) struct RawClient {
    address: String,
    stream: Option<TcpStream>,
    buffer: Vec<u8>,
}

/// The parsed head of a response.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// The offset of the body.
    body_start: usize,
    /// The length of the body; none where it is chunked.
    length: Option<usize>,
    closes: bool,
}

impl RawClient {
    /// Creates a client of `address` without a connection.
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None, buffer: Vec::new() }
    }

    /// The address of the server.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Closes the connection, if there is one.
    pub(crate) fn close(&mut self) {
        self.stream = None;
    }

    /// Connects, if there is no connection.
    ///
    /// # Errors
    /// Where the connection is refused.
    pub(crate) async fn dial(&mut self) -> Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends a request and reads the whole response: its status and its body, with chunk sizes included.
    ///
    /// # Errors
    /// Where the connection breaks or the response is not HTTP. After a cancellation the connection must be closed with
    /// [`RawClient::close`].
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        self.dial().await?;
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let result = send_and_read(stream, request, &mut self.buffer).await;
        if result.as_ref().map_or(true, |(head, _)| head.closes) {
            self.stream = None;
        }
        let (head, end) = result?;
        Ok((head.status, &self.buffer[head.body_start..end]))
    }
}

async fn send_and_read(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> Result<(Head, usize)> {
    stream.write_all(request).await?;
    buffer.clear();
    let head = loop {
        read_more(stream, buffer).await?;
        if let Some(head) = parse_head(buffer)? {
            break head;
        }
        if buffer.len() > MAX_HEAD_BYTES {
            return Err(Error::new(ErrorKind::InvalidData, "the head of the answer has no end"));
        }
    };
    loop {
        // With a length the body ends there; a chunked one ends with the chunk of size 0.
        let is_complete = match head.length {
            Some(length) => buffer.len() >= head.body_start + length,
            None => buffer[head.body_start..].ends_with(LAST_CHUNK),
        };
        if is_complete {
            let end = head.length.map_or(buffer.len(), |length| head.body_start + length);
            return Ok((head, end));
        }
        if buffer.len() > MAX_HEAD_BYTES + MAX_BODY_BYTES {
            return Err(Error::new(ErrorKind::InvalidData, "the answer is too long"));
        }
        read_more(stream, buffer).await?;
    }
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Result<()> {
    buffer.reserve(READ_BYTES);
    match stream.read_buf(buffer).await? {
        0 => Err(Error::new(ErrorKind::UnexpectedEof, "the connection was closed")),
        _ => Ok(()),
    }
}

/// Parses the head of a response; none until it is complete.
fn parse_head(bytes: &[u8]) -> Result<Option<Head>> {
    let wrong = |what: &'static str| Error::new(ErrorKind::InvalidData, what);
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("the head of the answer is no text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.ok_or_else(|| wrong("what answers there does not speak HTTP/1"))?;
    let mut head = Head { status, body_start: end + 4, length: None, closes: false };
    let mut chunked = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            head.length = Some(value.parse().map_err(|_| wrong("the length of the answer is no number"))?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        } else if name.eq_ignore_ascii_case("connection") {
            head.closes = value.eq_ignore_ascii_case("close");
        }
    }
    // A body that ends with the connection would make every response look complete or never complete.
    if head.length.is_none() && !chunked {
        return Err(wrong("the answer does not say how long it is"));
    }
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn heads_are_parsed() {
        let text = b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\nConnection: close\r\n\r\nabc";
        let head = parse_head(text).unwrap().unwrap();
        assert_eq!(head, Head { status: 404, body_start: text.len() - 3, length: Some(3), closes: true });
        assert_eq!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n").unwrap(), None);
        let chunked = parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!((chunked.status, chunked.length, chunked.closes), (200, None, false));
        for bad in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert!(parse_head(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn responses_are_read_to_their_end_and_a_closed_connection_is_dialled_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = RawClient::new(&listener.local_addr().unwrap().to_string());
        let server = tokio::spawn(async move {
            for pieces in [
                &["HTTP/1.1 200 OK\r\nContent-Len", "gth: 4\r\n\r\nab", "cd"][..],
                &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "0\r\n\r\n"],
                &["HTTP/1.1 503 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"],
            ] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 1];
                stream.read_exact(&mut asked).await.unwrap();
                for piece in pieces {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        assert_eq!(client.exchange(b"?").await.unwrap(), (200, &b"abcd"[..]));
        assert!(client.exchange(b"?").await.is_err(), "the server has closed the connection");
        assert_eq!(client.exchange(b"?").await.unwrap(), (200, &b"2\r\nab\r\n0\r\n\r\n"[..]));
        client.close();
        assert_eq!(client.exchange(b"?").await.unwrap(), (503, &b""[..]));
        assert!(client.stream.is_none());
        server.await.unwrap();
    }
}
