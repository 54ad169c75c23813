//! Linearizability checker for single registers (Wing and Gong 1993, with the memoization of Lowe 2017).
//!
//! Why: linearizability is local, so the history of a key-value store is checked key by key.
//!
//! Invariants: an operation of unknown outcome may take effect at any time after its call, or never. One that was refused
//! as not applied has no effect and is left out of the history, as is a read without a response. An operation that is
//! called when another returns is concurrent with it. `Err` is a proof: the operations of the printed timeline are not
//! linearizable by themselves.
//!
//! Example: put 1 returns at 10; a read is called at 20 and returns nothing: no order explains it. If the put had no
//! response, it may take effect after the read, and the history is linearizable.
//!
//! See also: `tests/linear.rs`, which compares it with another checker.

// Shared by several test crates, each of which uses a part.
#![allow(dead_code)]

use std::collections::HashSet;
use std::fmt::Write as _;

/// The maximum number of states that are searched before the checker gives up: some seconds, and some hundred megabytes.
const MAX_STATES: usize = 2_000_000;

/// What one operation did to its key, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The key was set to this.
    Put(u64),
    /// The key was removed; whether it was there, where the answer is known.
    Delete(Option<bool>),
    /// The key was read.
    Get(Option<u64>),
    /// The key became `new` if it was `expected`; whether it was, where the answer is known.
    Cas {
        /// What had to be there; `None` for an absent key.
        expected: Option<u64>,
        /// What it became then; `None` where it was removed.
        new: Option<u64>,
        /// Whether it did.
        done: Option<bool>,
    },
}

/// One operation on one key.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Who called it, for the timeline.
    pub client: usize,
    /// When it was called.
    pub called: u64,
    /// When it returned; `None` where its fate is unknown.
    pub returned: Option<u64>,
    /// What came of it.
    pub seen: Seen,
}

impl Operation {
    /// Whether its answer shows that it changed nothing.
    fn only_looks(&self) -> bool {
        matches!(self.seen, Seen::Get(_) | Seen::Delete(Some(false)) | Seen::Cas { done: Some(false), .. })
    }

    /// The same with its fate unknown; `None` for a read, which says nothing then.
    fn unknown(&self) -> Option<Self> {
        let seen = match self.seen {
            Seen::Get(_) => return None,
            Seen::Put(value) => Seen::Put(value),
            Seen::Delete(_) => Seen::Delete(None),
            Seen::Cas { expected, new, .. } => Seen::Cas { expected, new, done: None },
        };
        Some(Self { returned: None, seen, ..*self })
    }
}

/// What the search comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Order,
    NoOrder,
    Nothing,
}

/// Ok where some order of the operations explains every answer; otherwise a readable timeline of the few that nothing
/// explains, or, where the history is too tangled, that no verdict was found.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let all = sorted(history);
    match explain(&all, &[None]) {
        Found::Order => Ok(()),
        Found::NoOrder => Err(timeline(&shrink(all).0, history.len())),
        Found::Nothing => Err(format!("no verdict on {} operations within {MAX_STATES} states", history.len())),
    }
}

fn sorted(history: &[Operation]) -> Vec<Operation> {
    let mut all = history.to_vec();
    all.sort_by_key(|operation| (operation.called, operation.returned.unwrap_or(u64::MAX)));
    all
}

/// Where the search is: what has taken effect, what the key is, and what it was before a change of unknown fate that
/// nothing has shown yet.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    done: Vec<u64>,
    state: Option<u64>,
    unshown: Option<Option<u64>>,
}

/// Looks for an order from any of the states in `begin`. A change of unknown fate is only tried where the very next
/// operation can tell the difference: elsewhere it may as well never have happened, and trying it everywhere would
/// double the work with each of them.
fn explain(order: &[Operation], begin: &[Option<u64>]) -> Found {
    let place = |state: &Option<u64>| Place { done: vec![0; order.len().div_ceil(64)], state: *state, unshown: None };
    let mut stack: Vec<Place> = begin.iter().map(place).collect();
    let mut visited: HashSet<Place> = stack.iter().cloned().collect();
    while let Some(Place { done, state, unshown }) = stack.pop() {
        let is_done = |at: usize| done[at / 64] >> (at % 64) & 1 == 1;
        let open = || (0..order.len()).filter(|at| !is_done(*at));
        let Some(horizon) = open().filter_map(|at| order[at].returned).min() else { return Found::Order };
        let mut certain = Vec::new();
        // What only looks, and sees what there is, loses nothing by being first.
        let looks = |at: &usize| order[*at].only_looks() && step(&order[*at].seen, state) == Some(state);
        if let Some(at) = open().take_while(|&at| order[at].called <= horizon).find(looks) {
            let mut then = Place { done, state, unshown: None };
            then.done[at / 64] |= 1 << (at % 64);
            if visited.insert(then.clone()) {
                stack.push(then);
            }
            continue;
        }
        for at in open().take_while(|&at| order[at].called <= horizon) {
            let Some(next) = step(&order[at].seen, state) else { continue };
            if unshown.is_some_and(|before| step(&order[at].seen, before) == Some(next)) {
                continue;
            }
            let unknown = order[at].returned.is_none();
            if unknown && next == state {
                continue;
            }
            let mut then = Place { done: done.clone(), state: next, unshown: unknown.then_some(state) };
            then.done[at / 64] |= 1 << (at % 64);
            if visited.insert(then.clone()) {
                // What is certain is tried first, so it goes on top.
                if unknown { stack.push(then) } else { certain.push(then) }
            }
        }
        stack.extend(certain.into_iter().rev());
        if visited.len() > MAX_STATES {
            return Found::Nothing;
        }
    }
    Found::NoOrder
}

