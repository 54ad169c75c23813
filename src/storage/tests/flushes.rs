//! Flush tests against a model: what readers see while a flush goes on step by step and change by change, and the bounds of memory.
//!
//! Why: at any time a key may be in the active memtable, in the frozen one, and half written in the tree.
//!
//! Invariants: compared are the model and a second state machine that never flushes, so its memtable has everything.
//!
//! See also: [`super::flush_crashes`], [`super::halved_reads`], [`super::rewrites`].

use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::multi_key::{command, key, write};
use super::state_machine::fresh;
use super::{Memory, Rng, open, put};
use crate::model::test_store::Map;
use crate::model::validate::{self, EXPIRE_KEYS, Limits};
use crate::model::{
    ApplyPoint, Command, CommandResult, Condition, List, Proposal, Ttl, Value, View, Write, after_prefix,
};
use crate::storage::kv::{merged_scan, ttl_index};
use crate::storage::{Applied, Flush, Operation, StateMachine, StateReader};

pub(super) fn entry(index: u64, stamp: u64, write: Write) -> Applied {
    Applied { index, term: 1, operation: Operation::Command(Proposal { stamp, write }) }
}

/// A random range, either way.
pub(super) fn list(rng: &mut Rng) -> List {
    let (start, prefix) = (key(rng), key(rng));
    let end = if rng.below(2) == 0 { after_prefix(&prefix) } else { None };
    let start = if rng.below(3) == 0 { Vec::new() } else { start };
    let limit = 1 + usize::try_from(rng.below(12)).unwrap();
    List { start, end, reverse: rng.below(2) == 0, limit, keys_only: rng.below(2) == 0 }
}

/// The model with what it is read at.
struct Model {
    map: Map,
    rng: Rng,
}

impl Model {
    /// Returns the keys due at `clock`, in order of their expiry.
    fn due(&self, clock: u64) -> Vec<(Bytes, u64)> {
        let due = self.map.0.iter().filter_map(|(key, item)| Some((item.expires?, key.clone(), item.version)));
        let mut due: Vec<_> = due.filter(|(expires, ..)| *expires <= clock).collect();
        due.sort();
        due.into_iter().map(|(_, key, version)| (key, version)).collect()
    }

    fn first_expiry(&self) -> Option<u64> {
        self.map.0.values().filter_map(|item| item.expires).min()
    }

    /// Compares a random read of each sort.
    fn compare(&mut self, reader: &StateReader) {
        let (wanted, list) = (key(&mut self.rng), list(&mut self.rng));
        assert_eq!(reader.get(&wanted).unwrap().0.as_deref(), self.map.0.get(&wanted[..]), "{wanted:?}");
        assert_eq!(reader.list(&list).unwrap().0, self.map.list(&list), "{list:?}");
        let next = merged_scan::next(&reader.read(), &list.start, list.end.as_deref()).unwrap();
        let Ok(expected) = self.map.next(&list.start, list.end.as_deref());
        assert_eq!(next.map(|(key, stored)| (key, stored.meta)), expected, "{list:?}");
        let clock = self.rng.below(12_000);
        assert_eq!(ttl_index::due(&reader.read(), 0, clock).unwrap(), self.due(clock));
        assert_eq!(ttl_index::first(&reader.read(), 0).unwrap(), self.first_expiry());
    }
}

/// A state machine with a flush under way now and then, its model, and the state machine without flushes.
struct Played {
    db: Arc<Memory>,
    state_machine: StateMachine,
    flush: Option<Flush>,
    /// The digest when the flush under way began.
    frozen_digest: u64,
    flushes: usize,
    model: Arc<Mutex<Model>>,
    twin_db: Arc<Memory>,
    twin: StateMachine,
    clock: u64,
    is_timed: bool,
}

impl Played {
    fn new(seed: u64) -> Self {
        let ((db, state_machine), (twin_db, twin)) = (fresh(), fresh());
        let model = Arc::new(Mutex::new(Model { map: Map::default(), rng: Rng(!seed) }));
        // At any change of the tree all readers see the state of the model.
        let (reader, seen) = (state_machine.reader().clone(), model.clone());
        *db.between.lock().unwrap() = Some(Box::new(move || seen.lock().unwrap().compare(&reader)));
        // Model and dedup table know time 0 alone, so half of the seeds have the one and half the other.
        let (flush, is_timed) = (None, seed.is_multiple_of(2));
        Self { db, state_machine, flush, frozen_digest: 0, flushes: 0, model, twin_db, twin, clock: 0, is_timed }
    }

