//! The memory budget of a node, and its division among clients, peers, log and tree.
//!
//! Why: a container that takes more than its limit is killed, and its clients move to the next node. So what clients,
//! peers and the tree may hold follows from one number, and what goes beyond it is refused.
//!
//! Invariants: without a setting the number is three quarters of the lowest limit: that of each control group that the
//! process is in, and the machine's memory. The rest is for the system: page cache and socket buffers count in a control
//! group. Each part has an upper bound, beyond which more memory makes no node faster.
//!
//! Example: a container of 512 MiB gives 384: 48 for the tree's cache, 24 for memtables, 48 each for bodies and responses, 24 for pending
//! writes, 24 for watchers' history, 48 for peers, and so on; 1 536 connections and 512 watchers.
//!
//! See also: `http::server::fair_memory` and `transport::memory_budget` (who holds what).

use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// The memory of a connection besides its budgets: hyper's buffers and the task.
const CONNECTION_BYTES: u64 = 32 << 10;
/// The memory of one that uses TLS: the session, and a record in each direction.
const TLS_CONNECTION_BYTES: u64 = 80 << 10;
/// The memory of a watcher: a connection and a few chunks of events.
const WATCHER_BYTES: u64 = 96 << 10;
/// The memory of an address whose requests are counted: a place in a hash map that is at least half full.
const LIMITED_ADDRESS_BYTES: u64 = 96;
/// The minimum number of such addresses.
const MIN_LIMITED_ADDRESSES: usize = 256;
/// The interval at which freed memory is returned to the system.
const PURGE_EVERY: Duration = Duration::from_secs(1);
/// The size of a block that is larger than the allocator's free lists hold: freeing one purges what is due.
const BLOCK_BYTES: usize = 4 << 20;
/// The minimum for pending writes: the largest request body is 16 MiB.
const MIN_WRITES: u64 = 20 * MIB;
/// The minimum for the memtables: each of four parts holds a few values.
const MIN_MEMTABLES: u64 = 8 * MIB;
/// The minimum for a queue or cache of log entries.
const MIN_ENTRIES: u64 = 4 * MIB;
/// The minimum for peers: one frame of the largest kind, and room for small ones.
const MIN_PEERS: u64 = 40 * MIB;

/// The budget of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// The whole, in bytes; none where no limit is known.
    pub whole: Option<u64>,
}

/// Below this the minimum sizes of some parts exceed the whole.
pub(super) const MIN_MEMORY: u64 = 256 * MIB;

/// Below this huge pages cost more than they gain: each touched segment of 64 KiB takes 2 MiB.
const SMALL: u64 = 1024 * MIB;

impl Memory {
    /// The budget of `limits.memory_mb`; 0 is three quarters of the lowest limit.
    pub(super) fn new(setting_mb: u64) -> Self {
        Self::under(setting_mb, Path::new("/"))
    }

    fn under(setting_mb: u64, root: &Path) -> Self {
        // Divided before it is multiplied: version 1 of control groups reports 2^63 for no limit.
        let whole = if setting_mb > 0 { Some(setting_mb * MIB) } else { lowest_limit(root).map(|limit| limit / 4 * 3) };
        Self { whole }
    }

    /// Whether there is too little for huge pages.
    pub(super) fn is_small(self) -> bool {
        self.whole.is_some_and(|whole| whole < SMALL)
    }

    /// One `part`th, at most `most` bytes.
    fn part(self, part: u64, most: u64) -> u64 {
        self.whole.map_or(most, |whole| (whole / part).min(most))
    }

    /// The tree's cache; sled takes up to twice as much.
    pub(super) fn cache(self) -> u64 {
        self.part(8, 256 * MIB)
    }

    /// The memtables of the state machine, and the encoding of one of them.
    pub(super) fn memtables(self) -> usize {
        super::module_options::size(self.part(16, 96 * MIB).max(MIN_MEMTABLES))
    }

    /// The history of the change feed.
    pub(super) fn history(self) -> u64 {
        self.part(16, 32 * MIB)
    }

    /// What clients hold, by kind.
    pub(super) fn clients(self) -> crate::http::Budgets {
        let bytes = |part, most| super::module_options::size(self.part(part, most));
        crate::http::Budgets {
            bodies: bytes(8, 256 * MIB),
            answers: bytes(8, 256 * MIB),
            events: bytes(32, 64 * MIB),
            transactions: bytes(16, 256 * MIB),
            renewals: bytes(32, 128 * MIB),
        }
    }

    /// The maximum number of client connections, with or without TLS.
    pub(super) fn connections(self, most: usize, with_tls: bool) -> usize {
        let each = if with_tls { TLS_CONNECTION_BYTES } else { CONNECTION_BYTES };
        most.min(super::module_options::size(self.part(8, u64::MAX) / each))
    }

    /// The maximum number of watchers.
    pub(super) fn watchers(self, most: usize) -> usize {
        most.min(super::module_options::size(self.part(8, u64::MAX) / WATCHER_BYTES))
    }

    /// The maximum number of addresses with a request limit of their own; about 43 000 from 1 GiB on.
    pub(super) fn limited_addresses(self) -> usize {
        super::module_options::size(self.part(256, 4 * MIB) / LIMITED_ADDRESS_BYTES).max(MIN_LIMITED_ADDRESSES)
    }

    /// Pending writes of clients, and as much again for those that members forward.
    pub(super) fn writes(self) -> usize {
        super::module_options::size(self.part(16, 256 * MIB).max(MIN_WRITES))
    }

    /// The send queue of raft messages to one member.
    pub(super) fn send_queue(self) -> usize {
        super::module_options::size(self.part(32, 64 * MIB).max(MIN_ENTRIES))
    }

