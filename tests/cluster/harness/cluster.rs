//! A cluster of real nodes.
//!
//! Why: most tests begin with "three nodes, joined through the first".
//!
//! Invariants: it is formed with POST /raft/join as an operator would, and every join must answer 200 the first time.

use std::time::Duration;

use serde_json::Value;

use super::node::{Node, number};
use super::setup::Setup;
use super::wait::{check, eventually, secs};

/// How long a healthy majority may take to have a leader, on a busy machine.
pub const ELECTION: Duration = secs(10);

/// Nodes of one cluster, `node1` first.
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// `count` nodes with the default settings.
    #[track_caller]
    pub fn of(count: usize) -> Self {
        Self::with(count, |setup| setup)
    }

    /// `count` nodes whose settings `adjust` changes.
    #[track_caller]
    pub fn with(count: usize, adjust: impl Fn(Setup) -> Setup) -> Self {
        let mut nodes: Vec<Node> =
            (1..=count).map(|number| adjust(Setup::named(&format!("node{number}"))).spawn()).collect();
        for node in &mut nodes {
            node.await_up();
        }
        for other in &nodes[1..] {
            nodes[0].join(other).expect(200, &format!("joining {}", other.name()));
        }
        let cluster = Self { nodes };
        cluster.agreed();
        // The answer to a join says what the leader and the node that was asked have applied; the others follow.
        eventually(ELECTION, "every node sees all voters", || {
            cluster.nodes.iter().try_for_each(|node| {
                let stats = node.try_stats()?;
                check(stats["voters"] == count, stats)
            })
        });
        cluster
    }

    /// The addresses of all clients' ports.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.http.clone()).collect()
    }

    /// Waits until all running nodes name one leader that runs, in one term; its place.
    #[track_caller]
    pub fn agreed(&self) -> usize {
        eventually(ELECTION, "all running nodes agree on a leader", || self.leader_now())
    }

    /// The place of the leader that all running nodes agree on at this moment.
    pub fn leader_now(&self) -> Result<usize, String> {
        let mut seen: Option<(String, u64)> = None;
        for node in self.nodes.iter().filter(|node| node.runs()) {
            let stats = node.try_stats()?;
            let leader = stats["leader"]["node_id"].as_str().ok_or(format!("{} knows no leader", node.name()))?;
            let this = (leader.to_owned(), number(&stats, "term"));
            if seen.get_or_insert_with(|| this.clone()) != &this {
                return Err(format!("{seen:?} and, on {}, {this:?}", node.name()));
            }
        }
        let (name, _) = seen.ok_or("nothing runs")?;
        let place = self.place(&name).ok_or(format!("{name} is none of the nodes"))?;
        let state = self.nodes[place].try_stats()?;
        check(self.nodes[place].runs() && state["state"] == "Leader", format!("{name} does not lead"))?;
        Ok(place)
    }

    /// Waits until some running node leads; its place. Unlike [`Cluster::agreed`] it does not wait for the others.
    #[track_caller]
    pub fn some_leader(&self, timeout: Duration) -> usize {
        eventually(timeout, "a running node leads", || {
            let leads = |node: &Node| node.runs() && node.try_stats().is_ok_and(|stats| stats["state"] == "Leader");
            self.nodes.iter().position(leads).ok_or("none does".to_owned())
        })
    }

    /// The place of the node with this member name.
    pub fn place(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name() == name)
    }

    /// The leader and its term.
    #[track_caller]
    pub fn reign(&self) -> (String, u64) {
        let leader = &self.nodes[self.agreed()];
        (leader.name().to_owned(), leader.number("term"))
    }

    /// The places of the nodes that run and do not lead.
    #[track_caller]
    pub fn followers(&self) -> Vec<usize> {
        let leader = self.agreed();
        (0..self.nodes.len()).filter(|&place| place != leader && self.nodes[place].runs()).collect()
    }

    /// Waits until every running node has applied as much as the leader has now.
    #[track_caller]
    pub fn caught_up(&self, timeout: Duration) {
        let goal = self.nodes[self.agreed()].number("commit_index");
        eventually(timeout, format!("every running node has applied {goal}"), || {
            self.nodes.iter().filter(|node| node.runs()).try_for_each(|node| {
                let applied = number(&node.try_stats()?, "applied_index");
                check(applied >= goal, format!("{} has applied {applied}", node.name()))
            })
        });
    }
}

/// The row of `name` in the member table that `stats` carries.
pub fn member<'a>(stats: &'a Value, name: &str) -> Option<&'a Value> {
    stats["members"].as_array()?.iter().find(|member| member["node_id"] == name)
}

/// The names of the members with this role, sorted.
pub fn names(stats: &Value, role: &str) -> Vec<String> {
    let mut names: Vec<String> = stats["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|member| member["role"] == role)
        .filter_map(|member| member["node_id"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names
}
