//! What was written and what each watcher was told, and whether the two agree.
//!
//! Why: that nothing is lost and nothing told twice can only be said by who holds every acknowledged write against
//! every event.
//!
//! Laws: what is known to have happened is every acknowledged change and whatever any watcher was told. Each watcher must
//! have been told all of it, once and in order, except for what lies between the place that it had lost and the index of
//! the list that it read instead. That list must be the state at its index, as all changes up to there make it.
//!
//! Not here: who writes (`writers`) and who watches (`watchers`).

use std::collections::{BTreeMap, BTreeSet};

/// Where a change stands: its raft index, and which of its index's changes it is, 0 where there is only one.
pub type At = (u64, u64);

/// What became of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It has this value, each of which is written once.
    Put(u64),
    /// It was removed.
    Delete,
    /// Its time was over.
    Expire,
}

/// What a client knows of one change that it asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The key.
    pub key: u32,
    /// What it is to become; a removal is only of use here where it is known to have been one.
    pub change: Change,
    /// Whether it may expire.
    pub ttl: bool,
    /// What came of it.
    pub outcome: Fate,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It happened there.
    Done(At),
    /// It never happens.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One thing that a watcher was told.
#[derive(Debug, Clone)]
pub enum Told {
    /// A change of a key.
    Event(At, u32, Change),
    /// That this is everything up to this index.
    Progress(u64),
    /// By a list, what the versions of all keys are at this index, in place of all events up to it.
    List(u64, BTreeMap<u32, u64>),
}

/// What a run comes to.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Acknowledged changes of watched keys.
    pub acknowledged: u64,
    /// Events that all watchers together were told.
    pub told: u64,
    /// Of what happened, what a watcher was not told, summed over the watchers.
    pub lost: u64,
    /// What a watcher was told again, or too late, summed over the watchers.
    pub doubled: u64,
    /// What a list stood for.
    pub listed: u64,
    /// Everything that is wrong, in words.
    pub wrong: Vec<String>,
}

/// Holds what was asked against what each watcher was told, whose watch began after this index.
pub fn judge(begin: u64, asked: &[Asked], watchers: &[(String, Vec<Told>)]) -> Verdict {
    let mut verdict = Verdict::default();
    let mut happened = BTreeMap::new();
    for one in asked {
        if let Fate::Done(at) = one.outcome {
            verdict.acknowledged += 1;
            if let Some(other) = happened.insert(at, (one.key, one.change)) {
                verdict.wrong.push(format!("{one:?} was acknowledged where {other:?} was too"));
            }
        }
    }
    for (name, told) in watchers {
        for event in told {
            let Told::Event(at, key, change) = event else { continue };
            verdict.told += 1;
            let known = *happened.entry(*at).or_insert((*key, *change));
            if known != (*key, *change) {
                verdict.wrong.push(format!("{name} was told {event:?}, where {known:?} happened"));
            }
        }
    }
    happened.retain(|(index, _), _| *index > begin);
    values(asked, &happened, &mut verdict);
    let states = states(&happened, watchers, &mut verdict, asked);
    for (name, told) in watchers {
        follow(begin, name, told, &happened, &states, &mut verdict);
    }
    verdict
}

/// Every value comes from a write that was asked for and not refused, and comes once.
fn values(asked: &[Asked], happened: &BTreeMap<At, (u32, Change)>, verdict: &mut Verdict) {
    let mut by_value: BTreeMap<u64, (Asked, Option<At>)> = BTreeMap::new();
    for one in asked {
        if let Change::Put(value) = one.change {
            by_value.insert(value, (*one, None));
        }
    }
    for (at, (key, change)) in happened {
        let Change::Put(value) = change else { continue };
        match by_value.get_mut(value) {
            Some((one, first)) if one.key == *key && one.outcome != Fate::Refused && first.is_none() => {
                *first = Some(*at)
            }
            other => verdict.wrong.push(format!("{change:?} of key {key} at {at:?} comes from {other:?}")),
        }
    }
}

