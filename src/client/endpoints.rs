//! Endpoint order: the leader's endpoint where it is known, then the one that responded last, then the others.
//!
//! Why: any node takes any request, but only the leader needs no hop; and a client must not begin every call with an
//! endpoint that it knows to be dead.
//!
//! Invariants: only the addresses that the caller gave are used, whatever nodes report of each other: behind a forwarded
//! port another cluster may respond at the address that a leader advertises. Each address comes once in an order. What
//! is learned is a hint; without it all endpoints are still tried.
//!
//! See also: [`super::Client`], which sends the requests.

use std::collections::BTreeMap;

/// The endpoints, and what their responses revealed.
#[derive(Debug)]
pub(super) struct Endpoints {
    given: Vec<String>,
    /// The index of the endpoint that responded last.
    current: usize,
    /// Node names by endpoint.
    names: BTreeMap<String, String>,
    /// The name of the current leader.
    leader: Option<String>,
    /// The leader whose endpoint was searched last, so that it is searched once.
    searched: Option<String>,
}

impl Endpoints {
    pub(super) fn new(given: Vec<String>) -> Self {
        Self { given, current: 0, names: BTreeMap::new(), leader: None, searched: None }
    }

    /// The addresses in the order to try them.
    pub(super) fn order(&self, leader_first: bool) -> Vec<String> {
        let mut order: Vec<String> = self.leader_address().filter(|_| leader_first).cloned().into_iter().collect();
        // Given a, b, c, with b the last that responded and c the leader: c, b, a for a write, b, c, a for a local read.
        let (before, from) = self.given.split_at(self.current.min(self.given.len()));
        for address in from.iter().chain(before) {
            if !order.contains(address) {
                order.push(address.clone());
            }
        }
        order
    }

    /// Records a response of the node `node` at `address` that names `leader` as the leader.
    pub(super) fn record_response(&mut self, address: &str, node: Option<&str>, leader: Option<&str>) {
        if let Some(place) = self.given.iter().position(|given| given == address) {
            self.current = place;
        }
        if let Some(node) = node {
            self.names.insert(address.to_owned(), node.to_owned());
        }
        if let Some(leader) = leader {
            self.leader = Some(leader.to_owned());
        }
    }

    /// Records a failure at `address`: the next order begins with the endpoint after it.
    pub(super) fn record_failure(&mut self, address: &str) {
        if self.given.get(self.current).is_some_and(|current| current == address) {
            self.current = (self.current + 1) % self.given.len();
        }
        // Until the next election the others still name the dead leader; it is not searched again meanwhile.
        if self.leader_address().is_some_and(|leader| leader == address) {
            self.searched.clone_from(&self.leader);
        }
        self.names.remove(address);
    }

    /// The endpoints without a known name, where the leader is known by name only; once for each leader.
    pub(super) fn leader_candidates(&mut self) -> Vec<String> {
        if self.leader.is_none() || self.leader == self.searched || self.leader_address().is_some() {
            return Vec::new();
        }
        self.searched.clone_from(&self.leader);
        self.given.iter().filter(|address| !self.names.contains_key(*address)).cloned().collect()
    }

    /// Records the name of the node at `address`.
    pub(super) fn set_name(&mut self, address: String, node: String) {
        self.names.insert(address, node);
    }

    fn leader_address(&self) -> Option<&String> {
        let leader = self.leader.as_ref()?;
        self.names.iter().find(|(_, name)| *name == leader).map(|(address, _)| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Endpoints {
        Endpoints::new(["a:1", "b:1", "c:1"].map(str::to_owned).into())
    }

    #[test]
    fn the_leader_comes_first_then_the_endpoint_that_responded_last() {
        let mut endpoints = three();
        assert_eq!(endpoints.order(true), ["a:1", "b:1", "c:1"]);
        endpoints.record_response("b:1", Some("node2"), Some("node3"));
        assert_eq!(endpoints.order(true), ["b:1", "c:1", "a:1"], "the endpoint of node3 is not known yet");
        endpoints.record_response("c:1", Some("node3"), Some("node3"));
        endpoints.record_response("a:1", Some("node1"), Some("node3"));
        assert_eq!(endpoints.order(true), ["c:1", "a:1", "b:1"]);
        assert_eq!(
            endpoints.order(false),
            ["a:1", "b:1", "c:1"],
            "a local read goes to the endpoint that responded last"
        );
        endpoints.record_failure("c:1");
        assert_eq!(endpoints.order(true), ["a:1", "b:1", "c:1"]);
        endpoints.record_response("a:1", Some("node1"), Some("node3"));
        assert_eq!(endpoints.order(true), ["a:1", "b:1", "c:1"], "the others still name it");
        assert!(endpoints.leader_candidates().is_empty());
    }

    #[test]
    fn a_leader_known_by_name_is_searched_once_among_the_endpoints() {
        let mut endpoints = three();
        assert!(endpoints.leader_candidates().is_empty());
        endpoints.record_response("a:1", Some("node1"), Some("node3"));
        assert_eq!(endpoints.leader_candidates(), ["b:1", "c:1"]);
        endpoints.set_name("c:1".into(), "node3".into());
        assert_eq!(endpoints.order(true), ["c:1", "a:1", "b:1"]);
        // A leader that is at none of the endpoints is not searched again.
        endpoints.record_response("a:1", Some("node1"), Some("node9"));
        assert_eq!(endpoints.leader_candidates(), ["b:1"]);
        assert!(endpoints.leader_candidates().is_empty());
        assert_eq!(endpoints.order(true)[0], "a:1");
    }

    #[test]
    fn a_dead_endpoint_moves_to_the_end_of_the_order() {
        let mut endpoints = three();
        endpoints.record_failure("a:1");
        assert_eq!(endpoints.order(true), ["b:1", "c:1", "a:1"]);
        assert!(Endpoints::new(Vec::new()).order(true).is_empty());
    }
}
