//! How many files a node may have open, and how they are divided.
//!
//! Why: every connection is one. A node that runs out of them cannot open its own, and ends, or cannot hear its peers.
//!
//! Laws: the parts leave what the disk needs, whatever clients and peers do. A limit that no node can live with is said at
//! the start, before anything is created.
//!
//! Not here: who finds a place (`http`, `transport`), and raising the soft limit ([`super::process`]).

use rustix::process::{Resource, getrlimit};

/// The fewest files that a node can live with.
pub(super) const LEAST: usize = 128;
/// What the disk takes, the runtime, and connections to members.
const OWN: usize = 64;
/// The most connections that strangers and peers make; a member holds two or three.
const INBOUND: usize = 256;
/// How many sockets on their way out there may be at least.
const PARTING: usize = 12;
/// What is left to all of these where there are many files.
const RESERVED: usize = OWN + INBOUND + 64;

/// What each part of a node may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Files(usize);

impl Files {
    /// As the system says now.
    pub(super) fn of_the_process() -> Self {
        Self(getrlimit(Resource::Nofile).current.map_or(usize::MAX, super::options::size))
    }

    /// All of them, where they are too few.
    pub(super) fn too_few(self) -> Option<usize> {
        (self.0 < LEAST).then_some(self.0)
    }

    /// The sockets of clients: those that have a place, and those that are sent away.
    fn sockets(self) -> usize {
        self.0.saturating_sub(RESERVED).max(self.0 / 4)
    }

    /// The most connections of clients. A quarter as many again, and a few, may be on their way out.
    pub(super) fn connections(self, most: usize) -> usize {
        most.min(self.sockets().saturating_sub(PARTING) / 5 * 4)
    }

    /// The most connections that others make to the peer port.
    pub(super) fn inbound(self) -> usize {
        INBOUND.min(self.0.saturating_sub(OWN + self.sockets()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_leave_what_the_disk_needs() {
        for files in LEAST..5_000 {
            let parts = Files(files);
            assert!(parts.too_few().is_none());
            let clients = parts.connections(4096);
            // As many as http keeps beside them.
            let parting = (clients / 8).clamp(4, 64) + (clients / 8).clamp(8, 512);
            assert!(clients + parting + parts.inbound() + OWN <= files, "{files}: {clients} and {}", parts.inbound());
            assert!(clients >= 16 && parts.inbound() >= 32, "{files}: {parts:?}");
        }
        assert_eq!((Files(1024).connections(4096), Files(1024).inbound()), (500, 256));
        assert_eq!((Files(usize::MAX).connections(4096), Files(usize::MAX).inbound()), (4096, 256));
        assert_eq!((Files(LEAST - 1).too_few(), Files(0).connections(4096)), (Some(LEAST - 1), 0));
    }
}
