//! `GET /cluster/events`: the latest events of all members, merged by their clocks.
//!
//! Why: why a leader changed is known best by the node that lost its lead, and an operator may reach one node only.
//!
//! Invariants: the events of the others are those that they report within a second, so it waits for no loop and no quorum. They are shown
//! and never acted upon. Each has the name that the table has for its node, whatever that says of itself. A node in no cluster
//! shows its own.
//!
//! See also: the question to the members (`transport::rpc::member_reports`), what a node reports ([`EventReport`]).

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tokio::time::timeout;
use warp::reply::Response;

use super::parse_limit;
use crate::consensus::Names;
use crate::http::request::handler_context::RequestContext;
use crate::http::request::uri::{self, TIMEOUT};
use crate::http::response::problem::Problem;
use crate::http::response::success;
use crate::model::{Asked, AskedMember, EventReport, FieldReport};
use crate::telemetry::metrics::NodeState;

/// The `data` of the answer.
#[derive(Debug, Serialize)]
struct Merged<'a> {
    asked: &'a str,
    events: Vec<Row<'a>>,
    missing: Vec<&'a str>,
}

/// An event of a node.
#[derive(Debug, Clone, Copy)]
struct Row<'a> {
    node: &'a str,
    event: &'a EventReport,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let EventReport { id, at, index, term, kind, detail, fields } = self.event;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("node", self.node)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("at", at)?;
        map.serialize_entry("index", index)?;
        map.serialize_entry("term", term)?;
        map.serialize_entry("detail", detail)?;
        map.serialize_entry("kind", kind)?;
        for (name, value) in fields {
            match value {
                FieldReport::Null => map.serialize_entry(name, &())?,
                FieldReport::Number(number) => map.serialize_entry(name, number)?,
                FieldReport::Text(text) => map.serialize_entry(name, text)?,
            }
        }
        map.end()
    }
}

/// Serves `GET /cluster/events`.
pub(in crate::http) async fn events(request: RequestContext) -> Result<Response, Problem> {
    request.takes_get()?;
    let [limit, wait] = uri::parameters(request.query(), ["limit", TIMEOUT])?;
    let deadline = uri::deadline(wait.as_deref(), request.context.request_timeout(), request.arrived)?;
    let limit = parse_limit(limit.as_deref())?;
    let handle = &request.context.handle;
    let asked = timeout(deadline.left(), handle.ask_members_for_events()).await.unwrap_or_default();
    let (names, node) = (handle.names(), handle.metrics().node.load_full());
    let own = handle.latest_events();
    Ok(success::data(merge(&node, &names, &own, &asked, limit), "Here are the events of the cluster"))
}

/// Returns the latest `limit` events of this node and of the members that have answered.
fn merge<'a>(
    node: &'a NodeState,
    names: &'a Names,
    own: &'a [EventReport],
    asked: &'a [AskedMember<Vec<EventReport>>],
    limit: usize,
) -> Merged<'a> {
    let row = |node| move |event| Row { node, event };
    let mut events: Vec<Row<'_>> = own.iter().map(row(&names.node)).collect();
    let mut missing = Vec::new();
    // A node outside of a cluster may have the table of one that it has left.
    for peer in node.peers.iter().filter(|_| node.is_member) {
        match asked.iter().find(|member| member.raft_id == peer.raft_id).map(|member| &member.asked) {
            Some(Asked::Answered(of_peer)) => events.extend(of_peer.iter().map(row(&peer.name))),
            Some(Asked::WithoutReport | Asked::NoAnswer) | None => missing.push(peer.name.as_str()),
        }
    }
    // The times of all have one form, so their texts are in the order of the times.
    events.sort_by_key(|row| (row.event.at.as_str(), row.node, row.event.id));
    missing.sort_unstable();
    Merged { asked: &names.node, events: events.split_off(events.len().saturating_sub(limit)), missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::PeerState;

    fn event(id: u64, second: u64) -> EventReport {
        EventReport {
            id,
            at: format!("2026-11-29T20:50:0{second}.000Z"),
            index: 9,
            term: 4,
            kind: "peer_lost".into(),
            detail: "nothing".into(),
            fields: vec![
                ("peer".into(), FieldReport::Text("node9".into())),
                ("last_contact_ms".into(), FieldReport::Number(7)),
                ("more".into(), FieldReport::Null),
            ],
        }
    }

    /// What node2 shows of four, of which node1 answers, as JSON.
    fn shown(is_member: bool, limit: usize) -> serde_json::Value {
        let peer = |name: &str, raft_id| PeerState { name: name.into(), raft_id, ..PeerState::default() };
        let peers = vec![peer("node4", 4), peer("node3", 3), peer("node1", 1)];
        let node = NodeState { raft_id: 2, is_member, peers, ..NodeState::default() };
        let names = Names { node: "node2".into(), ..Names::default() };
        let said = |raft_id, asked| AskedMember { raft_id, round_trip: None, asked };
        let of_other = Asked::Answered(Box::new(vec![event(8, 1), event(9, 3)]));
        let asked = [said(1, of_other), said(3, Asked::WithoutReport), said(7, Asked::Answered(Box::default()))];
        let own = [event(1, 0), event(2, 3), event(3, 3), event(4, 2)];
        serde_json::to_value(merge(&node, &names, &own, &asked, limit)).unwrap()
    }

    #[test]
    fn events_are_merged_by_time_node_and_id_and_silent_members_are_named() {
        let all = shown(true, 100);
        let row = |event: &serde_json::Value| format!("{}/{}", event["node"].as_str().unwrap(), event["id"]);
        let rows = |all: &serde_json::Value| all["events"].as_array().unwrap().iter().map(row).collect::<Vec<_>>();
        assert_eq!(rows(&all), ["node2/1", "node1/8", "node2/4", "node1/9", "node2/2", "node2/3"]);
        assert_eq!((&all["missing"], &all["asked"]), (&serde_json::json!(["node3", "node4"]), &"node2".into()));
        assert_eq!(rows(&shown(true, 2)), ["node2/2", "node2/3"], "the latest");
        let alone = shown(false, 100);
        assert_eq!((rows(&alone).len(), &alone["missing"]), (4, &serde_json::json!([])));
    }

    #[test]
    fn an_event_has_its_node_first_and_the_fields_of_its_kind_last() {
        let event = event(3, 1);
        let text = serde_json::to_string(&Row { node: "node1", event: &event }).unwrap();
        let expected = concat!(
            r#"{"node":"node1","id":3,"at":"2026-11-29T20:50:01.000Z","index":9,"term":4,"detail":"nothing","kind":"peer_lost","#,
            r#""peer":"node9","last_contact_ms":7,"more":null}"#
        );
        assert_eq!(text, expected);
    }
}