/// The keys at an index that was listed.
#[derive(Debug, Default)]
struct State {
    /// Their versions.
    versions: BTreeMap<u32, u64>,
    /// Those that may be gone: watchers leave with the last change of all, and nobody is told what expires after it.
    may_be_gone: BTreeSet<u32>,
}

impl State {
    fn is(&self, listed: &BTreeMap<u32, u64>) -> bool {
        let gone = |key: &u32| self.may_be_gone.contains(key) && !listed.contains_key(key);
        let left = self.versions.iter().filter(|(key, _)| !gone(key));
        left.eq(listed.iter())
    }
}

/// The keys at each index that was listed. A key goes only where it was, and by time only where it had one.
fn states(
    happened: &BTreeMap<At, (u32, Change)>,
    watchers: &[(String, Vec<Told>)],
    verdict: &mut Verdict,
    asked: &[Asked],
) -> BTreeMap<u64, State> {
    let lists = watchers.iter().flat_map(|(_, told)| told).filter_map(|told| match told {
        Told::List(index, _) => Some((*index, State::default())),
        _ => None,
    });
    let mut states: BTreeMap<u64, State> = lists.collect();
    let staying = |one: &&Asked| one.ttl;
    let may_expire: BTreeSet<u64> = asked
        .iter()
        .filter(staying)
        .filter_map(|one| match one.change {
            Change::Put(value) => Some(value),
            _ => None,
        })
        .collect();
    let mut keys: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut pending: Vec<u64> = states.keys().rev().copied().collect();
    let state = |keys: &BTreeMap<u32, (u64, u64)>, is_last: bool| {
        let versions = keys.iter().map(|(key, (version, _))| (*key, *version)).collect();
        let timed = keys.iter().filter(|(_, (_, value))| is_last && may_expire.contains(value));
        State { versions, may_be_gone: timed.map(|(key, _)| *key).collect() }
    };
    for ((index, place), (key, change)) in happened {
        while pending.last().is_some_and(|listed| listed < index) {
            states.extend(pending.pop().map(|listed| (listed, state(&keys, false))));
        }
        let before = match change {
            Change::Put(value) => {
                keys.insert(*key, (*index, *value));
                continue;
            }
            Change::Delete | Change::Expire => keys.remove(key),
        };
        let right = before.is_some_and(|(_, value)| *change == Change::Delete || may_expire.contains(&value));
        if !right {
            verdict.wrong.push(format!("{change:?} of key {key} at {index}.{place}, which was {before:?}"));
        }
    }
    let last = happened.keys().next_back().map_or(0, |(index, _)| *index);
    states.extend(pending.into_iter().map(|listed| (listed, state(&keys, listed > last))));
    states
}

/// What one watcher was told.
fn follow(
    begin: u64,
    name: &str,
    told: &[Told],
    happened: &BTreeMap<At, (u32, Change)>,
    states: &BTreeMap<u64, State>,
    verdict: &mut Verdict,
) {
    let mut place: At = (begin, u64::MAX);
    let mut next = happened.keys().peekable();
    for (number, one) in told.iter().enumerate() {
        let wrong = |what: &str| format!("{name}, {one:?} as number {number}, after {place:?}: {what}");
        match one {
            Told::Event(at, ..) if *at <= place => {
                verdict.doubled += 1;
                verdict.wrong.push(wrong("told again or too late"));
            }
            Told::Event(at, ..) => {
                while let Some(missed) = next.next_if(|next| *next < at) {
                    verdict.lost += 1;
                    verdict.wrong.push(wrong(&format!("{missed:?} was left out")));
                }
                next.next_if_eq(&at);
                place = *at;
            }
            Told::Progress(index) if *index < place.0 => verdict.wrong.push(wrong("progress goes back")),
            Told::Progress(index) => {
                while let Some(missed) = next.next_if(|next| next.0 <= *index) {
                    verdict.lost += 1;
                    verdict.wrong.push(wrong(&format!("{missed:?} was left out")));
                }
                place = (*index, u64::MAX);
            }
            Told::List(index, items) => {
                if *index < place.0 {
                    verdict.wrong.push(wrong("a list that is older than what was told"));
                }
                while next.next_if(|next| next.0 <= *index).is_some() {
                    verdict.listed += 1;
                }
                if !states.get(index).is_some_and(|state| state.is(items)) {
                    verdict.wrong.push(wrong(&format!("the state there was {:?}", states.get(index))));
                }
                place = (*index, u64::MAX);
            }
        }
    }
    let left = next.count() as u64;
    if left > 0 {
        verdict.lost += left;
        verdict.wrong.push(format!("{name} was not told the last {left} changes"));
    }
}

