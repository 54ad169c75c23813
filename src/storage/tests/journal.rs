//! Journal tests: against a model, and against crashes and flipped bytes.

use std::sync::Arc;

use raft::eraftpb::{Entry, EntryType, HardState};

use super::super::layout::{CHUNK_BYTES, parse_record_key, record_key};
use super::super::{Copied, Error, Journal, JournalRewrite};
use super::{Memory, Pairs, Rng};

fn entry(index: u64, term: u64, bytes: usize) -> Entry {
    let fill = u8::try_from((index * 31 + term) % 251).unwrap();
    let entry_type = if index.is_multiple_of(7) { EntryType::EntryConfChangeV2 } else { EntryType::EntryNormal };
    let context = vec![fill; usize::from(fill % 3)].into();
    Entry { index, term, entry_type, data: vec![fill; bytes].into(), context, ..Entry::default() }
}

fn hard_state(term: u64, vote: u64, commit: u64) -> HardState {
    HardState { term, vote, commit, ..HardState::default() }
}

fn fresh() -> (Arc<Memory>, Journal) {
    let db = Arc::new(Memory::default());
    let journal = Journal::create(db.clone(), 1, 1, &hard_state(1, 0, 1), 1).unwrap();
    (db, journal)
}

/// What the log should be.
struct Model {
    base: (u64, u64),
    entries: Vec<Entry>,
    hard_state: HardState,
    snapshot: (u64, u64),
}

impl Model {
    fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn check(&self, journal: &Journal) {
        assert_eq!(journal.hard_state(), self.hard_state);
        assert_eq!(journal.last_index(), self.last());
        // The log keeps whole records, so it may begin earlier than asked for, and never later.
        assert!(journal.first_index() <= self.base.0 + 1, "{} {:?}", journal.first_index(), self.base);
        assert_eq!(journal.term(self.base.0), Some(self.base.1));
        assert_eq!(journal.term(self.last() + 1), None);
        let found = journal.entries(self.base.0 + 1, self.last() + 1, u64::MAX).unwrap();
        assert_eq!(found, self.entries);
        for entry in &self.entries {
            assert_eq!(journal.term(entry.index), Some(entry.term));
        }
        let bytes: usize = self.entries.iter().map(|entry| entry.data.len() + entry.context.len() + 17).sum();
        assert_eq!(journal.bytes_after(self.base.0), bytes as u64);
        assert_eq!(journal.bytes_after(self.last()), 0);
    }
}

/// Begins a rewrite into an empty database.
fn rewrite(journal: &Journal) -> (Arc<Memory>, JournalRewrite) {
    let (db, base) = (Arc::new(Memory::default()), journal.first_index() - 1);
    let term = journal.term(base).unwrap();
    let copy = Journal::create(db.clone(), base, term, &journal.hard_state(), journal.generation()).unwrap();
    (db, JournalRewrite::new(copy, 1))
}

/// Does the next step of a rewrite; a complete copy takes the place of the journal.
fn step(
    copy: &mut Option<(Arc<Memory>, JournalRewrite)>,
    (db, journal): (&mut Arc<Memory>, &mut Journal),
    hard_state: &HardState,
    max_bytes: u64,
) -> Copied {
    let (copy_db, mut under_way) = copy.take().unwrap_or_else(|| rewrite(journal));
    let copied = under_way.step(journal, hard_state, max_bytes).unwrap();
    match copied {
        Copied::More => *copy = Some((copy_db, under_way)),
        Copied::Void => {}
        Copied::Complete => {
            let checkpoint = (journal.generation(), journal.checkpoint());
            (*db, *journal) = (copy_db, under_way.take().1);
            assert_eq!((journal.generation(), journal.checkpoint()), checkpoint);
        }
    }
    copied
}

