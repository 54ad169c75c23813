//! What `demo` and `status` make of a node's stats: what it does, whether it is ready, who belongs together, through whom
//! to join the others.
//!
//! Why: on a second run of the demo the data decides, not the numbers of the nodes: any of them may lead, and one whose directory was
//! wiped must not take the others into a new cluster.
//!
//! Not here: asking (`demo`, `status`).

use serde_json::{Value, json};

/// What a node's stats say, as far as `demo` and `status` care.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeSummary {
    /// The name that it goes by.
    pub name: String,
    state: String,
    /// Its term, as text.
    pub term: String,
    raft_id: String,
    cluster_id: String,
    /// The raft ids of the voters in its member table; a learner's join is still to be finished.
    pub members: Vec<String>,
    /// The voters that it does not hear: the name, and since when in milliseconds, None for never.
    unheard: Vec<(String, Option<u64>)>,
    /// The voters whose disks are nearly full: the name, and what is free in bytes.
    full: Vec<(String, u64)>,
    /// Who leads, where it knows.
    pub leader: Option<String>,
    /// The index of the last entry that it has applied, as text.
    pub applied: String,
    removed: bool,
    joining: bool,
    forming: bool,
    verifying: bool,
    /// Why it takes no requests, as a code and in words; a node of an older version says it in the members above alone.
    not_ready: Option<(String, String)>,
    /// Of which members a copy speaks, and who takes this node for one.
    pub conflicts: Vec<String>,
}

impl NodeSummary {
    /// Reads the `data` of a stats answer; what is missing there is empty here.
    pub(crate) fn of(data: &Value) -> Self {
        // Ids are compared as they are written, be it as numbers or as texts.
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let members = data["members"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            name: text(&data["node_id"]),
            state: text(&data["state"]),
            term: text(&data["term"]),
            raft_id: text(&data["raft_id"]),
            cluster_id: text(&data["cluster_id"]),
            members: members
                .iter()
                .filter(|member| member["role"] == "voter")
                .map(|member| text(&member["raft_id"]))
                .collect(),
            unheard: members
                .iter()
                .filter(|member| member["role"] == "voter" && member["connected"] == json!(false))
                .map(|member| (text(&member["node_id"]), member["heard_ms"].as_u64()))
                .collect(),
            full: members
                .iter()
                .filter(|member| member["role"] == "voter" && member["disk"]["nearly_full"] == json!(true))
                .map(|member| (text(&member["node_id"]), member["disk"]["free_bytes"].as_u64().unwrap_or(0)))
                .collect(),
            leader: data["leader"]["node_id"].as_str().map(str::to_owned),
            removed: data["removed"] == json!(true),
            applied: text(&data["applied_index"]),
            joining: data["joining"] == json!(true),
            forming: data["forming"].is_array(),
            verifying: data["verifying"].is_string(),
            not_ready: data["not_ready"]
                .is_object()
                .then(|| (text(&data["not_ready"]["code"]), text(&data["not_ready"]["detail"]))),
            conflicts: data["identity_conflict"].as_array().into_iter().flatten().map(text).collect(),
        }
    }

    /// Whether it takes requests: it is of a cluster, knows who leads, and does not lag behind.
    pub(crate) fn ready(&self) -> bool {
        self.not_ready.is_none()
            && self.leader.is_some()
            && !self.removed
            && !self.joining
            && !self.forming
            && !self.verifying
    }

    /// `does not hear node4 (14 s), node5 (never): 0 more may fail`; None where every voter is heard, or none is of use.
    pub(crate) fn warning(&self) -> Option<String> {
        if self.unheard.is_empty() || self.removed || self.joining {
            return None;
        }
        let since = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{} s", ms / 1000));
        let unheard: Vec<_> = self.unheard.iter().map(|(name, ms)| format!("{name} ({})", since(*ms))).collect();
        let (count, quorum) = (self.members.len(), self.members.len() / 2 + 1);
        let left = match (count - self.unheard.len().min(count)).checked_sub(quorum) {
            Some(more) => format!("{more} more may fail"),
            None => "no majority".to_owned(),
        };
        Some(format!("does not hear {}: {left}", unheard.join(", ")))
    }

    /// Whether it answers no linearizable reads until it has caught up with its leader.
    pub(crate) fn lags(&self) -> bool {
        self.not_ready.as_ref().is_some_and(|(code, _)| code == "lagging")
    }

    /// Why it takes no requests, in words, where it says so.
    pub(crate) fn not_ready(&self) -> Option<&str> {
        self.not_ready.as_ref().map(|(_, detail)| detail.as_str())
    }

    /// `disk nearly full at node2 (12 MiB free): writes that need space are refused`; None where every voter has enough.
    pub(crate) fn space_warning(&self) -> Option<String> {
        if self.full.is_empty() || self.removed || self.joining {
            return None;
        }
        let full: Vec<_> = self.full.iter().map(|(name, free)| format!("{name} ({} MiB free)", free >> 20)).collect();
        Some(format!("disk nearly full at {}: writes that need space are refused", full.join(", ")))
    }

    /// Whether `other` belongs to the cluster of this node.
    pub(crate) fn counts(&self, other: &Self) -> bool {
        let member = self.cluster_id == other.cluster_id && self.members.contains(&other.raft_id);
        member && !other.removed && !other.joining
    }
}

