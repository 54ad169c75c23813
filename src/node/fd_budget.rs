//! The limit of open files, and its division among clients, peers and the disk.
//!
//! Why: every connection is a file. A node without a free one cannot open its own files, and ends, or cannot reach its
//! peers.
//!
//! Invariants: the parts leave what the disk needs, whatever clients and peers do. A limit below [`MIN_FILES`] is refused
//! at the start, before anything is created.
//!
//! Example: of 1 024 files 500 are for clients, 140 for client connections that are being closed, 256 for connections
//! to the peer port, and 64 for the disk, the runtime and connections to members.
//!
//! See also: `http::server::connection_slots` and `transport::connection_slots` (which connection gets a slot),
//! [`super::process_settings`] (the soft limit).

use rustix::process::{Resource, getrlimit};

/// The minimum number of files of a node.
pub(super) const MIN_FILES: usize = 128;
/// The files of the disk and the runtime, and the connections to members.
const OWN: usize = 64;
/// The maximum number of connections to the peer port; a member holds two or three.
const INBOUND: usize = 256;
/// The minimum number of client connections that may be closing.
const CLOSING: usize = 12;
/// What is left to all of these where there are many files.
const RESERVED: usize = OWN + INBOUND + 64;

/// The number of files that the process may open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileLimit(usize);

impl FileLimit {
    /// Reads the soft limit of the process.
    pub(super) fn of_the_process() -> Self {
        Self(getrlimit(Resource::Nofile).current.map_or(usize::MAX, super::module_options::size))
    }

    /// Returns the limit where it is below [`MIN_FILES`].
    pub(super) fn too_few(self) -> Option<usize> {
        (self.0 < MIN_FILES).then_some(self.0)
    }

    /// The sockets of clients: open connections, and those that are being closed with a refusal.
    fn client_sockets(self) -> usize {
        // With few files the reserve would leave clients nothing, so they have a quarter at least.
        self.0.saturating_sub(RESERVED).max(self.0 / 4)
    }

    /// The maximum number of client connections. A quarter as many again, and a few, may be closing.
    pub(super) fn connections(self, most: usize) -> usize {
        most.min(self.client_sockets().saturating_sub(CLOSING) / 5 * 4)
    }

    /// The maximum number of connections to the peer port.
    pub(super) fn inbound(self) -> usize {
        INBOUND.min(self.0.saturating_sub(OWN + self.client_sockets()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_leave_what_the_disk_needs() {
        for files in MIN_FILES..5_000 {
            let parts = FileLimit(files);
            assert!(parts.too_few().is_none());
            let clients = parts.connections(4096);
            // As many as http keeps beside them.
            let closing = (clients / 8).clamp(4, 64) + (clients / 8).clamp(8, 512);
            assert!(clients + closing + parts.inbound() + OWN <= files, "{files}: {clients} and {}", parts.inbound());
            assert!(clients >= 16 && parts.inbound() >= 32, "{files}: {parts:?}");
        }
        assert_eq!((FileLimit(1024).connections(4096), FileLimit(1024).inbound()), (500, 256));
        assert_eq!((FileLimit(usize::MAX).connections(4096), FileLimit(usize::MAX).inbound()), (4096, 256));
        assert_eq!((FileLimit(MIN_FILES - 1).too_few(), FileLimit(0).connections(4096)), (Some(MIN_FILES - 1), 0));
    }
}
