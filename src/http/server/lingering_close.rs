//! Lingering close of refused connections: a response, a FIN, and reading until the client has it.
//!
//! Why: a socket that is closed with unread bytes resets its connection, and so does one to which more bytes arrive later.
//! A client whose request crosses the response could lose the response to the reset. So what has arrived is read, the write
//! side is shut down, and the socket is kept for a moment (RFC 9112, section 9.6). A task for each would cost more than the
//! response.
//!
//! Invariants: the response is written at once, whatever the client does: it fits into the socket's buffer. At most
//! [`LingeringCloses::new`]'s number of sockets are kept, for at most [`LINGER`]; beyond that number the oldest is closed.
//! Nothing here waits.
//!
//! See also: which connections are refused ([`super::connection_slots`]).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use warp::http::Method;

use crate::http::response::problem::Problem;

/// How long a connection that the node ends is still read.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// How often the caller polls the sockets that linger.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The bytes of one read, and the most reads of one socket in a row.
const BUFFER_BYTES: usize = 16 << 10;
const MAX_READS: usize = 8;

/// The bytes of a whole HTTP response with `problem`, which closes the connection.
pub(crate) fn raw_response(problem: &Problem) -> Vec<u8> {
    // Written by hand because hyper has not taken the connection, or has given it up. The request's method is unknown, so
    // the body has the `outcome` that a write needs.
    let body = String::from_utf8(problem.to_json(&Method::POST)).unwrap_or_default();
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n\
                Cache-Control: no-store\r\nConnection: close\r\nContent-Length";
    format!("{head}: {}\r\n\r\n{body}\n", body.len() + 1).into_bytes()
}

/// The sockets that linger.
pub(crate) struct LingeringCloses {
    max: usize,
    /// Each with its end; the earliest first.
    sockets: VecDeque<(Instant, TcpStream)>,
    buffer: Box<[u8]>,
}

impl LingeringCloses {
    /// Room for `max` sockets.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, sockets: VecDeque::new(), buffer: vec![0; BUFFER_BYTES].into() }
    }

    /// Closes all sockets at once.
    pub(crate) fn close_all(&mut self) {
        self.sockets.clear();
    }

    /// Whether no socket lingers.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// Writes `response` to a non-blocking `stream`, sends a FIN, and lets the socket linger.
    pub(crate) fn respond_and_close(&mut self, stream: TcpStream, response: &[u8]) {
        // Without lingering, in packets, `C` the client:
        //   C: request, first half     node: 503, close()     C: request, second half     node: RST
        // and the RST makes C's system drop the 503 if C has not read it yet. Reading first, a FIN instead of a close, and
        // reading on until C has seen the FIN and closed its side leaves no byte that could cause the RST.
        let is_open = self.drain(&stream);
        let written = matches!((&stream).write(response), Ok(written) if written == response.len());
        // An error means that the client is gone. A client that has sent its FIN sends nothing that could cause a reset, so
        // the plain close that follows from the drop is enough.
        if !written || stream.shutdown(Shutdown::Write).is_err() || !is_open {
            return;
        }
        self.sockets.push_back((Instant::now() + LINGER, stream));
        while self.sockets.len() > self.max {
            if let Some((_, oldest)) = self.sockets.pop_front() {
                // Closed before its time: at least nothing that has arrived so far is unread.
                self.drain(&oldest);
            }
        }
    }

    /// Reads what has arrived, and closes the sockets whose clients have closed their side or whose time is over.
    pub(crate) fn poll(&mut self) {
        let now = Instant::now();
        for (until, stream) in std::mem::take(&mut self.sockets) {
            if self.drain(&stream) && now < until {
                self.sockets.push_back((until, stream));
            }
        }
    }

    /// Reads and discards what has arrived; false where no more can arrive.
    fn drain(&mut self, mut stream: &TcpStream) -> bool {
        // Bounded, or a client that sends faster than this reads would keep the acceptor here.
        for _ in 0..MAX_READS {
            match stream.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
        true
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
        let mut closes = LingeringCloses::new(2);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let (mut client, server) = pair();
            client.write_all(&[b'x'; 1000]).unwrap();
            closes.respond_and_close(server, b"response");
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
    fn a_client_that_has_sent_its_fin_gets_the_response_too() {
        let (mut client, server) = pair();
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut closes = LingeringCloses::new(2);
        closes.respond_and_close(server, b"response");
        let mut response = String::new();
        client.read_to_string(&mut response).unwrap();
        assert_eq!(response, "response");
    }
}
