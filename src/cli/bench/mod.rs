//! `huskv bench`: throughput, latency and CPU cost of a cluster.
//!
//! Why: published figures must be reproducible with one command, and a comparison needs one generator for both systems.
//!
//! Invariants: the report goes to stdout, everything else to stderr. Only keys with the given prefix are written. Exit
//! code 1 if no operation succeeded.
//!
//! See also: `plan` for the flags, `load_generator` for the generator, `recorder` for the counters, `report` for the output.

mod connection;
mod cpu_and_fsync_cost;
mod etcd_messages;
mod grpc_client;
mod load_generator;
mod plan;
mod raw_client;
mod recorder;
mod report;
mod server_threads;
mod systems_under_test;
mod workload;

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{ArgMatches, Command};
use thiserror::Error;

use self::cpu_and_fsync_cost::{DiskTrial, cpu_us};
use self::load_generator::Load;
use self::plan::{LoadModel, Plan};
use self::raw_client::RawClient;
use self::report::Report;
use self::server_threads::ServerThreads;
use self::systems_under_test::{Api, HttpApi};
use super::exit::{FAILED, USAGE, print_error};
use crate::client::NodeClient;

/// The name of the subcommand.
const NAME: &str = "bench";

/// The timeout of a dial and of a request for the leader.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The interval of progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of polling for the end of the preload.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Why there is no report.
#[derive(Debug, Error)]
enum BenchError {
    /// An address cannot be dialled.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// The address.
        address: String,
        /// The error of the system.
        source: io::Error,
    },
    /// The leader is not known.
    #[error("{0} does not say who leads; is it a huskv node with a quorum?")]
    NoLeader(String),
    /// A server process does not exist.
    #[error("there is no process {0} on this machine")]
    NoProcess(String),
    /// The system does not report CPU times of other processes.
    #[error("--pids reads /proc, which only Linux has")]
    NoProc,
    /// Keys could not be preloaded.
    #[error("{failed} of {all} keys could not be loaded, such as for: {reason}")]
    NotLoaded {
        /// The number of failures.
        failed: u64,
        /// The number of keys.
        all: u64,
        /// One of the reasons.
        reason: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    System {
        /// The operation.
        what: &'static str,
        /// The error of the system.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
    move |source| BenchError::System { what, source }
}

/// The subcommand.
pub(crate) fn command() -> Command {
    plan::arguments(Command::new(NAME).about("Measure a running cluster: throughput, latency, CPU")).after_help(
        "Latencies of an open loop (--rate) count from when an operation was due, not from when it was sent, so a stall \
         is seen in full. A server and its generator on one machine share its cores: compare ratios, not figures.",
    )
}

/// Runs the benchmark and returns the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let plan = match Plan::new(matches) {
        Ok(plan) => Arc::new(plan),
        Err(error) => {
            print_error(error);
            return USAGE;
        }
    };
    match measure(&plan) {
        Ok(succeeded) if succeeded => 0,
        Ok(_) => {
            print_error("no operation succeeded");
            FAILED
        }
        Err(error) => {
            print_error(error);
            FAILED
        }
    }
}

/// Measures, prints the report, and returns whether any operation succeeded.
fn measure(plan: &Arc<Plan>) -> Result<bool, BenchError> {
    let addresses = resolve_targets(plan)?;
    let disk = plan.disk.as_deref().map(DiskTrial::run).transpose().map_err(system("cannot measure the disk"))?;
    if plan.preload {
        preload(plan, &addresses)?;
    }
    // Read once before the run, so that a wrong process id is an error at once, not after the warm-up.
    let before_servers = cpu_of_servers(plan)?;
    let load = Load::new(plan, plan.model, &addresses, [plan.warmup, plan.duration]);
    let threads = load.start().map_err(system("cannot start the generator"))?;
    wait_until(&load, load.window().begins, false, || ());
    // Only the window counts: CPU time is read at its begin and at its end.
    let begun = (cpu_us("self"), cpu_of_servers(plan).ok().or(Some(before_servers)).flatten());
    let mut server_threads = ServerThreads::new(&plan.processes);
    wait_until(&load, load.window().ends, plan.progress, || server_threads.sample());
    let ended = (cpu_us("self"), cpu_of_servers(plan).ok().flatten());
    join(threads);
    let (recorder, gap) = load.finish();
    let succeeded = recorder.done > 0;
    let used = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
    let server_cpu = used(begun.1, ended.1);
    let report = Report {
        plan,
        addresses: &addresses,
        recorder,
        seconds: (load.window().ends - load.window().begins) as f64 / 1e6,
        gap,
        own_cpu: used(begun.0, ended.0),
        server_cpu,
        server_threads: server_cpu.map(|total| server_threads.by_group(total)).unwrap_or_default(),
        disk: disk.as_ref(),
    };
    let text = if plan.json { format!("{}\n", report.json()) } else { report.to_string() };
    io::stdout().lock().write_all(text.as_bytes()).map_err(system("cannot write the result"))?;
    Ok(succeeded)
}

