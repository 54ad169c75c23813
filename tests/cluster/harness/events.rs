//! Watch client: reads server-sent events on a thread of its own.
//!
//! Why: a stream does not end, so a test takes events from a channel.
//!
//! Invariants: every wait for an event is bounded. Dropping a watch closes its connection and ends its thread.

use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::http::{Answer, Request, read_head};

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its id; empty where it has none.
    pub id: String,
    /// Its name.
    pub kind: String,
    /// Its data.
    pub data: Value,
}

/// A stream that was asked for and is not read yet.
pub struct Unread {
    /// Status and headers.
    pub head: Answer,
    reader: BufReader<TcpStream>,
}

/// A stream that is read.
pub struct Watch {
    events: Receiver<Event>,
    stream: TcpStream,
}

/// Asks for a stream, after the event with this id where one is given, and reads the head of the answer.
pub fn ask(address: &str, query: &str, last: Option<&str>) -> std::io::Result<Unread> {
    ask_as(None, address, query, last)
}

/// As [`ask`], with this secret.
pub fn ask_as(secret: Option<&str>, address: &str, query: &str, last: Option<&str>) -> std::io::Result<Unread> {
    let mut request = Request::new("GET", format!("/watch?{query}"));
    if let Some(id) = last {
        request = request.header("Last-Event-ID", id);
    }
    if let Some(secret) = secret {
        request = request.bearer(secret);
    }
    let mut reader = BufReader::new(request.open(address)?.into_stream());
    reader.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
    let head = read_head(&mut reader)?;
    Ok(Unread { head, reader })
}

impl Unread {
    /// Begins to read.
    pub fn listen(self) -> std::io::Result<Watch> {
        let stream = self.reader.get_ref().try_clone()?;
        stream.set_read_timeout(None)?;
        let (told, events) = channel();
        let mut lines = BufReader::new(Chunks { reader: self.reader, left: 0 });
        let read = move || {
            let mut event = Event { id: String::new(), kind: String::new(), data: Value::Null };
            let mut line = String::new();
            // A connection that breaks may do so within a line.
            while matches!(lines.read_line(&mut line), Ok(1..)) && line.ends_with('\n') {
                match line.trim_end_matches('\n').split_once(':') {
                    Some(("id", text)) => event.id = text.trim().to_owned(),
                    Some(("event", text)) => event.kind = text.trim().to_owned(),
                    Some(("retry", _)) => {}
                    Some(("data", text)) => event.data = serde_json::from_str(text).expect("one line of JSON"),
                    _ if line == "\n" && event.kind.is_empty() => {}
                    _ if line == "\n" => {
                        let done = Event { id: String::new(), kind: String::new(), data: Value::Null };
                        if told.send(std::mem::replace(&mut event, done)).is_err() {
                            return;
                        }
                    }
                    _ => panic!("not a line of an event: {line:?}"),
                }
                line.clear();
            }
        };
        std::thread::Builder::new().stack_size(256 << 10).spawn(read)?;
        Ok(Watch { events, stream })
    }
}

impl Watch {
    /// The next event that is no progress, None at the end of the stream.
    #[track_caller]
    pub fn change(&self, timeout: Duration) -> Option<Event> {
        let deadline = Instant::now() + timeout;
        loop {
            let event = self.any(deadline.saturating_duration_since(Instant::now()))?;
            if event.kind != "progress" {
                return Some(event);
            }
        }
    }

    /// The next event, None at the end of the stream.
    #[track_caller]
    pub fn any(&self, timeout: Duration) -> Option<Event> {
        match self.within(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("no event within {timeout:?}"),
        }
    }

    /// The next event, for those to whom silence says something.
    pub fn within(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        self.events.recv_timeout(timeout)
    }

    /// An event that is there already.
    pub fn waiting(&self) -> Option<Event> {
        self.events.try_recv().ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// The content of a chunked body.
struct Chunks {
    reader: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            let mut line = String::new();
            while line.trim().is_empty() {
                line.clear();
                if self.reader.read_line(&mut line)? == 0 {
                    return Ok(0);
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let most = buffer.len().min(self.left);
        let count = self.reader.read(&mut buffer[..most])?;
        self.left -= count;
        Ok(count)
    }
}
