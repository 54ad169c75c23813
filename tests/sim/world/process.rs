//! The processes of a node: start, turns, stop and crash.
//!
//! ```text
//!          boot               drive: handle, turn, dispatch, check           crash
//!   down -------> up (starts + 1) ----------------------------------> down -------> up ...
//!                     |  Fault::CrashAfter(n): n more effects pass       ^
//!                     |  Fault::FailAfter(n): n more writes pass         |
//!                     +----- the driver ends with an error or stops -----+
//! ```
//!
//! Invariants: a node ends by itself only where its disk has failed, it was told to stop, or it runs on a copied disk. Any
//! other end is a violation.

use std::sync::Arc;

use huskv::changefeed::FeedLimits;
use huskv::consensus::{Driver, Input, Options};
use huskv::model::Limits;
use huskv::storage::{DataDir, Error, OpenOptions, Peers};

use crate::checks::turn;
use crate::trace::{self, Trace};
use crate::world::disk::{Fault, on_loop_thread};
use crate::world::outbox::{Process, SimOutbox};
use crate::world::{Event, TICK, World};

/// The metadata cache of a node: four sets, so that entries give way.
const META_CACHE_BYTES: usize = 2048;

impl World {
    /// Whether this process still runs.
    pub fn alive(&self, process: Process) -> bool {
        self.nodes[process.0].starts == process.1 && self.nodes[process.0].driver.is_some()
    }

    /// Opens the node's directory as it is and starts its driver.
    pub fn boot(&mut self, at: usize) {
        // The draws come first, since `node` borrows the world below.
        let mut ids = self.rng.fork();
        let (range, nonce) = (20 + usize::try_from(self.rng.below(20)).expect("small"), self.rng.next());
        let fails = self.now < self.nodes[at].disk_fails_until;
        let effects = self.rng.below(6);
        let turn_ms = if self.slow && self.faults && self.rng.chance(50) { 50 + self.rng.below(300) } else { 0 };
        // One or two transactions fill a turn.
        let apply_work = self.apply_work.unwrap_or(if self.slow { 1 } else { 6 << 10 });
        let node = &mut self.nodes[at];
        if fails {
            node.engine.set_fault(Fault::FailAfter(effects));
        }
        node.starts += 1;
        node.outbox = SimOutbox::new(self.clock.clone(), node.engine.clone());
        (node.finished_spooler, node.offered_by) = (None, None);
        node.peer_space.clear();
        (node.paused_until, node.checked_log, node.turn_ms) = (0, 0, turn_ms);
        node.next_turn = (0, false);
        let options = Options {
            tick_ms: TICK,
            heartbeat_ticks: 2,
            election_ticks: 20,
            election_range: Some((range, range + 1)),
            snapshot_every_entries: self.log_length.0,
            snapshot_every_bytes: 1 << 30,
            snapshot_keep_entries: self.log_length.1,
            snapshot_spool_bytes: 1 << 30,
            memtable_bytes: self.memtable_bytes,
            meta_cache_bytes: META_CACHE_BYTES,
            reclaim_slack_bytes: 4096,
            entry_cache_bytes: 32 << 20,
            follower_bytes: 64 << 20,
            apply_work,
            limits: Limits::ALL_NODES,
            pending_requests: 1000,
            history: FeedLimits { events: 40, bytes: 1 << 20 },
            raft_address: format!("n{}:{}", node.original, node.port),
            http_address: format!("n{}:80", node.original),
            follow_moves: self.follow_moves,
            forming: false,
            join_wait_ms: self.join_wait,
            nonce,
        };
        let boot = OpenOptions {
            name: format!("n{}", node.original),
            raft_address: options.raft_address.clone(),
            http_address: options.http_address.clone(),
            cache_bytes: 1 << 20,
            picked_http_port: None,
            picked_raft_port: None,
            random: Box::new(move || ids.next()),
        };
        let log = trace::logger(at, self.clock.clone(), self.trace_sink.clone());
        let raft_trace = if self.raft_trace { self.trace_sink.clone() } else { Trace::Off };
        let quiet = trace::logger(at, self.clock.clone(), raft_trace);
        let (outbox, process) = (node.outbox.clone(), node.starts);
        node.peers = Peers::open(Arc::new(node.engine.clone())).ok();
        // The real recovery runs here: identity, journal and state machine are read back from what the disk has kept.
        let driver = DataDir::open(Arc::new(node.engine.clone()), boot).and_then(|(data_dir, incarnation)| {
            Driver::new(data_dir, incarnation, Box::new(outbox.clone()), Box::new(outbox), options, log, quiet)
        });
        match driver {
            Ok(driver) => self.nodes[at].driver = Some(driver),
            Err(_) if matches!(self.nodes[at].engine.fault(), Fault::CrashAfter(0) | Fault::Failed) => {
                self.crash(at);
                return self.after(500, Event::Restart(at));
            }
            Err(failure) => return self.fail(format!("n{at} does not start: {failure}")),
        }
        self.trace(|| format!("n{at} starts, process {process}"));
        self.drive(at, |driver, now| driver.start(now));
        let offset = self.rng.below(TICK);
        self.after(offset, Event::Tick((at, process)));
    }

