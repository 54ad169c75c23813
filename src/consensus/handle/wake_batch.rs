//! Wakes of waiting tasks, handed from the loop's thread to the runtime in batches.
//!
//! Why: a task that is woken from a thread outside of its runtime goes through that runtime's shared queue, with a lock and often a
//! system call for each. A turn of the loop answers up to thousands of requests. So its thread collects the wakes, and one task on a
//! worker makes them, where each is a push to the worker's own queue.
//!
//! ```text
//!   loop: answer 1, answer 2, ... answer 64  --one task--> worker: wake 1, wake 2, ... wake 64
//! ```
//!
//! Invariants: an answer is there before its wake. No wake is lost: what is collected when the thread ends, by a panic too, is handed
//! over by the guard. A thread without a guard, as in the simulator, wakes at once. The loop hands over before it waits, for inputs or
//! for the disk.
//!
//! See also: the answers ([`super::reply_slot`]).

use std::cell::RefCell;
use std::marker::PhantomData;
use std::task::Waker;

use tokio::runtime::Handle as Runtime;

/// The most wakes that are collected: the first answers of a long turn need not wait for its end.
const MAX_WAKES: usize = 64;

thread_local! {
    static COLLECTED: RefCell<Option<Collected>> = const { RefCell::new(None) };
}

/// What a thread has collected.
struct Collected {
    runtime: Runtime,
    wakers: Vec<Waker>,
}

/// Lets this thread collect its wakes until it is dropped.
pub(in crate::consensus) struct WakeBatches(PhantomData<*const ()>);

impl WakeBatches {
    /// Begins; the wakes are handed to a task on `runtime`, and none is collected where there is none.
    pub(in crate::consensus) fn begin(runtime: Option<Runtime>) -> Self {
        let collected = runtime.map(|runtime| Collected { runtime, wakers: Vec::new() });
        COLLECTED.with_borrow_mut(|own| *own = collected);
        Self(PhantomData)
    }
}

impl Drop for WakeBatches {
    fn drop(&mut self) {
        hand_over();
        COLLECTED.with_borrow_mut(|own| *own = None);
    }
}

/// Wakes a task, or collects its wake.
pub(super) fn wake(waker: Waker) {
    let at_once = COLLECTED.with_borrow_mut(|own| match own {
        Some(collected) => {
            collected.wakers.push(waker);
            None
        }
        None => Some(waker),
    });
    match at_once {
        Some(waker) => waker.wake(),
        None if is_full() => hand_over(),
        None => {}
    }
}

fn is_full() -> bool {
    COLLECTED.with_borrow(|own| own.as_ref().is_some_and(|collected| collected.wakers.len() >= MAX_WAKES))
}

/// Hands over what this thread has collected.
pub(in crate::consensus) fn hand_over() {
    // Nothing is woken within the borrow: a waker is foreign code.
    let taken = COLLECTED.with_borrow_mut(|own| {
        let collected = own.as_mut().filter(|collected| !collected.wakers.is_empty())?;
        Some((std::mem::take(&mut collected.wakers), collected.runtime.clone()))
    });
    match taken {
        Some((wakers, _)) if wakers.len() == 1 => wakers.into_iter().for_each(Waker::wake),
        // After the runtime's end the task is dropped, as the tasks are that it would have woken.
        Some((wakers, runtime)) => drop(runtime.spawn(async move { wakers.into_iter().for_each(Waker::wake) })),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_are_collected_under_a_guard_only_and_none_is_lost() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let count = Arc::<Count>::default();
        let wake = || wake(Waker::from(Arc::clone(&count)));
        let woken = || {
            runtime.block_on(tokio::task::yield_now());
            count.0.load(Ordering::Relaxed)
        };
        wake();
        assert_eq!(woken(), 1, "without a guard at once");
        let guard = WakeBatches::begin(Some(runtime.handle().clone()));
        wake();
        wake();
        assert_eq!(woken(), 1);
        hand_over();
        assert_eq!(woken(), 3);
        (0..MAX_WAKES).for_each(|_| wake());
        assert_eq!(woken(), 3 + MAX_WAKES, "a full batch is handed over by itself");
        wake();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = guard;
            panic!("the loop has broken");
        }));
        assert!(panicked.is_err());
        assert_eq!(woken(), 4 + MAX_WAKES);
        wake();
        assert_eq!(woken(), 5 + MAX_WAKES, "at once again");
    }
}