crate::harness::cases![a_ledger_finds_what_is_lost_doubled_late_and_made_up];

fn a_ledger_finds_what_is_lost_doubled_late_and_made_up() {
    let asked = |key, value, outcome| Asked { key, change: Change::Put(value), ttl: false, outcome };
    let done = |index| Fate::Done((index, 0));
    let written = [asked(1, 1, done(11)), asked(2, 2, done(12)), asked(1, 3, done(14)), asked(3, 4, Fate::Unknown)];
    let put = |index, key, value| Told::Event((index, 0), key, Change::Put(value));
    let all = || vec![put(11, 1, 1), put(12, 2, 2), put(14, 1, 3), Told::Progress(15)];
    let verdict = |told: Vec<Told>| judge(10, &written, &[("a".to_owned(), all()), ("b".to_owned(), told)]);
    let counts = |told| {
        let verdict = verdict(told);
        (verdict.lost, verdict.doubled, verdict.wrong.len())
    };
    let change = |at: usize, to: &[Told]| {
        let mut told = all();
        told.splice(at..=at, to.iter().cloned());
        told
    };
    assert_eq!(counts(all()), (0, 0, 0), "{:?}", verdict(all()));
    assert_eq!(counts(change(1, &[])), (1, 0, 1), "in the middle");
    assert_eq!(counts(all()[..2].to_vec()), (1, 0, 1), "at the end");
    assert_eq!(counts(change(1, &[put(12, 2, 2), put(12, 2, 2)])), (0, 1, 1), "twice");
    assert_eq!(counts(change(1, &[Told::Progress(13), put(12, 2, 2)])), (1, 1, 2), "after a progress that promised it");
    assert_eq!(counts(vec![put(12, 2, 2), put(11, 1, 1), put(14, 1, 3)]), (1, 1, 2), "in another order");
    // A write of unknown fate that one was told of, the other must be told of too.
    assert_eq!(counts(change(3, &[put(15, 3, 4)])).0, 1);
    assert_eq!(counts(change(1, &[put(12, 2, 9)])).2, 1, "another value");
    assert!(counts(change(3, &[put(16, 4, 9)])).2 >= 1, "nobody wrote it");
    let gone = Told::Event((15, 0), 2, Change::Expire);
    assert!(verdict(change(3, &[gone])).wrong.iter().any(|wrong| wrong.contains("Expire")), "it had no time");
    let list = |index, items: &[(u32, u64)]| Told::List(index, items.iter().copied().collect());
    assert_eq!(counts(change(1, &[list(13, &[(1, 11), (2, 12)])])), (0, 0, 0), "a list stands for it");
    assert_eq!(counts(change(1, &[list(13, &[(1, 11)])])).2, 1, "a list without it");
    let timed = [Asked { ttl: true, ..written[0] }, written[1], Asked { ttl: true, ..written[2] }, written[3]];
    let late = |items: &[(u32, u64)]| {
        let told = all()[..3].iter().cloned().chain([list(16, items)]).collect();
        judge(10, &timed, &[("a".to_owned(), all()), ("b".to_owned(), told)]).wrong
    };
    assert!(late(&[(1, 14), (2, 12)]).is_empty() && late(&[(2, 12)]).is_empty(), "what expires last is told to nobody");
    assert_eq!(late(&[(1, 14)]).len(), 1, "a list without what does not expire");
    let listed = verdict(vec![list(12, &[(1, 11), (2, 12)]), put(14, 1, 3)]);
    assert_eq!((listed.listed, listed.lost, listed.wrong.len()), (2, 0, 0), "{listed:?}");
    assert_eq!(counts(vec![list(12, &[(1, 11), (2, 12)])]).0, 1, "what comes after a list");
}
