//! Report of a run, as a table for people and as one JSON object for programs.
//!
//! Invariants: both are made from the same numbers. What was not measured is left out.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use super::cpu_and_fsync_cost::DiskTrial;
use super::plan::{LoadModel, Plan};
use super::recorder::Recorder;
use super::server_threads::OTHER;

/// Above this share of its threads the generator is the bottleneck.
const GENERATOR_BUSY: f64 = 0.9;

/// Below this share of the CPU time of all servers the table does not name a group of threads.
const LEAST_SHARE: f64 = 0.01;

/// The results of a run.
pub(super) struct Report<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The addresses that the clients used.
    pub addresses: &'a [String],
    /// The counters.
    pub recorder: Recorder,
    /// The length of the window, in seconds.
    pub seconds: f64,
    /// The longest time without a success, in microseconds.
    pub gap: u64,
    /// CPU time of the generator in the window, in microseconds, where the system reports it.
    pub own_cpu: Option<u64>,
    /// CPU time of all servers, where their processes were given.
    pub server_cpu: Option<u64>,
    /// The same by the names of their threads.
    pub server_threads: BTreeMap<String, u64>,
    /// The trial of the disk.
    pub disk: Option<&'a DiskTrial>,
}

/// The quantiles of the report, with their names.
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];

fn millis(micros: f64) -> f64 {
    micros / 1_000.0
}

/// To a thousandth: more is noise.
fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

fn latencies(of: &Histogram<u64>) -> Value {
    let mut object = Map::new();
    object.insert("count".into(), json!(of.len()));
    object.insert("mean_ms".into(), json!(rounded(millis(of.mean()))));
    for (name, quantile) in QUANTILES {
        let value = millis(of.value_at_quantile(quantile) as f64);
        object.insert(format!("{}_ms", name.replace('.', "_")), json!(rounded(value)));
    }
    Value::Object(object)
}

impl Report<'_> {
    fn rate(&self) -> f64 {
        self.recorder.done as f64 / self.seconds
    }

    /// CPU time of the servers per operation, in microseconds.
    fn server_us(&self) -> Option<f64> {
        let operations = self.recorder.done + self.recorder.failed();
        self.server_cpu.filter(|_| operations > 0).map(|cpu| cpu as f64 / operations as f64)
    }

    /// The same by the names of their threads, the costliest first. Below `least` of the whole they are one group, which
    /// is the last.
    fn server_us_by_thread(&self, least: f64) -> Vec<(&str, f64)> {
        let operations = (self.recorder.done + self.recorder.failed()).max(1) as f64;
        let all = self.server_threads.values().sum::<u64>() as f64;
        let (mut groups, mut other) = (Vec::new(), 0.0);
        for (name, used) in &self.server_threads {
            let used = *used as f64;
            if name == OTHER || used < least * all {
                other += used / operations;
            } else {
                groups.push((name.as_str(), used / operations));
            }
        }
        groups.sort_by(|one, two| two.1.total_cmp(&one.1));
        if other > 0.0 {
            groups.push((OTHER, other));
        }
        groups
    }

    /// The cores that the generator used.
    fn own_cores(&self) -> Option<f64> {
        self.own_cpu.map(|cpu| cpu as f64 / 1e6 / self.seconds)
    }

    fn generator_is_busy(&self) -> bool {
        self.own_cores().is_some_and(|cores| cores > GENERATOR_BUSY * self.plan.threads as f64)
    }

    fn kinds(&self) -> impl Iterator<Item = (&'static str, &Histogram<u64>)> {
        let read = if self.plan.page.is_some() { "list" } else { "get" };
        [("put", &self.recorder.puts), (read, &self.recorder.gets)].into_iter().filter(|(_, seen)| !seen.is_empty())
    }

    /// The report as JSON.
    pub(super) fn json(&self) -> Value {
        let plan = self.plan;
        let offered = if let LoadModel::Open(rate) = plan.model { Some(rate) } else { None };
        let mut object = json!({
            "addresses": self.addresses, "clients": plan.clients, "threads": plan.threads, "reads_percent": plan.reads,
            "stale": plan.stale, "open_loop_rate": offered, "keys": plan.key_count, "distribution": plan.distribution,
            "value_bytes": plan.value_bytes, "seconds": self.seconds, "ops_per_second": rounded(self.rate()),
            "done": self.recorder.done, "missing": self.recorder.missing, "failed": self.recorder.failed(),
            "failures": self.recorder.failures, "longest_gap_ms": rounded(millis(self.gap as f64)),
            "generator_busy": self.generator_is_busy(),
        });
        for (kind, seen) in self.kinds() {
            object[kind] = latencies(seen);
        }
        if let Some(cores) = self.own_cores() {
            object["generator_cores"] = json!(rounded(cores));
        }
        if let Some(us) = self.server_us() {
            object["server_cpu_us_per_op"] = json!(rounded(us));
            let by_thread =
                self.server_us_by_thread(0.0).into_iter().map(|(name, us)| (name.to_owned(), json!(rounded(us))));
            object["cpu_us_per_op_by_thread"] = Value::Object(by_thread.collect());
        }
        if let Some(disk) = self.disk {
            object["disk"] = json!({
                "directory": disk.directory, "syncs_per_second": rounded(disk.syncs_per_second),
                "latency": latencies(&disk.latency), "verdict": disk.assessment(),
            });
        }
        object
    }
}

impl Display for Report<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let recorder = &self.recorder;
        writeln!(out, "{}, asking {}", self.plan.describe(), self.addresses.join(", "))?;
        let (done, failed) = (recorder.done, recorder.failed());
        writeln!(out, "  {:.0} op/s over {:.1} s: {done} done, {failed} failed", self.rate(), self.seconds)?;
        write!(out, "  {:>6}{:>10}{:>10}", "ms", "count", "mean")?;
        QUANTILES.iter().try_for_each(|(name, _)| write!(out, "{name:>10}"))?;
        for (kind, seen) in self.kinds() {
            write!(out, "\n  {kind:>6}{:>10}{:>10.3}", seen.len(), millis(seen.mean()))?;
            for (_, quantile) in QUANTILES {
                write!(out, "{:>10.3}", millis(seen.value_at_quantile(quantile) as f64))?;
            }
        }
        writeln!(out)?;
        for (reason, times) in &recorder.failures {
            writeln!(out, "  failed {times} times: {reason}")?;
        }
        if recorder.missing > 0 {
            writeln!(out, "  {} reads found nothing", recorder.missing)?;
        }
        writeln!(out, "  longest time without any success: {:.1} ms", millis(self.gap as f64))?;
        if let Some(us) = self.server_us() {
            writeln!(out, "  CPU of {} servers: {us:.1} us an operation", self.plan.processes.len())?;
            let groups = self.server_us_by_thread(LEAST_SHARE);
            let groups: Vec<_> = groups.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
            writeln!(out, "    of their threads, us an operation: {}", groups.join(", "))?;
        }
        if let Some(cores) = self.own_cores() {
            let busy = if self.generator_is_busy() { "; it is the bottleneck, give it more --threads" } else { "" };
            writeln!(out, "  CPU of the generator: {cores:.2} cores of {} threads{busy}", self.plan.threads)?;
        }
        if let Some(disk) = self.disk {
            let p99 = millis(disk.latency.value_at_quantile(0.99) as f64);
            let DiskTrial { directory, syncs_per_second, .. } = disk;
            let assessment = disk.assessment();
            writeln!(
                out,
                "  disk of {directory}: {syncs_per_second:.0} syncs/s of 4 KiB, p99 {p99:.2} ms: {assessment}"
            )?;
        }
        Ok(())
    }
}
