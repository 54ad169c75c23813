//! Meaning of a node's stats for `status` and `demo`: its role, its readiness, its warnings, and which nodes form one
//! cluster.
//!
//! Why: on a second run of the demo the data decides, not the numbers of the nodes: any of them may be the leader, and a
//! node whose directory was wiped must not draw the others into a new cluster.
//!
//! See also: [`NodeStats`] for the fields.

use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use crate::client::{MemberStats, NodeStats};
use crate::trust::expiry;

/// A node's stats, with what `demo` and `status` derive from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeSummary {
    /// The stats themselves.
    pub stats: NodeStats,
}

impl NodeSummary {
    /// Reads the `data` of a stats response; what is missing or unreadable is empty.
    pub(crate) fn new(data: &Value) -> Self {
        Self { stats: NodeStats::deserialize(data).unwrap_or_default() }
    }

    /// The voters in its member table; a learner's join is not finished.
    pub(crate) fn voters(&self) -> impl Iterator<Item = &MemberStats> {
        self.stats.members.iter().filter(|member| member.role == "voter")
    }

    /// The name of the leader, where the node knows it.
    pub(crate) fn leader(&self) -> Option<&str> {
        self.stats.leader.as_ref().map(|leader| leader.node_id.as_str())
    }

    /// `does not hear node4 (14 s), node5 (never): 0 more may fail`; none where every voter is heard, or for a node
    /// outside the cluster.
    pub(crate) fn unheard_warning(&self) -> Option<String> {
        let since = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{} s", ms / 1000));
        let unheard: Vec<_> = self
            .voters()
            .filter(|member| member.connected == Some(false))
            .map(|member| format!("{} ({})", member.node_id, since(member.heard_ms)))
            .collect();
        if unheard.is_empty() || self.is_outside() {
            return None;
        }
        // Of 5 voters a quorum is 3: with 2 unheard 3 are left, so 0 more may fail; with 3 unheard there is no majority.
        let (count, quorum) = (self.voters().count(), self.voters().count() / 2 + 1);
        let left = match (count - unheard.len()).checked_sub(quorum) {
            Some(more) => format!("{more} more may fail"),
            None => "no majority".to_owned(),
        };
        Some(format!("does not hear {}: {left}", unheard.join(", ")))
    }

    /// `disk nearly full at node2 (12 MiB free): writes that need space are refused`; none where every voter has enough.
    pub(crate) fn disk_warning(&self) -> Option<String> {
        let full: Vec<_> = self
            .voters()
            .filter_map(|member| Some((&member.node_id, member.disk.as_ref().filter(|disk| disk.nearly_full)?)))
            .map(|(name, disk)| format!("{name} ({} MiB free)", disk.free_bytes >> 20))
            .collect();
        if full.is_empty() || self.is_outside() {
            return None;
        }
        Some(format!("disk nearly full at {}: writes that need space are refused", full.join(", ")))
    }

    /// `the certificate expires on 2027-01-02T03:04:05Z, in 9 days`, of the one that ends first; none where the end is far, or
    /// where both ports are plain.
    pub(crate) fn certificate_warning(&self, now: SystemTime) -> Option<String> {
        let ends = [&self.stats.tls_http_not_after, &self.stats.tls_peer_not_after].into_iter().flatten();
        let first = ends.filter_map(|end| humantime::parse_rfc3339(end).ok()).min()?;
        expiry::warning(first, now)
    }

    /// Whether it refuses linearizable reads until it has caught up with its leader.
    pub(crate) fn lags(&self) -> bool {
        self.stats.not_ready.as_ref().is_some_and(|reason| reason.code == "lagging")
    }

    /// Whether `other` is a voter of the cluster of this node.
    pub(crate) fn has_member(&self, other: &Self) -> bool {
        let is_voter = self.voters().any(|voter| voter.raft_id == other.stats.raft_id);
        is_voter && self.stats.cluster_id == other.stats.cluster_id && !other.is_outside()
    }

    fn is_outside(&self) -> bool {
        self.stats.removed || self.stats.joining
    }
}

/// The role of a node in one to four words; none stands for no response.
pub(crate) fn role(node: Option<&NodeSummary>) -> &'static str {
    let Some(node) = node else { return "does not answer" };
    let stats = &node.stats;
    match stats.state.as_str() {
        _ if stats.removed => "is removed",
        _ if stats.joining => "joins",
        _ if stats.forming.is_some() => "waits for a cluster",
        _ if stats.verifying.is_some() => "asks the other voters",
        "Follower" if node.lags() => "lags behind",
        "Leader" => "leads",
        "Follower" => "follows",
        _ => "campaigns",
    }
}

