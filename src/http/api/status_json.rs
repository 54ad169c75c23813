//! The JSON form of the status: the 18 string members that hashicorp/raft's `Stats()` has (`state`,
//! `term`, `last_contact` and others), and huskv's own.
//!
//! Why: clients of the Go tutorial and dashboards read the 18 names, which are strings there; huskv's own are typed JSON.
//!
//! Invariants: the 18 are always present and always strings. The order of the fields here is their order in the answer.
//!
//! See also: [`crate::model::Status`] (the source of the figures).

use serde::Serialize;

use super::probes::NotReady;
use super::security_stats::{ReloadStats, TlsStats, TokenStats};
use crate::http::options::Options;
use crate::model::{DiskSpace, Leader, MemberStatus, PreviousStatus, Role, State, Status, Voters};
use crate::telemetry::metrics::TransferProgress;

/// The `data` of `/raft/stats`.
#[derive(Serialize)]
pub(crate) struct Stats<'a> {
    state: &'static str,
    term: String,
    last_log_index: String,
    last_log_term: String,
    commit_index: String,
    applied_index: String,
    fsm_pending: String,
    last_snapshot_index: String,
    last_snapshot_term: String,
    protocol_version: &'static str,
    protocol_version_min: &'static str,
    protocol_version_max: &'static str,
    snapshot_version_min: &'static str,
    snapshot_version_max: &'static str,
    latest_configuration: String,
    latest_configuration_index: String,
    num_peers: String,
    last_contact: String,
    cluster_id: u64,
    node_id: &'a str,
    raft_id: u64,
    leader: Option<&'a Leader>,
    members: Vec<MemberRow<'a>>,
    voters: usize,
    voters_unreachable: usize,
    failure_tolerance: usize,
    disk_syncs: u64,
    #[serde(skip_serializing_if = "is_false")]
    removed: bool,
    #[serde(skip_serializing_if = "is_false")]
    joining: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<Previous>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forming: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verifying: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    identity_conflict: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    not_ready: Option<NotReady<'a>>,
    #[serde(flatten)]
    tokens: Option<TokenStats>,
    #[serde(flatten)]
    tls: TlsStats,
    #[serde(flatten)]
    reload: Option<ReloadStats>,
}

/// What a node that wants tokens shows to a client without one: what nodes that form a cluster have to know of each other, by which
/// they recognize themselves and one another (`node::forming`). Of a member that is its raft id.
#[derive(Serialize)]
pub(crate) struct Outline<'a> {
    raft_id: u64,
    /// Where other nodes ask for a join, which needs no token there.
    #[serde(skip_serializing_if = "Option::is_none")]
    raft_address: Option<&'a str>,
    #[serde(skip_serializing_if = "is_false")]
    removed: bool,
    #[serde(skip_serializing_if = "is_false")]
    joining: bool,
    #[serde(flatten)]
    forming: Option<FormingNode<'a>>,
}

/// A node that waits to form a cluster.
#[derive(Serialize)]
struct FormingNode<'a> {
    node_id: &'a str,
    forming: &'a [String],
    members: Vec<OwnAddresses<'a>>,
}

/// The row of a forming node in its own table.
#[derive(Serialize)]
struct OwnAddresses<'a> {
    raft_address: &'a str,
    http_address: &'a str,
}

impl<'a> Outline<'a> {
    /// Returns the outline of a status; `join_list` is included while the node waits to form a cluster.
    pub(crate) fn new(status: &'a Status, join_list: &'a [String]) -> Self {
        let addresses = |member: &'a MemberStatus| OwnAddresses {
            raft_address: &member.raft_address,
            http_address: &member.http_address,
        };
        let own = status.members.iter().find(|member| member.raft_id == status.raft_id);
        Self {
            raft_id: status.raft_id,
            raft_address: own.map(|member| member.raft_address.as_str()),
            removed: status.removed,
            joining: status.joining,
            forming: status.forming.then(|| FormingNode {
                node_id: &status.node_id,
                forming: join_list,
                members: status.members.iter().map(addresses).collect(),
            }),
        }
    }
}

