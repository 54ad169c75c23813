//! What the loop publishes of its node once a turn.
//!
//! Why: headers of answers, `/readyz`, 4xx answers and heartbeats need to know who this node is, who leads and whether it
//! takes requests; a question to the loop for each of them would wait in the queue that peers use. One `Arc` is replaced
//! once a turn where something has changed, and read without the loop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};

use super::member_reports::MemberReports;
use crate::consensus::input::ReadGrant;
use crate::model::Refusal;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::node_events::NodeEvents;

/// The identity of this node and its leader, as of the loop's last turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// This node's name; empty before the loop's first turn.
    pub node: String,
    /// The leader's name, where one is known.
    pub leader: Option<String>,
    /// The raft id of the leader that this node follows or is; 0 where it knows none.
    pub follows: u64,
    /// The highest term that it believes of a peer's message; None before the loop's first turn.
    pub believable_term: Option<u64>,
    /// Whether this node belongs to no cluster yet, and its data routes say so.
    pub in_no_cluster: bool,
    /// The cluster that this node belongs to; 0 for none.
    pub cluster_id: u64,
    /// The hosts in the addresses of all members, in lower case and without brackets.
    pub hosts: Arc<BTreeSet<String>>,
    /// The index of the last change of the member table that these hosts are from.
    pub table: u64,
    /// What the checks of readiness find.
    pub readiness: Readiness,
}

/// Why checks of readiness fail, in the order of `/readyz`; None where one does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readiness {
    /// The node belongs to no cluster, or asks the others whether it still does.
    pub joined: Option<Refusal>,
    /// It knows no leader.
    pub leader: Option<Refusal>,
    /// No round of ReadIndex can be confirmed now, so that none need be asked for.
    pub read_index: Option<Refusal>,
    /// It has not applied what is committed.
    pub applied: Option<Refusal>,
    /// Less than the reserve is free on its disk.
    pub disk: Option<Refusal>,
}

impl Readiness {
    /// Returns the reason of the first check that fails.
    #[must_use]
    pub fn first(&self) -> Option<&Refusal> {
        [&self.joined, &self.leader, &self.read_index, &self.applied, &self.disk].into_iter().find_map(Option::as_ref)
    }
}

/// Where the loop puts it, and every handle finds it; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Published(Arc<Shared>);

struct Shared {
    /// The last state that differs from the one before.
    last: ArcSwap<Names>,
    created: Instant,
    /// When the loop published last, in nanoseconds since the creation; 0 before its first turn.
    turned: AtomicU64,
    serving: AtomicBool,
    draining: AtomicBool,
    /// The state for reads that need nothing of the loop.
    state: ArcSwapOption<ReadGrant>,
    metrics: Arc<Metrics>,
    events: Arc<NodeEvents>,
    /// What asks the other members.
    member_reports: OnceLock<Arc<dyn MemberReports>>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            last: ArcSwap::default(),
            created: Instant::now(),
            turned: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            state: ArcSwapOption::default(),
            metrics: Arc::default(),
            events: Arc::default(),
            member_reports: OnceLock::new(),
        }
    }
}

impl Shared {
    fn nanos(&self) -> u64 {
        u64::try_from(self.created.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl Published {
    /// Replaces the state.
    pub fn publish(&self, state: &Names) {
        self.begin_serving();
        if **self.0.last.load() != *state {
            self.0.last.store(Arc::new(state.clone()));
        }
        self.0.turned.store(self.0.nanos().max(1), Ordering::Relaxed);
    }

    /// The state after the loop's last turn; the default before its first. It is the same `Arc` for as long as the state is the same.
    pub fn state(&self) -> Arc<Names> {
        self.0.last.load_full()
    }

    /// Replaces the state that stale reads may be answered from.
    pub fn publish_state(&self, grant: Option<ReadGrant>) {
        self.0.state.store(grant.map(Arc::new));
    }

    /// The state that stale reads may be answered from; None where they have to ask the loop.
    pub fn direct_reads(&self) -> Option<Arc<ReadGrant>> {
        self.0.state.load_full()
    }

    /// The figures of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// The events of the process.
    pub fn events(&self) -> &Arc<NodeEvents> {
        &self.0.events
    }

    /// How long ago the loop published; None before its first turn.
    pub fn age(&self) -> Option<Duration> {
        let turned = self.0.turned.load(Ordering::Relaxed);
        (turned > 0).then(|| Duration::from_nanos(self.0.nanos().saturating_sub(turned)))
    }

    /// Sets what asks the other members; only the first one counts.
    pub fn set_member_reports(&self, reports: Arc<dyn MemberReports>) {
        drop(self.0.member_reports.set(reports));
    }

    /// What asks the other members.
    pub fn member_reports(&self) -> Option<&Arc<dyn MemberReports>> {
        self.0.member_reports.get()
    }

    /// How long ago this was created, at the start of the process.
    pub fn uptime(&self) -> Duration {
        self.0.created.elapsed()
    }

    /// Whether the loop serves.
    pub fn is_serving(&self) -> bool {
        self.0.serving.load(Ordering::Relaxed)
    }

    /// Whether the node has been asked to stop.
    pub(super) fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Notes that it has; returns whether that is new.
    pub(super) fn begin_draining(&self) -> bool {
        !self.0.draining.swap(true, Ordering::Relaxed)
    }

    /// Marks the loop as serving.
    pub fn begin_serving(&self) {
        // Written once: every request reads it, and each write would take the line from all cores.
        if !self.is_serving() {
            self.0.serving.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_replaced_where_it_differs_and_each_turn_counts_as_a_sign_of_life() {
        let published = Published::default();
        assert!(published.age().is_none() && !published.is_serving());
        let names = Names { node: "node1".into(), ..Names::default() };
        published.publish(&names);
        let first = published.state();
        assert!(published.is_serving() && *first == names);
        std::thread::sleep(Duration::from_millis(5));
        let before = published.age().expect("it was published");
        published.publish(&names);
        assert!(published.age().expect("twice") < before && Arc::ptr_eq(&first, &published.state()));
        published.publish(&Names { leader: Some("node2".into()), ..names });
        assert_eq!(published.state().leader.as_deref(), Some("node2"));
    }
}
