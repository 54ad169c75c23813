//! Storage errors, with instructions for the operator.
//!
//! Why: a node that cannot keep its promises stops, and this one message is all its operator has.
//!
//! Invariants: every message names the place and the remedy. Every error but [`Error::Snapshot`] ends the process.
//!
//! See also: `consensus` (what clients are answered then).

use thiserror::Error;

use crate::model::mib;

/// The free bytes needed to start: two segments of each database and the small files.
const START_BYTES: u64 = 20 << 20;

/// A storage error. All but [`Error::Snapshot`] end the process; none leaves a partial change.
#[derive(Debug, Error)]
pub enum Error {
    /// A system call failed.
    #[error("{what} in {path}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The path.
        path: String,
        /// The error of the system.
        source: std::io::Error,
    },
    /// No space is left.
    #[error(
        "disk full: {what} in {path} found no space. {} are free there now, and a node needs at least {} to start{hint}. \
         Free that much on this file system or make it larger, then start again; nothing acknowledged is lost. If that \
         cannot be done, start the node on an empty directory of a larger disk and POST /raft/join for it on a healthy member",
        mib(*free_bytes),
        mib(START_BYTES)
    )]
    Full {
        /// The operation.
        what: String,
        /// The directory of the node.
        path: String,
        /// The free bytes.
        free_bytes: u64,
        /// A further hint; may be empty.
        hint: &'static str,
    },
    /// Data on disk differs from what was written.
    #[error(
        "{what} is damaged: {detail}. huskv has changed nothing there, but its storage engine may have: where it finds an \
         unfinished end of its own files (`db`, `snap.*`), it truncates it before huskv sees anything. To rejoin: move the directory {path} away, start the node empty and POST /raft/join for it on a healthy member"
    )]
    Damaged {
        /// The damaged file or database.
        what: String,
        /// The finding.
        detail: String,
        /// The directory of the node.
        path: String,
    },
    /// Files in use are no longer in their place: the directory was removed, replaced or unmounted under the process.
    #[error(
        "{what} is no longer in {path}: the directory was removed, replaced or unmounted while the node ran. Bring the same directory back and start again; if it is lost, start the node empty and POST /raft/join for it on a healthy member"
    )]
    Gone {
        /// The missing file.
        what: String,
        /// The directory of the node.
        path: String,
    },
    /// Written by a newer huskv.
    #[error("{what} has format version {found}, this huskv reads up to {known}; start the newer huskv again")]
    Newer {
        /// The file or database.
        what: String,
        /// The version found.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// Another process uses the directory.
    #[error("{path} is in use by another huskv process; one directory, one process")]
    Busy {
        /// The directory.
        path: String,
    },
    /// The directory belongs to another node name.
    #[error(
        "{path} belongs to node {found:?}, but RAFT_NODE_ID says {asked:?}; start it under its own name, or use another RAFT_VOL_DIR"
    )]
    OtherName {
        /// The directory.
        path: String,
        /// The name in its identity.
        found: String,
        /// The name asked for now.
        asked: String,
    },
    /// A flush did not reach the disk in the start-up test.
    #[error(
        "the storage engine's flush does not reach the disk in this build ({detail}); refusing to promise durability"
    )]
    NotDurable {
        /// The observation.
        detail: String,
    },
    /// A snapshot was aborted: cancelled, over a limit, or malformed. The node goes on.
    #[error("the snapshot was aborted: {detail}")]
    Snapshot {
        /// The reason.
        detail: String,
    },
}

impl Error {
    /// Returns the error of an aborted snapshot.
    pub(super) fn snapshot(detail: impl Into<String>) -> Self {
        Self::Snapshot { detail: detail.into() }
    }
}
