//! Checker of watches: compares acknowledged writes with the events that each watcher received.
//!
//! Invariants: the history is every acknowledged change and every event that any watcher received. Each watcher must
//! have received all of it, once and in order, except for the gap between the cursor that it lost (`compacted`) and the
//! index of the list that it read instead. That list must equal the state at its index.
//!
//! Example: puts at 11, 12 and 13 are acknowledged. A watcher that received 11, 13 has lost 12. One that received 11,
//! `compacted`, a list at index 12 and 13 has lost nothing if the list holds the values of 11 and 12.
//!
//! See also: `writers` and `watchers`, which produce both sides.

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
pub struct Attempted {
    /// The key.
    pub key: u32,
    /// What it is to become; a removal is only of use here where it is known to have been one.
    pub change: Change,
    /// Whether it may expire.
    pub ttl: bool,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It happened there.
    Done(At),
    /// It never happens.
    Refused,
    /// The outcome is unknown.
    Unknown,
}

/// An event that a watcher received, or a list that it read.
#[derive(Debug, Clone)]
pub enum Observed {
    /// A change of a key.
    Event(At, u32, Change),
    /// That this is everything up to this index.
    Progress(u64),
    /// By a list, what the versions of all keys are at this index, in place of all events up to it.
    List(u64, BTreeMap<u32, u64>),
}

/// What a run comes to.
#[derive(Debug, Default)]
pub struct Report {
    /// Acknowledged changes of watched keys.
    pub acknowledged: u64,
    /// The events that all watchers received.
    pub observed: u64,
    /// Changes that a watcher did not receive, summed over the watchers.
    pub lost: u64,
    /// Events that a watcher received twice or out of order, summed over the watchers.
    pub doubled: u64,
    /// What a list stood for.
    pub listed: u64,
    /// Everything that is wrong, in words.
    pub wrong: Vec<String>,
}

/// Compares the attempted writes with the events of each watcher, whose watch began after the index `begin`.
pub fn check(begin: u64, attempts: &[Attempted], watchers: &[(String, Vec<Observed>)]) -> Report {
    let mut report = Report::default();
    let mut happened = BTreeMap::new();
    for one in attempts {
        if let Outcome::Done(at) = one.outcome {
            report.acknowledged += 1;
            if let Some(other) = happened.insert(at, (one.key, one.change)) {
                report.wrong.push(format!("{one:?} was acknowledged where {other:?} was too"));
            }
        }
    }
    for (name, observed) in watchers {
        for event in observed {
            let Observed::Event(at, key, change) = event else { continue };
            report.observed += 1;
            let known = *happened.entry(*at).or_insert((*key, *change));
            if known != (*key, *change) {
                report.wrong.push(format!("{name} received {event:?}, but {known:?} happened"));
            }
        }
    }
    happened.retain(|(index, _), _| *index > begin);
    values(attempts, &happened, &mut report);
    let states = states(&happened, watchers, &mut report, attempts);
    for (name, observed) in watchers {
        follow(begin, name, observed, &happened, &states, &mut report);
    }
    report
}

/// Every value comes from a write that was asked for and not refused, and comes once.
fn values(attempts: &[Attempted], happened: &BTreeMap<At, (u32, Change)>, report: &mut Report) {
    let mut by_value: BTreeMap<u64, (Attempted, Option<At>)> = BTreeMap::new();
    for one in attempts {
        if let Change::Put(value) = one.change {
            by_value.insert(value, (*one, None));
        }
    }
    for (at, (key, change)) in happened {
        let Change::Put(value) = change else { continue };
        match by_value.get_mut(value) {
            Some((one, first)) if one.key == *key && one.outcome != Outcome::Refused && first.is_none() => {
                *first = Some(*at)
            }
            other => report.wrong.push(format!("{change:?} of key {key} at {at:?} comes from {other:?}")),
        }
    }
}

/// The keys at an index that was listed.
#[derive(Debug, Default)]
struct State {
    /// Their versions.
    versions: BTreeMap<u32, u64>,
    /// Keys that may have expired: watchers stop at the last change, before the events of later expiries.
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
    watchers: &[(String, Vec<Observed>)],
    report: &mut Report,
    attempts: &[Attempted],
) -> BTreeMap<u64, State> {
    let lists = watchers.iter().flat_map(|(_, observed)| observed).filter_map(|observed| match observed {
        Observed::List(index, _) => Some((*index, State::default())),
        _ => None,
    });
    let mut states: BTreeMap<u64, State> = lists.collect();
    let staying = |one: &&Attempted| one.ttl;
    let may_expire: BTreeSet<u64> = attempts
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
            report.wrong.push(format!("{change:?} of key {key} at {index}.{place}, which was {before:?}"));
        }
    }
    let last = happened.keys().next_back().map_or(0, |(index, _)| *index);
    states.extend(pending.into_iter().map(|listed| (listed, state(&keys, listed > last))));
    states
}

