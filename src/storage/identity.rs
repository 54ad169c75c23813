//! Who the node is, in one small checksummed file.

use serde::{Deserialize, Serialize};

/// The content of the `identity` file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name that the process is started with (RAFT_NODE_ID).
    pub started_as: String,
    /// The cluster it belongs to.
    pub cluster_id: u64,
    /// The raft id of the incarnation in use; its folder has this name.
    pub raft_id: u64,
    /// False while the folder of that incarnation is still being made, at the very first start only.
    pub ready: bool,
    /// Whether it began or joined a cluster on purpose: such a node never forms another from `HUSKV_JOIN`.
    pub formed: bool,
    /// Whether it was removed from its cluster.
    pub removed: bool,
    /// The raft address it last had the cluster record for it.
    pub raft_address: String,
    /// The client address it last had the cluster record for it.
    pub http_address: String,
    /// The HTTP port picked at the first start with port 0.
    pub picked_http_port: Option<u16>,
    /// The raft port picked at the first start with port 0.
    pub picked_raft_port: Option<u16>,
}