/// A member in the stats.
#[derive(Serialize)]
struct MemberRow<'a> {
    node_id: &'a str,
    raft_id: u64,
    raft_address: &'a str,
    http_address: &'a str,
    role: Role,
    heard_ms: Option<u64>,
    connected: bool,
    #[serde(flatten)]
    progress: Option<Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Disk>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Transfer>,
}

/// A snapshot that this node sends to a member.
#[derive(Serialize)]
struct Transfer {
    bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
}

/// The free disk space of a member.
#[derive(Serialize)]
struct Disk {
    free_bytes: u64,
    reserve_bytes: u64,
    nearly_full: bool,
}

impl From<DiskSpace> for Disk {
    fn from(space: DiskSpace) -> Self {
        let DiskSpace { free_bytes, reserve_bytes } = space;
        Self { free_bytes, reserve_bytes, nearly_full: space.is_nearly_full() }
    }
}

/// The incarnation that a joining node keeps until it has received the cluster's state.
#[derive(Serialize)]
struct Previous {
    cluster_id: u64,
    raft_id: u64,
    goes_back_in_ms: u64,
}

/// The replication progress of a member, which only the leader knows.
#[derive(Serialize)]
struct Progress {
    match_index: Option<u64>,
    last_contact_ms: Option<u64>,
}

impl<'a> Stats<'a> {
    /// Returns the stats of a status; the join list is included while the node waits to form a cluster.
    pub(crate) fn new(status: &'a Status, options: &'a Options, reload: Option<ReloadStats>) -> Self {
        let is_leader = status.state == State::Leader;
        let voters = Voters::among(&status.members);
        Self {
            state: status.state.as_str(),
            term: status.term.to_string(),
            last_log_index: status.last_log_index.to_string(),
            last_log_term: status.last_log_term.to_string(),
            commit_index: status.commit_index.to_string(),
            applied_index: status.applied_index.to_string(),
            fsm_pending: status.fsm_pending.to_string(),
            last_snapshot_index: status.last_snapshot_index.to_string(),
            last_snapshot_term: status.last_snapshot_term.to_string(),
            // Constants of hashicorp/raft, which its clients compare with.
            protocol_version: "3",
            protocol_version_min: "0",
            protocol_version_max: "3",
            snapshot_version_min: "0",
            snapshot_version_max: "1",
            latest_configuration: format_configuration(&status.members),
            latest_configuration_index: status.configuration_index.to_string(),
            num_peers: count_peers(status).to_string(),
            // hashicorp/raft has "0" on the leader and "never" before the first contact.
            last_contact: match status.last_contact_ms {
                _ if is_leader => "0".to_owned(),
                None => "never".to_owned(),
                Some(ms) => go_duration(ms),
            },
            cluster_id: status.cluster_id,
            node_id: &status.node_id,
            raft_id: status.raft_id,
            leader: status.leader.as_ref(),
            members: status.members.iter().map(|member| member_row(member, is_leader)).collect(),
            voters: voters.count,
            voters_unreachable: voters.unreachable,
            failure_tolerance: voters.failure_tolerance,
            disk_syncs: status.disk_syncs,
            removed: status.removed,
            joining: status.joining,
            previous: status.previous.map(|PreviousStatus { cluster_id, raft_id, goes_back_in_ms }| Previous {
                cluster_id,
                raft_id,
                goes_back_in_ms,
            }),
            forming: status.forming.then_some(&options.join_list),
            verifying: status.verifying.as_deref(),
            identity_conflict: &status.identity_conflicts,
            not_ready: status.not_ready.as_ref().map(NotReady::of),
            tokens: options.tokens.as_deref().map(TokenStats::of),
            tls: TlsStats::of(options),
            reload,
        }
    }

