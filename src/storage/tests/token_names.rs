//! Token names in stored items: entries and items of before there were names keep their bytes, and names are part of the state.
//!
//! See also: `kv::item_codec` and `kv::chunks` (the bytes).

use super::open;
use super::state_machine::fresh;
use crate::model::{
    Command, CommandResult, Condition, OpResult, Operation as Op, Proposal, TokenName, Ttl, Txn, Write, codec,
};
use crate::storage::layout::Kind;
use crate::storage::tests::Memory;
use crate::storage::{Applied, Operation, StateMachine};

/// A put of `k` with a `ttl` of 7 s, and a transaction with an idempotency key that reads it, both at 1 000 ms, as
/// version 0.1.0 wrote them into its log.
const OLD_ENTRIES: [&[u8]; 2] = [
    b"\x01\xe8\x03\0\0\0\0\0\0\0\
      \0\0\0\0\x01\0\0\0\0\0\0\0k\x03\0\0\0\0\0\0\0t/p\x01\0\0\0\0\0\0\0v\0\0\0\0\x01\x07\0\0\0",
    b"\x01\xe8\x03\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0n\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\
      \x04\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0k\0\0\0\0\0\0\0\0",
];

/// The sum of the digests of the item, the expiry and the result that they make, computed in Python from the format of 0.1.0.
const OLD_DIGEST: u64 = 0x7554_ad0c_598c_14fa;

fn entry(index: u64, proposal: Proposal) -> Applied {
    Applied { index, term: 1, operation: Operation::Command(proposal) }
}

fn by(name: &str) -> Option<TokenName> {
    Some(name.parse().unwrap())
}

fn write(index: u64, by: Option<TokenName>, command: Command) -> Applied {
    entry(index, Proposal { stamp: 1_000, write: Write { idempotency_key: None, by, command } })
}

fn touch() -> Command {
    Command::Touch { key: "k".into(), ttl: Ttl(9), condition: Condition::Always }
}

/// The format of each stored item.
fn formats(db: &Memory) -> Vec<u8> {
    let pairs = db.pairs.lock().unwrap();
    pairs.iter().filter(|(key, _)| key[0] == Kind::Data as u8).map(|(_, chunk)| chunk[0]).collect()
}

fn reopened(db: &std::sync::Arc<Memory>, state_machine: &mut StateMachine) -> StateMachine {
    state_machine.flush().unwrap();
    open(db.clone()).unwrap()
}

#[test]
fn entries_and_items_of_before_token_names_keep_their_bytes() {
    let (db, mut state_machine) = fresh();
    let empty = state_machine.digest();
    let mut written = Vec::new();
    for (index, bytes) in (2..).zip(OLD_ENTRIES) {
        let proposal: Proposal = codec::decode(bytes).unwrap();
        assert_eq!((proposal.write.by.as_ref(), codec::encode(&proposal)), (None, bytes.to_vec()));
        written.extend(state_machine.apply(vec![entry(index, proposal)], usize::MAX).unwrap());
    }
    assert_eq!(state_machine.digest().wrapping_sub(empty), OLD_DIGEST);
    let item = reopened(&db, &mut state_machine).get(b"k").unwrap().unwrap();
    assert_eq!((item.version, item.expires, &item.by, formats(&db)), (2, Some(8_000), &None, vec![1]));
    let CommandResult::Txn { results, .. } = &written[1].outcome else { panic!("{written:?}") };
    assert_eq!(results, &[OpResult::Got(Some(std::sync::Arc::unwrap_or_clone(item)))]);
}

#[test]
fn token_names_are_stored_and_part_of_the_digest() {
    let put = || Command::put("k", vec![7; 9_000]);
    let digest = |first: Option<TokenName>, then: Option<TokenName>| {
        let (db, mut state_machine) = fresh();
        state_machine.apply(vec![write(2, first, put()), write(3, then.clone(), touch())], usize::MAX).unwrap();
        let state_machine = reopened(&db, &mut state_machine);
        let item = state_machine.get(b"k").unwrap().unwrap();
        assert_eq!((item.value.bytes.len(), &item.by), (9_000, &then));
        assert_eq!(
            item,
            state_machine
                .list(&crate::model::List { start: vec![], end: None, reverse: false, limit: 1, keys_only: false })
                .unwrap()
                .items[0]
                .1
                .clone()
                .unwrap()
        );
        assert_eq!(formats(&db)[0], if then.is_some() { 2 } else { 1 });
        state_machine.digest()
    };
    let [none, a, b] = [None, by("a"), by("b")].map(|then| digest(by("a"), then));
    assert!(none != a && a != b && b != none, "a name is part of the state");
    assert_eq!(digest(None, None), none, "an earlier name leaves no trace");
    assert_eq!(digest(by("b"), by("a")), a);
}

#[test]
fn a_result_is_replayed_with_the_name_that_it_had() {
    let (db, mut state_machine) = fresh();
    let get = || Command::Txn(Txn { checks: vec![], then: vec![Op::Get { key: "k".into() }], otherwise: vec![] });
    let keyed = |index, by, command| {
        let key = crate::model::IdempotencyKey { key: "n".into(), fingerprint: 3 };
        entry(index, Proposal { stamp: 1_000, write: Write { idempotency_key: Some(key), by, command } })
    };
    state_machine.apply(vec![write(2, by("a"), Command::put("k", "v"))], usize::MAX).unwrap();
    let first = state_machine.apply(vec![keyed(3, by("reader"), get())], usize::MAX).unwrap();
    let mut state_machine = reopened(&db, &mut state_machine);
    // Whichever token sends it again, and whatever became of the key: the first result.
    state_machine.apply(vec![write(4, by("b"), touch())], usize::MAX).unwrap();
    let again = state_machine.apply(vec![keyed(5, None, get())], usize::MAX).unwrap();
    assert!(again[0].replayed && again[0].outcome == first[0].outcome, "{again:?}");
    let CommandResult::Txn { results, .. } = &again[0].outcome else { panic!("{again:?}") };
    assert!(matches!(&results[..], [OpResult::Got(Some(item))] if item.by == by("a")), "{results:?}");
}