    fn apply(&mut self, rng: &mut Rng) {
        let first = self.state_machine.applied().0 + 1;
        let writes: Vec<_> = (0..1 + rng.below(6)).map(|_| self.write(rng)).collect();
        self.clock += if self.is_timed { rng.below(1_500) } else { 0 };
        let entries: Vec<_> =
            (first..).zip(writes.clone()).map(|(index, write)| entry(index, self.clock, write)).collect();
        let written = self.state_machine.apply(entries.clone(), usize::MAX).unwrap();
        assert_eq!(written, self.twin.apply(entries, usize::MAX).unwrap());
        let mut model = self.model.lock().unwrap();
        for ((index, write), written) in (first..).zip(writes).zip(written) {
            if self.is_timed && written.outcome == CommandResult::Invalid {
                // Keys may be empty, which the model takes.
                assert!(validate::write(&write, &Limits::ALL_NODES).is_err());
            } else if self.is_timed {
                let at = ApplyPoint { index, clock: self.clock };
                assert_eq!(written.outcome, model.map.apply_at(write.command, at));
            } else {
                assert_eq!(written, model.map.write(write, index, 1));
            }
        }
    }

    fn write(&self, rng: &mut Rng) -> Write {
        if !self.is_timed {
            return write(rng);
        }
        if rng.below(8) == 0 {
            let keys = self.state_machine.due(self.clock + 1_000).unwrap();
            return Command::Expire { keys }.into();
        }
        command(rng).into()
    }

    /// Begins a flush, or does a few steps of the one under way.
    fn step(&mut self, rng: &mut Rng) {
        let Some(flush) = &mut self.flush else {
            if rng.below(2) == 0 {
                self.frozen_digest = self.state_machine.digest();
                self.flush = self.state_machine.freeze(None);
                assert!(self.flush.is_some() && self.state_machine.is_flushing());
            }
            return;
        };
        assert!(self.state_machine.freeze(None).is_none(), "one at a time");
        for _ in 0..rng.below(4) {
            if !flush.step().unwrap() {
                let mark = flush.mark();
                assert!(self.state_machine.flush_ended((mark.0 + 1, mark.1)).is_none(), "of another flush");
                assert!(self.state_machine.flush_ended(mark).is_some());
                self.flush = None;
                self.flushes += 1;
                assert_eq!(self.state_machine.flushed(), mark.0);
                // The tree alone is the state at the mark, without a chunk too many.
                let tree = open(Memory::of(self.db.copied())).unwrap();
                assert_eq!((tree.applied(), tree.digest()), (mark, self.frozen_digest));
                break;
            }
        }
    }

    fn compare(&self, rng: &mut Rng) {
        let (state_machine, twin) = (&self.state_machine, &self.twin);
        let mut model = self.model.lock().unwrap();
        assert_eq!(state_machine.keys(), model.map.0.len() as u64);
        assert_eq!((state_machine.digest(), state_machine.live_bytes()), (twin.digest(), twin.live_bytes()));
        assert_eq!(state_machine.first_expiry(), model.first_expiry());
        for clock in [self.clock, rng.below(12_000), u64::MAX] {
            let due = state_machine.due(clock).unwrap();
            assert_eq!(due, model.due(clock));
            assert_eq!(due, twin.due(clock).unwrap());
        }
        let all = List { start: vec![], end: None, reverse: rng.below(2) == 0, limit: 100, keys_only: false };
        assert_eq!(state_machine.list(&all).unwrap(), model.map.list(&all));
        for key in (0..20).map(|_| key(rng)) {
            assert_eq!(state_machine.get(&key).unwrap().as_deref(), model.map.0.get(&key[..]));
        }
        for _ in 0..10 {
            model.compare(state_machine.reader());
        }
    }
}

#[test]
fn every_reader_sees_one_state_at_every_change_of_a_flush() {
    let mut flushes = 0;
    for seed in 0..30 {
        let mut rng = Rng(seed);
        let mut played = Played::new(seed);
        for _ in 0..30 {
            played.apply(&mut rng);
            played.compare(&mut rng);
            played.step(&mut rng);
            played.compare(&mut rng);
        }
        flushes += played.flushes;
        if let Some(mut flush) = played.flush.take() {
            flush.run().unwrap();
            drop(played.state_machine.flush_ended(flush.mark()));
        }
        played.state_machine.flush().unwrap();
        played.compare(&mut rng);
        played.twin.flush().unwrap();
        assert!(played.db.copied() == played.twin_db.copied(), "seed {seed}: one tree, however often it was flushed");
        let again = open(Memory::of(played.db.copied())).unwrap();
        assert_eq!((again.digest(), again.live_bytes()), (played.twin.digest(), played.twin.live_bytes()));
        assert_eq!(again.first_expiry(), played.twin.first_expiry());
    }
    assert!(flushes > 60, "only {flushes} flushes have ended between batches");
}

