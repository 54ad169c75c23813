//! State machine tests against a model: values, versions, totals, and everything after a reopen.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::ConfState;

use super::{Memory, Pairs, Rng, delete, open, outcomes_of, put, redo_file};
use crate::model::{
    self, Command, CommandResult, Condition, DELETE_PREFIX_BYTES, EventKind, Item, Member, MemberChange, Members,
    Proposal, Role, Ttl, Txn, Value,
};
use crate::storage::layout::{CHUNK_BYTES, Kind};
use crate::storage::{Applied, Batch, Db, Error, Operation, StateMachine};

pub(crate) fn fresh() -> (Arc<Memory>, StateMachine) {
    let db = Arc::new(Memory::default());
    let state_machine =
        StateMachine::create(db.clone(), redo_file(), (1, 1), Members::default(), ConfState::default()).unwrap();
    (db, state_machine)
}

/// A key or value of a size that crosses chunk boundaries now and then.
pub(crate) fn bytes(rng: &mut Rng, longest: u64) -> Vec<u8> {
    let length = rng.below(longest);
    (0..length).map(|_| u8::try_from(rng.below(3)).unwrap()).collect()
}

/// A random batch after `index`.
pub(crate) fn batch(rng: &mut Rng, index: u64, keys: u64) -> Vec<Applied> {
    let count = 1 + rng.below(5);
    (index + 1..=index + count)
        .map(|index| {
            let number = rng.below(keys);
            let key = Rng(number).next().to_be_bytes()[..1 + usize::try_from(number % 7).unwrap()].to_vec();
            let key: Vec<u8> = key.into_iter().map(|byte| byte & 0x7F).collect();
            match rng.below(4) {
                0 => delete(index, &key),
                _ => {
                    let longest = if rng.below(4) == 0 { 3 * CHUNK_BYTES as u64 } else { 20 };
                    put(index, &key, bytes(rng, longest))
                }
            }
        })
        .collect()
}

#[test]
fn the_state_machine_matches_a_model_and_survives_a_reopen() {
    for seed in 0..40 {
        let mut rng = Rng(seed);
        let (db, mut state_machine) = fresh();
        let mut model: BTreeMap<Vec<u8>, Item> = BTreeMap::new();
        for _ in 0..30 {
            let entries = batch(&mut rng, state_machine.applied().0, 20);
            let outcomes = state_machine.apply(entries.clone(), usize::MAX).unwrap();
            for (entry, outcome) in entries.into_iter().zip(outcomes) {
                let Operation::Command(proposal) = entry.operation else { panic!("commands only") };
                let expected = match proposal.write.command {
                    Command::Put { key, value, .. } => {
                        let create_version = model.get(&key[..]).map_or(entry.index, |item| item.create_version);
                        let (version, expires, by) = (entry.index, None, None);
                        model.insert(key.to_vec(), Item { value, version, create_version, expires, by });
                        CommandResult::Put { create_version }
                    }
                    Command::Delete { key, .. } => CommandResult::Deleted { existed: model.remove(&key[..]).is_some() },
                    _ => CommandResult::NoOp,
                };
                assert_eq!(outcome.outcome, expected);
            }
            if rng.below(5) == 0 {
                let digest = state_machine.digest();
                state_machine.flush().unwrap();
                state_machine = open(db.clone()).unwrap();
                assert_eq!(state_machine.digest(), digest);
            }
            assert_eq!(state_machine.keys(), model.len() as u64);
            assert!(state_machine.was_written());
            for (key, value) in &model {
                assert_eq!(state_machine.get(key).unwrap().as_deref(), Some(value));
            }
        }
        assert!(db.pairs.lock().unwrap().values().all(|chunk| chunk.len() <= CHUNK_BYTES));
    }
}

#[test]
fn a_condition_sees_what_earlier_entries_of_its_batch_did() {
    let (db, mut state_machine) = fresh();
    let when = |index, condition| {
        let command = Command::Put { key: "k".into(), value: Value::binary(vec![1]), condition, ttl: None };
        Applied { index, term: 1, operation: Operation::Command(command.into()) }
    };
    let outcomes = state_machine.apply(
        vec![
            when(2, Condition::Exists),
            when(3, Condition::Absent),
            when(4, Condition::Absent),
            when(5, Condition::Version(3)),
            delete(6, b"k"),
            when(7, Condition::Version(5)),
            when(8, Condition::Absent),
        ],
        usize::MAX,
    );
    let expected = [
        CommandResult::ConditionFailed { version: 0 },
        CommandResult::Put { create_version: 3 },
        CommandResult::ConditionFailed { version: 3 },
        CommandResult::Put { create_version: 3 },
        CommandResult::Deleted { existed: true },
        CommandResult::ConditionFailed { version: 0 },
        CommandResult::Put { create_version: 8 },
    ];
    assert_eq!(outcomes_of(outcomes.unwrap()), expected);
    assert_eq!(
        outcomes_of(state_machine.apply(vec![when(9, Condition::Version(7))], usize::MAX).unwrap()),
        [CommandResult::ConditionFailed { version: 8 }]
    );
    state_machine.flush().unwrap();
    let stored = db.pairs.lock().unwrap().keys().filter(|key| key[0] == 0x10).count();
    assert_eq!((state_machine.keys(), state_machine.applied().0, stored), (1, 9, 1));
    let item = open(db).unwrap().get(b"k").unwrap().unwrap();
    assert_eq!((item.version, item.create_version), (8, 8));
}

