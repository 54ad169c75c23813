//! The latest events of a node as it reports them to another member, to be shown.
//!
//! Why: an operator asks one node what happened in the cluster, and each node keeps its own events only.
//!
//! Invariants: nothing is decided by an event of another node. A received list is bounded and printable ([`check_events`]), and so is one
//! that is sent ([`clip_events`]). It is encoded by [`crate::model::codec`]; a node that cannot decode it shows none of them.
//!
//! See also: `transport::rpc::member_reports` (the question), `http::node_events::cluster` (the answer).

use serde::{Deserialize, Serialize};

use super::node_report::DETAIL_BYTES;

/// The maximum events of a node that others show.
pub const REPORTED_EVENTS: usize = 200;
/// The maximum of these that happen all the time on a busy node, so that they do not push out the rest.
pub const ROUTINE_EVENTS: usize = 50;
/// The maximum encoded bytes of a list.
pub const EVENTS_BYTES: usize = 64 << 10;
/// The maximum fields of an event besides those that all have.
const FIELDS: usize = 16;
/// The maximum bytes of a kind, and of the name of a field.
const WORD_BYTES: usize = 64;
/// The names of what every event has.
const COMMON: [&str; 7] = ["node", "id", "at", "index", "term", "kind", "detail"];
/// A time as every event has it: digits where this has digits.
const AT: &str = "2026-01-31T23:59:59.999Z";
/// The encoded bytes of an event without its texts and fields: three numbers and four lengths.
const FIXED_BYTES: usize = 7 * 8;
/// The most encoded bytes of a field without its name and text: two lengths and a tag.
const FIELD_BYTES: usize = 8 + 8 + 4;

/// An event of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReport {
    /// Its number since the start of that node.
    pub id: u64,
    /// The wall clock of that node, RFC 3339 in UTC with milliseconds.
    pub at: String,
    /// The applied index then.
    pub index: u64,
    /// The term then.
    pub term: u64,
    /// What happened.
    pub kind: String,
    /// One sentence.
    pub detail: String,
    /// The fields of the kind: name and value.
    pub fields: Vec<(String, FieldReport)>,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldReport {
    /// Not known.
    Null,
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

impl EventReport {
    /// The most bytes that it takes in an encoding.
    fn size(&self) -> usize {
        let fields = self.fields.iter().map(|(name, value)| {
            let text = if let FieldReport::Text(text) = value { text.len() } else { 0 };
            FIELD_BYTES + name.len() + text
        });
        FIXED_BYTES + self.at.len() + self.kind.len() + self.detail.len() + fields.sum::<usize>()
    }

    fn check(&self) -> Result<(), &'static str> {
        if !is_time(&self.at) {
            return Err("a time that is none");
        }
        if !is_word(&self.kind) || self.fields.len() > FIELDS {
            return Err("a kind that is none, or too many fields");
        }
        let is_text = |text: &str| text.len() <= DETAIL_BYTES && !text.chars().any(char::is_control);
        let is_good = |value: &FieldReport| !matches!(value, FieldReport::Text(text) if !is_text(text));
        if !is_text(&self.detail) || !self.fields.iter().all(|(_, value)| is_good(value)) {
            return Err("a text that is too long or not printable");
        }
        let names = || self.fields.iter().map(|(name, _)| name.as_str());
        let is_repeated = |at: usize, name: &str| names().take(at).any(|before| before == name);
        if names().enumerate().any(|(at, name)| !is_word(name) || COMMON.contains(&name) || is_repeated(at, name)) {
            return Err("a name of a field that is none, or that is there twice");
        }
        Ok(())
    }
}

/// Checks that received events are bounded and printable, and have a time and names.
///
/// # Errors
/// What is wrong with them, for the log.
pub fn check_events(events: &[EventReport]) -> Result<(), &'static str> {
    if events.len() > REPORTED_EVENTS || events.iter().map(EventReport::size).sum::<usize>() > EVENTS_BYTES {
        return Err("more events than a node reports");
    }
    events.iter().try_for_each(EventReport::check)
}

/// Returns the last ones of these events, oldest first, that fit into a list; what another node would refuse is left out.
#[must_use]
pub fn clip_events(mut events: Vec<EventReport>) -> Vec<EventReport> {
    events.retain(|event| event.check().is_ok());
    let mut left = EVENTS_BYTES;
    let fits = |event: &&EventReport| match left.checked_sub(event.size()) {
        Some(after) => {
            left = after;
            true
        }
        None => false,
    };
    let kept = events.iter().rev().take(REPORTED_EVENTS).take_while(fits).count();
    events.split_off(events.len() - kept)
}

