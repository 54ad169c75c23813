//! What the machine has to say: CPU time of processes, and what a sync costs on a disk.
//!
//! Why: operations a second mean little without what they cost, and a durable write can be no faster than the disk's
//! sync; a disk that syncs impossibly fast does not sync.
//!
//! Laws: what cannot be known is left out, never guessed. The file that the disk is tried with is removed again.
//!
//! Not here: how it is shown (`report`).

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::recorder::latencies;

/// How many microseconds a clock tick of `/proc` has. The kernel gives 100 a second to programs on every machine.
const TICK_US: u64 = 10_000;

/// How much one write of the disk's trial has, as a page of a journal.
const BLOCK_BYTES: usize = 4 << 10;

/// How long a disk is tried.
const TRIAL: Duration = Duration::from_secs(1);

/// Syncs a second over which no disk is believed: even the fastest take several microseconds.
const TOO_FAST: f64 = 100_000.0;

/// Syncs a second under which writes wait for the disk more than for anything else.
const SLOW: f64 = 500.0;

/// CPU time that a process has used until now, in microseconds; none where the system does not tell.
pub(super) fn cpu_us(process: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    ticks(&text).map(|ticks| ticks * TICK_US)
}

/// User and system time out of a line of `/proc/PID/stat`. The name in it may hold anything, so fields count after it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let mut number = || fields.next()?.parse::<u64>().ok();
    Some(number()? + number()?)
}

/// What a sync costs on a disk.
pub(super) struct Disk {
    /// Which directory was tried.
    pub directory: String,
    /// Writes of 4 KiB, each synced, a second.
    pub syncs_per_second: f64,
    /// How long they took, in microseconds.
    pub latency: Histogram<u64>,
}

impl Disk {
    /// Tries the disk of `directory` for a second.
    ///
    /// # Errors
    /// Where the system refuses.
    pub(super) fn try_out(directory: &Path) -> io::Result<Self> {
        let path = directory.join(format!("huskv-bench-{}.tmp", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        let result = sync_for(&mut file, TRIAL);
        fs::remove_file(&path)?;
        let (syncs_per_second, latency) = result?;
        Ok(Self { directory: directory.display().to_string(), syncs_per_second, latency })
    }

    /// What to think of it.
    pub(super) fn verdict(&self) -> &'static str {
        match self.syncs_per_second {
            rate if rate > TOO_FAST => {
                "too fast to be true: nothing here reaches a disk (tmpfs, or a sync that does nothing)"
            }
            rate if rate < SLOW => "slow: writes will wait for the disk",
            _ => "fit for a node",
        }
    }
}

fn sync_for(file: &mut fs::File, span: Duration) -> io::Result<(f64, Histogram<u64>)> {
    let mut latency = latencies();
    let block = [0x5a; BLOCK_BYTES];
    let begun = Instant::now();
    while begun.elapsed() < span {
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
    fn cpu_time_is_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 70 7 0 0 20 0";
        assert_eq!(ticks(&format!("1 (a) b) {fields}")), Some(77));
        assert_eq!(ticks("1 (short) S 1"), None);
        assert_eq!(cpu_us("no such process"), None);
        if Path::new("/proc/self/stat").exists() {
            assert!(cpu_us("self").is_some());
        }
    }

    #[test]
    fn a_disk_is_tried_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::try_out(folder.path()).unwrap();
        assert!(disk.syncs_per_second > 0.0 && !disk.latency.is_empty() && !disk.verdict().is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(Disk::try_out(&folder.path().join("missing")).is_err());
        let of = |syncs_per_second| Disk { syncs_per_second, directory: String::new(), latency: latencies() };
        assert!(of(1e6).verdict().contains("true") && of(20.0).verdict().contains("slow"));
        assert!(of(5_000.0).verdict().contains("fit"));
    }
}
