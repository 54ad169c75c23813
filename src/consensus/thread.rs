//! The consensus thread, which runs the driver.
//!
//! Why: raft, journal and machine belong to one thread, and their disk writes must never run on http's workers. The
//! thread has a small tokio runtime of its own, only to wait for a tick, an input, whichever comes first.
//!
//! ```text
//!   http workers -----> clients (limits.pending_requests) --.
//!   transport tasks --> peers (4096 inputs) ----------------+--> consensus thread: tick, handle, turn --> Outbox --> links
//!   flush, spool -----> peers                               |      |  '--> journal: one record, one sync
//!   timer, every tick --------------------------------------'      '--> Background: flush, slice, spool, discard (a thread each)
//! ```
//!
//! Invariants: inputs of peers come before those of clients, and a turn takes a bounded number of both, and of their
//! bytes, for a bounded time; while a turn syncs, the next batch gathers. A tick comes before all of them, so
//! heartbeats leave between any two turns. Ticks that were missed are not made up for beyond a heartbeat, or a stall of
//! seconds would start an election by itself. Each input is handled with the time that it is handled at.
//!
//! See also: what a turn does (`ready`).

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use slog::{Logger, error, warn};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::core::background_jobs::{Background, MeasuredStep};
use super::core::turn_budget::TURN;
use super::driver::Driver;
use super::handle::wake_batch::{self, WakeBatches};
use super::handle::{Clock, Handle, Inbox, Names};
use super::input::Input;
use super::options::Options;
use super::outbox::Outbox;
use crate::model::Millis;
use crate::storage::{DataDir, Engine, Error, Flush, Incarnation, Rewrite, Spooled, Spooler};
use crate::telemetry::logging::LogLimit;

/// The maximum inputs of each queue in a turn.
const INPUTS_PER_TURN: usize = 1024;

/// The bytes of entries and commands after which a turn takes no further input.
const BYTES_PER_TURN: usize = 8 << 20;

/// The longest rest of a flush.
const MAX_REST: Duration = Duration::from_millis(20);

/// The shortest interval between two log lines about a full client queue, in milliseconds.
const WARN_EVERY: Millis = 10_000;

/// The running loop.
pub struct Running {
    /// Resolves when the loop has ended: Ok after [`Input::Stop`], Err where the disk or the log broke. A receive error
    /// means that the thread died.
    pub ended: oneshot::Receiver<Result<(), Error>>,
}

/// The parts of a loop.
pub struct Start {
    /// The opened directory.
    pub data_dir: DataDir,
    /// The log and state in use.
    pub incarnation: Incarnation,
    /// The way out to peers.
    pub outbox: Box<dyn Outbox>,
    /// Settings.
    pub options: Options,
    /// Where the loop logs.
    pub log: Logger,
    /// Where raft-rs logs; its info lines are many.
    pub raft_log: Logger,
}

/// Starts the loop on a thread of its own. Its background jobs report back through `handle`. Clients are woken on the calling tokio
/// runtime, where there is one.
///
/// # Errors
/// Where the system gives no thread.
pub fn spawn(inbox: Inbox, handle: Handle, start: Start) -> std::io::Result<Running> {
    let (end, ended) = oneshot::channel();
    let clients_runtime = tokio::runtime::Handle::try_current().ok();
    let body = move || {
        // Dropped last, so that the answers of what the loop leaves behind are woken, too.
        let _batches = WakeBatches::begin(clients_runtime);
        drop(end.send(run(inbox, handle, start)));
    };
    thread::Builder::new().name("consensus".into()).spawn(body)?;
    Ok(Running { ended })
}

