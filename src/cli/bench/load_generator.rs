//! Load generator: clients that send one operation at a time.
//!
//! Why: throughput and latency need two load models. A closed loop (each client sends its next operation when the last
//! one has ended) finds the maximum throughput. In an open loop operations are due at a fixed rate, and latency counts
//! from the due time, not from the send time: a stall counts for every operation that it delayed. Closed loops hide that
//! ("coordinated omission").
//!
//! Invariants: the clock is read once for one event. An operation of an open loop that was due and never sent counts
//! with the time that it waited. After a failed operation a client leaves its connection.
//!
//! Example: at 1 000 operations a second a stall of 100 ms delays 100 operations; their latencies are 100, 99, 98 ... ms.
//! A closed loop of one client would report a single latency of 100 ms.
//!
//! See also: `systems_under_test` and `workload` for operations, `report` for the results.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::connection::{Connection, SharedConnections};
use super::plan::{LoadModel, Plan};
use super::recorder::{Recorder, Window};
use super::systems_under_test::{Operation, OperationResult};
use super::workload::{Random, Values};
use crate::cli::exit::print_error;

/// The backoff of a client after a failure.
const BACKOFF: Duration = Duration::from_millis(10);

/// The state of a run, shared by all its threads.
pub(super) struct Load {
    plan: Arc<Plan>,
    model: LoadModel,
    addresses: Vec<String>,
    window: Window,
    started: Instant,
    stopped: AtomicBool,
    /// The number of the next operation of a preload or an open loop.
    next: AtomicU64,
    /// Operations of an open loop that are due and not sent.
    due: Semaphore,
    /// The time of the last success, in microseconds since the start.
    last_success: AtomicU64,
    /// The longest time in the window without a success.
    gap: AtomicU64,
    recorders: Vec<Mutex<Recorder>>,
}

impl Load {
    /// Creates a run that begins now, with a measured window of `duration` after `warmup`.
    pub(super) fn new(
        plan: &Arc<Plan>,
        model: LoadModel,
        addresses: &[String],
        [warmup, duration]: [Duration; 2],
    ) -> Arc<Self> {
        let window = Window { begins: micros(warmup), ends: micros(warmup.saturating_add(duration)) };
        Arc::new(Self {
            plan: Arc::clone(plan),
            model,
            addresses: addresses.to_vec(),
            window,
            started: Instant::now(),
            stopped: AtomicBool::new(false),
            next: AtomicU64::new(0),
            due: Semaphore::new(0),
            last_success: AtomicU64::new(window.begins),
            gap: AtomicU64::new(0),
            recorders: (0..plan.threads).map(|_| Mutex::new(Recorder::new())).collect(),
        })
    }

    /// Starts the threads; they exit at the end of the window or of the preload.
    ///
    /// # Errors
    /// Where the system cannot start a thread.
    pub(super) fn start(self: &Arc<Self>) -> io::Result<Vec<thread::JoinHandle<()>>> {
        let mut threads = Vec::new();
        for number in 0..self.plan.threads {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let load = Arc::clone(self);
            let run = move || runtime.block_on(load.run_clients(number));
            threads.push(thread::Builder::new().name(format!("load-{number}")).spawn(run)?);
        }
        if let LoadModel::Open(rate) = self.model {
            let load = Arc::clone(self);
            threads.push(thread::Builder::new().name("pacer".into()).spawn(move || load.run_pacer(rate))?);
        }
        Ok(threads)
    }

    /// Ends the run early.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.due.close();
    }

    /// Microseconds since the start.
    pub(super) fn now(&self) -> u64 {
        micros(self.started.elapsed())
    }

    /// The measured window.
    pub(super) fn window(&self) -> Window {
        self.window
    }

    /// The number of operations that were started of a preload or an open loop.
    pub(super) fn started_operations(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    /// Samples the progress: successes since the last sample, failures in the window so far, and the 99th percentile of
    /// the former's latency.
    pub(super) fn sample(&self) -> (u64, u64, u64) {
        let mut sum = Recorder::new();
        for record in &self.recorders {
            let mut record = lock(record);
            sum.add(&record);
            sum.recent.add(&record.recent).ok();
            record.recent.reset();
        }
        (sum.recent.len(), sum.failed(), sum.recent.value_at_quantile(0.99))
    }

    /// Merges the recorders after all threads have exited; returns also the longest time without a success, in
    /// microseconds.
    pub(super) fn finish(&self) -> (Recorder, u64) {
        let mut sum = Recorder::new();
        self.recorders.iter().for_each(|record| sum.add(&lock(record)));
        if let LoadModel::Open(rate) = self.model {
            let total = due_before(rate, self.window.ends);
            let unsent = (self.started_operations()..total).map(|number| due_time(rate, number));
            let operation = if self.plan.reads >= 50 { Operation::Get } else { Operation::Put };
            sum.record_unsent(self.window, operation, unsent, self.window.ends);
        }
        let last = self.last_success.load(Ordering::Relaxed);
        (sum, self.gap.load(Ordering::Relaxed).max(self.window.ends.saturating_sub(last)))
    }

    /// Releases operations at their due times. It has a thread of its own, whose sleeps are exact to about 50
    /// microseconds; tokio's timers are exact to a millisecond.
    fn run_pacer(&self, rate: f64) {
        let total = due_before(rate, self.window.ends);
        let mut released = 0;
        while released < total && !self.stopped.load(Ordering::Relaxed) {
            // At 2 000 a second an operation is due every 500 us. At 1 200 us three are due (0, 500, 1 000): if one is
            // released so far, two permits are added, and the next wake-up is at 1 500 us.
            let due = due_before(rate, self.now() + 1).min(total);
            self.due.add_permits(usize::try_from(due - released).unwrap_or(0));
            released = due;
            let next = due_time(rate, released).saturating_sub(self.now());
            thread::sleep(Duration::from_micros(next.max(1)));
        }
        thread::sleep(Duration::from_micros(self.window.ends.saturating_sub(self.now())));
        self.due.close();
    }

    async fn run_clients(self: Arc<Self>, thread: usize) {
        let numbers: Vec<_> = (0..self.plan.clients).filter(|client| client % self.plan.threads == thread).collect();
        let shared = SharedConnections::new(&self.plan, &self.addresses, numbers.len());
        let mut clients = Vec::new();
        for (place, number) in numbers.into_iter().enumerate() {
            let address = &self.addresses[number % self.addresses.len()];
            match Connection::new(self.plan.api, &shared, address, place) {
                Ok(connection) => {
                    let client = Client::new(Arc::clone(&self), number, thread, connection);
                    clients.push(tokio::spawn(client.run()));
                }
                Err(error) => print_error(format!("{address}: {error}")),
            }
        }
        for client in clients {
            // The message of a panic is on stderr already.
            client.await.ok();
        }
    }

    /// Records the time of a success.
    fn record_success(&self, at: u64) {
        if self.window.contains(at) {
            // Several clients may swap at once and out of order; `saturating_sub` then yields 0, never a gap too long.
            let before = self.last_success.swap(at, Ordering::Relaxed);
            self.gap.fetch_max(at.saturating_sub(before), Ordering::Relaxed);
        }
    }
}

