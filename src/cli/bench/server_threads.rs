//! CPU time of the servers by the names of their threads, summed over all processes.
//!
//! Why: the CPU time of a whole process does not say which part takes it, and of three nodes on one machine the busiest
//! thread is what a larger machine runs out of first.
//!
//! Invariants: the groups and the rest add up to the CPU time of the processes. Threads that differ only in a number at
//! the end of their names are one group. What a thread used after its last sample and before its end is in the rest.
//!
//! Example: `sled-io-0` and `sled-io-12` are `sled-io`.
//!
//! See also: `cpu_and_fsync_cost` for `/proc`.

use std::collections::{BTreeMap, HashMap};
use std::fs;

use super::cpu_and_fsync_cost::cpu_us;

/// The name of what belongs to no sampled thread.
pub(super) const OTHER: &str = "other";

/// A thread of a process.
type ThreadId = (String, String);

/// A thread since the first sample.
struct Thread {
    group: String,
    /// CPU time at the last sample, in microseconds.
    last: u64,
    /// CPU time since the first sample.
    used: u64,
}

/// Samples of the threads of some processes.
pub(super) struct ServerThreads {
    processes: Vec<String>,
    threads: HashMap<ThreadId, Thread>,
}

impl ServerThreads {
    /// Takes the first sample.
    pub(super) fn new(processes: &[String]) -> Self {
        let mut this = Self { processes: processes.to_vec(), threads: HashMap::new() };
        this.sample();
        // What was used before the window is none of the run's.
        this.threads.values_mut().for_each(|thread| thread.used = 0);
        this
    }

    /// Takes another sample; threads that have ended keep what their last one showed.
    pub(super) fn sample(&mut self) {
        for process in &self.processes {
            let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
            for task in tasks.filter_map(Result::ok) {
                let id = task.file_name().to_string_lossy().into_owned();
                // A thread that ends meanwhile has no files any more.
                let Some(now) = cpu_us(&format!("{process}/task/{id}")) else { continue };
                let Ok(name) = fs::read_to_string(task.path().join("comm")) else { continue };
                record(&mut self.threads, (process.clone(), id), group(name.trim_end()), now);
            }
        }
    }

    /// Microseconds by group, of the `total` that the processes used since the first sample.
    pub(super) fn by_group(&self, total: u64) -> BTreeMap<String, u64> {
        let mut groups: BTreeMap<String, u64> = BTreeMap::new();
        for thread in self.threads.values() {
            *groups.entry(thread.group.clone()).or_default() += thread.used;
        }
        let rest = total.saturating_sub(groups.values().sum());
        *groups.entry(OTHER.to_owned()).or_default() += rest;
        groups.retain(|_, used| *used > 0);
        groups
    }
}

fn record(threads: &mut HashMap<ThreadId, Thread>, id: ThreadId, group: &str, now: u64) {
    let thread = threads.entry(id).or_insert_with(|| Thread { group: group.to_owned(), last: 0, used: 0 });
    // Less than at the last sample: the id belongs to a new thread. A thread that names itself late moves to its group.
    thread.used += now.checked_sub(thread.last).unwrap_or(now);
    thread.last = now;
    if thread.group != group {
        group.clone_into(&mut thread.group);
    }
}

/// The name of a thread without a number at its end.
fn group(name: &str) -> &str {
    let prefix = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let prefix =
        if prefix.len() < name.len() { prefix.trim_end_matches(['-', '_', ' ', '/', ':', '#']) } else { prefix };
    if prefix.is_empty() { name } else { prefix }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_at_the_end_of_a_name_is_no_part_of_its_group() {
        for (name, expected) in [
            ("sled-io-12", "sled-io"),
            ("async", "async"),
            ("worker 3", "worker"),
            ("h2", "h"),
            ("7", "7"),
            ("a-", "a-"),
        ] {
            assert_eq!(group(name), expected);
        }
    }

    #[test]
    fn ended_and_new_threads_count_and_the_groups_add_up() {
        let mut seen = ServerThreads { processes: Vec::new(), threads: HashMap::new() };
        let id = |thread: &str| ("1".to_owned(), thread.to_owned());
        for (thread, name, now) in [
            ("10", "io-1", 100),
            ("11", "io-2", 40),
            ("10", "io-1", 130),
            // Ended, and its id used again.
            ("11", "io-2", 50),
            ("11", "other-name", 7),
        ] {
            record(&mut seen.threads, id(thread), group(name), now);
        }
        assert_eq!(
            seen.by_group(200),
            BTreeMap::from([("io".into(), 130), ("other-name".into(), 57), (OTHER.into(), 13)])
        );
        assert_eq!(seen.by_group(0).get(OTHER), None, "rounding leaves no negative rest");
    }

    #[test]
    fn the_own_threads_are_sampled() {
        if !std::path::Path::new("/proc/self/task").exists() {
            return;
        }
        let mut seen = ServerThreads::new(&["self".into()]);
        assert!(seen.threads.values().all(|thread| thread.used == 0) && !seen.threads.is_empty());
        seen.sample();
        assert!(seen.by_group(1_000_000).values().sum::<u64>() >= 1_000_000);
    }
}
