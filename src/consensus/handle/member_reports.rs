//! Reports for the overview of a cluster and for its events: of this node, and of the other members through the transport.
//!
//! Why: an overview is wanted most where the loop stalls, so it is made of what the loop has published last.
//!
//! Invariants: neither asks the loop. A node that belongs to no cluster asks no other.
//!
//! See also: what is published ([`super::node_state`]), `transport::rpc::member_reports` (the question to a member).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::Handle;
use crate::model::{
    AskedMember, EventReport, FieldReport, LeaderReport, NodeReport, REPORTED_EVENTS, REPORTED_MEMBERS, ROUTINE_EVENTS,
    ReportedRole, TransferReport, clip_events,
};
use crate::telemetry::node_events::NodeEvent;

/// The time since the last turn of the loop from which on a node is reported as stalled.
const STALLED_AFTER: Duration = Duration::from_secs(3);

/// The answers of the members; in the order of the table.
pub type AskedMembers<T = NodeReport> = Pin<Box<dyn Future<Output = Arc<[AskedMember<T>]>> + Send>>;

/// Asks the other members for their reports and their events; implemented by the transport.
pub trait MemberReports: Send + Sync {
    /// Returns what each of them says within about a second. However many callers there are, a member is asked at most once a
    /// second.
    fn gather(&self) -> AskedMembers;

    /// Returns their latest events, likewise.
    fn gather_events(&self) -> AskedMembers<Vec<EventReport>>;
}

impl Handle {
    /// Sets what asks the other members; only the first one counts.
    pub fn set_member_reports(&self, reports: Arc<dyn MemberReports>) {
        self.published.set_member_reports(reports);
    }

    /// Returns what each other member says of itself within about a second; nothing before the transport has started.
    pub async fn ask_members(&self) -> Arc<[AskedMember]> {
        match self.published.member_reports() {
            Some(reports) => reports.gather().await,
            None => Arc::new([]),
        }
    }

    /// Returns the latest events of each other member within about a second; nothing before the transport has started.
    pub async fn ask_members_for_events(&self) -> Arc<[AskedMember<Vec<EventReport>>]> {
        match self.published.member_reports() {
            Some(reports) => reports.gather_events().await,
            None => Arc::new([]),
        }
    }

    /// Returns the latest events of this node as it reports them, oldest first.
    #[must_use]
    pub fn latest_events(&self) -> Vec<EventReport> {
        let events = self.events().latest(REPORTED_EVENTS, ROUTINE_EVENTS);
        clip_events(events.iter().filter_map(|event| event_report(event)).collect())
    }

    /// Returns the report of this node.
    #[must_use]
    pub fn report(&self) -> NodeReport {
        let (metrics, names) = (self.metrics(), self.names());
        let node = metrics.node.load();
        let role = if node.is_leader {
            ReportedRole::Leader
        } else if node.is_learner {
            ReportedRole::Learner
        } else if node.is_candidate {
            ReportedRole::Candidate
        } else {
            ReportedRole::Follower
        };
        let refusal = names.readiness.first();
        let not_ready = refusal.map(|why| (why.code.as_str().to_owned(), NodeReport::clip(&why.detail)));
        let not_ready = match self.silence() {
            None => Some(("starting".to_owned(), "it reads its data directory".to_owned())),
            Some(silence) if silence > STALLED_AFTER && not_ready.is_none() => {
                let detail = format!("its loop has made no turn for {} s; its disk may be slow", silence.as_secs());
                Some(("stalled".to_owned(), detail))
            }
            Some(_) if self.is_draining() && not_ready.is_none() => {
                Some(("stopping".to_owned(), "it has been asked to stop".to_owned()))
            }
            Some(_) => not_ready,
        };
        let matched = node.peers.iter().filter_map(|peer| Some((peer.raft_id, peer.match_index?)));
        let leads = node.failure_tolerance.map(|failure_tolerance| LeaderReport {
            failure_tolerance,
            matched: matched.take(REPORTED_MEMBERS).collect(),
        });
        let transfers = metrics.transfers.progress().into_iter().take(REPORTED_MEMBERS);
        let total = metrics.disk_total_bytes.get();
        NodeReport {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role,
            term: node.term,
            last_index: node.last_index,
            applied_index: node.applied_index,
            disk_free_bytes: node.free_bytes,
            disk_total_bytes: (total > 0).then_some(total),
            uptime_seconds: self.published.uptime().as_secs(),
            not_ready,
            leads,
            transfers: transfers
                .map(|it| TransferReport {
                    to: it.to,
                    bytes: it.bytes,
                    total_bytes: it.total_bytes,
                    bytes_per_second: it.bytes_per_second,
                })
                .collect(),
        }
    }
}

