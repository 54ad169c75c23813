//! An in-memory state machine for tests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::{
    ApplyPoint, Change, Command, CommandResult, DedupTable, Item, KeyMeta, List, Page, TokenName, View, Write, Written,
    codec, decide, decide_write,
};

/// The keys with their items, and the dedup table.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Map(pub BTreeMap<Bytes, Item>, DedupTable);

impl FromIterator<(&'static str, Item)> for Map {
    fn from_iter<I: IntoIterator<Item = (&'static str, Item)>>(items: I) -> Self {
        Self(items.into_iter().map(|(key, item)| (key.into(), item)).collect(), DedupTable::default())
    }
}

impl View for Map {
    type Error = Infallible;

    fn meta(&self, key: &Bytes) -> Result<Option<KeyMeta>, Infallible> {
        Ok(self.0.get(key).map(Item::meta))
    }

    fn item(&self, key: &Bytes) -> Result<Option<Item>, Infallible> {
        Ok(self.0.get(key).cloned())
    }

    fn next(&self, from: &[u8], to: Option<&[u8]>) -> Result<Option<(Bytes, KeyMeta)>, Infallible> {
        let found = self.0.range(Bytes::copy_from_slice(from)..).next();
        let found = found.filter(|(key, _)| to.is_none_or(|to| &key[..] < to));
        Ok(found.map(|(key, item)| (key.clone(), item.meta())))
    }
}

impl Map {
    /// Applies a command at cluster time 0.
    pub fn apply(&mut self, command: Command, index: u64) -> CommandResult {
        self.apply_at(command, ApplyPoint { index, clock: 0 })
    }

    /// Applies a command.
    pub fn apply_at(&mut self, command: Command, at: ApplyPoint) -> CommandResult {
        self.apply_by(command, None, at)
    }

    fn apply_by(&mut self, command: Command, by: Option<TokenName>, at: ApplyPoint) -> CommandResult {
        let Ok((outcome, changes)) = decide(command, by, at, self);
        changes.into_iter().for_each(|change| self.change(change));
        outcome
    }

    /// Makes a change.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Put { key, item } | Change::Touch { key, item } => drop(self.0.insert(key, item)),
            Change::Delete { key, .. } => drop(self.0.remove(&key)),
            Change::Move { .. } => {}
        }
    }

    /// Applies a write at cluster time 0, unless it is a duplicate.
    pub fn write(&mut self, write: Write, index: u64, term: u64) -> Written {
        let at = ApplyPoint { index, clock: 0 };
        let mut results = std::mem::take(&mut self.1);
        let Ok((written, stored)) =
            decide_write(write, at, term, &results, |command, by| Ok::<_, Infallible>(self.apply_by(command, by, at)));
        if let Some(stored) = stored {
            let bytes = codec::encode(&stored).len();
            results.store(stored, bytes);
        }
        self.1 = results;
        written
    }

    /// Returns a page, bounded by its limit alone.
    pub fn list(&self, list: &List) -> Page {
        let inside = |key: &Bytes| key[..] >= list.start[..] && list.end.as_ref().is_none_or(|end| key[..] < end[..]);
        let mut found: Vec<_> = self.0.iter().filter(|(key, _)| inside(key)).collect();
        if list.reverse {
            found.reverse();
        }
        let more = found.len() > list.limit;
        found.truncate(list.limit);
        let items =
            found.into_iter().map(|(key, item)| (key.clone(), (!list.keys_only).then(|| Arc::new(item.clone()))));
        Page { items: items.collect(), more }
    }
}
