//! Requests for the status that share one answer.
//!
//! Why: every client may ask for the status of a node, as often as it likes, and the loop has better things to do than
//! to say it to each.
//!
//! Invariants: at most one such request is with the loop. A caller that comes meanwhile gets the same answer, which was
//! given after they asked; what comes after it begins the next one.
//!
//! See also: what the status holds (`status`).

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::model::Status;

/// Each is told the status, or None where it has to ask again.
type Waiters = Vec<oneshot::Sender<Option<Arc<Status>>>>;

/// The callers that wait for the present answer.
#[derive(Clone, Default)]
pub(crate) struct SingleFlight(Arc<Mutex<Waiters>>);

/// The caller that is to ask for all and has not asked yet; dropped, all have to ask again.
pub(crate) struct AskTicket(SingleFlight);

/// The duty to answer all who wait; dropped, there is no answer any more.
pub(crate) struct AskInFlight(SingleFlight);

impl SingleFlight {
    /// Waits with the others; the first one has to ask.
    pub(crate) fn join(&self) -> (oneshot::Receiver<Option<Arc<Status>>>, Option<AskTicket>) {
        let (told, answer) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Three callers in one turn are one question to the loop. A fourth that comes after its answer asks anew,
        // because the answer must be younger than the question.
        waiting.push(told);
        (answer, (waiting.len() == 1).then(|| AskTicket(self.clone())))
    }

    fn tell(&self, status: Option<&Arc<Status>>) {
        let waiting = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for told in waiting {
            // Some have given up.
            drop(told.send(status.cloned()));
        }
    }
}

impl AskTicket {
    /// It asks now.
    pub(crate) fn depart(mut self) -> AskInFlight {
        // No caller is left in here.
        AskInFlight(std::mem::take(&mut self.0))
    }
}

impl Drop for AskTicket {
    fn drop(&mut self) {
        self.0.tell(None);
    }
}

impl AskInFlight {
    /// Answers all who have asked up to now.
    pub(crate) fn land(mut self, status: Status) {
        // A caller that comes from here on waits for the next one, which is none of this one's to end.
        std::mem::take(&mut self.0).tell(Some(&Arc::new(status)));
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
    fn whoever_is_the_first_asks_and_the_others_hear_it_or_ask_again() {
        let flights = SingleFlight::default();
        let (mut first, boarding) = flights.join();
        let (mut second, none) = flights.join();
        assert!(boarding.is_some() && none.is_none());
        drop(boarding);
        assert!(matches!((first.try_recv(), second.try_recv()), (Ok(None), Ok(None))), "it has given up");
        let (mut third, boarding) = flights.join();
        let flight = boarding.expect("the first again").depart();
        let (mut fourth, none) = flights.join();
        assert!(none.is_none());
        drop(flight);
        let gone = Err(oneshot::error::TryRecvError::Closed);
        assert!(third.try_recv() == gone && fourth.try_recv() == gone, "the loop is gone");
        assert!(flights.join().1.is_some());
    }
}
