//! An event as it goes over the wire, piece by piece.
//!
//! Why: a watcher takes an event at its own speed. Were each given the whole text of its event, thousands of slow ones
//! would hold thousands of mebibytes; and were they to share a bounded memory, all would wait for the slowest.
//!
//! Laws: at most [`PIECE_BYTES`] of text are made at a time. Between two pieces the event is kept where its client has a
//! share of memory for it; where there is none, nobody waits for it: the event is the feed's, and once the feed has dropped
//! it the rest is gone. The pieces together are what [`whole`] says.
//!
//! Not here: which event comes next ([`crate::http::api::watch`]).

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::item_json;
use super::item_json::Form;
use crate::http::server::memory_budget::Share;
use crate::model::{Event, EventKind};

/// About how many bytes are written at a time; a multiple of three, as base64 wants it.
const PIECE_BYTES: usize = 24 << 10;

/// An event of which some has been written.
pub(crate) struct Rest {
    event: Weak<Event>,
    /// Keeps the event, where there is room for it.
    _kept: Option<(Arc<Event>, Share)>,
    form: Form,
    /// How much of the value has been written.
    at: usize,
}

/// Begins to write an event: the first piece, and the rest where there is one, kept if `share` gives room for as many
/// bytes.
pub(crate) fn begin(event: &Arc<Event>, share: impl FnOnce(usize) -> Option<Share>) -> (Bytes, Option<Rest>) {
    let EventKind::Put(item) = &event.kind else { return (whole(event), None) };
    if item.value.bytes.len() <= PIECE_BYTES {
        return (whole(event), None);
    }
    let mut out = Vec::new();
    let form = Form::of(&item.value);
    out.extend_from_slice(b"event:put\ndata:");
    item_json::begin(&mut out, &String::from_utf8_lossy(&event.key));
    form.open(&mut out);
    let kept = share(event.size()).map(|share| (Arc::clone(event), share));
    (out.into(), Some(Rest { event: Arc::downgrade(event), _kept: kept, form, at: 0 }))
}

impl Rest {
    /// The next piece, and what is left behind it; None where the event is gone.
    pub(crate) fn next(mut self) -> Option<(Bytes, Option<Self>)> {
        let event = self.event.upgrade()?;
        let EventKind::Put(item) = &event.kind else { return None };
        let mut out = Vec::new();
        let piece = self.form.piece(&item.value.bytes[self.at..], PIECE_BYTES);
        self.form.write(&mut out, piece);
        on_one_line(&mut out);
        self.at += piece.len();
        if self.at < item.value.bytes.len() {
            return Some((out.into(), Some(self)));
        }
        self.form.close(&mut out);
        item_json::end(&mut out, item, event.clock);
        out.extend_from_slice(format!("\nid:{}\n\n", event.id()).as_bytes());
        Some((out.into(), None))
    }
}

/// All of an event.
pub(crate) fn whole(event: &Event) -> Bytes {
    let mut data = Vec::new();
    // No key is other than UTF-8; whatever is stored, the event is text.
    let key = String::from_utf8_lossy(&event.key);
    let name = match &event.kind {
        EventKind::Put(item) => {
            item_json::item(&mut data, &key, item, event.clock);
            "put"
        }
        EventKind::Deleted | EventKind::Expired => {
            data.extend_from_slice(br#"{"key":"#);
            item_json::string(&mut data, &key);
            data.extend_from_slice(format!(r#","value":null,"version":{}}}"#, event.index).as_bytes());
            if event.kind == EventKind::Expired { "expire" } else { "delete" }
        }
    };
    on_one_line(&mut data);
    let mut out = Vec::with_capacity(data.len() + 64);
    out.extend_from_slice(format!("event:{name}\ndata:").as_bytes());
    out.extend_from_slice(&data);
    out.extend_from_slice(format!("\nid:{}\n\n", event.id()).as_bytes());
    out.into()
}

/// JSON that a client has stored may have several lines, between its tokens alone; an event has one.
fn on_one_line(data: &mut [u8]) {
    data.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::memory_budget::{Budget, Source};
    use crate::model::{Item, Value};

    fn event(content_type: &str, bytes: impl Into<Bytes>) -> Arc<Event> {
        let value = Value { content_type: content_type.into(), bytes: bytes.into() };
        let item = Item { value, version: 9, create_version: 2, expires: Some(5000) };
        Arc::new(Event { index: 9, place: 2, of: 3, clock: 1000, key: "k\"é".into(), kind: EventKind::Put(item) })
    }

    /// The pieces of an event, joined, and how many there were.
    fn pieces(event: &Arc<Event>) -> (Vec<u8>, usize) {
        let (first, mut rest) = begin(event, |_| None);
        let (mut all, mut count) = (first.to_vec(), 1);
        while let Some(left) = rest {
            let (piece, next) = left.next().expect("the event is there");
            assert!(piece.len() <= 6 * PIECE_BYTES + 1024, "a piece is bounded");
            all.extend_from_slice(&piece);
            (rest, count) = (next, count + 1);
        }
        (all, count)
    }

    #[test]
    fn the_pieces_together_are_the_whole_event() {
        let text = "é\"\n\u{1}x".repeat(40_000);
        let json = format!("[1,\n{}1.10]", "1.10,\r\n".repeat(20_000));
        let binary: Vec<u8> = (0..100_001_u32).map(|at| (at % 251) as u8 | 0x80).collect();
        for (kind, bytes) in [
            ("text/plain", Bytes::from(text)),
            ("application/json", Bytes::from(json)),
            ("application/octet-stream", Bytes::from(binary)),
            ("text/plain", Bytes::from("short")),
            ("text/plain", Bytes::from(vec![0xff; 3 * PIECE_BYTES])),
            ("application/json", Bytes::from(vec![b'{'; PIECE_BYTES + 1])),
        ] {
            let event = event(kind, bytes.clone());
            let (all, count) = pieces(&event);
            assert_eq!(all, whole(&event), "{kind}");
            assert_eq!(count > 2, bytes.len() > PIECE_BYTES, "{kind}: {count} pieces of {}", bytes.len());
        }
    }

    #[test]
    fn an_event_is_kept_between_two_pieces_only_where_there_is_room() {
        for (room, whole) in [(1, false), (1 << 20, true)] {
            let event = event("text/plain", vec![b'x'; 3 * PIECE_BYTES]);
            let budget = Budget::new(room);
            let (_, mut rest) = begin(&event, |bytes| budget.take(Source::loopback(), bytes));
            drop(event);
            assert_eq!(budget.free() < room, whole);
            let mut ended = false;
            while let Some(left) = rest.take() {
                (rest, ended) = left.next().map_or((None, false), |(_, rest)| (rest, true));
            }
            assert_eq!((ended, budget.free()), (whole, room));
        }
    }
}
