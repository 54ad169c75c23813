//! Bootstrap from a join list: a pristine node polls the listed nodes until one cluster accepts it, or begins one.
//!
//! Why: one list given to all nodes of a deployment must make exactly one cluster, in whatever order they start, and no
//! second one when one of them comes back with an empty disk.
//!
//! Invariants: a node begins a cluster only where every listed address answers, is itself forming and has the same list,
//! and only the node at the first address in byte order. A node finds its own address by raft id, from the responses. A
//! missing node is waited for without a bound, and named in the log. So are two nodes with one name or one address: a
//! cluster would count them as one voter, and acknowledge with one disk what needs two.
//!
//! Example: `a:1`, `b:1` and `c:1` start with that list. As soon as all three answer, the node at `a:1` begins a cluster;
//! `b:1` and `c:1` see a member at `a:1` and ask it for a join. If `a:1` is wiped later, it sees members at `b:1` and
//! `c:1`, so it asks them and begins nothing.
//!
//! See also: `consensus::membership` (the join), [`crate::client::NodeStats`] (what a node reports).

mod requests;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use slog::{Logger, info, warn};
use tokio::time::{Instant, sleep};

use crate::client::{Access, NodeClient, NodeStats};
use crate::consensus::{Handle, Input};
use crate::model::NodeAddress;
use crate::telemetry::logging::LogLimit;
use crate::transport::JoinRequester;
use requests::{join, poll};

/// The timeout of a request for stats.
const STATS_TIMEOUT: Duration = Duration::from_secs(2);

/// The timeout of a join: what a join's path asks for, and the round trip.
const JOIN_TIMEOUT: Duration = Duration::from_secs(65);

/// The shortest pause between two rounds; up to [`JITTER_MS`] longer, so that the nodes of a list do not poll in step.
const PAUSE_MS: u64 = 400;

/// See [`PAUSE_MS`].
const JITTER_MS: u64 = 200;

/// How long after the start the reasons for waiting are logged first.
const FIRST_REPORT: Duration = Duration::from_secs(2);

/// The interval of such lines, in milliseconds.
const REPORT_EVERY: u64 = 10_000;

/// The nodes that are to form one cluster, and the join request of this one.
pub(super) struct JoinList {
    addresses: BTreeSet<NodeAddress>,
    name: String,
    raft_address: String,
}

impl JoinList {
    /// The list of a node called `name` that peers dial at `raft_address`.
    pub(super) fn new(addresses: &[NodeAddress], name: &str, raft_address: &str) -> Self {
        Self {
            addresses: addresses.iter().cloned().collect(),
            name: name.to_owned(),
            raft_address: raft_address.to_owned(),
        }
    }
}

/// The state of the node at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NodeState {
    /// No response, or not that of a huskv node; why.
    Unreachable(String),
    /// A node that is forming a cluster, with its list.
    Forming { raft_id: u64, list: BTreeSet<String>, identity: Advertised },
    /// A node that a cluster has accepted and that has not caught up yet.
    Joining { raft_id: u64 },
    /// A node that was removed from its cluster.
    Removed,
    /// A member of a cluster, which may have one node.
    Member { raft_id: u64 },
}

/// What a node would be known by in the member table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Advertised {
    name: String,
    raft_address: String,
    http_address: String,
}

/// A listed address and the node that answers there.
type Polled = (NodeAddress, NodeState);

/// What to do after a round.
#[derive(Debug, PartialEq, Eq)]
enum NextStep {
    /// Ask these members for a join, in this order.
    Join(Vec<NodeAddress>),
    /// Begin a cluster.
    Begin,
    /// Wait, for these reasons.
    Wait(Vec<String>),
}

/// Polls the list until the node belongs to a cluster, then returns.
pub(super) async fn form(list: JoinList, access: Access, peers: JoinRequester, handle: Handle, log: Logger) {
    let stats_client = NodeClient::with_access(STATS_TIMEOUT, access.clone());
    let join_client = NodeClient::with_access(JOIN_TIMEOUT, access);
    let begun = Instant::now();
    let mut report = LogLimit::default();
    loop {
        // An error means that the node stops.
        let Ok(status) = handle.status().await else { return };
        if !status.forming && !status.joining {
            return;
        }
        let polled = poll(&stats_client, &list).await;
        let reasons = match decide(status.raft_id, status.forming, &list.addresses, &polled) {
            NextStep::Begin => {
                info!(log, "every node of the join list is forming and this one is the first: it begins a cluster");
                handle.deliver(Input::Begin).await;
                Vec::new()
            }
            NextStep::Join(members) => join((&join_client, &stats_client, &peers), &list, &members, &log).await,
            NextStep::Wait(reasons) => reasons,
        };
        let elapsed = begun.elapsed();
        // At a rolling start the others are seconds late, which is no reason for a warning.
        if elapsed >= FIRST_REPORT
            && !reasons.is_empty()
            && report.every(REPORT_EVERY, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)).is_some()
        {
            warn!(log, "waiting for a cluster: {}", reasons.join("; "));
        }
        sleep(pause()).await;
    }
}