/// Returns an event as it is reported; None if it is none. Its texts are clipped.
fn event_report(event: &NodeEvent) -> Option<EventReport> {
    let Ok(Value::Object(mut kind)) = serde_json::to_value(&event.kind) else { return None };
    kind.remove("kind");
    let fields = kind.into_iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => FieldReport::Text(NodeReport::clip(&text)),
            Value::Number(number) => number.as_u64().map_or(FieldReport::Null, FieldReport::Number),
            _ => FieldReport::Null,
        };
        (name, value)
    });
    Some(EventReport {
        id: event.id,
        at: event.at.clone(),
        index: event.index,
        term: event.term,
        kind: event.kind.name().to_owned(),
        detail: NodeReport::clip(&event.detail),
        fields: fields.collect(),
    })
}

#[cfg(test)]
mod tests {
    use crate::consensus::{Names, Readiness, channel};
    use crate::model::{Code, FieldReport, REPORTED_EVENTS, ROUTINE_EVENTS, Refusal, ReportedRole, check_events};
    use crate::telemetry::metrics::{NodeState, PeerState};
    use crate::telemetry::node_events::Kind;

    #[test]
    fn a_report_is_made_of_what_was_published() {
        let (handle, inbox) = channel(1);
        let report = handle.report();
        assert_eq!(report.not_ready.map(|(code, _)| code).as_deref(), Some("starting"));
        let refusal = Refusal::not_applied(Code::NoLeader, "none\nis known");
        inbox.publish(&Names {
            readiness: Readiness { leader: Some(refusal), ..Readiness::default() },
            ..Names::default()
        });
        let peer = PeerState { raft_id: 2, match_index: Some(6), ..PeerState::default() };
        let state =
            NodeState { is_leader: true, failure_tolerance: Some(1), peers: vec![peer], term: 4, ..Default::default() };
        inbox.publish_figures(state);
        let transfer = handle.metrics().transfers.begin(2, 100, || false);
        let report = handle.report();
        assert_eq!(report.check(), Ok(()));
        assert_eq!(report.not_ready, Some(("no_leader".into(), "noneis known".into())));
        assert_eq!(
            (report.role, report.term, report.version.as_str()),
            (ReportedRole::Leader, 4, env!("CARGO_PKG_VERSION"))
        );
        let leads = report.leads.expect("it leads");
        assert_eq!((leads.failure_tolerance, leads.matched), (1, vec![(2, 6)]));
        assert_eq!(report.transfers[0].to, 2);
        drop(transfer);
        inbox.publish(&Names::default());
        inbox.publish_figures(NodeState::default());
        let report = handle.report();
        assert_eq!((report.not_ready, report.leads, report.role), (None, None, ReportedRole::Follower));
    }

    #[test]
    fn events_are_reported_with_their_fields_and_clipped() {
        let (handle, _inbox) = channel(1);
        let why = "long\n".repeat(1_000);
        handle.events().note(Kind::SnapshotFailed { to: "node4".into(), why, next_in_ms: 1_000 });
        handle.events().note_at((7, 2), Kind::PeerLost { peer: "node2".into(), last_contact_ms: None });
        let reported = handle.latest_events();
        assert_eq!((check_events(&reported), reported.len()), (Ok(()), 2));
        let lost = &reported[1];
        assert_eq!((lost.id, lost.index, lost.term, lost.kind.as_str()), (2, 7, 2, "peer_lost"));
        let peer = ("peer".to_owned(), FieldReport::Text("node2".into()));
        assert!(lost.fields.contains(&peer) && lost.fields.contains(&("last_contact_ms".into(), FieldReport::Null)));
        (0..1_000).for_each(|upto| handle.events().note(Kind::Checkpoint { upto, ms: 3 }));
        let reported = handle.latest_events();
        assert_eq!((check_events(&reported), reported.len()), (Ok(()), ROUTINE_EVENTS + 2));
        assert_eq!(reported[2].fields[0], ("ms".to_owned(), FieldReport::Number(3)));
        (0..1_000).for_each(|_| handle.events().note(Kind::Draining));
        assert_eq!(handle.latest_events().len(), REPORTED_EVENTS);
    }

    #[tokio::test]
    async fn nothing_is_asked_before_the_transport_has_started() {
        assert!(channel(1).0.ask_members().await.is_empty());
        assert!(channel(1).0.ask_members_for_events().await.is_empty());
    }
}