#[test]
fn events_are_returned_once_with_their_position() {
    let (_, mut state_machine) = fresh();
    let txn = |index, then| {
        let command = Command::Txn(Txn { checks: vec![], then, otherwise: vec![] });
        Applied { index, term: 1, operation: Operation::Command(command.into()) }
    };
    let (b, c) = (model::Operation::Delete { key: "b".into() }, model::Operation::Delete { key: "c".into() });
    let a = model::Operation::Put { key: "a".into(), value: Value::binary("2"), ttl: None };
    let sweep = Applied {
        index: 7,
        term: 1,
        operation: Operation::Command(Command::DeletePrefix { prefix: "a".into() }.into()),
    };
    let entries = vec![
        put(2, b"a", b"1".to_vec()),
        put(3, b"b", b"1".to_vec()),
        Applied { index: 4, term: 1, operation: Operation::Nothing },
        delete(5, b"c"),
        txn(6, vec![b, c, a]),
        sweep,
    ];
    state_machine.apply(entries, usize::MAX).unwrap();
    let seen: Vec<_> =
        state_machine.take_events().into_iter().map(|event| (event.id(), event.key, event.kind)).collect();
    let put = |bytes: &'static str, version, create_version| {
        EventKind::Put(Item { value: Value::binary(bytes), version, create_version, expires: None, by: None })
    };
    let expected = [
        ("2", "a", put("1", 2, 2)),
        ("3", "b", put("1", 3, 3)),
        ("6.1", "b", EventKind::Deleted { by: None }),
        ("6.2", "a", put("2", 6, 2)),
        ("7", "a", EventKind::Deleted { by: None }),
    ];
    assert_eq!(seen, expected.map(|(id, key, kind)| (id.to_owned(), key.into(), kind)));
    assert_eq!(state_machine.take_events(), []);
}

#[test]
fn equal_states_have_equal_digests_whatever_their_history() {
    let (_, mut a) = fresh();
    let (_, mut b) = fresh();
    a.apply(vec![put(2, b"x", vec![1; 9000]), delete(3, b"x"), put(4, b"x", vec![3])], usize::MAX).unwrap();
    b.apply(vec![put(2, b"z", vec![1])], usize::MAX).unwrap();
    assert_ne!(a.digest(), b.digest());
    b.apply(vec![delete(3, b"z"), put(4, b"x", vec![3])], usize::MAX).unwrap();
    assert_eq!((a.digest(), a.keys()), (b.digest(), 1));
    a.apply(vec![put(5, b"x", vec![3])], usize::MAX).unwrap();
    b.apply(vec![delete(5, b"x"), put(6, b"x", vec![3])], usize::MAX).unwrap();
    assert_ne!(a.digest(), b.digest(), "the index that made the key counts too");
}

#[test]
fn members_and_votes_change_in_the_same_batch_and_come_back() {
    let (db, mut state_machine) = fresh();
    let member = |raft_id: u64, address: &str| Member {
        name: format!("n{raft_id}"),
        raft_id,
        raft_address: address.into(),
        http_address: "h:1".into(),
        role: Role::Learner,
    };
    let conf_state = ConfState { voters: vec![5], learners: vec![6], ..ConfState::default() };
    let change = Some(MemberChange::Set(member(6, "a:1")));
    let moved = Command::Move { raft_id: 6, raft_address: "b:1".into(), http_address: "h:1".into() };
    let entries = vec![
        Applied { index: 2, term: 1, operation: Operation::Membership { change, conf_state: conf_state.clone() } },
        Applied { index: 3, term: 2, operation: Operation::Nothing },
        Applied { index: 4, term: 2, operation: Operation::Command(moved.into()) },
    ];
    let outcomes = state_machine.apply(entries, usize::MAX).unwrap();
    assert_eq!(outcomes_of(outcomes), [CommandResult::NoOp, CommandResult::NoOp, CommandResult::Moved]);
    state_machine.flush().unwrap();
    for state_machine in [&state_machine, &open(db.clone()).unwrap()] {
        assert_eq!((state_machine.applied(), state_machine.configuration_index()), ((4, 2), 2));
        assert_eq!(state_machine.conf_state(), &conf_state);
        assert_eq!(state_machine.members().get(6), Some(&member(6, "b:1")));
        assert!(!state_machine.was_written(), "a moved address is no client's data");
    }
    let change = Some(MemberChange::Remove { raft_id: 6 });
    let remove = Operation::Membership { change, conf_state: ConfState { voters: vec![5], ..ConfState::default() } };
    state_machine.apply(vec![Applied { index: 5, term: 2, operation: remove }], usize::MAX).unwrap();
    state_machine.flush().unwrap();
    assert!(open(db).unwrap().members().is_tombstone(6));
}

