//! Timers of waits that almost always end before their time, used again by later waits.
//!
//! Why: each request waits for the loop, and each write for its body. A timer of its own for each would be put into the runtime's wheel
//! and taken out again, twice under its lock, and hardly ever fire. So a timer that a wait has left stays in the wheel with the earlier
//! time, and the next wait takes it over.
//!
//! Example: a wait until 5.0 s ends at 0.1 s. The next one, until 5.2 s, takes its timer, which is set for 5.0 s. Should it still wait
//! then, the timer fires, and is set for 5.2 s.
//!
//! Invariants: a wait ends at its time, not earlier, whatever the timer was set for. A timer may wake the task that had it before, once;
//! a task that is woken for nothing polls and waits on.
//!
//! See also: the same within one connection ([`crate::http::server::activity`]).

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// The most timers that are kept for later waits.
const MAX_KEPT: usize = 1024;

/// The timers that no wait uses.
#[derive(Default)]
pub(crate) struct Timers(Mutex<Vec<Pin<Box<Sleep>>>>);

/// The timer of one wait.
pub(crate) struct Timer<'a> {
    timers: &'a Timers,
    /// None until the wait has begun: what is there at once needs no timer.
    sleep: Option<Pin<Box<Sleep>>>,
}

/// The time of a wait is over.
#[derive(Debug)]
pub(crate) struct Elapsed;

impl Timers {
    /// Returns a timer for one wait.
    pub(crate) fn timer(&self) -> Timer<'_> {
        Timer { timers: self, sleep: None }
    }

    /// Waits for `future`, until `at`; as tokio's function of this name.
    pub(crate) async fn timeout_at<F: Future>(&self, at: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut timer = self.timer();
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => timer.poll_until(at, context).map(|()| Err(Elapsed)),
        })
        .await
    }

    fn unused(&self) -> MutexGuard<'_, Vec<Pin<Box<Sleep>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer<'_> {
    /// Waits until `at`, which may change from one poll to the next.
    pub(crate) fn poll_until(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| {
            let unused = self.timers.unused().pop();
            unused.unwrap_or_else(|| Box::pin(sleep_until(at)))
        });
        loop {
            if at < sleep.deadline() || sleep.is_elapsed() {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(context));
            if Instant::now() >= at {
                return Poll::Ready(());
            }
        }
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take() {
            let mut unused = self.timers.unused();
            if unused.len() < MAX_KEPT {
                unused.push(sleep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_wait_ends_at_its_own_time_whatever_its_timer_was_set_for() {
        let timers = Timers::default();
        let began = Instant::now();
        // Later than the timer before, earlier, and after it has fired.
        for (at, expected) in [(5, 5), (9, 9), (7, 9), (20, 20)] {
            let at = began + at * SECOND;
            assert!(timers.timeout_at(at, pending::<()>()).await.is_err());
            assert_eq!((began.elapsed().as_secs(), timers.unused().len()), (expected, 1));
        }
        for at in [60, 25, 30] {
            let soon = tokio::time::sleep(Duration::from_millis(10));
            assert!(timers.timeout_at(began + at * SECOND, soon).await.is_ok());
        }
        assert_eq!((began.elapsed().as_secs(), timers.unused().len()), (20, 1));
        assert!(timers.timeout_at(began + 40 * SECOND, pending::<()>()).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_at_once_takes_no_timer_and_waits_at_once_have_one_each() {
        let timers = Timers::default();
        let at = Instant::now() + SECOND;
        assert!(timers.timeout_at(at, async {}).await.is_ok());
        assert!(timers.unused().is_empty());
        let (first, second) =
            tokio::join!(timers.timeout_at(at, pending::<()>()), timers.timeout_at(at + SECOND, pending::<()>()));
        assert!(first.is_err() && second.is_err());
        assert_eq!((timers.unused().len(), at.elapsed()), (2, SECOND));
    }
}
