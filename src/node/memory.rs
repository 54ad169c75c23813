//! How much memory a node may take, and how that is divided.
//!
//! Why: a container that takes more than its limit is killed, and the next node inherits its clients. So what clients,
//! peers and the tree may hold follows from one number, and what goes beyond it is refused.
//!
//! Laws: without a setting the number is three quarters of the least limit that is found: that of any control group the
//! process is in, and the machine's memory. The rest is the system's: file pages and socket buffers count in a control
//! group. No part is larger than what a node is fast with.
//!
//! Not here: who holds what (`http::server::memory_budget`, `transport::memory_budget`).

use std::path::Path;
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// What a connection may take besides its budgets: hyper's buffers and the task.
const CONNECTION_BYTES: u64 = 32 << 10;
/// What a watcher may take: a connection and a few pieces of text.
const WATCHER_BYTES: u64 = 96 << 10;
/// How often what was freed is given back to the system.
const GIVE_BACK: Duration = Duration::from_secs(1);
/// A block that the allocator keeps in no list of its own: what is freed with it goes back.
const BLOCK_BYTES: usize = 4 << 20;
/// The least that writes need, and a queue or cache of log entries.
const WRITES_LEAST: u64 = 20 * MIB;
const ENTRIES_LEAST: u64 = 4 * MIB;
/// The least that peers need: one frame of the largest kind, and some air.
const PEERS_LEAST: u64 = 40 * MIB;

/// What each part of a node may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Memory {
    /// All of it, in bytes; none where nothing is known.
    pub whole: Option<u64>,
}

/// Below this the parts that have a least size outweigh the others.
pub(super) const LEAST: u64 = 256 * MIB;

/// Below this huge pages cost more than they gain: each touched piece of 64 KiB takes 2 MiB.
const SMALL: u64 = 1024 * MIB;

impl Memory {
    /// As much as the setting says; 0 is three quarters of the limit.
    pub(super) fn new(setting_mb: u64) -> Self {
        Self::under(setting_mb, Path::new("/"))
    }

    fn under(setting_mb: u64, root: &Path) -> Self {
        let whole = if setting_mb > 0 { Some(setting_mb * MIB) } else { limit(root).map(|limit| limit / 4 * 3) };
        Self { whole }
    }

    /// Whether there is too little of it for huge pages.
    pub(super) fn is_small(self) -> bool {
        self.whole.is_some_and(|whole| whole < SMALL)
    }

    /// One `part`th, but not more than `most` bytes.
    fn part(self, part: u64, most: u64) -> u64 {
        self.whole.map_or(most, |whole| (whole / part).min(most))
    }

    /// The tree's cache; sled takes about as much again in the worst case.
    pub(super) fn cache(self) -> u64 {
        self.part(8, 256 * MIB)
    }

    /// The latest changes that are kept for watchers.
    pub(super) fn history(self) -> u64 {
        self.part(16, 32 * MIB)
    }

    /// What clients hold.
    pub(super) fn clients(self) -> crate::http::Budgets {
        let bytes = |part, most| super::options::size(self.part(part, most));
        crate::http::Budgets {
            bodies: bytes(8, 256 * MIB),
            answers: bytes(8, 256 * MIB),
            events: bytes(32, 64 * MIB),
            transactions: bytes(16, 256 * MIB),
            renewals: bytes(32, 128 * MIB),
        }
    }

    /// The most connections of clients.
    pub(super) fn connections(self, most: usize) -> usize {
        most.min(super::options::size(self.part(8, u64::MAX) / CONNECTION_BYTES))
    }

    /// The most watchers.
    pub(super) fn watchers(self, most: usize) -> usize {
        most.min(super::options::size(self.part(8, u64::MAX) / WATCHER_BYTES))
    }

    /// Writes that wait for their answer: of clients, and as much for what members forward.
    pub(super) fn writes(self) -> usize {
        super::options::size(self.part(16, 256 * MIB).max(WRITES_LEAST))
    }

    /// Raft messages that wait to be sent to one member.
    pub(super) fn send_queue(self) -> usize {
        super::options::size(self.part(32, 64 * MIB).max(ENTRIES_LEAST))
    }

