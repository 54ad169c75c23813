//! Deduplication rules: the table of results of writes with an idempotency key, so that a retry is answered and not applied again.
//!
//! Why: a client that lost the answer to a write has to send it again. The result is replicated state, stored by the entry that
//! applied the write, so every later leader has it.
//!
//! Invariants: an invalid write is refused on every node alike, before the table is read. Which result is stored and which
//! is evicted is a function of the applied entries alone. No result is evicted before [`MIN_RETENTION_MS`]; if younger
//! results fill the table, a write with an idempotency key is refused. Work per write is bounded; the oldest results are
//! evicted first.
//!
//! Example: key `k1` is applied at index 7. A retry arrives as entry 9: the answer is the result of index 7 with
//! `replayed`, and entry 9 changes nothing. Another request with key `k1` and a different fingerprint is
//! `IdempotencyKeyReused`.
//!
//! See also: `http::request::idempotency` (key and fingerprint), `storage::kv::dedup_table` (persistence).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::validate;
use super::write_request::{IdempotencyKey, Write, Written};
use super::{Command, CommandResult};
use crate::model::codec;
use crate::model::decide::state_view_and_changes::ApplyPoint;
use crate::model::value::TokenName;

/// The maximum memory of all results: about 130 000 short ones, which is 1 000 writes per second over
/// [`MIN_RETENTION_MS`].
pub const DEDUP_TABLE_BYTES: usize = 64 << 20;
/// The minimum retention in milliseconds of the cluster clock: twice the longest timeout, so that no request in flight
/// finds its result evicted.
pub const MIN_RETENTION_MS: u64 = 120_000;
/// The maximum retention, in milliseconds of the cluster clock.
pub const MAX_RETENTION_MS: u64 = 24 * 60 * 60 * 1000;
/// The maximum encoded size of a stored result; a larger one is truncated to its version.
pub const MAX_RESULT_BYTES: usize = 4 << 10;
/// The maximum expired results removed per stored one.
const EXPIRED_PER_STORE: usize = 16;
/// The memory of a result besides its encoded bytes: the entry and its places in two maps.
const RESULT_OVERHEAD: usize = 400;
/// The maximum cost of one result: key and fixed fields have less than 256 bytes.
const MAX_COST: usize = RESULT_OVERHEAD + MAX_RESULT_BYTES + 256;

/// The stored result of a request with an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredResult {
    /// The idempotency key.
    pub idempotency_key: IdempotencyKey,
    /// Its result, truncated if over [`MAX_RESULT_BYTES`].
    pub written: Written,
}

impl StoredResult {
    /// Returns the stored form of a result.
    fn of(idempotency_key: IdempotencyKey, written: &Written) -> Self {
        let outcome = if codec::encode(&written.outcome).len() > MAX_RESULT_BYTES {
            CommandResult::Truncated { version: written.outcome.version(written.index) }
        } else {
            written.outcome.clone()
        };
        Self { idempotency_key, written: Written { outcome, ..written.clone() } }
    }
}

/// Applies a write at `at` in an entry of `term`: `run` decides its command with the token name, unless the write is invalid or a
/// duplicate. Returns the result for the client and the result to store, if any.
///
/// # Errors
/// The error of `run`.
pub fn decide_write<E>(
    write: Write,
    at: ApplyPoint,
    term: u64,
    results: &DedupTable,
    run: impl FnOnce(Command, Option<TokenName>) -> Result<CommandResult, E>,
) -> Result<(Written, Option<StoredResult>), E> {
    // Order matters: an invalid write never reads the table, a duplicate never runs, and a full table refuses before the
    // command runs, because a write whose result cannot be stored must not take effect.
    let valid = validate::write(&write, &validate::Limits::ALL_NODES).is_ok();
    let Write { idempotency_key, by, command } = write;
    let first = idempotency_key
        .as_ref()
        .and_then(|idempotency_key| Some((idempotency_key, results.live(&idempotency_key.key, at.clock)?)));
    let here = |outcome| Written { index: at.index, term, clock: at.clock, outcome, replayed: false };
    if !valid {
        return Ok((here(CommandResult::Invalid), None));
    }
    if let Some((idempotency_key, first)) = first {
        let same = idempotency_key.fingerprint == first.idempotency_key.fingerprint;
        let retried = || Written { replayed: true, ..first.written.clone() };
        return Ok((if same { retried() } else { here(CommandResult::IdempotencyKeyReused) }, None));
    }
    if idempotency_key.is_some() && !results.has_room(at.clock) {
        return Ok((here(CommandResult::ResultsFull), None));
    }
    let written = here(run(command, by)?);
    let stored = idempotency_key.map(|idempotency_key| StoredResult::of(idempotency_key, &written));
    Ok((written, stored))
}

