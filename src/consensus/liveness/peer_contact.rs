//! Whom this node hears, whether it leads or not: what it tells of that, and the way to a leader that it does not reach.
//!
//! Why: raft's followers hear nobody but their leader. A node whose link to the leader is cut while the others go on
//! must say so instead of calling a majority down, and can still bring writes to the leader through a member that
//! reaches it.
//!
//! Laws: what is heard here decides no vote, no quorum and no read; `contact` does. A request is relayed at most once
//! ([`Hop`]), only to a voter that has just said that it follows a leader, and only after the time in which a leader that
//! failed would have been given up by all. What was not applied is tried again elsewhere, what is unknown is not. Reads
//! are not relayed: what they would show is not applied here.
//!
//! Not here: how members tell whom they follow (`transport`).

use std::collections::BTreeMap;

use raft::StateRole;

use crate::consensus::driver::Driver;
use crate::consensus::input::Hop;
use crate::model::Millis;
use crate::model::{Code, Refusal, Request};

/// How long ago a member that counts as heard was heard at most, where the election timeout is not longer. Members say
/// that they are there every second.
const HEARD_WITHIN: Millis = 3_000;

/// How long what a member said about its leader is believed.
const WORD_HOLDS: Millis = 2_500;

/// How long after an election timeout without a leader the others have surely said that they have none either.
const WORD_TRAVELS: Millis = 1_500;

/// How long other ways are preferred to the leader's own connection after there was none.
const DETOUR: Millis = 1_000;

/// What members have said of themselves, beside raft's messages.
#[derive(Default)]
pub(crate) struct PeerContact {
    said: BTreeMap<u64, LeaderReport>,
    /// Since when this node knows no leader.
    leaderless_since: Option<Millis>,
    /// A leader that could not be reached, and when.
    unreached: Option<(u64, Millis)>,
    /// Counts relayed requests, so that members take turns.
    turn: usize,
}

/// What a member said last.
struct LeaderReport {
    at: Millis,
    /// The leader that it follows or is; 0 for none.
    follows: u64,
}

impl PeerContact {
    /// A member is there, and follows this leader.
    fn heard(&mut self, from: u64, follows: u64, now: Millis) {
        self.said.insert(from, LeaderReport { at: now, follows });
    }

    /// A member is none any more.
    pub fn forget(&mut self, raft_id: u64) {
        self.said.remove(&raft_id);
    }

    fn note_leader(&mut self, known: bool, now: Millis) {
        self.leaderless_since = if known { None } else { self.leaderless_since.or(Some(now)) };
    }

    fn note_no_way(&mut self, to: u64, leader: u64, now: Millis) {
        if to == leader {
            self.unreached = Some((to, now));
        } else if let Some(word) = self.said.get_mut(&to) {
            // Until it says so again.
            word.follows = 0;
        }
    }

    fn is_unreached(&self, leader: u64, now: Millis) -> bool {
        self.unreached.is_some_and(|(whom, at)| whom == leader && now < at + DETOUR)
    }

    /// Whether there has been no leader for so long that whoever still follows one does so because it is there.
    fn is_cut_off(&self, election_timeout: Millis, now: Millis) -> bool {
        self.leaderless_since.is_some_and(|since| now >= since + election_timeout + WORD_TRAVELS)
    }

    /// The leader that the member `id` follows, as it has just said.
    fn follows(&self, id: u64, now: Millis) -> Option<u64> {
        self.said.get(&id).filter(|word| word.follows != 0 && now <= word.at + WORD_HOLDS).map(|word| word.follows)
    }

    /// The voters that reach a leader which is neither this node nor the one that cannot be reached.
    fn relays(&self, voters: &[u64], me: u64, unreached: u64, now: Millis) -> Vec<u64> {
        let reaches = |id: u64| self.follows(id, now).is_some_and(|leader| leader != me);
        voters.iter().copied().filter(|id| *id != me && *id != unreached && reaches(*id)).collect()
    }
}

impl Driver {
    /// How long an election timeout is at least.
    pub(crate) fn election_timeout(&self) -> Millis {
        self.options.tick_ms * self.options.election_ticks as u64
    }

    /// A peer is there, and follows this leader; one that is in no table here has no place in the list either.
    pub(crate) fn heard(&mut self, from: u64, follows: u64) {
        if self.state_machine.members().get(from).is_some() {
            self.peer_contact.heard(from, follows, self.now);
        }
    }

    /// Whether there has been no leader for longer than an election among members that hear each other takes.
    pub(crate) fn is_leaderless_for_long(&self) -> bool {
        self.peer_contact.is_cut_off(self.election_timeout(), self.now)
    }