    /// The last entries of the log.
    pub(super) fn entry_cache(self) -> usize {
        super::options::size(self.part(32, 32 * MIB).max(ENTRIES_LEAST))
    }

    /// What members' frames on their way take.
    pub(super) fn peers(self) -> usize {
        super::options::size(self.part(8, 256 * MIB).max(PEERS_LEAST))
    }
}

/// Gives back to the system, for as long as it runs, what was freed a second ago or earlier.
///
/// The allocator does that only where a block is freed later, so after a load nothing would go back until the next one. Here
/// such a block is freed each second; it is never written to, so it takes no memory.
pub(super) async fn give_back() {
    loop {
        tokio::time::sleep(GIVE_BACK).await;
        drop(std::hint::black_box(Vec::<u8>::with_capacity(BLOCK_BYTES)));
    }
}

/// The least limit of memory, in bytes, as Linux tells it below `root`; None where nothing is told.
fn limit(root: &Path) -> Option<u64> {
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
        // A group is bound by those that it is in; where a container sees its own group as the root, there are none below.
        let mut group = path.trim_matches('/');
        loop {
            files.push(format!("{mount}/{group}/{file}"));
            let Some((above, _)) = group.rsplit_once('/') else { break };
            group = above;
        }
        files.push(format!("{mount}/{file}"));
    }
    // "max" is no number, and version 1 says a number beyond all memory.
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
    fn state_machine(files: &[(&str, &str)]) -> tempfile::TempDir {
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
        Memory::under(0, state_machine(files).path()).whole.unwrap() / MIB
    }

    #[test]
    fn the_least_limit_counts_and_a_quarter_is_left_to_the_system() {
        let v2 = ("proc/self/cgroup", "0::/kubepods/pod1/c1\n");
        assert_eq!(found(&[]), 3072);
        assert_eq!(found(&[v2, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "536870912\n")]), 384);
        assert_eq!(found(&[v2, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "max\n")]), 3072);
        let above = ("sys/fs/cgroup/kubepods/memory.max", "268435456\n");
        assert_eq!(found(&[v2, above, ("sys/fs/cgroup/kubepods/pod1/c1/memory.max", "536870912\n")]), 192);
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
        assert_eq!(Memory::under(512, state_machine(&[]).path()).whole, Some(512 * MIB));
        for megabytes in [128, 384, 512, 3072, 1 << 20] {
            let memory = Memory::under(megabytes, Path::new("/nowhere"));
            let clients = memory.clients();
            let held = clients.bodies + clients.answers + clients.events + clients.transactions + clients.renewals;
            let all = held as u64 + memory.cache() + memory.history();
            let of_log = memory.entry_cache() + 2 * memory.send_queue() + 2 * memory.writes();
            assert!(all + of_log as u64 <= (megabytes * MIB).max(LEAST), "{megabytes}: {all} and {of_log}");
            assert!(all <= megabytes * MIB * 2 / 3, "{megabytes}: {all}");
        }
        let (small, large) = (Memory::under(384, Path::new("/nowhere")), Memory::under(8192, Path::new("/nowhere")));
        assert_eq!((small.cache(), small.clients().bodies), (48 * MIB, 48 << 20));
        assert_eq!((small.connections(4096), small.watchers(2048), small.peers()), (1536, 512, 48 << 20));
        assert_eq!((large.cache(), large.clients().bodies), (256 * MIB, 256 << 20));
        assert_eq!((large.connections(4096), large.watchers(2048), large.peers()), (4096, 2048, 256 << 20));
        assert_eq!((small.writes(), small.send_queue(), small.entry_cache()), (24 << 20, 12 << 20, 12 << 20));
        assert_eq!((large.writes(), large.send_queue(), large.entry_cache()), (256 << 20, 64 << 20, 32 << 20));
        let unknown = Memory::under(0, Path::new("/nowhere"));
        assert_eq!((unknown.whole, unknown.cache(), unknown.watchers(2048)), (None, 256 * MIB, 2048));
    }
}