    /// Adds how far the snapshots are that the node sends now.
    pub(crate) fn with_transfers(mut self, transfers: &[TransferProgress]) -> Self {
        for TransferProgress { to, bytes, total_bytes, bytes_per_second } in transfers.iter().copied() {
            if let Some(row) = self.members.iter_mut().find(|row| row.raft_id == to) {
                row.snapshot = Some(Transfer { bytes, total_bytes, bytes_per_second });
            }
        }
        self
    }
}

fn member_row(member: &MemberStatus, is_leader: bool) -> MemberRow<'_> {
    MemberRow {
        node_id: &member.node_id,
        raft_id: member.raft_id,
        raft_address: &member.raft_address,
        http_address: &member.http_address,
        role: member.role,
        heard_ms: member.heard_ms,
        connected: member.connected,
        progress: is_leader
            .then_some(Progress { match_index: member.match_index, last_contact_ms: member.last_contact_ms }),
        disk: member.disk.map(Disk::from),
        snapshot: None,
    }
}

/// Counts the voters besides this node.
fn count_peers(status: &Status) -> usize {
    let voters = || status.members.iter().filter(|member| member.role == Role::Voter);
    voters().filter(|member| member.raft_id != status.raft_id).count()
}

/// Formats the members as Go prints hashicorp/raft's list of servers.
fn format_configuration(members: &[MemberStatus]) -> String {
    let server = |member: &MemberStatus| {
        let suffrage = match member.role {
            Role::Voter => "Voter",
            Role::Learner => "Nonvoter",
        };
        format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", member.node_id, member.raft_address)
    };
    format!("[{}]", members.iter().map(server).collect::<Vec<_>>().join(" "))
}