fn run(mut inbox: Inbox, handle: Handle, start: Start) -> Result<(), Error> {
    let Start { data_dir, incarnation, outbox, options, log, raft_log } = start;
    let clock = inbox.clock;
    let tick = Duration::from_millis(options.tick_ms);
    let (metrics, events) = (Arc::clone(handle.metrics()), Arc::clone(handle.events()));
    let background = Threads { handle, clock, started: Instant::now(), log: log.clone() };
    let mut driver = Driver::new(data_dir, incarnation, outbox, Box::new(background), options, log.clone(), raft_log)?;
    // Watchers hold the feed of the handle, so the driver takes that one over before anything is applied.
    driver.set_outlets(inbox.feed.clone(), events);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|source| Error::Io {
        what: "cannot start the consensus thread".into(),
        path: "the process".into(),
        source,
    })?;
    runtime.block_on(async {
        driver.start(clock.now())?;
        let mut queue_full = LogLimit::default();
        let mut names = driver.names(&Names::default());
        inbox.publish(&names);
        inbox.publish_figures(driver.figures());
        let mut ticks = interval(tick);
        // After a stall of 2 s one tick comes at once and the next one a full tick later, not twenty in a row; the
        // driver counts what was missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !driver.stopped() {
            // Group commit: one input wakes the loop, `drain` handles all that came while the last turn synced, and the
            // turn makes one record of it, with one sync.
            let (ticked, input) = tokio::select! {
                // The order of the arms is a priority. A tick first, so heartbeats leave however full the queues are.
                // Peers before clients: an acknowledgement completes a write, a new write only makes more of them. The
                // last arm never waits: it is for what the last turn has left over.
                biased;
                _ = ticks.tick() => (true, None),
                Some(input) = inbox.peers.recv() => (false, Some(input)),
                Some(input) = inbox.clients.recv() => (false, Some(input)),
                () = std::future::ready(()), if driver.has_work() => (false, None),
            };
            let began = Instant::now();
            if ticked {
                driver.tick(clock.now())?;
            }
            if let Some(input) = input {
                driver.handle(clock.now(), input)?;
            }
            drain(&mut driver, &mut inbox, &mut queue_full, &log)?;
            wake_batch::hand_over();
            driver.turn(clock.now())?;
            wake_batch::hand_over();
            names = driver.names(&names);
            inbox.publish(&names);
            inbox.publish_state(driver.direct_reads());
            if ticked {
                inbox.publish_figures(driver.figures());
            }
            metrics.turns.busy.add(began.elapsed());
        }
        // Nothing more is applied, so watchers can be told up to where they have everything.
        inbox.feed.close();
        refuse_queued(&mut driver, &mut inbox)?;
        driver.finish()
    })
}

/// Refuses the requests that have come since the last turn: they were not begun, and another node can carry them out. Dropped with their
/// queues, their outcome would be unknown. What comes later finds the queues closed.
fn refuse_queued(driver: &mut Driver, inbox: &mut Inbox) -> Result<(), Error> {
    for queue in [&mut inbox.peers, &mut inbox.clients] {
        queue.close();
        while let Ok(input) = queue.try_recv() {
            if matches!(input, Input::Request { .. }) {
                driver.handle(inbox.clock.now(), input)?;
            }
        }
    }
    Ok(())
}

/// Under overload the queue of clients is full at every turn, so the line is rate-limited.
fn warn_queue_full(limit: &mut LogLimit, now: Millis, most: usize, log: &Logger) {
    if let Some(suppressed) = limit.every(WARN_EVERY, now) {
        warn!(log, "the client queue is full; new requests are refused"; "limits.pending_requests" => most, "turns" => suppressed + 1);
    }
}

fn drain(driver: &mut Driver, inbox: &mut Inbox, queue_full: &mut LogLimit, log: &Logger) -> Result<(), Error> {
    let clock = inbox.clock;
    drain_queue(driver, &mut inbox.peers, clock)?;
    if inbox.clients.len() == inbox.clients.max_capacity() {
        warn_queue_full(queue_full, clock.now(), inbox.clients.max_capacity(), log);
    }
    drain_queue(driver, &mut inbox.clients, clock)
}

fn drain_queue(driver: &mut Driver, queue: &mut mpsc::Receiver<Input>, clock: Clock) -> Result<(), Error> {
    // Three bounds: 1 024 inputs, 8 MiB, 20 ms. The clock is read for each input, since one may wait for the disk.
    let (mut bytes, until) = (0, clock.now() + TURN);
    for _ in 0..INPUTS_PER_TURN {
        let now = clock.now();
        if bytes >= BYTES_PER_TURN || now >= until {
            break;
        }
        let Ok(input) = queue.try_recv() else { break };
        bytes += input.bytes();
        driver.handle(now, input)?;
    }
    Ok(())
}

/// Carries out a flush and returns the time that it worked. It rests twice as long as it works, and less the fuller the active memtable
/// is: a thread of low priority would get nothing on a busy machine, and apply waits for the flush in the end.
fn paced(flush: &mut Flush) -> Result<Duration, Error> {
    let mut worked = Duration::ZERO;
    loop {
        // A step takes about half a millisecond. A scheduler may let a thread go on for its whole slice, which is several, before others
        // that wait for the core; so the rests are many and short.
        let began = Instant::now();
        if !flush.step()? {
            return Ok(worked + began.elapsed());
        }
        worked += began.elapsed();
        let emptiness = 100_usize.saturating_sub(flush.fill());
        if emptiness > 0 {
            let rest = began.elapsed() * u32::try_from(2 * emptiness).expect("at most 200") / 100;
            thread::sleep(rest.min(MAX_REST));
        }
    }
}