#[test]
fn entries_out_of_order_are_refused_before_anything_changes() {
    let (db, mut state_machine) = fresh();
    let before = db.pairs.lock().unwrap().clone();
    assert!(state_machine.apply(vec![put(3, b"x", vec![1])], usize::MAX).is_err());
    assert!(state_machine.apply(vec![put(2, b"x", vec![1]), put(2, b"x", vec![2])], usize::MAX).is_err());
    assert_eq!(*db.pairs.lock().unwrap(), before);
    assert_eq!(state_machine.applied(), (1, 1));
}

#[test]
fn any_changed_value_is_detected_at_the_next_start() {
    let (db, mut state_machine) = fresh();
    state_machine.apply(vec![put(2, b"old", vec![7; 9000]), put(3, b"k", vec![1])], usize::MAX).unwrap();
    let earlier = db.pairs.lock().unwrap().clone();
    state_machine
        .apply(vec![put(4, b"old", vec![8; 9000]), delete(5, b"k"), put(6, b"n", vec![3])], usize::MAX)
        .unwrap();
    let complete = db.pairs.lock().unwrap().clone();
    let opened = |change: &dyn Fn(&mut Pairs)| {
        let mut pairs = complete.clone();
        change(&mut pairs);
        open(Arc::new(Memory { pairs: pairs.into(), ..Memory::default() })).map(drop)
    };
    opened(&|_| {}).unwrap();
    for key in complete.keys() {
        assert!(opened(&|pairs| drop(pairs.remove(key))).is_err(), "without {key:?}");
        for at in 0..complete[key].len().min(40) {
            assert!(opened(&|pairs| pairs.get_mut(key).unwrap()[at] ^= 1).is_err(), "byte {at} of {key:?}");
        }
    }
    // What sled does with a flipped byte in its log: an update of one page is lost, and an older one comes back.
    for (key, value) in &earlier {
        if complete.get(key) != Some(value) {
            let lost = opened(&|pairs| drop(pairs.insert(key.clone(), value.clone())));
            assert!(matches!(lost, Err(Error::Damaged { .. })), "the old piece {key:?}");
        }
    }
}

#[test]
fn a_newer_format_is_named() {
    let (db, _machine) = fresh();
    let mut keys: Vec<_> = db.pairs.lock().unwrap().keys().cloned().collect();
    keys.truncate(2);
    for key in keys {
        let mut pairs = db.pairs.lock().unwrap().clone();
        pairs.get_mut(&key).unwrap()[0] = 2;
        let opened = open(Arc::new(Memory { pairs: pairs.into(), ..Memory::default() }) as Arc<dyn Db>);
        assert!(matches!(opened, Err(Error::Newer { found: 2, known: 1, .. })));
    }
}

#[test]
fn due_keys_come_in_order_of_expiry() {
    let (db, mut state_machine) = fresh();
    let at = |index, stamp, command: Command| {
        let operation = Operation::Command(Proposal { stamp, write: command.into() });
        Applied { index, term: 1, operation }
    };
    let put = |key: &[u8], ttl| Command::Put {
        key: key.to_vec().into(),
        value: Value::binary("v"),
        condition: Condition::Always,
        ttl,
    };
    let entries = vec![
        at(2, 1_000, put(b"late", Some(Ttl(9)))),
        at(3, 1_000, put(b"zero\0key", Some(Ttl(1)))),
        at(4, 1_000, put(b"soon", Some(Ttl(1)))),
        at(5, 1_000, put(b"kept", Some(Ttl(1)))),
        at(6, 1_000, put(b"kept", None)),
        at(7, 1_000, put(b"gone", Some(Ttl(1)))),
        at(8, 1_000, Command::delete("gone")),
        at(9, 1_000, put(b"moved", Some(Ttl(1)))),
        at(10, 1_500, Command::Touch { key: "moved".into(), ttl: Ttl(3), condition: Condition::Always }),
    ];
    state_machine.apply(entries, usize::MAX).unwrap();
    let due = |state_machine: &StateMachine, clock| {
        state_machine.due(clock).unwrap().into_iter().map(|(key, version)| (key.to_vec(), version)).collect::<Vec<_>>()
    };
    let first = vec![(b"soon".to_vec(), 4), (b"zero\0key".to_vec(), 3)];
    for _ in 0..2 {
        assert_eq!((state_machine.first_expiry(), state_machine.clock()), (Some(2_000), 1_500));
        assert_eq!(due(&state_machine, 1_999), vec![]);
        assert_eq!(due(&state_machine, 2_000), first);
        assert_eq!(due(&state_machine, u64::MAX).len(), 4);
        // Opened anew it is the same, and adds up.
        state_machine.flush().unwrap();
        state_machine = open(db.clone()).unwrap();
    }
    let keys = state_machine.due(5_000).unwrap();
    state_machine.apply(vec![at(11, 4_500, Command::Expire { keys })], usize::MAX).unwrap();
    assert_eq!((state_machine.keys(), state_machine.first_expiry()), (2, Some(10_000)));
    let seen: Vec<_> = state_machine.take_events().into_iter().map(|event| (event.key, event.kind)).collect();
    let removed = ["soon", "zero\0key", "moved"].map(|key| (Bytes::from(key), EventKind::Expired));
    assert_eq!(seen, removed);
}