    pub(crate) fn peer_down(&mut self, raft_id: u64) {
        if self.raw.raft.state == StateRole::Leader {
            self.raw.report_unreachable(raft_id);
        }
    }

    /// How long ago the member was heard; None if never, 0 for this node.
    pub(crate) fn heard_ms(&self, raft_id: u64) -> Option<Millis> {
        if raft_id == self.raft_id() {
            return Some(0);
        }
        let said = self.peer_contact.said.get(&raft_id).map(|word| word.at);
        let heard = said.max(self.contact.get(&raft_id).copied());
        heard.map(|at| self.now.saturating_sub(at))
    }

    /// Whether the member counts as heard.
    pub(crate) fn hears(&self, raft_id: u64) -> bool {
        self.heard_ms(raft_id).is_some_and(|ms| ms < HEARD_WITHIN.max(self.election_timeout()))
    }

    /// Notes whether there is a leader.
    pub(crate) fn note_leader(&mut self) {
        self.peer_contact.note_leader(self.raw.raft.leader_id != 0, self.now);
    }

    /// A request came back from this member and was not applied.
    pub(crate) fn note_no_way(&mut self, to: u64) {
        self.peer_contact.note_no_way(to, self.raw.raft.leader_id, self.now);
    }

    /// Where a request goes that this node cannot carry out, and as what.
    pub(crate) fn way_to_leader(&mut self, hop: Hop, request: &Request) -> Option<(u64, Hop)> {
        let leader = self.raw.raft.leader_id;
        let known = leader != 0 && leader != self.raft_id();
        let direct = known.then_some((leader, Hop::Leader));
        match hop {
            Hop::Leader => None,
            Hop::Relay => direct,
            Hop::Client if known && !self.peer_contact.is_unreached(leader, self.now) => direct,
            Hop::Client => {
                // A membership change is answered once this node has applied it, which takes a leader that it hears.
                let cut_off = self.is_leaderless_for_long();
                let may = known || cut_off && matches!(request, Request::Write(_));
                self.relay().filter(|_| may).map(|relay| (relay, Hop::Relay)).or(direct)
            }
        }
    }

    fn relay(&mut self) -> Option<u64> {
        let relays = self.peer_contact.relays(self.conf_voters(), self.raft_id(), self.raw.raft.leader_id, self.now);
        self.peer_contact.turn = self.peer_contact.turn.wrapping_add(1);
        relays.get(self.peer_contact.turn % relays.len().max(1)).copied()
    }

    /// The refusal of a request that reached no leader.
    pub(crate) fn no_leader(&self, request: &Request) -> Refusal {
        let mut detail = format!("no leader took the request before its deadline: {}", self.why_no_leader());
        if !matches!(request, Request::Write(_)) && self.raw.raft.leader_id == 0 {
            detail.push_str(&self.ask_instead("membership changes are"));
        }
        Refusal::not_applied(Code::NoLeader, detail)
    }

    /// The refusal of a read that could not be confirmed.
    pub(crate) fn no_quorum(&self) -> Refusal {
        let (why, instead) = (self.why_no_leader(), self.ask_instead("linearizable reads are"));
        Refusal::not_applied(
            Code::NoQuorum,
            format!(
                "the read could not be confirmed by a majority before its deadline: {why}{instead}; \
                 ?consistency=stale reads what this node has"
            ),
        )
    }

    fn ask_instead(&self, what: &str) -> String {
        let leader = self.raw.raft.leader_id;
        let relays = self.peer_contact.relays(self.conf_voters(), self.raft_id(), leader, self.now);
        let name = relays.first().filter(|_| !self.leads()).map(|relay| self.name_of(*relay));
        name.map_or_else(String::new, |name| format!("; {what} not sent on through {name}, ask it directly"))
    }

