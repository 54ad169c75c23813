//! What clients have asked for and heard.

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
    /// The range of a page, and whether it may be an old state.
    pub list: Option<(List, bool)>,
    /// ClientRequest old a state at most, where it may be one.
    pub bound: Option<u64>,
}

/// A write that has a name: it is sent again, to any node, whether or not it was answered.
pub struct KeyedWrite {
    pub write: Write,
    /// ClientRequest often it is still to be sent.
    pub left: u64,
    /// ClientRequest many of those that were sent are not answered.
    pub under_way: u64,
    /// Whether one of them may have been done.
    pub maybe_applied: bool,
    /// The first result.
    pub first: Option<Written>,
}

/// All clients and their history.
pub struct Clients {
    pub rng: Rng,
    pub next: u64,
    pub open: BTreeMap<u64, OpenOperation>,
    /// Writes that have a name, by operation.
    pub keyed: BTreeMap<u64, KeyedWrite>,
    /// What is known, by key.
    pub history: BTreeMap<u64, Vec<Operation>>,
    /// The versions that registers are known to have had at some time, to be resolved when all entries are known.
    pub had: Vec<(u64, u64, Operation)>,
    pub latest_seen: LatestSeen,
    /// Every version that was acknowledged, with the operation.
    pub versions: BTreeMap<u64, u64>,
    /// Until when what each put wrote must be there, unless another write ends it.
    pub kept_until: BTreeMap<u64, u64>,
    pub acknowledged: u64,
    /// Whether they ask for nothing more.
    pub stopped: bool,
    /// Writes acknowledged by each node since its count was taken to 0.
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

    /// The whole history: what is still open is of unknown outcome. Of a put the nodes know more: it was decided by the time
    /// that the first of them applied it, or, if none has, no client can have read it. Without that the search for an
    /// order would have no end. `written` tells what was written at an index, `done` what came of conditions; where a client
    /// was told something else, that is the error.
    pub fn histories(
        &self,
        applied: impl Fn(u64) -> Option<u64>,
        written: impl Fn(u64) -> Option<u64>,
        done: &BTreeMap<u64, bool>,
    ) -> Result<BTreeMap<u64, Vec<Operation>>, String> {
        let mut all = self.history.clone();
        for open in self.open.values() {
            if !matches!(open.seen, Seen::Get(_)) {
                let (client, called, seen) = (open.client, open.called, open.seen.clone());
                all.entry(open.key).or_default().push(Operation { client, called, returned: None, seen });
            }
        }
        for (key, version, operation) in &self.had {
            let value = written(*version);
            if *version == 0 || value.is_some() {
                all.entry(*key).or_default().push(Operation { seen: Seen::Get(value), ..operation.clone() });
            }
        }
        for history in all.values_mut() {
            history.retain_mut(|operation| match operation.seen {
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
                && *told.get_or_insert(*done) != *done
            {
                return Err(format!("op{id} was told otherwise, but its condition came to {done}"));
            }
        }
        Ok(all)
    }
}