/// The stored results, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DedupTable {
    /// By the index of the entry, with the memory cost.
    results: BTreeMap<u64, (StoredResult, usize)>,
    by_key: BTreeMap<Bytes, u64>,
    bytes: usize,
}

impl DedupTable {
    /// Whether a live result of this key exists at `clock`, so that a retry has no effect.
    #[must_use]
    pub fn contains(&self, key: &Bytes, clock: u64) -> bool {
        self.live(key, clock).is_some()
    }

    /// Returns the live result of this key at `clock`.
    fn live(&self, key: &Bytes, clock: u64) -> Option<&StoredResult> {
        let (stored, _) = self.results.get(self.by_key.get(key)?)?;
        (!is_expired(&stored.written, clock)).then_some(stored)
    }

    /// Whether a result can be stored at `clock`, after evicting old ones if needed.
    fn has_room(&self, clock: u64) -> bool {
        // Counts the oldest results that may be evicted until one more of maximum size fits. The first one that is too young
        // ends the search, since all later ones are younger.
        let mut over = (self.bytes + MAX_COST).saturating_sub(DEDUP_TABLE_BYTES);
        let mut oldest = self.results.values();
        while over > 0 {
            match oldest.next() {
                Some((stored, cost)) if is_evictable(&stored.written, clock) => over = over.saturating_sub(*cost),
                _ => return false,
            }
        }
        true
    }

    /// Stores a result of this encoded size, for which there is room; returns the evicted ones, oldest first.
    pub fn store(&mut self, stored: StoredResult, bytes: usize) -> Vec<StoredResult> {
        let clock = stored.written.clock;
        // An expired result of the same key is replaced: one key has one result.
        let same_key = self.by_key.get(&stored.idempotency_key.key).copied();
        let mut evicted: Vec<_> = same_key.and_then(|index| self.remove(index)).into_iter().collect();
        self.restore(stored, bytes);
        while let Some((&index, (first, _))) = self.results.first_key_value() {
            // Evicts for space only what has had its minimum retention, and a few expired results on the way, so that the table
            // shrinks without a scan.
            let for_space = self.bytes > DEDUP_TABLE_BYTES && is_evictable(&first.written, clock);
            let is_old = is_expired(&first.written, clock) && evicted.len() < EXPIRED_PER_STORE;
            if !for_space && !is_old {
                break;
            }
            evicted.extend(self.remove(index));
        }
        evicted
    }

    /// Restores a result from disk; false if its key or index exists already.
    pub fn restore(&mut self, stored: StoredResult, bytes: usize) -> bool {
        let (index, key) = (stored.written.index, stored.idempotency_key.key.clone());
        let cost = cost(bytes);
        self.bytes += cost;
        self.results.insert(index, (stored, cost)).is_none() & self.by_key.insert(key, index).is_none()
    }

