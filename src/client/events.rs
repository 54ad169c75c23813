//! The text of a watch, server-sent events, as changes.
//!
//! Why: a stream comes in pieces that end anywhere, and an event counts only once it is whole.
//!
//! Laws: an event is told once its empty line has arrived. What is kept of an unfinished one is bounded.
//!
//! Not here: the connection ([`super::watch`]).

use std::str::FromStr;

use serde_json::value::RawValue;

use super::wire::ANSWER_BYTES;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A key was written.
    Put,
    /// A key was removed.
    Delete,
    /// A key's time was over.
    Expire,
    /// Everything up to this id was told.
    Progress,
    /// This reader was too slow and was cut off.
    Lagged,
}

impl EventKind {
    /// The word, as in `event: put`.
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
    /// Where a watch goes on after it: the raft index, with `.N` where that index has several changes. Empty for
    /// `lagged`.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// The item as GET shows it; of a removal `{"key", "value": null, "version"}`, of progress `{"index"}`.
    pub data: Box<RawValue>,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// What has come and is not taken yet.
    pending: Vec<u8>,
    /// Up to where `pending` is known to hold no line's end.
    scanned: usize,
    id: String,
    event: String,
    data: Option<String>,
}

impl Parser {
    /// Takes the next piece of the stream.
    ///
    /// # Errors
    /// In words, where an event has more bytes than an answer may have.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), String> {
        let held = self.pending.len() + self.data.as_ref().map_or(0, String::len);
        if held + piece.len() > ANSWER_BYTES {
            return Err(format!("an event of over {ANSWER_BYTES} bytes"));
        }
        self.pending.extend_from_slice(piece);
        Ok(())
    }

    /// The next whole event, if it has come.
    ///
    /// # Errors
    /// In words, for what no huskv node sends.
    pub(super) fn next(&mut self) -> Result<Option<Event>, String> {
        while let Some(length) = self.pending[self.scanned..].iter().position(|byte| *byte == b'\n') {
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
            // Comments, which begin with the colon, and `retry`.
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
    fn events_are_the_same_however_the_stream_is_cut() {
        for size in [1, 2, 3, 7, 50, 1000] {
            let mut parser = Parser::default();
            let mut events = Vec::new();
            for piece in STREAM.as_bytes().chunks(size) {
                parser.push(piece).unwrap();
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
    fn what_no_node_sends_is_refused() {
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
        assert!((0..=64).any(|_| parser.push(&piece).is_err()), "it is bounded");
    }
}
