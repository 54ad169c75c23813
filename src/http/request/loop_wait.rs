//! Waiting for the consensus loop, and giving up.
//!
//! Why: the loop answers each request by its deadline, but a loop whose disk stalls answers nothing at all. The client gets a response
//! all the same, shortly after the deadline or before the process ends.
//!
//! Invariants: an answer that is there is returned, whatever else has happened. The end of the process wakes no request by itself:
//! its connection does, which polls its request with every wake ([`crate::http::server`]).
//!
//! See also: what is answered then ([`super::handler_context`]), the timers ([`super::timers`]).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::watch as signal;
use tokio::time::Instant;

use super::handler_context::ServerContext;
use super::timers::Timer;
use crate::http::response::problem::Problem;
use crate::model::Refusal;

/// How long after its deadline a request waits for the loop's own answer, which says more than a timeout here.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);
/// The maximum time since the last turn of the loop of a node that takes requests. A tick takes at most 1 s, so two may be
/// late.
pub(crate) const STALLED_AFTER: Duration = Duration::from_secs(3);

/// Why a request has no answer from the loop.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoAnswer {
    /// Its deadline has passed.
    Late,
    /// It makes no turns.
    Stalled,
    /// The process ends.
    Ending,
}

/// Whether the process is about to end, so that no request waits for the loop any more.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The same as the signal, for those that ask with every poll.
    begun: AtomicBool,
    signal: signal::Sender<bool>,
}

impl Default for Ending {
    fn default() -> Self {
        Self { begun: AtomicBool::new(false), signal: signal::Sender::new(false) }
    }
}

impl Ending {
    /// Begins the end.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.signal.send_replace(true);
    }

    /// Waits for it.
    pub(crate) async fn wait(&self) {
        // An error would mean that the sender is dropped, but `self` owns it.
        drop(self.signal.subscribe().wait_for(|ending| *ending).await);
    }

    /// Waits for `future`, within the connection's task; None where the process ends first.
    pub(super) async fn unless<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.has_begun() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

/// A look at the loop, to be repeated at `next`.
struct Look {
    next: Instant,
    /// Whether the loop was silent for too long at the last one.
    was_stalled: bool,
}

impl ServerContext {
    /// Waits for the loop's answer until [`DEADLINE_GRACE`] after the deadline, or until the process ends.
    pub(super) async fn answer_of<T>(&self, left: Duration, answer: impl Future<Output = T>) -> Result<T, NoAnswer> {
        self.wait(left, false, answer).await
    }

    /// Like [`ServerContext::answer_of`], for a read, which ends early if the loop stalls.
    pub(super) async fn answer_unless_stalled<T>(
        &self,
        left: Duration,
        answer: impl Future<Output = T>,
    ) -> Result<T, NoAnswer> {
        self.wait(left, true, answer).await
    }

    async fn wait<T>(&self, left: Duration, looks: bool, answer: impl Future<Output = T>) -> Result<T, NoAnswer> {
        let mut answer = pin!(answer);
        let mut timer = self.timers.timer();
        // Made with the first poll that finds no answer.
        let mut times: Option<(Instant, Option<Look>)> = None;
        poll_fn(|context| {
            // An answer that is there comes first: at the end of the process it is worth more than "unknown".
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(Ok(answer));
            }
            if self.ending.has_begun() {
                return Poll::Ready(Err(NoAnswer::Ending));
            }
            let (late, look) = times.get_or_insert_with(|| {
                let now = Instant::now();
                (now + left + DEADLINE_GRACE, looks.then(|| self.look(now)))
            });
            self.poll_times(*late, look, &mut timer, context).map(Err)
        })
        .await
    }

    /// Ends when the request is late, or when the loop was stalled twice.
    fn poll_times(
        &self,
        late: Instant,
        look: &mut Option<Look>,
        timer: &mut Timer<'_>,
        context: &mut Context<'_>,
    ) -> Poll<NoAnswer> {
        loop {
            let next = look.as_ref().map_or(late, |look| late.min(look.next));
            ready!(timer.poll_until(next, context));
            let now = Instant::now();
            if now >= late {
                return Poll::Ready(NoAnswer::Late);
            }
            if let Some(look) = look.as_mut().filter(|look| now >= look.next) {
                // After a SIGCONT the last turn is long ago, too, but the next one follows at once: hence the second look.
                if look.was_stalled && self.is_stalled() {
                    return Poll::Ready(NoAnswer::Stalled);
                }
                *look = self.look(now);
            }
        }
    }

    fn look(&self, now: Instant) -> Look {
        let silence = self.handle.silence().unwrap_or_default();
        let next = now + STALLED_AFTER.saturating_sub(silence) + DEADLINE_GRACE;
        Look { next, was_stalled: silence > STALLED_AFTER }
    }

    /// Returns whether the loop has served and makes no turns.
    fn is_stalled(&self) -> bool {
        self.handle.silence().is_some_and(|silence| silence > STALLED_AFTER)
    }

    /// Returns why no round of ReadIndex was confirmed within the last second, if none was; waits for `limit` at most.
    pub(crate) async fn probe_read_index(&self, limit: Duration) -> Result<(), Refusal> {
        self.handle.probe_read_index(limit).await
    }

    /// Ends all waiting for the loop, since the process is about to end: each waiting request is answered with what is known.
    pub(crate) fn stop_waiting(&self) {
        self.ending.begin();
        // Watchers go on from their cursor at another node, so an event that the loop still applies is not lost to them.
        self.feed().close();
    }

    /// Waits for [`ServerContext::stop_waiting`].
    pub(crate) async fn ending(&self) {
        self.ending.wait().await;
    }
}

/// The failure of a request that changes no key.
impl From<NoAnswer> for Problem {
    fn from(reason: NoAnswer) -> Self {
        match reason {
            NoAnswer::Late | NoAnswer::Stalled => Self::stalled(),
            NoAnswer::Ending => Self::stopping(),
        }
    }
}