/// The state after the operation, or None where the answer contradicts the state.
#[allow(clippy::option_option)]
fn step(seen: &Seen, state: Option<u64>) -> Option<Option<u64>> {
    match *seen {
        Seen::Put(value) => Some(Some(value)),
        Seen::Delete(existed) => existed.is_none_or(|existed| existed == state.is_some()).then_some(None),
        Seen::Get(value) => (value == state).then_some(state),
        Seen::Cas { expected, new, done } => {
            let fits = expected == state;
            let next = if fits { new } else { state };
            done.is_none_or(|done| done == fits).then_some(next)
        }
    }
}

/// Every value that the key may have had when the first of these operations was called.
fn beginnings(order: &[Operation]) -> Vec<Option<u64>> {
    let mut all = vec![None];
    for operation in order {
        match operation.seen {
            Seen::Put(value) => all.push(Some(value)),
            Seen::Get(value) => all.push(value),
            Seen::Delete(_) => {}
            Seen::Cas { expected, new, .. } => all.extend([expected, new]),
        }
    }
    // Any value that no operation names stands for all of them.
    all.push(Some(u64::MAX));
    all.sort_unstable();
    all.dedup();
    all
}

/// A smaller history without an order, and the states that it may have begun in. Each step weakens what has to be explained, so what is left is wrong by itself:
/// the end is cut off (a prefix of a linearizable history is linearizable), the beginning is cut off (and the key may
/// have been anything then), reads are left out, and changes too where even an unknown fate of them would not help.
pub fn shrink(order: Vec<Operation>) -> (Vec<Operation>, Vec<Option<u64>>) {
    let order = sorted(&order);
    let fails = |order: &[Operation], begin: &[Option<u64>]| explain(order, begin) == Found::NoOrder;
    let mut ends: Vec<u64> = order.iter().filter_map(|operation| operation.returned).collect();
    ends.sort_unstable();
    let cut = ends.partition_point(|&end| !fails(&until(&order, end), &[None]));
    let mut left = ends.get(cut).map_or(order.clone(), |&end| until(&order, end));
    let since = |left: &[Operation], begin: u64| -> Vec<Operation> {
        let still = |operation: &&Operation| operation.returned.is_none_or(|end| end >= begin);
        left.iter().filter(still).cloned().collect()
    };
    let first = ends.partition_point(|&end| {
        let part = since(&left, end);
        fails(&part, &beginnings(&part))
    });
    let mut begin = vec![None];
    if let Some(&end) = first.checked_sub(1).and_then(|at| ends.get(at)) {
        left = since(&left, end);
        begin = beginnings(&left);
    }
    for at in (0..left.len()).rev() {
        let mut fewer = left.clone();
        let gone = fewer.remove(at);
        let mut weaker = fewer.clone();
        weaker.extend(gone.unknown());
        if fails(&sorted(&weaker), &begin) {
            left = fewer;
        }
    }
    (left, begin)
}

/// What was known at `end`.
fn until(order: &[Operation], end: u64) -> Vec<Operation> {
    let known = |operation: &Operation| {
        let returned = operation.returned.is_some_and(|returned| returned <= end);
        if returned { Some(operation.clone()) } else { operation.unknown() }
    };
    sorted(&order.iter().filter(|operation| operation.called <= end).filter_map(known).collect::<Vec<_>>())
}

/// How wide the bars of a timeline are.
const WIDTH: u64 = 40;

/// One line an operation: when, who, what, and a bar, open where the end is unknown.
fn timeline(order: &[Operation], of: usize) -> String {
    let begin = order.iter().map(|operation| operation.called).min().unwrap_or(0);
    let end = order.iter().filter_map(|operation| operation.returned).max().unwrap_or(begin).max(begin + 1);
    let column = |time: u64| (time.clamp(begin, end) - begin) * WIDTH / (end - begin);
    let mut lines = format!("no order explains these {} operations of {of}:\n", order.len());
    for operation in order {
        let (from, to) = (column(operation.called), operation.returned.map_or(WIDTH, column));
        let bar: String = (0..=WIDTH)
            .map(|at| match at {
                _ if at < from || at > to => ' ',
                _ if at == from => '|',
                _ if at == to => operation.returned.map_or('>', |_| '|'),
                _ => '-',
            })
            .collect();
        let until = operation.returned.map_or("?".into(), |at| at.to_string());
        let (called, client, what) = (operation.called, operation.client, words(&operation.seen));
        // Writing to a string cannot fail.
        _ = writeln!(lines, "  {called:>10} .. {until:<10}  client {client:<3} {what:<24} {bar}");
    }
    lines
}

fn words(seen: &Seen) -> String {
    let value = |value: Option<u64>| value.map_or("nothing".into(), |value: u64| value.to_string());
    match *seen {
        Seen::Put(new) => format!("put {new}"),
        Seen::Delete(None) => "delete, unknown".into(),
        Seen::Delete(Some(existed)) => format!("delete, {}", if existed { "was there" } else { "was absent" }),
        Seen::Get(read) => format!("get: {}", value(read)),
        Seen::Cas { expected, new, done } => {
            let done = done.map_or("unknown", |done| if done { "done" } else { "refused" });
            match new {
                Some(new) => format!("if {} put {new}: {done}", value(expected)),
                None => format!("if {} delete: {done}", value(expected)),
            }
        }
    }
}
