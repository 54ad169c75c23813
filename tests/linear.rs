//! Tests of the linearizability checker.
//!
//! Why: a checker that accepts everything would let every run of the simulator and of the fault suite pass.
//!
//! Invariants: on thousands of small histories from fixed seeds, most of them linearizable and many not, it agrees with
//! the checker of `todc-utils`, which is run for every combination of the unknown outcomes.

use std::collections::BTreeSet;

use todc_utils::linearizability::WGLChecker;
use todc_utils::{Action, History, Specification};

#[path = "support/linear.rs"]
mod linear;
// Only a part of it is of use here.
#[allow(dead_code)]
#[path = "sim/rng.rs"]
mod rng;

use linear::{Operation, Seen, check, shrink};
use rng::Rng;

fn operation(called: u64, returned: impl Into<Option<u64>>, seen: Seen) -> Operation {
    Operation { client: 0, called, returned: returned.into(), seen }
}

#[test]
fn a_stale_read_is_refused_and_a_concurrent_one_accepted() {
    let put = operation(0, 10, Seen::Put(1));
    assert!(check(&[put.clone(), operation(11, 12, Seen::Get(None))]).is_err());
    assert!(check(&[put.clone(), operation(5, 12, Seen::Get(None))]).is_ok());
    assert!(check(&[put, operation(11, 12, Seen::Get(Some(1)))]).is_ok());
}

#[test]
fn an_unknown_write_may_take_effect_late_once_or_never() {
    let unknown = operation(0, None, Seen::Put(1));
    let absent = operation(20, 21, Seen::Get(None));
    let present = operation(30, 31, Seen::Get(Some(1)));
    assert!(check(&[unknown.clone(), absent.clone(), present.clone()]).is_ok());
    assert!(check(&[unknown.clone(), absent.clone()]).is_ok());
    let gone = operation(40, 41, Seen::Get(None));
    assert!(check(&[unknown, absent, present, gone]).is_err());
}

#[test]
fn a_delete_returns_whether_the_key_existed() {
    let put = operation(0, 1, Seen::Put(7));
    assert!(check(&[put.clone(), operation(2, 3, Seen::Delete(Some(true)))]).is_ok());
    assert!(check(&[put, operation(2, 3, Seen::Delete(Some(false)))]).is_err());
}

#[test]
fn of_two_conditional_writes_on_one_value_only_one_succeeds() {
    let cas = |called, new, done| {
        operation(called, called + 5, Seen::Cas { expected: Some(1), new: Some(new), done: Some(done) })
    };
    let put = operation(0, 1, Seen::Put(1));
    assert!(check(&[put.clone(), cas(2, 2, true), cas(3, 3, false)]).is_ok());
    assert!(check(&[put.clone(), cas(2, 2, true), cas(3, 3, true)]).is_err());
    assert!(check(&[put, cas(2, 2, false), cas(3, 3, false)]).is_err());
    let created = Seen::Cas { expected: None, new: Some(4), done: None };
    let seen = operation(9, 10, Seen::Get(Some(4)));
    assert!(check(&[operation(0, None, created.clone()), seen.clone()]).is_ok());
    assert!(check(&[seen, operation(11, None, created)]).is_err());
    let put = operation(0, 1, Seen::Put(1));
    let removed = |done| operation(2, 3, Seen::Cas { expected: Some(1), new: None, done: Some(done) });
    let gone = operation(4, 5, Seen::Get(None));
    assert!(check(&[put.clone(), removed(true), gone.clone()]).is_ok());
    assert!(check(&[put, removed(false), gone]).is_err());
}

#[test]
fn a_stale_read_in_a_long_history_gives_a_short_timeline() {
    let mut history = Vec::new();
    for round in 0..200 {
        history.push(operation(round * 10, round * 10 + 4, Seen::Put(round)));
        history.push(operation(round * 10 + 5, round * 10 + 8, Seen::Get(Some(round))));
        if round % 10 == 0 {
            history.push(operation(round * 10, None, Seen::Put(10_000 + round)));
        }
    }
    check(&history).unwrap();
    history[241].seen = Seen::Get(Some(117));
    let timeline = check(&history).unwrap_err();
    let lines: Vec<&str> = timeline.lines().collect();
    assert!(lines.len() <= 5 && timeline.contains("get: 117"), "{timeline}");
}

/// An operation for the other checker: one of unknown outcome is left out, or returns at the end.
#[derive(Debug, Clone)]
struct TodcOperation(Seen);

struct Register;

impl Specification for Register {
    type State = Option<u64>;
    type Operation = TodcOperation;

    fn init() -> Self::State {
        None
    }

    // Written from the semantics of the operations, not from the checker under test.
    fn apply(operation: &TodcOperation, state: &Self::State) -> (bool, Self::State) {
        match operation.0 {
            Seen::Put(value) => (true, Some(value)),
            Seen::Get(value) if value == *state => (true, *state),
            Seen::Delete(None) => (true, None),
            Seen::Delete(Some(true)) if state.is_some() => (true, None),
            Seen::Delete(Some(false)) if state.is_none() => (true, None),
            Seen::Cas { expected, new, done: None | Some(true) } if expected == *state => (true, new),
            Seen::Cas { expected, done: None | Some(false), .. } if expected != *state => (true, *state),
            Seen::Get(_) | Seen::Delete(_) | Seen::Cas { .. } => (false, *state),
        }
    }
}

