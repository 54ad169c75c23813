//! Lingering close of refused connections: a response, a FIN, and reading until the client has it.
//!
//! Why: a socket that is closed with unread bytes resets its connection, and so does one to which more bytes arrive later.
//! A client whose request crosses the response could lose the response to the reset. So what has arrived is read, the write
//! side is shut down, and the socket is kept for a moment (RFC 9112, section 9.6). A response before its request is an error to
//! many clients (hyper: "received unexpected message", Go: "Unsolicited response"), so it waits for the request's first
//! bytes. A task for each socket would cost more than the response.
//!
//! Invariants: each socket gets the response within [`REQUEST_WAIT`] and one poll, whatever the client does: it fits into the
//! socket's buffer. At most [`LingeringCloses::new`]'s number of sockets are kept, after the response for at most [`LINGER`];
//! beyond that number the oldest gets its response and is closed. No call here blocks.
//!
//! See also: which connections are refused ([`super::connection_slots`]).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use warp::http::{Method, StatusCode};

use crate::http::response::problem::Problem;
use crate::trust::acceptor::HANDSHAKE_RECORD;

/// How long a connection that the node ends is still read.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// How long a refused connection without a request waits for one before it gets its response.
const REQUEST_WAIT: Duration = Duration::from_millis(250);
/// How often the caller polls the sockets that linger.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The bytes of one read, and the most reads of one socket in a row.
const BUFFER_BYTES: usize = 16 << 10;
const MAX_READS: usize = 8;

/// The bytes of a whole HTTP response with `problem`, which closes the connection.
pub(crate) fn raw_response(problem: &Problem) -> Arc<[u8]> {
    // Written by hand because hyper has not taken the connection, or has given it up. The request's method is unknown, so
    // the body has the `outcome` that a write needs.
    let body = String::from_utf8(problem.to_json(&Method::POST)).unwrap_or_default();
    let (status, length) = (problem.respond(&Method::POST).status(), body.len() + 1);
    let retry = if status == StatusCode::SERVICE_UNAVAILABLE { "Retry-After: 1\r\n" } else { "" };
    let head =
        "Content-Type: application/problem+json\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length";
    format!("HTTP/1.1 {status}\r\n{retry}{head}: {length}\r\n\r\n{body}\n").into_bytes().into()
}

/// The sockets of refused connections.
pub(crate) struct LingeringCloses {
    max: usize,
    /// Whether every client speaks TLS, so that one that has not sent anything gets no response.
    tls_only: bool,
    /// The earliest first.
    sockets: VecDeque<Refused>,
    buffer: Box<[u8]>,
}

/// The socket of one refused connection.
struct Refused {
    stream: TcpStream,
    /// When its wait for a request, or its lingering, ends.
    until: Instant,
    /// The response, until it is written.
    response: Option<Arc<[u8]>>,
}

/// What a read has found.
struct Drained {
    /// The first byte that had arrived.
    first: Option<u8>,
    /// Whether more can arrive.
    is_open: bool,
}

impl LingeringCloses {
    /// Room for `max` sockets.
    pub(crate) fn new(max: usize, tls_only: bool) -> Self {
        Self { max, tls_only, sockets: VecDeque::new(), buffer: vec![0; BUFFER_BYTES].into() }
    }

    /// Closes all sockets at once; those without a response get it first.
    pub(crate) fn close_all(&mut self) {
        while let Some(oldest) = self.sockets.pop_front() {
            self.close(oldest);
        }
    }

    /// Whether no socket lingers.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Waits until the first bytes of a request arrive on a non-blocking `stream`, for at most [`REQUEST_WAIT`]; then writes
    /// `response`, sends a FIN, and lets the socket linger.
    pub(crate) fn respond_and_close(&mut self, stream: TcpStream, response: &Arc<[u8]>) {
        let until = Instant::now() + REQUEST_WAIT;
        self.advance(Refused { stream, until, response: Some(Arc::clone(response)) });
        while self.sockets.len() > self.max {
            if let Some(oldest) = self.sockets.pop_front() {
                self.close(oldest);
            }
        }
    }

    /// Reads what has arrived, responds where it is time, and closes the sockets whose clients have closed their side or
    /// whose time is over.
    pub(crate) fn poll(&mut self) {
        for socket in std::mem::take(&mut self.sockets) {
            self.advance(socket);
        }
    }

    /// Does what is due with a socket, and keeps it unless it is done.
    fn advance(&mut self, mut socket: Refused) {
        // Without lingering, in packets, `C` the client:
        //   C: request, first half     node: 503, close()     C: request, second half     node: RST
        // and the RST makes C's system drop the 503 if C has not read it yet. Reading first, a FIN instead of a close, and
        // reading on until C has seen the FIN and closed its side leaves no byte that could cause the RST.
        let drained = self.drain(&socket.stream);
        let now = Instant::now();
        let is_due = drained.first.is_some() || !drained.is_open || now >= socket.until;
        if let Some(response) = socket.response.take_if(|_| is_due) {
            if !self.respond(&socket.stream, &response, drained.first) {
                return;
            }
            socket.until = now + LINGER;
        }
        // A client that has sent its FIN sends nothing that could cause a reset, so the plain close of the drop is enough.
        if drained.is_open && now < socket.until {
            self.sockets.push_back(socket);
        }
    }