    /// The cache of the latest log entries.
    pub(super) fn entry_cache(self) -> usize {
        super::module_options::size(self.part(32, 32 * MIB).max(MIN_ENTRIES))
    }

    /// The frames of members that are being received or handled.
    pub(super) fn peers(self) -> usize {
        super::module_options::size(self.part(8, 256 * MIB).max(MIN_PEERS))
    }
}

/// Returns freed memory to the system, every second, until it is aborted.
///
/// mimalloc purges only when a later block is freed, so after a load nothing would be returned until the next one. This
/// task frees a large block each second; it is never written to, so it takes no memory itself.
pub(super) async fn purge_freed() {
    loop {
        tokio::time::sleep(PURGE_EVERY).await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(BLOCK_BYTES)));
    }
}

/// Reads the lowest limit of memory from the files of Linux below `root`, in bytes; None where there is none.
///
/// `/proc/self/cgroup` has one line per hierarchy. `0::/kubepods/pod1/c1` is version 2: the limits are in
/// `/sys/fs/cgroup/kubepods/pod1/c1/memory.max` and in those of `pod1`, `kubepods` and the root. `4:memory:/docker/abc` is
/// version 1, with `memory.limit_in_bytes` below `/sys/fs/cgroup/memory`.
fn lowest_limit(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let groups = read("proc/self/cgroup").unwrap_or_default();
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (mount, file) = if controllers.is_empty() {
            ("sys/fs/cgroup", "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        } else {
            continue;
        };
        // The limits of all ancestors hold, too. A container may see its own group as the root: then the deeper files do not
        // exist, and only the last one, of the root, is read.
        let mut group = path.trim_matches('/');
        loop {
            files.push(format!("{mount}/{group}/{file}"));
            let Some((parent, _)) = group.rsplit_once('/') else { break };
            group = parent;
        }
        files.push(format!("{mount}/{file}"));
    }
    // No limit is "max" in version 2, which is no number, and in version 1 a number above all memory, which the machine's
    // memory undercuts.
    let of_groups = files.iter().filter_map(|file| read(file)?.trim().parse().ok());
    let of_machine = read("proc/meminfo").and_then(|text| {
        let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        kilobytes.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
    });
    of_groups.chain(of_machine).filter(|bytes| *bytes > 0).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of 4 GiB with these files.
    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let memory = ("proc/meminfo", "MemTotal:        4194304 kB\nMemFree:          1 kB\n");
        for (path, text) in files.iter().chain([&memory]) {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)]) -> u64 {
        Memory::under(0, machine(files).path()).whole.unwrap() / MIB
    }

    #[test]
    fn the_lowest_limit_counts_and_a_quarter_is_left_to_the_system() {
        let v2 = ("proc/self/cgroup", "0::/kubepods/pod1/c1\n");
        assert_eq!(found(&[]), 3072);
        assert_eq!(found(&[v2, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "536870912\n")]), 384);
        assert_eq!(found(&[v2, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n")]), 3072);
        let parent = ("sys/fs/cgroup/kubepods/memory.max", "268435456\n");
        assert_eq!(found(&[v2, parent, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "536870912\n")]), 192);
        // A container that sees its own group as the root.
        assert_eq!(found(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "536870912\n")]), 384);
        let v1 = ("proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n");
        assert_eq!(found(&[v1, ("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "536870912\n")]), 384);
        assert_eq!(found(&[v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")]), 384);
        assert_eq!(found(&[v1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")]), 3072);
        for nonsense in ["", "\n", "x", "0\n", "-1"] {
            assert_eq!(found(&[v2, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", nonsense)]), 3072, "{nonsense:?}");
        }
    }

    #[test]
    fn a_setting_wins_and_the_parts_leave_room() {
        assert_eq!(Memory::under(512, machine(&[]).path()).whole, Some(512 * MIB));
        for megabytes in [128, 384, 512, 3072, 1 << 20] {
            let memory = Memory::under(megabytes, Path::new("/nowhere"));
            let clients = memory.clients();
            let held = clients.bodies + clients.answers + clients.events + clients.transactions + clients.renewals;
            let all = held as u64 + memory.cache() + memory.history();
            let of_log = memory.entry_cache() + 2 * memory.send_queue() + 2 * memory.writes();
            assert!(all + of_log as u64 <= (megabytes * MIB).max(MIN_MEMORY), "{megabytes}: {all} and {of_log}");
            assert!(all <= megabytes * MIB * 2 / 3, "{megabytes}: {all}");
        }
        let (small, large) = (Memory::under(384, Path::new("/nowhere")), Memory::under(8192, Path::new("/nowhere")));
        assert_eq!((small.cache(), small.clients().bodies), (48 * MIB, 48 << 20));
        assert_eq!((small.connections(4096, false), small.watchers(2048), small.peers()), (1536, 512, 48 << 20));
        assert_eq!((large.cache(), large.clients().bodies), (256 * MIB, 256 << 20));
        assert_eq!((large.connections(4096, false), large.watchers(2048), large.peers()), (4096, 2048, 256 << 20));
        assert_eq!((small.writes(), small.send_queue(), small.entry_cache()), (24 << 20, 12 << 20, 12 << 20));
        assert_eq!((small.limited_addresses(), large.limited_addresses()), (16_384, 43_690));
        assert_eq!(Memory::under(1, Path::new("/nowhere")).limited_addresses(), 256, "the minimum");
        assert_eq!((large.writes(), large.send_queue(), large.entry_cache()), (256 << 20, 64 << 20, 32 << 20));
        let unknown = Memory::under(0, Path::new("/nowhere"));
        assert_eq!((unknown.whole, unknown.cache(), unknown.watchers(2048)), (None, 256 * MIB, 2048));
    }
}
