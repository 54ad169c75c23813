//! Quorum checks and the choice of a successor.

use super::{ME, NOW, Node};
use crate::model::Code;

#[test]
fn a_change_needs_a_live_quorum_before_and_after_it() {
    for (case, voters, silent, after, allowed) in [
        ("three voters, all live, one is removed", 3, vec![], vec![ME, 2], true),
        ("three voters, one silent, remove the other", 3, vec![3], vec![ME, 3], false),
        ("three voters, one silent, remove it", 3, vec![3], vec![ME, 2], true),
        ("three voters, two silent", 3, vec![2, 3], vec![ME, 2], false),
        ("two voters, one silent, remove it", 2, vec![2], vec![ME], false),
        ("four voters, one silent, remove another", 4, vec![4], vec![ME, 2, 4], true),
        ("alone, a silent voter is added", 1, vec![], vec![ME, 9], false),
    ] {
        let node = Node::leader(voters).silence(&silent);
        let refused = node.live.check_quorum(&node.core, &after).err();
        assert_eq!(refused.as_ref().map(|refusal| refusal.code), (!allowed).then_some(Code::QuorumLoss), "{case}");
    }
}

#[test]
fn a_successor_is_a_live_voter_other_than_this_node() {
    for (voters, silent, successor) in
        [(1, vec![], None), (3, vec![3], Some(2)), (3, vec![2], Some(3)), (2, vec![2], None)]
    {
        let node = Node::leader(voters).silence(&silent);
        assert_eq!(node.live.successor(&node.core), successor, "{voters} voters, {silent:?} silent");
    }
}

#[test]
fn a_member_is_live_for_an_election_timeout_after_its_last_message() {
    let mut node = Node::leader(2);
    for (later, live) in [(0, true), (999, true), (1_000, false)] {
        node.core.at(NOW + later);
        assert_eq!(node.live.is_live(&node.core, 2), live, "{later} ms later");
        assert!(node.live.is_live(&node.core, ME));
    }
}