    /// Crashes a node and starts it again.
    pub fn restart(&mut self, at: usize) {
        self.crash(at);
        self.boot(at);
    }

    /// Ends a process. Of what was not synced any prefix survives, or all of it.
    pub fn crash(&mut self, at: usize) {
        self.trace(|| format!("n{at} crashes"));
        let mut rng = self.rng.fork();
        let node = &mut self.nodes[at];
        node.driver = None;
        node.finished_spooler = None;
        node.progress.after_crash(&node.engine, node.durable);
        node.engine = node.engine.after_crash(&mut rng);
    }

    /// Runs `run` on a driver, then a turn, and dispatches what the driver has put out.
    ///
    /// While the last turn of a slow node still lasts, `run` only adds its input, and the turn is put off.
    pub fn drive(&mut self, at: usize, run: impl FnOnce(&mut Driver, u64) -> Result<(), Error>) {
        let now = self.now + self.nodes[at].clock_offset;
        let (next, queued) = self.nodes[at].next_turn;
        let gathers = self.now < next;
        let Some(driver) = self.nodes[at].driver.as_mut() else { return };
        let work = || run(driver, now).and_then(|()| if gathers { Ok(()) } else { driver.turn(now) });
        // On a real disk closing a database takes longer than a loop may, so the simulated one notices it.
        let (result, closed) = on_loop_thread(work);
        if closed && self.nodes[at].engine.fault() == Fault::None {
            self.fail(format!("n{at} closes a database on the thread of its loop"));
        }
        if gathers && !queued {
            self.after(next - self.now, Event::Turn((at, self.nodes[at].starts)));
        }
        let turn_ms = self.nodes[at].turn_ms;
        self.nodes[at].next_turn = if gathers { (next, true) } else { (self.now + turn_ms, false) };
        if result.is_ok()
            && let Some(spooler) = self.nodes[at].finished_spooler.take()
        {
            self.finish_snapshot(at, spooler);
        }
        let outs = self.nodes[at].outbox.take();
        let process = (at, self.nodes[at].starts);
        for out in outs {
            self.dispatch(process, out);
        }
        // How the turn has ended, and what had been planned for the process.
        match (result, self.nodes[at].engine.fault()) {
            // It has crashed inside the turn; `World::step` ends it.
            (Ok(()) | Err(_), Fault::CrashAfter(0)) => {}
            (Ok(()), Fault::Failed) => self.fail(format!("n{at} goes on after its disk has failed")),
            (Ok(()), _) => {
                turn::check(self, at);
                if !gathers && self.nodes[at].driver.as_ref().is_some_and(Driver::has_work) {
                    self.after(1, Event::Turn(process));
                }
                self.end_if_stopped(at);
            }
            (Err(_), Fault::Failed) => {
                self.trace(|| format!("n{at} stops: its disk fails"));
                self.crash(at);
                self.after(1000, Event::Restart(at));
            }
            // A copied disk was refused. An operator gives the node an empty one later.
            (Err(_), _) if self.nodes[at].stale_disk.is_some() => {
                self.trace(|| format!("n{at} ends: its disk is a copy"));
                self.crash(at);
            }
            (Err(failure), _) => self.fail(format!("n{at} stops: {failure}")),
        }
    }

    /// Ends the process of a node that was told to stop and has nothing left to do. What it has flushed is durable then.
    fn end_if_stopped(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let Some(driver) = node.driver.as_mut().filter(|driver| driver.stopped()) else { return };
        let finished = driver.finish();
        let flushed = driver.flushed();
        let (outs, process) = (node.outbox.take(), (at, node.starts));
        for out in outs {
            self.dispatch(process, out);
        }
        let node = &mut self.nodes[at];
        match (finished, node.engine.fault()) {
            (Ok(()), Fault::Failed) => return self.fail(format!("n{at} stops well after its disk has failed")),
            (Ok(()), Fault::CrashAfter(0)) => {}
            (Ok(()), _) => node.durable = (node.table.raft_id, flushed),
            (Err(_), Fault::CrashAfter(0) | Fault::Failed) => {}
            (Err(failure), _) => return self.fail(format!("n{at} cannot stop: {failure}")),
        }
        self.trace(|| format!("n{at} has stopped"));
        self.crash(at);
        let down = 100 + self.rng.below(3000);
        self.after(down, Event::Restart(at));
    }

    /// The outbox of a running node, for the replies to clients and operators.
    pub fn outbox(&self, at: usize) -> SimOutbox {
        self.nodes[at].outbox.clone()
    }

    /// Hands a running node an input at the present moment.
    pub fn input(&mut self, at: usize, input: Input) {
        let process = (at, self.nodes[at].starts);
        self.handle_event(Event::Input(process, Box::new(input)));
    }
}