/// What a node does, in a word or two; None stands for no answer.
pub(crate) fn role(view: Option<&NodeSummary>) -> &'static str {
    let Some(view) = view else { return "does not answer" };
    match view.state.as_str() {
        _ if view.removed => "is removed",
        _ if view.joining => "joins",
        _ if view.forming => "waits for a cluster",
        _ if view.verifying => "asks the other voters",
        "Follower" if view.lags() => "lags behind",
        "Leader" => "leads",
        "Follower" => "follows",
        _ => "campaigns",
    }
}

/// The node that knows the largest cluster: of a first run the first node, of a later one any that was joined.
pub(crate) fn base(views: &[Option<NodeSummary>]) -> Option<(usize, &NodeSummary)> {
    let mut best: Option<(usize, &NodeSummary)> = None;
    for (number, view) in views.iter().enumerate() {
        let Some(view) = view.as_ref().filter(|view| !view.removed && !view.joining) else { continue };
        if best.is_none_or(|(_, best)| view.members.len() > best.members.len()) {
            best = Some((number, view));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(raft_id: u64, cluster_id: &str, members: &[u64]) -> NodeSummary {
        let members: Vec<Value> = members.iter().map(|id| json!({ "raft_id": id, "role": "voter" })).collect();
        NodeSummary::of(&json!({
            "state": "Leader", "term": "2", "raft_id": raft_id, "cluster_id": cluster_id, "members": members,
            "leader": { "node_id": "node1", "http_address": "127.0.0.1:2221" },
        }))
    }

    #[test]
    fn on_a_first_run_the_first_node_takes_the_others() {
        let views = [Some(view(1, "a", &[1])), Some(view(2, "b", &[2]))];
        let (number, base) = base(&views).unwrap();
        assert_eq!(number, 0);
        assert!(!base.counts(views[1].as_ref().unwrap()));
        assert_eq!((base.leader.as_deref(), role(Some(base))), (Some("node1"), "leads"));
    }

    #[test]
    fn a_wiped_first_node_does_not_take_the_others() {
        let views = [Some(view(9, "x", &[9])), Some(view(2, "a", &[1, 2, 3])), Some(view(3, "a", &[1, 2, 3]))];
        let (number, base) = base(&views).unwrap();
        assert_eq!(number, 1);
        assert!(base.counts(views[2].as_ref().unwrap()) && !base.counts(views[0].as_ref().unwrap()));
    }

    #[test]
    fn a_removed_node_is_no_member_and_no_base() {
        let mut removed = view(2, "a", &[1, 2]);
        assert!(removed.ready());
        removed.removed = true;
        assert!(!removed.ready());
        assert!(!view(1, "a", &[1, 2]).counts(&removed));
        assert_eq!(role(Some(&removed)), "is removed");
        assert!(base(&[Some(removed), None]).is_none());
    }

    #[test]
    fn voters_that_are_not_heard_are_told_with_how_many_more_may_fail() {
        let view = |voters: usize, silent: usize| {
            let member = |number: usize| {
                json!({ "node_id": format!("n{number}"), "raft_id": number, "role": "voter",
                "heard_ms": (number != 1).then_some(14_900), "connected": number >= silent })
            };
            NodeSummary::of(&json!({ "members": (0..voters).map(member).collect::<Vec<_>>() }))
        };
        assert_eq!(view(5, 0).warning(), None);
        let told = [(5, 1), (5, 2), (5, 3)].map(|(voters, silent)| view(voters, silent).warning().unwrap());
        assert_eq!(told[0], "does not hear n0 (14 s): 1 more may fail");
        assert_eq!(told[1], "does not hear n0 (14 s), n1 (never): 0 more may fail");
        assert_eq!(told[2], "does not hear n0 (14 s), n1 (never), n2 (14 s): no majority");
        let old = NodeSummary::of(&json!({ "members": [{ "node_id": "n0", "raft_id": 1, "role": "voter" }] }));
        assert_eq!(old.warning(), None, "a node that does not say so is not accused");
    }

    #[test]
    fn voters_whose_disks_are_nearly_full_are_told() {
        let disk =
            |nearly_full: bool| json!({ "free_bytes": 12 << 20, "reserve_bytes": 1, "nearly_full": nearly_full });
        let member = |number: u64, role: &str, full| json!({ "node_id": format!("n{number}"), "raft_id": number, "role": role, "disk": disk(full) });
        let view =
            |full| NodeSummary::of(&json!({ "members": [member(1, "voter", full), member(2, "learner", true)] }));
        assert_eq!(view(false).space_warning(), None);
        let told = "disk nearly full at n1 (12 MiB free): writes that need space are refused";
        assert_eq!(view(true).space_warning().as_deref(), Some(told));
    }

    #[test]
    fn a_node_that_waits_or_knows_no_leader_is_not_ready() {
        let waits = NodeSummary::of(&json!({ "state": "Follower", "leader": null, "forming": ["a:1", "b:1"] }));
        assert_eq!((waits.ready(), role(Some(&waits))), (false, "waits for a cluster"));
        let asks =
            NodeSummary::of(&json!({ "state": "Leader", "leader": { "node_id": "a" }, "verifying": "it was removed" }));
        assert_eq!((asks.ready(), role(Some(&asks))), (false, "asks the other voters"));
        let behind = json!({ "code": "lagging", "detail": "index 3 of 9" });
        let lags = NodeSummary::of(&json!({ "state": "Follower", "leader": { "node_id": "a" }, "not_ready": behind }));
        assert_eq!((lags.ready(), role(Some(&lags)), lags.not_ready()), (false, "lags behind", Some("index 3 of 9")));
        let campaigns = NodeSummary::of(&json!({ "state": "Candidate", "leader": null }));
        assert_eq!((campaigns.ready(), role(Some(&campaigns))), (false, "campaigns"));
    }
}