#[test]
fn the_journal_matches_a_model_over_all_operations() {
    let (mut switched, mut void) = (0, 0);
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let (mut db, mut journal) = fresh();
        let mut copy = None;
        let mut model = Model { base: (1, 1), entries: Vec::new(), hard_state: hard_state(1, 0, 1), snapshot: (1, 1) };
        for _ in 0..60 {
            // Half of the steps append, often over a conflicting suffix; then compactions, installs, and restarts.
            match rng.below(16) {
                12.. => match step(&mut copy, (&mut db, &mut journal), &model.hard_state, rng.below(20_000)) {
                    Copied::More => {}
                    Copied::Void => void += 1,
                    Copied::Complete => switched += 1,
                },
                0..6 => {
                    let keep = model.hard_state.commit - model.base.0;
                    let torn = keep + rng.below(model.entries.len() as u64 - keep + 1);
                    let torn = if rng.below(3) == 0 { torn } else { model.entries.len() as u64 };
                    let overrides = torn < model.entries.len() as u64;
                    model.entries.truncate(usize::try_from(torn).unwrap());
                    // Two entries at one index have two terms (thesis, section 3.5).
                    let term = model.hard_state.term + if overrides { 1 } else { rng.below(2) };
                    let from = model.last() + 1;
                    let fresh: Vec<_> = (from..from + rng.below(5))
                        .map(|index| entry(index, term, usize::try_from(rng.below(6000)).unwrap()))
                        .collect();
                    if fresh.is_empty() && torn < journal.last_index() - model.base.0 {
                        // Nothing overrides, so nothing is gone.
                        model.entries = journal.entries(model.base.0 + 1, journal.last_index() + 1, u64::MAX).unwrap();
                    }
                    model.entries.extend_from_slice(&fresh);
                    let commit = model.hard_state.commit + rng.below(model.last() - model.hard_state.commit + 1);
                    model.hard_state = hard_state(term, rng.below(3), commit);
                    journal.append(&fresh, &model.hard_state).unwrap();
                }
                6..9 => {
                    let index = model.base.0 + rng.below(model.hard_state.commit - model.base.0 + 1);
                    let term = journal.term(index).unwrap();
                    while journal.compact(index, 1 + usize::try_from(rng.below(3)).unwrap()).unwrap() {
                        if rng.below(4) == 0 {
                            break;
                        }
                    }
                    model.entries.retain(|entry| entry.index > index);
                    model.base = (index, term);
                    journal.record_checkpoint(index, term);
                    model.snapshot = (index, term);
                }
                9 => {
                    // Entries after the commit may be of another leader, beyond what the snapshot holds.
                    let index = model.hard_state.commit + 1 + rng.below(9);
                    let term = model.hard_state.term;
                    model.hard_state = hard_state(term, 2, index);
                    (model.base, model.entries, model.snapshot) = ((index, term), Vec::new(), (index, term));
                    let generation = journal.generation() + 1;
                    journal.install(index, term, generation, &model.hard_state).unwrap();
                    assert_eq!(journal.generation(), generation);
                }
                _ => {
                    let generation = journal.generation();
                    journal.append(&[], &model.hard_state).unwrap();
                    journal = Journal::open(db.clone()).unwrap();
                    assert_eq!((journal.generation(), journal.checkpoint()), (generation, model.snapshot));
                }
            }
            model.check(&journal);
        }
        assert!(db.pairs.lock().unwrap().values().all(|chunk| chunk.len() <= CHUNK_BYTES));
    }
    assert!(switched > 100 && void > 10, "{switched} and {void}");
}

#[test]
fn at_least_one_entry_then_as_many_as_fit_and_nothing_outside_the_log() {
    let (db, mut journal) = fresh();
    journal.append(&[entry(2, 1, 100), entry(3, 1, 100), entry(4, 1, 100)], &hard_state(1, 0, 1)).unwrap();
    for journal in [&journal, &Journal::open(db).unwrap()] {
        assert_eq!(journal.entries(2, 5, 0).unwrap().len(), 1);
        assert_eq!(journal.entries(2, 5, 250).unwrap().len(), 2);
        assert_eq!(journal.entries(3, 3, 0).unwrap(), []);
        assert!(journal.entries(1, 3, 0).is_err() && journal.entries(4, 6, 0).is_err());
    }
    assert!(journal.append(&[entry(6, 1, 1)], &hard_state(1, 0, 1)).is_err(), "a gap");
    assert!(journal.append(&[entry(5, 1, 1), entry(7, 1, 1)], &hard_state(1, 0, 1)).is_err(), "a gap inside");
}

#[test]
fn entries_that_memory_no_longer_holds_are_read_from_the_disk_and_checked() {
    let (db, mut journal) = fresh();
    let size = crate::storage::journal::entry_cache::ENTRY_CACHE_BYTES / 3;
    for index in 2..8 {
        journal.append(&[entry(index, 1, size)], &hard_state(1, 0, 1)).unwrap();
    }
    let found = journal.entries(2, 8, u64::MAX).unwrap();
    assert!(found.iter().zip(2..).all(|(found, index)| *found == entry(index, 1, size)));
    let mut pairs = db.pairs.lock().unwrap();
    pairs.get_mut(&record_key(3, 1)[..]).unwrap()[9] ^= 1;
    drop(pairs);
    assert!(matches!(journal.entries(3, 4, u64::MAX), Err(Error::Damaged { .. })));
}