#[test]
fn more_expiries_than_one_piece_of_the_tree_are_merged() {
    let count = 3 * EXPIRE_KEYS as u64;
    let put = |index: u64, number: u64, ttl: u64| {
        let key = format!("{:03}", number * 7 % count);
        let ttl = Some(Ttl(u32::try_from(ttl).unwrap()));
        let put = Command::Put { key: key.into(), value: Value::binary("v"), condition: Condition::Always, ttl };
        entry(index, 0, put.into())
    };
    // Layer by layer: all in the tree; then the first third is put again, later, and frozen; then every second of the rest is removed.
    let (_, mut state_machine) = fresh();
    let mut map = Model { map: Map::default(), rng: Rng(1) };
    let mut index = 2;
    for layer in 0..3 {
        let entries: Vec<_> = match layer {
            0 => (0..count).map(|number| put(index + number, number, 10 + number / 3)).collect(),
            1 => (0..count / 3).map(|number| put(index + number, number, 5 * count + number)).collect(),
            _ => {
                let keys = state_machine.due(u64::MAX).unwrap();
                assert_eq!(keys.len(), EXPIRE_KEYS);
                let removed = (index..).zip(keys.into_iter().step_by(2));
                removed.map(|(index, (key, _))| entry(index, 0, Command::delete(key).into())).collect()
            }
        };
        index += entries.len() as u64;
        for Applied { index, operation, .. } in entries.clone() {
            let Operation::Command(proposal) = operation else { panic!("commands alone") };
            map.map.apply(proposal.write.command, index);
        }
        state_machine.apply(entries, usize::MAX).unwrap();
        match layer {
            0 => state_machine.flush().unwrap(),
            1 => drop(state_machine.freeze(None).unwrap()),
            _ => {}
        }
        for clock in [0, 10_000, 70_000, 100_000, 150_000, u64::MAX] {
            let mut expected = map.due(clock);
            expected.truncate(EXPIRE_KEYS);
            assert_eq!(state_machine.due(clock).unwrap(), expected, "layer {layer}, at {clock}");
        }
        assert_eq!(state_machine.first_expiry(), map.first_expiry());
    }
}

#[test]
fn a_full_memtable_is_frozen_and_nothing_is_applied_beyond_the_bound() {
    const LIMIT: usize = 400_000;
    const VALUE: usize = 1_000;
    let (_, mut state_machine) = fresh();
    state_machine.limit_memtables(LIMIT);
    let mut index = 2;
    let mut fill = |state_machine: &mut StateMachine, is_enough: &dyn Fn(&StateMachine) -> bool| {
        let begun = index;
        while !is_enough(state_machine) {
            state_machine
                .apply(vec![put(index, format!("{index:08}").as_bytes(), vec![1; VALUE])], usize::MAX)
                .unwrap();
            index += 1;
        }
        usize::try_from(index - begun).unwrap()
    };
    assert!(!state_machine.is_full() && state_machine.pending_bytes() == 0);
    let one = VALUE + 600;
    let taken = fill(&mut state_machine, &StateMachine::is_full);
    assert!(taken * one >= LIMIT / 4 && taken * VALUE < LIMIT / 4, "a quarter: {taken}");
    assert!(!state_machine.stalls(), "nothing is under way that it could wait for");
    let mut flush = state_machine.freeze(None).unwrap();
    assert!(!state_machine.is_full() && !state_machine.stalls());
    let frozen = state_machine.unflushed_bytes();
    assert!((LIMIT / 4..LIMIT / 4 + one).contains(&frozen), "{frozen}");
    let taken = fill(&mut state_machine, &StateMachine::stalls);
    assert!(taken * one >= LIMIT / 2 && taken * VALUE < LIMIT / 2, "half: {taken}");
    assert!(state_machine.unflushed_bytes() < 3 * LIMIT / 4 + 2 * one, "the last quarter is for the encoding");
    assert_eq!(state_machine.pending_bytes(), 3 * state_machine.unflushed_bytes() as u64);
    flush.run().unwrap();
    assert!(state_machine.stalls(), "until the loop knows");
    drop(state_machine.flush_ended(flush.mark()));
    assert!(!state_machine.stalls() && state_machine.is_full());
    assert!(state_machine.pending_bytes() >= 3 * (LIMIT / 2) as u64);
    state_machine.flush().unwrap();
    assert_eq!((state_machine.pending_bytes(), state_machine.unflushed_bytes()), (0, 0));
}
