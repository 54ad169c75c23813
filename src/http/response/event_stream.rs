//! Server-sent events, encoded chunk by chunk.
//!
//! Why: a watcher reads an event at its own speed. With the whole text of an event for each, thousands of slow watchers
//! would hold gigabytes; with one shared bounded buffer, all would wait for the slowest.
//!
//! Invariants: at most [`CHUNK_BYTES`] of a value are encoded at a time. Between two chunks the event is retained if the
//! client's share of memory allows it. Otherwise only the change feed holds it, and once the feed has dropped it the rest
//! cannot be sent. The chunks together equal [`encode`].
//!
//! Example: a text of 60 KiB becomes `event:put\ndata:{"key":"k","value":"` without any of the value, then three chunks of
//! at most 24 KiB, escaped, of which the last one ends the object and adds the `id`. A client that gets less than all of
//! them has no blank line, so it drops the event.
//!
//! See also: [`crate::http::api::watch`] (which event is next).

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::item_json;
use super::item_json::Form;
use crate::http::server::fair_memory::Share;
use crate::model::{Event, EventKind, TokenName};

/// The maximum bytes of a value in one chunk. A multiple of three: base64 of each chunk then has no padding but at the end.
const CHUNK_BYTES: usize = 24 << 10;

/// An event of which a part was encoded.
pub(crate) struct PartialEvent {
    event: Weak<Event>,
    /// Retains the event while the client's share of memory lasts.
    _retained: Option<(Arc<Event>, Share)>,
    form: Form,
    /// The bytes of the value that were encoded.
    at: usize,
}

/// Encodes the first chunk of an event, and returns the rest, if any. It is retained if `share` grants the size of the event.
pub(crate) fn first_chunk(
    event: &Arc<Event>,
    share: impl FnOnce(usize) -> Option<Share>,
) -> (Bytes, Option<PartialEvent>) {
    let EventKind::Put(item) = &event.kind else { return (encode(event), None) };
    // Most values are small: their event is one chunk, without state in between.
    if item.value.bytes.len() <= CHUNK_BYTES {
        return (encode(event), None);
    }
    // The form is decided on the whole value, once: a chunk alone may look like text while the next one is not UTF-8.
    let mut out = Vec::new();
    let form = Form::of(&item.value);
    out.extend_from_slice(b"event:put\ndata:");
    item_json::begin(&mut out, &String::from_utf8_lossy(&event.key));
    form.open(&mut out);
    let retained = share(event.size()).map(|share| (Arc::clone(event), share));
    (out.into(), Some(PartialEvent { event: Arc::downgrade(event), _retained: retained, form, at: 0 }))
}

impl PartialEvent {
    /// Encodes the next chunk, and returns the rest behind it; None if the feed has dropped the event.
    pub(crate) fn next_chunk(mut self) -> Option<(Bytes, Option<Self>)> {
        // The only owner may be the feed, which drops the event at its retention limit.
        let event = self.event.upgrade()?;
        let EventKind::Put(item) = &event.kind else { return None };
        let mut out = Vec::new();
        let chunk = self.form.chunk(&item.value.bytes[self.at..], CHUNK_BYTES);
        self.form.write(&mut out, chunk);
        replace_newlines(&mut out);
        self.at += chunk.len();
        if self.at < item.value.bytes.len() {
            return Some((out.into(), Some(self)));
        }
        self.form.close(&mut out);
        item_json::end(&mut out, item, event.clock);
        out.extend_from_slice(format!("\nid:{}\n\n", event.id()).as_bytes());
        Some((out.into(), None))
    }
}

/// Encodes a whole event.
pub(crate) fn encode(event: &Event) -> Bytes {
    let mut data = Vec::new();
    // Every key is validated UTF-8; if a stored one is not, the event is valid text all the same.
    let key = String::from_utf8_lossy(&event.key);
    let name = match &event.kind {
        EventKind::Put(item) => {
            item_json::item(&mut data, &key, item, event.clock);
            "put"
        }
        EventKind::Deleted { by } => {
            removal(&mut data, &key, event.index, by.as_ref());
            "delete"
        }
        EventKind::Expired => {
            removal(&mut data, &key, event.index, None);
            "expire"
        }
    };
    replace_newlines(&mut data);
    let mut out = Vec::with_capacity(data.len() + 64);
    out.extend_from_slice(format!("event:{name}\ndata:").as_bytes());
    out.extend_from_slice(&data);
    out.extend_from_slice(format!("\nid:{}\n\n", event.id()).as_bytes());
    out.into()
}

