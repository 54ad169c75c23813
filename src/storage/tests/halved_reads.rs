//! Reads with a flush between their halves: answered where that shows them one state, begun again where it may not.
//!
//! See also: `kv::layers` (the epoch).

use std::sync::{Arc, Mutex};

use super::flushes::{entry, list};
use super::multi_key::{command, key};
use super::state_machine::fresh;
use super::{Rng, delete, put};
use crate::model::test_store::Map;
use crate::model::{Item, List, Page};
use crate::storage::layout::CHUNK_BYTES;
use crate::storage::{Applied, Operation, StateMachine};

/// Applies eight random commands to both.
pub(super) fn apply(rng: &mut Rng, state_machine: &mut StateMachine, map: &mut Map) {
    let first = state_machine.applied().0 + 1;
    let entries: Vec<_> = (first..first + 8).map(|index| entry(index, 0, command(rng).into())).collect();
    for Applied { index, operation, .. } in entries.clone() {
        let Operation::Command(proposal) = operation else { panic!("commands alone") };
        map.write(proposal.write, index, 1);
    }
    state_machine.apply(entries, usize::MAX).unwrap();
}

fn all() -> List {
    List { start: vec![], end: None, reverse: false, limit: 100, keys_only: false }
}

fn value(state_machine: &StateMachine, key: &[u8]) -> Option<Arc<Item>> {
    state_machine.reader().get(key).unwrap().0
}

#[test]
fn a_flush_of_what_was_frozen_before_does_not_disturb_a_read() {
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let (_, mut state_machine) = fresh();
        let mut map = Map::default();
        apply(&mut rng, &mut state_machine, &mut map);
        state_machine.flush().unwrap();
        apply(&mut rng, &mut state_machine, &mut map);
        let mut flush = state_machine.freeze(None).unwrap();
        apply(&mut rng, &mut state_machine, &mut map);
        for _ in 0..rng.below(4) {
            flush.step().unwrap();
        }
        let reader = state_machine.reader().clone();
        let (keys, lists): (Vec<_>, Vec<_>) = (0..20).map(|_| (key(&mut rng), list(&mut rng))).unzip();
        let gets: Vec<_> = keys.iter().map(|key| reader.begin_get(key)).collect();
        let pages: Vec<_> = lists.iter().map(|list| reader.begin_list(list)).collect();
        let (seen, point) = (map.clone(), reader.point());
        apply(&mut rng, &mut state_machine, &mut map);
        if rng.below(2) == 0 {
            flush.run().unwrap();
            if rng.below(2) == 0 {
                drop(state_machine.flush_ended(flush.mark()));
            }
        } else {
            flush.step().unwrap();
        }
        apply(&mut rng, &mut state_machine, &mut map);
        for (key, begun) in keys.iter().zip(gets) {
            let (item, at) = reader.end_get(begun, key).unwrap().expect("no freeze came in between");
            assert_eq!((item.as_deref(), at), (seen.0.get(&key[..]), point), "seed {seed}, {key:?}");
        }
        for (list, begun) in lists.iter().zip(pages) {
            let found = reader.end_list(begun).unwrap().expect("no freeze came in between");
            assert_eq!(found, (seen.list(list), point), "seed {seed}, {list:?}");
        }
        assert_eq!(reader.list(&all()).unwrap(), (map.list(&all()), reader.point()));
    }
}

#[test]
fn a_read_begins_again_if_another_flush_came_between_its_halves() {
    let (_, mut state_machine) = fresh();
    state_machine.apply(vec![put(2, b"a", vec![1; 9_000]), put(3, b"b", vec![2])], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    state_machine.apply(vec![put(4, b"c", vec![3])], usize::MAX).unwrap();
    let reader = state_machine.reader().clone();
    let keys: [&[u8]; 3] = [b"a", b"b", b"missing"];
    let gets = keys.map(|key| reader.begin_get(key));
    let (in_memory, page) = (reader.begin_get(b"c"), reader.begin_list(&all()));
    let changes = vec![put(5, b"a", vec![5; 20]), delete(6, b"b"), put(7, b"missing", vec![7]), delete(8, b"c")];
    state_machine.apply(changes, usize::MAX).unwrap();
    let mut flush = state_machine.freeze(None).unwrap();
    flush.run().unwrap();
    drop(state_machine.flush_ended(flush.mark()));
    for (key, begun) in keys.into_iter().zip(gets) {
        assert!(reader.end_get(begun, key).unwrap().is_none(), "{key:?}");
    }
    assert!(reader.end_list(page).unwrap().is_none());
    let (item, at) = reader.end_get(in_memory, b"c").unwrap().expect("it needs no tree");
    assert_eq!((item.unwrap().version, at.index), (4, 4));
    assert_eq!(value(&state_machine, b"a").unwrap().value.bytes, vec![5; 20]);
    assert_eq!((value(&state_machine, b"b"), value(&state_machine, b"c")), (None, None));
    assert_eq!(value(&state_machine, b"missing").unwrap().version, 7);
    let (Page { items, more }, at) = reader.list(&all()).unwrap();
    assert_eq!((items.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), more), (vec![b"a", &b"missing"[..]], false));
    assert_eq!(at.index, 8);
}

#[test]
fn what_a_read_finds_half_written_is_no_damage() {
    // The old value has three chunks, the new one as many, fewer or more; the read ends after each change that the flush makes.
    for chunks in [0, 1, 2, 3, 5] {
        for after in 0.. {
            let (db, mut state_machine) = fresh();
            state_machine.apply(vec![put(2, b"a", vec![1; 2 * CHUNK_BYTES + 9])], usize::MAX).unwrap();
            state_machine.flush().unwrap();
            let reader = state_machine.reader().clone();
            let mut begun = Some((reader.begin_get(b"a"), reader.begin_list(&all())));
            let change = if chunks == 0 { delete(3, b"a") } else { put(3, b"a", vec![3; chunks * CHUNK_BYTES - 99]) };
            state_machine.apply(vec![change], usize::MAX).unwrap();
            let expected = value(&state_machine, b"a");
            let (found, mut calls) = (Arc::new(Mutex::new(None)), 0);
            let result = found.clone();
            *db.between.lock().unwrap() = Some(Box::new(move || {
                // A new read is right at every point.
                assert_eq!(reader.get(b"a").unwrap().0, expected);
                assert_eq!(reader.list(&all()).unwrap().0.items.len(), usize::from(chunks > 0));
                if calls == after {
                    let (get, page) = begun.take().unwrap();
                    let ended = (reader.end_get(get, b"a").unwrap(), reader.end_list(page).unwrap());
                    *result.lock().unwrap() = Some(ended);
                }
                calls += 1;
            }));
            state_machine.flush().unwrap();
            match found.lock().unwrap().take() {
                Some(ended) => assert_eq!(ended, (None, None), "{chunks} chunks, after change {after}"),
                None => {
                    assert!(after > 2, "{after} changes");
                    break;
                }
            }
        }
    }
}
