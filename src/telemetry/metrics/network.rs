//! Figures of the connections to other nodes.
//!
//! Invariants: a member is shown from the table that lists it until the one that does not. What came before on a connection that was
//! there already is kept, so a joiner's first connection counts, too.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::counters::{Counter, Gauge, nanos};
use super::exposition::{Exposition, Labels};
use super::histogram::Histogram;

/// The connections of one peer.
#[derive(Debug)]
pub struct PeerFigures {
    /// From a ping to its pong, once a second.
    round_trip: Histogram,
    /// The last of them in nanoseconds; 0 before the first.
    last_round_trip: Gauge,
    /// Bytes sent, snapshots included, before TLS.
    pub sent_bytes: Counter,
    /// Bytes received, snapshots included, after TLS.
    pub received_bytes: Counter,
    /// Messages and requests that were dropped for want of a connection or of room in its queue.
    pub sent_failures: Counter,
}

impl Default for PeerFigures {
    fn default() -> Self {
        Self {
            round_trip: Histogram::of_round_trips(),
            last_round_trip: Gauge::default(),
            sent_bytes: Counter::default(),
            received_bytes: Counter::default(),
            sent_failures: Counter::default(),
        }
    }
}

impl PeerFigures {
    /// Counts a round trip.
    pub fn answered(&self, round_trip: Duration) {
        self.round_trip.observe(round_trip);
        self.last_round_trip.set(nanos(round_trip).max(1));
    }

    /// Returns the last round trip; None before the first.
    #[must_use]
    pub fn last_round_trip(&self) -> Option<Duration> {
        Some(self.last_round_trip.get()).filter(|nanos| *nanos > 0).map(Duration::from_nanos)
    }
}

/// A peer by its raft id.
#[derive(Debug, Default)]
struct Peer {
    /// Its name in the member table; None where it is not listed.
    name: Option<String>,
    figures: Arc<PeerFigures>,
}

impl Peer {
    /// Whether it is listed or connected.
    fn is_used(&self) -> bool {
        self.name.is_some() || Arc::strong_count(&self.figures) > 1
    }
}

/// The connections to all peers.
#[derive(Debug, Default)]
pub struct Network {
    /// Members that this node has dialled and is connected to.
    pub active_peers: Gauge,
    peers: Mutex<BTreeMap<u64, Peer>>,
}

impl Network {
    /// Returns the figures of a peer, listed or not; for as long as they are held.
    #[must_use]
    pub fn peer(&self, raft_id: u64) -> Arc<PeerFigures> {
        let mut peers = self.peers();
        // Raft ids that come once and never again leave nothing behind.
        peers.retain(|_, peer| peer.is_used());
        Arc::clone(&peers.entry(raft_id).or_default().figures)
    }

    /// Shows these members, by raft id and name, and no others.
    pub fn set_members<'a>(&self, members: impl IntoIterator<Item = (u64, &'a str)>) {
        let mut peers = self.peers();
        peers.values_mut().for_each(|peer| peer.name = None);
        for (raft_id, name) in members {
            peers.entry(raft_id).or_default().name = Some(name.to_owned());
        }
        peers.retain(|_, peer| peer.is_used());
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<u64, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self, to: &mut Exposition<'_>) -> fmt::Result {
        let peers = self.peers();
        let listed: Vec<(&str, &PeerFigures)> =
            peers.values().filter_map(|peer| Some((peer.name.as_deref()?, &*peer.figures))).collect();
        let of = |name| -> Labels<'_> { vec![("peer", name)] };
        let counts = |count: fn(&PeerFigures) -> &Counter| {
            let series: Vec<_> = listed.iter().map(|(name, figures)| (of(name), count(figures).get())).collect();
            series
        };
        to.gauge("huskv_network_active_peers", "Members that this node is connected to.", self.active_peers.get())?;
        to.histograms(
            "huskv_network_peer_round_trip_time_seconds",
            "Time from a ping of a member, once a second, to its pong.",
            listed.iter().map(|(name, figures)| (of(name), &figures.round_trip)),
        )?;
        to.counters(
            "huskv_network_peer_sent_bytes",
            "Bytes sent to a member, snapshots included.",
            counts(|figures| &figures.sent_bytes),
        )?;
        to.counters(
            "huskv_network_peer_received_bytes",
            "Bytes received from a member, snapshots included.",
            counts(|figures| &figures.received_bytes),
        )?;
        to.counters(
            "huskv_network_peer_sent_failures",
            "Messages and requests for a member that were dropped.",
            counts(|figures| &figures.sent_failures),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_shown_while_it_is_listed_and_kept_while_it_is_connected() {
        let network = Network::default();
        let shown = |network: &Network| {
            let peers = network.peers();
            peers
                .values()
                .filter_map(|peer| Some((peer.name.clone()?, peer.figures.sent_bytes.get())))
                .collect::<Vec<_>>()
        };
        let connected = network.peer(2);
        connected.sent_bytes.add(7);
        assert!(shown(&network).is_empty());
        network.set_members([(2, "node2"), (3, "node3")]);
        assert_eq!(shown(&network), [("node2".to_owned(), 7), ("node3".to_owned(), 0)]);
        network.set_members([(9, "node2")]);
        assert_eq!(shown(&network), [("node2".to_owned(), 0)], "another incarnation");
        assert_eq!(network.peers().len(), 2);
        drop(connected);
        drop(network.peer(5));
        drop(network.peer(6));
        assert_eq!(network.peers().len(), 2, "node2 and the last one");
        network.set_members([]);
        assert!(network.peers().is_empty());
    }
}