    /// Returns the number of results.
    #[must_use]
    pub fn len(&self) -> usize {
        self.results.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    fn remove(&mut self, index: u64) -> Option<StoredResult> {
        let (stored, cost) = self.results.remove(&index)?;
        self.by_key.remove(&stored.idempotency_key.key);
        self.bytes -= cost;
        debug_assert_eq!(self.results.len(), self.by_key.len(), "one result per idempotency key");
        Some(stored)
    }
}

/// Returns the memory cost of a result of this encoded size.
fn cost(bytes: usize) -> usize {
    RESULT_OVERHEAD + bytes
}

fn is_evictable(written: &Written, clock: u64) -> bool {
    clock >= written.clock.saturating_add(MIN_RETENTION_MS)
}

fn is_expired(written: &Written, clock: u64) -> bool {
    clock >= written.clock.saturating_add(MAX_RETENTION_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Condition, Item, OpResult, Operation, Txn, Value};

    const AT: ApplyPoint = ApplyPoint { index: 7, clock: 1_000 };

    fn request_key(key: impl Into<Bytes>, fingerprint: u128) -> IdempotencyKey {
        IdempotencyKey { key: key.into(), fingerprint }
    }

    fn written(index: u64, clock: u64) -> Written {
        Written { index, term: 1, clock, outcome: CommandResult::Deleted { existed: true }, replayed: false }
    }

    fn stored(key: impl Into<Bytes>, index: u64, clock: u64) -> StoredResult {
        StoredResult { idempotency_key: request_key(key, 0), written: written(index, clock) }
    }

    fn decided(
        results: &DedupTable,
        idempotency_key: IdempotencyKey,
        at: ApplyPoint,
    ) -> (Written, Option<StoredResult>) {
        let write = Write { idempotency_key: Some(idempotency_key), by: None, command: Command::delete("k") };
        let run = |_, _| Ok::<_, std::convert::Infallible>(CommandResult::Deleted { existed: true });
        let Ok(decided) = decide_write(write, at, 1, results, run);
        decided
    }

    #[test]
    fn a_write_with_an_idempotency_key_is_applied_once_and_its_result_replayed() {
        let mut results = DedupTable::default();
        let (first, stored) = decided(&results, request_key("a", 5), AT);
        assert_eq!(first, written(7, 1_000));
        results.store(stored.unwrap(), 1);
        // Entry 9 is the retry: it answers with the result of entry 7. The same key with another fingerprint is another
        // request.
        let later = ApplyPoint { index: 9, clock: 2_000 };
        assert_eq!(decided(&results, request_key("a", 5), later), (Written { replayed: true, ..first }, None));
        let (other, stored) = decided(&results, request_key("a", 6), later);
        assert_eq!((other.index, other.outcome, stored), (9, CommandResult::IdempotencyKeyReused, None));
        assert_eq!(decided(&results, request_key("b", 5), later).0, written(9, 2_000));
    }

    #[test]
    fn an_invalid_write_is_refused_before_the_table_is_read() {
        let mut results = DedupTable::default();
        results.store(stored("a", 5, 1_000), 1);
        let invalid = Written { outcome: CommandResult::Invalid, ..written(7, 1_000) };
        let run = |_, _| -> Result<CommandResult, std::convert::Infallible> { panic!("it is not done") };
        for (key, command) in [
            ("a", Command::delete("")),
            ("b", Command::put(vec![b'k'; 2 << 20], "v")),
            ("b", Command::put(&b"\xff"[..], "v")),
            ("no name\n", Command::delete("k")),
        ] {
            let write = Write { idempotency_key: Some(request_key(key, 0)), by: None, command };
            let Ok(decided) = decide_write(write, AT, 1, &results, run);
            assert_eq!(decided, (invalid.clone(), None));
        }
        let many = vec![Operation::Get { key: "k".into() }; 200_000];
        let txn = Command::Txn(Txn { checks: vec![], then: many, otherwise: vec![] });
        let json = Value { content_type: "application/json".into(), bytes: "1,2".into() };
        let put = Command::Put { key: "k".into(), value: json, condition: Condition::Always, ttl: None };
        for command in [txn, put] {
            let Ok(decided) = decide_write(command.into(), AT, 1, &results, run);
            assert_eq!(decided, (invalid.clone(), None));
        }
    }

    #[test]
    fn an_expired_result_is_not_replayed_and_is_replaced() {
        let mut results = DedupTable::default();
        results.store(stored("a", 7, 1_000), 1);
        let over = ApplyPoint { index: 9, clock: 1_000 + MAX_RETENTION_MS };
        assert!(decided(&results, request_key("a", 0), ApplyPoint { clock: over.clock - 1, ..over }).0.replayed);
        let (retried, new) = decided(&results, request_key("a", 0), over);
        assert_eq!(retried, written(9, over.clock));
        assert_eq!(results.store(new.unwrap(), 1), [stored("a", 7, 1_000)]);
        assert_eq!(results.len(), 1);
    }

    /// Returns a table without room, of results from index 1 on, all at `clock`.
    fn full(clock: u64) -> DedupTable {
        let mut results = DedupTable::default();
        for index in 1..=(DEDUP_TABLE_BYTES / cost(MAX_RESULT_BYTES)) as u64 {
            assert_eq!(results.store(stored(format!("n{index}"), index, clock), MAX_RESULT_BYTES), []);
        }
        results
    }

    #[test]
    fn a_young_result_is_not_evicted_and_a_write_without_room_is_refused() {
        let mut results = full(5);
        let young = ApplyPoint { index: 90_000, clock: 4 + MIN_RETENTION_MS };
        let write = Write { idempotency_key: Some(request_key("new", 0)), by: None, command: Command::delete("k") };
        let run = |_, _| -> Result<CommandResult, &str> { panic!("it is not done") };
        let (refused, none) = decide_write(write, young, 1, &results, run).unwrap();
        assert_eq!((refused.outcome, refused.replayed, none), (CommandResult::ResultsFull, false, None));
        let first = request_key("n1", 0);
        assert!(decided(&results, first.clone(), young).0.replayed, "a stored result is replayed all the same");
        let unnamed = Write { idempotency_key: None, by: None, command: Command::delete("k") };
        let run = |_, _| Ok::<_, std::convert::Infallible>(CommandResult::Deleted { existed: true });
        let Ok((done, _)) = decide_write(unnamed, young, 1, &results, run);
        assert_eq!(done.outcome, CommandResult::Deleted { existed: true });
        // Exactly at the minimum retention, as many are evicted as needed.
        let old = ApplyPoint { clock: 5 + MIN_RETENTION_MS, ..young };
        let (done, new) = decided(&results, request_key("new", 0), old);
        assert_eq!(done.outcome, CommandResult::Deleted { existed: true });
        let before = results.len();
        let evicted = results.store(new.unwrap(), MAX_RESULT_BYTES);
        assert_eq!((evicted.len(), results.len()), (1, before));
        assert_eq!(evicted[0].idempotency_key, first);
        assert!(results.bytes <= DEDUP_TABLE_BYTES);
    }

    #[test]
    fn a_hundred_thousand_later_results_evict_none() {
        let mut results = DedupTable::default();
        for index in 1..=100_000_u64 {
            let new = stored(format!("n{index}"), index, index);
            let bytes = codec::encode(&new).len();
            assert!(results.has_room(index));
            assert_eq!(results.store(new, bytes), []);
        }
        assert!(decided(&results, request_key("n1", 0), ApplyPoint { index: 1 << 20, clock: 100_000 }).0.replayed);
        // `has_room` assumes the maximum cost, so no real result may exceed it.
        let largest = StoredResult {
            idempotency_key: request_key(vec![b'x'; 64], u128::MAX),
            written: written(u64::MAX, u64::MAX),
        };
        let beside = codec::encode(&largest).len() - codec::encode(&largest.written.outcome).len();
        assert!(cost(beside + MAX_RESULT_BYTES) <= MAX_COST);
    }

    #[test]
    fn expired_results_are_evicted_a_few_at_a_time() {
        let mut results = DedupTable::default();
        let name = |index: u64| index.to_be_bytes().to_vec();
        for index in 1..=40 {
            results.store(stored(name(index), index, 5), 100);
        }
        let evicted = results.store(stored("late", 50, 5 + MAX_RETENTION_MS), 100);
        assert_eq!(
            evicted,
            (1..=EXPIRED_PER_STORE as u64).map(|index| stored(name(index), index, 5)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_large_result_is_truncated_to_its_version() {
        let item = |bytes| {
            let (value, by) = (Value::binary(vec![0; bytes]), Some("t".parse().unwrap()));
            Item { value, version: 3, create_version: 3, expires: None, by }
        };
        let got = |bytes| CommandResult::Txn { succeeded: true, results: vec![OpResult::Got(Some(item(bytes)))] };
        for (outcome, expected) in [
            (got(10), got(10)),
            (got(MAX_RESULT_BYTES), CommandResult::Truncated { version: 7 }),
            (CommandResult::Touched(Box::new(item(MAX_RESULT_BYTES))), CommandResult::Truncated { version: 3 }),
        ] {
            let stored = StoredResult::of(request_key("a", 0), &Written { outcome, ..written(7, 0) });
            assert_eq!(stored.written.outcome, expected);
        }
    }

    #[test]
    fn golden_bytes_of_a_stored_result() {
        let stored = StoredResult {
            idempotency_key: request_key("n", 0x0102),
            written: Written { replayed: true, ..written(7, 9) },
        };
        let golden = [
            &b"\x01\x01\0\0\0\0\0\0\0n\x02\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..],
            b"\x07\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\0\0\0\x01\x01",
        ];
        assert_eq!(codec::encode(&stored), golden.concat());
        assert_eq!(codec::decode(&golden.concat()), Ok(stored));
    }
}
