//! Lists, deletes by prefix and transactions against a model, on a tree with multi-chunk values.

use raft::eraftpb::ConfState;

use super::state_machine::{batch, bytes, fresh};
use super::{Rng, open, outcomes_of, put};
use crate::model::test_store::Map;
use crate::model::{
    Check, Command, CommandResult, Condition, DELETE_PREFIX_BYTES, IdempotencyKey, List, Member, MemberChange,
    Proposal, Role, Test, Ttl, Txn, Value, Write, after_prefix,
};
use crate::storage::layout::CHUNK_BYTES;
use crate::storage::{Applied, Operation, StateMachine};

pub(super) fn key(rng: &mut Rng) -> Vec<u8> {
    let parts = bytes(rng, 4).into_iter().map(|byte| ["\0", "a", "\u{10FFFF}"][usize::from(byte)]);
    parts.collect::<String>().into_bytes()
}

/// Some keys expire, at one of few times.
pub(super) fn ttl(rng: &mut Rng) -> Option<Ttl> {
    (rng.below(2) == 0).then(|| Ttl(1 + u32::try_from(rng.below(3)).unwrap()))
}

pub(super) fn command(rng: &mut Rng) -> Command {
    let operation = |rng: &mut Rng| {
        let key = key(rng).into();
        match rng.below(3) {
            0 => crate::model::Operation::Get { key },
            1 => crate::model::Operation::Delete { key },
            _ => {
                let ttl = ttl(rng);
                crate::model::Operation::Put { key, value: Value::binary(bytes(rng, 9000)), ttl }
            }
        }
    };
    let checks = (0..rng.below(3)).map(|_| {
        let test = if rng.below(2) == 0 { Test::Is(Condition::Exists) } else { Test::Holds(vec![0].into()) };
        Check { key: key(rng).into(), test }
    });
    let checks = checks.collect();
    match rng.below(8) {
        6 => {
            let value = Value::binary(bytes(rng, 20));
            Command::Put { key: key(rng).into(), value, condition: Condition::Always, ttl: ttl(rng) }
        }
        7 => Command::Touch { key: key(rng).into(), ttl: Ttl(7), condition: Condition::Always },
        0 => Command::DeletePrefix { prefix: key(rng).into() },
        1 => Command::delete(key(rng)),
        2 | 3 => {
            let then = (0..rng.below(5)).map(|_| operation(rng)).collect();
            let otherwise = (0..rng.below(3)).map(|_| operation(rng)).collect();
            Command::Txn(Txn { checks, then, otherwise })
        }
        _ => Command::put(key(rng), bytes(rng, 3 * CHUNK_BYTES as u64)),
    }
}

/// Some have one of few names, and are now and then what had that name before.
pub(super) fn write(rng: &mut Rng) -> Write {
    let idempotency_key = (rng.below(3) == 0).then(|| {
        let key = rng.below(6).to_string().into();
        IdempotencyKey { key, fingerprint: u128::from(rng.below(2)) }
    });
    let by = (rng.below(2) == 0).then(|| format!("token-{}", rng.below(2)).parse().unwrap());
    Write { idempotency_key, by, command: command(rng) }
}

fn lists(rng: &mut Rng, state_machine: &StateMachine, map: &Map) {
    for _ in 0..10 {
        let (start, prefix) = (key(rng), key(rng));
        let end = if rng.below(2) == 0 { after_prefix(&prefix) } else { None };
        let limit = 1 + usize::try_from(rng.below(9)).unwrap();
        let list = List { start, end, reverse: rng.below(2) == 0, limit, keys_only: rng.below(2) == 0 };
        assert_eq!(state_machine.list(&list).unwrap(), map.list(&list), "{list:?}");
    }
}

#[test]
fn many_keys_match_a_model_whatever_the_batches_are() {
    let mut replayed = 0;
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        let mut map = Map::default();
        for _ in 0..15 {
            let first = state_machine.applied().0 + 1;
            let writes: Vec<_> = (0..1 + rng.below(6)).map(|_| write(&mut rng)).collect();
            let entries = (first..).zip(writes.clone());
            let entries = entries.map(|(index, write)| Applied {
                index,
                term: 1,
                operation: Operation::Command(Proposal { stamp: 0, write }),
            });
            let written = state_machine.apply(entries.collect(), usize::MAX).unwrap();
            let expected: Vec<_> = (first..).zip(writes).map(|(index, write)| map.write(write, index, 1)).collect();
            assert_eq!(written, expected, "seed {seed}");
            replayed += written.iter().filter(|written| written.replayed).count();
            if rng.below(4) == 0 {
                state_machine.flush().unwrap();
                state_machine = open(db.clone()).unwrap();
            }
            assert_eq!(state_machine.keys(), map.0.len() as u64);
            lists(&mut rng, &state_machine, &map);
        }
        let digest = state_machine.digest();
        state_machine.flush().unwrap();
        let state_machine = open(db).unwrap();
        assert_eq!(state_machine.digest(), digest, "seed {seed}");
        lists(&mut rng, &state_machine, &map);
    }
    assert!(replayed > 100, "only {replayed} writes were done before");
}

