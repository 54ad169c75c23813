//! A slot for one value, from the loop's thread to the task that waits for it.
//!
//! Why: a oneshot channel wakes its task at once; the loop wakes many together ([`super::wake_batch`]).
//!
//! Invariants: a value that is sent is received, or dropped with the receiver. A sender that is dropped without a value ends the wait
//! with [`Lost`]. Values and wakers are dropped outside of the lock.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::wake_batch;

/// The sender is gone without a value: the loop has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// The end of the loop.
pub(super) struct Sender<T>(Option<Arc<Slot<T>>>);

/// The end of the waiting task.
pub(super) struct Receiver<T>(Arc<Slot<T>>);

struct Slot<T>(Mutex<State<T>>);

enum State<T> {
    /// Nothing has happened.
    Empty,
    /// The task waits.
    Waiting(Waker),
    /// The value is there.
    Sent(T),
    /// One end is gone, or the value was taken.
    Over,
}

/// Creates a slot.
pub(super) fn slot<T>() -> (Sender<T>, Receiver<T>) {
    let slot = Arc::new(Slot(Mutex::new(State::Empty)));
    (Sender(Some(Arc::clone(&slot))), Receiver(slot))
}

impl<T> Slot<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state before `end`, which is not set where the slot is over.
    fn replace(&self, end: State<T>) -> State<T> {
        let mut state = self.state();
        if matches!(*state, State::Over) { end } else { std::mem::replace(&mut *state, end) }
    }
}

impl<T> Sender<T> {
    /// Sends the value.
    pub(super) fn send(mut self, value: T) {
        end(self.0.take(), State::Sent(value));
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        end(self.0.take(), State::Over);
    }
}

/// Ends the wait; nothing where the sender has done so before.
fn end<T>(slot: Option<Arc<Slot<T>>>, end: State<T>) {
    if let Some(State::Waiting(waker)) = slot.map(|slot| slot.replace(end)) {
        wake_batch::wake(waker);
    }
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Lost>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state();
        match &mut *state {
            State::Waiting(waker) if waker.will_wake(context.waker()) => return Poll::Pending,
            State::Empty | State::Waiting(_) => {
                let before = std::mem::replace(&mut *state, State::Waiting(context.waker().clone()));
                drop(state);
                drop(before);
                return Poll::Pending;
            }
            State::Sent(_) | State::Over => {}
        }
        let before = std::mem::replace(&mut *state, State::Over);
        drop(state);
        Poll::Ready(if let State::Sent(value) = before { Ok(value) } else { Err(Lost) })
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        drop(self.0.replace(State::Over));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_value_is_received_before_or_after_the_wait_begins() {
        let (sender, receiver) = slot();
        sender.send(1);
        assert_eq!(receiver.now_or_never(), Some(Ok(1)));
        let (sender, mut receiver) = slot();
        assert_eq!((&mut receiver).now_or_never(), None);
        assert_eq!((&mut receiver).now_or_never(), None);
        sender.send(2);
        assert_eq!(receiver.now_or_never(), Some(Ok(2)));
    }

    #[test]
    fn a_sender_without_a_value_ends_the_wait_and_a_receiver_that_is_gone_takes_none() {
        let (sender, mut receiver) = slot::<u8>();
        assert_eq!((&mut receiver).now_or_never(), None);
        drop(sender);
        assert_eq!(receiver.now_or_never(), Some(Err(Lost)));
        let value = Arc::new(());
        let (sender, receiver) = slot();
        drop(receiver);
        sender.send(Arc::clone(&value));
        let (sender, receiver) = slot();
        sender.send(Arc::clone(&value));
        drop(receiver);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_value_of_another_thread_arrives() {
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..500).map(|_| slot()).unzip();
        let runtime = tokio::runtime::Handle::current();
        let loop_thread = std::thread::spawn(move || {
            let _batches = wake_batch::WakeBatches::begin(Some(runtime));
            senders.into_iter().zip(0..).for_each(|(sender, value)| sender.send(value));
        });
        let waits: Vec<_> = receivers.into_iter().map(tokio::spawn).collect();
        for (wait, value) in waits.into_iter().zip(0..) {
            assert_eq!(wait.await.unwrap(), Ok(value));
        }
        loop_thread.join().unwrap();
    }
}
