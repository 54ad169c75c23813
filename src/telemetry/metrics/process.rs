//! Figures of the process, under the names that Prometheus' own clients use.
//!
//! Invariants: they are read at the scrape, from the kernel, which asks no disk. What a system does not report is NaN.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::exposition::{Exposition, Number};

/// The process.
#[derive(Debug)]
pub(super) struct Process {
    started: SystemTime,
}

impl Default for Process {
    fn default() -> Self {
        Self { started: SystemTime::now() }
    }
}

/// The fields of `/proc/self/status` that are shown, None where there is no such file.
#[derive(Debug, Default)]
struct Status {
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    threads: Option<u64>,
}

impl Status {
    fn parse(text: &str) -> Self {
        // `VmRSS:	    1234 kB`
        let number = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let bytes = |name| number(name).map(|kib| kib << 10);
        Self { resident_bytes: bytes("VmRSS"), virtual_bytes: bytes("VmSize"), threads: number("Threads") }
    }
}

/// The number of open files, without the one that counts them.
fn open_files() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").or_else(|_| std::fs::read_dir("/dev/fd")).ok()?;
    u64::try_from(entries.count()).ok()?.checked_sub(1)
}

impl Process {
    /// Returns its start in seconds since 1970.
    pub(super) fn started(&self) -> u64 {
        self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        let status = Status::parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default());
        let cpu = std::time::Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let max_fds = getrlimit(Resource::Nofile).current;
        to.counter("process_cpu_seconds", "CPU time of all threads, in seconds.", cpu.as_secs_f64())?;
        to.gauge("process_resident_memory_bytes", "Resident memory.", status.resident_bytes)?;
        to.gauge("process_virtual_memory_bytes", "Virtual memory.", status.virtual_bytes)?;
        to.gauge("process_open_fds", "Open file descriptors.", open_files())?;
        to.gauge(
            "process_max_fds",
            "Most file descriptors that may be open; +Inf where there is no limit.",
            max_fds.map_or(Number::Real(f64::INFINITY), Number::Whole),
        )?;
        to.gauge("process_start_time_seconds", "Start of the process, since 1970.", started.as_secs_f64())?;
        to.gauge("process_threads", "Threads of the operating system.", status.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_of_the_kernel_is_parsed_and_what_it_lacks_is_unknown() {
        let status = Status::parse("Name:\thuskv\nVmSize:\t  2048 kB\nVmRSS:\t     3 kB\nThreads:\t17\n");
        let read = (status.virtual_bytes, status.resident_bytes, status.threads);
        assert_eq!(read, (Some(2 << 20), Some(3 << 10), Some(17)));
        assert!(Status::parse("VmRSS: x kB\nVmRSSize: 1 kB").resident_bytes.is_none());
    }
}