/// Checks the events of one watcher.
fn follow(
    begin: u64,
    name: &str,
    observed: &[Observed],
    happened: &BTreeMap<At, (u32, Change)>,
    states: &BTreeMap<u64, State>,
    report: &mut Report,
) {
    let mut place: At = (begin, u64::MAX);
    let mut next = happened.keys().peekable();
    for (number, one) in observed.iter().enumerate() {
        let wrong = |what: &str| format!("{name}, {one:?} as number {number}, after {place:?}: {what}");
        match one {
            Observed::Event(at, ..) if *at <= place => {
                report.doubled += 1;
                report.wrong.push(wrong("received twice or out of order"));
            }
            Observed::Event(at, ..) => {
                while let Some(missed) = next.next_if(|next| *next < at) {
                    report.lost += 1;
                    report.wrong.push(wrong(&format!("{missed:?} was skipped")));
                }
                next.next_if_eq(&at);
                place = *at;
            }
            Observed::Progress(index) if *index < place.0 => report.wrong.push(wrong("progress goes back")),
            Observed::Progress(index) => {
                while let Some(missed) = next.next_if(|next| next.0 <= *index) {
                    report.lost += 1;
                    report.wrong.push(wrong(&format!("{missed:?} was skipped")));
                }
                place = (*index, u64::MAX);
            }
            Observed::List(index, items) => {
                if *index < place.0 {
                    report.wrong.push(wrong("a list that is older than the last event"));
                }
                while next.next_if(|next| next.0 <= *index).is_some() {
                    report.listed += 1;
                }
                if !states.get(index).is_some_and(|state| state.is(items)) {
                    report.wrong.push(wrong(&format!("the state there was {:?}", states.get(index))));
                }
                place = (*index, u64::MAX);
            }
        }
    }
    let left = next.count() as u64;
    if left > 0 {
        report.lost += left;
        report.wrong.push(format!("{name} did not receive the last {left} changes"));
    }
}

crate::harness::cases![the_checker_finds_lost_duplicate_late_and_invented_events];

fn the_checker_finds_lost_duplicate_late_and_invented_events() {
    let attempts = |key, value, outcome| Attempted { key, change: Change::Put(value), ttl: false, outcome };
    let done = |index| Outcome::Done((index, 0));
    let written = [
        attempts(1, 1, done(11)),
        attempts(2, 2, done(12)),
        attempts(1, 3, done(14)),
        attempts(3, 4, Outcome::Unknown),
    ];
    let put = |index, key, value| Observed::Event((index, 0), key, Change::Put(value));
    let all = || vec![put(11, 1, 1), put(12, 2, 2), put(14, 1, 3), Observed::Progress(15)];
    let report = |observed: Vec<Observed>| check(10, &written, &[("a".to_owned(), all()), ("b".to_owned(), observed)]);
    let counts = |observed| {
        let report = report(observed);
        (report.lost, report.doubled, report.wrong.len())
    };
    let change = |at: usize, to: &[Observed]| {
        let mut observed = all();
        observed.splice(at..=at, to.iter().cloned());
        observed
    };
    assert_eq!(counts(all()), (0, 0, 0), "{:?}", report(all()));
    assert_eq!(counts(change(1, &[])), (1, 0, 1), "in the middle");
    assert_eq!(counts(all()[..2].to_vec()), (1, 0, 1), "at the end");
    assert_eq!(counts(change(1, &[put(12, 2, 2), put(12, 2, 2)])), (0, 1, 1), "twice");
    assert_eq!(
        counts(change(1, &[Observed::Progress(13), put(12, 2, 2)])),
        (1, 1, 2),
        "after a progress that promised it"
    );
    assert_eq!(counts(vec![put(12, 2, 2), put(11, 1, 1), put(14, 1, 3)]), (1, 1, 2), "in another order");
    // A write of unknown outcome whose event one watcher received must reach the other too.
    assert_eq!(counts(change(3, &[put(15, 3, 4)])).0, 1);
    assert_eq!(counts(change(1, &[put(12, 2, 9)])).2, 1, "another value");
    assert!(counts(change(3, &[put(16, 4, 9)])).2 >= 1, "no client wrote it");
    let gone = Observed::Event((15, 0), 2, Change::Expire);
    assert!(report(change(3, &[gone])).wrong.iter().any(|wrong| wrong.contains("Expire")), "it had no time");
    let list = |index, items: &[(u32, u64)]| Observed::List(index, items.iter().copied().collect());
    assert_eq!(counts(change(1, &[list(13, &[(1, 11), (2, 12)])])), (0, 0, 0), "a list stands for it");
    assert_eq!(counts(change(1, &[list(13, &[(1, 11)])])).2, 1, "a list without it");
    let timed = [Attempted { ttl: true, ..written[0] }, written[1], Attempted { ttl: true, ..written[2] }, written[3]];
    let late = |items: &[(u32, u64)]| {
        let observed = all()[..3].iter().cloned().chain([list(16, items)]).collect();
        check(10, &timed, &[("a".to_owned(), all()), ("b".to_owned(), observed)]).wrong
    };
    assert!(
        late(&[(1, 14), (2, 12)]).is_empty() && late(&[(2, 12)]).is_empty(),
        "an expiry after the last change reaches no watcher"
    );
    assert_eq!(late(&[(1, 14)]).len(), 1, "a list without what does not expire");
    let listed = report(vec![list(12, &[(1, 11), (2, 12)]), put(14, 1, 3)]);
    assert_eq!((listed.listed, listed.lost, listed.wrong.len()), (2, 0, 0), "{listed:?}");
    assert_eq!(counts(vec![list(12, &[(1, 11), (2, 12)])]).0, 1, "what comes after a list");
}
