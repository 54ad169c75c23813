//! What a run costs the computer: CPU time of the nodes' processes, and the fsync latency of the disk.
//!
//! Why: throughput means little without its cost, and a durable write cannot be faster than an fsync; a disk that syncs
//! impossibly fast does not sync.
//!
//! Invariants: what cannot be measured is left out, never estimated. The file of the trial is removed.
//!
//! See also: `report` for the output.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::recorder::latencies;

/// The length of a clock tick of `/proc` in microseconds: `USER_HZ` is 100 on every architecture.
const TICK_US: u64 = 10_000;

/// The size of a write of the trial: a page of a journal.
const BLOCK_BYTES: usize = 4 << 10;

/// The length of the trial.
const TRIAL_DURATION: Duration = Duration::from_secs(1);

/// Syncs a second above which no disk is credible: even the fastest takes several microseconds.
const TOO_FAST: f64 = 100_000.0;

/// Syncs a second below which the disk dominates the latency of writes.
const SLOW: f64 = 500.0;

/// The CPU time of a process so far, in microseconds; none where the system does not report it.
pub(super) fn cpu_us(process: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    ticks(&text).map(|ticks| ticks * TICK_US)
}

/// Parses user and system time from `/proc/PID/stat`. The name in parentheses may hold any character, so the fields are
/// counted from the last `) `.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    // The fields after the name are state, ppid, ... ; utime and stime are the 12th and 13th of them (proc(5), 14 and 15).
    let mut fields = fields.split(' ').skip(11);
    let mut number = || fields.next()?.parse::<u64>().ok();
    Some(number()? + number()?)
}

/// The fsync performance of a disk.
pub(super) struct DiskTrial {
    /// The directory.
    pub directory: String,
    /// Synced writes of 4 KiB a second.
    pub syncs_per_second: f64,
    /// Their latencies, in microseconds.
    pub latency: Histogram<u64>,
}

impl DiskTrial {
    /// Measures the disk of `directory` for a second.
    ///
    /// # Errors
    /// Where a write or an fsync fails.
    pub(super) fn run(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("huskv-bench-{}.tmp", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let result = sync_for(&mut file, TRIAL_DURATION);
        fs::remove_file(&path)?;
        let (syncs_per_second, latency) = result?;
        Ok(Self { directory: directory.display().to_string(), syncs_per_second, latency })
    }

    /// Assesses the disk for a node.
    pub(super) fn assessment(&self) -> &'static str {
        match self.syncs_per_second {
            rate if rate > TOO_FAST => {
                "too fast to be true: nothing here reaches a disk (tmpfs, or a sync that does nothing)"
            }
            rate if rate < SLOW => "slow: writes will wait for the disk",
            _ => "fit for a node",
        }
    }
}

fn sync_for(file: &mut fs::File, duration: Duration) -> io::Result<(f64, Histogram<u64>)> {
    let mut latency = latencies();
    let block = [0x5a; BLOCK_BYTES];
    let begun = Instant::now();
    while begun.elapsed() < duration {
        let write = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        latency.saturating_record(u64::try_from(write.elapsed().as_micros()).unwrap_or(u64::MAX));
    }
    Ok((latency.len() as f64 / begun.elapsed().as_secs_f64(), latency))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_parsed_after_any_process_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20 0";
        assert_eq!(ticks(&format!("1 (a) b) {fields}")), Some(77));
        assert_eq!(ticks("1 (short) S 1"), None);
        assert_eq!(cpu_us("no such process"), None);
        if Path::new("/proc/self/stat").exists() {
            assert!(cpu_us("self").is_some());
        }
    }

    #[test]
    fn a_trial_measures_the_disk_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let disk = DiskTrial::run(folder.path()).unwrap();
        assert!(disk.syncs_per_second > 0.0 && !disk.latency.is_empty() && !disk.assessment().is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(DiskTrial::run(&folder.path().join("missing")).is_err());
        let of = |syncs_per_second| DiskTrial { syncs_per_second, directory: String::new(), latency: latencies() };
        assert!(of(1e6).assessment().contains("true") && of(20.0).assessment().contains("slow"));
        assert!(of(5_000.0).assessment().contains("fit"));
    }
}
