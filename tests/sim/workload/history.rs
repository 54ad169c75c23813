//! The operations of all clients, and the histories that the checker looks at.
//!
//! An operation without an answer may have been applied at any time, or never. Many such operations would make the search
//! for an order endless, so what the nodes know narrows them down: a put was applied at a known moment, or by no node.

use std::collections::BTreeMap;

use huskv::model::{List, Write, Written};

use crate::linear::{Operation, Seen};
use crate::rng::Rng;
use crate::workload::registers::LatestSeen;

/// An operation under way.
pub struct OpenOperation {
    pub client: usize,
    pub at: usize,
    pub key: u64,
    pub called: u64,
    pub seen: Seen,
    /// The range of a list, and whether it is a stale one.
    pub list: Option<(List, bool)>,
    /// `max_stale` in milliseconds, for a stale read.
    pub bound: Option<u64>,
}

/// A write with an idempotency key, which is sent more than once.
pub struct KeyedWrite {
    pub write: Write,
    /// The number of times that it is still to be sent.
    pub left: u64,
    /// The number of requests without an answer.
    pub under_way: u64,
    /// Whether one of them may have been applied.
    pub maybe_applied: bool,
    /// The first result.
    pub first: Option<Written>,
}

/// All clients, with their operations.
pub struct Clients {
    pub rng: Rng,
    pub next: u64,
    pub open: BTreeMap<u64, OpenOperation>,
    /// Writes with an idempotency key, by operation.
    pub keyed: BTreeMap<u64, KeyedWrite>,
    /// The operations that have ended, by register.
    pub history: BTreeMap<u64, Vec<Operation>>,
    /// Versions that registers have had during an operation: register, version, operation. Their values are looked up at the
    /// end, when all entries are known.
    pub had: Vec<(u64, u64, Operation)>,
    pub latest_seen: LatestSeen,
    /// The operation of each acknowledged version.
    pub versions: BTreeMap<u64, u64>,
    /// The moment until which the value of each put with a `ttl` must stay, unless another write replaces it.
    pub kept_until: BTreeMap<u64, u64>,
    pub acknowledged: u64,
    /// Whether clients begin no more operations.
    pub stopped: bool,
    /// Writes that each node has acknowledged since the faults ended.
    pub by_node: BTreeMap<usize, u64>,
}

impl Clients {
    pub fn new(rng: Rng) -> Self {
        Self {
            rng,
            next: 0,
            open: BTreeMap::new(),
            keyed: BTreeMap::new(),
            history: BTreeMap::new(),
            had: Vec::new(),
            latest_seen: LatestSeen::new(),
            versions: BTreeMap::new(),
            kept_until: BTreeMap::new(),
            acknowledged: 0,
            stopped: false,
            by_node: BTreeMap::new(),
        }
    }

    /// The history of each register, for the checker.
    ///
    /// Operations under way have an unknown outcome. `applied` is the moment when the first node applied a put: there it
    /// ends, and a put that no node has applied is left out, since no client can have read it. `written` is the operation
    /// that was written at an index. `done` says what conditions came to.
    ///
    /// # Errors
    ///
    /// A client was told another result of a condition than `done` says.
    pub fn histories(
        &self,
        applied: impl Fn(u64) -> Option<u64>,
        written: impl Fn(u64) -> Option<u64>,
        done: &BTreeMap<u64, bool>,
    ) -> Result<BTreeMap<u64, Vec<Operation>>, String> {
        let mut all = self.history.clone();
        for open in self.open.values() {
            // A read without an answer explains nothing.
            if !matches!(open.seen, Seen::Get(_)) {
                let (client, called, seen) = (open.client, open.called, open.seen.clone());
                all.entry(open.key).or_default().push(Operation { client, called, returned: None, seen });
            }
        }
        for (key, version, operation) in &self.had {
            // A failed condition names the version that the register had instead; the entry there tells its value.
            let value = written(*version);
            if *version == 0 || value.is_some() {
                all.entry(*key).or_default().push(Operation { seen: Seen::Get(value), ..operation.clone() });
            }
        }
        for history in all.values_mut() {
            history.retain_mut(|operation| match operation.seen {
                // An unanswered put ended when the first node applied it, at the latest. If no node has, it never happened.
                Seen::Put(id) | Seen::Cas { new: Some(id), .. } if operation.returned.is_none() => {
                    operation.returned = applied(id);
                    operation.returned.is_some()
                }
                _ => true,
            });
        }
        for operation in all.values_mut().flatten() {
            if let Seen::Cas { new: Some(id), done: told, .. } = &mut operation.seen
                && let Some(done) = done.get(id)
                // Where the client knows no result, the replay fills it in; where it does, the two must agree.
                && *told.get_or_insert(*done) != *done
            {
                return Err(format!("op{id} was answered otherwise, and its condition came to {done}"));
            }
        }
        Ok(all)
    }
}