fn pause() -> Duration {
    let jitter = getrandom::u64().unwrap_or_default() % JITTER_MS;
    Duration::from_millis(PAUSE_MS + jitter)
}

/// Derives the state of a node from the `data` of its stats.
fn node_state(stats: &Value) -> NodeState {
    let stats = NodeStats::deserialize(stats).unwrap_or_default();
    let Ok(raft_id) = stats.raft_id.parse() else {
        return NodeState::Unreachable("its stats are not those of a huskv node".to_owned());
    };
    if let Some(list) = stats.forming {
        // A forming node is the only member of its own table.
        let own = stats.members.into_iter().next().unwrap_or_default();
        let identity =
            Advertised { name: stats.node_id, raft_address: own.raft_address, http_address: own.http_address };
        return NodeState::Forming { raft_id, list: list.into_iter().collect(), identity };
    }
    if stats.removed {
        return NodeState::Removed;
    }
    if stats.joining { NodeState::Joining { raft_id } } else { NodeState::Member { raft_id } }
}

/// A name or an address that two forming nodes share.
struct Conflict {
    /// Whether this node is one of the two.
    is_own: bool,
    /// The two nodes, what they share, and the settings to change.
    reason: String,
}

/// Finds names and addresses that forming nodes share and must not.
fn conflicts(own: u64, polled: &[Polled]) -> Vec<Conflict> {
    let forming = polled.iter().filter_map(|(address, state)| match state {
        NodeState::Forming { raft_id, identity, .. } => Some((address, *raft_id, identity)),
        _ => None,
    });
    let forming: Vec<_> = forming.collect();
    let mut found = Vec::new();
    for (place, (address, raft_id, identity)) in forming.iter().enumerate() {
        // Two addresses of one node, such as localhost and 127.0.0.1, are no conflict.
        for (other_address, other_id, other) in forming[place + 1..].iter().filter(|(_, other, _)| other != raft_id) {
            let mut check = |one: &str, other: &str, reason: &str| {
                if !one.is_empty() && one == other {
                    let is_own = [*raft_id, *other_id].contains(&own);
                    found.push(Conflict { is_own, reason: format!("{address} and {other_address} {reason}") });
                }
            };
            let (name, raft, http) = (&identity.name, &identity.raft_address, &identity.http_address);
            check(
                name,
                &other.name,
                &format!("are both called {name}: give each a RAFT_NODE_ID and a RAFT_VOL_DIR of its own"),
            );
            check(
                raft,
                &other.raft_address,
                &format!(
                    "both advertise the raft address {raft}: give each its own HUSKV_ADVERTISE_HOST, RAFT_PORT or \
                     HUSKV_ADVERTISE_PORT"
                ),
            );
            check(
                http,
                &other.http_address,
                &format!(
                    "both advertise the HTTP address {http}: give each its own HUSKV_ADVERTISE_HOST, SERVER_PORT or \
                     HUSKV_SERVER_ADVERTISE_PORT"
                ),
            );
        }
    }
    found
}