/// The result of the other checker, over all combinations of the unknown outcomes.
fn todc_accepts(history: &[Operation]) -> bool {
    let unknown: Vec<usize> = (0..history.len()).filter(|&at| history[at].returned.is_none()).collect();
    (0..1_u32 << unknown.len()).any(|chosen| {
        let left_out: BTreeSet<usize> =
            unknown.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 0).map(|(_, &at)| at).collect();
        let mut events = Vec::new();
        for (at, operation) in history.iter().enumerate().filter(|(at, _)| !left_out.contains(at)) {
            let end = operation.returned.unwrap_or(u64::MAX);
            // Each operation is a process of its own: only real-time order counts.
            events.push((operation.called, 0, at, Action::Call(TodcOperation(operation.seen.clone()))));
            events.push((end, 1, at, Action::Response(TodcOperation(operation.seen.clone()))));
        }
        events.sort_by_key(|(time, kind, at, _)| (*time, *kind, *at));
        let actions: Vec<_> = events.into_iter().map(|(_, _, at, action)| (at, action)).collect();
        actions.is_empty() || WGLChecker::<Register>::is_linearizable(History::from_actions(actions))
    })
}

/// Draws a small history: operations take effect at a moment between call and return, then a few results may be falsified.
fn draw(rng: &mut Rng) -> Vec<Operation> {
    let count = 2 + rng.below(7);
    let spread = 5 + rng.below(60);
    let mut plans: Vec<(u64, u64, u64)> = (0..count)
        .map(|_| {
            let effect = rng.below(spread);
            (effect, effect.saturating_sub(rng.below(12)), effect + rng.below(12))
        })
        .collect();
    plans.sort_unstable();
    let mut state = None;
    let mut history: Vec<Operation> = Vec::new();
    for (_, called, returned) in plans {
        let new = rng.below(4);
        let unknown = rng.chance(20) && history.iter().filter(|it| it.returned.is_none()).count() < 4;
        let happens = !unknown || rng.chance(50);
        let before = state;
        let (after, mut seen) = match rng.below(4) {
            0 => (Some(new), Seen::Put(new)),
            1 => (None, Seen::Delete(Some(before.is_some()))),
            2 => {
                let expected = if rng.chance(50) { before } else { rng.chance(70).then(|| rng.below(4)) };
                let done = expected == before;
                let new = rng.chance(70).then_some(new);
                (if done { new } else { before }, Seen::Cas { expected, new, done: Some(done) })
            }
            _ if unknown => continue,
            _ => (before, Seen::Get(before)),
        };
        if happens {
            state = after;
        }
        if unknown {
            seen = match seen {
                Seen::Delete(_) => Seen::Delete(None),
                Seen::Cas { expected, new, .. } => Seen::Cas { expected, new, done: None },
                other => other,
            };
        }
        let client = history.len();
        history.push(Operation { client, called, returned: (!unknown).then_some(returned), seen });
    }
    if rng.chance(50) {
        corrupt(rng, &mut history);
    }
    history
}

/// Falsifies one result, or moves one operation in time.
fn corrupt(rng: &mut Rng, history: &mut [Operation]) {
    if history.is_empty() {
        return;
    }
    let at = usize::try_from(rng.below(history.len() as u64)).expect("small");
    let operation = &mut history[at];
    match &mut operation.seen {
        Seen::Get(value) => *value = rng.chance(70).then(|| rng.below(4)),
        Seen::Delete(Some(existed)) => *existed = !*existed,
        Seen::Cas { done: Some(done), .. } => *done = !*done,
        _ => {
            operation.called += 8;
            operation.returned = operation.returned.map(|end| end + 8);
        }
    }
}

#[test]
fn it_agrees_with_the_checker_of_todc_utils() {
    let (mut sound, mut broken) = (0, 0);
    for seed in 1..=20_000 {
        let history = draw(&mut Rng::new(seed));
        let theirs = todc_accepts(&history);
        let ours = check(&history);
        assert_eq!(ours.is_ok(), theirs, "seed {seed}: {ours:?}\n{history:#?}");
        if theirs { sound += 1 } else { broken += 1 }
    }
    println!("{sound} histories with an order, {broken} without one");
    assert!(sound > 5_000 && broken > 3_000, "{sound} sound, {broken} broken: the draw is of no use");
}

#[test]
fn the_printed_timeline_is_not_linearizable_by_itself() {
    let mut shown = 0;
    for seed in 1..=2_000 {
        let history = draw(&mut Rng::new(seed));
        if check(&history).is_ok() {
            continue;
        }
        let (mut left, beginnings) = shrink(history.clone());
        assert!((1..=history.len()).contains(&left.len()), "seed {seed}: {left:?}");
        for operation in &mut left {
            operation.called += 100;
            operation.returned = operation.returned.map(|end| end + 100);
        }
        for begin in beginnings {
            let before = begin.map(|value| operation(0, 1, Seen::Put(value)));
            let whole: Vec<Operation> = before.into_iter().chain(left.clone()).collect();
            assert!(!todc_accepts(&whole), "seed {seed}: from {begin:?} there is an order: {left:?} of {history:?}");
        }
        shown += 1;
    }
    assert!(shown > 300, "{shown}");
}
