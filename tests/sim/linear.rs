//! A linearizability checker for one register at a time (Wing and Gong 1993, with the memory of Lowe 2017).
//!
//! Why: linearizability is local, so a history of a key-value store is checked key by key.
//!
//! Laws: an operation whose fate is unknown may take effect at any time after its call, or never. One that was refused
//! as not applied takes no effect at all.

use std::collections::HashSet;

/// What one operation did to its key, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The key was set to this.
    Put(u64),
    /// The key was removed; whether it was there, where the answer is known.
    Delete(Option<bool>),
    /// The key was read.
    Get(Option<u64>),
}

/// One operation on one key.
#[derive(Debug, Clone)]
pub struct Operation {
    pub client: usize,
    pub called: u64,
    /// None where the fate is unknown.
    pub returned: Option<u64>,
    pub seen: Seen,
}

/// Ok where some order of the operations explains every answer; otherwise a readable timeline.
pub fn check(history: &[Operation]) -> Result<(), String> {
    let mut order: Vec<&Operation> = history.iter().collect();
    order.sort_by_key(|operation| (operation.called, operation.returned));
    let mut visited = HashSet::new();
    let done = vec![0u64; order.len().div_ceil(64)];
    if explain(&order, done, None, &mut visited) { Ok(()) } else { Err(timeline(&order)) }
}

fn explain(
    order: &[&Operation],
    done: Vec<u64>,
    state: Option<u64>,
    visited: &mut HashSet<(Vec<u64>, Option<u64>)>,
) -> bool {
    let mut stack = vec![(done, state)];
    while let Some((done, state)) = stack.pop() {
        let is_done = |at: usize| done[at / 64] >> (at % 64) & 1 == 1;
        let open = || (0..order.len()).filter(|at| !is_done(*at));
        let Some(horizon) = open().filter_map(|at| order[at].returned).min() else { return true };
        for at in open() {
            if order[at].called > horizon {
                break;
            }
            let Some(next) = step(&order[at].seen, state) else { continue };
            let mut then = done.clone();
            then[at / 64] |= 1 << (at % 64);
            if visited.insert((then.clone(), next)) {
                stack.push((then, next));
            }
        }
    }
    false
}

/// The state after the operation, or None where the answer contradicts the state.
#[allow(clippy::option_option)]
fn step(seen: &Seen, state: Option<u64>) -> Option<Option<u64>> {
    match seen {
        Seen::Put(value) => Some(Some(*value)),
        Seen::Delete(existed) => existed.is_none_or(|existed| existed == state.is_some()).then_some(None),
        Seen::Get(value) => (*value == state).then_some(state),
    }
}

fn timeline(order: &[&Operation]) -> String {
    let mut lines = String::from("no order explains these operations:\n");
    for operation in order {
        let until = operation.returned.map_or("   ?".into(), |at| at.to_string());
        lines +=
            &format!("  {:>8} .. {until:>8}  client {}  {:?}\n", operation.called, operation.client, operation.seen);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(called: u64, returned: Option<u64>, seen: Seen) -> Operation {
        Operation { client: 0, called, returned, seen }
    }

    #[test]
    fn a_stale_read_is_found_and_a_concurrent_one_is_allowed() {
        let put = operation(0, Some(10), Seen::Put(1));
        assert!(check(&[put.clone(), operation(11, Some(12), Seen::Get(None))]).is_err());
        assert!(check(&[put.clone(), operation(5, Some(12), Seen::Get(None))]).is_ok());
        assert!(check(&[put, operation(11, Some(12), Seen::Get(Some(1)))]).is_ok());
    }

    #[test]
    fn an_unknown_write_may_take_effect_late_once_or_never() {
        let unknown = operation(0, None, Seen::Put(1));
        let absent = operation(20, Some(21), Seen::Get(None));
        let present = operation(30, Some(31), Seen::Get(Some(1)));
        assert!(check(&[unknown.clone(), absent.clone(), present.clone()]).is_ok());
        assert!(check(&[unknown.clone(), absent.clone()]).is_ok());
        let gone = operation(40, Some(41), Seen::Get(None));
        assert!(check(&[unknown, absent, present, gone]).is_err());
    }

    #[test]
    fn a_delete_must_know_whether_the_key_was_there() {
        let put = operation(0, Some(1), Seen::Put(7));
        assert!(check(&[put.clone(), operation(2, Some(3), Seen::Delete(Some(true)))]).is_ok());
        assert!(check(&[put, operation(2, Some(3), Seen::Delete(Some(false)))]).is_err());
    }
}
