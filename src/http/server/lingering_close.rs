//! Connections that are sent away with a word, and without a place.
//!
//! Why: a socket that is closed with unread bytes resets the connection, and so does one that gets some later; a client
//! whose request crosses our answer could lose it. So what has come is read off, our side is closed, and the socket is
//! kept for a moment. A task for each would cost more than the answer.
//!
//! Laws: the answer is written at once, whatever the client does; it fits into the system's buffer. No more than
//! [`LingeringCloses::new`] says are kept, for at most [`LINGER`]: where there are more, the one that has been here for longest
//! is closed first. Nothing here waits.
//!
//! Not here: who is sent away ([`super::connection_slots`]).

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use warp::http::Method;

use crate::http::response::problem::Problem;

/// How long a connection that we end is still read from, so that the last answer is not lost to a reset.
pub(crate) const LINGER: Duration = Duration::from_secs(1);
/// How often those that are kept are to be looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How many bytes are read off at once, and how often one after the other.
const SCRAP_BYTES: usize = 16 << 10;
const READS: usize = 8;

/// The whole answer of a connection that is sent away because of `problem`.
pub(crate) fn last_word(problem: &Problem) -> Vec<u8> {
    let body = String::from_utf8(problem.to_json(&Method::POST)).unwrap_or_default();
    let head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n\
                Cache-Control: no-store\r\nConnection: close\r\nContent-Length";
    format!("{head}: {}\r\n\r\n{body}\n", body.len() + 1).into_bytes()
}

/// Those who are on their way out.
pub(crate) struct LingeringCloses {
    most: usize,
    all: VecDeque<(Instant, TcpStream)>,
    scrap: Box<[u8]>,
}

impl LingeringCloses {
    /// Room for `most` of them.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, all: VecDeque::new(), scrap: vec![0; SCRAP_BYTES].into() }
    }

    /// Closes all of them.
    pub(crate) fn close_all(&mut self) {
        self.all.clear();
    }

    /// Whether nobody is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Tells the client of `stream`, which does not block, the `word`, and keeps it for a moment.
    pub(crate) fn send_away(&mut self, stream: TcpStream, word: &[u8]) {
        // What is read before the answer cannot reset it.
        let goes_on = self.read_off(&stream);
        let told = matches!((&stream).write(word), Ok(written) if written == word.len());
        // An error means that the client has gone; one that has closed its side sends nothing that could reset anything.
        if !told || stream.shutdown(Shutdown::Write).is_err() || !goes_on {
            return;
        }
        self.all.push_back((Instant::now() + LINGER, stream));
        while self.all.len() > self.most {
            if let Some((_, oldest)) = self.all.pop_front() {
                self.read_off(&oldest);
            }
        }
    }

    /// Reads off what has come, and closes those who have closed their side or were kept for long enough.
    pub(crate) fn look(&mut self) {
        let now = Instant::now();
        for (until, stream) in std::mem::take(&mut self.all) {
            if self.read_off(&stream) && now < until {
                self.all.push_back((until, stream));
            }
        }
    }

    /// Reads off what has come; false where nothing more can.
    fn read_off(&mut self, mut stream: &TcpStream) -> bool {
        for _ in 0..READS {
            match stream.read(&mut self.scrap) {
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

    /// A client and its socket here.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        ours.set_nonblocking(true).unwrap();
        (client, ours)
    }

    #[test]
    fn all_are_told_and_the_last_ones_are_kept() {
        let mut partings = LingeringCloses::new(2);
        let mut clients = Vec::new();
        for _ in 0..5 {
            let (mut client, ours) = pair();
            client.write_all(&[b'x'; 1000]).unwrap();
            partings.send_away(ours, b"word");
            clients.push(client);
        }
        assert_eq!(partings.all.len(), 2);
        for client in &mut clients {
            let mut word = String::new();
            client.read_to_string(&mut word).unwrap();
            assert_eq!(word, "word");
        }
        // Those who send on meanwhile are not reset.
        clients[4].write_all(b"more").unwrap();
        partings.look();
        assert_eq!(partings.all.len(), 2);
        clients[4].write_all(b"more").unwrap();
        drop(clients);
        while !partings.is_empty() {
            partings.look();
        }
    }

    #[test]
    fn a_client_that_said_all_it_has_to_say_is_told_too() {
        let (mut client, ours) = pair();
        client.write_all(b"request").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut partings = LingeringCloses::new(2);
        partings.send_away(ours, b"word");
        let mut word = String::new();
        client.read_to_string(&mut word).unwrap();
        assert_eq!(word, "word");
    }
}