#[test]
fn a_page_is_bounded_in_bytes_but_has_at_least_one_item() {
    let (_, mut state_machine) = fresh();
    let sizes = [2 << 20, 600_000, 400_000, 100_000, 10];
    let entries = (2..).zip(sizes).map(|(index, size)| put(index, format!("k{index}").as_bytes(), vec![7; size]));
    state_machine.apply(entries.collect(), usize::MAX).unwrap();
    let mut list = List { start: vec![], end: None, reverse: false, limit: 9, keys_only: false };
    let page = |list: &List| {
        let page = state_machine.list(list).unwrap();
        let keys = page.items.into_iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap());
        (keys.collect::<Vec<_>>().join(" "), page.more)
    };
    assert_eq!(page(&list), ("k2".into(), true));
    list.start = b"k3".to_vec();
    assert_eq!(page(&list), ("k3 k4".into(), true));
    list.reverse = true;
    list.start = vec![];
    assert_eq!(page(&list), ("k6 k5 k4".into(), true));
    list.keys_only = true;
    assert_eq!(page(&list), ("k6 k5 k4 k3 k2".into(), false));
}

#[test]
fn a_delete_by_prefix_sees_its_batch_and_ends_it() {
    let (_, mut state_machine) = fresh();
    let sweep = |index| Applied {
        index,
        term: 1,
        operation: Operation::Command(Command::DeletePrefix { prefix: "p".into() }.into()),
    };
    let mut entries = vec![put(2, b"pa", vec![1; DELETE_PREFIX_BYTES]), put(3, b"pb", vec![1]), put(4, b"q", vec![1])];
    entries.extend([sweep(5), put(6, b"pc", vec![1]), sweep(7), sweep(8)]);
    let outcomes = outcomes_of(state_machine.apply(entries, usize::MAX).unwrap());
    let swept = |deleted, more| CommandResult::PrefixDeleted { deleted, more };
    assert_eq!((&outcomes[3], &outcomes[5], &outcomes[6]), (&swept(1, true), &swept(2, false), &swept(0, false)));
    assert_eq!((state_machine.keys(), state_machine.applied().0), (1, 8));
    let more = batch(&mut Rng(1), 8, 9);
    assert_eq!(state_machine.apply(more.clone(), usize::MAX).unwrap().len(), more.len());
}

#[test]
fn apply_work_is_bounded_and_the_rest_continues() {
    for seed in 0..20 {
        let mut rng = Rng(seed);
        let ((_, mut complete), (_, mut parts)) = (fresh(), fresh());
        let commands: Vec<_> = (2..60).zip(std::iter::repeat_with(|| command(&mut rng))).collect();
        let entries = commands.into_iter().map(|(index, command)| Applied {
            index,
            term: 1,
            operation: Operation::Command(command.into()),
        });
        let mut entries: Vec<_> = entries.collect();
        let expected = complete.apply(entries.clone(), usize::MAX).unwrap();
        let (mut outcomes, mut calls) = (Vec::new(), 0);
        while !entries.is_empty() {
            let most = usize::try_from(rng.below(3)).unwrap() * 2_000;
            let some = parts.apply(entries.clone(), most).unwrap();
            assert!(!some.is_empty(), "at least one");
            entries.drain(..some.len());
            outcomes.extend(some);
            calls += 1;
        }
        assert!(calls > 5, "{calls} calls");
        assert_eq!(outcomes, expected, "seed {seed}");
        assert_eq!((parts.digest(), parts.keys()), (complete.digest(), complete.keys()));
    }
}

#[test]
fn the_member_table_counts_the_same_whatever_shares_its_batch() {
    let set = |index, name: &str| {
        let member = Member {
            name: name.into(),
            raft_id: 6,
            raft_address: "h:1".into(),
            http_address: "h:2".into(),
            role: Role::Voter,
        };
        let change = Some(MemberChange::Set(member));
        Applied { index, term: 1, operation: Operation::Membership { change, conf_state: ConfState::default() } }
    };
    let entries = [set(2, "a"), put(3, b"k", vec![1]), set(4, "b"), set(5, "a"), put(6, b"k", vec![2])];
    let ((_, mut one), (_, mut each)) = (fresh(), fresh());
    one.apply(entries.to_vec(), usize::MAX).unwrap();
    for entry in entries {
        each.apply(vec![entry], usize::MAX).unwrap();
    }
    assert_eq!(one.digest(), each.digest());
}