/// Appends the data of a removal.
fn removal(out: &mut Vec<u8>, key: &str, version: u64, by: Option<&TokenName>) {
    out.extend_from_slice(br#"{"key":"#);
    item_json::string(out, key);
    out.extend_from_slice(format!(r#","value":null,"version":{version}"#).as_bytes());
    item_json::by(out, by);
    out.push(b'}');
}

/// Replaces line breaks by spaces: `data` is one line. JSON has raw line breaks only between tokens, so the value stays equal.
fn replace_newlines(data: &mut [u8]) {
    data.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::fair_memory::{Budget, Source};
    use crate::model::{Item, Value};

    fn event(content_type: &str, bytes: impl Into<Bytes>) -> Arc<Event> {
        let value = Value { content_type: content_type.into(), bytes: bytes.into() };
        let by = Some("billing".parse().unwrap());
        let item = Item { value, version: 9, create_version: 2, expires: Some(5000), by };
        Arc::new(Event { index: 9, place: 2, of: 3, clock: 1000, key: "k\"é".into(), kind: EventKind::Put(item) })
    }

    /// Returns the chunks of an event, joined, and their number.
    fn chunks(event: &Arc<Event>) -> (Vec<u8>, usize) {
        let (first, mut rest) = first_chunk(event, |_| None);
        let (mut all, mut count) = (first.to_vec(), 1);
        while let Some(left) = rest {
            let (chunk, next) = left.next_chunk().expect("the event is there");
            assert!(chunk.len() <= 6 * CHUNK_BYTES + 1024, "a chunk is bounded");
            all.extend_from_slice(&chunk);
            (rest, count) = (next, count + 1);
        }
        (all, count)
    }

    #[test]
    fn the_chunks_together_are_the_whole_event() {
        let text = "é\"\n\u{1}x".repeat(40_000);
        let json = format!("[1,\n{}1.10]", "1.10,\r\n".repeat(20_000));
        let binary: Vec<u8> = (0..100_001_u32).map(|at| (at % 251) as u8 | 0x80).collect();
        for (kind, bytes) in [
            // Escapes and two-byte characters across chunk ends; line breaks between JSON tokens; base64 across chunk ends;
            // a value of one chunk; a text type with bytes that are no text; a JSON type with bytes that are no JSON.
            ("text/plain", Bytes::from(text)),
            ("application/json", Bytes::from(json)),
            ("application/octet-stream", Bytes::from(binary)),
            ("text/plain", Bytes::from("short")),
            ("text/plain", Bytes::from(vec![0xff; 3 * CHUNK_BYTES])),
            ("application/json", Bytes::from(vec![b'{'; CHUNK_BYTES + 1])),
        ] {
            let event = event(kind, bytes.clone());
            let (all, count) = chunks(&event);
            assert_eq!(all, encode(&event), "{kind}");
            assert_eq!(count > 2, bytes.len() > CHUNK_BYTES, "{kind}: {count} chunks of {}", bytes.len());
        }
    }

    #[test]
    fn an_event_shows_the_token_of_its_write() {
        let by: Option<TokenName> = Some("billing".parse().unwrap());
        let data = |kind| {
            let event = Event { index: 9, place: 1, of: 1, clock: 1000, key: "k".into(), kind };
            let text = String::from_utf8(encode(&event).to_vec()).unwrap();
            text.lines().find_map(|line| line.strip_prefix("data:")).unwrap().to_owned()
        };
        for (kind, expected) in [
            (EventKind::Deleted { by: by.clone() }, r#"{"key":"k","value":null,"version":9,"by":"billing"}"#),
            (EventKind::Deleted { by: None }, r#"{"key":"k","value":null,"version":9}"#),
            (EventKind::Expired, r#"{"key":"k","value":null,"version":9}"#),
        ] {
            assert_eq!(data(kind), expected);
        }
        let EventKind::Put(item) = &event("text/plain", "x").kind else { panic!("a put") };
        assert!(data(EventKind::Put(item.clone())).ends_with(r#","ttl":4,"by":"billing"}"#));
        assert!(!data(EventKind::Put(Item { by: None, ..item.clone() })).contains("by"));
    }

    #[test]
    fn an_event_is_retained_between_two_chunks_only_within_the_budget() {
        for (room, retained) in [(1, false), (1 << 20, true)] {
            let event = event("text/plain", vec![b'x'; 3 * CHUNK_BYTES]);
            let budget = Budget::new(room);
            let (_, mut rest) = first_chunk(&event, |bytes| budget.take(&Source::loopback().into(), bytes));
            // As when the feed drops it: the stream either retains the event to its end, or breaks off.
            drop(event);
            assert_eq!(budget.free() < room, retained);
            let mut ended = false;
            while let Some(left) = rest.take() {
                (rest, ended) = left.next_chunk().map_or((None, false), |(_, rest)| (rest, true));
            }
            assert_eq!((ended, budget.free()), (retained, room));
        }
    }
}
