//! One connection: a request goes out, its answer comes in, and so on.
//!
//! Why: the generator shares its machine with what it measures, so it must cost less than a server. A general HTTP client
//! takes as much CPU for a request as the node does; this one writes bytes that are there already and looks only for
//! what it needs in the answer.
//!
//! Laws: one request at a time. After a failure the connection is closed, and the next request dials again.
//!
//! Not here: what is asked (`api`), and how long anybody waits (`load`).

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The most bytes that the head of an answer may have.
const HEAD_BYTES: usize = 64 << 10;

/// The most bytes that the body of an answer may have.
const BODY_BYTES: usize = 64 << 20;

/// How much is read at once.
const READ_BYTES: usize = 16 << 10;

/// How a chunked body ends. What is asked for here is JSON, in which these bytes occur nowhere else.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// A connection to one address, dialled when it is needed.
pub(crate) struct RawClient {
    address: String,
    stream: Option<TcpStream>,
    read: Vec<u8>,
}

/// What the head of an answer says.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Where the body begins.
    begins: usize,
    /// How long it is; none where it is chunked.
    length: Option<usize>,
    closes: bool,
}

impl RawClient {
    /// A line to `address`, not dialled yet.
    pub(crate) fn to(address: &str) -> Self {
        Self { address: address.to_owned(), stream: None, read: Vec::new() }
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Closes the connection, where there is one.
    pub(crate) fn hang_up(&mut self) {
        self.stream = None;
    }

    /// Dials, where that is needed.
    ///
    /// # Errors
    /// Where nobody answers.
    pub(crate) async fn dial(&mut self) -> Result<()> {
        if self.stream.is_none() {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends a whole request and waits for the whole answer: its status and its body, chunk heads included.
    ///
    /// # Errors
    /// Where the connection breaks or what comes is no HTTP. Cancelled, the connection must be closed with
    /// [`RawClient::hang_up`].
    pub(crate) async fn exchange(&mut self, request: &[u8]) -> Result<(u16, &[u8])> {
        self.dial().await?;
        let stream = self.stream.as_mut().ok_or(ErrorKind::NotConnected)?;
        let result = converse(stream, request, &mut self.read).await;
        if result.as_ref().map_or(true, |(head, _)| head.closes) {
            self.stream = None;
        }
        let (head, end) = result?;
        Ok((head.status, &self.read[head.begins..end]))
    }
}

async fn converse(stream: &mut TcpStream, request: &[u8], read: &mut Vec<u8>) -> Result<(Head, usize)> {
    stream.write_all(request).await?;
    read.clear();
    let head = loop {
        more(stream, read).await?;
        if let Some(head) = parse(read)? {
            break head;
        }
        if read.len() > HEAD_BYTES {
            return Err(Error::new(ErrorKind::InvalidData, "the head of the answer has no end"));
        }
    };
    loop {
        let whole = match head.length {
            Some(length) => read.len() >= head.begins + length,
            None => read[head.begins..].ends_with(LAST_CHUNK),
        };
        if whole {
            let end = head.length.map_or(read.len(), |length| head.begins + length);
            return Ok((head, end));
        }
        if read.len() > HEAD_BYTES + BODY_BYTES {
            return Err(Error::new(ErrorKind::InvalidData, "the answer is too long"));
        }
        more(stream, read).await?;
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Result<()> {
    read.reserve(READ_BYTES);
    match stream.read_buf(read).await? {
        0 => Err(Error::new(ErrorKind::UnexpectedEof, "the connection was closed")),
        _ => Ok(()),
    }
}

/// Reads the head of an answer, once it is all there.
fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let wrong = |what: &'static str| Error::new(ErrorKind::InvalidData, what);
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..end]).map_err(|_| wrong("the head of the answer is no text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let status = status.ok_or_else(|| wrong("what answers there does not speak HTTP/1"))?;
    let mut head = Head { status, begins: end + 4, length: None, closes: false };
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
    fn heads_are_understood() {
        let text = b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\nConnection: close\r\n\r\nabc";
        let head = parse(text).unwrap().unwrap();
        assert_eq!(head, Head { status: 404, begins: text.len() - 3, length: Some(3), closes: true });
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n").unwrap(), None);
        let chunked = parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap().unwrap();
        assert_eq!((chunked.status, chunked.length, chunked.closes), (200, None, false));
        for bad in ["SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn answers_are_read_to_their_end_and_a_closed_line_is_dialled_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut line = RawClient::to(&listener.local_addr().unwrap().to_string());
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
        assert_eq!(line.exchange(b"?").await.unwrap(), (200, &b"abcd"[..]));
        assert!(line.exchange(b"?").await.is_err(), "the other end has gone");
        assert_eq!(line.exchange(b"?").await.unwrap(), (200, &b"2\r\nab\r\n0\r\n\r\n"[..]));
        line.hang_up();
        assert_eq!(line.exchange(b"?").await.unwrap(), (503, &b""[..]));
        assert!(line.stream.is_none());
        server.await.unwrap();
    }
}
