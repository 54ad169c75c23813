//! Status requests: concurrent callers share one answer (single flight).
//!
//! Why: every client may ask for the status, as often as it likes, and each answer takes time of the loop.
//!
//! Invariants: at most one such request is with the loop. A caller that comes meanwhile gets the same answer, which is
//! younger than its request; the next one after it begins a new request.
//!
//! See also: what the status holds (`local_queries`).

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::model::Status;

/// The callers' ends: each gets the status, or None if it has to ask again.
type Waiters = Vec<oneshot::Sender<Option<Arc<Status>>>>;

/// The callers that wait for the present answer.
#[derive(Clone, Default)]
pub(crate) struct SingleFlight(Arc<Mutex<Waiters>>);

/// The caller that asks for all; dropped before it has asked, all ask again.
pub(crate) struct AskTicket(SingleFlight);

/// The running request; dropped without an answer, all callers get an error.
pub(crate) struct AskInFlight(SingleFlight);

impl SingleFlight {
    /// Joins the waiting callers; the first one gets a ticket and asks.
    pub(crate) fn join(&self) -> (oneshot::Receiver<Option<Arc<Status>>>, Option<AskTicket>) {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Three callers in one turn are one question to the loop. A fourth that comes after its answer asks anew,
        // because the answer must be younger than the question.
        waiting.push(reply);
        (answer, (waiting.len() == 1).then(|| AskTicket(self.clone())))
    }

    fn send_all(&self, status: Option<&Arc<Status>>) {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for reply in waiting {
            // Some have given up.
            drop(reply.send(status.cloned()));
        }
    }
}

impl AskTicket {
    /// Starts the request.
    pub(crate) fn start(mut self) -> AskInFlight {
        // No caller is left in here.
        AskInFlight(std::mem::take(&mut self.0))
    }
}

impl Drop for AskTicket {
    fn drop(&mut self) {
        self.0.send_all(None);
    }
}

impl AskInFlight {
    /// Answers all callers that wait.
    pub(crate) fn answer_all(mut self, status: Status) {
        // A caller that joins from here on waits for the next request, which this one's drop must not end.
        std::mem::take(&mut self.0).send_all(Some(&Arc::new(status)));
    }
}

impl Drop for AskInFlight {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_caller_asks_and_the_others_get_its_answer_or_ask_again() {
        let flights = SingleFlight::default();
        let (mut first, ticket) = flights.join();
        let (mut second, none) = flights.join();
        assert!(ticket.is_some() && none.is_none());
        drop(ticket);
        assert!(matches!((first.try_recv(), second.try_recv()), (Ok(None), Ok(None))), "it has given up");
        let (mut third, ticket) = flights.join();
        let request = ticket.expect("the first again").start();
        let (mut fourth, none) = flights.join();
        assert!(none.is_none());
        drop(request);
        let gone = Err(oneshot::error::TryRecvError::Closed);
        assert!(third.try_recv() == gone && fourth.try_recv() == gone, "the loop is gone");
        assert!(flights.join().1.is_some());
    }
}
