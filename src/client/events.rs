//! Parser of server-sent events, the format of a watch.
//!
//! Why: a stream arrives in chunks that end anywhere, and an event counts only once it is complete.
//!
//! Invariants: an event is returned once its empty line has arrived. The buffer of an incomplete event is bounded.
//!
//! See also: [`super::watch`] for the connection.

use std::str::FromStr;

use serde_json::value::RawValue;

use super::http_client::MAX_RESPONSE_BYTES;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A key was written.
    Put,
    /// A key was removed.
    Delete,
    /// A key's TTL passed.
    Expire,
    /// All events up to this id were sent.
    Progress,
    /// The watcher was too slow and was cut off.
    Lagged,
}

impl EventKind {
    /// The name on the wire, as in `event: put`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Expire => "expire",
            Self::Progress => "progress",
            Self::Lagged => "lagged",
        }
    }
}

impl FromStr for EventKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Put, Self::Delete, Self::Expire, Self::Progress, Self::Lagged]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| format!("an event called {text:?}"))
    }
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct Event {
    /// The cursor after which a watch resumes: the raft index, with `.N` where that index has several changes. Empty
    /// for `lagged`.
    pub id: String,
    /// The kind.
    pub kind: EventKind,
    /// The item as GET returns it; of a delete `{"key", "value": null, "version"}`, of progress `{"index"}`.
    pub data: Box<RawValue>,
}

/// An incremental parser.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Bytes that have arrived and are not parsed yet.
    pending: Vec<u8>,
    /// The length of the prefix of `pending` that is known to hold no line feed.
    scanned: usize,
    id: String,
    event: String,
    data: Option<String>,
}

impl Parser {
    /// Appends the next chunk of the stream.
    ///
    /// # Errors
    /// A message where an event exceeds the maximum size of a response.
    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), String> {
        let held = self.pending.len() + self.data.as_ref().map_or(0, String::len);
        if held + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(format!("an event of over {MAX_RESPONSE_BYTES} bytes"));
        }
        self.pending.extend_from_slice(chunk);
        Ok(())
    }

    /// The next complete event, if it has arrived.
    ///
    /// # Errors
    /// A message for what no huskv node sends.
    pub(super) fn next(&mut self) -> Result<Option<Event>, String> {
        while let Some(length) = self.pending[self.scanned..].iter().position(|byte| *byte == b'\n') {
            // `scanned` bytes are known to have no line feed, so a long line that arrives in many chunks is searched once.
            let end = self.scanned + length;
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            self.scanned = 0;
            let line = std::str::from_utf8(&line[..end]).map_err(|_| "an event that is not UTF-8")?;
            if let Some(event) = self.line(line.strip_suffix('\r').unwrap_or(line))? {
                return Ok(Some(event));
            }
        }
        self.scanned = self.pending.len();
        Ok(None)
    }

    fn line(&mut self, line: &str) -> Result<Option<Event>, String> {
        if line.is_empty() {
            let (event, id) = (std::mem::take(&mut self.event), std::mem::take(&mut self.id));
            // An empty line ends an event; without data it was a comment or a bare `retry`.
            let Some(data) = self.data.take() else { return Ok(None) };
            let data =
                RawValue::from_string(data).map_err(|error| format!("an event whose data is no JSON: {error}"))?;
            return Ok(Some(Event { id, kind: event.parse()?, data }));
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.event),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            // Comments, which begin with a colon, and `retry`.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "retry: 1000\n\n: hello\nid: 7\nevent: put\ndata: {\"key\":\"é\"}\n\nid: 8.2\r\nevent: delete\r\n\
                          data: {\"key\":\ndata: 1}\r\n\r\nid: 9\nevent: progress\ndata: {\"index\":9}\n\nid: 10\nevent:";

    #[test]
    fn events_are_the_same_for_every_chunk_size() {
        for size in [1, 2, 3, 7, 50, 1000] {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                parser.push(chunk).unwrap();
                while let Some(event) = parser.next().unwrap() {
                    events.push((event.id, event.kind, event.data.get().to_owned()));
                }
            }
            let expected = [
                ("7", EventKind::Put, "{\"key\":\"é\"}"),
                ("8.2", EventKind::Delete, "{\"key\":\n1}"),
                ("9", EventKind::Progress, "{\"index\":9}"),
            ];
            assert_eq!(events, expected.map(|(id, kind, data)| (id.to_owned(), kind, data.to_owned())), "{size}");
        }
    }

    #[test]
    fn invalid_events_are_refused() {
        for stream in ["event: put\ndata: nope\n\n", "event: rename\ndata: 1\n\n", "data: \u{fffd}\n\n"] {
            let mut parser = Parser::default();
            parser.push(stream.as_bytes()).unwrap();
            assert!(parser.next().is_err(), "{stream}");
        }
        let mut parser = Parser::default();
        parser.push(b"data: \xff\n").unwrap();
        assert!(parser.next().is_err());
        let piece = vec![b'x'; 1 << 20];
        let mut parser = Parser::default();
        assert!((0..=64).any(|_| parser.push(&piece).is_err()), "the buffer is bounded");
    }
}
