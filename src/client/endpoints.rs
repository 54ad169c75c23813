//! Which endpoint to ask next: that of the leader where it is known, else the one that answered last, then the others.
//!
//! Why: any node takes any request, but only the leader needs no hop; and a client that knows a dead node must not
//! begin with it every time.
//!
//! Laws: no address is asked that the caller did not give, whatever nodes say of each other: behind a forwarded port
//! another cluster may answer at the address that a leader knows itself by. Each address comes once in an order. What
//! is learned is a hint; without any of it all endpoints are still asked.
//!
//! Not here: asking ([`super::Client`]).

use std::collections::BTreeMap;

/// The endpoints, and what their answers told of them.
#[derive(Debug)]
pub(super) struct Endpoints {
    given: Vec<String>,
    /// The place of the endpoint that answered last.
    current: usize,
    /// The names of nodes, by the endpoint that answered for them.
    names: BTreeMap<String, String>,
    /// The name of the leader.
    leader: Option<String>,
    /// The leader whose endpoint was looked for last, so that it is looked for once.
    sought: Option<String>,
}

impl Endpoints {
    pub(super) fn new(given: Vec<String>) -> Self {
        Self { given, current: 0, names: BTreeMap::new(), leader: None, sought: None }
    }

    /// The addresses to try, one after the other.
    pub(super) fn order(&self, leader_first: bool) -> Vec<String> {
        let mut order: Vec<String> = self.leader_address().filter(|_| leader_first).cloned().into_iter().collect();
        let (before, from) = self.given.split_at(self.current.min(self.given.len()));
        for address in from.iter().chain(before) {
            if !order.contains(address) {
                order.push(address.clone());
            }
        }
        order
    }

    /// An answer of the node `node` came from `address`, and said that `leader` leads.
    pub(super) fn answered(&mut self, address: &str, node: Option<&str>, leader: Option<&str>) {
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

    /// Nothing, or nothing good, came from `address`: the next order begins behind it.
    pub(super) fn failed(&mut self, address: &str) {
        if self.given.get(self.current).is_some_and(|current| current == address) {
            self.current = (self.current + 1) % self.given.len();
        }
        // The others go on naming a leader that is gone until they have another. It is not looked for again meanwhile.
        if self.leader_address().is_some_and(|leader| leader == address) {
            self.sought.clone_from(&self.leader);
        }
        self.names.remove(address);
    }

    /// The endpoints without a name, one of which may be that of a leader whose name alone is known; told once for each
    /// leader.
    pub(super) fn unnamed(&mut self) -> Vec<String> {
        if self.leader.is_none() || self.leader == self.sought || self.leader_address().is_some() {
            return Vec::new();
        }
        self.sought.clone_from(&self.leader);
        self.given.iter().filter(|address| !self.names.contains_key(*address)).cloned().collect()
    }

    /// The node at `address` says that this is its name.
    pub(super) fn name(&mut self, address: String, node: String) {
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
    fn the_leader_comes_first_then_the_last_that_answered() {
        let mut endpoints = three();
        assert_eq!(endpoints.order(true), ["a:1", "b:1", "c:1"]);
        endpoints.answered("b:1", Some("node2"), Some("node3"));
        assert_eq!(endpoints.order(true), ["b:1", "c:1", "a:1"], "nobody knows yet where node3 is");
        endpoints.answered("c:1", Some("node3"), Some("node3"));
        endpoints.answered("a:1", Some("node1"), Some("node3"));
        assert_eq!(endpoints.order(true), ["c:1", "a:1", "b:1"]);
        assert_eq!(endpoints.order(false), ["a:1", "b:1", "c:1"], "what any node answers goes to the last one");
        endpoints.failed("c:1");
        assert_eq!(endpoints.order(true), ["a:1", "b:1", "c:1"]);
        endpoints.answered("a:1", Some("node1"), Some("node3"));
        assert_eq!(endpoints.order(true), ["a:1", "b:1", "c:1"], "the others name it still");
        assert!(endpoints.unnamed().is_empty());
    }

    #[test]
    fn a_leader_known_by_name_is_looked_for_once_among_the_endpoints() {
        let mut endpoints = three();
        assert!(endpoints.unnamed().is_empty());
        endpoints.answered("a:1", Some("node1"), Some("node3"));
        assert_eq!(endpoints.unnamed(), ["b:1", "c:1"]);
        endpoints.name("c:1".into(), "node3".into());
        assert_eq!(endpoints.order(true), ["c:1", "a:1", "b:1"]);
        // One that is at none of the endpoints is left alone.
        endpoints.answered("a:1", Some("node1"), Some("node9"));
        assert_eq!(endpoints.unnamed(), ["b:1"]);
        assert!(endpoints.unnamed().is_empty());
        assert_eq!(endpoints.order(true)[0], "a:1");
    }

    #[test]
    fn a_dead_endpoint_is_passed_by_the_next_time() {
        let mut endpoints = three();
        endpoints.failed("a:1");
        assert_eq!(endpoints.order(true), ["b:1", "c:1", "a:1"]);
        assert!(Endpoints::new(Vec::new()).order(true).is_empty());
    }
}
