//! Change events and the cursors of watchers.
//!
//! Why: a watcher must find its place again by the event id alone, on any node and after any failure, so the id is the position
//! of the change in the log.
//!
//! Invariants: the position counts all changes of an index, whatever the watcher filters. A change that keeps the version
//! of its key (a touch) is no event.
//!
//! Example: entry 41 is a transaction that puts two keys. Its events have the ids `41.1` and `41.2`. An entry with one
//! change has the plain id `42`. A watcher with `Last-Event-ID: 41.1` resumes at the second change of 41.
//!
//! See also: `changefeed` (retention), `http::api::watch` (server-sent events).

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::decide::state_view_and_changes::{ApplyPoint, Change};
use super::value::{Item, TokenName};

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The raft index of the entry.
    pub index: u64,
    /// The position of the change in its entry, from 1.
    pub place: u32,
    /// The number of changes of the entry.
    pub of: u32,
    /// The cluster clock at the entry, in milliseconds.
    pub clock: u64,
    /// The key.
    pub key: Bytes,
    /// The kind of change.
    pub kind: EventKind,
}

/// The kind of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// The key was set.
    Put(Item),
    /// A client deleted the key.
    Deleted {
        /// The token of that client; None where its node had no tokens.
        by: Option<TokenName>,
    },
    /// The key expired.
    Expired,
}

impl Event {
    /// Returns the event of a change, if it is one; position and count are set by [`Event::number`].
    #[must_use]
    pub fn of(change: &Change, at: ApplyPoint) -> Option<Self> {
        let (key, kind) = match change {
            Change::Put { key, item } => (key, EventKind::Put(item.clone())),
            Change::Delete { key, expired: false, by } => (key, EventKind::Deleted { by: by.clone() }),
            Change::Delete { key, expired: true, .. } => (key, EventKind::Expired),
            // A touch keeps the version, so a watcher's copy stays valid; a move changes no key.
            Change::Touch { .. } | Change::Move { .. } => return None,
        };
        Some(Self { index: at.index, place: 1, of: 1, clock: at.clock, key: key.clone(), kind })
    }

    /// Sets position and count of all events of one entry.
    pub fn number(events: &mut [Self]) {
        // A command changes far fewer keys ([`super::DELETE_PREFIX_KEYS`]).
        let of = u32::try_from(events.len()).unwrap_or(u32::MAX);
        for (place, event) in (1..).zip(events) {
            (event.place, event.of) = (place, of);
        }
    }

    /// Returns its own cursor.
    #[must_use]
    pub fn at(&self) -> Cursor {
        Cursor { index: self.index, place: self.place }
    }

    /// Returns the cursor after it.
    #[must_use]
    pub fn after(&self) -> Cursor {
        // After 41.1 of two comes 41.2; after 41.2, the last one, comes the first change of 42.
        if self.place == self.of { Cursor::after(self.index) } else { Cursor { place: self.place + 1, ..self.at() } }
    }

    /// Estimates its size in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        let rest = match &self.kind {
            EventKind::Put(item) => item.size(),
            EventKind::Deleted { by } => by.as_deref().map_or(0, str::len),
            EventKind::Expired => 0,
        };
        size_of::<Self>() + self.key.len() + rest
    }

    /// Returns its id: the index, and the position if the entry has several changes.
    #[must_use]
    pub fn id(&self) -> String {
        if self.of == 1 { self.index.to_string() } else { format!("{}.{}", self.index, self.place) }
    }
}

/// A cursor of a watcher: the first change it has not received.
// The derived order compares the index first: the order of the fields is part of the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Its index.
    pub index: u64,
    /// Its position there, from 1.
    pub place: u32,
}

impl Cursor {
    /// Returns the cursor at the first change of `index`.
    #[must_use]
    pub fn from(index: u64) -> Self {
        Self { index, place: 1 }
    }

    /// Returns the cursor after `index`.
    #[must_use]
    pub fn after(index: u64) -> Self {
        Self::from(index.saturating_add(1))
    }

