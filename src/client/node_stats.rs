//! Reader of `/raft/stats`: the state of one node, and its view of the members.
//!
//! Why: `huskv members`, `status` and `demo` read the same document; its fields are named once, here.
//!
//! Invariants: a missing field has its default, so the stats of an older version are readable.
//!
//! See also: `http::api::status_json`, which writes the document.

use serde::{Deserialize, Deserializer};

use crate::model::Leader;

/// The `data` of a stats response.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NodeStats {
    /// The node's name.
    pub node_id: String,
    /// The id of its incarnation.
    #[serde(deserialize_with = "text_of_number")]
    pub raft_id: String,
    /// The id of its cluster.
    #[serde(deserialize_with = "text_of_number")]
    pub cluster_id: String,
    /// Its raft state: `Leader`, `Follower` or a kind of candidate.
    pub state: String,
    /// Its term.
    #[serde(deserialize_with = "text_of_number")]
    pub term: String,
    /// The index of the last applied entry.
    #[serde(deserialize_with = "text_of_number")]
    pub applied_index: String,
    /// The leader, where the node knows it.
    pub leader: Option<Leader>,
    /// The member table.
    pub members: Vec<MemberStats>,
    /// The number of voters.
    pub voters: u64,
    /// How many voters the node does not hear.
    pub voters_unreachable: u64,
    /// How many more voters may fail.
    pub failure_tolerance: u64,
    /// Whether the node was removed from its cluster.
    pub removed: bool,
    /// Whether it is joining a cluster.
    pub joining: bool,
    /// The addresses with which it is to form a cluster, until it has.
    pub forming: Option<Vec<String>>,
    /// The claim that it asks the other voters about, such as its own removal.
    pub verifying: Option<String>,
    /// Why it takes no requests.
    pub not_ready: Option<NotReady>,
    /// Members that a copy of a data directory claims to be, and members that take this node for such a copy.
    pub identity_conflict: Vec<String>,
    /// Its peer address, where it shows an outline only, as to a client without a token.
    pub raft_address: String,
    /// The end of the certificate of its HTTP port, RFC 3339.
    pub tls_http_not_after: Option<String>,
    /// The end of the certificate of its peer port, RFC 3339.
    pub tls_peer_not_after: Option<String>,
}

/// A row of the member table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MemberStats {
    /// The member's name.
    pub node_id: String,
    /// The id of its incarnation.
    #[serde(deserialize_with = "text_of_number")]
    pub raft_id: String,
    /// Where its peers dial it.
    pub raft_address: String,
    /// Where its clients find it.
    pub http_address: String,
    /// `voter` or `learner`.
    pub role: String,
    /// Milliseconds since the node last heard it; none for never.
    pub heard_ms: Option<u64>,
    /// Whether it counts as reachable; none from a version that does not report it.
    pub connected: Option<bool>,
    /// Its disk, where it has reported it.
    pub disk: Option<DiskStats>,
}

/// The space on a member's disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct DiskStats {
    /// Free bytes.
    pub free_bytes: u64,
    /// Whether less than the reserve is free.
    pub nearly_full: bool,
}

/// Why a node takes no requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct NotReady {
    /// The stable code.
    pub code: String,
    /// The explanation.
    pub detail: String,
}

/// Accepts a number or its text: some JSON writers send 64-bit numbers as strings.
fn text_of_number<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(match Either::deserialize(from)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_are_numbers_or_texts_and_missing_fields_have_defaults() {
        let stats = NodeStats::deserialize(json!({
            "raft_id": u64::MAX, "cluster_id": "7", "term": "3", "leader": null,
            "members": [{ "raft_id": 1, "role": "voter", "progress": "Replicate" }],
        }));
        let stats = stats.unwrap();
        assert_eq!((stats.raft_id.as_str(), stats.cluster_id.as_str()), ("18446744073709551615", "7"));
        assert_eq!((stats.term.as_str(), stats.members[0].raft_id.as_str()), ("3", "1"));
        assert_eq!((stats.members[0].connected, stats.not_ready, stats.removed), (None, None, false));
        assert!(NodeStats::deserialize(json!({ "raft_id": [] })).is_err());
    }
}
