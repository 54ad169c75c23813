//! Error texts for a missing leader or quorum: which members this node hears and since when.
//!
//! See also: `liveness` (what they are made from).

use super::Liveness;
use super::peers_leaders::listed;
use crate::consensus::core::Core;
use crate::model::{Code, Refusal, Request};

impl Liveness {
    /// The refusal of a request that reached no leader.
    pub fn no_leader(&self, core: &Core, request: &Request) -> Refusal {
        let mut detail = format!("no leader took the request before its deadline: {}", self.why_no_leader(core));
        if !matches!(request, Request::Write(_)) && core.raw.raft.leader_id == 0 {
            detail.push_str(&self.ask_instead(core, "membership changes are"));
        }
        Refusal::not_applied(Code::NoLeader, detail)
    }

    /// The refusal of a read that could not be confirmed.
    pub fn no_quorum(&self, core: &Core) -> Refusal {
        let (why, instead) = (self.why_no_leader(core), self.ask_instead(core, "linearizable reads are"));
        Refusal::not_applied(
            Code::NoQuorum,
            format!(
                "the read could not be confirmed by a majority before its deadline: {why}{instead}; \
                 ?consistency=stale reads what this node has"
            ),
        )
    }

    fn ask_instead(&self, core: &Core, what: &str) -> String {
        let leader = core.raw.raft.leader_id;
        let relays = self.peers.relays(core.conf_voters(), core.raft_id(), leader, core.now);
        let name = relays.first().filter(|_| !core.leads()).map(|relay| core.name_of(*relay));
        name.map_or_else(String::new, |name| format!("; {what} not sent on through {name}, ask it directly"))
    }

    /// Why nothing can be decided through this node now, and which members it hears.
    pub fn why_no_leader(&self, core: &Core) -> String {
        let (me, id, voters) = (core.my_name(), core.raft_id(), core.conf_voters());
        let leader = core.raw.raft.leader_id;
        let heard = voters.iter().filter(|voter| self.hears(core, **voter)).count();
        let follows = |voter: &u64| {
            Some((*voter, self.peers.follows(*voter, core.now).filter(|leader| *voter != id && *leader != id)?))
        };
        let why = if heard < voters.len() / 2 + 1 {
            format!("{me} reaches {heard} of {} voters, which is no majority", voters.len())
        } else if core.leads() {
            format!("{me} leads, but a majority has not answered it")
        } else if leader != 0 && !self.hears(core, leader) {
            format!("{me} does not hear {}, which led last", core.name_of(leader))
        } else if leader != 0 {
            format!("{} leads, but no answer of it has come to {me}", core.name_of(leader))
        } else {
            match voters.iter().find_map(follows) {
                Some((voter, leader)) if voter == leader => {
                    format!("{} leads, but its messages do not reach {me}", core.name_of(leader))
                }
                Some((voter, leader)) => {
                    format!("{me} does not hear {}, which {} follows", core.name_of(leader), core.name_of(voter))
                }
                None => "the voters have not agreed on a leader".to_owned(),
            }
        };
        let others = voters.iter().filter(|voter| **voter != id);
        let mut others: Vec<_> =
            others.map(|voter| (core.name_of(*voter), self.heard_ms(core, *voter), self.hears(core, *voter))).collect();
        others.sort();
        if others.is_empty() { why } else { format!("{why}; {me} {}", listed(&others)) }
    }

    /// The refusal of a node that knows no leader.
    pub fn leaderless(&self, core: &Core) -> Option<Refusal> {
        (core.raw.raft.leader_id == 0).then(|| {
            Refusal::not_applied(Code::NoLeader, format!("this node knows no leader: {}", self.why_no_leader(core)))
        })
    }
}