#[test]
fn one_removal_takes_no_more_bytes_of_values_than_one_by_prefix_but_always_one() {
    let (_, mut state_machine) = fresh();
    let half = DELETE_PREFIX_BYTES / 2;
    for (index, (key, bytes)) in
        (2..).zip([("a", 2 * DELETE_PREFIX_BYTES), ("b", half), ("c", half), ("d", half), ("e", 1)])
    {
        let value = Value::binary(vec![7; bytes]);
        let command = Command::Put { key: key.into(), value, condition: Condition::Always, ttl: Some(Ttl(1)) };
        let operation = Operation::Command(Proposal { stamp: index, write: command.into() });
        state_machine.apply(vec![Applied { index, term: 1, operation }], usize::MAX).unwrap();
    }
    for (index, expected) in (7..).zip([&["a"][..], &["b", "c"], &["d", "e"], &[]]) {
        let keys = state_machine.due(10_000).unwrap();
        assert_eq!(keys.iter().map(|(key, _)| key).collect::<Vec<_>>(), expected);
        let operation = Operation::Command(Proposal { stamp: 10_000, write: Command::Expire { keys }.into() });
        state_machine.apply(vec![Applied { index, term: 1, operation }], usize::MAX).unwrap();
    }
    assert_eq!(state_machine.keys(), 0);
}

#[test]
fn an_invalid_command_changes_only_the_applied_index() {
    let (db, mut state_machine) = fresh();
    let before = state_machine.digest();
    let json = Value { content_type: "application/json".into(), bytes: "1,2".into() };
    let wrong = [
        Command::put(vec![b'k'; 2 << 20], "v"),
        Command::put(&b"\xff"[..], "v"),
        Command::Put { key: "k".into(), value: json, condition: Condition::Always, ttl: None },
        Command::Move { raft_id: 1, raft_address: "no address".into(), http_address: "h:1".into() },
    ];
    let count = wrong.len();
    let applied =
        |(index, command): (u64, Command)| Applied { index, term: 1, operation: Operation::Command(command.into()) };
    let outcomes = state_machine.apply((2..).zip(wrong).map(applied).collect(), usize::MAX).unwrap();
    assert_eq!(outcomes_of(outcomes), vec![CommandResult::Invalid; count]);
    assert_eq!(
        (state_machine.digest(), state_machine.keys(), state_machine.applied().0),
        (before, 0, 1 + count as u64)
    );
    assert!(!state_machine.was_written() && state_machine.take_events().is_empty());
    state_machine.flush().unwrap();
    assert_eq!(open(db).unwrap().digest(), before);
}

#[test]
fn a_snapshot_or_a_tree_with_an_invalid_key_is_refused() {
    let changes = |key: &[u8]| {
        let mut batch = Batch::default();
        crate::storage::kv::chunks::put(&mut batch, Kind::Data, key, 1, b"v", 0);
        let mut frame = vec![crate::storage::layout::CHANGES_VERSION];
        for (stored, value) in &batch.changes {
            frame.push(1);
            crate::storage::layout::push_prefixed(&mut frame, stored);
            crate::storage::layout::push_prefixed(&mut frame, value.as_ref().unwrap());
        }
        (batch, frame)
    };
    assert!(crate::storage::snapshot::frames::decode(&changes(b"k").1).is_some());
    for key in [&b""[..], b"\xff", &vec![b'k'; 1025], &vec![b'k'; 2 << 20]] {
        let (batch, frame) = changes(key);
        assert!(crate::storage::snapshot::frames::decode(&frame).is_none());
        let (db, state_machine) = fresh();
        drop(state_machine);
        db.write(batch).unwrap();
        assert!(matches!(open(db), Err(Error::Damaged { .. })));
    }
}
