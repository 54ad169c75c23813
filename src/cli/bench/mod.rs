//! `huskv bench`: how fast is a cluster, and what does it cost.
//!
//! Why: promises about speed are worth what anybody can measure again. One command, no second tool, and the same
//! generator for what huskv is compared with.
//!
//! Laws: the result goes to stdout, everything else to stderr. Only keys that begin with the prefix are written. Exit
//! code 1 where nothing succeeded.
//!
//! Not here: flags (`plan`), clients (`load`), counting (`record`), and how the result looks (`report`).

mod raw_client;
mod recorder;
mod workload;

use std::io::{self, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clap::{ArgMatches, Command};
use thiserror::Error;

use self::api::Api;
use self::load::{Load, Shape};
use self::plan::Plan;
use self::report::Report;
use self::system::{Disk, cpu_us};
use super::{FAILED, USAGE, complain};
use crate::client::Direct;
use raw_client::RawClient;

mod api;
mod load;
mod plan;
mod report;
mod system;

/// The name of the subcommand.
const NAME: &str = "bench";

/// How long a look at a node may take.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// How often there is a line of progress.
const PROGRESS: Duration = Duration::from_secs(1);

/// How often the end is looked for while keys are loaded.
const GLANCE: Duration = Duration::from_millis(20);

/// Why there is no result.
#[derive(Debug, Error)]
enum BenchError {
    /// Nobody answers.
    #[error("cannot reach {address}: {source}")]
    Unreachable {
        /// Where.
        address: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The leader is not to be found.
    #[error("{0} does not say who leads; is it a huskv node with a quorum?")]
    NoLeader(String),
    /// A server that is to be watched is not there.
    #[error("there is no process {0} on this machine")]
    NoProcess(String),
    /// The keys that reads need could not be stored.
    #[error("{failed} of {all} keys could not be loaded, such as for: {why}")]
    NotLoaded {
        /// How many.
        failed: u64,
        /// Of how many.
        all: u64,
        /// One of the reasons.
        why: String,
    },
    /// The system refuses.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
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

/// Runs the benchmark; the exit code.
pub(crate) fn run(matches: &ArgMatches) -> u8 {
    let plan = match Plan::of(matches) {
        Ok(plan) => Arc::new(plan),
        Err(problem) => {
            complain(problem);
            return USAGE;
        }
    };
    match measure(&plan) {
        Ok(succeeded) if succeeded => 0,
        Ok(_) => {
            complain("no operation succeeded");
            FAILED
        }
        Err(error) => {
            complain(error);
            FAILED
        }
    }
}

/// Does all of it and says the result; whether anything succeeded.
fn measure(plan: &Arc<Plan>) -> Result<bool, BenchError> {
    let addresses = whom_to_ask(plan)?;
    let disk = plan.disk.as_deref().map(Disk::try_out).transpose().map_err(system("cannot try the disk"))?;
    if plan.load {
        load_keys(plan, &addresses)?;
    }
    let before_servers = cpu_of_servers(plan)?;
    let load = Load::new(plan, plan.shape, &addresses, [plan.warmup, plan.duration]);
    let threads = load.start().map_err(system("cannot start the generator"))?;
    wait_until(&load, load.window().begins, false);
    let begun = (load.now(), cpu_us("self"), cpu_of_servers(plan).ok().or(Some(before_servers)).flatten());
    wait_until(&load, load.window().ends, plan.progress);
    let ended = (load.now(), cpu_us("self"), cpu_of_servers(plan).ok().flatten());
    join(threads);
    let (record, gap) = load.finish();
    let succeeded = record.done > 0;
    let used = |before: Option<u64>, after: Option<u64>| after?.checked_sub(before?);
    let report = Report {
        plan,
        addresses: &addresses,
        record,
        seconds: (load.window().ends - load.window().begins) as f64 / 1e6,
        gap,
        own_cpu: used(begun.1, ended.1),
        server_cpu: used(begun.2, ended.2),
        disk: disk.as_ref(),
    };
    let text = if plan.json { format!("{}\n", report.json()) } else { report.to_string() };
    io::stdout().lock().write_all(text.as_bytes()).map_err(system("cannot write the result"))?;
    Ok(succeeded)
}

/// Finds the leader where only that is asked, and dials everyone once, so that a mistake is told before anything is
/// written.
fn whom_to_ask(plan: &Plan) -> Result<Vec<String>, BenchError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("cannot start threads"))?;
    runtime.block_on(async {
        for address in &plan.addresses {
            let dialled = tokio::time::timeout(LOOK_LIMIT, reach(address)).await;
            let answer = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            answer.map_err(|source| BenchError::Unreachable { address: address.clone(), source })?;
        }
        let first = plan.addresses.first().filter(|_| plan.leader_only && plan.api == Api::Huskv);
        let Some(first) = first else { return Ok(plan.addresses.clone()) };
        let health = Direct::new(LOOK_LIMIT).get(first, "/health").await;
        let leader = health.ok().and_then(|health| health.body["leader"]["http_address"].as_str().map(str::to_owned));
        leader.map(|leader| vec![leader]).ok_or_else(|| BenchError::NoLeader(first.clone()))
    })
}

async fn reach(address: &str) -> io::Result<()> {
    RawClient::to(address).dial().await
}

fn load_keys(plan: &Arc<Plan>, addresses: &[String]) -> Result<(), BenchError> {
    let all = plan.key_count;
    let load = Load::new(plan, Shape::Load, addresses, [Duration::ZERO, Duration::MAX]);
    let threads = load.start().map_err(system("cannot start the generator"))?;
    let mut said = load.now();
    while !threads.iter().all(JoinHandle::is_finished) {
        thread::sleep(GLANCE);
        if plan.progress && load.now() - said > PROGRESS.as_micros() as u64 {
            said = load.now();
            eprintln!("  loading: {} of {all} keys", load.numbered().min(all));
        }
        let (_, failed, _) = load.look();
        // One client more than all of them failed: this will not get better.
        if failed > plan.clients as u64 {
            load.stop();
        }
    }
    join(threads);
    let (record, _) = load.finish();
    if record.done < all {
        let why = record.failures.keys().next().cloned().unwrap_or_default();
        return Err(BenchError::NotLoaded { failed: all - record.done, all, why });
    }
    Ok(())
}

/// CPU time of all servers that were named; none where none was.
fn cpu_of_servers(plan: &Plan) -> Result<Option<u64>, BenchError> {
    let times = plan.processes.iter().map(|pid| cpu_us(pid).ok_or_else(|| BenchError::NoProcess(pid.clone())));
    let sum = times.sum::<Result<u64, _>>()?;
    Ok((!plan.processes.is_empty()).then_some(sum))
}

/// Sleeps until a moment of the run, with a line of progress a second where asked.
fn wait_until(load: &Load, moment: u64, progress: bool) {
    load.look();
    let begun = load.now();
    let mut said = begun;
    loop {
        let left = Duration::from_micros(moment.saturating_sub(load.now()));
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(PROGRESS));
        let now = load.now();
        let (recent, failed, p99) = load.look();
        if progress && now > said {
            let rate = recent as f64 * 1e6 / (now - said) as f64;
            let (second, p99) = ((now - begun) as f64 / 1e6, p99 as f64 / 1_000.0);
            eprintln!("  {second:5.1} s  {rate:9.0} op/s  p99 {p99:8.2} ms  {failed} failed");
        }
        said = now;
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        // A panic has said its word on stderr; what the thread counted until then is there.
        thread.join().ok();
    }
}