/// One client.
struct Client {
    load: Arc<Load>,
    thread: usize,
    connection: Connection,
    random: Random,
    values: Values,
}

impl Client {
    fn new(load: Arc<Load>, number: usize, thread: usize, connection: Connection) -> Self {
        let mut random = Random::new(load.plan.seed.wrapping_add(number as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let values = Values::new(load.plan.value_bytes, &mut random);
        Self { load, thread, connection, random, values }
    }

    async fn run(mut self) {
        while let Some((due, operation, key)) = self.next().await {
            let result = self.execute(operation, key).await;
            let ended = self.load.now();
            let failed = matches!(result, OperationResult::Failed(_));
            if !failed {
                self.load.record_success(ended);
            }
            lock(&self.load.recorders[self.thread]).record(self.load.window, operation, (due, ended), result);
            if failed {
                self.connection.close();
                sleep(BACKOFF).await;
            }
        }
    }

    /// The next operation: its due time, its operation and its key; none at the end of the run.
    async fn next(&mut self) -> Option<(u64, Operation, u64)> {
        let load = Arc::clone(&self.load);
        let due = match load.model {
            // Every key once, in order, by whichever client is free; keys beyond the last one end the client.
            LoadModel::Preload => {
                let key = load.next.fetch_add(1, Ordering::Relaxed);
                let is_left = key < load.plan.key_count && !load.stopped.load(Ordering::Relaxed);
                return is_left.then(|| (load.now(), Operation::Put, key));
            }
            LoadModel::Closed => {
                let now = load.now();
                (now < load.window.ends && !load.stopped.load(Ordering::Relaxed)).then_some(now)?
            }
            // A permit stands for a due operation. Its number, not the time of the permit, gives its due time, so a late
            // client still counts from when the operation should have been sent.
            LoadModel::Open(rate) => {
                load.due.acquire().await.ok()?.forget();
                due_time(rate, load.next.fetch_add(1, Ordering::Relaxed))
            }
        };
        let operation = if self.random.below(100) < load.plan.reads { Operation::Get } else { Operation::Put };
        Some((due, operation, load.plan.keys.pick(&mut self.random)))
    }

    async fn execute(&mut self, operation: Operation, key: u64) -> OperationResult {
        let plan = &self.load.plan;
        let key = format!("{}{key:010}", plan.prefix);
        match operation {
            Operation::Put => self.connection.put(&key, self.values.pick(&mut self.random)).await,
            Operation::Get => self.connection.get(plan, &key).await,
        }
    }
}

/// The number of operations that are due before `before`, at `rate` a second.
fn due_before(rate: f64, before: u64) -> u64 {
    (rate * before as f64 / 1e6).ceil() as u64
}

/// The due time of the operation `number`.
fn due_time(rate: f64, number: u64) -> u64 {
    (number as f64 * 1e6 / rate) as u64
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Locks a recorder; one that a panicking thread held is consistent.
fn lock(recorder: &Mutex<Recorder>) -> MutexGuard<'_, Recorder> {
    recorder.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_of_an_open_loop_are_due_at_equal_intervals() {
        assert_eq!((0..4).map(|number| due_time(2_000.0, number)).collect::<Vec<_>>(), [0, 500, 1_000, 1_500]);
        assert_eq!([0, 1, 500, 501, 1_000_000].map(|before| due_before(2_000.0, before)), [0, 1, 1, 2, 2_000]);
        for number in 0..10_000 {
            assert!(due_before(777.7, due_time(777.7, number) + 2) > number, "{number} is due when it is due");
        }
    }
}