fn is_word(text: &str) -> bool {
    (1..=WORD_BYTES).contains(&text.len()) && text.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
}

fn is_time(text: &str) -> bool {
    let is_alike = |(byte, like): (u8, u8)| if like.is_ascii_digit() { byte.is_ascii_digit() } else { byte == like };
    text.len() == AT.len() && text.bytes().zip(AT.bytes()).all(is_alike)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::codec;

    fn event(id: u64) -> EventReport {
        EventReport {
            id,
            at: "2026-11-29T20:50:01.000Z".into(),
            index: 9,
            term: 4,
            kind: "peer_lost".into(),
            detail: "nothing".into(),
            fields: vec![
                ("peer".into(), FieldReport::Text("node2".into())),
                ("last_contact_ms".into(), FieldReport::Number(7)),
                ("more".into(), FieldReport::Null),
            ],
        }
    }

    #[test]
    fn golden_bytes_of_an_event() {
        let golden = [
            // Version 1; id, length and text of the time, index, term.
            &b"\x01\x03\0\0\0\0\0\0\0\x18\0\0\0\0\0\0\x002026-11-29T20:50:01.000Z"[..],
            b"\x09\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0",
            // Kind and detail, each behind its length.
            b"\x09\0\0\0\0\0\0\0peer_lost\x07\0\0\0\0\0\0\0nothing",
            // Three fields: name, variant, value.
            b"\x03\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0peer\x02\0\0\0\x05\0\0\0\0\0\0\0node2",
            b"\x0f\0\0\0\0\0\0\0last_contact_ms\x01\0\0\0\x07\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0more\0\0\0\0",
        ]
        .concat();
        assert_eq!(codec::encode(&event(3)), golden);
        assert_eq!(codec::decode(&golden), Ok(event(3)));
    }

    #[test]
    fn an_event_is_bounded_and_printable_and_has_names() {
        assert_eq!(check_events(&[event(1)]), Ok(()));
        let with = |change: fn(&mut EventReport)| {
            let mut changed = event(1);
            change(&mut changed);
            changed
        };
        let field = |name: &str, value| (name.to_owned(), value);
        for bad in [
            with(|it| it.at = "2026-11-29T20:50:01Z".into()),
            with(|it| it.at = "2026-11-29T20:50:01.\u{e4}0Z".into()),
            with(|it| it.kind = String::new()),
            with(|it| it.kind = "Peer lost".into()),
            with(|it| it.kind = "k".repeat(65)),
            with(|it| it.detail = "a\u{1b}[2J".into()),
            with(|it| it.detail = "d".repeat(DETAIL_BYTES + 1)),
            with(|it| it.fields[0].1 = FieldReport::Text("a\nb".into())),
            with(|it| it.fields[0].0 = "node".into()),
            with(|it| it.fields[0].0 = "more".into()),
            EventReport { fields: vec![field("", FieldReport::Null)], ..event(1) },
            with(|it| it.fields = vec![("a".into(), FieldReport::Null); FIELDS + 1]),
        ] {
            assert!(check_events(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
            assert_eq!(clip_events(vec![event(1), bad, event(2)]), [event(1), event(2)]);
        }
        let many: Vec<_> = (0..=REPORTED_EVENTS as u64).map(event).collect();
        assert!(check_events(&many).is_err() && check_events(&many[1..]).is_ok());
    }

    #[test]
    fn a_list_has_the_latest_events_that_fit() {
        let many: Vec<_> = (0..1_000).map(event).collect();
        let clipped = clip_events(many.clone());
        assert_eq!(clipped, many[800..]);
        let long: Vec<_> =
            many.iter().map(|it| EventReport { detail: "d".repeat(DETAIL_BYTES), ..it.clone() }).collect();
        let clipped = clip_events(long);
        assert_eq!((check_events(&clipped), clipped.last().map(|it| it.id)), (Ok(()), Some(999)));
        let bytes = codec::encode(&clipped).len();
        assert!((EVENTS_BYTES - 2_000..EVENTS_BYTES + 16).contains(&bytes), "{bytes}");
        assert!(clip_events(vec![]).is_empty());
    }
}
