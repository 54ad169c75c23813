//! Leader reports of peers: which leader each member says that it follows, and for how long that is believed.
//!
//! Why: a member that reaches the leader can relay a write for one that does not.
//!
//! Invariants: a report holds for a few seconds. A leader or relay that was tried in vain is avoided for a moment.
//!
//! See also: `liveness` (what is decided by it), `transport` (how members report).

use std::collections::BTreeMap;

use crate::model::Millis;

/// The maximum age of a report of a member that counts as heard, if the election timeout is not longer. Members report
/// every second.
pub(crate) const HEARD_WITHIN: Millis = 3_000;

/// How long a report of a leader holds.
const WORD_HOLDS: Millis = 2_500;

/// How long after an election timeout without a leader all others have reported that they have none either.
const WORD_TRAVELS: Millis = 1_500;

/// How long relays are preferred after the leader's own connection failed.
const DETOUR: Millis = 1_000;

/// The reports of the members, beside raft's messages.
#[derive(Default)]
pub(crate) struct PeerContact {
    said: BTreeMap<u64, LeaderReport>,
    /// When this node lost its leader.
    leaderless_since: Option<Millis>,
    /// A leader that could not be reached, and when.
    unreached: Option<(u64, Millis)>,
    /// The number of relayed requests, so that members take turns.
    turn: usize,
}

/// The last report of a member.
struct LeaderReport {
    at: Millis,
    /// The leader that it follows or is; 0 for none.
    follows: u64,
}

impl PeerContact {
    /// Returns when a member last reported.
    pub fn heard_at(&self, raft_id: u64) -> Option<Millis> {
        self.said.get(&raft_id).map(|report| report.at)
    }

    /// Counts a relayed request; returns its number.
    pub fn next_turn(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// Records the report of a member, which follows this leader.
    pub fn heard(&mut self, from: u64, follows: u64, now: Millis) {
        self.said.insert(from, LeaderReport { at: now, follows });
    }

    pub fn note_leader(&mut self, known: bool, now: Millis) {
        self.leaderless_since = if known { None } else { self.leaderless_since.or(Some(now)) };
    }

    pub fn note_no_way(&mut self, to: u64, leader: u64, now: Millis) {
        if to == leader {
            self.unreached = Some((to, now));
        } else if let Some(word) = self.said.get_mut(&to) {
            // Until it says so again.
            word.follows = 0;
        }
    }

    /// Forgets a removed member.
    pub fn forget(&mut self, raft_id: u64) {
        self.said.remove(&raft_id);
    }

    pub fn is_unreached(&self, leader: u64, now: Millis) -> bool {
        self.unreached.is_some_and(|(whom, at)| whom == leader && now < at + DETOUR)
    }

    /// Whether this node has had no leader for so long that a member that still follows one must hear it.
    pub fn is_cut_off(&self, election_timeout: Millis, now: Millis) -> bool {
        // Election timeout 1 s, without a leader since 10.0 s: by 12.5 s all members have given a failed leader up and
        // said so. A member that still follows one hears it, so it is this node's link that is broken.
        self.leaderless_since.is_some_and(|since| now >= since + election_timeout + WORD_TRAVELS)
    }

    /// Returns the leader that the member `id` follows by its last report.
    pub fn follows(&self, id: u64, now: Millis) -> Option<u64> {
        self.said.get(&id).filter(|word| word.follows != 0 && now <= word.at + WORD_HOLDS).map(|word| word.follows)
    }

    /// Returns the voters that reach a leader other than this node and the unreachable one.
    pub fn relays(&self, voters: &[u64], me: u64, unreached: u64, now: Millis) -> Vec<u64> {
        let reaches = |id: u64| self.follows(id, now).is_some_and(|leader| leader != me);
        voters.iter().copied().filter(|id| *id != me && *id != unreached && reaches(*id)).collect()
    }
}

/// `hears node2 (120 ms ago), not node3 (since 14 s)`: of each member its name, when it was heard, and whether that
/// counts.
pub fn listed(members: &[(String, Option<Millis>, bool)]) -> String {
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
            "3 follows no leader, 4 this node, 6 is no voter"
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
