//! The load itself: clients that operate one after the other, each on a connection of its own.
//!
//! Why: two questions need two shapes. In a closed loop each client sends its next operation when it has the answer to
//! the last, which finds the most that a system can do. In an open loop operations are due at a fixed rate whatever the
//! system does, and an operation's latency counts from when it was due, not from when a client had time for it: so a
//! stall counts for everybody it would have held up (the "coordinated omission" that closed loops hide).
//!
//! Laws: no clock is read twice for one moment. What was due in an open loop and never begun counts with the time it had
//! waited. A failed operation closes its connection.
//!
//! Not here: what an operation is (`api`, `keys`), and what is made of the counts (`report`).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::api::{Ending, Kind};
use super::plan::Plan;
use super::raw_client::RawClient;
use super::recorder::{Recorder, Window};
use super::workload::{Random, Values};

/// How long one operation may take.
const OPERATION_LIMIT: Duration = Duration::from_secs(10);

/// How long a client waits after a failure, so that a system that is down is not stormed.
const PAUSE: Duration = Duration::from_millis(10);

/// Which operations there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Shape {
    /// Every key is put once.
    Load,
    /// Each client at its own pace.
    Closed,
    /// So many a second, whatever happens.
    Open(f64),
}

/// A run, shared by all of its threads.
pub(super) struct Load {
    plan: Arc<Plan>,
    shape: Shape,
    addresses: Vec<String>,
    window: Window,
    begun: Instant,
    stopped: AtomicBool,
    /// The number of the next operation, where operations have numbers.
    next: AtomicU64,
    /// Operations that are due and not begun, in an open loop.
    due: Semaphore,
    /// When an operation last ended well, in microseconds since the beginning.
    last: AtomicU64,
    /// The longest time in the window in which none did.
    gap: AtomicU64,
    records: Vec<Mutex<Recorder>>,
}

impl Load {
    /// A run that begins now. Its window is open after `warmup`, for `span`.
    pub(super) fn new(
        plan: &Arc<Plan>,
        shape: Shape,
        addresses: &[String],
        [warmup, span]: [Duration; 2],
    ) -> Arc<Self> {
        let window = Window { begins: micros(warmup), ends: micros(warmup.saturating_add(span)) };
        Arc::new(Self {
            plan: Arc::clone(plan),
            shape,
            addresses: addresses.to_vec(),
            window,
            begun: Instant::now(),
            stopped: AtomicBool::new(false),
            next: AtomicU64::new(0),
            due: Semaphore::new(0),
            last: AtomicU64::new(window.begins),
            gap: AtomicU64::new(0),
            records: (0..plan.threads).map(|_| Mutex::new(Recorder::new())).collect(),
        })
    }

    /// Starts the threads; they end by themselves, when the window has closed or everything is loaded.
    ///
    /// # Errors
    /// Where the system has no threads left.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<Vec<thread::JoinHandle<()>>> {
        let mut threads = Vec::new();
        for number in 0..self.plan.threads {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let load = Arc::clone(self);
            let run = move || runtime.block_on(load.clients_of(number));
            threads.push(thread::Builder::new().name(format!("load-{number}")).spawn(run)?);
        }
        if let Shape::Open(rate) = self.shape {
            let load = Arc::clone(self);
            threads.push(thread::Builder::new().name("pace".into()).spawn(move || load.pace(rate))?);
        }
        Ok(threads)
    }

    /// Ends the run early.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.due.close();
    }

    /// Microseconds since the beginning.
    pub(super) fn now(&self) -> u64 {
        micros(self.begun.elapsed())
    }

    /// The measured window.
    pub(super) fn window(&self) -> Window {
        self.window
    }

    /// How many keys of a [`Shape::Load`] were begun.
    pub(super) fn numbered(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// How many operations ended well since the last look, how many have failed in the window so far, and the 99th
    /// percentile of the former.
    pub(super) fn look(&self) -> (u64, u64, u64) {
        let mut sum = Recorder::new();
        for record in &self.records {
            let mut record = lock(record);
            sum.add(&record);
            sum.recent.add(&record.recent).ok();
            record.recent.reset();
        }
        (sum.recent.len(), sum.failed(), sum.recent.value_at_quantile(0.99))
    }

    /// Everything that was seen, once all threads have ended; and the longest time without a success, in microseconds.
    pub(super) fn finish(&self) -> (Recorder, u64) {
        let mut sum = Recorder::new();
        self.records.iter().for_each(|record| sum.add(&lock(record)));
        if let Shape::Open(rate) = self.shape {
            let all = count(rate, self.window.ends);
            let unsent = (self.numbered()..all).map(|number| moment(rate, number));
            let kind = if self.plan.reads >= 50 { Kind::Get } else { Kind::Put };
            sum.take_unsent(self.window, kind, unsent, self.window.ends);
        }
        let last = self.last.load(Ordering::Relaxed);
        (sum, self.gap.load(Ordering::Relaxed).max(self.window.ends.saturating_sub(last)))
    }

    /// Lets operations become due. A thread of its own, since its sleeps are exact to some 50 microseconds, while the
    /// timers of the clients are to a millisecond.
    fn pace(&self, rate: f64) {
        let all = count(rate, self.window.ends);
        let mut released = 0;
        while released < all && !self.stopped.load(Ordering::Relaxed) {
            let due = count(rate, self.now() + 1).min(all);
            self.due.add_permits(usize::try_from(due - released).unwrap_or(0));
            released = due;
            let next = moment(rate, released).saturating_sub(self.now());
            thread::sleep(Duration::from_micros(next.max(1)));
        }
        thread::sleep(Duration::from_micros(self.window.ends.saturating_sub(self.now())));
        self.due.close();
    }

    async fn clients_of(self: Arc<Self>, thread: usize) {
        let mine = (0..self.plan.clients).filter(|client| client % self.plan.threads == thread);
        let clients: Vec<_> =
            mine.map(|client| tokio::spawn(Client::new(Arc::clone(&self), client, thread).run())).collect();
        for client in clients {
            // A client that panicked has ended the process's good name already; its message is on stderr.
            client.await.ok();
        }
    }

    /// Notes that something ended well.
    fn succeeded(&self, at: u64) {
        if self.window.holds(at) {
            let before = self.last.swap(at, Ordering::Relaxed);
            self.gap.fetch_max(at.saturating_sub(before), Ordering::Relaxed);
        }
    }
}

