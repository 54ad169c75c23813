//! `GET /cluster/overview`: a row for each member, and how many more may fail.
//!
//! Why: an operator asks whether the cluster is up and can take another failure, and may reach one node only.
//!
//! Invariants: it is made of what the loop has published and of what the members say within a second, so it waits for no loop and no
//! quorum. What is not known is null. A voter counts as failed where it does not answer
//! the leader or this node.
//!
//! See also: the question to the members (`transport::rpc::member_reports`), the sentence ([`super::tolerance`]).

use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use warp::reply::Response;

use super::tolerance::{Disk, View, Voter, tolerance};
use crate::consensus::Names;
use crate::http::api::deadline;
use crate::http::request::handler_context::RequestContext;
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::{Asked, AskedMember, LeaderReport, NodeReport, ReportedRole, TransferReport};
use crate::telemetry::metrics::{NodeState, PeerState};

/// The `data` of the answer.
#[derive(Debug, Serialize)]
struct Overview {
    cluster_id: Option<u64>,
    asked: String,
    leader: Option<String>,
    term: u64,
    voters: usize,
    failure_tolerance: Option<u64>,
    tolerance: String,
    members: Vec<MemberRow>,
}

/// A member.
#[derive(Debug, Serialize)]
struct MemberRow {
    name: String,
    role: Role,
    raft_id: u64,
    version: Option<String>,
    term: Option<u64>,
    applied_index: Option<u64>,
    last_index: Option<u64>,
    lag_entries: Option<u64>,
    round_trip_ms: Option<f64>,
    disk_free_bytes: Option<u64>,
    disk_total_bytes: Option<u64>,
    uptime_seconds: Option<u64>,
    ready: Option<bool>,
    not_ready: Option<Reason>,
    http_address: String,
    raft_address: String,
    reachable: bool,
    snapshot: Option<Transfer>,
}

/// The role of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Role {
    Reported(ReportedRole),
    Unreachable(&'static str),
}

/// Why a member takes no requests.
#[derive(Debug, Serialize)]
struct Reason {
    code: String,
    detail: String,
}

/// A snapshot that is sent to a member.
#[derive(Debug, Serialize)]
struct Transfer {
    bytes: u64,
    total_bytes: u64,
    bytes_per_second: u64,
}

impl From<TransferReport> for Transfer {
    fn from(TransferReport { bytes, total_bytes, bytes_per_second, .. }: TransferReport) -> Self {
        Self { bytes, total_bytes, bytes_per_second }
    }
}

/// Serves `GET /cluster/overview`.
pub(in crate::http) async fn overview(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let deadline = deadline(&request)?;
    let handle = &request.context.handle;
    let asked = timeout(deadline.left(), handle.ask_members()).await.unwrap_or_default();
    let (names, node) = (handle.names(), handle.metrics().node.load_full());
    let data = compose(&node, &names, handle.report(), &asked);
    Ok(success::data(data, "Here is the cluster"))
}

/// Makes the overview of what this node has published and reports, and of what the others have said.
fn compose(node: &NodeState, names: &Names, own: NodeReport, asked: &[AskedMember]) -> Overview {
    // A node outside of a cluster may have the table of one that it has left.
    let peers: &[PeerState] = if node.is_member { &node.peers } else { &[] };
    let answer = |peer: &PeerState| asked.iter().find(|member| member.raft_id == peer.raft_id);
    let reports = peers.iter().filter_map(|peer| match &answer(peer)?.asked {
        Asked::Answered(report) => Some((peer.raft_id, &**report)),
        Asked::WithoutReport | Asked::NoAnswer => None,
    });
    let leader = names.leader.clone().filter(|_| node.is_member);
    let mut known: Vec<(u64, &NodeReport)> = reports.collect();
    known.push((node.raft_id, &own));
    // Two that call themselves leaders: the one of the later term is right.
    let led = known.iter().filter(|(_, report)| report.leads.is_some()).max_by_key(|(_, report)| report.term);
    let led = led.map(|(raft_id, report)| (*raft_id, *report));
    let transfers: Vec<_> = known.iter().flat_map(|(_, report)| &report.transfers).copied().collect();
    let snapshot = |raft_id| transfers.iter().find(|transfer| transfer.to == raft_id).copied().map(Transfer::from);
    let mut members: Vec<_> = peers
        .iter()
        .map(|peer| MemberRow {
            lag_entries: lag(led, peer.raft_id),
            snapshot: snapshot(peer.raft_id),
            ..peer_row(peer, answer(peer), leader.as_deref())
        })
        .collect();
    let lag_entries = lag(led, node.raft_id);
    let own_row = MemberRow { lag_entries, snapshot: snapshot(node.raft_id), ..own_row(node, names, &own) };
    members.push(own_row);
    members.sort_by(|one, two| one.name.cmp(&two.name));
    let ready = members.iter().find(|member| member.raft_id != node.raft_id && member.ready == Some(true));
    let voters: Vec<Voter<'_>> = voters(node, names, peers, &members);
    let leader_id = peers.iter().find(|peer| leader.as_ref() == Some(&peer.name)).map(|peer| peer.raft_id);
    let denies = |(raft_id, report): &(u64, &NodeReport)| Some(*raft_id) == leader_id && report.leads.is_none();
    let view = View {
        is_member: node.is_member,
        leader: leader.as_deref(),
        is_denied: known.iter().any(denies),
        ready: ready.map(|member| member.name.as_str()),
        of_leader: led.and_then(|(_, report)| Some(report.leads.as_ref()?.failure_tolerance)),
        voters: &voters,
    };
    let (failure_tolerance, tolerance) = tolerance(&view);
    Overview {
        cluster_id: (node.cluster_id != 0).then_some(node.cluster_id),
        asked: names.node.clone(),
        leader,
        term: members.iter().filter_map(|member| member.term).max().unwrap_or(node.term),
        voters: voters.len(),
        failure_tolerance,
        tolerance,
        members,
    }
}

