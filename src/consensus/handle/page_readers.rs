//! The threads that read pages for clients.
//!
//! Why: a page of a thousand keys takes a millisecond of a core. On the threads that serve http, eight clients of pages made a put wait
//! for each of them at every step of its way: p50 0.7 -> 19 ms on two cores (measured).
//!
//! Invariants: their priority is low, so any other thread of the node goes first on a busy machine. Each waiting page belongs to a
//! request, so the queue is bounded by the connections. A page whose client has gone is not read.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::storage;

type Job = Box<dyn FnOnce() + Send>;

/// The threads, which are started by the first page; a clone has the same ones. They end with the last clone.
#[derive(Clone, Default)]
pub(super) struct PageReaders(Arc<OnceLock<Sender<Job>>>);

impl PageReaders {
    /// Reads a page on one of the threads, or here where the system gives none.
    pub(super) async fn read<R: Send + 'static>(&self, page: impl FnOnce() -> R + Send + 'static) -> R {
        let (reply, answer) = oneshot::channel();
        let job = move || {
            if !reply.is_closed() {
                drop(reply.send(page()));
            }
        };
        // Without a thread the receiver is gone, and gives the job back.
        if let Err(job) = self.0.get_or_init(start).send(Box::new(job)) {
            (job.0)();
        }
        answer.await.expect("a job is carried out while its caller waits, and a panic ends the process")
    }
}

/// Starts as many threads as there are cores.
fn start() -> Sender<Job> {
    let (sender, jobs) = channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for _ in 0..cores {
        let jobs = Arc::clone(&jobs);
        // An error leaves the work to the other threads, or to the callers.
        drop(thread::Builder::new().name("pages".into()).spawn(move || carry_out(&jobs)));
    }
    sender
}

fn carry_out(jobs: &Mutex<Receiver<Job>>) {
    storage::lower_thread_priority();
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        job();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_are_read_on_other_threads_and_those_of_gone_clients_are_not() {
        let readers = PageReaders::default();
        let name = || thread::current().name().map(str::to_owned);
        assert_eq!(readers.read(name).await.as_deref(), Some("pages"));
        // Every thread is busy until the gate opens, so the page behind them waits.
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let gate = Arc::new(std::sync::Barrier::new(threads + 1));
        let busy = (0..threads).map(|_| {
            let gate = Arc::clone(&gate);
            readers.read(move || gate.wait().is_leader())
        });
        let mut busy = Box::pin(futures_util::future::join_all(busy));
        assert!(futures_util::FutureExt::now_or_never(busy.as_mut()).is_none());
        let was_read = Arc::new(OnceLock::new());
        let mark = Arc::clone(&was_read);
        let mut gone = Box::pin(readers.read(move || mark.set(())));
        assert!(futures_util::FutureExt::now_or_never(gone.as_mut()).is_none());
        drop(gone);
        gate.wait();
        busy.await;
        readers.read(|| ()).await;
        assert_eq!(was_read.get(), None);
    }
}