/// Formats milliseconds as Go prints a `time.Duration`.
fn go_duration(ms: u64) -> String {
    // Go has no unit for zero but seconds, and no fraction below one second in milliseconds.
    if ms == 0 {
        return "0s".to_owned();
    }
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (hours, minutes) = (ms / 3_600_000, ms / 60_000 % 60);
    // Go leaves out trailing zeros of the fraction, and leading units that are zero: 61 001 ms is `1m1.001s`.
    let thousandths = format!("{:03}", ms % 1000);
    let fraction = thousandths.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{point}{fraction}s", ms / 1000 % 60);
    match (hours, minutes) {
        (0, 0) => seconds,
        (0, _) => format!("{minutes}m{seconds}"),
        _ => format!("{hours}h{minutes}m{seconds}"),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::{options, status};
    use crate::model::{Code, Refusal};
    use serde_json::{Value, json};

    fn stats_json(status: &Status) -> Value {
        serde_json::to_value(Stats::new(status, &options(), None)).unwrap()
    }

    #[test]
    fn the_eighteen_keys_are_strings_in_hashicorps_form() {
        let stats = stats_json(&status());
        for (key, value) in [
            ("state", "Leader"),
            ("term", "3"),
            ("last_log_index", "44"),
            ("last_log_term", "3"),
            ("commit_index", "43"),
            ("applied_index", "42"),
            ("fsm_pending", "1"),
            ("last_snapshot_index", "20"),
            ("last_snapshot_term", "2"),
            ("protocol_version", "3"),
            ("protocol_version_min", "0"),
            ("protocol_version_max", "3"),
            ("snapshot_version_min", "0"),
            ("snapshot_version_max", "1"),
            (
                "latest_configuration",
                "[{Suffrage:Voter ID:node1 Address:127.0.0.1:1111} \
                 {Suffrage:Nonvoter ID:node2 Address:localhost:1112}]",
            ),
            ("latest_configuration_index", "9"),
            ("num_peers", "0"),
            ("last_contact", "0"),
        ] {
            assert_eq!(stats[key], json!(value), "{key}");
        }
    }

    #[test]
    fn a_member_that_is_sent_a_snapshot_has_its_progress() {
        let (status, options) = (status(), options());
        let transfer = TransferProgress { to: 12, bytes: 1, total_bytes: 2, bytes_per_second: 3 };
        let unknown = TransferProgress { to: 99, ..transfer };
        let stats = Stats::new(&status, &options, None).with_transfers(&[transfer, unknown]);
        let members = serde_json::to_value(stats).unwrap()["members"].take();
        assert_eq!(members[1]["snapshot"], json!({"bytes": 1, "total_bytes": 2, "bytes_per_second": 3}));
        assert!(members[0].get("snapshot").is_none(), "{members}");
    }

    #[test]
    fn own_members_are_typed_and_the_leader_includes_replication_progress() {
        let mut status = status();
        let stats = stats_json(&status);
        assert_eq!(stats["cluster_id"], json!(77));
        assert_eq!(stats["leader"], json!({"node_id": "node1", "http_address": "127.0.0.1:2221"}));
        assert_eq!(
            stats["members"][1],
            json!({
                "node_id": "node2", "raft_id": 12, "raft_address": "localhost:1112", "http_address": "127.0.0.1:2222",
                "role": "learner", "heard_ms": null, "connected": false, "match_index": 40, "last_contact_ms": null
            })
        );
        assert_eq!((&stats["disk_syncs"], &stats["tls_http"]), (&json!(7), &json!("off")));
        status.members[0].disk = Some(DiskSpace { free_bytes: 9, reserve_bytes: 10 });
        let disk = &stats_json(&status)["members"][0]["disk"];
        assert_eq!(disk, &json!({"free_bytes": 9, "reserve_bytes": 10, "nearly_full": true}));
        let counts = [&stats["voters"], &stats["voters_unreachable"], &stats["failure_tolerance"]];
        assert_eq!(counts, [1, 0, 0]);
        for absent in [
            "removed",
            "joining",
            "previous",
            "forming",
            "identity_conflict",
            "not_ready",
            "tls_http_not_after",
            "tls_peer_not_after",
        ] {
            assert!(stats.get(absent).is_none(), "{absent}");
        }
        status.state = State::Follower;
        status.leader = None;
        status.removed = true;
        status.joining = true;
        status.previous = Some(PreviousStatus { cluster_id: 5, raft_id: 6, goes_back_in_ms: 59_000 });
        status.forming = true;
        status.last_contact_ms = Some(12);
        status.identity_conflicts = vec!["node2 refuses this node".into()];
        status.not_ready = Some(Refusal::not_applied(Code::Removed, "it was removed"));
        let stats = stats_json(&status);
        assert_eq!(stats["leader"], Value::Null);
        assert!(stats["members"][1].get("match_index").is_none());
        assert_eq!(stats["members"][0]["connected"], true, "also without a leader");
        assert_eq!(stats["last_contact"], json!("12ms"));
        assert_eq!(stats["forming"], json!(["a:1", "b:2"]));
        assert_eq!(stats["identity_conflict"], json!(["node2 refuses this node"]));
        assert_eq!(stats["not_ready"], json!({"code": "removed", "detail": "it was removed"}));
        assert_eq!((&stats["removed"], &stats["joining"]), (&json!(true), &json!(true)));
        assert_eq!(stats["previous"], json!({"cluster_id": 5, "raft_id": 6, "goes_back_in_ms": 59_000}));
        status.last_contact_ms = None;
        assert_eq!(stats_json(&status)["last_contact"], json!("never"));
    }

    #[test]
    fn num_peers_is_the_other_voters_on_a_voter_and_all_voters_on_a_learner() {
        let mut status = status();
        status.members[1].role = Role::Voter;
        assert_eq!(stats_json(&status)["num_peers"], json!("1"));
        status.raft_id = 99;
        assert_eq!(stats_json(&status)["num_peers"], json!("2"));
    }

    #[test]
    fn durations_look_as_in_go() {
        for (ms, text) in [
            (0, "0s"),
            (12, "12ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (61_001, "1m1.001s"),
            (3_600_000, "1h0m0s"),
        ] {
            assert_eq!(go_duration(ms), text);
        }
    }
}