/// Returns the voters of the table, with whether they answer.
fn voters<'a>(node: &NodeState, names: &Names, peers: &'a [PeerState], members: &'a [MemberRow]) -> Vec<Voter<'a>> {
    let is_voter = |name: &str| match peers.iter().find(|peer| peer.name == name) {
        Some(peer) => !peer.is_learner,
        None => node.is_member && !node.is_learner && name == names.node,
    };
    let disk = |name: &str| {
        let (is_full, is_below_floor) = match peers.iter().find(|peer| peer.name == name) {
            Some(peer) => (peer.is_disk_nearly_full, peer.is_disk_below_floor),
            None => (node.is_disk_nearly_full, node.is_disk_below_floor),
        };
        if is_below_floor {
            Disk::BelowFloor
        } else if is_full {
            Disk::NearlyFull
        } else {
            Disk::Room
        }
    };
    let voters = members.iter().filter(|member| is_voter(&member.name));
    voters.map(|it| Voter { name: &it.name, answers: it.reachable, disk: disk(&it.name) }).collect()
}

/// Returns how many entries a member lacks, as the leader knows; None before the member has answered it.
fn lag(led: Option<(u64, &NodeReport)>, raft_id: u64) -> Option<u64> {
    let (leader, report) = led?;
    let LeaderReport { matched, .. } = report.leads.as_ref()?;
    if raft_id == leader {
        return Some(0);
    }
    let (_, matched) = matched.iter().find(|(member, _)| *member == raft_id)?;
    Some(report.last_index.saturating_sub(*matched))
}

/// The row of the node that is asked.
fn own_row(node: &NodeState, names: &Names, own: &NodeReport) -> MemberRow {
    let addresses = (node.raft_address.clone(), node.http_address.clone());
    MemberRow { round_trip_ms: None, ..reported_row((&names.node, node.raft_id), addresses, own) }
}

/// The row of another member.
fn peer_row(peer: &PeerState, answer: Option<&AskedMember>, leader: Option<&str>) -> MemberRow {
    let (identity, addresses) =
        ((peer.name.as_str(), peer.raft_id), (peer.raft_address.clone(), peer.http_address.clone()));
    let round_trip_ms = answer.and_then(|member| member.round_trip).map(milliseconds);
    match answer.map(|member| &member.asked) {
        Some(Asked::Answered(report)) => MemberRow { round_trip_ms, ..reported_row(identity, addresses, report) },
        Some(Asked::WithoutReport) => {
            let role = if leader == Some(&peer.name) {
                ReportedRole::Leader
            } else if peer.is_learner {
                ReportedRole::Learner
            } else {
                ReportedRole::Follower
            };
            let disk_free_bytes = peer.free_bytes;
            let row = silent_row(identity, addresses);
            MemberRow { role: Role::Reported(role), round_trip_ms, disk_free_bytes, reachable: true, ..row }
        }
        Some(Asked::NoAnswer) | None => silent_row(identity, addresses),
    }
}

/// The row of a member that has said this.
fn reported_row(
    (name, raft_id): (&str, u64),
    (raft_address, http_address): (String, String),
    report: &NodeReport,
) -> MemberRow {
    let not_ready = report.not_ready.clone().map(|(code, detail)| Reason { code, detail });
    MemberRow {
        name: name.to_owned(),
        role: Role::Reported(report.role),
        raft_id,
        version: Some(report.version.clone()),
        term: Some(report.term),
        applied_index: Some(report.applied_index),
        last_index: Some(report.last_index),
        lag_entries: None,
        round_trip_ms: None,
        disk_free_bytes: report.disk_free_bytes,
        disk_total_bytes: report.disk_total_bytes,
        uptime_seconds: Some(report.uptime_seconds),
        ready: Some(not_ready.is_none()),
        not_ready,
        http_address,
        raft_address,
        reachable: true,
        snapshot: None,
    }
}

/// The row of a member that has said nothing.
fn silent_row((name, raft_id): (&str, u64), (raft_address, http_address): (String, String)) -> MemberRow {
    MemberRow {
        name: name.to_owned(),
        role: Role::Unreachable("unreachable"),
        raft_id,
        version: None,
        term: None,
        applied_index: None,
        last_index: None,
        lag_entries: None,
        round_trip_ms: None,
        disk_free_bytes: None,
        disk_total_bytes: None,
        uptime_seconds: None,
        ready: None,
        not_ready: None,
        http_address,
        raft_address,
        reachable: false,
        snapshot: None,
    }
}

