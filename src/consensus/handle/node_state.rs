//! What the loop publishes of its node once a turn.
//!
//! Why: headers of answers, `/readyz`, 4xx answers and heartbeats need to know who this node is, who leads and whether it
//! takes requests; a question to the loop for each of them would wait in the queue that peers use. One `Arc` is replaced
//! once a turn where something has changed, and read without the loop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use crate::consensus::input::ReadGrant;
use crate::model::Refusal;

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
    /// Why the node takes no requests; None if it does, and before the loop's first turn.
    pub not_ready: Option<Refusal>,
}

/// Where the loop puts it, and every handle finds it; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Published {
    /// The last state, and when it was put there; None before the loop's first turn.
    last: Arc<Mutex<(Arc<Names>, Option<Instant>)>>,
    serving: Arc<AtomicBool>,
    /// The state for reads that need nothing of the loop.
    state: Arc<ArcSwapOption<ReadGrant>>,
}

impl Published {
    /// Replaces the state.
    pub fn publish(&self, state: Names) {
        self.begin_serving();
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (Arc::new(state), Some(Instant::now()));
    }

    /// The state after the loop's last turn; the default before its first.
    pub fn state(&self) -> Arc<Names> {
        Arc::clone(&self.last.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    /// Replaces the state that stale reads may be answered from.
    pub fn publish_state(&self, grant: Option<ReadGrant>) {
        self.state.store(grant.map(Arc::new));
    }

    /// The state that stale reads may be answered from; None where they have to ask the loop.
    pub fn direct_reads(&self) -> Option<Arc<ReadGrant>> {
        self.state.load_full()
    }

    /// How long ago the loop published; None before its first turn.
    pub fn age(&self) -> Option<Duration> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).1.map(|turned| turned.elapsed())
    }

    /// Whether the loop serves; without the lock, since every request asks.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// Marks the loop as serving.
    pub fn begin_serving(&self) {
        self.serving.store(true, Ordering::Relaxed);
    }
}