/// One client.
struct Client {
    load: Arc<Load>,
    thread: usize,
    line: RawClient,
    random: Random,
    values: Values,
    request: Vec<u8>,
}

impl Client {
    fn new(load: Arc<Load>, number: usize, thread: usize) -> Self {
        let mut random = Random::new(load.plan.seed.wrapping_add(number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let values = Values::new(load.plan.value_bytes, &mut random);
        let line = RawClient::to(&load.addresses[number % load.addresses.len()]);
        Self { load, thread, line, random, values, request: Vec::new() }
    }

    async fn run(mut self) {
        while let Some((due, kind, key)) = self.next().await {
            let ending = self.operate(kind, key).await;
            let ended = self.load.now();
            let failed = matches!(ending, Ending::Failed(_));
            if !failed {
                self.load.succeeded(ended);
            }
            lock(&self.load.records[self.thread]).take(self.load.window, kind, (due, ended), ending);
            if failed {
                self.line.hang_up();
                sleep(PAUSE).await;
            }
        }
    }

    /// The next operation: when it was due, what it is, and on which key; none at the end of the run.
    async fn next(&mut self) -> Option<(u64, Kind, u64)> {
        let load = Arc::clone(&self.load);
        let due = match load.shape {
            Shape::Load => {
                let key = load.next.fetch_add(1, Ordering::Relaxed);
                let more = key < load.plan.key_count && !load.stopped.load(Ordering::Relaxed);
                return more.then(|| (load.now(), Kind::Put, key));
            }
            Shape::Closed => {
                let now = load.now();
                (now < load.window.ends && !load.stopped.load(Ordering::Relaxed)).then_some(now)?
            }
            Shape::Open(rate) => {
                load.due.acquire().await.ok()?.forget();
                moment(rate, load.next.fetch_add(1, Ordering::Relaxed))
            }
        };
        let kind = if self.random.below(100) < load.plan.reads { Kind::Get } else { Kind::Put };
        Some((due, kind, load.plan.keys.pick(&mut self.random)))
    }

    async fn operate(&mut self, kind: Kind, key: u64) -> Ending {
        let plan = &self.load.plan;
        let key = format!("{}{key:010}", plan.prefix);
        match kind {
            Kind::Put => {
                let value = self.values.cut(&mut self.random);
                plan.api.put(&mut self.request, self.line.address(), &key, value);
            }
            Kind::Get => plan.api.get(&mut self.request, self.line.address(), &key, plan.stale),
        }
        match timeout(OPERATION_LIMIT, self.line.exchange(&self.request)).await {
            Ok(Ok((status, body))) => plan.api.ending(kind, status, body),
            Ok(Err(error)) => Ending::Failed(error.to_string()),
            Err(_) => Ending::Failed(format!("no answer within {OPERATION_LIMIT:?}")),
        }
    }
}

/// How many operations are due before a moment, at so many a second.
fn count(rate: f64, before: u64) -> u64 {
    (rate * before as f64 / 1e6).ceil() as u64
}

/// When an operation is due.
fn moment(rate: f64, number: u64) -> u64 {
    (number as f64 * 1e6 / rate) as u64
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// A record is whole after every operation on it, so one that a panicking thread held is still good.
fn lock(record: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_an_open_loop_are_due_evenly() {
        assert_eq!((0..4).map(|number| moment(2_000.0, number)).collect::<Vec<_>>(), [0, 500, 1_000, 1_500]);
        assert_eq!([0, 1, 500, 501, 1_000_000].map(|before| count(2_000.0, before)), [0, 1, 1, 2, 2_000]);
        for number in 0..10_000 {
            assert!(count(777.7, moment(777.7, number) + 2) > number, "{number} is due when it is due");
        }
    }
}
