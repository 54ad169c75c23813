//! Scans while a flush writes the frozen memtable between any two of their reads of the tree.
//!
//! Why: the loop scans while it applies a removal by prefix, and the threads of clients scan pages, both beside the flush.
//!
//! See also: [`super::flushes`] (whole scans between the changes of a flush), [`super::halved_reads`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::flushes::list;
use super::halved_reads::apply;
use super::multi_key::key;
use super::state_machine::fresh;
use super::{Memory, Rng};
use crate::model::View;
use crate::model::test_store::Map;
use crate::storage::kv::merged_scan;
use crate::storage::{StateMachine, StateReader};

/// The pairs that a flush has still to set or to remove, in the order of their keys.
type Changes = VecDeque<(Vec<u8>, Option<Vec<u8>>)>;

/// A state machine with a flush under way, which goes on while it is read.
struct Flushing {
    db: Arc<Memory>,
    state_machine: StateMachine,
    changes: Changes,
    /// What takes them back.
    undo: Changes,
}

impl Flushing {
    /// Freezes the memtable. The changes of its flush are taken back, to be made again and again.
    fn new(db: Arc<Memory>, mut state_machine: StateMachine) -> Self {
        let before = db.copied();
        state_machine.freeze(None).unwrap().run().unwrap();
        let after = db.copied();
        let set = after.iter().filter(|(key, value)| before.get(*key) != Some(value));
        let set = set.map(|(key, value)| (key.clone(), Some(value.clone())));
        let removed = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), None));
        let mut changes: Vec<_> = set.chain(removed).collect();
        changes.sort();
        let undo = changes.iter().map(|(key, _)| (key.clone(), before.get(key).cloned())).collect();
        *db.pairs.lock().unwrap() = before;
        Self { db, state_machine, changes: changes.into(), undo }
    }

    /// Reads while before each read of the tree up to `most` changes of the flush are made.
    fn read<T>(&self, mut rng: Rng, most: u64, read: impl FnOnce(&StateReader) -> T) -> T {
        let left = Mutex::new(self.changes.clone());
        *self.db.before_read.lock().unwrap() = Some(Box::new(move |pairs| {
            let mut left = left.lock().unwrap();
            for _ in 0..rng.below(most + 1) {
                match left.pop_front() {
                    Some((key, Some(value))) => drop(pairs.insert(key, value)),
                    Some((key, None)) => drop(pairs.remove(&key)),
                    None => break,
                }
            }
        }));
        let found = read(self.state_machine.reader());
        *self.db.before_read.lock().unwrap() = None;
        let mut pairs = self.db.pairs.lock().unwrap();
        for (key, value) in &self.undo {
            match value {
                Some(value) => pairs.insert(key.clone(), value.clone()),
                None => pairs.remove(key),
            };
        }
        found
    }
}

#[test]
fn a_scan_is_one_state_whatever_a_flush_writes_between_its_reads() {
    for seed in 0..400 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        let mut map = Map::default();
        apply(&mut rng, &mut state_machine, &mut map);
        state_machine.flush().unwrap();
        apply(&mut rng, &mut state_machine, &mut map);
        let mut flushing = Flushing::new(db, state_machine);
        apply(&mut rng, &mut flushing.state_machine, &mut map);
        for most in [1, 1, 2, 4, 100] {
            let (wanted, list, seed) = (key(&mut rng), list(&mut rng), rng.next());
            let page = flushing.read(Rng(seed), most, |reader| reader.list(&list).unwrap().0);
            assert_eq!(page, map.list(&list), "{list:?}");
            let (from, to) = (&list.start, list.end.as_deref());
            let next = flushing.read(Rng(seed), most, |reader| merged_scan::next(&reader.read(), from, to).unwrap());
            let Ok(expected) = map.next(from, to);
            assert_eq!(next.map(|(key, stored)| (key, stored.meta)), expected, "{list:?}");
            let item = flushing.read(Rng(seed), most, |reader| reader.get(&wanted).unwrap().0);
            assert_eq!(item.as_deref(), map.0.get(&wanted[..]), "{wanted:?}");
        }
    }
}
