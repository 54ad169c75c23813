//! The identity file: which node this is.
//!
//! Why: the raft id selects the folder with the node's log and state, so the rename that replaces this file is the commit point
//! of a join.
//!
//! Invariants: replaced as a whole (write, fsync, rename, fsync of the directory), never edited. Checked before anything else in
//! the directory is opened.
//!
//! See also: [`super::DataDir`] (the folders it names).

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::checksummed_file::FileFormat;
use super::layout::{IDENTITY, IDENTITY_VERSION};
use crate::model::BootHistory;

/// Version 1 had no boot history; before version 3 there was no redo record and one journal.
const FORMAT: FileFormat = FileFormat { file: IDENTITY, magic: "huskv-identity", oldest: 1, version: IDENTITY_VERSION };

/// The content of the `identity` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name of the node (RAFT_NODE_ID).
    pub started_as: String,
    /// Its cluster.
    pub cluster_id: u64,
    /// The raft id of the incarnation in use; its folder has this name.
    pub raft_id: u64,
    /// The number of its journal folder.
    #[serde(default)]
    pub journal: u64,
    /// False while the folder of the first incarnation is being created.
    pub ready: bool,
    /// Whether it formed or joined a cluster: such a node never forms another from `HUSKV_JOIN`.
    pub formed: bool,
    /// Whether it was removed from its cluster.
    pub removed: bool,
    /// The raft address that the cluster last recorded for it.
    pub raft_address: String,
    /// The client address that the cluster last recorded for it.
    pub http_address: String,
    /// The HTTP port picked at the first start with port 0.
    pub picked_http_port: Option<u16>,
    /// The raft port picked at the first start with port 0.
    pub picked_raft_port: Option<u16>,
    /// The incarnation before a join, until a snapshot of the new cluster is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousIncarnation>,
    /// The boot id of this process and of earlier ones.
    #[serde(rename = "lives", default)]
    pub boot_history: BootHistory,
}

/// The incarnation that a joiner rolls back to if the join is never completed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviousIncarnation {
    /// The cluster it belonged to.
    pub cluster_id: u64,
    /// Its raft id; its folder has this name.
    pub raft_id: u64,
    /// The number of its journal folder.
    #[serde(default)]
    pub journal: u64,
    /// [`Identity::formed`] then.
    pub formed: bool,
    /// [`Identity::removed`] then.
    pub removed: bool,
    /// [`Identity::raft_address`] then.
    pub raft_address: String,
    /// [`Identity::http_address`] then.
    pub http_address: String,
    /// Whether it holds data that only a join with `force` may replace.
    pub holds_data: bool,
}

/// Reads the identity of a data directory without creating, locking or changing anything; None if there is no node yet.
///
/// # Errors
/// [`Error`] where the file is damaged, newer, or cannot be read.
pub fn peek(dir: &Path) -> Result<Option<Identity>, Error> {
    let directory = dir.display().to_string();
    // Without the engine: the command line reads the name of a stopped or running node without its lock.
    match std::fs::read(dir.join(IDENTITY)) {
        Ok(bytes) => decode(&bytes, &directory).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: "reading the identity".into(), path: directory, source }),
    }
}

/// Encodes the file.
pub(super) fn encode(identity: &Identity) -> Vec<u8> {
    FORMAT.encode(identity)
}

/// Decodes the file.
///
/// # Errors
/// [`Error::Newer`] and [`Error::Damaged`], both naming `directory`.
pub(super) fn decode(bytes: &[u8], directory: &str) -> Result<Identity, Error> {
    FORMAT.decode(bytes, directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BootId;

    fn identity() -> Identity {
        Identity {
            started_as: "node1".into(),
            cluster_id: 3,
            raft_id: 5,
            journal: 0,
            ready: true,
            formed: false,
            removed: false,
            raft_address: "a:1".into(),
            http_address: "a:2".into(),
            picked_http_port: None,
            picked_raft_port: Some(7),
            previous: None,
            boot_history: BootHistory {
                current: BootId { count: 2, nonce: 9 },
                before: vec![BootId { count: 1, nonce: 8 }],
            },
        }
    }

    fn joining() -> Identity {
        let previous = PreviousIncarnation {
            cluster_id: 1,
            raft_id: 2,
            journal: 0,
            formed: true,
            removed: false,
            raft_address: "a:1".into(),
            http_address: "a:2".into(),
            holds_data: true,
        };
        Identity { previous: Some(previous), ..identity() }
    }

    #[test]
    fn golden_bytes() {
        let golden = "huskv-identity 3 6df3c591\n{\n  \"started_as\": \"node1\",\n  \"cluster_id\": 3,\n  \"raft_id\": 5,\n  \
                      \"journal\": 0,\n  \"ready\": true,\n  \"formed\": false,\n  \"removed\": false,\n  \"raft_address\": \"a:1\",\n  \
                      \"http_address\": \"a:2\",\n  \"picked_http_port\": null,\n  \"picked_raft_port\": 7,\n  \"lives\": {\n    \
                      \"current\": {\n      \"count\": 2,\n      \"nonce\": 9\n    },\n    \"before\": [\n      {\n        \
                      \"count\": 1,\n        \"nonce\": 8\n      }\n    ]\n  }\n}\n";
        assert_eq!(String::from_utf8(encode(&identity())).unwrap(), golden);
        assert_eq!(decode(golden.as_bytes(), "d").unwrap(), identity());
        let bytes = String::from_utf8(encode(&joining())).unwrap();
        let golden = "\"picked_raft_port\": 7,\n  \"previous\": {\n    \"cluster_id\": 1,\n    \"raft_id\": 2,\n    \
                      \"journal\": 0,\n    \"formed\": true,\n    \"removed\": false,\n    \"raft_address\": \"a:1\",\n    \
                      \"http_address\": \"a:2\",\n    \"holds_data\": true\n  },\n  \"lives\": {";
        assert!(bytes.contains(golden), "{bytes}");
        assert_eq!(decode(bytes.as_bytes(), "d").unwrap(), joining());
    }

    #[test]
    fn version_1_had_no_boot_history() {
        let old = "huskv-identity 1 954e9c00\n{\n  \"started_as\": \"node1\",\n  \"cluster_id\": 3,\n  \"raft_id\": 5,\n  \
                   \"ready\": true,\n  \"formed\": false,\n  \"removed\": false,\n  \"raft_address\": \"a:1\",\n  \
                   \"http_address\": \"a:2\",\n  \"picked_http_port\": null,\n  \"picked_raft_port\": 7\n}\n";
        assert_eq!(
            decode(old.as_bytes(), "d").unwrap(),
            Identity { boot_history: BootHistory::default(), ..identity() }
        );
    }

    #[test]
    fn any_flipped_or_missing_byte_is_found() {
        let bytes = encode(&identity());
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            // Version 2 had the same fields but one, and is read the same.
            assert!(decode(&flipped, "d").map_or(true, |read| read == identity()), "flipped byte {at}");
            assert!(matches!(decode(&bytes[..at], "d"), Err(Error::Damaged { .. })), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let bytes = String::from_utf8(encode(&identity())).unwrap().replacen(" 3 ", " 4 ", 1);
        assert!(matches!(decode(bytes.as_bytes(), "d"), Err(Error::Newer { found: 4, known: 3, .. })));
    }

    #[test]
    fn peeking_creates_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(peek(&dir.path().join("none")).unwrap().is_none());
        assert!(!dir.path().join("none").exists());
        std::fs::write(dir.path().join(IDENTITY), encode(&identity())).unwrap();
        assert_eq!(peek(dir.path()).unwrap(), Some(identity()));
    }
}
