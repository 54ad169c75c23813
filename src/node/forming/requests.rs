//! Requests of a forming node: the state of the listed nodes, and a join.
//!
//! See also: [`super`] (what follows from the states).

use serde::Deserialize;
use serde_json::{Value, json};
use slog::{Logger, debug};

use super::{JoinList, NodeState, Polled, node_state};
use crate::client::{NodeClient, NodeStats};
use crate::model::NodeAddress;
use crate::transport::JoinRequester;

/// The path of a join, with the deadline for the server.
const JOIN_PATH: &str = "/raft/join?timeout=60s";

/// Fetches the state of every listed node, at the same time.
pub(super) async fn poll(client: &NodeClient, list: &JoinList) -> Vec<Polled> {
    let requests = list.addresses.iter().map(|address| async move {
        let state = match client.stats(address).await {
            Ok(stats) => node_state(&stats),
            Err(error) => {
                // The reason follows the address already.
                let reason = error.to_string();
                NodeState::Unreachable(reason.trim_start_matches(&format!("{address}: ")).to_owned())
            }
        };
        (address.clone(), state)
    });
    futures_util::future::join_all(requests).await
}

/// Asks one member after the other for a join until one succeeds; otherwise returns the reasons of all. Where a client needs a token,
/// which a node has not, it asks at the peer port.
pub(super) async fn join(
    (client, stats_client, peers): (&NodeClient, &NodeClient, &JoinRequester),
    list: &JoinList,
    members: &[NodeAddress],
    log: &Logger,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let request = json!({ "node_id": list.name, "raft_address": list.raft_address });
    for address in members {
        match client.post(address, JOIN_PATH, &request).await {
            // The join is under way; the status of the next round shows whether it succeeds.
            Ok(response) if response.status == 200 => {
                debug!(log, "a member has answered the join"; "member" => %address);
                return Vec::new();
            }
            Ok(response) if response.status == 401 => match join_by_peer_port(stats_client, peers, list, address).await
            {
                Ok(()) => {
                    debug!(log, "a member has answered the join at its peer port"; "member" => %address);
                    return Vec::new();
                }
                Err(reason) => reasons.push(format!("{address}, at its peer port: {reason}")),
            },
            Ok(response) => {
                let detail = response.body.get("detail").and_then(Value::as_str).unwrap_or("without a reason");
                reasons.push(format!("{address} answers {}: {detail}", response.status));
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    reasons
}

/// Asks a member for a join at its peer port, which its stats name.
async fn join_by_peer_port(
    client: &NodeClient,
    peers: &JoinRequester,
    list: &JoinList,
    member: &NodeAddress,
) -> Result<(), String> {
    let stats = client.stats(member).await.map_err(|error| error.to_string())?;
    let raft_address = NodeStats::deserialize(&stats).unwrap_or_default().raft_address;
    peers.request(&raft_address, &list.name, &list.raft_address).await
}