#[test]
fn a_torn_last_record_is_dropped_and_its_chunks_are_removed_by_the_next_append() {
    let (db, mut journal) = fresh();
    journal.append(&[entry(2, 1, 9)], &hard_state(1, 7, 1)).unwrap();
    journal.append(&[entry(3, 2, 5 * CHUNK_BYTES)], &hard_state(2, 8, 2)).unwrap();
    let complete = db.pairs.lock().unwrap().clone();
    for kept in 1..6 {
        let torn: Vec<_> = complete.clone().into_iter().filter(|(key, _)| key[..] < record_key(3, kept)[..]).collect();
        *db.pairs.lock().unwrap() = torn.into_iter().collect();
        let mut journal = Journal::open(db.clone()).unwrap();
        assert_eq!((journal.last_index(), journal.hard_state()), (2, hard_state(1, 7, 1)));
        let len = db.pairs.lock().unwrap().len();
        assert_eq!(len, 2 + kept as usize, "nothing is removed by looking");
        journal.append(&[entry(3, 3, 1)], &hard_state(3, 0, 2)).unwrap();
        let journal = Journal::open(db.clone()).unwrap();
        assert_eq!((journal.last_index(), journal.term(3)), (3, Some(3)));
        assert_eq!(db.pairs.lock().unwrap().len(), 3);
    }
}

#[test]
fn holes_and_flipped_bytes_are_damage() {
    let (db, mut journal) = fresh();
    for index in 2..6 {
        journal.append(&[entry(index, 1, CHUNK_BYTES)], &hard_state(1, 7, index - 1)).unwrap();
    }
    let complete = db.pairs.lock().unwrap().clone();
    let opened = |change: &dyn Fn(&mut Pairs)| {
        let mut pairs = complete.clone();
        change(&mut pairs);
        Journal::open(Arc::new(Memory { pairs: pairs.into(), ..Memory::default() }))
    };
    for key in complete.keys() {
        let (seq, chunk) = parse_record_key(key).unwrap();
        let without = opened(&|pairs| drop(pairs.remove(key)));
        // Only the last chunk of the last record can be missing without damage, and a first record without a trace.
        let fine = (seq, chunk) == (5, 1) || seq == 1;
        assert_eq!(without.is_ok(), fine, "without piece {chunk} of record {seq}");
        for at in [0, 3, 7, 40] {
            let flipped = opened(&|pairs| pairs.get_mut(key).unwrap()[at] ^= 0x40);
            assert!(flipped.is_err(), "byte {at} of piece {chunk} of record {seq}");
        }
    }
    assert!(matches!(opened(&|pairs| pairs.clear()), Err(Error::Damaged { .. })));
    let newer = opened(&|pairs| {
        let chunk = pairs.get_mut(&record_key(3, 0)[..]).unwrap();
        chunk[0] = 2;
        let own = crc32fast::hash(&chunk[..9]).to_le_bytes();
        chunk[9..13].copy_from_slice(&own);
    });
    assert!(matches!(newer, Err(Error::Newer { found: 2, known: 1, .. })));
}

#[test]
fn compaction_keeps_the_hard_state_and_the_term_before_the_first_entry() {
    let (db, mut journal) = fresh();
    journal.append(&[entry(2, 5, 9)], &hard_state(5, 7, 2)).unwrap();
    for _ in 0..3 {
        journal.append(&[], &hard_state(6, 9, 2)).unwrap();
    }
    assert!(!journal.compact(2, 100).unwrap());
    let journal = Journal::open(db.clone()).unwrap();
    assert_eq!((journal.first_index(), journal.last_index(), journal.term(2)), (3, 2, Some(5)));
    assert_eq!(journal.hard_state(), hard_state(6, 9, 2));
    assert_eq!(db.pairs.lock().unwrap().len(), 1);
}

#[test]
fn an_overridden_suffix_never_comes_back() {
    let (db, mut journal) = fresh();
    journal.append(&[entry(2, 1, 9), entry(3, 1, 9), entry(4, 1, 9)], &hard_state(1, 0, 1)).unwrap();
    journal.append(&[entry(3, 2, 9)], &hard_state(2, 0, 2)).unwrap();
    journal.append(&[entry(4, 2, 9)], &hard_state(2, 0, 3)).unwrap();
    // The first record's only live entry is 2, so a compaction to 2 removes it; nothing of it may be needed.
    journal.compact(2, 100).unwrap();
    let journal = Journal::open(db).unwrap();
    assert_eq!((journal.first_index(), journal.last_index()), (3, 4));
    assert_eq!((journal.term(2), journal.term(3), journal.term(4)), (Some(1), Some(2), Some(2)));
}

#[test]
fn compaction_is_bounded_and_may_stop_anywhere_before_an_install() {
    let (db, mut journal) = fresh();
    for index in 2..30 {
        journal.append(&[entry(index, 1, 9)], &hard_state(1, 0, 1)).unwrap();
    }
    journal.install(50, 2, 2, &hard_state(2, 0, 50)).unwrap();
    journal.append(&[entry(51, 2, 9)], &hard_state(2, 0, 50)).unwrap();
    let mut rounds = 0;
    while journal.compact(50, 10).unwrap() {
        rounds += 1;
        let opened = Journal::open(db.clone()).unwrap();
        assert_eq!((opened.first_index(), opened.last_index(), opened.term(50)), (51, 51, Some(2)));
    }
    assert_eq!(rounds, 2);
    assert_eq!(db.pairs.lock().unwrap().len(), 1);
}