/// The node with the largest cluster, through which the others are joined: the first node of a first run.
pub(crate) fn join_target(nodes: &[Option<NodeSummary>]) -> Option<(usize, &NodeSummary)> {
    let mut best: Option<(usize, &NodeSummary)> = None;
    for (number, node) in nodes.iter().enumerate() {
        let Some(node) = node.as_ref().filter(|node| !node.is_outside()) else { continue };
        // Strictly greater: of equal clusters the first node wins, which on a first run is node1.
        if best.is_none_or(|(_, best)| node.voters().count() > best.voters().count()) {
            best = Some((number, node));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn summary(raft_id: u64, cluster_id: &str, members: &[u64]) -> NodeSummary {
        let members: Vec<Value> = members.iter().map(|id| json!({ "raft_id": id, "role": "voter" })).collect();
        NodeSummary::new(&json!({
            "state": "Leader", "term": "2", "raft_id": raft_id, "cluster_id": cluster_id, "members": members,
            "leader": { "node_id": "node1", "http_address": "127.0.0.1:2221" },
        }))
    }

    #[test]
    fn on_a_first_run_the_others_join_the_first_node() {
        let nodes = [Some(summary(1, "a", &[1])), Some(summary(2, "b", &[2]))];
        let (number, target) = join_target(&nodes).unwrap();
        assert_eq!(number, 0);
        assert!(!target.has_member(nodes[1].as_ref().unwrap()));
        assert_eq!((target.leader(), role(Some(target))), (Some("node1"), "leads"));
    }

    #[test]
    fn the_others_do_not_join_a_wiped_first_node() {
        let nodes = [Some(summary(9, "x", &[9])), Some(summary(2, "a", &[1, 2, 3])), Some(summary(3, "a", &[1, 2, 3]))];
        let (number, target) = join_target(&nodes).unwrap();
        assert_eq!(number, 1);
        assert!(target.has_member(nodes[2].as_ref().unwrap()) && !target.has_member(nodes[0].as_ref().unwrap()));
    }

    #[test]
    fn a_removed_node_is_neither_a_member_nor_a_join_target() {
        let mut removed = summary(2, "a", &[1, 2]);
        removed.stats.removed = true;
        assert!(!summary(1, "a", &[1, 2]).has_member(&removed));
        assert_eq!(role(Some(&removed)), "is removed");
        assert!(join_target(&[Some(removed), None]).is_none());
    }

    #[test]
    fn the_warning_names_unheard_voters_and_the_remaining_failure_tolerance() {
        let view = |voters: usize, silent: usize| {
            let member = |number: usize| {
                json!({ "node_id": format!("n{number}"), "raft_id": number, "role": "voter",
                "heard_ms": (number != 1).then_some(14_900), "connected": number >= silent })
            };
            NodeSummary::new(&json!({ "members": (0..voters).map(member).collect::<Vec<_>>() }))
        };
        assert_eq!(view(5, 0).unheard_warning(), None);
        let warnings = [(5, 1), (5, 2), (5, 3)].map(|(voters, silent)| view(voters, silent).unheard_warning().unwrap());
        assert_eq!(warnings[0], "does not hear n0 (14 s): 1 more may fail");
        assert_eq!(warnings[1], "does not hear n0 (14 s), n1 (never): 0 more may fail");
        assert_eq!(warnings[2], "does not hear n0 (14 s), n1 (never), n2 (14 s): no majority");
        let old = NodeSummary::new(&json!({ "members": [{ "node_id": "n0", "raft_id": 1, "role": "voter" }] }));
        assert_eq!(old.unheard_warning(), None, "a version that does not report `connected` gives no warning");
    }

    #[test]
    fn the_warning_names_voters_whose_disks_are_nearly_full() {
        let disk =
            |nearly_full: bool| json!({ "free_bytes": 12 << 20, "reserve_bytes": 1, "nearly_full": nearly_full });
        let member = |number: u64, role: &str, full| json!({ "node_id": format!("n{number}"), "raft_id": number, "role": role, "disk": disk(full) });
        let view =
            |full| NodeSummary::new(&json!({ "members": [member(1, "voter", full), member(2, "learner", true)] }));
        assert_eq!(view(false).disk_warning(), None);
        let expected = "disk nearly full at n1 (12 MiB free): writes that need space are refused";
        assert_eq!(view(true).disk_warning().as_deref(), Some(expected));
    }

    #[test]
    fn the_role_of_a_node_that_takes_no_requests_says_why() {
        let leader = json!({ "node_id": "a", "http_address": "a:1" });
        let forming = NodeSummary::new(&json!({ "state": "Follower", "leader": null, "forming": ["a:1", "b:1"] }));
        assert_eq!(role(Some(&forming)), "waits for a cluster");
        let verifying =
            NodeSummary::new(&json!({ "state": "Leader", "leader": leader.clone(), "verifying": "it was removed" }));
        assert_eq!(role(Some(&verifying)), "asks the other voters");
        let reason = json!({ "code": "lagging", "detail": "index 3 of 9" });
        let lags = NodeSummary::new(&json!({ "state": "Follower", "leader": leader, "not_ready": reason }));
        assert_eq!(role(Some(&lags)), "lags behind");
        let campaigns = NodeSummary::new(&json!({ "state": "Candidate", "leader": null }));
        assert_eq!(role(Some(&campaigns)), "campaigns");
    }
}