/// Decides the next step. `own` is this node's raft id; `pristine` says that no cluster has accepted it yet.
fn decide(own: u64, pristine: bool, list: &BTreeSet<NodeAddress>, polled: &[Polled]) -> NextStep {
    let mut members = Vec::new();
    let mut reasons = Vec::new();
    let mut own_address = None;
    // A cluster may accept this node between the status and the poll; its own response is the newer one.
    let mut is_forming = pristine;
    for (address, state) in polled {
        match state {
            NodeState::Unreachable(reason) => reasons.push(format!("{address} is missing ({reason})")),
            NodeState::Forming { raft_id, .. } if *raft_id == own => own_address = own_address.or(Some(address)),
            NodeState::Joining { raft_id } | NodeState::Member { raft_id } if *raft_id == own => {
                own_address = own_address.or(Some(address));
                is_forming = false;
            }
            NodeState::Forming { list: other, .. } if !other.iter().eq(list.iter().map(|address| &**address)) => {
                let other: Vec<&str> = other.iter().map(String::as_str).collect();
                reasons.push(format!("{address} has another join list ({})", other.join(",")));
            }
            NodeState::Forming { .. } => {}
            NodeState::Joining { .. } => reasons.push(format!("{address} is joining a cluster")),
            NodeState::Removed => reasons.push(format!("{address} was removed from its cluster")),
            NodeState::Member { .. } => members.push(address.clone()),
        }
    }
    let conflicts = conflicts(own, polled);
    let is_in_conflict = conflicts.iter().any(|conflict| conflict.is_own);
    reasons.extend(conflicts.into_iter().map(|conflict| conflict.reason));
    // A member that dials an address which two nodes have may reach the other one, so this node must not join.
    if is_in_conflict {
        return NextStep::Wait(reasons);
    }
    // Where there is a cluster, it is joined, whatever else is missing: a second one must not begin beside it.
    if !members.is_empty() {
        return NextStep::Join(members);
    }
    let Some(own_address) = own_address else {
        reasons.push("no address of this node's own join list leads to this node".into());
        return NextStep::Wait(reasons);
    };
    if !reasons.is_empty() {
        return NextStep::Wait(reasons);
    }
    if is_forming && list.first() == Some(own_address) {
        return NextStep::Begin;
    }
    let first = list.first().map_or("", |address| &**address);
    NextStep::Wait(vec![if is_forming {
        format!("all nodes are there; {first} is the first and is to begin")
    } else {
        "the cluster that has accepted this node does not answer yet".into()
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn address(text: &str) -> NodeAddress {
        text.parse().unwrap()
    }

    fn set(addresses: &[&str]) -> BTreeSet<NodeAddress> {
        addresses.iter().map(|text| address(text)).collect()
    }

    fn forming(raft_id: u64, list: &[&str]) -> NodeState {
        let identity = Advertised {
            name: format!("n{raft_id}"),
            raft_address: format!("raft:{raft_id}"),
            http_address: format!("http:{raft_id}"),
        };
        NodeState::Forming { raft_id, list: list.iter().map(|&text| text.to_owned()).collect(), identity }
    }

    fn round(states: &[(&str, NodeState)]) -> Vec<Polled> {
        states.iter().map(|(text, state)| (address(text), state.clone())).collect()
    }

    fn reasons(step: &NextStep) -> String {
        match step {
            NextStep::Wait(reasons) => reasons.join("; "),
            other => format!("{other:?}"),
        }
    }

    const ALL: &[&str] = &["a:1", "b:1"];

    #[test]
    fn the_first_begins_and_only_when_all_are_forming_with_one_list() {
        let both = round(&[("a:1", forming(7, ALL)), ("b:1", forming(8, ALL))]);
        assert_eq!(decide(7, true, &set(ALL), &both), NextStep::Begin);
        assert!(matches!(decide(8, true, &set(ALL), &both), NextStep::Wait(_)));

        let missing = round(&[("a:1", forming(7, ALL)), ("b:1", NodeState::Unreachable("refused".into()))]);
        assert_eq!(reasons(&decide(7, true, &set(ALL), &missing)), "b:1 is missing (refused)");

        let other = round(&[("a:1", forming(7, ALL)), ("b:1", forming(8, &["b:1", "c:1"]))]);
        assert_eq!(reasons(&decide(7, true, &set(ALL), &other)), "b:1 has another join list (b:1,c:1)");
    }

    #[test]
    fn a_wiped_first_node_asks_the_others_instead_of_beginning() {
        let seen = round(&[("a:1", forming(9, ALL)), ("b:1", NodeState::Member { raft_id: 8 })]);
        assert_eq!(decide(9, true, &set(ALL), &seen), NextStep::Join(vec![address("b:1")]));
        let gone = round(&[("a:1", forming(9, ALL)), ("b:1", NodeState::Removed)]);
        assert!(matches!(decide(9, true, &set(ALL), &gone), NextStep::Wait(_)));
    }

    #[test]
    fn a_node_that_is_missing_from_its_own_list_may_still_join() {
        let seen = round(&[("a:1", forming(7, ALL)), ("b:1", forming(8, ALL))]);
        assert!(reasons(&decide(9, true, &set(ALL), &seen)).contains("own join list"));
        let seen = round(&[("a:1", NodeState::Member { raft_id: 7 }), ("b:1", forming(8, ALL))]);
        assert_eq!(decide(9, true, &set(ALL), &seen), NextStep::Join(vec![address("a:1")]));
    }

    #[test]
    fn a_joining_node_keeps_asking_and_never_begins() {
        let alone = round(&[("a:1", NodeState::Joining { raft_id: 7 }), ("b:1", forming(8, ALL))]);
        assert!(matches!(decide(7, false, &set(ALL), &alone), NextStep::Wait(_)));
        let seen = round(&[("a:1", NodeState::Joining { raft_id: 7 }), ("b:1", NodeState::Member { raft_id: 8 })]);
        assert_eq!(decide(7, false, &set(ALL), &seen), NextStep::Join(vec![address("b:1")]));
        let itself = round(&[("a:1", NodeState::Member { raft_id: 7 }), ("b:1", forming(8, ALL))]);
        assert!(matches!(decide(7, true, &set(ALL), &itself), NextStep::Wait(_)));
    }

    #[test]
    fn two_addresses_of_one_node_do_not_hide_that_it_is_the_first() {
        let list = &["127.0.0.1:1", "b:1", "localhost:1"];
        let seen =
            round(&[("127.0.0.1:1", forming(7, list)), ("b:1", forming(8, list)), ("localhost:1", forming(7, list))]);
        assert_eq!(decide(7, true, &set(list), &seen), NextStep::Begin);
    }

    #[test]
    fn no_node_begins_while_two_share_a_name_or_an_address() {
        let all = &["a:1", "b:1", "c:1"];
        let with = |change: fn(&mut Advertised)| {
            let mut seen = round(&[("a:1", forming(7, all)), ("b:1", forming(8, all)), ("c:1", forming(9, all))]);
            for (_, seen) in &mut seen[1..] {
                if let NodeState::Forming { identity, .. } = seen {
                    change(identity);
                }
            }
            seen
        };
        assert_eq!(decide(7, true, &set(all), &with(|_| {})), NextStep::Begin);
        type Change = fn(&mut Advertised);
        let table: [(Change, &str); 3] = [
            (|identity| identity.name = "same".into(), "RAFT_NODE_ID"),
            (
                |identity| identity.raft_address = "same:1".into(),
                "HUSKV_ADVERTISE_HOST, RAFT_PORT or HUSKV_ADVERTISE_PORT",
            ),
            (|identity| identity.http_address = "same:1".into(), "SERVER_PORT"),
        ];
        for (change, setting) in table {
            for own in 7..10 {
                let why = reasons(&decide(own, true, &set(all), &with(change)));
                assert!(why.contains("b:1 and c:1") && why.contains(setting) && why.contains("same"), "{own}: {why}");
            }
            // A cluster that is there already takes the one that shares nothing.
            let mut seen = with(change);
            seen.push((address("d:1"), NodeState::Member { raft_id: 4 }));
            assert_eq!(decide(7, true, &set(all), &seen), NextStep::Join(vec![address("d:1")]));
            assert!(matches!(decide(8, true, &set(all), &seen), NextStep::Wait(_)));
        }
    }

    #[test]
    fn a_state_is_derived_from_stats_and_anything_else_is_unreachable() {
        let members = json!([{ "raft_id": 7, "raft_address": "raft:7", "http_address": "http:7" }]);
        let stats = json!({ "node_id": "n7", "raft_id": 7, "forming": ["a:1", "b:1"], "members": members });
        assert_eq!(node_state(&stats), forming(7, ALL));
        let NodeState::Forming { list, identity, .. } = node_state(&json!({ "raft_id": 7, "forming": ["a:1"] })) else {
            panic!("an older version has no members while it is forming")
        };
        assert_eq!((list.len(), identity), (1, Advertised::default()));
        let joining = json!({ "raft_id": "7", "forming": null, "joining": true });
        assert_eq!(node_state(&joining), NodeState::Joining { raft_id: 7 });
        assert_eq!(node_state(&json!({ "raft_id": 7, "joining": false })), NodeState::Member { raft_id: 7 });
        assert_eq!(node_state(&json!({ "raft_id": 7, "removed": true })), NodeState::Removed);
        for other in [json!({ "colour": 7 }), json!({ "raft_id": [] }), Value::Null] {
            assert!(matches!(node_state(&other), NodeState::Unreachable(_)), "{other}");
        }
    }
}