    /// Returns the last completely received index; None in the middle of an entry.
    #[must_use]
    pub fn complete(self) -> Option<u64> {
        // Cursor (42, 1) means that all of 41 was received. Cursor (41, 2) means that a part of 41 is missing, so a
        // `progress` with 41 would make the client skip it when it resumes.
        (self.place == 1).then(|| self.index.saturating_sub(1))
    }
}

/// An invalid event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseCursorError;

impl fmt::Display for ParseCursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is a raft index, such as 41, or one with a place, such as 41.2")
    }
}

/// Parses a `Last-Event-ID` into the cursor after it.
impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(id: &str) -> Result<Self, ParseCursorError> {
        // "41" resumes at entry 42. "41.2" resumes at change 3 of entry 41, which may not exist: the feed then goes on to 42.
        let Some((index, place)) = id.split_once('.') else { return Ok(Self::after(number(id)?)) };
        let place = u32::try_from(number(place)?).map_err(|_| ParseCursorError)?;
        if place == 0 {
            return Err(ParseCursorError);
        }
        Ok(Self { index: number(index)?, place: place.saturating_add(1) })
    }
}

/// Parses digits without the sign that the standard parser accepts.
fn number(text: &str) -> Result<u64, ParseCursorError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().ok_or(ParseCursorError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Value;

    const AT: ApplyPoint = ApplyPoint { index: 7, clock: 9 };

    fn put(key: &'static str, version: u64) -> Change {
        let item = Item { value: Value::binary("x"), version, create_version: 1, expires: None, by: None };
        Change::Put { key: key.into(), item }
    }

    #[test]
    fn ids_count_all_changes_of_an_index_that_has_several() {
        // The touch of `t` between the put and the deletes is no event, and takes no position.
        let gone = |expired| Change::Delete { key: "b".into(), expired, by: None };
        let Change::Put { key, item } = put("t", 6) else { panic!() };
        let changes = [put("a", 7), Change::Touch { key, item }, gone(false), gone(true)];
        let mut events: Vec<_> = changes.iter().filter_map(|change| Event::of(change, AT)).collect();
        Event::number(&mut events);
        assert_eq!(events.iter().map(Event::id).collect::<Vec<_>>(), ["7.1", "7.2", "7.3"]);
        assert_eq!((&events[1].kind, &events[2].kind), (&EventKind::Deleted { by: None }, &EventKind::Expired));
        let mut alone = vec![Event::of(&put("a", 7), AT).unwrap()];
        Event::number(&mut alone);
        assert_eq!(alone[0].id(), "7");
    }

    #[test]
    fn an_id_parses_into_the_cursor_after_it() {
        let mut events: Vec<_> = ["a", "b"].iter().filter_map(|key| Event::of(&put(key, 7), AT)).collect();
        Event::number(&mut events);
        for event in &events {
            let resumed: Cursor = event.id().parse().unwrap();
            assert!(resumed > event.at() && resumed <= event.after());
        }
        assert_eq!((events[0].after(), events[1].after()), (Cursor { index: 7, place: 2 }, Cursor::from(8)));
        assert_eq!("7".parse(), Ok(Cursor::from(8)));
        assert_eq!("0".parse(), Ok(Cursor::from(1)));
        assert_eq!("7.1".parse(), Ok(Cursor { index: 7, place: 2 }));
        assert_eq!(u64::MAX.to_string().parse(), Ok(Cursor::from(u64::MAX)));
        // Places start at 1 and fit into 32 bits, indexes into 64; signs and spaces, which some parsers accept, are invalid.
        let bad = ["", ".", "7.", ".1", "7.0", "+7", "-1", "7.1.1", "7 ", "7.4294967296", "18446744073709551616", "x"];
        for bad in bad {
            assert_eq!(bad.parse::<Cursor>(), Err(ParseCursorError), "{bad}");
        }
    }

    #[test]
    fn only_a_whole_index_is_complete() {
        assert_eq!(Cursor::after(7).complete(), Some(7));
        assert_eq!(Cursor { index: 7, place: 2 }.complete(), None);
    }
}