    /// Closes a socket before its time: at least it has its response, and nothing that has arrived so far is unread.
    fn close(&mut self, socket: Refused) {
        let drained = self.drain(&socket.stream);
        if let Some(response) = socket.response {
            self.respond(&socket.stream, &response, drained.first);
        }
    }

    /// Reads and discards what has arrived.
    fn drain(&mut self, mut stream: &TcpStream) -> Drained {
        let mut first = None;
        // Bounded, or a client that sends faster than this reads would keep the acceptor here.
        for _ in 0..MAX_READS {
            match stream.read(&mut self.buffer) {
                Ok(0) => return Drained { first, is_open: false },
                Ok(_) => first = first.or(self.buffer.first().copied()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Drained { first, is_open: error.kind() == ErrorKind::WouldBlock },
            }
        }
        Drained { first, is_open: true }
    }

    /// Writes `response` and sends a FIN, or only the FIN where the client speaks TLS, to which the response would be garbage;
    /// false where the client is gone.
    fn respond(&self, mut stream: &TcpStream, response: &[u8], first: Option<u8>) -> bool {
        let speaks_tls = first.map_or(self.tls_only, |first| first == HANDSHAKE_RECORD);
        let written = speaks_tls || matches!(stream.write(response), Ok(written) if written == response.len());
        written && stream.shutdown(Shutdown::Write).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// The two ends of a connection: client, server.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        (client, server)
    }

    #[test]
    fn all_clients_get_the_response_and_the_latest_sockets_linger() {
        let mut closes = LingeringCloses::new(2, false);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let (mut client, server) = pair();
            client.write_all(&[b'x'; 1000]).unwrap();
            closes.respond_and_close(server, &b"response"[..].into());
            clients.push(client);
        }
        assert_eq!(closes.sockets.len(), 2);
        for client in &mut clients {
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            assert_eq!(response, "response");
        }
        // Clients that send on meanwhile are not reset.
        clients[4].write_all(b"more").unwrap();
        closes.poll();
        assert_eq!(closes.sockets.len(), 2);
        clients[4].write_all(b"more").unwrap();
        drop(clients);
        while !closes.is_empty() {
            closes.poll();
        }
    }

    #[test]
    fn the_response_waits_for_the_request_but_not_for_ever() {
        let mut closes = LingeringCloses::new(2, false);
        let (mut client, server) = pair();
        closes.respond_and_close(server, &b"response"[..].into());
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
        client.write_all(b"GET").unwrap();
        client.set_nonblocking(false).unwrap();
        let began = Instant::now();
        while closes.sockets[0].response.is_some() {
            closes.poll();
        }
        assert!(began.elapsed() < REQUEST_WAIT);
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert_eq!(response, "response");
        // Silent clients get it too: the first at once, since there is room for two, and the others after a while.
        let silent: Vec<_> = (0..3).map(|_| pair()).collect();
        let mut clients = Vec::new();
        for (client, server) in silent {
            closes.respond_and_close(server, &b"response"[..].into());
            clients.push(client);
        }
        assert_eq!(closes.sockets.iter().filter(|socket| socket.response.is_some()).count(), 2);
        while closes.sockets.iter().any(|socket| socket.response.is_some()) {
            closes.poll();
        }
        assert!(began.elapsed() >= REQUEST_WAIT);
        for mut client in clients {
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            assert_eq!(response, "response");
        }
    }

    #[test]
    fn a_tls_client_gets_a_plain_close() {
        for (tls_only, sent, expected) in [
            (false, &b"\x16\x03\x01"[..], ""),
            (true, b"\x16\x03\x01", ""),
            (true, b"", ""),
            (true, b"GET /", "response"),
            (false, b"", "response"),
        ] {
            let mut closes = LingeringCloses::new(2, tls_only);
            let (mut client, server) = pair();
            client.write_all(sent).unwrap();
            closes.respond_and_close(server, &b"response"[..].into());
            while closes.sockets.iter().any(|socket| socket.response.is_some()) {
                closes.poll();
            }
            let mut response = String::new();
            client.read_to_string(&mut response).unwrap();
            assert_eq!(response, expected, "{tls_only} {sent:?}");
        }
    }

    #[test]
    fn a_client_that_has_sent_its_fin_gets_the_response_too() {
        let (mut client, server) = pair();
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut closes = LingeringCloses::new(2, false);
        closes.respond_and_close(server, &b"response"[..].into());
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert_eq!(response, "response");
    }
}