/// A time in milliseconds, to a microsecond.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(role: ReportedRole, last_index: u64) -> NodeReport {
        let leads = LeaderReport { failure_tolerance: 1, matched: vec![(2, 9), (3, 4)] };
        NodeReport {
            version: "1.2.3".into(),
            role,
            term: 5,
            last_index,
            applied_index: last_index,
            disk_free_bytes: Some(10),
            disk_total_bytes: Some(20),
            uptime_seconds: 60,
            not_ready: None,
            leads: (role == ReportedRole::Leader).then_some(leads),
            transfers: vec![TransferReport { to: 3, bytes: 1, total_bytes: 4, bytes_per_second: 2 }],
        }
    }

    fn peer(name: &str, raft_id: u64) -> PeerState {
        PeerState { name: name.into(), raft_id, free_bytes: Some(7), ..PeerState::default() }
    }

    fn said(raft_id: u64, asked: Asked) -> AskedMember {
        AskedMember { raft_id, round_trip: Some(Duration::from_micros(1_234)), asked }
    }

    /// What `node2`, a follower of `node1`, shows of three.
    fn shown(asked: &[AskedMember]) -> serde_json::Value {
        let peers = vec![peer("node3", 3), peer("node1", 1)];
        let node = NodeState { raft_id: 2, is_member: true, cluster_id: 9, peers, ..NodeState::default() };
        let names = Names { node: "node2".into(), leader: Some("node1".into()), ..Names::default() };
        serde_json::to_value(compose(&node, &names, report(ReportedRole::Follower, 9), asked)).unwrap()
    }

    #[test]
    fn the_lag_of_a_member_that_has_not_answered_its_leader_is_not_known() {
        let mut leader = report(ReportedRole::Leader, 9);
        leader.leads = leader.leads.map(|leads| LeaderReport { matched: vec![(2, 9)], ..leads });
        assert_eq!([1, 2, 3].map(|raft_id| lag(Some((1, &leader)), raft_id)), [Some(0), Some(0), None]);
    }

    #[test]
    fn a_follower_shows_all_members_with_what_the_leader_knows() {
        let leader = Asked::Answered(Box::new(report(ReportedRole::Leader, 9)));
        let learner = Asked::Answered(Box::new(report(ReportedRole::Learner, 4)));
        let all = shown(&[said(1, leader), said(3, learner)]);
        assert_eq!((&all["cluster_id"], &all["asked"], &all["leader"]), (&9.into(), &"node2".into(), &"node1".into()));
        assert_eq!((&all["term"], &all["voters"], &all["failure_tolerance"]), (&5.into(), &3.into(), &1.into()));
        assert_eq!(all["tolerance"], "one more node may fail");
        let of = |field: &str| [0, 1, 2].map(|at| all["members"][at][field].clone());
        assert_eq!(of("name"), ["node1", "node2", "node3"]);
        assert_eq!(of("role"), ["leader", "follower", "learner"]);
        assert_eq!(of("lag_entries"), [0, 0, 5]);
        assert_eq!(of("round_trip_ms"), [1.234.into(), serde_json::Value::Null, 1.234.into()]);
        assert_eq!(
            all["members"][2]["snapshot"],
            serde_json::json!({"bytes": 1, "total_bytes": 4, "bytes_per_second": 2})
        );
        assert_eq!(of("reachable"), [true, true, true]);
    }

    #[test]
    fn what_is_not_known_is_null() {
        let all = shown(&[said(1, Asked::WithoutReport), said(3, Asked::NoAnswer)]);
        let (old, silent) = (&all["members"][0], &all["members"][2]);
        assert_eq!(
            (&old["role"], &old["reachable"], &old["disk_free_bytes"]),
            (&"leader".into(), &true.into(), &7.into())
        );
        assert_eq!((&silent["role"], &silent["reachable"]), (&"unreachable".into(), &false.into()));
        for row in [old, silent] {
            for field in ["version", "term", "applied_index", "lag_entries", "uptime_seconds", "ready", "snapshot"] {
                assert!(row[field].is_null() || field == "snapshot", "{field}: {row}");
            }
        }
        assert_eq!(
            (&all["failure_tolerance"], &all["tolerance"]),
            (&0.into(), &"no node may fail: node3 does not answer".into())
        );
        assert_eq!(shown(&[])["members"][0]["role"], "unreachable", "it was not asked in time");
    }

    #[test]
    fn a_node_outside_of_a_cluster_shows_itself() {
        let node = NodeState { raft_id: 2, peers: vec![peer("node1", 1)], ..NodeState::default() };
        let names = Names { node: "node2".into(), ..Names::default() };
        let all = compose(&node, &names, report(ReportedRole::Follower, 0), &[]);
        assert_eq!((all.members.len(), all.voters, all.failure_tolerance, all.cluster_id), (1, 0, None, None));
        assert_eq!(all.tolerance, "not known: this node is in no cluster");
    }
}
