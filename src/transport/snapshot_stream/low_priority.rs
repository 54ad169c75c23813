//! The work of a stream at a low priority, for a while.
//!
//! Why: the tree of a snapshot is read and written beside clients, who come first. But on a machine whose cores are all taken, work of
//! low priority hardly goes on, and a stream that is slower than the writes of clients never ends: 48 clients and six busy loops on two
//! cores left it 2 MB a second.
//!
//! Invariants: what one step has begun it ends; steps run one at a time, in order.
//!
//! See also: [`super::pace`], which holds the stream back at any priority.

use std::panic::resume_unwind;
use std::thread::{Builder, current, scope};
use std::time::{Duration, Instant};

use crate::storage;

/// For how long a stream gives way; most have ended by then.
pub const GIVES_WAY_FOR: Duration = Duration::from_secs(60);

/// Repeats `step` until it returns a result: on a thread of low priority for this long, and then on the calling one.
pub fn run<R: Send>(gives_way_for: Duration, mut step: impl FnMut() -> Option<R> + Send) -> R {
    let until = Instant::now() + gives_way_for;
    // No thread can raise its priority again, so the steps change over to another one.
    let ended = scope(|scope| {
        let name = current().name().unwrap_or("snapshot").to_owned();
        let work = || {
            storage::lower_thread_priority();
            while Instant::now() < until {
                if let Some(result) = step() {
                    return Some(result);
                }
            }
            None
        };
        // Where the system has no further thread, the calling one does it all.
        let thread = Builder::new().name(name).spawn_scoped(scope, work).ok()?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    ended.unwrap_or_else(|| {
        loop {
            if let Some(result) = step() {
                return result;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_go_on_where_they_were_on_the_calling_thread() {
        for (gives_way_for, here) in [(Duration::ZERO, 5), (Duration::from_secs(600), 0)] {
            let (caller, mut steps, mut on_caller) = (current().id(), 0, 0);
            let result = run(gives_way_for, || {
                steps += 1;
                on_caller += usize::from(current().id() == caller);
                (steps == 5).then_some("done")
            });
            assert_eq!((result, steps, on_caller), ("done", 5, here));
        }
    }
}