/// Dials every address once, so that a wrong one is reported before anything is written, and finds the leader for
/// `--ask leader`.
fn resolve_targets(plan: &Plan) -> Result<Vec<String>, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("cannot start threads"))?;
    runtime.block_on(async {
        for address in &plan.addresses {
            let dialled = tokio::time::timeout(PROBE_TIMEOUT, dial(address)).await;
            let answer = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            answer.map_err(|source| BenchError::Unreachable { address: address.clone(), source })?;
        }
        let first = plan.addresses.first().filter(|_| plan.leader_only && plan.api == Api::Http(HttpApi::Huskv));
        let Some(first) = first else { return Ok(plan.addresses.clone()) };
        let health = NodeClient::new(PROBE_TIMEOUT).get(first, "/health").await;
        let leader = health.ok().and_then(|health| health.body["leader"]["http_address"].as_str().map(str::to_owned));
        leader.map(|leader| vec![leader]).ok_or_else(|| BenchError::NoLeader(first.clone()))
    })
}

async fn dial(address: &str) -> io::Result<()> {
    RawClient::new(address).dial().await
}

fn preload(plan: &Arc<Plan>, addresses: &[String]) -> Result<(), BenchError> {
    let all = plan.key_count;
    let load = Load::new(plan, LoadModel::Preload, addresses, [Duration::ZERO, Duration::MAX]);
    let threads = load.start().map_err(system("cannot start the generator"))?;
    let mut last_line = load.now();
    while !threads.iter().all(JoinHandle::is_finished) {
        thread::sleep(POLL_INTERVAL);
        if plan.progress && load.now() - last_line > PROGRESS_INTERVAL.as_micros() as u64 {
            last_line = load.now();
            eprintln!("  loading: {} of {all} keys", load.started_operations().min(all));
        }
        let (_, failed, _) = load.sample();
        // More failures than clients: the system is down.
        if failed > plan.clients as u64 {
            load.stop();
        }
    }
    join(threads);
    let (recorder, _) = load.finish();
    if recorder.done < all {
        let reason = recorder.failures.keys().next().cloned().unwrap_or_default();
        return Err(BenchError::NotLoaded { failed: all - recorder.done, all, reason });
    }
    Ok(())
}

/// The CPU time of all given server processes; none where none was given.
fn cpu_of_servers(plan: &Plan) -> Result<Option<u64>, BenchError> {
    let missing =
        |pid: &String| if cpu_us("self").is_some() { BenchError::NoProcess(pid.clone()) } else { BenchError::NoProc };
    let times = plan.processes.iter().map(|pid| cpu_us(pid).ok_or_else(|| missing(pid)));
    let sum = times.sum::<Result<u64, _>>()?;
    Ok((!plan.processes.is_empty()).then_some(sum))
}

/// Sleeps until a time of the run, with a sample every second and at the end, and a progress line if asked.
fn wait_until(load: &Load, until: u64, progress: bool, mut sample: impl FnMut()) {
    load.sample();
    let begun = load.now();
    let mut last_line = begun;
    loop {
        let left = Duration::from_micros(until.saturating_sub(load.now()));
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(PROGRESS_INTERVAL));
        sample();
        let now = load.now();
        let (recent, failed, p99) = load.sample();
        if progress && now > last_line {
            let rate = recent as f64 * 1e6 / (now - last_line) as f64;
            let (second, p99) = ((now - begun) as f64 / 1e6, p99 as f64 / 1_000.0);
            eprintln!("  {second:5.1} s  {rate:9.0} op/s  p99 {p99:8.2} ms  {failed} failed");
        }
        last_line = now;
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // The message of a panic is on stderr already; the thread's counters up to it are valid.
        thread.join().ok();
    }
}