    /// Why nothing can be decided through this node now, and whom it hears.
    pub(crate) fn why_no_leader(&self) -> String {
        let (me, id, voters) = (self.my_name(), self.raft_id(), self.conf_voters());
        let leader = self.raw.raft.leader_id;
        let heard = voters.iter().filter(|voter| self.hears(**voter)).count();
        let follows =
            |voter: &u64| Some((*voter, self.peer_contact.follows(*voter, self.now).filter(|_| *voter != id)?));
        let why = if heard < voters.len() / 2 + 1 {
            format!("{me} reaches {heard} of {} voters, which is no majority", voters.len())
        } else if self.leads() {
            format!("{me} leads, but a majority has not answered it")
        } else if leader != 0 && !self.hears(leader) {
            format!("{me} does not hear {}, which led last", self.name_of(leader))
        } else if leader != 0 {
            format!("{} leads, but {me} has no connection to it", self.name_of(leader))
        } else {
            match voters.iter().find_map(follows) {
                Some((voter, leader)) if voter == leader => {
                    format!("{} leads, but its messages do not reach {me}", self.name_of(leader))
                }
                Some((voter, leader)) => {
                    format!("{me} does not hear {}, which {} follows", self.name_of(leader), self.name_of(voter))
                }
                None => "the voters have not agreed on a leader".to_owned(),
            }
        };
        let others = voters.iter().filter(|voter| **voter != id);
        let mut others: Vec<_> =
            others.map(|voter| (self.name_of(*voter), self.heard_ms(*voter), self.hears(*voter))).collect();
        others.sort();
        if others.is_empty() { why } else { format!("{why}; {me} {}", listed(&others)) }
    }
}

/// `hears node2 (120 ms ago), not node3 (since 14 s)`: of each member its name, when it was heard, and whether that counts.
fn listed(members: &[(String, Option<Millis>, bool)]) -> String {
    let list = |counts: bool, show: fn(Option<Millis>) -> String| {
        let chosen = members.iter().filter(|(.., heard)| *heard == counts);
        chosen.map(|(name, ms, _)| format!("{name} ({})", show(*ms))).collect::<Vec<_>>().join(", ")
    };
    let heard = list(true, |ms| format!("{} ago", span(ms.unwrap_or(0))));
    let silent = list(false, |ms| ms.map_or_else(|| "never".to_owned(), |ms| format!("since {}", span(ms))));
    match (heard.is_empty(), silent.is_empty()) {
        (true, _) => format!("does not hear {silent}"),
        (false, true) => format!("hears {heard}"),
        (false, false) => format!("hears {heard}, not {silent}"),
    }
}

fn span(ms: Millis) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{} s", ms / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_tells_who_is_heard_and_who_is_not() {
        let member = |name: &str, ms, heard| (name.to_owned(), ms, heard);
        let (near, far) = (member("n2", Some(120), true), member("n3", Some(14_900), false));
        let unknown = member("n4", None, false);
        for (members, said) in [
            (vec![near.clone()], "hears n2 (120 ms ago)"),
            (vec![far.clone(), unknown.clone()], "does not hear n3 (since 14 s), n4 (never)"),
            (vec![near, far, unknown], "hears n2 (120 ms ago), not n3 (since 14 s), n4 (never)"),
        ] {
            assert_eq!(listed(&members), said);
        }
    }

    #[test]
    fn a_relay_is_a_voter_that_has_just_said_whom_it_follows() {
        let mut peer_contact = PeerContact::default();
        for (from, follows, at) in [(2, 5, 100), (3, 0, 100), (4, 1, 100), (5, 5, 100), (6, 5, 100)] {
            peer_contact.heard(from, follows, at);
        }
        let voters = [1, 2, 3, 4, 5];
        assert_eq!(
            peer_contact.relays(&voters, 1, 0, 100 + WORD_HOLDS),
            [2, 5],
            "3 follows nobody, 4 this node, 6 is none"
        );
        assert_eq!(peer_contact.relays(&voters, 1, 5, 100), [2], "5 is the leader that cannot be reached");
        assert_eq!(peer_contact.relays(&voters, 1, 0, 101 + WORD_HOLDS), [0; 0], "the words are too old");
        peer_contact.note_no_way(2, 0, 100);
        assert_eq!(peer_contact.relays(&voters, 1, 0, 100), [5], "2 was asked in vain");
        peer_contact.heard(2, 5, 101);
        assert_eq!(peer_contact.relays(&voters, 1, 0, 101), [2, 5], "and has said it again");
    }

    #[test]
    fn a_node_is_cut_off_only_when_the_others_would_have_given_a_dead_leader_up() {
        let mut peer_contact = PeerContact::default();
        peer_contact.note_leader(false, 10);
        peer_contact.note_leader(false, 500);
        assert!(!peer_contact.is_cut_off(1000, 9 + 1000 + WORD_TRAVELS));
        assert!(peer_contact.is_cut_off(1000, 10 + 1000 + WORD_TRAVELS));
        peer_contact.note_leader(true, 600);
        assert!(!peer_contact.is_cut_off(1000, 1 << 40));
        peer_contact.note_no_way(7, 7, 600);
        assert!(
            peer_contact.is_unreached(7, 601)
                && !peer_contact.is_unreached(8, 601)
                && !peer_contact.is_unreached(7, 600 + DETOUR)
        );
    }
}