/// Background work on threads of its own.
struct Threads {
    handle: Handle,
    clock: Clock,
    started: Instant,
    log: Logger,
}

impl Threads {
    /// Runs a background job. If no thread can be started, the loop gets `instead`.
    fn run(&self, name: &str, job: impl FnOnce() + Send + 'static, instead: impl FnOnce(Error) -> Option<Input>) {
        if let Err(source) = thread::Builder::new().name(name.into()).spawn(job) {
            error!(self.log, "the system gives no thread"; "for" => name, "error" => %source);
            let failure = Error::Io { what: format!("no thread for {name}"), path: "the process".into(), source };
            if let Some(input) = instead(failure)
                && !self.handle.offer(input)
            {
                error!(self.log, "the loop's queue is full; the result of a background job is lost"; "for" => name);
            }
        }
    }
}

impl Background for Threads {
    fn flush(&mut self, mut flush: Flush) {
        let (handle, mark) = (self.handle.clone(), flush.mark());
        let job = move || {
            let result = paced(&mut flush).map(|worked| {
                handle.metrics().turns.backend_commit.observe(worked);
                handle.metrics().snapshots.taken.inc();
                flush.tree_bytes()
            });
            handle.deliver_blocking(Input::Flushed { mark, result });
        };
        self.run("flush", job, |failure| Some(Input::Flushed { mark, result: Err(failure) }));
    }

    fn slice(&mut self, mut rewrite: Box<Rewrite>, max_bytes: usize) {
        let handle = self.handle.clone();
        let job = move || {
            let result = rewrite.slice(max_bytes);
            handle.deliver_blocking(Input::Sliced { rewrite: Some(rewrite), result });
        };
        self.run("rewrite", job, |failure| Some(Input::Sliced { rewrite: None, result: Err(failure) }));
    }

    fn spool(&mut self, token: u64, mut spooler: Spooler) {
        let handle = self.handle.clone();
        let log = self.log.clone();
        let job = move || {
            // After the scan the loop has its answer, and the sender of the stream sees a failure itself: it is only
            // logged.
            let mut told = false;
            loop {
                match spooler.wait() {
                    Ok(Spooled::Scanned) => {
                        told = true;
                        handle.deliver_blocking(Input::Scanned { token, result: Ok(()) });
                    }
                    Ok(Spooled::Complete) => return,
                    Err(failure) if told => {
                        return warn!(log, "a snapshot stream was not finished"; "error" => %failure);
                    }
                    Err(failure) => return handle.deliver_blocking(Input::Scanned { token, result: Err(failure) }),
                }
            }
        };
        self.run("spool", job, |failure| Some(Input::Scanned { token, result: Err(failure) }));
    }

    fn discard(&mut self, unused: Vec<Box<dyn Send>>, engine: Arc<dyn Engine>, names: Vec<String>) {
        let log = self.log.clone();
        let job = move || {
            drop(unused);
            for name in names {
                if let Err(failure) = engine.remove(&name) {
                    warn!(log, "an unused folder cannot be removed; the next start tries again"; "folder" => name, "error" => %failure);
                }
            }
        };
        self.run("discard", job, |_| None);
    }

    fn now(&self) -> Millis {
        self.clock.now()
    }

    fn stopwatch(&self) -> Duration {
        self.started.elapsed()
    }

    fn measured(&self, step: MeasuredStep, began: Duration) {
        let (turns, took) = (&self.handle.metrics().turns, self.stopwatch().saturating_sub(began));
        match step {
            MeasuredStep::Sync => turns.wal_fsync.observe(took),
            MeasuredStep::Apply => turns.applied(took),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use slog::{Drain, Never, OwnedKVList, Record, o};

    /// Counts lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<usize>>);

    impl Drain for Lines {
        type Ok = ();
        type Err = Never;
        fn log(&self, _: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
            *self.0.lock().expect("one thread") += 1;
            Ok(())
        }
    }

    #[test]
    fn a_queue_that_stays_full_is_logged_once_per_interval() {
        let lines = Lines::default();
        let log = Logger::root(lines.clone(), o!());
        let mut limit = LogLimit::default();
        for now in 0..30_000 {
            warn_queue_full(&mut limit, now, 7, &log);
        }
        assert_eq!(*lines.0.lock().expect("one thread"), 3);
    }
}
